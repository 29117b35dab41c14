"""Command-line flags of a config: YAML file first, flags win."""

import contextlib
import dataclasses
import difflib
import inspect
import io
import re
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any

from scalearn_jax.config.checks import check_no_secrets
from scalearn_jax.config.schema import check_values, field_texts, field_types, problems, required_fields, with_ranges
from scalearn_jax.errors import InputError
from scalearn_jax.io.yaml_file import read_yaml
from scalearn_jax.methods import JOINT, METHODS

_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}
# How help groups the flags of a long command, in this order and those that most need first; others come before them.
_GROUPS = {
    "essential": "task tasks target targets sources method fit backbone out data_dir seeds",
    "data": "max_length max_train_samples sample_seed max_dev_samples max_eval_samples packed",
    "training": "epochs max_steps batch_size learning_rate learning_rates warmup_steps weight_decay clip_norm optimizer"
    " patience eval_every select temperature sampler_seed backbone_dropout eval_batch_size log_every max_faults",
    "method": "reduction_factor non_linearity solve_samples omega_dropout omega_init normalise penalty weights"
    " top_sources embedder similarity_samples coefficients masks ffn_scale compose",
    "trust": "revision allow_pickle any_base_model",
    "checkpoint": "checkpoint_every checkpoint_minutes keep_checkpoints restart",
    "speed_and_memory": "dtype frozen_dtype layers remat accumulate steps_per_dispatch mesh",
    "process": "coordinator num_processes process_id start_timeout heartbeat_timeout",
}
_LONG = 20  # flags of a command that help groups


def parse(cls: type, argv: Sequence[str], *, prog: str, positional: str | None = None, example: str = "") -> Any:
    """Reads a config of the dataclass ``cls`` from the arguments after the command; help exits, as ``SystemExit``.

    ``prog`` is what help and errors call the command. ``positional`` names a field that is given without a flag, or
    several with blanks between; without one, ``--config FILE`` is understood. ``example`` is of the arguments.

    Example:
      >>> from scalearn_jax.config import ReportConfig
      >>> parse(ReportConfig, ["runs/study"], prog="scalearn report", positional="dir").dir
      'runs/study'
    """
    import tyro

    check_no_secrets({"the command line": tuple(argv)})  # the parser's own errors would repeat one
    argv, given = _take_config(cls, argv) if positional is None else (argv, {})
    places = (positional or "").split()
    argv = _check_names(cls, argv, places, given, f"{prog} {example}")
    if not {"-h", "--help"} & {*argv}:
        seen = _check_values(cls, argv, places) | given.keys()
        for name in [name for name in required_fields(cls) if name not in seen][:1]:
            called, text = _called(cls, name, places), field_texts(cls)[name]
            where = prog.removeprefix("scalearn ")
            raise InputError(f"{where}: expected {called}, got nothing. {text} For instance: {prog} {example}")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            view = tyro.cli(
                tyro.conf.OmitArgPrefixes[_view(cls, positional, given)],
                args=argv,
                prog=prog,
                description=inspect.getdoc(cls),
            )
    except SystemExit as stop:
        if not stop.code:  # help was asked for
            raise
        boxed = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]|-{4,}", " ", printed.getvalue())
        raise InputError(boxed) from stop
    values = {}
    for name, value in vars(view).items():
        values |= vars(value) if name in _GROUPS else {name: value}
    return cls(**{name: values[name] for name in field_types(cls)})


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


def _check_names(
    cls: type, argv: Sequence[str], places: Sequence[str], given: dict[str, Any], example: str
) -> list[str]:
    """Fails on a flag that is unknown, or not needed, or given twice; leaves out what turns off what is off already."""
    kinds, kept, seen = field_types(cls), [], set()
    on = {field.name for field in dataclasses.fields(cls) if field.default is True}
    off = {f"no-{name}": name for name in on | {name for name, value in given.items() if value is True}}
    known = {"help", *off, *kinds} - {*places} | ({"config"} if not places else set())
    for number, argument in enumerate(argv):
        if argument == "--":
            return [*kept, *argv[number:]]
        name = argument.removeprefix("--").split("=")[0].replace("-", "_")
        name = f"no-{name[3:]}" if name.startswith("no_") and name not in kinds else name
        flag = f"--{name.replace('_', '-')}"
        if not argument.startswith("--"):
            kept.append(argument)
            continue
        if name in places:
            called = _called(cls, name, places)
            raise InputError(f"unknown flag {flag}; {called} is given without one, for instance: {example}")
        if name not in known:
            flags = [word.replace("_", "-") for word in sorted(known)]
            nearest = difflib.get_close_matches(flag.removeprefix("--"), flags, n=1)
            raise InputError(f"unknown flag {flag}; " + (f"did you mean --{nearest[0]}?" if nearest else "see --help."))
        if off.get(name, name) in seen:
            values = ", with all values after it" if _item(kinds.get(name, bool))[1] else ""
            raise InputError(f"{flag}: given twice; give it once{values}.")
        seen.add(off.get(name, name))
        if name not in off or given.get(off[name]) is not False:
            kept.append(argument)
    return kept


def _check_values(cls: type, argv: Sequence[str], places: Sequence[str]) -> set[str]:
    """Fails on a value that a flag does not take, one too many or too few, shorter than the parser would.

    ``places`` are the fields without a flag. Returns the names of the fields that have a value.
    """
    declared, pending, loose, seen = field_types(cls), list(argv), [], set()
    while pending:
        flag, has_value, value = pending.pop(0).partition("=")
        if flag == "--":
            loose += pending
            break
        if not flag.startswith("--"):
            if _is_short(flag):
                raise InputError(f"unknown flag {flag}; flags begin with two dashes, see --help.")
            loose.append(flag + has_value + value)
            continue
        name = flag.removeprefix("--").replace("-", "_")
        kind, several = _item(declared.get(name, bool))  # else --no-NAME
        seen.add(name)
        values = [value] if has_value else []
        takes = 0 if kind is bool else len(pending) if several else 1 - len(values)
        while takes and pending and not pending[0].startswith("--"):
            values.append(pending.pop(0))
            takes -= 1
        if kind is bool and values:
            raise InputError(f"{flag} takes no value, got {value!r}; leave it out.")
        if not values and kind is not bool:
            raise InputError(f"{flag}: expected {_expected(kind)} after it, got nothing; see --help.")
        for one in values:
            if _is_short(one) and not has_value:
                raise InputError(f"{flag}: expected {_expected(kind)} after it, got {one!r}; else write {flag}={one}.")
            _check_value(flag, one, kind, several)
    for name, value in zip(places, loose, strict=False):
        _check_value(name.upper(), value, *_item(declared[name]))
    if len(loose) > len(places):
        raise InputError(f"unexpected {loose[len(places)]!r}: no flag before it takes it; see --help.")
    return seen | {*places[: len(loose)]}


def _is_short(text: str) -> bool:
    """Whether the parser takes a text for a flag of one dash, of which there are none; numbers are not."""
    return bool(re.match(r"-(?![-.\d]|$)", text))


def _check_value(flag: str, value: str, kind: Any, several: bool) -> None:
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    if choices and value not in choices:
        nearest = difflib.get_close_matches(value, choices, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else "."
        raise InputError(f"{flag}: expected {_expected(kind)}, got {value!r}{hint}")
    if kind is str and not value:
        raise InputError(f"{flag} is empty; expected a text.")
    expected = _expected(kind)
    try:
        if kind is int and several:  # they may be ranges, which the config writes out
            expected = "a whole number or a range FIRST-LAST of at most a thousand"
            if with_ranges(value) == value:
                raise ValueError
        elif kind in (int, float):
            kind(value)
    except ValueError:
        raise InputError(f"{flag}: expected {expected}, got {value!r}.") from None


def _expected(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    return {int: "a whole number", float: "a number"}.get(kind, "a text")


def _called(cls: type, name: str, places: Sequence[str]) -> str:
    """What help calls a field: ``--task TEXT``, or ``DIR`` where it needs no flag."""
    [field] = [field for field in dataclasses.fields(cls) if field.name == name]
    placeholder = _placeholder(field_types(cls)[name], field.metadata.get("metavar")) or ""
    return placeholder if name in places else f"--{name.replace('_', '-')} {placeholder}".strip()


def _item(declared: Any) -> tuple[Any, bool]:
    """The type of one value of a field, and whether it takes several; ``None``, "not given", aside."""
    if typing.get_origin(declared) in (types.UnionType, typing.Union):
        return _item(typing.get_args(declared)[0])
    if typing.get_origin(declared) is tuple:
        return typing.get_args(declared)[0], True
    return declared, False


def _view(cls: type, positional: str | None, given: dict[str, Any]) -> type:
    """Makes the dataclass that tyro reads, with help, placeholders and a file's values; see ``_grouped``."""
    helps, hints, fields = field_texts(cls), field_types(cls), {}
    for field in dataclasses.fields(cls):
        default, declared = given.get(field.name, field.default), hints[field.name]
        placeholder = _placeholder(declared, field.metadata.get("metavar"))
        if placeholder == "N [N ...]":  # text until the config is made, which writes out ranges such as 0-9
            declared = tuple[str, ...] | None
            default = tuple(map(str, default)) if isinstance(default, tuple) else default
        hint = _hint(default)
        if default is None and field.name in ("learning_rate", "epochs", "patience"):
            known = METHODS if cls.method in METHODS else JOINT
            method = known.get(given.get("method", cls.method), known[cls.method])  # an unknown one fails later
            hint = f"(default: {getattr(method, field.name):g}, by the method)"
        unflagged = field.name in (positional or "").split()
        fields[field.name] = _declare(declared, default, helps[field.name], placeholder, unflagged, hint), default
    if positional is None:
        text = "YAML file with any of these settings; flags win over it."
        fields["config"] = _declare(str | None, None, text, "FILE", False, "(default: none)"), None
    return _grouped(cls.__name__, fields)


def _grouped(name: str, fields: dict[str, tuple[Any, Any]]) -> type:
    """Makes a dataclass of fields, name -> (type, default), required ones first; many are in one of a group each."""

    def make(name: str, members: dict[str, tuple[Any, Any]], *groups: tuple[str, type]) -> type:
        needed = [(key, declared) for key, (declared, default) in members.items() if default is dataclasses.MISSING]
        rest = {key: field for key, field in members.items() if field[1] is not dataclasses.MISSING}
        given = [(key, declared, dataclasses.field(default=default)) for key, (declared, default) in rest.items()]
        return dataclasses.make_dataclass(name, [*needed, *given, *groups], kw_only=True, frozen=True)

    if len(fields) < _LONG:
        return make(name, fields)
    groups, rest = [], dict(fields)
    for group, names in _GROUPS.items():
        members = {member: rest.pop(member) for member in names.split() if member in rest}
        if members:
            groups.append((group, make(group, members)))
    return make(name, rest, *groups)


def _declare(declared: Any, default: Any, text: str, placeholder: str | None, positional: bool, hint: str) -> Any:
    import tyro

    marks = [tyro.conf.arg(help=text, metavar=placeholder, help_behavior_hint=hint)]
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
