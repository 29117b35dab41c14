"""Memory: what a compiled program needs, what the machine has, and what to do where it was not enough.

The command line loads this file before JAX, which is imported only where a function needs it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from scalearn_jax.errors import InputError

SHARE = 0.9  # of what is available that programs may take; the rest is for data, the runtime and fragmentation
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)\s*([KMGT]?)(?:i?B|bytes)?\b"
_USED_OF = re.compile(rf"[Uu]sed {_SIZE} of {_SIZE}")
_ALLOCATING = re.compile(rf"allocat\w+ {_SIZE}")


class Memory(NamedTuple):
    """Bytes that a compiled program needs on one device."""

    arguments: int  # state, frozen parameters and batch
    temporaries: int  # held only while it runs, activations above all
    output: int
    reused: int  # the part of ``output`` that takes the place of arguments

    @property
    def peak(self) -> int:
        """All that is held at once."""
        return self.arguments + self.temporaries + self.output - self.reused


def of_program(compiled: Any) -> Memory | None:
    """Returns what ``jax.jit(f).lower(...).compile()`` needs; ``None`` where the compiler does not report it."""
    found = compiled.memory_analysis()
    sizes = "argument", "temp", "output", "alias"
    return found and Memory(*(int(getattr(found, f"{size}_size_in_bytes")) for size in sizes))


def available() -> int | None:
    """Returns the bytes that each device of this process may take; ``None`` where the system does not report them.

    An accelerator reports its limit. CPU devices share what the system, or the container, has left.
    """
    import jax

    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return _system_memory() // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")


def give_back() -> None:
    """Returns freed memory to the system: what compiling a program has taken would stay with the allocator otherwise.

    Without effect where the system has no such call.
    """
    import psutil

    if hasattr(psutil, "heap_trim"):
        psutil.heap_trim()


def _system_memory() -> int:
    """What the machine, control groups (containers, jobs) and a limit on the address space (``ulimit -v``) leave."""
    import psutil

    left = [psutil.virtual_memory().available, *groups_leave(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))]
    process = psutil.Process()
    if hasattr(process, "rlimit"):  # not on Windows and macOS
        limit, _ = process.rlimit(psutil.RLIMIT_AS)
        if limit != psutil.RLIM_INFINITY:
            left.append(limit - process.memory_info().vms)
    return max(0, min(left))


class _Files(NamedTuple):
    """How a version of control groups keeps its memory, each file a number of bytes, but for statistics by name."""

    root: str  # below the mount
    limit: str
    used: str
    prefix: str  # of statistics that count inner groups as well


_VERSIONS = {
    "memory": _Files("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    "": _Files("", "memory.max", "memory.current", ""),  # version 2, whose groups are those of no controller
}


def groups_leave(mount: Path, own: Path) -> list[int]:
    """Lists what is left of every memory limit on this process, of its own control group and of all around that.

    ``mount`` is where control groups of either version are mounted, ``own`` the file that names the process's group in
    each hierarchy. In a container the mount may begin at the container's group, whose name then leads nowhere.
    """
    try:
        entries = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        entries = []
    paths = {controller: path.strip("/") for _, names, path in entries for controller in names.split(",")}
    left = []
    for controller, files in _VERSIONS.items():
        root, path = mount / files.root, Path(paths.get(controller, ""))
        inside = [] if ".." in path.parts else [root / path, *list((root / path).parents)[: len(path.parts)]]
        left += [found for group in inside or [root] if (found := _group_leaves(group, files)) is not None]
    return left


def _group_leaves(group: Path, files: _Files) -> int | None:
    """What is left of a control group's limit; ``None`` where it has none."""
    try:
        limit, used = (int((group / name).read_text()) for name in (files.limit, files.used))
        kinds = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = sum(int(kinds.get(f"{files.prefix}{name}_file", 0)) for name in ("active", "inactive"))  # can be freed
        return min(limit, int(kinds.get("hierarchical_memory_limit", limit))) - used + cached
    except (OSError, ValueError):  # no such group, or no limit: "max"
        return None


def fits(needed: int | None, limit: int | None) -> bool | None:
    """Whether a need leaves some room below a limit; ``None`` where either is unknown."""
    return None if needed is None or limit is None else needed <= SHARE * limit


def format_bytes(size: float | None) -> str:
    """Formats a number of bytes with three digits.

    Example:
      >>> format_bytes(1_234_567), format_bytes(None)
      ('1.18 MiB', '-')
    """
    if size is None:
        return "-"
    unit = next((unit for unit in "TGMK" if abs(size) >= UNITS[unit]), "")
    value = size / UNITS[unit]
    digits = 0 if not unit or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}iB" if unit else f"{value:.0f} B"


class OutOfMemory(InputError, MemoryError):
    """A run needs more memory than there is; the message says what to change."""


def out_of_memory_advice(error: BaseException, config: Any, shape: str = "", limit: int | None = None) -> str:
    """Describes an out-of-memory error in one line: what ran, what it needed, and what to change.

    Only the fields that the command's config has are named; ``shape`` is rows and lengths of its batches, ``limit`` the
    bytes that are available, both if known.

    Example:
      >>> from scalearn_jax.config import EvaluateConfig
      >>> out_of_memory_advice(MemoryError(), EvaluateConfig(run="r"))
      'out of memory: batch size 128; pass a smaller --batch-size.'
    """
    seeds, size = getattr(config, "seeds", None) or (), getattr(config, "batch_size", None)
    what = [f"method {config.method!r}"] if hasattr(config, "method") else []
    what += [f"batch size {size}{f' ({shape})' if shape else ''}"] if size else []
    what += [f"{len(seeds)} seeds at once"] if len(seeds) > 1 else []
    needed = None
    if found := _USED_OF.search(str(error)):
        needed, limit = _bytes(*found.groups()[:2]), _bytes(*found.groups()[2:])
    elif found := _ALLOCATING.search(str(error)):
        needed = _bytes(*found.groups())
    sizes = [f"needed {format_bytes(needed)}"] if needed else []
    sizes += [f"available {format_bytes(limit)}"] if limit else []
    changes = ["a smaller --batch-size"] if size else []
    changes += ["a smaller --eval-batch-size"] if hasattr(config, "eval_batch_size") else []
    changes += ["a larger --accumulate"] if hasattr(config, "accumulate") else []
    changes += ["--remat"] if getattr(config, "remat", True) is False else []
    changes += ["fewer --seeds at once"] if len(seeds) > 1 else []
    remedy = f"pass {' or '.join(changes)}" if changes else "free some memory, or choose a smaller model"
    if hasattr(config, "remat") and not hasattr(config, "suggest"):  # a run, not the plan of one
        stage = "transfer" if hasattr(config, "target") else "train-adapter"
        remedy += f"; `scalearn plan {stage}` with the same flags shows the numbers"
    return f"out of memory: {'; '.join(filter(None, [', '.join(what), ', '.join(sizes), remedy]))}."


def _bytes(number: str, unit: str) -> int:
    return int(float(number.rstrip(".")) * UNITS[unit])


@contextmanager
def explain_out_of_memory(config: Any, shape: Callable[[], str] = str) -> Iterator[None]:
    """Turns an out-of-memory error inside, of the device or the system, into ``OutOfMemory``; all others pass.

    ``shape`` returns rows and lengths of the batches, and is called only when it is needed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        exhausted = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        if isinstance(error, OutOfMemory) or not exhausted:
            raise
        raise OutOfMemory(out_of_memory_advice(error, config, shape(), available())) from error
