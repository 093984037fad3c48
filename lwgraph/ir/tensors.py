"""Tensors that own their data, and tensors whose data stays in a file until it is asked for."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_ir

from lwgraph.arrays import Array
from lwgraph.errors import ModelError
from lwgraph.ir.types import Attr, AttributeType, DataType, Function, Graph, Model, Shape, Tensor, TensorProtocol, Value
from lwgraph.ir.walk import graph_of, scopes
from lwgraph.temporary import TemporaryFolder

_DIGEST = "digest"  # key in a mapped tensor's meta
_CHUNK = 1 << 22  # bytes read at once when external data is copied or hashed


class DataFile:
    """A file of external data, held open: replacing the file on disk leaves what was loaded from it intact.

    Args:
        path: of the file.
        folder: a temporary one that it lies in, and that goes with it; None: it is no temporary file.
    """

    def __init__(self, path: Path, folder: TemporaryFolder | None = None) -> None:
        self.path, self._folder = path, folder
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.fd)
        self._state = self._now()
        self.size = self._state[0]
        self._map: mmap.mmap | None = None

    @property
    def temporary(self) -> bool:
        """Whether it goes when nothing is read from it any more."""
        return self._folder is not None

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns

    def check(self) -> None:
        """ModelError when another program wrote into the file since it was opened."""
        if self._now() != self._state:
            raise ModelError(f"external data '{self.path}' was changed after the model was loaded; load it again")

    def place(self) -> Path | None:
        """Where others can open the file; None where another one, or none, has its name by now.

        Raises:
            ModelError: see `check`.
        """
        self.check()
        try:
            same = os.path.samestat(os.stat(self.path), os.fstat(self.fd))
        except OSError:
            same = False
        return self.path.resolve() if same else None

    def chunks(self, offset: int, length: int) -> Iterator[bytes]:
        """`length` bytes from `offset`, in pieces."""
        self.check()
        while length:
            piece = os.pread(self.fd, min(length, _CHUNK), offset)
            if not piece:
                raise ModelError(f"external data '{self.path}' ends before byte {offset + length}")
            yield piece
            offset += len(piece)
            length -= len(piece)

    def array(self, offset: int, dtype: npt.DTypeLike, count: int) -> Array:
        """`count` elements from `offset`, mapped. Their pages leave this process's memory with the array."""
        self.check()
        if self._map is None:
            self._map = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)
        mapped = self._map
        array = np.frombuffer(mapped, dtype=dtype, count=count, offset=offset)
        if array.nbytes >= _CHUNK and hasattr(mapped, "madvise"):
            start = offset - offset % mmap.PAGESIZE
            weakref.finalize(array, _forget, mapped, start, offset + array.nbytes - start).atexit = False
        return array


def _forget(mapped: mmap.mmap, start: int, length: int) -> None:
    # The pages are the file's own; whoever still reads them gets them from the page cache again.
    mapped.madvise(mmap.MADV_DONTNEED, start, length)


class MappedTensor(onnx_ir.ExternalTensor):
    """A tensor in a DataFile. `numpy()` maps it anew each time, so memory is held only while an array is alive."""

    __slots__ = ("file",)

    def __init__(self, file: DataFile, tensor: onnx_ir.ExternalTensor) -> None:
        super().__init__(
            tensor.location,
            tensor.offset or 0,
            tensor.nbytes,
            tensor.dtype,
            shape=Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
            base_dir=file.path.parent,
        )
        self.file = file

    def numpy(self) -> Array:
        """The data, read-only. Raises ModelError when the file was changed after loading."""
        shape = tuple(self.shape.numpy())
        if self.size == 0:
            return np.empty(shape, self.dtype.numpy())
        if self.dtype.bitwidth < 8:
            packed = self.file.array(self.offset or 0, np.uint8, self.nbytes)
            return onnx_ir.PackedTensor(packed, self.dtype, shape=Shape(shape)).numpy()
        return self.file.array(self.offset or 0, self.dtype.numpy().newbyteorder("<"), self.size).reshape(shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def tobytes(self) -> bytes:
        """The data as bytes, little endian, sub-byte elements packed."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces, through no mapping."""
        return self.file.chunks(self.offset or 0, self.nbytes)

    def tofile(self, file: Any) -> None:
        """Write the bytes to a binary file."""
        for piece in self.chunks():
            file.write(piece)


def open_data(location: str, folders: list[Path], owner: str) -> DataFile:
    """The external data file at `location`, which must stay inside the first of `folders` (the model's).

    The others are where the model's own file really is, when it was reached through a link: links beside it are kept
    together with it (as in a cache of downloaded models).

    Raises:
        ModelError: absolute, outside the folder (by `..` or by a link), missing, or not a regular file.
    """
    folder = folders[0]
    where = f"external data '{location}' of {owner}"
    if "\0" in location:
        raise ModelError(f"external data {location!r} of {owner} has a NUL in its name; edit the model")
    if not location or os.path.isabs(location) or Path(location).drive:
        raise ModelError(f"{where} is not a path relative to the model's folder; edit the model or move the data there")
    path = Path(os.path.normpath(folder / location))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise ModelError(f"{where} points outside the model's folder '{folder}'; move the data there")
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(allowed)) for allowed in folders):
        raise ModelError(f"{where} is a link to '{real}', outside the model's folder '{folder}'; move the data there")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelError(f"{where} is not a regular file: '{path}'")
        return DataFile(path)
    except FileNotFoundError:
        raise ModelError(f"{where} does not exist: '{path}'; put the file there") from None
    except OSError as error:
        raise ModelError(f"{where} cannot be read: '{path}': {error.strerror}") from None


def own(tensor: TensorProtocol, data: Callable[[str, str], DataFile], what: str) -> TensorProtocol:
    """`tensor` free of the protobuf message it was read from; external data checked and held open, unread.

    Args:
        tensor: any tensor of a model being loaded.
        data: from an external location, and the words that name its owner, to the open file.
        what: the tensor in words, for errors.
    """
    if isinstance(tensor, MappedTensor):
        return tensor
    if isinstance(tensor, onnx_ir.ExternalTensor):
        file = data(os.fspath(tensor.location), what)
        if tensor.dtype == DataType.STRING:
            raise ModelError(f"{what} holds strings in external data, which ONNX does not allow")
        if any(size < 0 for size in tensor.shape.numpy()):
            raise ModelError(f"{what} has a negative size in its shape {list(tensor.shape.numpy())}")
        offset, length, needed = tensor.offset or 0, tensor.length, tensor.nbytes
        if length is not None and length != needed:
            raise ModelError(
                f"{what} declares {list(tensor.shape.numpy())} of {tensor.dtype.name}, {needed} bytes, "
                f"but {length} bytes of external data"
            )
        if offset < 0:
            raise ModelError(f"external data '{file.path}': the offset {offset} of {what} must be non-negative")
        if offset + needed > file.size:
            raise ModelError(
                f"external data '{file.path}' is too short: {what} needs bytes {offset} to "
                f"{offset + needed}, the file has {file.size}; it may be a partial download"
            )
        return MappedTensor(file, tensor)
    if isinstance(tensor, onnx_ir.StringTensor):
        texts = list(tensor.string_data())
        if len(texts) != tensor.size:
            raise ModelError(f"{what} declares {tensor.size} strings and holds {len(texts)}")
        return onnx_ir.StringTensor(
            texts,
            shape=Shape(tensor.shape.numpy()),
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )
    if isinstance(tensor, onnx_ir.TensorProtoTensor):
        try:
            array = tensor.numpy()
        except (ValueError, AssertionError, TypeError) as error:
            raise ModelError(
                f"{what} declares {list(tensor.shape.numpy())} of {tensor.dtype.name}, "
                f"which its data does not fit: {error}"
            ) from None
        return Tensor(
            array,
            tensor.dtype,
            name=tensor.name,
            doc_string=tensor.doc_string or None,
            metadata_props=dict(tensor.metadata_props),
        )
    return tensor


def map_tensors(
    scope: Graph | Function,
    change: Callable[[TensorProtocol, str], TensorProtocol],
    undo: list[Callable[[], None]] | None = None,
) -> None:
    """Put `change(tensor, words)` in the place of every tensor that `scope` itself holds.

    In initializers and in the attributes of nodes; `words` name the tensor. What reverts it is appended to `undo`.
    """
    for value in graph_of(scope).initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        changed = change(tensor, f"initializer '{value.name}'")
        if changed is not tensor:
            if undo is not None:
                undo.append(lambda value=value, tensor=tensor: setattr(value, "const_value", tensor))  # type: ignore[misc]
            value.const_value = changed
    for node in scope:
        for name, attribute in tuple(node.attributes.items()):
            if attribute.is_ref() or attribute.type not in (AttributeType.TENSOR, AttributeType.TENSORS):
                continue
            words = f"attribute '{name}' of node '{node.name}' ({node.op_type})"
            single = attribute.type == AttributeType.TENSOR
            before = (attribute.value,) if single else attribute.value
            after = tuple(change(tensor, words) for tensor in before)
            if any(x is not y for x, y in zip(before, after, strict=True)):
                if undo is not None:
                    undo.append(lambda node=node, attribute=attribute: node.attributes.add(attribute))  # type: ignore[misc]
                node.attributes.add(
                    Attr(name, attribute.type, after[0] if single else after, doc_string=attribute.doc_string)
                )


@contextmanager
def replaced(model: Model, change: Callable[[TensorProtocol], TensorProtocol]) -> Iterator[None]:
    """`model` with other tensors, for as long as the block lasts. Not for two threads at once."""
    undo: list[Callable[[], None]] = []
    try:
        for scope in scopes(model):
            map_tensors(scope, lambda tensor, _: change(tensor), undo)
        yield
    finally:
        for revert in reversed(undo):
            revert()


def tensors(model: Model) -> Iterator[TensorProtocol]:
    """Every tensor of the model: initializers and attributes, in all scopes; a shared one once."""
    seen: dict[int, TensorProtocol] = {}

    def note(tensor: TensorProtocol, _: str) -> TensorProtocol:
        seen.setdefault(id(tensor), tensor)
        return tensor

    for scope in scopes(model):
        map_tensors(scope, note)
    yield from seen.values()


def nbytes(tensor: TensorProtocol) -> int:
    """Bytes of the data as it is stored; for strings, of their texts."""
    if isinstance(tensor, onnx_ir.StringTensor):
        return sum(len(text) for text in tensor.string_data())
    return tensor.nbytes


def pieces(tensor: TensorProtocol) -> Iterator[bytes | memoryview]:
    """The bytes of a tensor as they are stored, without a copy of the whole where that can be avoided."""
    if isinstance(tensor, MappedTensor):
        yield from tensor.chunks()
    elif isinstance(tensor, onnx_ir.StringTensor):
        for text in tensor.string_data():
            yield len(text).to_bytes(8, "little") + text
    else:
        array = tensor.numpy() if tensor.dtype.bitwidth >= 8 else None
        if array is not None and array.flags.c_contiguous and array.size and array.dtype.byteorder != ">":
            yield array.reshape(-1).view(np.uint8).data
        else:
            yield tensor.tobytes()


def digest(tensor: TensorProtocol) -> bytes:
    """SHA-256 of element type, shape and data; the same whether the data is inside or external.

    Of data in a file it is remembered: nothing changes it unnoticed.
    """
    if isinstance(tensor, MappedTensor):
        tensor.file.check()
        if _DIGEST in tensor.meta:
            known: bytes = tensor.meta[_DIGEST]
            return known
    found = hashlib.sha256(f"{tensor.dtype.value}{[int(size) for size in tensor.shape.numpy()]}".encode())
    for piece in pieces(tensor):
        found.update(piece)
    made = found.digest()
    if isinstance(tensor, MappedTensor):
        tensor.meta[_DIGEST] = made
    return made


def write(tensor: TensorProtocol, file: BinaryIO) -> None:
    """Append the bytes of a tensor to a file."""
    for piece in pieces(tensor):
        file.write(piece)


def is_initializer_plain(value: Value) -> bool:
    """Whether an initializer's recorded type and shape say no more than its tensor does."""
    tensor = value.const_value
    return (
        tensor is not None
        and not value.is_graph_input()
        and not value.is_graph_output()
        and not value.metadata_props
        and not value.doc_string
        and isinstance(value.type, onnx_ir.TensorType)
        and not value.type.denotation
        and value.dtype == tensor.dtype
        and value.shape is not None
        and list(value.shape) == list(tensor.shape.numpy())
        and not any(value.shape.get_denotation(axis) for axis in range(len(value.shape)))
    )


def held(tensor: TensorProtocol) -> tuple[int, str] | None:
    """The number of elements in a tensor's data, and where, in words; None where only reading them can tell."""
    if isinstance(tensor, MappedTensor):
        room = max(0, tensor.file.size - (tensor.offset or 0))
        enough = room >= tensor.nbytes
        return tensor.size if enough else room * 8 // tensor.dtype.bitwidth, f" in '{tensor.file.path}'"
    if isinstance(tensor, onnx_ir.StringTensor):
        return len(tensor.string_data()), ""
    if isinstance(tensor, onnx_ir.Tensor) and isinstance(tensor.raw, np.ndarray):
        return tensor.raw.size, ""
    if isinstance(tensor, onnx_ir.PackedTensor) and isinstance(tensor.raw, np.ndarray):
        whole = tensor.raw.nbytes == tensor.nbytes
        return tensor.size if whole else tensor.raw.nbytes * 8 // tensor.dtype.bitwidth, ""
    return None
