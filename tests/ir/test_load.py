"""What load makes of good and of bad sources."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir
from lwgraph.errors import ModelError

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
RELU = onnx.parser.parse_model(HEADER + "g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }")


def refused(source) -> str:
    """The message of the error that loading `source` raises: one line."""
    with pytest.raises(ModelError) as caught:
        ir.load(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def test_every_kind_of_source_gives_the_same_model(path):
    onnx.save(RELU, path)
    prints = {ir.fingerprint(ir.load(source)) for source in (path, str(path), path.read_bytes(), RELU, ir.load(RELU))}
    assert len(prints) == 1
    assert "from a int" in refused(3)


def test_the_callers_proto_is_not_shared():
    proto = onnx.parser.parse_model(HEADER + "g (float[2] x) => (float[2] y) <float[2] w = {1,2}> { y = Add(x, w) }")
    before = proto.SerializeToString()
    model = ir.load(proto)
    model.graph.initializers["w"].name = "other"
    assert proto.SerializeToString() == before


def test_missing_directory_empty(path, tmp_path):
    assert refused(path) == f"model '{path}' does not exist"
    path.write_bytes(b"")
    assert "is empty (0 bytes)" in refused(path)
    assert f"is a directory; give the .onnx file in it; did you mean '{path}'?" in refused(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(path):
    onnx.save(RELU, path)
    path.chmod(0)
    assert "Permission denied" in refused(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello, this is text\n", "not an ONNX model"),
        (bytes(range(256)) * 4, "not an ONNX model"),
        (b"\x00" * 100, "not an ONNX model"),
        (numpy_helper.from_array(np.zeros(4), "t").SerializeToString(), "a protobuf message of another kind"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x1c\x00\x00\x00TFL3....", "TensorFlow Lite"),
        (b"\x1c\x00\x00\x00ORTM....", "ONNX Runtime's own format"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"\x89HDF\r\n", "HDF5"),
    ],
)
def test_other_files(path, data, words):
    path.write_bytes(data)
    message = refused(path)
    assert words in message and str(path) in message


def test_truncated(path):
    data = RELU.SerializeToString()
    for end in (len(data) // 2, len(data) - 1, 3):
        path.write_bytes(data[:end])
        assert "truncated or damaged" in refused(path) or "not an ONNX model" in refused(path)
    path.write_bytes(data[: len(data) // 2])
    assert "truncated or damaged" in refused(path)


def changed(**fields) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(RELU)
    for field, value in fields.items():
        if field == "opset":
            del proto.opset_import[:]
            for domain, version in value.items():
                proto.opset_import.add(domain=domain, version=version)
        elif field == "node":
            proto.graph.node[0].CopyFrom(value)
        elif field == "ir_version":
            proto.ir_version = value
        else:
            del getattr(proto.graph, field)[:]
    return proto


def test_empty_graphs():
    proto = changed(node=RELU.graph.node[0])
    del proto.graph.node[:], proto.graph.output[:]
    assert "empty graph (no nodes, no outputs)" in refused(proto)
    assert "has no outputs" in refused(changed(output=None))
    proto.graph.output.append(proto.graph.input[0])  # passes its input on: odd, and allowed
    assert len(ir.load(proto).graph) == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"opset": {"": 999}}, "uses opset 999 of domain 'ai.onnx'; the installed onnx"),
        ({"opset": {"": 0}}, "uses opset 0"),
        ({"opset": {"": 17, "ai.onnx.ml": 99}}, "opset 99 of domain 'ai.onnx.ml'"),
        ({"opset": {"com.microsoft": 1}}, "does not say which opset of domain 'ai.onnx'"),
        (
            {"opset": {"": 17, "acme": 1}, "node": helper.make_node("Op", ["x"], ["y"], name="n", domain="acme")},
            "node 'n' uses operator 'acme::Op', whose domain is unknown",
        ),
        ({"ir_version": 999}, "IR version 999; the installed onnx"),
    ],
)
def test_unknown_versions_and_domains(fields, words):
    assert words in refused(changed(**fields))


@pytest.mark.parametrize("domain", ["com.microsoft", "com.microsoft.nchwc", "ai.onnx.contrib"])
def test_domains_of_runtimes_are_known(domain):
    proto = changed(opset={"": 17, domain: 1}, node=helper.make_node("Op", ["x"], ["y"], domain=domain))
    assert ir.load(proto).graph[0].domain == domain


def test_a_domain_that_the_model_defines_is_known():
    ir.load(
        onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.f (x) }
        <domain: "local", opset_import: ["" : 17]> f (a) => (b) { b = Relu(a) }""")
    )


def test_training_information_is_not_dropped_silently():
    proto = changed()
    proto.training_info.add()
    assert "training information" in refused(proto)


def test_names_that_clash():
    proto = changed()
    proto.graph.initializer.extend([numpy_helper.from_array(np.zeros(2), "w")] * 2)
    assert "more than one initializer named 'w'" in refused(proto)
    proto = changed()
    proto.graph.input.append(proto.graph.input[0])
    assert "more than one input named 'x'" in refused(proto)
    proto = changed()
    proto.graph.node.append(proto.graph.node[0])
    assert "'y' is redeclared" in refused(proto)


def test_a_tensor_that_does_not_hold_what_it_declares():
    proto = changed()
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    tensor.dims[0] = 4
    proto.graph.initializer.append(tensor)
    assert "initializer 'w' declares [4] of FLOAT, which its data does not fit" in refused(proto)


def test_nodes_out_of_order_are_sorted_and_cycles_refused():
    proto = onnx.parser.parse_model(HEADER + "g (float[2] x) => (float[2] y) { h = Relu(x) y = Neg(h) }")
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert [node.op_type for node in ir.load(proto).graph] == ["Relu", "Neg"]
    proto.graph.node[1].input[0] = "y"
    assert "has a cycle" in refused(proto)


def test_sparse_tensors_become_dense():
    values = numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    flat = numpy_helper.from_array(np.array([1, 5]))
    pairs = numpy_helper.from_array(np.array([[0, 1], [1, 2]]))
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], sparse_value=helper.make_sparse_tensor(values, pairs, [2, 3])),
            helper.make_node("Add", ["c", "w"], ["y"]),
        ],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        sparse_initializer=[helper.make_sparse_tensor(values, flat, [2, 3])],
    )
    model = ir.load(helper.make_model(graph))
    expected = [[0, 1, 0], [0, 0, 2]]
    np.testing.assert_array_equal(ir.constant(model.graph[1].inputs[0]), expected)
    np.testing.assert_array_equal(ir.constant(model.graph.initializers["w"]), expected)
    huge = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], sparse_value=helper.make_sparse_tensor(values, flat, [2, 1 << 40]))],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    assert "cannot be made dense: it would have" in refused(helper.make_model(huge))


def test_map_types_survive():
    """A scikit-learn classifier ends in ZipMap, whose output type onnx_ir cannot hold."""
    zipped = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    proto = changed(opset={"": 17, "ai.onnx.ml": 3}, node=zipped)
    entry = onnx.TypeProto()
    entry.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    entry.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    proto.graph.output[0].type.CopyFrom(entry)
    model = ir.clone(ir.load(proto))
    assert ir.to_proto(model).graph.output[0].type == entry
    assert proto.graph.output[0].type == entry  # the caller's


# External data


def external(folder, *, location="w.bin", length=None, offset=None, size=4096) -> str:
    """A model in `folder` whose weight (4096 bytes) is said to be in `location`; `size` bytes are there."""
    proto = onnx.parser.parse_model(HEADER + "g (float[1024] x) => (float[1024] y) { y = Add(x, w) }")
    tensor = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[1024])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", length), ("offset", offset)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    if size is not None:
        (folder / "w.bin").write_bytes(np.arange(size // 4, dtype=np.float32).tobytes())
    onnx.save(proto, folder / "model.onnx")
    return str(folder / "model.onnx")


def test_external_data_is_read_when_asked_for(tmp_path):
    model = ir.load(external(tmp_path))
    array = ir.constant(model.graph.initializers["w"])
    np.testing.assert_array_equal(array, np.arange(1024, dtype=np.float32))
    assert not array.flags.writeable


def test_external_and_inside_have_one_fingerprint(tmp_path):
    path = external(tmp_path)
    assert ir.fingerprint(ir.load(path)) == ir.fingerprint(ir.load(onnx.load(path)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": None}, "does not exist"),
        ({"size": 4092}, "is too short: initializer 'w' needs bytes 0 to 4096, the file has 4092"),
        ({"offset": 4}, "needs bytes 4 to 4100"),
        ({"offset": -4}, "must be non-negative"),
        ({"length": 4092}, "declares [1024] of FLOAT, 4096 bytes, but 4092 bytes of external data"),
        ({"location": "../w.bin"}, "points outside the model's folder"),
        ({"location": "sub/../../w.bin"}, "points outside the model's folder"),
        ({"location": "/etc/passwd"}, "is not a path relative to the model's folder"),
        ({"location": ""}, "is not a path relative"),
        ({"location": "."}, "is not a regular file"),
    ],
)
def test_bad_external_data(tmp_path, options, words):
    folder = tmp_path / "m"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(b"\0" * 4096)
    message = refused(external(folder, **options))
    assert words in message and "'w'" in message


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    path = external(folder)
    (folder / "w.bin").rename(folder / "real.bin")
    (folder / "w.bin").symlink_to("real.bin")
    ir.load(path)
    (folder / "real.bin").rename(tmp_path / "secret.bin")
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    assert "is a link to" in refused(path)


def test_a_download_cache_of_links_is_accepted(tmp_path):
    """Model and data are both links into one folder, as the Hugging Face hub keeps them."""
    blobs, shown = tmp_path / "blobs", tmp_path / "shown"
    blobs.mkdir(), shown.mkdir()
    external(blobs)
    (shown / "model.onnx").symlink_to(blobs / "model.onnx")
    (shown / "w.bin").symlink_to(blobs / "w.bin")
    assert ir.constant(ir.load(shown / "model.onnx").graph.initializers["w"])[7] == 7


def test_external_data_without_a_folder(tmp_path):
    path = external(tmp_path)
    for source in (Path(path).read_bytes(), onnx.load(path, load_external_data=False)):
        assert "no folder to look in; load the model from its path" in refused(source)


def test_data_changed_behind_our_back_is_noticed(tmp_path):
    model = ir.load(external(tmp_path))
    with open(tmp_path / "w.bin", "r+b") as file:
        file.truncate(100)
    for read in (lambda: ir.constant(model.graph.initializers["w"]), lambda: ir.fingerprint(model)):
        with pytest.raises(ModelError, match="was changed after the model was loaded"):
            read()


def test_data_replaced_behind_our_back_does_not_matter(tmp_path):
    model = ir.load(external(tmp_path))
    (tmp_path / "new").write_bytes(b"")
    os.replace(tmp_path / "new", tmp_path / "w.bin")
    assert ir.constant(model.graph.initializers["w"])[5] == 5


def test_sub_byte_external_data(tmp_path):
    inside = ir.load(
        helper.make_model(
            helper.make_graph(
                [helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)],
                "g",
                [],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3001])],
                [helper.make_tensor("w", TensorProto.UINT4, [3001], np.arange(3001) % 16)],
            ),
            opset_imports=[helper.make_opsetid("", 21)],
            ir_version=10,
        )
    )
    ir.save(inside, tmp_path / "m.onnx", external=True)
    outside = ir.load(tmp_path / "m.onnx")
    expected = np.arange(3001) % 16
    np.testing.assert_array_equal(ir.constant(outside.graph.initializers["w"]).astype(int), expected)
    assert ir.fingerprint(inside) == ir.fingerprint(outside)


def resident() -> int:
    """Bytes of file pages in this process's memory."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssFile"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's process status")
def test_pages_leave_memory_with_the_array(tmp_path):
    proto = onnx.parser.parse_model(HEADER + "g (float[1] x) => (float[1] y) { y = Add(x, w) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((64 << 20) // 4, np.float32), "w"))
    ir.save(ir.load(proto), tmp_path / "m.onnx", external=True)
    value = ir.load(tmp_path / "m.onnx").graph.initializers["w"]
    before = resident()
    array = ir.constant(value).reshape(1024, -1)[1:]  # a view of a view
    assert array.sum() > 0 and resident() - before > 50 << 20
    del array
    assert resident() - before < 10 << 20


def test_loading_from_a_thread(tmp_path):
    path, found = external(tmp_path), []
    thread = threading.Thread(target=lambda: found.append(ir.load(path)))
    thread.start(), thread.join()
    assert ir.constant(found[0].graph.initializers["w"])[3] == 3
