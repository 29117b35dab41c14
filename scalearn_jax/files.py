"""Folders and small text files: read with a clear error, written whole or not at all."""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scalearn_jax.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder go unnoticed
    fcntl = None

_LONGEST_NAME = 100  # characters; file systems take 255 bytes, of which some are for suffixes
_POINTER = b"version https://git-lfs.github.com/"
_LOCK = ".lock"
SCRATCH = "checkpoints"  # folder of a run in the making that outlives a failure
_LOCK_ATTEMPTS = 5
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
POINTER = "it only tells where Git LFS keeps the file; fetch that with `git lfs pull`"
MAX_BYTES = 16_000_000  # a run's JSON is kilobytes; this only keeps a wrong file from filling the memory
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # to open a pipe without waiting for who writes it; Windows has none


class Busy(InputError):
    """Another process is writing the folder."""


def safe_name(text: str) -> str:
    """Makes one component of a path of a name that comes from a file.

    Letters, digits and ``+._-`` stay and a slash becomes ``-``, so ``a/b`` and ``a-b`` are one. A name that loses
    anything else ends in a short hash, so that names which differ in that stay different.

    Example:
      >>> safe_name("pairs-glue/rte"), safe_name("../../a b")
      ('pairs-glue-rte', 'a-b-cd36d98f')
    """
    plain = text.replace("/", "-")
    safe = re.sub(r"[^A-Za-z0-9+._-]", "-", plain).lstrip(".-")[:_LONGEST_NAME]
    if safe and safe == plain:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe}-{digest}" if safe else digest


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.
      max_bytes: how large it may be.

    Returns:
      Its content.

    Raises:
      InputError: missing, unreadable, no plain file, too large, or not an object.
    """
    try:
        content = json.loads(read_text(path, max_bytes))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; is {path.parent} the right folder?") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not valid JSON ({error}); the file is damaged.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


def read_text(path: Path, max_bytes: int, *, pipes: bool = False) -> str:
    """Reads a text file: whole, but never more than some bytes of it, and without waiting for any.

    Args:
      path: the file.
      max_bytes: how large it may be.
      pipes: whether it may be another thing than a file, which is waited for: what a shell makes of ``<(command)``.

    Raises:
      InputError: no plain file, or too large.
      OSError: missing or unreadable.
      UnicodeDecodeError: no UTF-8.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags if pipes else flags | _NO_WAIT)) as stream:
        if not (pipes or stat.S_ISREG(os.fstat(stream.fileno()).st_mode)):
            raise InputError(f"{path} is no plain file; expected one.")
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise InputError(f"{path} has more than {max_bytes} bytes; is it the right file?")
    return content.decode("utf-8")


def is_pointer(path: str | Path) -> bool:
    """Says whether a file only tells where Git LFS keeps it: what a clone without LFS has in its place."""
    with Path(path).open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    write_text(path, as_json(content))


def as_json(content: dict[str, Any]) -> str:
    """The text of a JSON file.

    Example:
      >>> as_json({})
      '{}\\n'
    """
    return json.dumps(content, indent=2) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with named(path):
            temporary.write_bytes(content)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(folder: Path, *, whole: bool = True) -> None:
    """Flushes a folder, with ``whole`` also all in it, to the disk; not on Windows, which opens no folders."""
    for path in [*(folder.rglob("*") if whole else ()), folder] if os.name != "nt" else ():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Has errors of the disk name the file they are about, which those of a full disk do not do by themselves.

    Raises:
      OSError: also for what libraries in other languages raise in their own way.
    """
    try:
        yield
    except Exception as error:
        number = disk_fault(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def disk_fault(error: Exception) -> int | None:
    """The number of the operating system's error that an exception is or, as others write it, tells of.

    Example:
      >>> disk_fault(ValueError("No space left on device (os error 28)")), disk_fault(ValueError("28"))
      (28, None)
    """
    if isinstance(error, OSError):
        return error.errno
    number = re.search(r"os[_ ]error(?: |_code=')(\d+)", str(error))
    return int(number[1]) if number else None


@contextmanager
def new_folder(out: str, *, scratch: str | None = None, kept: str | None = None) -> Iterator[Path]:
    """Opens a folder that appears only when it is complete.

    Work happens in ``OUT.partial``; on success it is renamed to OUT, on any exception it is removed. What a
    killed run left there is replaced; what a living one writes there is not.

    Args:
      out: the folder.
      scratch: name of a folder in it for what outlives a failure: while that holds anything, ``OUT.partial`` stays,
        and is found again. It is removed once all is complete.
      kept: name of a file that is found again, too.

    Raises:
      InputError: OUT exists and is not an empty folder, cannot be written, or is being written by another process.
    """
    final = check_out(out)
    partial = final.with_name(final.name + ".partial")
    try:
        if final.exists():
            final.rmdir()  # now, not after hours of training: an empty mount point, say, cannot be replaced
        lock = _locked(partial, {_LOCK, scratch, kept})
    except OSError as error:
        raise InputError(f"--out {out}: cannot write the folder: {error.strerror}; choose another place.") from error
    with lock:
        try:
            yield partial
            sync(partial)
            partial.rename(final)
            sync(final.parent, whole=False)
        except BaseException:
            if not (scratch and _holds_anything(partial / scratch)):
                _remove(partial)
            raise
        tidy(final, scratch)


def tidy(final: Path, scratch: str | None) -> None:
    """Removes what a complete folder needs no more, also where a killed process has not come to it."""
    (final / _LOCK).unlink(missing_ok=True)
    if scratch:
        shutil.rmtree(final / scratch, ignore_errors=True)


def _holds_anything(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _remove(partial: Path) -> None:
    """Removes a working folder; its lock, which tells that it is one, goes last."""
    for path in partial.iterdir() if partial.is_dir() else ():
        if path.name != _LOCK:
            _remove_path(path)
    shutil.rmtree(partial, ignore_errors=True)


def _remove_path(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _locked(partial: Path, stays: set[str | None]) -> IO[str]:
    """Takes a working folder for this process, and empties it; the lock ends with the process, however that ends."""
    for attempt in range(_LOCK_ATTEMPTS):  # another process may just be looking, see is_being_written, or end
        partial.mkdir(parents=True, exist_ok=True)
        if any(path.name not in stays for path in partial.iterdir()) and not (partial / _LOCK).exists():
            raise InputError(f"{partial} is in the way and was not left by a run; move it or choose another --out.")
        lock = (partial / _LOCK).open("a+")
        if _take(lock) and _is_at(lock, partial / _LOCK):
            break
        owner = _owner(lock)
        lock.close()
        if attempt == _LOCK_ATTEMPTS - 1:
            raise Busy(f"{partial} is being written by {owner}; wait for it or choose another --out.")
        time.sleep(0.05)
    lock.truncate(0)
    lock.write(f"process {os.getpid()} of {platform.node()}\n")
    lock.flush()
    for path in partial.iterdir():
        if path.name not in stays:
            _remove_path(path)
    return lock


def _take(lock: IO[str]) -> bool:
    """Locks a file; where the file system knows no locks, two runs in one folder go unnoticed."""
    try:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at a path: its folder may have been completed or removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _owner(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read(200).strip() or "another process"


def is_being_written(out: str | Path) -> bool:
    """Says whether another process is working on a folder that ``new_folder`` will make appear.

    Example:
      >>> is_being_written("no/such/folder")
      False
    """
    final = Path(out).resolve()
    path = final.with_name(final.name + ".partial") / _LOCK
    if not fcntl:
        return False
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # not there, or just now renamed: finished
        return False
    return False


def check_out(out: str) -> Path:
    """Checks that ``--out`` is free; nothing is written.

    Raises:
      InputError: it exists and is a file or a non-empty folder, or its name is empty or leads nowhere.
    """
    if not out:
        raise InputError("--out is empty; name the folder to write.")
    try:
        final = Path(out).resolve()
    except (OSError, RuntimeError) as error:  # links that lead to themselves
        raise InputError(f"--out {out} leads nowhere ({error}); choose another folder.") from error
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise InputError(f"--out {out} already exists and is not empty; choose another folder or remove it.")
    return final


def check_folder(out: str | Path) -> Path:
    """Checks that a folder is there or can be made; nothing is written.

    Raises:
      InputError: something else is in its place or above it, or nothing may be written there.
    """
    path = Path(out)
    place = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not place.is_dir():
        raise InputError(f"--out {out}: {place} is no folder; choose another place.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: nothing may be written in {place}; choose another place.")
    return path
