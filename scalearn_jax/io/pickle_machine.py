"""A machine for the pickles of ``torch.save``, which makes descriptions of tensors and can do nothing else.

A pickle is a program that may call any function. The machine here knows only the instructions that a state dict needs,
and three functions: two describe a tensor, one makes an empty dict. Everything else is refused by name, and a tensor is
only described: no array is made before its sizes are known to lie inside the file.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import ml_dtypes
import numpy as np

_MAX_INSTRUCTIONS = 1_000_000  # a tensor needs 35; an empty dict takes one byte in a file, and 64 in memory
_MAX_AXES = 32


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


def kind(value: Any) -> str:
    """Words what a value is.

    Example:
      >>> kind({})
      'dict'
    """
    return type(value).__name__.lower()


# ---------------------------------------------------------------- the functions that a file may name


def _ordered_dict(*items: Any) -> dict[str, Any]:
    if items:
        raise Refused("it makes an OrderedDict of arguments")
    return {}


def _rebuild_tensor(storage, offset, sizes, strides, _requires_grad, _hooks, metadata=None) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(sizes, tuple) or not isinstance(strides, tuple):
        raise Refused(f"it makes a tensor of a {kind(storage)}, with sizes that are a {kind(sizes)}")
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


def _rebuild_parameter(data, _requires_grad, _hooks) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused(f"it makes a parameter of a {kind(data)}")
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


class Machine:
    """Runs pickles of the instructions below.

    It holds nothing but None, numbers, texts, tuples, lists, dicts with texts as keys, and what ``_NAMES`` gives. A
    text is the only key since hashing a tuple within a tuple within a tuple has no bound. The unpickler of Python's
    library cannot be held to this: it makes any dict, and a memo as large as the file asks for.

    Attributes:
      limit: bytes of the file; no storage has more.
      storages: all that the pickles so far have named, by key.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.storages: dict[str, Storage] = {}

    def run(self, stream: IO[bytes]) -> Any:
        """Runs one pickle, and leaves the stream behind it."""
        self.stack, self.marks, self.memo = [], [], {}
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number > _MAX_INSTRUCTIONS:
                raise Refused(f"its pickle has more than {_MAX_INSTRUCTIONS} instructions")
            if opcode.name not in _INSTRUCTIONS:
                what = _named(argument) if opcode.name == "INST" else f"the instruction {opcode.name}"
                raise Refused(f"it asks for {what}")
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

    def top(self, expected: type = object) -> Any:
        (value,) = self.take(1)
        if not isinstance(value, expected):
            raise Refused(f"it adds to a {kind(value)} as if it were a {expected.__name__}")
        self.push(value)
        return value

    def append(self, items: tuple) -> None:
        self.top(list).extend(items)

    def set_items(self, items: tuple) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise Refused(f"a {kind(key)} is a key of a dict, where a text is expected")
            target[key] = value

    def name(self, text: str) -> None:
        if text not in _NAMES:
            raise Refused(f"it asks for {_named(text)}")
        self.push(_NAMES[text])

    def stacked_name(self) -> None:
        parts = self.take(2)
        if not all(isinstance(part, str) for part in parts):
            raise Refused("it asks for a name that is no text")
        self.name(" ".join(parts))

    def call(self) -> None:
        function, arguments = self.take(2)
        if not any(function is known for known in _FUNCTIONS.values()) or not isinstance(arguments, tuple):
            raise Refused(f"it calls a {kind(function)} with a {kind(arguments)}")
        self.push(function(*arguments))

    def build(self) -> None:
        """Drops the attributes of a dict, such as the versions of its modules; nothing else has any."""
        self.take(1)
        self.top(dict)

    def storage(self) -> None:
        (given,) = self.take(1)
        if not isinstance(given, tuple) or len(given) not in (5, 6) or given[5:] not in ((), (None,)):
            raise Refused(f"its storage is a {kind(given)}, where five entries are expected")
        tag, dtype, key, _, size = given[:5]
        if tag != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str) or not _is_count(size):
            raise Refused("its storage is not described by type, key and size")
        storage = Storage(key, dtype, size)
        if storage.num_bytes > self.limit or self.storages.setdefault(key, storage) != storage:
            raise Refused(f"storage {key[:100]!r} of {storage.num_bytes} bytes is not in the file, or is two things")
        self.push(storage)


def _named(text: str) -> str:
    return repr(text.replace(" ", ".")[:100])


def _constant(value: Any) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _tuple_of(number: int) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine.push(machine.take(number))


_NOTHING, _ARGUMENT = (lambda machine, _: None), Machine.push
_INSTRUCTIONS: dict[str, Callable[[Machine, Any], None]] = {
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
    "GLOBAL": Machine.name,
    "STACK_GLOBAL": lambda machine, _: machine.stacked_name(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.storage(),
}
