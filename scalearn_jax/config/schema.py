"""Frozen dataclasses <-> plain dicts, strictly: an unknown key or a wrong type is an error, never a guess.

pydantic, which is imported with the first value, checks the types; here values that mean the same are taken for them
(a list for a tuple, numpy's numbers), and one line is made of all that is wrong.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

from scalearn_jax.errors import InputError, format_value

Returned = TypeVar("Returned")
_MAX_NUMBERS = 100_000  # in a list, once ranges are written out
_MAX_SHOWN = 20  # problems of one file
# what a list holds
_NAMES = {int: "whole numbers", float: "numbers", str: "text", dict: "names and values", tuple: "lists"}
_TEXT = "text without null characters and halves of surrogate pairs"
# pydantic's name of an error -> what was expected
_EXPECTED = {
    **{"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false", "string_type": "text"},
    **{"dict_type": "names and values", "string_pattern_mismatch": _TEXT, "string_unicode": _TEXT},
    "finite_number": "a finite number",
    **dict.fromkeys(("greater_than_equal", "less_than"), "a whole number in 64 bits"),
}


def to_dict(config: Any) -> dict[str, Any]:
    """Turns a config into JSON types; ``from_dict`` undoes it."""
    return _with_lists(dataclasses.asdict(config))


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_lists(inner) for name, inner in value.items()}
    return [_with_lists(inner) for inner in value] if isinstance(value, tuple | list) else value


def from_dict(cls: type, content: dict[str, Any], *, where: str = "the config") -> Any:
    """Builds a config of the dataclass ``cls`` from field name -> value, as JSON or YAML gives them.

    All unknown keys, wrong types and missing fields are in one error, which begins with ``where`` (a file, say).

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
    """Lists the fields of a dataclass that have no default."""
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


@functools.cache
def _texts_in(module: str) -> dict[str, dict[str, str]]:
    """Finds the text under each field of the classes of a module; empty where there is no source."""
    found: dict[str, dict[str, str]] = {}
    try:
        body = ast.parse(inspect.getsource(sys.modules[module])).body
    except OSError:
        return found
    for node in body:
        for field, text in zip(node.body, node.body[1:], strict=False) if isinstance(node, ast.ClassDef) else ():
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found.setdefault(node.name, {})[field.target.id] = " ".join(text.value.value.split())
    return found


@functools.cache
def field_texts(cls: type) -> dict[str, str]:
    """Collects the text under each field of a config, one line each, inherited fields included."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        texts |= _texts_in(base.__module__).get(base.__name__, {})
    return texts


def explain_fields(cls: type) -> None:
    """Tells ``help(cls)`` of every field: its type, its default, and the text under it, inherited ones included."""
    texts, lines = field_texts(cls), []
    for field in dataclasses.fields(cls):
        default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
        declared = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
        about = textwrap.fill(texts.get(field.name, ""), 100, break_on_hyphens=False)
        lines += [f"{field.name}: {declared.replace('typing.', '')}{default}", textwrap.indent(about, "    ")]
    about = "Takes these settings; None leaves the choice to the method or task."
    cls.__init__.__doc__ = "\n".join([about, "", *lines])


def check_values(cls: type, content: Any) -> tuple[dict[str, Any], list[str]]:
    """Checks names and types of some of a config's fields; returns the converted values, and a phrase a problem.

    Example:
      >>> from scalearn_jax.config import AdapterConfig
      >>> check_values(AdapterConfig, {"seeds": range(2), "epochs": "two"})
      ({'seeds': (0, 1)}, ["key 'epochs': expected a whole number, got 'two'"])
    """
    if not isinstance(content, dict):
        return {}, [f"expected keys and values, got {format_value(content)}"]
    from pydantic import ValidationError

    declared, values, found = field_types(cls), {}, []
    for name, value in content.items():
        if len(found) >= _MAX_SHOWN:
            return values, [*found[:_MAX_SHOWN], "and perhaps more"]
        if name not in declared:
            found.append(_unknown(name, declared))
            continue
        try:
            values[name] = _reader(declared[name])(value)
        except ValidationError as error:
            found.append(_describe(name, error.errors(include_url=False)[0]))
    return values, found


def _unknown(name: Any, declared: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(_text(name).replace("-", "_"), declared, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(declared)}"
    return f"unknown key {format_value(name)}; {hint}"


def check_arguments(cls: type) -> None:
    """Makes one error line of what a dataclass is called with, where a name is unknown, missing or given twice."""
    make, names = cls.__init__, [field.name for field in dataclasses.fields(cls)]
    places = [field.name for field in dataclasses.fields(cls) if not field.kw_only]

    @functools.wraps(make)
    def init(self, *given: Any, **named: Any) -> None:
        if len(given) > len(places):
            raise InputError(
                f"{cls.__name__}: expected settings by name, {names[0]}=..., got {format_value(given[-1])}."
            )
        placed = places[: len(given)]
        found = [_unknown(name, names) for name in named if name not in names]
        found += [f"key {name!r}: given twice" for name in named if name in placed]
        found += [f"missing key {name!r}" for name in required_fields(cls) if name not in (*placed, *named)]
        if found:
            raise problems(cls.__name__, found)
        make(self, *given, **named)

    cls.__init__ = init


def takes(cls: type, *places: str) -> Callable[[Callable[..., Returned]], Callable[..., Returned]]:
    """Lets a function of a config also take its fields, some by place and all by name.

    Example:
      >>> from scalearn_jax.config import ReportConfig
      >>> @takes(ReportConfig, "dir")
      ... def report(config):
      ...     return config.dir
      >>> report("runs/study"), report(ReportConfig(dir="runs/study"))
      ('runs/study', 'runs/study')
    """

    def decorate(function: Callable[..., Returned]) -> Callable[..., Returned]:
        where, (first, *own) = function.__name__, inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*given: Any, **named: Any) -> Returned:
            options = {name: named.pop(name) for name in own if name in named}
            given = (named.pop(first), *given) if first in named else given
            if len(given) == 1 and isinstance(given[0], cls):
                return function(from_dict(cls, vars(given[0]) | named, where=where) if named else given[0], **options)
            if len(given) > len(places) or {*places[: len(given)]} & {*named}:
                by_place = f", {' and '.join(places)} also by place" if places else ""
                expected = f"one {cls.__name__}, or its settings by name{by_place}"
                raise InputError(f"{where}: expected {expected}, got {format_value(given[-1])}.")
            return function(from_dict(cls, dict(zip(places, given, strict=False)) | named, where=where), **options)

        by_place = f", ``{', '.join(places)}`` also by place" if places else ""
        about = f"Instead of a ``{cls.__name__}`` it takes its settings, by name{by_place}."
        call.__doc__ = f"{inspect.getdoc(function)}\n\n{about}"
        return call

    return decorate


def _text(value: Any) -> str:
    return value[:100] if isinstance(value, str) else ""


def problems(where: str, found: list[str]) -> InputError:
    """Makes one error of all that is wrong in one place."""
    count = f"{len(found)} problems: " if len(found) > 1 else ""
    return InputError(f"{where}: {count}{'; '.join(found)}")


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Returns the declared type of every field, own and inherited."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def with_ranges(value: Any) -> Any:
    """Writes out ranges of whole numbers, and numbers as text, alone or in a list; anything else stays.

    A range that runs backwards or is too long is a ``ValueError`` with what is expected.

    Example:
      >>> with_ranges("0-3"), with_ranges([7, "8", "9-10"])
      ([0, 1, 2, 3], [7, 8, 9, 10])
    """
    if isinstance(value, str) and (ends := re.fullmatch(r"(-?\d{1,10})(?:-(\d{1,10}))?", value)):
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if not first <= last < first + 1000:
            raise ValueError("a range FIRST-LAST of at most a thousand numbers")
        return list(range(first, last + 1))
    if not isinstance(value, list | tuple):
        return value
    written = []
    for item in value:
        numbers = with_ranges(item) if isinstance(item, str) else [item]
        written += numbers if isinstance(numbers, list) else [numbers]
        if len(written) > _MAX_NUMBERS:
            raise ValueError(f"at most {_MAX_NUMBERS} numbers")
    return written


@functools.cache
def _reader(declared: Any) -> Any:
    """The function that checks and converts a value of a declared type."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(_strict(declared), config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python


def _strict(declared: Any) -> Any:
    """A declared type with how its values are taken, for pydantic."""
    from pydantic import BeforeValidator, Field

    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (types.UnionType, typing.Union):
        [inner] = (argument for argument in arguments if argument is not types.NoneType)
        return _strict(inner) | None
    if origin is tuple:
        read = BeforeValidator(functools.partial(_as_tuple, arguments[0]))
        return Annotated[tuple[_strict(arguments[0]), ...], read]
    if origin is dict:
        return dict[str, _strict(arguments[1])]
    if declared is int:
        return Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(_as_python)]
    if declared is str:
        return Annotated[str, Field(pattern=r"^[^\x00]*$"), BeforeValidator(_as_python)]
    return Annotated[declared, BeforeValidator(_as_python)]


def _as_python(value: Any) -> Any:
    """Makes Python's own of a number or truth value of an array library, and of a path."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if getattr(value, "shape", None) == () else value


def _as_tuple(item: Any, value: Any) -> tuple[Any, ...]:
    """Makes a tuple of what has an order; of whole numbers also from ranges such as ``"0-3"``."""
    value = with_ranges(value) if item is int else value
    if getattr(value, "ndim", None) == 1:
        value = value.tolist()
    if not isinstance(value, list | tuple | range):
        raise ValueError(f"a list of {_NAMES.get(typing.get_origin(item) or item, 'names')}")
    return tuple(value)


def _describe(name: str, problem: Any) -> str:
    """Writes one of pydantic's errors as a phrase."""
    kind, context = problem["type"], problem.get("ctx", {})
    expected = _EXPECTED.get(kind, problem["msg"])
    if kind == "value_error":
        expected = str(context["error"])
    elif kind == "literal_error":
        allowed = re.findall("'([^']*)'", context["expected"])
        nearest = difflib.get_close_matches(_text(problem["input"]), allowed, n=1)
        expected = f"one of {', '.join(allowed)}" + (f" (did you mean {nearest[0]!r}?)" if nearest else "")
    inside = "".join(f"[{format_value(part)}]" for part in problem["loc"])
    place = f" at {inside}" if inside else ""
    return f"key {name!r}: expected {expected}, got {format_value(problem['input'])}{place}"
