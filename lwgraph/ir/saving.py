"""Writing models: all or nothing, and never over what is still being read."""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir
from google.protobuf.message import EncodeError
from google.protobuf.message import Error as ProtobufError

from lwgraph import heap
from lwgraph.arrays import Array
from lwgraph.errors import ModelError
from lwgraph.ir import tensors
from lwgraph.ir.copying import recall_types
from lwgraph.ir.tensors import DataFile, MappedTensor
from lwgraph.ir.types import DataType, Graph, Model, Node, Shape, Tensor, TensorProtocol, Value
from lwgraph.ir.walk import graph_of, scopes, subgraphs_of
from lwgraph.temporary import TemporaryFolder

LIMIT = (1 << 31) - 1  # bytes in one protobuf message
_INTEGERS = 1 << 16
OPTIONAL_SINCE = 4  # the IR version from which an initializer need not be listed as an input
LARGE = 1 << 20  # a tensor of fewer bytes costs less to copy than to open its file for
ROOT = Path(os.path.abspath(os.sep))
SMALL = 1 << 10  # a tensor of fewer bytes is never external (onnx's own threshold)


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as a ModelProto, all tensors inside; IR version, opsets, names, order and metadata as in the model.

    Raises:
        ModelError: the tensors exceed protobuf's 2 GB, or something in the model has no serialization.
    """
    total = sum(tensors.nbytes(tensor) for tensor in tensors.tensors(model))
    if total > LIMIT:
        raise ModelError(
            f"the model holds {total / 1e9:.2f} GB and a protobuf at most 2.15; save it to a file, with external data"
        )
    return _structure(model, _inside)


def skeleton(model: Model) -> onnx.ModelProto:
    """The model as a ModelProto with tensors of 1 KiB or more as external references to no file.

    For shape inference and for looking at the structure: only small data is copied. Integers, which may be shapes or
    indices, stay inside up to 64 KiB.
    """
    return _structure(model, lambda tensor: _absent(tensor) if _is_weight(tensor) else _inside(tensor))


def without_weights(model: Model) -> tuple[onnx.ModelProto, dict[str, TensorProtocol]]:
    """The model with the large initializers of its main graph as inputs, and these by name; for tools that change the
    structure and copy what they are given. Integers, which may be shapes or indices, stay up to 64 KiB.

    Raises:
        ModelError: something in the model has no serialization.
    """
    contents = {name: value.const_value for name, value in model.graph.initializers.items()}
    lent = {name: tensor for name, tensor in contents.items() if tensor is not None and _is_weight(tensor)}
    names = {id(tensor): name for name, tensor in lent.items()}
    proto = _structure(model, lambda tensor: _absent(tensor) if id(tensor) in names else _inside(tensor))
    graph = proto.graph
    left = [tensor for tensor in graph.initializer if tensor.name not in lent]
    del graph.initializer[:]
    graph.initializer.extend(left)
    there = {info.name for info in graph.input}
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, int(tensor.dtype), list(tensor.shape.numpy()))
        for name, tensor in lent.items()
        if name not in there
    )
    return proto, lent


def put_weights(model: Model, lent: Mapping[str, TensorProtocol], inputs: Collection[str]) -> None:
    """Make inputs of a model initializers again, in place.

    Args:
        model: made from what `without_weights` gave.
        lent: see there.
        inputs: names of those that stay inputs as well.
    """
    graph = model.graph
    values = {value.name: value for value in graph.inputs}
    graph.inputs[:] = [value for value in graph.inputs if value.name not in lent or value.name in inputs]
    for name, tensor in lent.items():
        values[name].const_value = tensor
        graph.initializers.add(values[name])


def _is_weight(tensor: TensorProtocol) -> bool:
    inside = _INTEGERS if tensor.dtype in (DataType.INT64, DataType.INT32) else SMALL
    return tensor.dtype != DataType.STRING and tensor.nbytes >= inside


def _absent(tensor: TensorProtocol) -> TensorProtocol:
    return onnx_ir.ExternalTensor(
        "none", 0, tensor.nbytes, tensor.dtype, shape=Shape(tensor.shape.numpy()), name=tensor.name or ""
    )


def node_proto(node: Node) -> onnx.NodeProto:
    """One node as a NodeProto, its subgraphs and their tensors inside."""
    undo: list[Callable[[], None]] = []
    try:
        nested = list(subgraphs_of(node))
        for graph in nested:
            tensors.map_tensors(graph, lambda tensor, _: _inside(tensor), undo)
            nested.extend(sub for inner in graph for sub in subgraphs_of(inner))
        return onnx_ir.to_proto(node)
    finally:
        for revert in reversed(undo):
            revert()


def function_protos(model: Model) -> list[onnx.FunctionProto]:
    """The model's functions, each after those it calls, as FunctionProtos."""
    done: dict[object, onnx.FunctionProto] = {}

    def add(key: object) -> None:
        if key in done or key not in model.functions:
            return
        function = model.functions[key]
        for scope in (function, *function.subgraphs()):
            for node in scope:
                add(node.op_identifier())
        done[key] = onnx_ir.to_proto(function)

    for key in model.functions:
        add(key)
    return list(done.values())


class _Hollow(onnx_ir.LazyTensor):
    """A tensor that is serialized without its data."""

    def tobytes(self) -> bytes:
        return b""


def size(model: Model) -> int:
    """Bytes of the file that the model is saved to with all tensors inside. No data is copied."""

    def hollow(tensor: TensorProtocol) -> TensorProtocol:
        if tensor.dtype == DataType.STRING or tensor.nbytes < SMALL:
            return _inside(tensor)
        return _Hollow(
            lambda: tensor,
            tensor.dtype,
            Shape(tensor.shape.numpy()),
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )

    proto = _structure(model, hollow)
    return int(proto.ByteSize()) + _missing(proto)


_HOLDERS = frozenset({"ModelProto", "GraphProto", "NodeProto", "AttributeProto", "FunctionProto", "TensorProto"})


def _missing(message: Any) -> int:
    """By how many bytes a message grows when its hollow tensors get their data: that, and the lengths before it."""
    if isinstance(message, onnx.TensorProto):
        if message.raw_data or not message.HasField("raw_data"):
            return 0
        bits: int = math.prod(message.dims) * DataType(message.data_type).bitwidth
        data = -(-bits // 8)
        return data + _varint(data) - 1
    grown = 0
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.name not in _HOLDERS:
            continue
        for inner in [value] if hasattr(value, "ByteSize") else value:
            if more := _missing(inner):
                now = inner.ByteSize()
                grown += more + _varint(now + more) - _varint(now)
    return grown


def _varint(number: int) -> int:
    """Bytes of a length in a protobuf."""
    return max(1, -(-number.bit_length() // 7))


def _inside(tensor: TensorProtocol) -> TensorProtocol:
    if isinstance(tensor, onnx_ir.ExternalTensor):
        return Tensor(
            tensor.numpy(),
            tensor.dtype,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )
    return tensor


def _structure(model: Model, change: Callable[[TensorProtocol], TensorProtocol]) -> onnx.ModelProto:
    """The ModelProto of `model` with other tensors, without what repeats an initializer's own type and shape."""
    plain = [
        (value, value.type, value.shape)
        for scope in scopes(model)
        for value in graph_of(scope).initializers.values()
        if tensors.is_initializer_plain(value)
    ]
    try:
        for value, _, _ in plain:
            value.type = value.shape = None
        with tensors.replaced(model, change):
            proto = onnx_ir.to_proto(model)
    except (onnx_ir.serde.SerdeError, ProtobufError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ModelError):
            raise cause from None
        raise ModelError(f"the model cannot be serialized: {' '.join(str(cause).split())[:300]}") from error
    finally:
        for value, type_, shape in plain:
            value.type, value.shape = type_, shape
    recall_types(model, proto)
    proto.ir_version = written_version(model)
    return proto


def written_version(model: Model) -> int:
    """The IR version to write: at least 4 where an initializer is no input, which earlier ones do not allow."""
    if model.ir_version >= OPTIONAL_SINCE:
        return model.ir_version
    loose = any(
        not value.is_graph_input() for scope in scopes(model) for value in graph_of(scope).initializers.values()
    )
    return OPTIONAL_SINCE if loose else model.ir_version


def fingerprint(model: Model) -> str:
    """SHA-256 (hex) of the model: equal for equal models, wherever their data is kept. Memory: the structure only."""

    def seal(tensor: TensorProtocol) -> TensorProtocol:
        return Tensor(
            np.frombuffer(tensors.digest(tensor), np.uint8),
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )

    return hashlib.sha256(_structure(model, seal).SerializeToString(deterministic=True)).hexdigest()


def save(model: Model, path: str | os.PathLike[str], *, overwrite: bool = False, external: bool | None = None) -> int:
    """Write `model` to `path`, whole or not at all: the file appears by renaming, also when interrupted.

    Tensors go to `<path>.data` beside it when the model was loaded with external data or exceeds 2 GB, else inside;
    `external` decides otherwise. The model itself stays as it is and usable, also when it is saved over its own files.

    Args:
        model: the model; not changed.
        path: the file to write; its folder must exist.
        overwrite: allow to replace an existing file.
        external: True: tensors of 1 KiB or more outside; False: all inside; None: as said above.

    Returns:
        the bytes that were written, external data included.

    Raises:
        ModelError: the target exists, is no regular file or cannot be written (permission, full disk); the model cannot
            be serialized, or is over 2 GB with external=False.
    """
    path = _target(path, overwrite)
    data_path = _data_path(model, path)
    outside = _large(model)
    if external is None:
        external = bool(model.meta.get("external_data"))
        external = external or any(isinstance(t, MappedTensor) and not t.file.temporary for t in outside)
        external = external or sum(tensor.nbytes for tensor in outside) > LIMIT - (1 << 20) - _rest(model, outside)
    if external and outside:
        data_path = _target(data_path, overwrite)
    with _whole(f"'{path}' cannot be written") as files:
        if external and outside:
            with _beside(data_path, files) as data:
                references = _write_data(outside, data, data_path.name)
            proto = _structure(model, lambda tensor: references.get(id(tensor)) or _inside(tensor))
        else:
            proto = to_proto(model)
        text = proto.SerializeToString(deterministic=True)
        del proto
        with _beside(path, files) as file:
            file.write(text)
        del text
        heap.trim()
        written = _bytes_of(files)
    return written


def lend(model: Model, path: Path) -> None:
    """Write `model` to `path` for another process, which reads it by `borrow` while this one lives.

    LARGE tensors that lie in files stay where they are, other ones of 1 KiB or more go to `<path>.data`.

    Raises:
        ModelError: as `save`.
    """
    kept, outside = dict[int, TensorProtocol](), list[TensorProtocol]()
    for tensor in _large(model):
        location = _below(ROOT, tensor) if isinstance(tensor, MappedTensor) else None
        if isinstance(tensor, MappedTensor) and location is not None:
            kept[id(tensor)] = _external(tensor, location, tensor.offset or 0)
        else:
            outside.append(tensor)
    data = path.resolve().with_name(path.name + ".data")
    with _whole(f"'{path}' cannot be written") as files:
        if outside:
            with _beside(data, files) as file:
                kept |= _write_data(outside, file, data.relative_to(ROOT).as_posix())
        proto = _structure(model, lambda tensor: kept.get(id(tensor)) or _inside(tensor))
        with _beside(path, files) as file:
            file.write(proto.SerializeToString(deterministic=True))


def spill(model: Model) -> None:
    """Move the LARGE tensors of `model` that lie in memory to a temporary file, from which they are mapped when used.

    The file goes with the last of them. Where the disk has no room they stay.
    """
    moved = [t for t in _large(model) if t.nbytes >= LARGE and not isinstance(t, MappedTensor)]
    if not moved:
        return
    try:
        folder = TemporaryFolder()
        path = folder.path / "weights"
        with open(path, "xb") as file:
            references = _write_data(moved, file, path.name)
    except OSError:
        return
    data = DataFile(path, folder)
    mapped = {key: MappedTensor(data, tensor) for key, tensor in references.items()}
    for scope in scopes(model):
        tensors.map_tensors(scope, lambda tensor, _: mapped.get(id(tensor), tensor))


def save_together(models: Mapping[Path, Model], data: Path) -> int:
    """Write several models whose tensors of 1 KiB or more lie in one file; equal ones are stored once.

    Args:
        models: by the path to write each to; in the folder of `data`. No file is replaced.
        data: the file of the tensors.

    Returns:
        the bytes that were written.

    Raises:
        ModelError: as `save`.
    """
    targets = {_target(path, False): model for path, model in models.items()}
    with _whole(f"'{data.parent}' cannot be written to") as files:
        references: dict[int, TensorProtocol] = {}
        with _beside(_target(data, False), files) as file:
            stored: dict[str, int] = {}
            for model in targets.values():
                references |= _write_data(_large(model), file, data.name, stored)
        for path, model in targets.items():
            proto = _structure(model, lambda tensor: references.get(id(tensor)) or _inside(tensor))
            with _beside(path, files) as file:
                file.write(proto.SerializeToString(deterministic=True))
        written = _bytes_of(files)
    return written


def copy_file(source: Path, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write the bytes of `source` to `path`, whole or not at all. Raises as `save`; does nothing onto itself."""
    path = _target(path, overwrite)
    if path.exists() and path.samefile(source):
        return
    with (
        _whole(f"'{path}' cannot be written") as files,
        open(source, "rb") as original,
        _beside(path, files) as file,
    ):
        shutil.copyfileobj(original, file)


@contextmanager
def _whole(failed: str) -> Iterator[dict[Path, Path]]:
    """Final places of temporary files, all renamed when the block ends, or removed: ModelError begins with `failed`."""
    files: dict[Path, Path] = {}
    try:
        yield files
        _commit(files)
    except OSError as error:
        raise ModelError(f"{failed}: {error.strerror}") from error
    except (ValueError, EncodeError) as error:
        raise ModelError(f"{failed}: {error}") from error
    finally:
        for temporary in files:
            temporary.unlink(missing_ok=True)


def _bytes_of(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _large(model: Model) -> list[TensorProtocol]:
    """The tensors that may lie in a file beside the model."""
    return [tensor for tensor in tensors.tensors(model) if tensor.dtype != DataType.STRING and tensor.nbytes >= SMALL]


def _rest(model: Model, outside: list[TensorProtocol]) -> int:
    """Bytes of the model without its large tensors, or 0 when these are so few that it cannot matter."""
    if sum(tensor.nbytes for tensor in outside) < LIMIT // 2:
        return 0
    return int(skeleton(model).ByteSize())


def _data_path(model: Model, path: Path) -> Path:
    """`<path>.data`, or a numbered name when another model's file is being read from there."""
    candidate = path.with_name(path.name + ".data")
    read = {*model.meta.get("external_data", ())}
    number = 0
    while candidate.resolve() in read and path.resolve() != model.meta.get("path"):
        number += 1
        candidate = path.with_name(f"{path.name}.{number}.data")
    return candidate


def refusal(path: Path, overwrite: bool) -> str:
    """Why a file cannot be written to `path`, in words that follow its name; "" when it can. Nothing is left there."""
    try:
        try:
            kind = os.lstat(path).st_mode
        except FileNotFoundError:
            kind = 0
        if not path.parent.is_dir():
            return f"cannot be written: folder '{path.parent}' does not exist"
        if stat.S_ISLNK(kind) and not path.exists():
            return f"cannot be written: it is a link to '{os.readlink(path)}', which does not exist"
        if kind and path.is_dir():
            return "cannot be written: it is a directory"
        if kind and not path.is_file():
            return "cannot be written: it is not a regular file"
        if kind and not overwrite:
            return "exists; choose another name, or overwrite it (--overwrite, overwrite=True)"
        with tempfile.TemporaryFile(dir=path.resolve().parent):  # whether the folder takes a new file
            return ""
    except (OSError, ValueError) as error:  # a NUL in the name
        return f"cannot be written: {getattr(error, 'strerror', None) or error}"


def _target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The file to write; that to which a link leads, where it is one. ModelError when it cannot be written."""
    if words := refusal(Path(path), overwrite):
        raise ModelError(f"'{path}' {words}")
    return Path(path).resolve() if Path(path).is_symlink() else Path(path)


@contextmanager
def _beside(path: Path, files: dict[Path, Path]) -> Iterator[BinaryIO]:
    """A new file in the folder of `path`, on the disk when the block ends; noted in `files`."""
    temporary = _hidden(path)
    files[temporary] = path
    with open(temporary, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        shutil.copymode(path, temporary)


def _hidden(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}.tmp")  # the file's own name may be as long as names can be


def _commit(files: dict[Path, Path]) -> None:
    """Rename all files to where they belong; when one cannot be, put back what the earlier ones replaced."""
    kept: list[tuple[Path, Path | None]] = []
    try:
        for temporary, path in files.items():
            old = _hidden(path) if path.exists() else None
            if old is not None:
                try:
                    os.link(path, old, follow_symlinks=False)
                except OSError:  # a file system without links
                    os.rename(path, old)
            kept.append((path, old))
            os.replace(temporary, path)
    except BaseException:
        for path, old in reversed(kept):
            if old is not None:
                os.replace(old, path)  # does nothing where both names are still links to one file
                old.unlink(missing_ok=True)
            else:
                path.unlink(missing_ok=True)
        raise
    for _, old in kept:
        if old is not None:
            old.unlink(missing_ok=True)


def _write_data(
    outside: list[TensorProtocol], file: BinaryIO, location: str, stored: dict[str, int] | None = None
) -> dict[int, onnx_ir.ExternalTensor]:
    """Write tensors one after the other, aligned for mapping; the external tensors that refer to them, by id.

    Args:
        stored: where the bytes of a digest lie in the file; those that are there are not written again. None: tensors
            are not compared.
    """
    references: dict[int, onnx_ir.ExternalTensor] = {}
    for tensor in outside:
        digest = "" if stored is None else hashlib.sha256(tensor.tobytes()).hexdigest()
        if stored is not None and digest in stored:
            offset = stored[digest]
        else:
            alignment = 4096 if tensor.nbytes >= LARGE else 64
            file.write(b"\0" * (-file.tell() % alignment))
            offset = file.tell()
            tensors.write(tensor, file)
            if stored is not None:
                stored[digest] = offset
        references[id(tensor)] = _external(tensor, location, offset)
    return references


def _external(tensor: TensorProtocol, location: str, offset: int) -> onnx_ir.ExternalTensor:
    """The tensor, with its data at a place in a file."""
    return onnx_ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _below(root: Path | None, tensor: MappedTensor) -> str | None:
    """The path of a LARGE tensor's file from a folder above it; None where there is none that can be written down."""
    place = None if root is None or tensor.nbytes < LARGE else tensor.file.place()
    if root is None or place is None or not place.is_relative_to(root):
        return None
    location = place.relative_to(root).as_posix()
    return location if location.isprintable() else None


def _used(graph: Graph) -> set[Value]:
    """The values that nodes of a graph and of its subgraphs read, or subgraphs return."""
    found: set[Value] = set()
    pending = [graph]
    while pending:
        scope = pending.pop()
        for node in scope:
            found.update(value for value in node.inputs if value is not None)
            for inner in subgraphs_of(node):
                found.update(inner.outputs)
                pending.append(inner)
    return found


def detached_proto(
    model: Model, outputs: Sequence[str], at_least: int, dtypes: Container[DataType], root: Path | None = None
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model with `outputs` as its graph outputs, without its large initializers, and those by name.

    An initializer of the main graph of `at_least` bytes or more and of one of `dtypes` becomes an external tensor
    without a file. The arrays are views of the model's own memory or memory map, not copies: a model with gigabytes of
    external data costs none. Those of subgraphs stay, in their files where `root` has these.

    Args:
        model: not changed.
        outputs: names of values of the main graph.
        at_least: bytes.
        dtypes: that whoever gets the arrays can take.
        root: a folder, relative to which the files of external data are told: LARGE initializers in files below it
            stay external tensors in those, whatever their type, and are not among the arrays. None: there are none.

    Raises:
        ModelError: an initializer cannot be read.
    """
    graph = model.graph
    inputs = {value.name: value for value in graph.inputs}
    known = {value.name: value for node in graph for value in node.outputs}
    known.update(graph.initializers)
    known.update(inputs)
    arrays: dict[str, Array] = {}
    used, unused = _used(graph), set[str]()
    before, contents = list(graph.outputs), [(value, value.const_value) for value in graph.initializers.values()]
    try:  # the nodes are changed in place and changed back: copying them takes as long as all the rest
        graph.outputs[:] = [known[name] for name in dict.fromkeys(outputs)]
        for value, tensor in contents:
            name = value.name or ""
            if value not in used and not value.is_graph_output() and name not in inputs:
                unused.add(name)  # a runtime may drop it first and then miss it
                value.const_value = Tensor(np.zeros(0, np.uint8), name=name)
                continue
            if tensor is None or name in inputs:
                continue
            if isinstance(tensor, MappedTensor) and (location := _below(root, tensor)) is not None:
                value.const_value = _external(tensor, location, tensor.offset or 0)
                continue
            if tensor.nbytes < at_least or tensor.dtype not in dtypes:
                continue
            arrays[name] = np.ascontiguousarray(tensor.numpy())
            value.const_value = onnx_ir.ExternalTensor(
                f"detached/{len(arrays)}", 0, tensor.nbytes, tensor.dtype, shape=Shape(arrays[name].shape), name=name
            )
        inner = {
            id(value.const_value)
            for scope in scopes(model)
            if scope is not graph
            for value in graph_of(scope).initializers.values()
        }  # what is in an attribute must be inside

        def placed(tensor: TensorProtocol) -> TensorProtocol:
            if not isinstance(tensor, MappedTensor):
                return tensor
            location = _below(root, tensor) if id(tensor) in inner else None
            return _inside(tensor) if location is None else _external(tensor, location, tensor.offset or 0)

        proto = _structure(model, placed)
    finally:
        graph.outputs[:] = before
        for value, tensor in contents:
            value.const_value = tensor
    for index in reversed(range(len(proto.graph.initializer))):
        if proto.graph.initializer[index].name in unused:
            del proto.graph.initializer[index]
    return proto, arrays
