"""Command-line flags of a config: YAML file first, flags win."""

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any

from scalearn_jax.config.checks import check_no_secrets
from scalearn_jax.config.schema import check_values, field_types, problems
from scalearn_jax.errors import InputError
from scalearn_jax.io.yaml_file import read_yaml

_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}


def parse(cls: type, argv: Sequence[str], *, prog: str, positional: str | None = None) -> Any:
    """Reads a config from the command line.

    Args:
      cls: a config dataclass.
      argv: the arguments after the command.
      prog: what help and errors call the command.
      positional: a field that is given without a flag, or several with blanks between; without one, ``--config FILE``
        is understood.

    Returns:
      An instance of ``cls``.

    Raises:
      InputError: a bad value, a bad ``--config`` file, or flags that are unknown, missing or malformed.
      SystemExit: help was asked for.

    Example:
      >>> from scalearn_jax.config import ReportConfig
      >>> parse(ReportConfig, ["runs/study"], prog="scalearn report", positional="dir").dir
      'runs/study'
    """
    import tyro

    check_no_secrets({"the command line": tuple(argv)})  # the parser's own errors would repeat one
    argv, given = _take_config(cls, argv) if positional is None else (argv, {})
    _check_names(cls, argv)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            view = tyro.cli(_view(cls, positional, given), args=argv, prog=prog, description=inspect.getdoc(cls))
    except SystemExit as stop:
        if not stop.code:  # help was asked for
            raise
        boxed = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]|-{4,}", " ", printed.getvalue())
        raise InputError(boxed) from stop
    return cls(**{name: getattr(view, name) for name in field_types(cls)})


def _take_config(cls: type, argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Separates the arguments from ``--config FILE``, and reads that file's values."""
    rest, paths, remaining = [], [], iter(argv)
    for argument in remaining:
        if argument == "--config":
            paths.append(next(remaining, None))
        elif argument.startswith("--config="):
            paths.append(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    if None in paths or len(paths) > 1:
        raise InputError("--config: expected one file name after it.")
    values, found = check_values(cls, read_yaml(paths[0])) if paths else ({}, [])
    if found:
        raise problems(paths[0], found)
    return rest, values


def _check_names(cls: type, argv: Sequence[str]) -> None:
    """Fails on an unknown flag, naming the nearest."""
    fields = [name.replace("_", "-") for name in field_types(cls)]
    known = {"help", "config", *fields, *(f"no-{name}" for name in fields)}
    for argument in argv:
        name = argument.removeprefix("--").split("=")[0].replace("_", "-")
        if argument.startswith("--") and name and name not in known:
            nearest = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean --{nearest[0]}?" if nearest else "see --help."
            raise InputError(f"unknown flag --{name}; {hint}")


def _view(cls: type, positional: str | None, given: dict[str, Any]) -> type:
    """Makes the dataclass that tyro reads: required fields first, with help, placeholders and a file's values."""
    helps, hints, required, optional = field_help(cls), field_types(cls), [], []
    for field in dataclasses.fields(cls):
        default, declared = given.get(field.name, field.default), hints[field.name]
        placeholder = _placeholder(declared, field.metadata.get("metavar"))
        if placeholder == "N [N ...]":  # text until the config is made, which writes out ranges such as 0-9
            declared = tuple[str, ...] | None
            default = tuple(map(str, default)) if isinstance(default, tuple) else default
        unflagged = field.name in (positional or "").split()
        declared = _declare(declared, default, helps[field.name], placeholder, unflagged)
        if default is dataclasses.MISSING:
            required.append((field.name, declared))
        else:
            optional.append((field.name, declared, dataclasses.field(default=default)))
    if positional is None:
        text = "YAML file with any of these settings; flags win over it."
        optional.append(("config", _declare(str | None, None, text, "FILE", False), dataclasses.field(default=None)))
    return dataclasses.make_dataclass(cls.__name__, [*required, *optional], kw_only=True, frozen=True)


def _declare(declared: Any, default: Any, text: str, placeholder: str | None, positional: bool) -> Any:
    """Annotates a type for tyro."""
    import tyro

    marks = [tyro.conf.arg(help=text, metavar=placeholder, help_behavior_hint=_hint(default))]
    if positional:
        marks.append(tyro.conf.Positional)
    if default is False:
        marks.append(tyro.conf.FlagCreatePairsOff)  # no --no-X where X is off already
    return Annotated[declared, *marks]


def _placeholder(declared: Any, own: str | None) -> str | None:
    """Names what a flag takes; ``None``, "not given", is not offered."""
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (types.UnionType, typing.Union):
        return _placeholder(arguments[0], own)
    if origin is typing.Literal:
        return "{" + ",".join(arguments) + "}"
    if origin is tuple:
        item = _placeholder(arguments[0], own)
        return f"{item} [{item} ...]"
    return own or _PLACEHOLDERS.get(declared)


def _hint(default: Any) -> str:
    if default is dataclasses.MISSING:
        return "(required)"
    if isinstance(default, bool):
        return f"(default: {'yes' if default else 'no'})"
    if default is None or default == ():
        return ""
    return f"(default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"


@functools.cache
def field_help(cls: type) -> dict[str, str]:
    """Collects the text under each field of a config, inherited fields included.

    Example:
      >>> from scalearn_jax.config import ReportConfig
      >>> field_help(ReportConfig)["dir"]
      'Results folder of a study.'
    """
    texts = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                texts[field.target.id] = " ".join(text.value.value.split())  # the terminal wraps lines
    return texts
