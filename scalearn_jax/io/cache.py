"""What is kept between runs, in folders that only their owner may read or write, up to a size."""

import contextlib
import hashlib
import math
import os
import platform
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

from scalearn_jax.errors import InputError

_GIGABYTES = 20.0
_KEPT = ("tokens/*.npz", "similarity/*.npy", "xla/*/*-cache")  # what may go; no other file of the folder does
_SECONDS = 60.0  # between two looks at the size
_looked = [-math.inf]  # when the last one was


def cache_folder(name: str) -> Path | None:
    """Makes or finds a cache folder of mode 0700 below ``$SCALEARN_CACHE`` or ``~/.cache/scalearn_jax``.

    Returns ``None`` where it cannot be made, or belongs to or is writable for someone else: a planted file could then
    be loaded as ours. Now and then it sees to the size of all, see ``trim``.
    """
    folders = list(accumulate(name.split("/"), Path.__truediv__, initial=_root()))
    try:
        for folder in folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        safe = all(_private(folder) for folder in folders)
    except OSError:
        return None
    if safe and time.monotonic() - _looked[0] > _SECONDS:
        trim()
        _looked[0] = time.monotonic()
    return folders[-1] if safe else None


def limit() -> int:
    """Returns the bytes that may be kept: ``$SCALEARN_CACHE_GB`` gigabytes, by default 20.

    Raises:
      InputError: the variable is no number from 0 on.
    """
    text = os.environ.get("SCALEARN_CACHE_GB") or str(_GIGABYTES)
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return int(float(text) * 2**30)
    raise InputError(f"SCALEARN_CACHE_GB is {text!r}, expected gigabytes from 0 on, for instance {_GIGABYTES:g}.")


def trim() -> None:
    """Removes what was used longest ago, until no more is kept than ``limit`` allows."""
    found = []
    for path in (path for pattern in _KEPT for path in _root().glob(pattern)):
        with contextlib.suppress(OSError):  # removed by another process
            status = path.stat()
            found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    excess = sum(size for _, size, _ in found) - limit()
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            excess -= size


def mark_used(path: Path) -> None:
    """Notes that a file was used now; on many systems reading it does not."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _root() -> Path:
    return Path(os.environ.get("SCALEARN_CACHE") or Path.home() / ".cache" / "scalearn_jax")


def state() -> dict[str, Any]:
    """Describes the cache as it is, and makes nothing: ``{"folder", "private", "bytes", "programs"}``.

    A folder that is not there yet counts as private.
    """
    root = _root()
    files = {path: size for path in root.rglob("*") if (size := _size(path)) is not None}
    places = [folder for folder in (root, *root.glob("*"), *root.glob("xla/*")) if folder.is_dir()]
    return {
        "folder": str(root),
        "private": all(map(_private, places)) and (root.is_dir() or not root.exists()),
        "bytes": sum(files.values()),
        "programs": sum(path.name.endswith("-cache") for path in files),
    }


def _size(path: Path) -> int | None:
    """Returns the bytes of a file; ``None`` for anything else, and for one that was just removed."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _private(folder: Path) -> bool:
    if not hasattr(os, "getuid"):  # Windows: home folders are private already
        return True
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def machine() -> str:
    """Hashes the features of the CPU, so that machines sharing a home folder do not share compiled programs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join([platform.machine(), *features]).encode()).hexdigest()[:16]


def keep_compiled_programs() -> None:
    """Lets JAX keep compiled programs for other processes, unless ``SCALEARN_KEEP_PROGRAMS=0``; not for the library."""
    folder = None if os.environ.get("SCALEARN_KEEP_PROGRAMS") == "0" else cache_folder(f"xla/{machine()}")
    if folder is None:
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
