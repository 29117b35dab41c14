"""Frozen dataclasses <-> plain dicts, strictly: an unknown key or a wrong type is an error, never a guess."""

import dataclasses
import difflib
import functools
import re
import types
import typing
from typing import Any, Literal

from scalearn_jax.errors import InputError, format_value

_MAX_NUMBERS = 100_000  # in a list, once ranges are written out
_MAX_TOLD = 20  # problems of one file


class Mismatch(Exception):
    """A value that does not have the declared type; the message says what was expected."""


def to_dict(config: Any) -> dict[str, Any]:
    """Turns a config into JSON types; ``from_dict`` undoes it.

    Example:
      >>> from scalearn_jax.config import ReportConfig
      >>> to_dict(ReportConfig(dir="runs/study"))
      {'dir': 'runs/study', 'out': None}
    """
    return {name: _plain(value) for name, value in dataclasses.asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def from_dict(cls: type, content: dict[str, Any], *, where: str = "the config") -> Any:
    """Builds a config from a dict.

    Args:
      cls: a config dataclass.
      content: field name -> value, as JSON or YAML gives them.
      where: what to call the origin in an error, for instance the file name.

    Returns:
      An instance of ``cls``.

    Raises:
      InputError: unknown keys, wrong types and missing fields, all of them in one line; or values out of bounds.

    Example:
      >>> from scalearn_jax.config import ReportConfig
      >>> from_dict(ReportConfig, {"dir": "runs/study"}).dir
      'runs/study'
    """
    values, found = check_values(cls, content)
    if isinstance(content, dict):
        found += [f"missing key {name!r}" for name in required_fields(cls) if name not in content]
    if found:
        raise problems(where, found)
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def required_fields(cls: type) -> list[str]:
    """Returns the names of the fields that have no default."""
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def check_values(cls: type, content: Any) -> tuple[dict[str, Any], list[str]]:
    """Checks names and types of some of the fields of a config.

    Args:
      cls: a config dataclass.
      content: field name -> value; need not be complete.

    Returns:
      (converted values, problems found, each a short phrase).
    """
    if not isinstance(content, dict):
        return {}, [f"expected keys and values, got {format_value(content)}"]
    declared, values, found = field_types(cls), {}, []
    for name, value in content.items():
        if len(found) == _MAX_TOLD:
            return values, [*found, "and perhaps more"]
        if name not in declared:
            found.append(_unknown_key(name, declared))
            continue
        try:
            values[name] = convert(declared[name], value)
        except Mismatch as mismatch:
            found.append(f"key {name!r}: expected {mismatch}, got {format_value(value)}")
    return values, found


def problems(where: str, found: list[str]) -> InputError:
    """Joins problems to one error.

    Example:
      >>> str(problems("a.yaml", ["missing key 'name'"]))
      "a.yaml: missing key 'name'"
    """
    count = f"{len(found)} problems: " if len(found) > 1 else ""
    return InputError(f"{where}: {count}{'; '.join(found)}")


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Returns the declared type of every field, own and inherited."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def convert(declared: Any, value: Any) -> Any:
    """Checks a value against a declared type; lists become tuples and whole numbers floats where declared.

    Raises:
      Mismatch: the value has another type.

    Example:
      >>> convert(tuple[int, ...], [0, 1])
      (0, 1)
    """
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (types.UnionType, typing.Union):
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else convert(inner, value)
    if origin is Literal:
        return _literal(arguments, value)
    if origin is tuple:
        if arguments[0] is int:
            value = with_ranges(value)
        if not isinstance(value, list | tuple):
            raise Mismatch(f"a list of {_name(arguments[0])}")
        return tuple(convert(arguments[0], item) for item in value)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise Mismatch("names and values")
        return {name: convert(arguments[1], item) for name, item in value.items()}
    return value if declared is Any else _scalar(declared, value)


def with_ranges(value: Any) -> Any:
    """Writes out ranges of whole numbers, alone or in a list; anything else stays.

    Raises:
      Mismatch: a range runs backwards or is longer than a thousand, or all are far too many.

    Example:
      >>> with_ranges("0-3"), with_ranges([7, "9-10"])
      ([0, 1, 2, 3], [7, 9, 10])
    """
    if isinstance(value, str) and (ends := re.fullmatch(r"(\d{1,10})-(\d{1,10})", value)):
        first, last = map(int, ends.groups())
        if not first <= last < first + 1000:
            raise Mismatch("a range FIRST-LAST of at most a thousand numbers")
        return list(range(first, last + 1))
    if not isinstance(value, list):
        return value
    written = []
    for item in value:
        numbers = with_ranges(item) if isinstance(item, str) else [item]
        written += numbers if isinstance(numbers, list) else [numbers]
        if len(written) > _MAX_NUMBERS:
            raise Mismatch(f"at most {_MAX_NUMBERS} numbers")
    return written


def _literal(allowed: tuple[str, ...], value: Any) -> str:
    if value not in allowed:
        nearest = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise Mismatch(f"one of {', '.join(allowed)}{hint}")
    return value


def _scalar(declared: type, value: Any) -> Any:
    if declared is float and not isinstance(value, bool):
        try:
            return float(value)  # also a string: YAML reads 6e-3, without a dot, as one
        except (TypeError, ValueError, OverflowError):
            raise Mismatch("a number") from None
    if type(value) is not declared:
        raise Mismatch(_name(declared))
    if declared is int and not -(2**63) <= value < 2**63:
        raise Mismatch("a whole number in 64 bits")
    if declared is str and re.search("[\0\ud800-\udfff]", value):
        raise Mismatch("text without null characters and halves of surrogate pairs")
    return value


def _name(declared: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "names and values"}
    return names.get(typing.get_origin(declared) or declared, str(declared))


def _unknown_key(name: Any, known: typing.Iterable[str]) -> str:
    known = list(known)
    nearest = difflib.get_close_matches(str(name).replace("-", "_"), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
    return f"unknown key {format_value(name)}; {hint}"
