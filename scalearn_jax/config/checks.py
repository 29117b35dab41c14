"""What all configs share, and what single values of a config may be."""

import itertools
import math
import os.path
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scalearn_jax.config.schema import check_values
from scalearn_jax.errors import InputError, masked

_LARGEST = 2**31 - 1  # what counts steps, rows or tokens does so in 32 bits


@dataclass(frozen=True, kw_only=True)
class Config:
    """What all configs share: values have their declared types, and none holds a secret.

    Raises:
      InputError: a wrong type, in one line.
    """

    def __post_init__(self):
        values, found = check_values(type(self), vars(self))
        if found:
            raise InputError("; ".join(found))
        for name, value in values.items():
            object.__setattr__(self, name, value)
        no_secrets(values)


def shard(text: str) -> tuple[int, int]:
    """Reads ``"I/N"``.

    Raises:
      InputError: it is something else.

    Example:
      >>> shard("2/8")
      (2, 8)
    """
    if not re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", text):
        raise InputError(f"--shard {text}: expected I/N, for instance 1/4.")
    number, count = map(int, text.split("/"))
    if not 1 <= number <= count:
        raise InputError(f"--shard {text}: expected a share from 1/{count} to {count}/{count}.")
    return number, count


def expand_home(config: Any, *names: str) -> None:
    """Replaces ``~`` in paths, which no shell does in a YAML file or after ``--flag=``."""
    for name in names:
        value = getattr(config, name)
        paths = (
            tuple(map(os.path.expanduser, value)) if isinstance(value, tuple) else value and os.path.expanduser(value)
        )
        object.__setattr__(config, name, paths)


def no_secrets(values: dict[str, Any]) -> None:
    """Checks that no text among values holds a hub token or a password: run folders keep them, and are passed on.

    Args:
      values: what to call each -> a text, or texts in lists and dicts, or anything else.

    Raises:
      InputError: one does; it is not repeated.

    Example:
      >>> no_secrets({"backbone": "FacebookAI/roberta-base"})
    """
    for name, value in values.items():
        for text in _texts(value):
            if masked(text) != text:
                raise InputError(
                    f"{name}: {masked(text)!r}, where *** stands for a token or password, which run folders would"
                    " keep; take it out, and log in with `hf auth login` or set HF_TOKEN instead."
                )


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of a config, names of nested fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        inner = itertools.chain.from_iterable(value.items()) if isinstance(value, dict) else value
        yield from itertools.chain.from_iterable(map(_texts, inner))


def finite(config: Any, *names: str) -> None:
    """Checks that fields hold finite numbers, where they hold any.

    Raises:
      InputError: one does not.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not all(map(math.isfinite, value if isinstance(value, tuple) else (value,))):
            raise InputError(f"{name} must be finite, got {value}.")


def at_least(config: Any, bound: float, *names: str) -> None:
    """Checks that fields hold finite numbers from a bound on, where they hold any; whole ones in 31 bits.

    Raises:
      InputError: one does not.
    """
    for name in names:
        value = getattr(config, name)
        if isinstance(value, int) and value > _LARGEST:
            raise InputError(f"{name} must be at most {_LARGEST}, got {value}.")
        if value is not None and not bound <= value < math.inf:
            raise InputError(f"{name} must be at least {bound}, got {value}.")


def processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Checks how a process is told of the others.

    Raises:
      InputError: only some of the three are given, or they are impossible.

    Example:
      >>> processes("host0:1234", 2, 1)
    """
    given = [coordinator, num_processes, process_id]
    if all(value is None for value in given):
        return
    if None in given:
        raise InputError("coordinator, num_processes and process_id belong together; give all three or none.")
    if not re.fullmatch(r".+:\d+", coordinator):
        raise InputError(f"coordinator must be HOST:PORT, for instance host0:1234, got {coordinator!r}.")
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"process_id must be from 0 to {num_processes - 1} for {num_processes} processes, got {process_id}."
        )


def seeds(seeds: tuple[int, ...]) -> None:
    """Checks seeds: one or more, all different, in 32 bits.

    Raises:
      InputError: they are not.

    Example:
      >>> seeds((0, 1, 2))
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise InputError(f"seeds must be one or more different numbers from 0 to 2^32 - 1, got {list(seeds)}.")


def rates(one: float | None, several: tuple[float, ...]) -> None:
    """Checks learning rates: one or several, all different.

    Raises:
      InputError: they are not.

    Example:
      >>> rates(None, (3e-3, 6e-3))
    """
    if one is not None and several:
        raise InputError("learning_rate and learning_rates both say how fast to learn; give one of them.")
    wrong = [rate for rate in several if not (math.isfinite(rate) and rate >= 0)]
    if wrong or len({f"{rate:g}" for rate in several}) < len(several):
        raise InputError(f"learning_rates must be different numbers from 0 on, got {list(several)}.")
