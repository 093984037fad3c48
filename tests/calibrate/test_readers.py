"""Data readers: every kind of source, batches, splits, and bad input."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from lwgraph import ir, registry
from lwgraph.calibrate.readers import open_data, split
from lwgraph.calibrate.signature import Input, signature
from lwgraph.errors import DataError, UsageError
from lwgraph.measure.metrics import open_metric

F32 = np.dtype(np.float32)


def inputs(*specs):
    return {name: Input(name, np.dtype(dtype), tuple(shape)) for name, dtype, shape in specs}


IMAGE = inputs(("x", "float32", ("n", 3, 8, 8)))
VECTOR = inputs(("x", "float32", ("n", 4)))


def write_images(folder: Path, names, size=(12, 10)):
    for k, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (k * 10, 20, 30)).save(path)


def test_the_signature_of_a_model_leaves_out_inputs_with_defaults():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", None, 3]), onnx.helper.make_tensor_value_info("w", 1, [3])],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(np.zeros(3, np.float32), "w")],
    )
    from lwgraph import ir

    model = ir.load(onnx.helper.make_model(graph, ir_version=8))
    assert signature(model) == {"x": Input("x", F32, ("n", None, 3))}


def test_a_folder_of_images_in_class_folders(tmp_path):
    write_images(tmp_path, ["cat/b.png", "cat/a.png", "dog/c.jpg"])
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    reader = open_data(tmp_path, IMAGE)
    assert (reader.count, len(reader), reader.classes) == (3, 3, ["cat", "dog"])
    assert reader.labels.tolist() == [0, 0, 1]
    first, again = list(reader), list(reader)
    assert first[0]["x"].shape == (1, 3, 8, 8)
    assert first[0]["x"].dtype == np.float32
    np.testing.assert_allclose(first[0]["x"][0, :, 0, 0], np.array([10, 20, 30]) / 255, rtol=1e-6)  # cat/a.png
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, again, strict=True))
    assert any("0..1" in note for note in reader.notes)


def test_class_folders_named_by_numbers_are_those_labels(tmp_path):
    write_images(tmp_path, ["10/a.png", "2/a.png"])
    assert open_data(tmp_path, IMAGE).labels.tolist() == [10, 2]


def test_a_flat_folder_has_no_labels(tmp_path):
    write_images(tmp_path, ["a.png", "b.png"])
    assert open_data(tmp_path, IMAGE).labels is None


def test_unreadable_images_are_named_skipped_and_counted(tmp_path):
    write_images(tmp_path, ["a/1.png", "b/2.png", "b/3.png"])
    (tmp_path / "a" / "bad.png").write_bytes(b"nothing")
    whole = (tmp_path / "b" / "3.png").read_bytes()
    (tmp_path / "b" / "3.png").write_bytes(whole[: len(whole) // 2])
    reader = open_data(tmp_path, IMAGE)
    assert [Path(name).name for name, _ in reader.skipped] == ["bad.png", "3.png"]
    assert reader.labels.tolist() == [0, 1]
    assert "bad.png" in str(reader)
    assert "1 more" in str(reader)
    for path in tmp_path.rglob("[12].png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"no samples; 4 could not be read"):
        open_data(tmp_path, IMAGE)


def test_limits_are_spread_over_sorted_classes(tmp_path):
    write_images(tmp_path, [f"{c}/{i}.png" for c in "ab" for i in range(10)])
    assert open_data(tmp_path, IMAGE, limit=4).labels.tolist() == [0, 0, 1, 1]


def test_images_for_a_model_of_two_inputs_are_refused(tmp_path):
    write_images(tmp_path, ["a.png"])
    with pytest.raises(DataError, match="the model has 2: x, sigma"):
        open_data(tmp_path, IMAGE | inputs(("sigma", "float32", (1,))))


def test_npz_with_labels_and_npy(tmp_path):
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.savez(tmp_path / "d.npz", x=x, labels=np.arange(5))
    reader = open_data(tmp_path / "d.npz", VECTOR)
    assert reader.labels.tolist() == [0, 1, 2, 3, 4]
    assert [f["x"].shape for f in reader] == [(1, 4)] * 5
    np.save(tmp_path / "d.npy", x)
    assert np.array_equal(np.concatenate([f["x"] for f in open_data(str(tmp_path / "d.npy"), VECTOR)]), x)


def test_an_array_with_one_more_axis_holds_whole_feeds():
    reader = open_data(np.zeros((3, 2, 4), np.float32), VECTOR)
    assert len(reader) == 3
    assert reader.count == 6
    assert next(iter(reader))["x"].shape == (2, 4)


def test_arrays_shared_by_all_samples_and_arrays_per_sample():
    both = IMAGE | inputs(("sigma", "float32", (1,)))
    images = np.zeros((4, 3, 8, 8), np.float32)
    for sigma in (np.array([0.5], np.float32), np.float32(0.5), np.full(4, 0.5, np.float32)):
        feeds = list(open_data({"x": images, "sigma": np.asarray(sigma)}, both))
        assert len(feeds) == 4
        assert all(f["sigma"].tolist() == [0.5] for f in feeds)
    with pytest.raises(DataError, match="different numbers of samples"):
        open_data({"x": images, "sigma": np.zeros(3, np.float32)}, both)


def test_test_data_sets(tmp_path):
    both = VECTOR | inputs(("k", "int64", ("n",)))
    for i in range(11):
        folder = tmp_path / f"test_data_set_{i}"
        folder.mkdir()
        x = onnx.numpy_helper.from_array(np.full((1, 4), i, np.float32))  # nameless: by position
        k = onnx.numpy_helper.from_array(np.array([i]), "k")
        (folder / "input_0.pb").write_bytes(x.SerializeToString())
        (folder / "input_1.pb").write_bytes(k.SerializeToString())
    values = [int(f["k"][0]) for f in open_data(tmp_path, both)]
    assert values == list(range(11))
    assert len(open_data(tmp_path / "test_data_set_3", both)) == 1
    (tmp_path / "test_data_set_0" / "input_1.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(DataError, match=r"input_1.pb' is not an ONNX tensor"):
        open_data(tmp_path, both)


def test_a_folder_of_npz_feeds(tmp_path):
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", x=np.full((1, 4), i, np.float32))
    assert [f["x"][0, 0] for f in open_data(tmp_path, VECTOR)] == [0, 1, 2]


@pytest.mark.parametrize("folder", [False, True])
def test_the_only_array_under_another_name_is_taken_and_told(tmp_path, folder):
    """A name that somebody chose is told, NumPy's own for what has none is not; labels are no input."""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)

    def read(arrays, wanted=VECTOR):
        np.savez(tmp_path / "d.npz", *arrays.pop("", []), **arrays)
        return open_data(tmp_path if folder else tmp_path / "d.npz", wanted)

    for name in ("features", "X"):
        reader = read({name: x})
        assert np.array_equal(np.concatenate([feed["x"] for feed in reader]), x)
        (note,) = reader.notes
        assert note.endswith(f": the only array, '{name}', is taken for input 'x'")
    assert read({"": [x]}).notes == read({"x": x}).notes == []
    for name in ("labels", "label", "y", "Target"):
        with pytest.raises(DataError, match=r"no array for input 'x'"):
            read({name: x})
    assert read({"y": x}, inputs(("y", "float32", ("n", 4)))).notes == []
    with pytest.raises(DataError, match=r"no input (of the model|'first')"):
        read({"first": x, "second": x})


def test_names_that_differ_in_case_only_are_hinted_at():
    both = VECTOR | inputs(("ids", "int64", ("n",)))
    with pytest.raises(DataError, match="array 'IDS', which is no input of the model; did you mean 'ids'"):
        open_data({"x": np.zeros((1, 4), np.float32), "IDS": np.zeros(1, np.int64)}, both)
    with pytest.raises(DataError, match="array 'y', which is no input of the model; labels go by the name 'labels'"):
        open_data({"x": np.zeros((1, 4), np.float32), "y": np.zeros(1, np.int64)}, VECTOR)


class OrtReader:
    """Shaped as onnxruntime.quantization.CalibrationDataReader."""

    def __init__(self):
        self.left = 3

    def get_next(self):
        self.left -= 1
        return {"x": np.full((1, 4), self.left, np.float32)} if self.left >= 0 else None


def one_shot():
    yield {"x": np.zeros((1, 4), np.float32)}, 3
    yield {"x": np.ones((1, 4), np.float32)}, 5


@pytest.mark.parametrize(
    "spec, count",
    [
        (OrtReader, 3),
        (OrtReader(), 3),
        (one_shot, 2),
        (one_shot(), 2),
        ([{"x": np.zeros((1, 4))}], 1),
        ((np.zeros(4, np.float32) for _ in range(4)), 4),
    ],
)
def test_python_objects_are_read_again_and_again(spec, count):
    reader = open_data(spec, VECTOR)
    assert len(list(reader)) == len(list(reader)) == count == len(reader)


def test_pairs_carry_labels():
    assert open_data(one_shot, VECTOR).labels.tolist() == [3, 5]
    with pytest.raises(DataError, match="labels for 1 of 2"):
        open_data([({"x": np.zeros((1, 4))}, 1), {"x": np.zeros((1, 4))}], VECTOR)


def test_samples_of_an_iterable_are_copied_and_spooled_to_disk(monkeypatch):
    from lwgraph.calibrate import sources

    buffer = np.zeros((1, 4), np.float32)

    def reused():
        for i in range(5):
            buffer[:] = i
            yield {"x": buffer}

    for memory in (1 << 20, 40):
        spool = sources.Spool(reused(), VECTOR, "--data", memory=memory)
        assert [float(spool[i]["x"][0, 0]) for i in range(5)] == [0, 1, 2, 3, 4]
    files = [p for p in spool._kept if isinstance(p, Path)]
    assert len(files) == 3
    del spool
    assert not files[0].exists()


def test_module_attribute(tmp_path, monkeypatch):
    (tmp_path / "my_data_module.py").write_text(
        "import numpy as np\nclass Deep:\n    samples = [{'x': np.zeros((1, 4))}]\n"
        "def bad():\n    raise RuntimeError('no\\ncamera')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    assert open_data("my_data_module:Deep.samples", VECTOR).count == 1
    assert open_data(f"{tmp_path}/my_data_module.py:Deep.samples", VECTOR).count == 1
    with pytest.raises(UsageError, match=r"no attribute 'Dep'; did you mean 'Deep'"):
        open_data("my_data_module:Dep", VECTOR)
    with pytest.raises(UsageError, match="no module named 'absent_module'"):
        open_data("absent_module:x", VECTOR)
    with pytest.raises(DataError, match="raised RuntimeError: no camera"):
        open_data("my_data_module:bad", VECTOR)
    (tmp_path / "broken_data_module.py").write_text("1/0")
    with pytest.raises(DataError, match="ZeroDivisionError"):
        open_data("broken_data_module:x", VECTOR)


def test_dynamic_batches_group_equal_shapes_only():
    free = inputs(("x", "float32", ("n", "w")))
    feeds = [{"x": np.zeros((1, w), np.float32)} for w in (3, 3, 3, 5, 5)]
    reader = open_data(feeds, free, batch=2)
    assert [f["x"].shape for f in reader] == [(2, 3), (1, 3), (2, 5)]
    assert len(reader) == 3
    assert reader.count == 5


def test_fixed_batches_are_filled_and_the_padding_is_told():
    fixed = inputs(("x", "float32", (4, 2)), ("t", "float32", ()))
    reader = open_data(
        {"x": np.arange(12).reshape(6, 2).astype(np.float32), "t": np.float32(1), "labels": np.arange(6)}, fixed
    )
    batches = list(reader.batches())
    assert [b.feeds["x"].shape for b in batches] == [(4, 2), (4, 2)]
    assert [b.count for b in batches] == [4, 2]
    assert batches[1].feeds["x"][2:].tolist() == [[10, 11], [10, 11]]
    assert batches[1].labels.tolist() == [4, 5]
    assert any("fixed at 4" in note for note in reader.notes)
    with pytest.raises(UsageError, match="fixed at 4"):
        open_data(np.zeros((6, 2), np.float32), inputs(("x", "float32", (4, 2))), batch=2)


def test_feeds_of_another_batch_are_regrouped():
    fixed = inputs(("x", "float32", (2, 1)))
    reader = open_data([{"x": np.array([[0], [1], [2]], np.float32)}, {"x": np.array([[3]], np.float32)}], fixed)
    assert [f["x"][:, 0].tolist() for f in reader] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "data, message",
    [
        ({"y": np.zeros((2, 4), np.float32), "z": np.zeros(2)}, "an array 'y', which is no input of the model"),
        ({"x": np.zeros((2, 5), np.float32)}, r"shape \[1, 5\], the model wants float32 \[n, 4\]"),
        ({"x": np.zeros((2, 4), np.uint8)}, "uint8, the model wants float32; if these are pixels"),
        ({"x": np.array([["a"] * 4])}, "the model wants float32"),
        ({"x": np.array([[0, 1, np.nan, np.nan]])}, "has 2 NaN of 4"),
        ({"x": np.zeros((0, 4), np.float32)}, "no samples"),
        ({"x": np.zeros((2, 4)), "labels": np.zeros(3)}, r"'labels' has shape \[3\] for 2 samples"),
        ([], "has no samples"),
        ([3], "a sample is a dict"),
        ([{"X": np.zeros((1, 4))}], "no input 'X'"),
        ([{}], "no data for input 'x'"),
        ([{"x": np.full((1, 4), 2**53 + 1)}], "float32 cannot hold"),
        (7, "is a int; give an iterable"),
    ],
)
def test_bad_data_is_refused_in_one_line(data, message):
    with pytest.raises(DataError, match=message) as caught:
        open_data(data, VECTOR)
    assert "\n" not in str(caught.value)


def test_safe_conversions():
    reader = open_data([{"x": np.arange(4)}], VECTOR)  # no batch axis, int64, exactly representable
    assert next(iter(reader))["x"].tolist() == [[0, 1, 2, 3]]
    assert next(iter(reader))["x"].dtype == np.float32
    half = inputs(("x", "float16", (1,)))
    with pytest.raises(DataError, match="beyond the range of float16"):
        open_data([{"x": np.array([1e6])}], half)
    ints = inputs(("x", "int32", (1,)))
    assert next(iter(open_data([{"x": np.array([5])}], ints)))["x"].dtype == np.int32
    with pytest.raises(DataError, match="int32 cannot hold"):
        open_data([{"x": np.array([2**40])}], ints)
    with pytest.raises(DataError, match="the model wants int32"):
        open_data([{"x": np.array([1.5])}], ints)


def test_one_symbol_has_one_size():
    two = inputs(("a", "float32", ("n", "t")), ("b", "float32", ("n", "t")))
    with pytest.raises(DataError, match="'t' is 3 in input 'a' and 4 in 'b'"):
        open_data([{"a": np.zeros((1, 3)), "b": np.zeros((1, 4))}], two)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", b"", "neither a folder nor .npz, .npy, .txt or .jsonl"),
        ("a.npz", b"junk", "cannot be read as .npz"),
        ("a.npy", b"", "cannot be read as .npy"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(path, VECTOR)


def test_objects_in_arrays_empty_folders_and_missing_paths(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        open_data(tmp_path / "o.npy", VECTOR)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        open_data(tmp_path / "empty", VECTOR)
    with pytest.raises(DataError, match="does not exist"):
        open_data(str(tmp_path / "nothing"), VECTOR)


def test_split_is_disjoint_complete_and_seeded():
    reader = open_data({"x": np.arange(40, dtype=np.float32).reshape(10, 4), "labels": np.arange(10)}, VECTOR)
    parts = split(reader, [0.7, 0.3], seed=1)
    seen = [sorted(p.labels.tolist()) for p in parts]
    assert [len(p) for p in parts] == [7, 3]
    assert sorted(seen[0] + seen[1]) == list(range(10))
    assert seen == [sorted(p.labels.tolist()) for p in split(reader, [0.7, 0.3], seed=1)]
    assert seen != [sorted(p.labels.tolist()) for p in split(reader, [0.7, 0.3], seed=2)]
    assert parts[1].labels.tolist() == [int(f["x"][0, 0]) // 4 for f in parts[1]]
    assert [len(p) for p in split(reader, [0.98, 0.01, 0.01], seed=0)] == [8, 1, 1]
    with pytest.raises(DataError, match="disjoint parts"):
        split(parts[1], [0.25] * 4, seed=0)
    with pytest.raises(UsageError, match="fractions"):
        split(reader, [0.9, 0.3], seed=0)


def test_who_has_the_data_says_how_they_may_be_varied():
    class Photos(list):
        augment = ("flip", "mixup")

    photos = Photos({"x": np.zeros((1, 4), np.float32)} for _ in range(4))
    reader = open_data(photos, VECTOR)
    assert reader.augment == reader.subset([0]).augment == ("flip", "mixup")
    assert open_data(lambda: photos, VECTOR).augment == ("flip", "mixup")
    assert open_data(photos, VECTOR, augment="shift").augment == ("shift",)
    assert open_data(np.zeros((4, 4), np.float32), VECTOR).augment == ()
    with pytest.raises(UsageError, match="--augment: augmentation 'flop' is unknown; did you mean 'flip'"):
        open_data(photos, VECTOR, augment="flop")
    photos.augment = ("spin",)
    with pytest.raises(UsageError, match="attribute 'augment' of --data"):
        open_data(photos, VECTOR)


GRAPH = """
    <ir_version: 10, opset_import: ["" : 18]>
    g (float[{0},2] nodes, int64[{1}] edges) => (float[{1},2] y) {{ y = Gather(nodes, edges) }}"""


def graphs(sizes):
    rng = np.random.default_rng(0)
    return [{"nodes": rng.standard_normal((n, 2)).astype(np.float32), "edges": rng.integers(0, n, e)} for n, e in sizes]


@pytest.mark.parametrize("names", [("n", "e"), ("n", "n")], ids=["two sizes", "one name for two sizes"])
@pytest.mark.parametrize("files", [True, False])
def test_inputs_that_have_no_batch_in_common(names, files, tmp_path):
    """Graphs, songs: each feed is one sample, however long its inputs are; also where the model names them alike."""
    inputs = ir.load(onnx.parser.parse_model(GRAPH.format(*names)).SerializeToString())
    feeds = graphs([(3, 5), (4, 4), (2, 6)] if names == ("n", "e") else [(3, 5), (4, 7), (2, 6)])
    for k, feed in enumerate(feeds):
        np.savez(tmp_path / f"{k}.npz", **feed)
    reader = open_data(tmp_path if files else feeds, inputs)
    assert reader.count == len(reader) == 3 and not reader.batched
    assert [batch.whole for batch in reader.batches()] == [True] * 3
    assert any("each feed is taken as one sample" in note for note in reader.notes)
    for read, feed in zip(reader, feeds, strict=True):
        np.testing.assert_array_equal(read["edges"], feed["edges"])


def test_one_sample_that_does_not_fit_is_named():
    """Of inputs whose first axis has one name, as in all other samples."""
    inputs = ir.load(onnx.parser.parse_model(GRAPH.format("n", "n")).SerializeToString())
    with pytest.raises(DataError, match=r"sample 1: the inputs have different batches: edges 5, nodes 4"):
        open_data(graphs([(3, 3), (4, 5), (2, 2)]), inputs)
    with pytest.raises(DataError, match="different batches"):
        open_data(graphs([(4, 5)]), inputs)


def test_rows_of_a_whole_sample_are_judged_together():
    model = ir.load(onnx.parser.parse_model(GRAPH.format("n", "e")).SerializeToString())
    run = registry.executor("ort").prepare(model)
    reader = open_data(graphs([(3, 3), (4, 9), (2, 6)]), model)
    off = lambda feeds: {"y": run(feeds)["y"] + np.float32([[0, 0]] * (len(feeds["edges"]) - 1) + [[3, 0]])}  # noqa: E731
    metric = open_metric("variance", reader, run)
    assert metric(run).value == 1 and metric(off).value < 0.9  # the last row counts as the first does


@pytest.mark.parametrize("word", ["?", "-1", "None", "dynamic", "unk"])
def test_words_for_an_open_size_are_no_names(word):
    """Paddle writes "?" for the height and for the width."""
    x = onnx.helper.make_tensor_value_info("x", 1, [word, 3, word, word])
    y = onnx.helper.make_tensor_value_info("y", 1, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = ir.load(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8))
    assert signature(model)["x"].shape == (None, 3, None, None)
    assert open_data({"x": np.zeros((4, 3, 48, 192), np.float32)}, model).count == 4
