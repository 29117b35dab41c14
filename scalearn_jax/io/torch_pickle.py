"""State dicts as ``torch.save`` writes them (``pytorch_*.bin``), read without torch and without running anything.

A pickle is a program that may call any function. The unpickler here knows only the instructions that a state dict
needs and three functions: two describe a tensor, one makes an empty dict. All else is refused by name. No array is made
before its sizes are known to be inside the file.

Two layouts: since torch 1.6 a zip archive, ``NAME/data.pkl`` beside ``NAME/data/KEY`` and ``NAME/byteorder``; before
that five pickles in a row (magic number, version, system, state dict, keys), then the numbers of every storage.
"""

import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from scalearn_jax.errors import InputError
from scalearn_jax.io.files import POINTER, is_pointer

_MAX_PICKLE = 16_000_000  # bytes; that of a large model has 100 kB
_MAX_INSTRUCTIONS = 1_000_000  # a tensor needs 35; an empty dict takes one byte in a file, and 64 in memory
_MAX_AXES, _MOST_COPIES, _CHUNK = 32, 4, 1 << 20
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the older layout
_DTYPES = {
    **{"Float": np.float32, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16, "Double": np.float64},
    **{"Int": np.int32, "Long": np.int64, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_},
}
_INSTRUCTIONS = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE
EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS
BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID
"""


class Refused(Exception):
    """Something that a file of tensors has no need of."""


@dataclass(frozen=True)
class Storage:
    """The numbers that one or more tensors view."""

    key: str
    dtype: np.dtype
    size: int

    @property
    def num_bytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count entries."""

    storage: Storage
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """Copies the view out of its storage's numbers."""
        dtype = self.storage.dtype
        if 0 in self.sizes:
            return np.empty(self.sizes, dtype)
        axes = zip(self.sizes, self.strides, strict=True)
        strides = [stride * dtype.itemsize if size > 1 else 0 for size, stride in axes]
        view = np.ndarray(self.sizes, dtype, numbers, self.offset * dtype.itemsize, strides)
        return np.array(view, order="C")


def load_bin(path: str | Path) -> dict[str, np.ndarray]:
    """Reads name -> array, in the file's types, from a file of either layout; nothing in it is run.

    Tensors that are the same view share one array. A file that holds anything but tensors is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a file that torch.save wrote.")
    try:
        with path.open("rb") as stream:
            return _read(stream)
    except Refused as error:
        raise InputError(
            f"{path} is refused, nothing in it was run: {error}; expected the tensors of a state dict and nothing else:"
            " get the weights as safetensors, or save them again."
        ) from error
    except Exception as error:  # a damaged file makes its readers raise almost anything, MemoryError included
        reason = POINTER if is_pointer(path) else f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{path} is damaged ({reason}); expected a state dict: copy or download it again.") from error


def _read(stream: IO[bytes]) -> dict[str, np.ndarray]:
    limit = os.fstat(stream.fileno()).st_size
    is_zip = stream.read(4) == b"PK\x03\x04"
    stream.seek(0)
    state, storages = (_read_zip if is_zip else _read_legacy)(stream, limit)
    if not isinstance(state, dict):
        raise Refused(f"it holds a {_kind(state)} where a dict is expected")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise Refused(f"its entry {name[:100]!r} is a {_kind(value)} where a tensor is expected")
    # Different views of one storage, such as a tied weight and its transpose, become copies.
    total = sum(math.prod(view.sizes) * view.storage.dtype.itemsize for view in set(state.values()))
    if total > _MOST_COPIES * limit:
        raise Refused(f"its tensors have {total} bytes, the file has {limit}")
    of_storage = defaultdict(list)
    for view in dict.fromkeys(state.values()):
        of_storage[view.storage].append(view)
    arrays = {view: view.of(numbers) for storage, numbers in storages for view in of_storage[storage]}
    return {name: arrays[view] for name, view in state.items()}


def _rebuild_tensor(storage, offset, sizes, strides, _requires_grad, _hooks, metadata=None) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(sizes, tuple) or not isinstance(strides, tuple):
        raise Refused(f"it makes a tensor of a {_kind(storage)}, with sizes that are a {_kind(sizes)}")
    if len(sizes) != len(strides) or len(sizes) > _MAX_AXES or not all(map(_is_count, (offset, *sizes, *strides))):
        raise Refused("it makes a tensor whose offset, sizes and strides are no counts")
    if metadata:
        raise Refused("it makes a tensor that stands for its negative or conjugate")
    reach = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    if offset + (0 if 0 in sizes else reach) > storage.size:
        raise Refused(f"a tensor of sizes {sizes} reaches beyond its storage of {storage.size} entries")
    return Tensor(storage, offset, sizes, strides)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _kind(value: Any) -> str:
    return type(value).__name__.lower()


_NAMES = {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda data, _requires_grad, _hooks: data,
} | {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()}


class _Unpickler(pickle._Unpickler):
    """Python's unpickler, limited to ``_INSTRUCTIONS`` and ``_NAMES``.

    The one written in Python, as joblib uses it, since only there can an instruction be refused or replaced. The one in
    C hashes any key, which has no bound for a tuple in a tuple in a tuple; BUILD sets attributes of functions; and its
    memo is as large as the file asks for.
    """

    def __init__(self, stream: IO[bytes], limit: int, storages: dict[str, Storage]):
        super().__init__(stream)
        self.dispatch, self.limit, self.storages = _Dispatch(_METHODS), limit, storages

    def load(self) -> Any:
        value = super().load()
        if self.stack or self.metastack:
            raise pickle.UnpicklingError("a pickle ends with more than one value")
        return value

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _NAMES:
            raise Refused(f"it asks for {f'{module}.{name}'[:100]!r}")
        return _NAMES[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or (len(pid) == 6 and pid[5] is not None):
            raise Refused(f"its storage is a {_kind(pid)}, where five entries are expected")
        tag, dtype, key, _, size = pid[:5]
        if tag != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str) or not _is_count(size):
            raise Refused("its storage is not described by type, key and size")
        storage = Storage(key, dtype, size)
        if storage.num_bytes > self.limit or self.storages.setdefault(key, storage) != storage:
            raise Refused(f"storage {key[:100]!r} of {storage.num_bytes} bytes is not in the file, or is two things")
        return storage

    def set_items(self, items: list) -> None:
        """Adds keys and values to the dict on top of the stack."""
        target = self.top_dict()
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise Refused(f"a {_kind(key)} is a key of a dict, where a text is expected")
            target[key] = value

    def drop_attributes(self) -> None:
        """Drops the attributes of a dict, such as the versions of its modules; nothing else has any."""
        self.stack.pop()
        self.top_dict()

    def top_dict(self) -> dict[str, Any]:
        if not isinstance(self.stack[-1], dict):
            raise Refused(f"it adds to a {_kind(self.stack[-1])} as if it were a dict")
        return self.stack[-1]


class _Dispatch(dict):
    """Code of an instruction -> method; refuses other codes by name, and too many instructions."""

    count = 0

    def __getitem__(self, code: int) -> Callable[[_Unpickler], None]:
        self.count += 1
        if self.count > _MAX_INSTRUCTIONS:
            raise Refused(f"its pickle has more than {_MAX_INSTRUCTIONS} instructions")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Any:
        if chr(code) not in pickletools.code2op:
            raise pickle.UnpicklingError(f"{code} is no instruction")
        raise Refused(f"it asks for the instruction {pickletools.code2op[chr(code)].name}")


_CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_METHODS = {_CODES[name]: pickle._Unpickler.dispatch[_CODES[name]] for name in _INSTRUCTIONS.split()} | {
    _CODES["SETITEM"]: lambda self: self.set_items([self.stack.pop(-2), self.stack.pop()]),
    _CODES["SETITEMS"]: lambda self: self.set_items(self.pop_mark()),
    _CODES["BUILD"]: _Unpickler.drop_attributes,
}


def _read_zip(stream: IO[bytes], limit: int) -> tuple[Any, Iterator[tuple[Storage, np.ndarray]]]:
    archive = zipfile.ZipFile(_Bounded(stream))
    members = _members(archive, limit)
    storages: dict[str, Storage] = {}
    state = _Unpickler(io.BytesIO(archive.read(members["data.pkl"])), limit, storages).load()
    order = members.get("byteorder")
    swapped = order is not None and order.file_size == 3 and archive.read(order) == b"big"
    return state, _zip_storages(archive, members, storages.values(), swapped)


def _members(archive: zipfile.ZipFile, limit: int) -> dict[str, zipfile.ZipInfo]:
    """Name below the archive's one folder -> member, all of them stored as they are."""
    infos = [info for info in archive.infolist() if not (info.is_dir() and info.file_size == 0)]
    for info in infos:
        if "\\" in info.filename or {"", "..", "."} & set(info.filename.split("/")):
            raise Refused(f"its zip archive holds the name {info.filename[:100]!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise Refused(f"{info.filename[:100]!r} in its zip archive is compressed or encrypted")
    members = {info.filename.partition("/")[2]: info for info in infos}
    if len(members) < len(infos) or len({info.filename.partition("/")[0] for info in infos}) > 1:
        raise Refused("its zip archive holds a name twice, or more than one folder")
    if "data.pkl" not in members or members["data.pkl"].file_size > _MAX_PICKLE:
        raise Refused(f"its zip archive holds no data.pkl of at most {_MAX_PICKLE} bytes")
    if sum(info.file_size for info in infos) > limit:
        raise Refused("the members of its zip archive overlap")
    return members


def _zip_storages(archive, members, storages: Iterable[Storage], swapped: bool) -> Iterator[tuple[Storage, np.ndarray]]:
    for storage in storages:
        info = members.get(f"data/{storage.key}")
        if info is None or info.file_size != storage.num_bytes:
            size = "no bytes" if info is None else f"{info.file_size} bytes"
            raise Refused(f"storage {storage.key[:100]!r} asks for {storage.num_bytes} bytes, the file has {size}")
        with archive.open(info) as stream:
            yield storage, _numbers(stream, storage, swapped)


class _Bounded:
    """A file that gives no large piece at once: zipfile takes an archive's whole table of contents."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self.seek, self.tell, self.seekable = stream, stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(_MAX_PICKLE + 1 if size < 0 else min(size, _MAX_PICKLE + 1))
        if len(data) > _MAX_PICKLE:
            raise Refused("its zip archive has too many members")
        return data


def _read_legacy(stream: IO[bytes], limit: int) -> tuple[Any, Iterator[tuple[Storage, np.ndarray]]]:
    head, storages = io.BytesIO(stream.read(_MAX_PICKLE)), {}
    magic, version = (_Unpickler(head, limit, storages).load() for _ in range(2))
    if (magic, version) != (_MAGIC, _VERSION):
        raise Refused("it is neither a zip archive nor of torch's older layout")
    system, state, keys = (_Unpickler(head, limit, storages).load() for _ in range(3))
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("it was not written by a little-endian machine")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("its list of storages is none")
    if sorted(keys) != sorted(storages):
        raise Refused("its storages are not those that its tensors view")
    stream.seek(head.tell())
    return state, _legacy_storages(stream, [storages[key] for key in keys], limit)


def _legacy_storages(stream: IO[bytes], storages: list[Storage], limit: int) -> Iterator[tuple[Storage, np.ndarray]]:
    for storage in storages:
        (size,) = struct.unpack("<q", stream.read(8))
        if size != storage.size or storage.num_bytes > limit - stream.tell():
            raise Refused(f"storage {storage.key[:100]!r} asks for {storage.num_bytes} bytes, the file has fewer")
        yield storage, _numbers(stream, storage, False)


def _numbers(stream: IO[bytes], storage: Storage, swapped: bool) -> np.ndarray:
    """Reads a storage whose size is known to be in the file."""
    numbers = np.empty(storage.num_bytes, np.uint8)
    for start in range(0, len(numbers), _CHUNK):
        piece = numbers[start : start + _CHUNK]
        if stream.readinto(piece) < len(piece):
            raise EOFError(f"storage {storage.key[:100]!r} is cut short")
    if swapped:
        numbers.view(f"u{storage.dtype.itemsize}").byteswap(inplace=True)
    return numbers != 0 if storage.dtype == bool else numbers.view(storage.dtype)
