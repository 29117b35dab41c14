"""What to say when memory was not enough: one line with what ran, what it needed and what to change.

JAX is imported only when it is already too late for it to matter, so the command line can use this at no cost.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from scalearn_jax.errors import InputError
from scalearn_jax.train.memory import UNITS, available, words

_SIZE = r"([\d.]+)\s*([KMGT]?)(?:i?B|bytes)?\b"
_USED_OF = re.compile(rf"[Uu]sed {_SIZE} of {_SIZE}")
_ALLOCATING = re.compile(rf"allocat\w+ {_SIZE}")


class OutOfMemory(InputError, MemoryError):
    """A run needs more memory than there is; the message says what to change."""


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
    return int(float(number.rstrip(".")) * UNITS[unit])


def _remedy(config: Any, seeds: tuple[int, ...]) -> str:
    changes = ["a smaller --batch-size"] if hasattr(config, "batch_size") else []
    changes += ["a smaller --eval-batch-size"] if hasattr(config, "eval_batch_size") else []
    changes += ["a larger --accumulate"] if hasattr(config, "accumulate") else []
    changes += ["--remat"] if getattr(config, "remat", True) is False else []
    changes += ["fewer --seeds at once"] if len(seeds) > 1 else []
    if not changes:
        return "free some memory, or choose a smaller model"
    stage = "transfer" if hasattr(config, "target") else "train-adapter"
    runs = hasattr(config, "remat") and not hasattr(config, "suggest")  # a run, not the plan of one
    numbers = f"; `scalearn plan {stage}` with the same flags tells the numbers" if runs else ""
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
