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
from scalearn_jax.config.schema import check_values, field_types, problems, with_ranges
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
    given = {}
    if positional is None:
        argv, paths = _take_config(argv)
        given = _from_file(cls, paths)
    _check_names(cls, argv)
    argv = _without_ranges(cls, argv)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            view = tyro.cli(_view(cls, positional, given), args=argv, prog=prog, description=inspect.getdoc(cls))
    except SystemExit as stop:
        if not stop.code:  # help was asked for
            raise
        raise InputError(_one_line(said.getvalue())) from stop
    return cls(**{name: getattr(view, name) for name in field_types(cls)})


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


def _without_ranges(cls: type, argv: Sequence[str]) -> list[str]:
    """Writes out ranges such as 0-9 after flags that take whole numbers."""
    names = {f"--{name}".replace("_", "-") for name, kind in field_types(cls).items() if "tuple[int" in str(kind)}
    parts, inside = [], False
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name in names and equals:
            parts, inside = [*parts, name], True
        elif argument.startswith("--"):
            inside, value = argument in names, argument
        else:
            value = argument
        try:
            written = with_ranges(value) if inside else value
        except ValueError as error:
            raise InputError(f"{value}: expected {error}.") from None
        parts += map(str, written) if isinstance(written, list) else [written]
    return parts


def _one_line(text: str) -> str:
    """Takes the parser's box of several lines down to its words."""
    words = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]|-{4,}", " ", text)
    return re.sub(r"\s+", " ", words).strip()


def _take_config(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts the arguments from the values of ``--config``."""
    rest, paths, following = [], [], False
    for argument in argv:
        if following or argument.startswith("--config="):
            paths.append(argument.removeprefix("--config="))
        elif argument != "--config":
            rest.append(argument)
        following = argument == "--config" and not following
    if following or len(paths) > 1:
        raise InputError("--config: expected one file name after it.")
    return rest, paths


def _from_file(cls: type, paths: Sequence[str]) -> dict[str, Any]:
    for path in paths:
        values, found = check_values(cls, read_yaml(path))
        if found:
            raise problems(path, found)
        return values
    return {}


def _view(cls: type, positional: str | None, given: dict[str, Any]) -> type:
    """Makes the dataclass that tyro reads: required fields first, with help, placeholders and a file's values."""
    helps, hints, required, optional = field_help(cls), field_types(cls), [], []
    for field in dataclasses.fields(cls):
        default = given.get(field.name, field.default)
        unflagged = field.name in (positional or "").split()
        metavar = field.metadata.get("metavar")
        declared = _declare(hints[field.name], default, helps[field.name], metavar, unflagged)
        if default is dataclasses.MISSING:
            required.append((field.name, declared))
        else:
            optional.append((field.name, declared, dataclasses.field(default=default)))
    if positional is None:
        text = "YAML file with any of these settings; flags win over it."
        optional.append(("config", _declare(str | None, None, text, "FILE", False), dataclasses.field(default=None)))
    return dataclasses.make_dataclass(cls.__name__, [*required, *optional], kw_only=True, frozen=True)


def _declare(declared: Any, default: Any, text: str, metavar: str | None, positional: bool) -> Any:
    """Annotates a type for tyro."""
    import tyro

    marks = [tyro.conf.arg(help=text, metavar=_placeholder(declared, metavar), help_behavior_hint=_hint(default))]
    if positional:
        marks.append(tyro.conf.Positional)
    if default is False:
        marks.append(tyro.conf.FlagCreatePairsOff)  # no --no-X where X is off already
    return Annotated[declared, *marks]


def _placeholder(declared: Any, own: str | None) -> str | None:
    """Names what a flag takes; ``None``, which stands for "not given", is not offered."""
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
