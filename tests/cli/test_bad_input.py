"""Bad input: one clear line, the right exit code, no partial output, the input untouched."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from .conftest import Ended, small_model

Call = Callable[..., Ended]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(lw: Call, folder: Path, *args: object, code: int = 1) -> str:
    """Run, check that it failed cleanly and changed no file, return the line."""
    before = files(folder)
    ended = lw(*args)
    assert ended.code == code, ended.err
    assert files(folder) == before
    return ended.one_line_error()


# ---------------------------------------------------------------- models


def test_missing_file(lw: Call, tmp_path: Path) -> None:
    assert "does not exist" in refused(lw, tmp_path, "optimize", tmp_path / "none.onnx")


def test_text_file(lw: Call, tmp_path: Path) -> None:
    path = tmp_path / "notes.onnx"
    path.write_text("this is not a model\n" * 50)
    assert "notes.onnx" in refused(lw, tmp_path, "optimize", path)


def test_empty_file(lw: Call, tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.write_bytes(b"")
    assert "empty" in refused(lw, tmp_path, "optimize", path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_truncated(lw: Call, tmp_path: Path, share: float) -> None:
    raw = small_model().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(raw[: int(len(raw) * share)])
    assert "cut.onnx" in refused(lw, tmp_path, "optimize", path)


def test_a_folder(lw: Call, tmp_path: Path) -> None:
    assert "folder" in refused(lw, tmp_path, "optimize", tmp_path)


def test_empty_graph(lw: Call, tmp_path: Path) -> None:
    path = tmp_path / "void.onnx"
    graph = helper.make_graph([], "void", [], [])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert "void.onnx" in refused(lw, tmp_path, "optimize", path)


def test_unknown_opset(lw: Call, tmp_path: Path) -> None:
    model = small_model()
    model.opset_import[0].version = 999
    path = tmp_path / "future.onnx"
    onnx.save(model, path)
    assert "999" in refused(lw, tmp_path, "optimize", path)


def test_unknown_domain(lw: Call, tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[2].domain = "made.up"
    model.opset_import.append(helper.make_opsetid("made.up", 1))
    path = tmp_path / "custom.onnx"
    onnx.save(model, path)
    assert "made.up" in refused(lw, tmp_path, "optimize", path)


def external_model(folder: Path) -> Path:
    path = folder / "big.onnx"
    onnx.save(small_model(), path, save_as_external_data=True, location="big.data", size_threshold=0)
    return path


def test_external_data_missing(lw: Call, tmp_path: Path) -> None:
    path = external_model(tmp_path)
    (tmp_path / "big.data").unlink()
    assert "big.data" in refused(lw, tmp_path, "optimize", path)


def test_external_data_outside_the_folder(lw: Call, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path = external_model(inner)
    (inner / "big.data").rename(tmp_path / "secret.data")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret.data"
    path.write_bytes(model.SerializeToString())
    assert "outside" in refused(lw, tmp_path, "optimize", path)


def test_model_that_the_runtime_refuses(lw: Call, tmp_path: Path) -> None:
    model = small_model()
    del model.graph.initializer[5]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((32, 31, 3, 3), np.float32), "w2"))
    path = tmp_path / "broken.onnx"
    onnx.save(model, path)
    refused(lw, tmp_path, "optimize", path)


def test_nan_in_outputs(lw: Call, tmp_path: Path) -> None:
    model = small_model()
    for index, tensor in enumerate(model.graph.initializer):
        if tensor.name == "b3":
            model.graph.initializer[index].CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), "b3"))
    path = tmp_path / "nan.onnx"
    onnx.save(model, path)
    assert "NaN" in refused(lw, tmp_path, "optimize", path)


# ---------------------------------------------------------------- data


def save_samples(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "samples.npz"
    np.savez(path, **arrays)
    return path


def test_wrong_input_name(lw: Call, model_file: Path) -> None:
    pixels = np.zeros((8, 3, 16, 16), np.float32)
    data = save_samples(model_file.parent, image=pixels, mask=pixels)
    line = refused(lw, model_file.parent, "optimize", model_file, "--data", data)
    assert "image" in line and "x" in line


def test_wrong_shape(lw: Call, model_file: Path) -> None:
    data = save_samples(model_file.parent, x=np.zeros((8, 3, 17, 16), np.float32))
    assert "17" in refused(lw, model_file.parent, "optimize", model_file, "--data", data)


def test_wrong_dtype(lw: Call, model_file: Path) -> None:
    data = save_samples(model_file.parent, x=np.zeros((8, 3, 16, 16), np.uint8))
    assert "uint8" in refused(lw, model_file.parent, "optimize", model_file, "--data", data)


def test_no_samples(lw: Call, model_file: Path) -> None:
    (model_file.parent / "none").mkdir()
    assert "none" in refused(lw, model_file.parent, "optimize", model_file, "--data", model_file.parent / "none")


def test_data_that_does_not_exist(lw: Call, model_file: Path) -> None:
    assert "nowhere" in refused(lw, model_file.parent, "optimize", model_file, "--data", "nowhere")


@pytest.mark.usefixtures("no_trials")
def test_unreadable_image_is_named_and_counted(lw: Call, model_file: Path) -> None:
    folder = model_file.parent / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"{index}.png")
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:60])
    ended = lw("optimize", model_file, "--data", folder, "--preprocess", "scale=1/255")
    assert ended.code == 0, ended.err
    assert "torn.png" in ended.err + ended.out


def test_metric_that_raises(lw: Call, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model_file.parent / "badmetric.py").write_text("def score(run):\n    raise RuntimeError('no such table')\n")
    monkeypatch.chdir(model_file.parent)
    data = save_samples(model_file.parent, x=np.random.default_rng(0).random((16, 3, 16, 16), np.float32))
    ended = lw("optimize", model_file, "--data", data, "--metric", "badmetric:score")
    assert ended.code == 1
    assert "no such table" in ended.one_line_error()
    assert not (model_file.parent / "small.lw.onnx").exists()


def test_labels_are_needed_for_top1(lw: Call, model_file: Path) -> None:
    data = save_samples(model_file.parent, x=np.zeros((8, 3, 16, 16), np.float32))
    assert "label" in refused(lw, model_file.parent, "optimize", model_file, "--data", data, "--metric", "top1", code=2)


# ---------------------------------------------------------------- output


def test_never_over_the_input(lw: Call, model_file: Path) -> None:
    line = refused(lw, model_file.parent, "optimize", model_file, "-o", model_file, code=2)
    assert "--overwrite" in line


def test_existing_output_is_kept(lw: Call, model_file: Path) -> None:
    (model_file.parent / "small.lw.onnx").write_text("mine")
    assert "--overwrite" in refused(lw, model_file.parent, "optimize", model_file, code=2)


def test_output_folder_does_not_exist(lw: Call, model_file: Path) -> None:
    out = model_file.parent / "no" / "such" / "out.onnx"
    assert "no/such" in refused(lw, model_file.parent, "optimize", model_file, "-o", out, code=2)


def test_full_disk(lw: Call, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert "No space left" in refused(lw, model_file.parent, "optimize", model_file)


def test_control_c(lw: Call, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lwgraph import registry

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "executor", interrupted)
    assert "interrupted" in refused(lw, model_file.parent, "optimize", model_file, code=130)


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["optimise"], "optimize"),
        (["optimize", "{model}", "-p", "fold-batchnorm"], "fold-batch-norm"),
        (["optimize", "{model}", "--target", "ort-gpu"], "ort-cpu"),
        (["optimize", "{model}", "--metric", "top-1"], "top1"),
        (["optimize", "{model}", "--max-drop", "-1"], "--max-drop"),
        (["optimize", "{model}", "--speedup", "0"], "--speedup"),
        (["optimize", "{model}", "--preprocess", "resise=3", "--data", "."], "resize"),
        (["optimize", "{model}", "--input-shape", "x:1,3"], "x"),
        (["optimize", "{model}", "--input-shape", "x:1,-3,16,16"], "NAME:SIZES"),
        (["passes", "low-rnak"], "low-rank"),
        (["verify", "{model}"], "B"),
    ],
)
def test_bad_usage_ends_with_2_and_says_what_is_right(lw: Call, model_file: Path, args: list[str], hint: str) -> None:
    ended = lw(*[a.format(model=model_file) for a in args])
    assert ended.code == 2, ended.err
    assert hint in ended.err
    assert "Traceback" not in ended.err
    assert list(model_file.parent.iterdir()) == [model_file]


def test_float_model_types_other_than_expected_are_refused_kindly(lw: Call, tmp_path: Path) -> None:
    """A model whose input is an optional cannot be fed with arrays."""
    optional = helper.make_value_info(
        "s", helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))
    )
    node = helper.make_node("OptionalHasElement", ["s"], ["n"])
    out = helper.make_tensor_value_info("n", TensorProto.BOOL, [])
    model = helper.make_model(
        helper.make_graph([node], "opt", [optional], [out]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    path = tmp_path / "opt.onnx"
    onnx.save(model, path)
    assert "'s'" in refused(lw, tmp_path, "optimize", path)
