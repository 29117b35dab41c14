"""Memory: what a compiled program needs, what the machine has, and what to say when it was not enough.

JAX is imported inside functions, so that the command line can name an error before it is loaded.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from scalearn_jax.errors import InputError

SHARE = 0.9  # of what is available that programs may take; the rest is for data, the runtime and fragmentation
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)\s*([KMGT]?)(?:i?B|bytes)?\b"
_USED_OF = re.compile(rf"[Uu]sed {_SIZE} of {_SIZE}")
_ALLOCATING = re.compile(rf"allocat\w+ {_SIZE}")


class OutOfMemory(InputError, MemoryError):
    """A run needs more memory than there is; the message says what to change."""


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
    found = [_meminfo(), _container()]
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
        return max(0, int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):  # no such limit, or "max"
        return None


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
    unit = next((unit for unit in "TGMK" if abs(size) >= _UNITS[unit]), "")
    value = size / _UNITS[unit]
    digits = 0 if not unit or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}iB" if unit else f"{value:.0f} B"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory did not suffice, of the device or of the system.

    Example:
      >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: ..."))
      (True, True)
    """
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error))


def out_of_memory_advice(error: BaseException, config: Any, shape: str = "", limit: int | None = None) -> str:
    """Words an out-of-memory error: what ran, what it needed, and what to change.

    Args:
      error: see ``is_out_of_memory``.
      config: of the command; only the fields that it has are named.
      shape: rows and lengths of its batches, if known.
      limit: bytes that are available, if known.

    Returns:
      One line.

    Example:
      >>> from scalearn_jax.config import EvaluateConfig
      >>> out_of_memory_advice(MemoryError(), EvaluateConfig(run="r"))
      'out of memory: batch size 128; pass a smaller --batch-size.'
    """
    seeds, size = getattr(config, "seeds", None) or (), getattr(config, "batch_size", None)
    what = [f"method {config.method!r}"] if hasattr(config, "method") else []
    what += [f"batch size {size}{f' ({shape})' if shape else ''}"] if size else []
    what += [f"{len(seeds)} seeds at once"] if len(seeds) > 1 else []
    needed, told = _sizes(str(error))
    limit = told or limit
    bytes_ = [f"needed {words(needed)}"] if needed else []
    bytes_ += [f"available {words(limit)}"] if limit else []
    parts = [", ".join(what), ", ".join(bytes_), _remedy(config, seeds)]
    return f"out of memory: {'; '.join(filter(None, parts))}."


def _sizes(text: str) -> tuple[int | None, int | None]:
    """Needed and available bytes, as far as an error tells them."""
    if found := _USED_OF.search(text):
        return _bytes(*found.groups()[:2]), _bytes(*found.groups()[2:])
    found = _ALLOCATING.search(text)
    return (_bytes(*found.groups()) if found else None), None


def _bytes(number: str, unit: str) -> int:
    return int(float(number.rstrip(".")) * _UNITS[unit])


def _remedy(config: Any, seeds: tuple[int, ...]) -> str:
    changes = ["a smaller --batch-size"] if hasattr(config, "batch_size") else []
    changes += ["a smaller --eval-batch-size"] if hasattr(config, "eval_batch_size") else []
    changes += ["--remat"] if getattr(config, "remat", True) is False else []
    changes += ["fewer --seeds at once"] if len(seeds) > 1 else []
    if not changes:
        return "free some memory, or choose a smaller model"
    stage = "transfer" if hasattr(config, "target") else "train-adapter"
    numbers = f"; `scalearn plan {stage}` with the same flags tells the numbers" if hasattr(config, "remat") else ""
    return f"pass {' or '.join(changes)}{numbers}"


@contextmanager
def explained(config: Any, shape: Callable[[], str] = str) -> Iterator[None]:
    """Turns an out-of-memory error inside into one line; all others pass.

    Args:
      config: of what runs inside.
      shape: tells rows and lengths of its batches; called only when it is needed.

    Raises:
      OutOfMemory: memory did not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(out_of_memory_advice(error, config, shape(), available())) from error
