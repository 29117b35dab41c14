"""Memory: what a compiled program needs, and what the machine has."""

import os
from pathlib import Path
from typing import Any, NamedTuple

SHARE = 0.9  # of what is available that programs may take; the rest is for data, the runtime and fragmentation
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Memory(NamedTuple):
    """Bytes that a compiled program needs on one device.

    Attributes:
      arguments: its inputs: state, frozen parameters and batch.
      temporaries: what it keeps only while it runs, activations above all.
      output: its results.
      reused: the part of ``output`` that takes the place of arguments.
    """

    arguments: int
    temporaries: int
    output: int
    reused: int

    @property
    def peak(self) -> int:
        """All that is held at once."""
        return self.arguments + self.temporaries + self.output - self.reused


def of_program(compiled: Any) -> Memory | None:
    """Reads the memory of a compiled program.

    Args:
      compiled: what ``jax.jit(f).lower(...).compile()`` returns.

    Returns:
      The bytes on one device; ``None`` where the compiler does not tell them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> of_program(jax.jit(jnp.sin).lower(jnp.ones(4)).compile()).arguments
      16
    """
    found = compiled.memory_analysis()
    if found is None:
        return None
    sizes = "argument", "temp", "output", "alias"
    return Memory(*(int(getattr(found, f"{size}_size_in_bytes")) for size in sizes))


def available() -> int | None:
    """Returns the bytes that each device of this process may take; ``None`` where the system does not say.

    An accelerator tells its limit. CPU devices share what the system, or the container, has left.
    """
    import jax

    device = jax.local_devices()[0]
    if device.platform == "cpu":
        left = _system_memory()
        return left and left // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")


def _system_memory() -> int | None:
    found = [_meminfo(), _container(), _address_space()]
    return min((size for size in found if size is not None), default=None)


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        names = getattr(os, "sysconf_names", {})
        total = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if total else None


def _container() -> int | None:
    """What the limit of a container (cgroup 2) leaves."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        kinds = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = sum(int(kinds.get(name, 0)) for name in ("active_file", "inactive_file"))  # given up when needed
        return max(0, limit - used + cached)
    except (OSError, ValueError):  # no such limit, or "max"
        return None


def _address_space() -> int | None:
    """What the shell's or the batch system's limit (``ulimit -v``) leaves."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError, IndexError):  # Windows, macOS
        return None
    return None if limit == resource.RLIM_INFINITY else max(0, limit - used)


def fits(needed: int | None, limit: int | None) -> bool | None:
    """Says whether a need leaves some room below a limit; ``None`` where either is unknown.

    Example:
      >>> fits(89, 100), fits(91, 100), fits(1, None)
      (True, False, None)
    """
    return None if needed is None or limit is None else needed <= SHARE * limit


def words(size: float | None) -> str:
    """Writes a number of bytes with three digits.

    Example:
      >>> words(1_234_567), words(None)
      ('1.18 MiB', '-')
    """
    if size is None:
        return "-"
    unit = next((unit for unit in "TGMK" if abs(size) >= UNITS[unit]), "")
    value = size / UNITS[unit]
    digits = 0 if not unit or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}iB" if unit else f"{value:.0f} B"
