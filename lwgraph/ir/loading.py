"""Reading models, and the one-line errors for everything that is not one."""

from __future__ import annotations

import functools
import math
import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from lwgraph import heap
from lwgraph.errors import ModelError
from lwgraph.ir.copying import clone, remember_types
from lwgraph.ir.saving import ROOT
from lwgraph.ir.tensors import DataFile, map_tensors, open_data, own
from lwgraph.ir.types import Attr, AttributeType, Function, Graph, Model, Source
from lwgraph.ir.walk import graph_of, is_sorted, link, scopes

# Domains whose operators a runtime brings along, without a schema in onnx or a function in the model.
RUNTIME_DOMAINS = ("com.microsoft", "com.ms", "ai.onnxruntime", "ai.onnx.contrib", "org.pytorch.aten")

_Name: TypeAlias = "tuple[str, str]"  # domain and name of a function
_MOST_NODES = 1_000_000  # nodes that a model may have when its functions are expanded
_DEEPEST = 64  # functions inside each other
_LISTS = (AttributeType.INTS, AttributeType.FLOATS, AttributeType.STRINGS)
_LONG = 1024  # members of an attribute
_LARGEST_DENSE = 1 << 31  # bytes that a sparse tensor may have once it is dense


def load(source: Source) -> Model:
    """A model from a path, bytes, a ModelProto, an onnx_ir.Model, or what torch.onnx.export(dynamo=True) returns.

    The caller's object stays as it is.

    External data is not read here: it is checked (inside the model's folder, long enough) and mapped when used. Nodes
    out of order are sorted. Sparse initializers and sparse Constants become dense, as every runtime makes them.
    The model is read, not verified: see `lwgraph.check.verify`.

    Raises:
        ModelError: in one line: the file is missing, not ONNX or truncated; the graph is empty; an opset or a domain is
            unknown; external data is missing, too short or outside the model's folder; the model cannot be represented.
    """
    return _load(source, None)


def borrow(path: Path) -> Model:
    """The model that `lend` wrote to `path`. Raises as `load`."""
    return _load(path, ROOT)


def _load(source: Source, root: Path | None) -> Model:
    """See `load`; external data may lie below `root`, or where it is None in the folder of the model."""
    folders: list[Path] = []  # folders that may hold external data
    if isinstance(source, Model):
        model, label = clone(source), "the model"
    elif isinstance(source, onnx.ModelProto):
        proto, label = onnx.ModelProto(), "the ModelProto"
        proto.CopyFrom(source)
        model = _from_proto(proto, label)
    elif isinstance(source, bytes):
        label = "the model in bytes"
        model = _from_proto(_parse(source, label), label)
    elif isinstance(source, (str, os.PathLike)):
        path, label = Path(source), f"model '{source}'"
        if not str(source).strip():  # such as a variable of a script that is not set
            raise ModelError(f"the name of the model is '{source}'; give a file")
        model = _from_proto(_parse(_read(path), label), label)
        folders = [path.parent, path.resolve().parent] if root is None else [root]
        model.meta["path"] = path.resolve()
    elif isinstance(exported := getattr(source, "model", None), Model):
        model, label = clone(exported), f"the model of the {type(source).__name__}"
    else:
        raise ModelError(
            f"a model cannot be read from a {type(source).__name__}; give a path, bytes, a ModelProto, an "
            "onnx_ir.Model or what torch.onnx.export(..., dynamo=True) returns"
        )
    _own_tensors(model, label, folders)
    _sort(model, label)
    link([model.graph, *model.functions.values()])
    return model


def _read(path: Path) -> bytes:
    try:
        if not path.exists():
            raise ModelError(f"model '{path}' does not exist")
        if path.is_dir():
            inside = sorted(path.glob("*.onnx"))
            hint = f"; did you mean '{inside[0]}'?" if inside else ""
            raise ModelError(f"model '{path}' is a directory; give the .onnx file in it{hint}")
        if not path.is_file():
            raise ModelError(f"model '{path}' is not a regular file")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"model '{path}' cannot be read: {error.strerror}") from None
    if not data:
        raise ModelError(f"model '{path}' is empty (0 bytes); it may be a failed download")
    return data


# The first bytes of files that are often taken for models, where they stand, and what to say.
_OTHER_FORMATS = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the model; run 'git lfs pull'"),
    (0, b"PK\x03\x04", "is a zip archive (a PyTorch checkpoint?), not ONNX; export it to ONNX first"),
    (0, b"\x89HDF", "is an HDF5 file (a Keras model?), not ONNX; export it to ONNX first"),
    (4, b"ORTM", "is in ONNX Runtime's own format; give the .onnx file that it was made from"),
    (4, b"TFL3", "is a TensorFlow Lite model, not ONNX; export it to ONNX first"),
    (0, b"\x1f\x8b", "is compressed with gzip; unpack it first"),
)


def _parse(data: bytes, label: str) -> onnx.ModelProto:
    for start, mark, message in _OTHER_FORMATS:
        if data[start : start + len(mark)] == mark:
            raise ModelError(f"{label} {message}")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RuntimeError):
        # Every ONNX file starts with field 1, the IR version, a small number.
        if data[:1] == b"\x08" and len(data) > 1 and data[1] <= 64:
            raise ModelError(
                f"{label} is not a whole ONNX model: {len(data)} bytes, truncated or damaged (or a "
                "protobuf message of another kind); fetch or export it again"
            ) from None
        raise ModelError(f"{label} is not an ONNX model (not a protobuf message of that kind)") from None
    return proto


def _from_proto(proto: onnx.ModelProto, label: str) -> Model:
    """The model over the tensors of `proto`, which must be the caller's no more."""
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"{label} is not an ONNX model (it has no {'graph' if proto.ir_version else 'IR version'})")
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{label} has IR version {proto.ir_version}; the installed onnx {onnx.__version__} knows up "
            f"to {onnx.IR_VERSION}; upgrade onnx"
        )
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{label} has an empty graph (no nodes, no outputs)")
    if not proto.graph.output:
        raise ModelError(f"{label} has no outputs")
    if len(proto.training_info):
        raise ModelError(f"{label} has training information, which lwgraph cannot keep; export it for inference")
    _import_standard_domain(proto)
    _import_other_domains(proto)
    for graph in _graphs(proto):
        _check_names(graph, label)
        _densify(graph, label)
    _check_opsets(proto, label)
    _check_calls(proto, label)
    maps = remember_types(proto)
    try:
        model = onnx_ir.from_proto(proto)
    except onnx_ir.serde.SerdeError as error:
        raise ModelError(f"{label} cannot be represented: {_cause(error)}") from None
    maps(model)
    _share_numbers(model)
    del proto
    heap.trim()
    return model


def _share_numbers(model: Model) -> None:
    """Let equal members of long attributes be one object each: in trees of decisions most are equal."""
    for scope in scopes(model):
        for node in scope:
            for name, attribute in tuple(node.attributes.items()):
                if attribute.is_ref() or attribute.type not in _LISTS or len(attribute.value) < _LONG:
                    continue
                known: dict[object, object] = {}
                members = tuple(known.setdefault(each, each) for each in attribute.value)
                node.attributes.add(Attr(name, attribute.type, members, doc_string=attribute.doc_string))


def _cause(error: BaseException) -> str:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return " ".join(str(error).split())[:300] or type(error).__name__


def _subgraphs(nodes: list[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                yield from attribute.graphs


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    while pending:
        graph = pending.pop()
        yield graph
        pending.extend(_subgraphs(list(graph.node)))


def _check_names(graph: onnx.GraphProto | onnx.FunctionProto, label: str) -> None:
    # onnx_ir would keep the last one of two silently.
    if isinstance(graph, onnx.FunctionProto):
        lists = {"input": list(graph.input)}
    else:
        lists = {
            "input": [value.name for value in graph.input],
            "initializer": [tensor.name for tensor in graph.initializer],
        }
    for kind, names in lists.items():
        if len(set(names)) != len(names) or "" in names:
            twice = next(name for name in names if not name or names.count(name) > 1)
            raise ModelError(
                f"{label} has {'an unnamed' if not twice else 'more than one'} {kind}"
                f"{twice and f' named {twice!r}'} in graph '{graph.name}'"
            )


def _densify(graph: onnx.GraphProto | onnx.FunctionProto, label: str) -> None:
    """Replace sparse initializers and the sparse value of Constant nodes by dense ones, in place."""
    if isinstance(graph, onnx.GraphProto) and len(graph.sparse_initializer):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse, sparse.values.name, label))
        del graph.sparse_initializer[:]
        _check_names(graph, label)
    for node in graph.node:
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            if attribute.name == "sparse_value" and not attribute.ref_attr_name:
                tensor = _dense(attribute.sparse_tensor, "", label)
                attribute.Clear()
                attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                attribute.t.CopyFrom(tensor)


def _dense(sparse: onnx.SparseTensorProto, name: str, label: str) -> onnx.TensorProto:
    what = f"{label}: sparse tensor '{sparse.values.name}'"
    if sparse.values.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelError(f"{what} has external data, which is not supported; store it inside")
    try:
        values = numpy_helper.to_array(sparse.values)
        indices = numpy_helper.to_array(sparse.indices)
        shape = tuple(sparse.dims)
        if math.prod(shape) * values.itemsize > _LARGEST_DENSE:
            raise ValueError(f"it would have {math.prod(shape) * values.itemsize} bytes as a dense tensor")
        dense = np.zeros(shape, values.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
    except (ValueError, IndexError, TypeError) as error:
        raise ModelError(f"{what} cannot be made dense: {error}") from None
    tensor = numpy_helper.from_array(dense, name)
    tensor.data_type = sparse.values.data_type
    return tensor


@functools.cache
def _onnx_domains() -> frozenset[str]:
    return frozenset(schema.domain for schema in onnx.defs.get_all_schemas())


def _import_standard_domain(proto: onnx.ModelProto) -> None:
    """Import ONNX's own domain by its empty name, as nodes are taken to be in it; its other name is "ai.onnx"."""
    for graph in (proto, *proto.functions):
        versions = {entry.domain: entry.version for entry in graph.opset_import}
        if "ai.onnx" in versions:
            del graph.opset_import[:]
            standard = versions.pop("ai.onnx")
            graph.opset_import.extend(
                onnx.helper.make_opsetid(domain, version) for domain, version in {"": standard, **versions}.items()
            )


def _import_other_domains(proto: onnx.ModelProto) -> None:
    """Import what the nodes of the graph use and the model does not: ONNX Runtime takes its newest version, too."""
    known = {entry.domain for entry in proto.opset_import} | {function.domain for function in proto.functions}
    pending, used = [proto.graph], set[str]()
    while pending:
        graph = pending.pop()
        used |= {node.domain for node in graph.node}
        pending += _subgraphs(list(graph.node))
    newest = {domain: 1 for domain in used if _of_runtime(domain)}
    newest["ai.onnx.ml"] = onnx.defs.onnx_ml_opset_version()
    proto.opset_import.extend(
        onnx.helper.make_opsetid(domain, newest[domain]) for domain in sorted(used - known) if domain in newest
    )


def _of_runtime(domain: str) -> bool:
    return any(domain == known or domain.startswith(known + ".") for known in RUNTIME_DOMAINS)


def _check_opsets(proto: onnx.ModelProto, label: str) -> None:
    newest = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
    onnx_domains = _onnx_domains()
    defined = {(function.domain, function.name) for function in proto.functions}
    for graph in (proto, *proto.functions):
        for entry in graph.opset_import:
            if entry.version < 1 or entry.version > newest.get(entry.domain, entry.version):
                raise ModelError(
                    f"{label} uses opset {entry.version} of domain '{entry.domain or 'ai.onnx'}'; the installed "
                    f"onnx {onnx.__version__} knows 1 to {newest.get(entry.domain, 1)}; upgrade onnx"
                )
    imported = {entry.domain for entry in proto.opset_import}
    for graph in _graphs(proto):
        for node in graph.node:
            domain = "" if node.domain == "ai.onnx" else node.domain
            if (domain in onnx_domains and domain in imported) or (domain, node.op_type) in defined:
                continue
            if domain == "":
                raise ModelError(f"{label} does not say which opset of domain 'ai.onnx' its nodes use")
            if not any(
                domain == known or domain.startswith(known + ".")
                for known in (*onnx_domains, *RUNTIME_DOMAINS)
                if known
            ):
                raise ModelError(
                    f"{label}: node '{node.name}' uses operator '{domain}::{node.op_type}', whose domain "
                    "is unknown and which no function of the model defines; use standard operators"
                )


def _check_calls(proto: onnx.ModelProto, label: str) -> None:
    """Refuse functions that call each other in a circle, are nested too deep, or expand to too many nodes."""
    bodies: dict[_Name, Sequence[onnx.NodeProto]] = {(f.domain, f.name): f.node for f in proto.functions}
    calls = {name: _calls(nodes, bodies) for name, nodes in bodies.items()}
    sizes: dict[_Name, tuple[int, int]] = {}  # nodes when expanded, depth
    waiting = dict.fromkeys(calls)
    while waiting:  # leaves first; what is left in the end goes in a circle
        ready = [name for name in waiting if all(called in sizes for called in calls[name])]
        if not ready:
            circle = " -> ".join("::".join(name) for name in _circle(next(iter(waiting)), calls, sizes))
            raise ModelError(f"{label} has functions that call each other in a circle: {circle}")
        for name in ready:
            del waiting[name]
            sizes[name] = _expanded(bodies[name], calls[name], sizes)
    nodes, depth = _expanded(proto.graph.node, _calls(proto.graph.node, bodies), sizes)
    if depth > _DEEPEST or nodes > _MOST_NODES:
        what = f"{nodes:.3g} nodes" if nodes > _MOST_NODES else f"a depth of {depth}"
        raise ModelError(
            f"{label} expands, by its functions, to {what}; at most {_MOST_NODES:,} nodes and a depth of {_DEEPEST} "
            "are possible"
        )


def _calls(nodes: Sequence[onnx.NodeProto], bodies: Container[_Name]) -> Counter[_Name]:
    """How often nodes, and the graphs inside them, call each function."""
    found: Counter[_Name] = Counter()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if (name := (node.domain, node.op_type)) in bodies:
            found[name] += 1
        for graph in _subgraphs([node]):
            pending += graph.node
    return found


def _expanded(
    nodes: Sequence[onnx.NodeProto], calls: Counter[_Name], sizes: Mapping[_Name, tuple[int, int]]
) -> tuple[int, int]:
    inner = [(sizes[name], count) for name, count in calls.items()]
    return len(nodes) + sum(size * count for (size, _), count in inner), max((d + 1 for (_, d), _ in inner), default=0)


def _circle(start: _Name, calls: Mapping[_Name, Counter[_Name]], done: Container[_Name]) -> list[_Name]:
    path = [start]
    while True:
        following = next(name for name in calls[path[-1]] if name not in done)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)


def _own_tensors(model: Model, label: str, folders: list[Path]) -> None:
    files: dict[str, DataFile] = {}

    def data(location: str, owner: str) -> DataFile:
        if not folders:
            raise ModelError(
                f"{label} refers to external data '{location}' ({owner}), but there is no folder "
                "to look in; load the model from its path"
            )
        if location not in files:
            files[location] = open_data(location, folders, f"{label}, {owner}")
        return files[location]

    for scope in scopes(model):
        map_tensors(scope, lambda tensor, words: own(tensor, data, words))
    if files:
        model.meta["external_data"] = tuple(file.path.resolve() for file in files.values())


def _sort(model: Model, label: str) -> None:
    roots: list[Graph | Function] = [model.graph, *model.functions.values()]
    for scope in roots:
        if not is_sorted(scope):
            try:
                scope.sort()
            except ValueError:
                raise ModelError(
                    f"{label} has a cycle: some nodes of graph '{graph_of(scope).name}' use each other's outputs"
                ) from None
