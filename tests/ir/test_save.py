"""Saving is all or nothing, keeps what it is given, and never touches what is still being read."""

from __future__ import annotations

import os
import resource
import signal
import stat

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from lwgraph import ir
from lwgraph.errors import ModelError
from lwgraph.ir import saving
from tests.ir.protos import normal

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def model_with(*names: str, size: int = 1024) -> ir.Model:
    """y = x + each named weight, of `size` float32 elements: arange, its double, its triple ..."""
    steps, last = "", "x"
    for name in names:
        steps += f"after_{name} = Add({last}, {name}) "
        last = f"after_{name}"
    proto = onnx.parser.parse_model(HEADER + f"g (float[{size}] x) => (float[{size}] y) {{ {steps} y = Relu({last}) }}")
    for factor, name in enumerate(names, 1):
        proto.graph.initializer.append(numpy_helper.from_array(np.arange(size, dtype=np.float32) * factor, name))
    return ir.load(proto)


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def result(path, size=1024):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.zeros(size, np.float32)})[0]


def refused(model, path, **options) -> str:
    with pytest.raises(ModelError) as caught:
        ir.save(model, path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("mine")
    assert "exists; choose another name, or overwrite it" in refused(model_with("w"), path)
    assert path.read_text() == "mine"
    ir.save(model_with("w"), path, overwrite=True)
    np.testing.assert_array_equal(result(path), np.arange(1024))
    assert files(tmp_path) == ["m.onnx"]


def test_targets_that_cannot_be(tmp_path):
    model = model_with("w")
    assert "it is a directory" in refused(model, tmp_path, overwrite=True)
    assert "does not exist" in refused(model, tmp_path / "nowhere" / "m.onnx")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(model, tmp_path / "pipe", overwrite=True)
    assert files(tmp_path) == ["pipe"]


def test_everything_in_the_model_is_kept(tmp_path):
    proto = onnx.parser.parse_model("""<ir_version: 7, opset_import: ["local" : 1, "" : 13], producer_name: "p",
        producer_version: "1", domain: "d", model_version: 3, doc_string: "doc", metadata_props: ["k": "v"]>
        g (float[N, 2] second, float[N, 2] first) => (float[N, 2] out2, float[N, 2] out1) <float[1,2] unused = {1,2}> {
          out1 = local.f (second)
          out2 = Add (first, second)
        }
        <domain: "local", opset_import: ["" : 12]> f (a) => (b) { b = Relu (a) }""")
    proto.graph.doc_string = "graph doc"
    proto.graph.node[0].name, proto.graph.node[0].doc_string = "n", "node doc"
    note = proto.graph.quantization_annotation.add(tensor_name="first")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="unused")
    ir.save(ir.load(proto), tmp_path / "m.onnx")
    saved = onnx.load(tmp_path / "m.onnx")
    assert saved.ir_version == 7 and saved.metadata_props[0].value == "v"
    assert [(o.domain, o.version) for o in saved.opset_import] == [("local", 1), ("", 13)]
    assert [o.name for o in saved.graph.output] == ["out2", "out1"]
    assert normal(saved) == normal(proto)


def test_initializers_are_not_described_twice():
    assert not ir.to_proto(model_with("a", "b")).graph.value_info
    model = model_with("a")
    model.graph.initializers["a"].metadata_props["k"] = "v"
    assert [info.name for info in ir.to_proto(model).graph.value_info] == ["a"]
    assert list(model.graph.initializers["a"].shape) == [1024]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for number, external in enumerate([False, False, True, True]):
        (tmp_path / str(number)).mkdir()
        ir.save(model_with("a", "b"), tmp_path / str(number) / "m.onnx", external=external)
    for one, two in ((0, 1), (2, 3)):
        for name in files(tmp_path / str(one)):
            assert (tmp_path / str(one) / name).read_bytes() == (tmp_path / str(two) / name).read_bytes()


def test_external_data_stays_external(tmp_path):
    ir.save(model_with("a", "b"), tmp_path / "m.onnx", external=True)
    assert files(tmp_path) == ["m.onnx", "m.onnx.data"]
    model = ir.load(tmp_path / "m.onnx")
    ir.set_constant(model.graph.initializers["a"], np.ones(1024, np.float32))
    ir.save(ir.clone(model), tmp_path / "n.onnx")
    assert files(tmp_path) == ["m.onnx", "m.onnx.data", "n.onnx", "n.onnx.data"]
    np.testing.assert_array_equal(result(tmp_path / "n.onnx"), np.arange(1024) * 2 + 1)
    np.testing.assert_array_equal(result(tmp_path / "m.onnx"), np.arange(1024) * 3)
    onnx.checker.check_model(tmp_path / "n.onnx")
    for value in model.graph.initializers.values():
        ir.set_constant(value, np.full(1024, 2.0, np.float32))
    ir.save(model, tmp_path / "o.onnx")  # nothing of the old data is left, but the habit is
    assert "o.onnx.data" in files(tmp_path)
    ir.save(model, tmp_path / "p.onnx", external=False)
    assert "p.onnx.data" not in files(tmp_path)


def test_small_and_string_tensors_are_never_external(tmp_path):
    model = model_with("a")
    ir.add_initializer(model.graph, np.zeros(10, np.float32), "small")
    texts = onnx.helper.make_tensor("texts", onnx.TensorProto.STRING, [300], [b"text"] * 300)
    proto = ir.to_proto(model)
    proto.graph.initializer.append(texts)
    ir.save(ir.load(proto), tmp_path / "m.onnx", external=True)
    saved = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    stored = {tensor.name: tensor.data_location for tensor in saved.graph.initializer}
    assert stored == {"a": onnx.TensorProto.EXTERNAL, "small": 0, "texts": 0}
    assert (tmp_path / "m.onnx.data").stat().st_size == 4096


def test_shared_data_is_written_once(tmp_path):
    model = model_with("a")
    tensor = model.graph.initializers["a"].const_value
    other = ir.Value(name="b", const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape([1024]))
    model.graph.initializers.add(other)
    model.graph[1].replace_input_with(0, other)
    ir.save(model, tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx.data").stat().st_size == 4096
    assert list(ir.load(tmp_path / "m.onnx").graph.initializers) == ["a", "b"]


def test_over_two_gigabytes_goes_external(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "LIMIT", (1 << 20) + 6000)
    ir.save(model_with("a"), tmp_path / "small.onnx")
    ir.save(model_with("a", "b"), tmp_path / "large.onnx")
    assert files(tmp_path) == ["large.onnx", "large.onnx.data", "small.onnx"]
    monkeypatch.setattr(saving, "LIMIT", 6000)
    assert "a protobuf at most" in refused(model_with("a", "b"), tmp_path / "in.onnx", external=False)
    assert len(files(tmp_path)) == 3


def test_saving_over_the_files_being_read(tmp_path):
    path = tmp_path / "m.onnx"
    ir.save(model_with("a", "b"), path, external=True)
    model = ir.load(path)
    ir.set_constant(model.graph.initializers["a"], np.zeros(1024, np.float32))
    ir.save(model, path, overwrite=True)
    np.testing.assert_array_equal(result(path), np.arange(1024) * 2)
    np.testing.assert_array_equal(ir.constant(model.graph.initializers["b"]), np.arange(1024) * 2)  # the old file
    ir.save(model, path, overwrite=True)
    np.testing.assert_array_equal(result(path), np.arange(1024) * 2)
    assert files(tmp_path) == ["m.onnx", "m.onnx.data"]


def test_another_models_data_is_not_taken(tmp_path):
    """a.onnx keeps its data in b.onnx.data; saving it as b.onnx must not destroy a.onnx."""
    ir.save(model_with("a"), tmp_path / "b.onnx", external=True)
    (tmp_path / "b.onnx").rename(tmp_path / "a.onnx")
    model = ir.load(tmp_path / "a.onnx")
    ir.set_constant(model.graph.initializers["a"], np.zeros(1024, np.float32))
    ir.save(model, tmp_path / "b.onnx", overwrite=True)
    assert files(tmp_path) == ["a.onnx", "b.onnx", "b.onnx.1.data", "b.onnx.data"]
    np.testing.assert_array_equal(result(tmp_path / "a.onnx"), np.arange(1024))
    np.testing.assert_array_equal(result(tmp_path / "b.onnx"), np.zeros(1024))


def test_data_of_another_name_is_not_overwritten_unless_told(tmp_path):
    (tmp_path / "m.onnx.data").write_text("mine")
    assert "m.onnx.data' exists" in refused(model_with("a"), tmp_path / "m.onnx", external=True)
    assert files(tmp_path) == ["m.onnx.data"]


def test_a_link_is_followed_not_replaced(tmp_path):
    (tmp_path / "blob").write_text("what the link leads to")
    (tmp_path / "m.onnx").symlink_to("blob")
    assert "exists" in refused(model_with("a"), tmp_path / "m.onnx")
    assert (tmp_path / "blob").read_text() == "what the link leads to"
    ir.save(model_with("a"), tmp_path / "m.onnx", overwrite=True)
    assert (tmp_path / "m.onnx").is_symlink() and not (tmp_path / "blob").is_symlink()
    assert ir.fingerprint(ir.load(tmp_path / "blob")) == ir.fingerprint(ir.load(tmp_path / "m.onnx"))


def test_permissions_are_those_of_any_new_file(tmp_path):
    ir.save(model_with("a"), tmp_path / "m.onnx")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "m.onnx").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    (tmp_path / "m.onnx").chmod(0o640)
    ir.save(model_with("a"), tmp_path / "m.onnx", overwrite=True)
    assert stat.S_IMODE((tmp_path / "m.onnx").stat().st_mode) == 0o640


@pytest.fixture
def small_files():
    """A file may have 64 KiB at most: what a full disk does, with another number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk_leaves_nothing(tmp_path, small_files, external):
    path = tmp_path / "m.onnx"
    ir.save(model_with("a"), path, external=external)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    large = model_with("a", size=1 << 15)
    assert "cannot be written: File too large" in refused(large, path, overwrite=True, external=external)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("existing", [False, True])
def test_failing_between_the_two_files_puts_both_back(tmp_path, monkeypatch, failing, existing):
    path = tmp_path / "m.onnx"
    if existing:
        ir.save(model_with("a"), path, external=True)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    replace, calls = os.replace, []

    def replace_or_fail(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise PermissionError(1, "Operation not permitted")
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_or_fail)
    assert "Operation not permitted" in refused(model_with("a", "b"), path, overwrite=True, external=True)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, even where the tests run in the background of a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch):
    real = os.fsync

    def interrupt(fd):
        real(fd)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "fsync", interrupt)
    for external in (False, True):
        model = model_with("a")
        with pytest.raises(KeyboardInterrupt):
            ir.save(model, tmp_path / "m.onnx", external=external)
        assert files(tmp_path) == []
        np.testing.assert_array_equal(ir.constant(model.graph.initializers["a"]), np.arange(1024))


def test_what_cannot_be_serialized_is_refused_in_one_line(tmp_path):
    model = model_with("a")
    model.graph[0].attributes.add(ir.Attr("odd", ir.AttributeType.SPARSE_TENSOR, "no"))
    assert "cannot be serialized: Sparse tensors are not supported" in refused(model, tmp_path / "m.onnx")
    assert files(tmp_path) == []
    assert list(model.graph.initializers["a"].shape) == [1024]


def test_skeleton_has_the_structure_without_the_data():
    model = model_with("a", "b")
    ir.add_initializer(model.graph, np.array([1, 2]), "shape")
    proto = ir.skeleton(model)
    assert proto.ByteSize() < 2048
    assert [list(t.dims) for t in proto.graph.initializer] == [[1024], [1024], [2]]
    np.testing.assert_array_equal(numpy_helper.to_array(proto.graph.initializer[2]), [1, 2])


def test_fingerprint_sees_every_change():
    prints = {ir.fingerprint(model_with("a"))}
    for change in (
        lambda m: ir.set_constant(m.graph.initializers["a"], np.ones(1024, np.float32)),
        lambda m: ir.set_constant(m.graph.initializers["a"], np.arange(1024, dtype=np.float32).reshape(1, 1024)),
        lambda m: ir.set_constant(m.graph.initializers["a"], np.arange(1024, dtype=np.float32).view(np.int32)),
        lambda m: m.metadata_props.update(k="v"),
        lambda m: setattr(m.graph[1], "op_type", "Neg"),
        lambda m: setattr(m.graph.initializers["a"], "name", "b"),
        lambda m: setattr(m, "ir_version", 9),
    ):
        model = model_with("a")
        change(model)
        prints.add(ir.fingerprint(model))
    assert len(prints) == 8


@pytest.mark.parametrize("size", [1, 31, 1024, 5000])  # lengths of one to three bytes, inside and at the threshold
def test_the_size_is_that_of_the_file_to_the_byte(tmp_path, size):
    text = f"""{HEADER}g (bool c, float[n] x) => (float[n] y) {{
        y = If (c) <
            then_branch = t () => (float[n] p) {{ p = Add(x, w) }},
            else_branch = e () => (float[n] q) <float[{size}] v = {{{", ".join(["1"] * size)}}}> {{ q = Add(x, v) }}>
    }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(size, np.float32), "w"))
    packed = onnx.helper.make_tensor("i", onnx.TensorProto.INT4, [2 * size + 1], bytes(size + 1), raw=True)
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["k"], value=packed, doc_string="a constant"))
    model = ir.load(proto)
    assert ir.save(model, tmp_path / "m.onnx") == (tmp_path / "m.onnx").stat().st_size == ir.size(model)


def test_the_bytes_of_external_data_are_counted(tmp_path):
    written = ir.save(model_with("w", "v"), tmp_path / "m.onnx", external=True)
    assert written == sum(path.stat().st_size for path in tmp_path.iterdir()) > 8192
