"""State dicts as ``torch.save`` writes them (``pytorch_*.bin``), read without torch and without running anything.

The pickle in such a file runs on a machine that describes tensors and can do nothing else, see ``pickle_machine``. No
array is made before its sizes are known to lie inside the file.

Two layouts: since torch 1.6 a zip archive, ``NAME/data.pkl`` beside ``NAME/data/KEY`` and ``NAME/byteorder``; before
that five pickles in a row (magic number, version, system, state dict, keys), then the numbers of every storage.
"""

import io
import os
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from scalearn_jax.errors import InputError
from scalearn_jax.io.files import POINTER, is_pointer
from scalearn_jax.io.pickle_machine import Machine, Refused, Storage, Tensor, kind

_MAX_PICKLE = 16_000_000  # bytes; that of a large model has 100 kB
_CHUNK = 1 << 20
_MOST_COPIES = 4
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the older layout


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
    views = _views(state, limit)
    of_storage = defaultdict(list)
    for view in dict.fromkeys(views.values()):
        of_storage[view.storage].append(view)
    arrays = {view: view.of(numbers) for storage, numbers in storages for view in of_storage[storage]}
    return {name: arrays[view] for name, view in views.items()}


def _views(state: Any, limit: int) -> dict[str, Tensor]:
    """Checks that a file's content is a state dict, and that its arrays take little more memory than the file.

    Different views of one storage, such as a tied weight and its transpose, are copies here.
    """
    if not isinstance(state, dict):
        raise Refused(f"it holds a {kind(state)} where a dict is expected")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise Refused(f"its entry {name[:100]!r} is a {kind(value)} where a tensor is expected")
    total = sum(view.num_bytes for view in set(state.values()))
    if total > _MOST_COPIES * limit:
        raise Refused(f"its tensors have {total} bytes, the file has {limit}")
    return state


# ---------------------------------------------------------------- layouts

_Content = tuple[Any, Iterator[tuple[Storage, np.ndarray]]]  # what the pickle holds; every storage's numbers


def _read_zip(stream: IO[bytes], limit: int) -> _Content:
    archive = zipfile.ZipFile(_Bounded(stream))
    members = _members(archive, limit)
    machine = Machine(limit)
    state = machine.run(io.BytesIO(archive.read(members["data.pkl"])))
    order = members.get("byteorder")
    swapped = order is not None and order.file_size == 3 and archive.read(order) == b"big"
    return state, _zip_storages(archive, members, list(machine.storages.values()), swapped)


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


def _zip_storages(archive, members, storages: list[Storage], swapped: bool) -> Iterator[tuple[Storage, np.ndarray]]:
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


def _read_legacy(stream: IO[bytes], limit: int) -> _Content:
    head, machine = io.BytesIO(stream.read(_MAX_PICKLE)), Machine(limit)
    if [machine.run(head), machine.run(head)] != [_MAGIC, _VERSION]:
        raise Refused("it is neither a zip archive nor of torch's older layout")
    system = machine.run(head)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("it was not written by a little-endian machine")
    state, keys = machine.run(head), machine.run(head)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("its list of storages is none")
    if sorted(keys) != sorted(machine.storages):
        raise Refused("its storages are not those that its tensors view")
    stream.seek(head.tell())
    return state, _legacy_storages(stream, [machine.storages[key] for key in keys], limit)


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
        part = stream.read(len(piece))
        if len(part) < len(piece):
            raise EOFError(f"storage {storage.key[:100]!r} is cut short")
        piece[:] = np.frombuffer(part, np.uint8)
    if swapped:
        numbers.view(f"u{storage.dtype.itemsize}").byteswap(inplace=True)
    return numbers != 0 if storage.dtype == bool else numbers.view(storage.dtype)
