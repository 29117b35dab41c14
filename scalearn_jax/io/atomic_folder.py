"""Folders that appear whole or not at all, and that one process writes at a time."""

import errno
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scalearn_jax.errors import InputError
from scalearn_jax.io.files import sync

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder go unnoticed
    fcntl = None

SCRATCH = "checkpoints"  # folder of a run in the making that outlives a failure
_LOCK = ".lock"
_LOCK_ATTEMPTS = 5
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class Busy(InputError):
    """Another process is writing the folder."""


@contextmanager
def new_folder(out: str, *, scratch: str | None = None) -> Iterator[Path]:
    """Opens a folder that appears only when it is complete.

    Work happens in ``OUT.partial``; on success it is renamed to OUT, on any exception it is removed. What a
    killed run left there is replaced; what a living one writes there is not.

    Args:
      out: the folder.
      scratch: name of a folder in it for what outlives a failure: while that holds anything, ``OUT.partial`` stays, and
        is found as it was; ``clear_but`` removes all else. It is removed once all is complete.

    Raises:
      InputError: OUT exists and is not an empty folder, cannot be written, or is being written by another process.
    """
    final = check_out(out)
    partial = final.with_name(final.name + ".partial")
    try:
        if final.exists():
            final.rmdir()  # now, not after hours of training: an empty mount point, say, cannot be replaced
        lock = _locked(partial)
        _check_still_free(final, partial, lock)
    except OSError as error:
        raise InputError(f"--out {out}: cannot write the folder: {error.strerror}; choose another place.") from error
    with lock:
        try:
            if not (scratch and _holds_anything(partial / scratch)):
                clear_but(partial)
            _sign(lock)
            yield partial
            sync(partial)
            partial.rename(final)
            sync(final.parent, whole=False)
        except BaseException:
            if not _is_at(lock, partial / _LOCK):  # out already, or gone
                pass
            elif scratch and _holds_anything(partial / scratch):
                lock.truncate(0)
            else:
                _remove(partial)
            raise
        tidy(final, scratch)


def _check_still_free(final: Path, partial: Path, lock: IO[str]) -> None:
    """Checks once more that a folder is free: who had the lock may have completed it meanwhile."""
    try:
        check_out(str(final))
    except InputError:
        lock.close()
        _remove(partial)
        raise


def tidy(final: Path, scratch: str | None) -> None:
    """Removes what a complete folder needs no more, also where a killed process has not come to it."""
    (final / _LOCK).unlink(missing_ok=True)
    if scratch:
        shutil.rmtree(final / scratch, ignore_errors=True)


def clear_but(partial: Path, *stays: str) -> None:
    """Removes what a working folder holds, but for its lock and some names."""
    for path in partial.iterdir():
        if path.name not in (_LOCK, *stays):
            _remove_path(path)


def _holds_anything(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _remove(partial: Path) -> None:
    """Removes a working folder; its lock, which tells that it is one, goes last."""
    if partial.is_dir():
        clear_but(partial)
    shutil.rmtree(partial, ignore_errors=True)


def _remove_path(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _locked(partial: Path) -> IO[str]:
    """Takes a working folder for this process; the lock ends with the process, however that ends."""
    for attempt in range(_LOCK_ATTEMPTS):  # another process may just be looking, see is_being_written, or end
        partial.mkdir(parents=True, exist_ok=True)
        if any(partial.iterdir()) and not (partial / _LOCK).exists():
            raise InputError(f"{partial} is in the way and was not left by a run; move it or choose another --out.")
        lock = (partial / _LOCK).open("a+")
        if _take(lock) and _is_at(lock, partial / _LOCK):
            break
        owner = _owner(lock)
        lock.close()
        if attempt == _LOCK_ATTEMPTS - 1:
            raise Busy(f"{partial} is being written by {owner}; wait for it or choose another --out.")
        time.sleep(0.05)
    return lock


def _sign(lock: IO[str]) -> None:
    """Writes into a lock whose it is."""
    lock.truncate(0)
    lock.write(f"process {os.getpid()} of {platform.node()}\n")
    lock.flush()


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
