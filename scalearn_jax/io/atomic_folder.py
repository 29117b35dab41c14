"""Folders that appear whole or not at all, and that one process writes at a time."""

import errno
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalearn_jax.errors import InputError
from scalearn_jax.io.files import sync

SCRATCH = "checkpoints"  # folder of a run in the making that outlives a failure
_LOCK, _OWNER = ".lock", ".owner"
_PATIENCE = 0.25  # seconds: another process may take the lock only to look, see is_being_written, or just end
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class Busy(InputError):
    """Another process is writing the folder."""


class AtomicFolder:
    """A folder that is being written, at ``path`` (``OUT.partial``); ``atomic_folder`` makes it."""

    def __init__(self, final: Path, scratch: str | None):
        self.path = _partial(final)
        self._final, self._scratch, self._is_open = final, scratch, True
        self._owner = f"process {os.getpid()} of {platform.node()}"
        self._lock = _locked(self.path)
        (self.path / _OWNER).write_text(self._owner, encoding="utf-8")

    def keep(self) -> None:
        """Flushes the folder to the disk and renames it to its final name; without effect once kept or discarded."""
        if not self._is_open:
            return
        sync(self.path)
        if os.name == "nt":  # where an open file keeps its folder from being renamed
            self._lock.release()
        self.path.rename(self._final)
        self._is_open = False
        self._lock.release()
        sync(self._final.parent, whole=False)
        tidy(self._final, self._scratch)

    def discard(self) -> None:
        """Removes the folder, unless its scratch folder holds anything; without effect once kept or discarded."""
        if not self._is_open:
            return
        self._is_open = False
        if _owner(self.path) == self._owner and not self.holds_scratch():  # else it was removed by hand
            clear_except(self.path)  # what shows that a run left the folder goes last
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()

    def holds_scratch(self) -> bool:
        folder = self.path / (self._scratch or "")
        return self._scratch is not None and folder.is_dir() and any(folder.iterdir())


@contextmanager
def atomic_folder(out: str, *, scratch: str | None = None) -> Iterator[AtomicFolder]:
    """Opens a folder that appears only when it is complete.

    Work happens in ``OUT.partial``; on success it is renamed to OUT, on any exception it is removed. What a killed run
    left there is replaced; what a living one writes there is not (``Busy``). While the folder in it that is named
    ``scratch`` holds anything, ``OUT.partial`` outlives a failure and is found as it was; ``clear_except`` removes all
    else. The scratch folder is removed once all is complete.
    """
    final = check_out(out)
    try:
        if final.exists():
            final.rmdir()  # now, not after hours of training: an empty mount point, say, cannot be replaced
        folder = AtomicFolder(final, scratch)
    except OSError as error:
        raise InputError(f"--out {out}: cannot write the folder: {error.strerror}; choose another place.") from error
    try:
        check_out(str(final))  # once more: who had the lock may have completed it meanwhile
        if not folder.holds_scratch():
            clear_except(folder.path)
        yield folder
        folder.keep()
    except BaseException:
        folder.discard()
        raise


def _partial(final: Path) -> Path:
    return final.with_name(final.name + ".partial")


def _locked(partial: Path):
    """Takes a working folder for this process; the lock ends with the process, however that ends."""
    from filelock import FileLock, Timeout

    partial.mkdir(parents=True, exist_ok=True)
    if any(partial.iterdir()) and not any((partial / name).exists() for name in (_LOCK, _OWNER)):
        raise InputError(f"{partial} is in the way and was not left by a run; move it or choose another --out.")
    lock = FileLock(partial / _LOCK, timeout=_PATIENCE)
    try:
        lock.acquire()
    except (Timeout, FileNotFoundError) as error:  # the latter where the other process has just completed it
        owner = _owner(partial) or "another process"
        raise Busy(f"{partial} is being written by {owner}; wait for it or choose another --out.") from error
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise  # else two runs in one folder go unnoticed
    return lock


def _owner(partial: Path) -> str | None:
    try:
        return (partial / _OWNER).read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        return None


def tidy(final: Path, scratch: str | None) -> None:
    """Removes what a complete folder needs no more, also where a killed process has not come to it."""
    for name in (_LOCK, _OWNER):
        (final / name).unlink(missing_ok=True)
    if scratch:
        shutil.rmtree(final / scratch, ignore_errors=True)


def clear_except(partial: Path, *names: str) -> None:
    """Removes what a working folder holds, except for its lock and some names."""
    for path in partial.iterdir():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (_LOCK, _OWNER, *names):
            path.unlink(missing_ok=True)


def is_being_written(out: str | Path) -> bool:
    """Whether another process is working on a folder that ``atomic_folder`` will make appear."""
    from filelock import FileLock, Timeout

    path = _partial(Path(out).resolve()) / _LOCK
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # just now renamed, or no locks there
        return False


def check_out(out: str) -> Path:
    """Checks that ``--out`` is free, that is, absent or an empty folder; nothing is written."""
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
    """Checks that a folder is there, or can be made and written to; nothing is written."""
    path = Path(out)
    place = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not place.is_dir():
        raise InputError(f"--out {out}: {place} is no folder; choose another place.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: nothing may be written in {place}; choose another place.")
    return path
