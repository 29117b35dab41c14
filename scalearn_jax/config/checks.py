"""What all configs share, and what single values of a config may be."""

import dataclasses
import itertools
import os.path
import re
from collections.abc import Iterator
from typing import Any

from scalearn_jax.config.schema import check_values
from scalearn_jax.errors import InputError, masked

_LARGEST = 2**31 - 1  # what counts steps, rows or tokens does so in 32 bits


def setting(
    default: Any = dataclasses.MISSING,
    *,
    result: bool | None = None,
    per_host: bool = False,
    by_study: bool = False,
    path: str | None = None,
    metavar: str | None = None,
    at_least: int | None = None,
    combiners: tuple[str, ...] = (),
    option: str | None = None,
) -> Any:
    """Makes a field of a config that carries more than its type; no list of names elsewhere repeats it.

    Args:
      default: its value where none is given.
      result: of a training run: whether what comes of it follows from this (but for the last bits); if so, a run goes
        on, or counts as finished, only with the same value.
      per_host: whether processes of one run may have different values.
      by_study: whether a study sets it for its cells, so that nobody else may.
      path: it is a path, whose ``~`` becomes the home folder; how help writes it.
      metavar: how help writes it, where that does not follow from its type.
      at_least: the smallest number allowed; the largest whole one has 31 bits.
      combiners: the only combiners that understand it.
      option: what these call it; ``None`` where it acts before there is a combiner.
    """
    marks = {"result": result, "per_host": per_host, "by_study": by_study, "path": path is not None}
    marks |= {"metavar": path or metavar, "at_least": at_least, "combiners": combiners, "option": option}
    return dataclasses.field(default=default, metadata=marks)


def fields_where(cls: type, mark: str, value: Any = True) -> list[str]:
    """Returns the names of a config's fields for which ``setting`` was given a value.

    Example:
      >>> from scalearn_jax.config import ReportConfig
      >>> fields_where(ReportConfig, "path")
      ['dir', 'out']
    """
    return [field.name for field in dataclasses.fields(cls) if field.metadata.get(mark) is value]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What all configs share: values have their declared types and are within bounds, and none holds a secret.

    Raises:
      InputError: a wrong value, in one line.
    """

    def __post_init__(self):
        values, found = check_values(type(self), vars(self))
        if found:
            raise InputError("; ".join(found))
        check_no_secrets(values)
        for field in dataclasses.fields(self):
            value, bound = values[field.name], field.metadata.get("at_least")
            if value and field.metadata.get("path"):  # no shell expands it in a YAML file or after --flag=
                several = isinstance(value, tuple)
                value = tuple(map(os.path.expanduser, value)) if several else os.path.expanduser(value)
            object.__setattr__(self, field.name, value)
            if bound is None or value is None:
                continue
            if isinstance(value, int) and value > _LARGEST:
                raise InputError(f"{field.name} must be at most {_LARGEST}, got {value}.")
            if value < bound:
                raise InputError(f"{field.name} must be at least {bound}, got {value}.")


def parse_shard(text: str) -> tuple[int, int]:
    """Reads ``"I/N"``.

    Raises:
      InputError: it is something else.

    Example:
      >>> parse_shard("2/8")
      (2, 8)
    """
    if not re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", text):
        raise InputError(f"--shard {text}: expected I/N, for instance 1/4.")
    number, count = map(int, text.split("/"))
    if not 1 <= number <= count:
        raise InputError(f"--shard {text}: expected a share from 1/{count} to {count}/{count}.")
    return number, count


def check_no_secrets(values: dict[str, Any]) -> None:
    """Checks that no text among values holds a hub token or a password: run folders keep them, and are passed on.

    Args:
      values: what to call each -> a text, or texts in lists and dicts, or anything else.

    Raises:
      InputError: one does; it is not repeated.

    Example:
      >>> check_no_secrets({"backbone": "FacebookAI/roberta-base"})
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


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Checks seeds: one or more, all different, in 32 bits.

    Raises:
      InputError: they are not.

    Example:
      >>> check_seeds((0, 1, 2))
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise InputError(f"seeds must be one or more different numbers from 0 to 2^32 - 1, got {list(seeds)}.")
