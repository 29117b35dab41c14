"""State dicts as ``torch.save`` writes them (``pytorch_*.bin``), read without torch and without running anything.

Such a file holds a pickle: a program that may call any function. The machine here knows only the instructions that a
state dict needs, and three functions: two make the description of a tensor, one an empty dict. Everything else is
refused by name, and no array is made before its sizes are known to lie inside the file.

Two layouts: since torch 1.6 a zip archive, ``NAME/data.pkl`` beside ``NAME/data/KEY`` and ``NAME/byteorder``; before
that five pickles in a row (magic number, version, system, state dict, keys), then the numbers of every storage.
"""

import io
import os
import pickletools
import struct
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from scalearn_jax.errors import InputError

_MAX_PICKLE = 16_000_000  # bytes; that of a large model has 100 kB
_MAX_INSTRUCTIONS = 1_000_000  # a tensor needs 35; an empty dict takes one byte in a file, and 64 in memory
_MAX_AXES = 32
_CHUNK = 1 << 20
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the older layout


class _Refused(Exception):
    """Something that a file of tensors has no need of."""


@dataclass(frozen=True)
class _Storage:
    """The numbers that one or more tensors view."""

    key: str
    dtype: np.dtype
    size: int

    @property
    def num_bytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count entries."""

    storage: _Storage
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        num_entries = 1
        for size in self.sizes:  # may overflow 64 bits
            num_entries *= size
        return num_entries * self.storage.dtype.itemsize

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """Copies the view out of its storage's numbers."""
        dtype = self.storage.dtype
        if 0 in self.sizes:
            return np.empty(self.sizes, dtype)
        steps = zip(self.sizes, self.strides, strict=True)
        strides = [stride * dtype.itemsize if size > 1 else 0 for size, stride in steps]
        view = np.ndarray(self.sizes, dtype, numbers, self.offset * dtype.itemsize, strides)
        return np.array(view, order="C")


def load_bin(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict; nothing in the file is run.

    Args:
      path: a file that ``torch.save`` wrote, of either layout.

    Returns:
      name -> array, in the file's types; tensors that are the same view share one array.

    Raises:
      InputError: the file is missing or damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected a file that torch.save wrote.")
    try:
        with path.open("rb") as stream:
            return _read(stream)
    except _Refused as error:
        raise InputError(
            f"{path} is refused, nothing in it was run: {error}; expected the tensors of a state dict and nothing else:"
            " get the weights as safetensors, or save them again."
        ) from error
    except Exception as error:  # a damaged file makes its readers raise almost anything, MemoryError included
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{path} is damaged ({reason}); expected a state dict: copy or download it again.") from error


def _read(stream: IO[bytes]) -> dict[str, np.ndarray]:
    limit = os.fstat(stream.fileno()).st_size
    is_zip = stream.read(4) == b"PK\x03\x04"
    stream.seek(0)
    state, storages = (_read_zip if is_zip else _read_legacy)(stream, limit)
    views = _views(state, limit)
    of_storage = defaultdict(list)
    for view in dict.fromkeys(views.values()):
        of_storage[view.storage].append(view)
    arrays = {view: view.of(numbers) for storage, numbers in storages for view in of_storage[storage]}
    return {name: arrays[view] for name, view in views.items()}


def _views(state: Any, limit: int) -> dict[str, _Tensor]:
    """Checks that a file's content is a state dict, and that its arrays take no more memory than the file."""
    if not isinstance(state, dict):
        raise _Refused(f"it holds a {_kind(state)} where a dict is expected")
    for name, value in state.items():
        if not isinstance(value, _Tensor):
            raise _Refused(f"its entry {name[:100]!r} is a {_kind(value)} where a tensor is expected")
    total = sum(view.num_bytes for view in set(state.values()))
    if total > limit:
        raise _Refused(f"its tensors have {total} bytes, the file has {limit}")
    return state


def _kind(value: Any) -> str:
    return type(value).__name__.removeprefix("_").lower()


# ---------------------------------------------------------------- layouts

_Content = tuple[Any, Iterator[tuple[_Storage, np.ndarray]]]  # what the pickle holds; every storage's numbers


def _read_zip(stream: IO[bytes], limit: int) -> _Content:
    archive = zipfile.ZipFile(_Bounded(stream))
    members = _members(archive, limit)
    machine = _Machine(limit)
    state = machine.run(io.BytesIO(archive.read(members["data.pkl"])))
    order = members.get("byteorder")
    swapped = order is not None and order.file_size == 3 and archive.read(order) == b"big"
    return state, _zip_storages(archive, members, list(machine.storages.values()), swapped)


def _members(archive: zipfile.ZipFile, limit: int) -> dict[str, zipfile.ZipInfo]:
    """Name below the archive's one folder -> member, all of them stored as they are."""
    infos = archive.infolist()
    for info in infos:
        if "\\" in info.filename or {"", "..", "."} & set(info.filename.split("/")):
            raise _Refused(f"its zip archive holds the name {info.filename[:100]!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise _Refused(f"{info.filename[:100]!r} in its zip archive is compressed or encrypted")
    members = {info.filename.partition("/")[2]: info for info in infos}
    if len(members) < len(infos) or len({info.filename.partition("/")[0] for info in infos}) > 1:
        raise _Refused("its zip archive holds a name twice, or more than one folder")
    if "data.pkl" not in members or members["data.pkl"].file_size > _MAX_PICKLE:
        raise _Refused(f"its zip archive holds no data.pkl of at most {_MAX_PICKLE} bytes")
    if sum(info.file_size for info in infos) > limit:
        raise _Refused("the members of its zip archive overlap")
    return members


def _zip_storages(archive, members, storages: list[_Storage], swapped: bool) -> Iterator[tuple[_Storage, np.ndarray]]:
    for storage in storages:
        info = members.get(f"data/{storage.key}")
        if info is None or info.file_size != storage.num_bytes:
            size = "no bytes" if info is None else f"{info.file_size} bytes"
            raise _Refused(f"storage {storage.key[:100]!r} asks for {storage.num_bytes} bytes, the file has {size}")
        with archive.open(info) as stream:
            yield storage, _numbers(stream, storage, swapped)


class _Bounded:
    """A file that gives no large piece at once: zipfile takes an archive's whole table of contents."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self.seek, self.tell, self.seekable = stream, stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(_MAX_PICKLE + 1 if size < 0 else min(size, _MAX_PICKLE + 1))
        if len(data) > _MAX_PICKLE:
            raise _Refused("its zip archive has too many members")
        return data


def _read_legacy(stream: IO[bytes], limit: int) -> _Content:
    head, machine = io.BytesIO(stream.read(_MAX_PICKLE)), _Machine(limit)
    if [machine.run(head), machine.run(head)] != [_MAGIC, _VERSION]:
        raise _Refused("it is neither a zip archive nor of torch's older layout")
    system = machine.run(head)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _Refused("it was not written by a little-endian machine")
    state, keys = machine.run(head), machine.run(head)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _Refused("its list of storages is none")
    if sorted(keys) != sorted(machine.storages):
        raise _Refused("its storages are not those that its tensors view")
    stream.seek(head.tell())
    return state, _legacy_storages(stream, [machine.storages[key] for key in keys], limit)


def _legacy_storages(stream: IO[bytes], storages: list[_Storage], limit: int) -> Iterator[tuple[_Storage, np.ndarray]]:
    for storage in storages:
        (size,) = struct.unpack("<q", stream.read(8))
        if size != storage.size or storage.num_bytes > limit - stream.tell():
            raise _Refused(f"storage {storage.key[:100]!r} asks for {storage.num_bytes} bytes, the file has fewer")
        yield storage, _numbers(stream, storage, False)


def _numbers(stream: IO[bytes], storage: _Storage, swapped: bool) -> np.ndarray:
    """Reads a storage whose size is known to be in the file."""
    numbers = np.empty(storage.num_bytes, np.uint8)
    for start in range(0, len(numbers), _CHUNK):
        piece = numbers[start : start + _CHUNK]
        part = stream.read(len(piece))
        if len(part) < len(piece):
            raise EOFError(f"storage {storage.key[:100]!r} is cut short")
        piece[:] = np.frombuffer(part, np.uint8)
    if swapped:
        numbers.view(f"u{storage.dtype.itemsize}").byteswap(inplace=True)
    return numbers != 0 if storage.dtype == bool else numbers.view(storage.dtype)


# ---------------------------------------------------------------- the functions that a file may name


def _ordered_dict(*items: Any) -> dict[str, Any]:
    if items:
        raise _Refused("it makes an OrderedDict of arguments")
    return {}


def _rebuild_tensor(storage, offset, sizes, strides, _requires_grad, _hooks, metadata=None) -> _Tensor:
    if not isinstance(storage, _Storage) or not isinstance(sizes, tuple) or not isinstance(strides, tuple):
        raise _Refused(f"it makes a tensor of a {_kind(storage)}, with sizes that are a {_kind(sizes)}")
    if len(sizes) != len(strides) or len(sizes) > _MAX_AXES or not all(map(_is_count, (offset, *sizes, *strides))):
        raise _Refused("it makes a tensor whose offset, sizes and strides are no counts")
    if metadata:
        raise _Refused("it makes a tensor that stands for its negative or conjugate")
    reach = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    if offset + (0 if 0 in sizes else reach) > storage.size:
        raise _Refused(f"a tensor of sizes {sizes} reaches beyond its storage of {storage.size} entries")
    return _Tensor(storage, offset, sizes, strides)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _rebuild_parameter(data, _requires_grad, _hooks) -> _Tensor:
    if not isinstance(data, _Tensor):
        raise _Refused(f"it makes a parameter of a {_kind(data)}")
    return data


_FUNCTIONS: dict[str, Callable] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
}
_TYPES = {
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Double": np.float64,
    "Int": np.int32,
    "Long": np.int64,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}
_NAMES = _FUNCTIONS | {f"torch {name}Storage": np.dtype(dtype) for name, dtype in _TYPES.items()}


# ---------------------------------------------------------------- the machine


class _Machine:
    """Runs pickles of the instructions below.

    It holds nothing but None, numbers, texts, tuples, lists, dicts with texts as keys, and what ``_NAMES`` gives. A
    text is the only key since hashing a tuple within a tuple within a tuple has no bound.
    """

    def __init__(self, limit: int):
        self.limit = limit  # bytes of the file
        self.storages: dict[str, _Storage] = {}

    def run(self, stream: IO[bytes]) -> Any:
        """Runs one pickle, and leaves the stream behind it."""
        self.stack, self.marks, self.memo = [], [], {}
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number > _MAX_INSTRUCTIONS:
                raise _Refused(f"its pickle has more than {_MAX_INSTRUCTIONS} instructions")
            if opcode.name not in _INSTRUCTIONS:
                what = _named(argument) if opcode.name == "INST" else f"the instruction {opcode.name}"
                raise _Refused(f"it asks for {what}")
            _INSTRUCTIONS[opcode.name](self, argument)
        (result,) = self.stack
        return result

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def take(self, number: int) -> tuple:
        """Takes the top values off, none from below a mark."""
        start = len(self.stack) - number
        if start < (self.marks[-1] if self.marks else 0):
            raise IndexError("stack underflow")
        values = tuple(self.stack[start:])
        del self.stack[start:]
        return values

    def take_marked(self) -> tuple:
        """Takes all values down to the last mark off, and the mark."""
        values = self.take(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return values

    def top(self, kind: type = object) -> Any:
        (value,) = self.take(1)
        if not isinstance(value, kind):
            raise _Refused(f"it adds to a {_kind(value)} as if it were a {kind.__name__}")
        self.push(value)
        return value

    def append(self, items: tuple) -> None:
        self.top(list).extend(items)

    def set_items(self, items: tuple) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise _Refused(f"a {_kind(key)} is a key of a dict, where a text is expected")
            target[key] = value

    def name(self, text: str) -> None:
        if text not in _NAMES:
            raise _Refused(f"it asks for {_named(text)}")
        self.push(_NAMES[text])

    def stacked_name(self) -> None:
        parts = self.take(2)
        if not all(isinstance(part, str) for part in parts):
            raise _Refused("it asks for a name that is no text")
        self.name(" ".join(parts))

    def call(self) -> None:
        function, arguments = self.take(2)
        if not any(function is known for known in _FUNCTIONS.values()) or not isinstance(arguments, tuple):
            raise _Refused(f"it calls a {_kind(function)} with a {_kind(arguments)}")
        self.push(function(*arguments))

    def build(self) -> None:
        """Drops the attributes of a dict, such as the versions of its modules; nothing else has any."""
        self.take(1)
        self.top(dict)

    def storage(self) -> None:
        (given,) = self.take(1)
        if not isinstance(given, tuple) or len(given) not in (5, 6) or given[5:] not in ((), (None,)):
            raise _Refused(f"its storage is a {_kind(given)}, where five entries are expected")
        tag, dtype, key, _, size = given[:5]
        if tag != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str) or not _is_count(size):
            raise _Refused("its storage is not described by type, key and size")
        storage = _Storage(key, dtype, size)
        if storage.num_bytes > self.limit or self.storages.setdefault(key, storage) != storage:
            raise _Refused(f"storage {key[:100]!r} of {storage.num_bytes} bytes is not in the file, or is two things")
        self.push(storage)


def _named(text: str) -> str:
    return repr(text.replace(" ", ".")[:100])


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _tuple_of(number: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(machine.take(number))


_NOTHING, _ARGUMENT = (lambda machine, _: None), _Machine.push
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _NOTHING),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"), _ARGUMENT),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine, _: machine.push(machine.take_marked()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    "APPENDS": lambda machine, _: machine.append(machine.take_marked()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.take_marked()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, slot: machine.memo.update({slot: machine.top()})),
    "MEMOIZE": lambda machine, _: machine.memo.update({len(machine.memo): machine.top()}),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, slot: machine.push(machine.memo[slot])),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": lambda machine, _: machine.stacked_name(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.storage(),
}
