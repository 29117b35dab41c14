"""Strict YAML 1.2 files, JSON among them."""

import math
from pathlib import Path
from typing import Any

from scalearn_jax.errors import InputError, format_value
from scalearn_jax.io.files import MAX_DEPTH, read_text

MAX_BYTES = 1_000_000  # far above any real file; keeps a wrong one from filling the memory
_MAX_VALUES = 100_000  # likewise, once aliases are written out


def read_yaml(path: str | Path, *, pipes: bool = True) -> dict[str, Any]:
    """Reads a YAML or JSON file of keys and values; hyphens in its top-level keys count as underscores.

    Refused are tags such as ``!!int``, a key twice, and more than ``MAX_BYTES`` or, with its aliases written out,
    ``_MAX_VALUES``. For ``pipes`` see ``files.read_text``.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = read_text(Path(path), MAX_BYTES, pipes=pipes)
        _check_events(text)
        content = YAML(typ="safe", pure=True).load(text)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    except InputError:
        raise
    except (ValueError, YAMLError) as error:
        reason = str(error)
        if isinstance(error, MarkedYAMLError) and error.problem_mark:
            reason = f"{error.context or ''} {error.problem} in {_position(error.problem_mark)}"
        raise InputError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, got {format_value(content)}.")
    renamed = {}
    for name, value in content.items():
        name = name.replace("-", "_") if isinstance(name, str) else name
        if name in renamed:
            raise InputError(f"{path}: key {name!r} twice, with hyphens and with underscores; keep one.")
        renamed[name] = value
    return renamed


def _check_events(text: str) -> None:
    """Raises ``ValueError`` for what a document must not hold, before anything is made of it.

    With every alias written out the number of values is bounded; a node inside itself has no end.
    """
    from ruamel.yaml import YAML, events

    sizes, inside = {}, [[None, 0]]  # anchor -> number of values; [anchor, number of values so far] of open collections
    for event in YAML(typ="safe", pure=True).parse(text):
        where = _position(event.start_mark)
        if isinstance(event, events.DocumentStartEvent) and event.version not in (None, (1, 2)):
            raise ValueError(f"it asks for version {'.'.join(map(str, event.version))}; expected 1.2")
        if getattr(event, "tag", None):
            raise ValueError(f"the tag {event.tag} in {where}; remove it, values have the types that they look like")
        if isinstance(event, events.CollectionStartEvent | events.ScalarEvent) and event.anchor:
            if event.anchor in sizes:
                raise ValueError(f"the anchor &{event.anchor} in {where} comes twice; rename one")
            sizes[event.anchor] = 1 if isinstance(event, events.ScalarEvent) else math.inf  # until it is known
        if isinstance(event, events.CollectionStartEvent):
            inside.append([event.anchor, 1])
            if len(inside) > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} lists and mappings in each other, in {where}")
        elif isinstance(event, events.CollectionEndEvent):
            anchor, size = inside.pop()
            sizes[anchor] = size
            inside[-1][1] += size
        elif isinstance(event, events.ScalarEvent):
            inside[-1][1] += 1
        elif isinstance(event, events.AliasEvent):
            inside[-1][1] += sizes.get(event.anchor, 0)  # an unknown one is the reader's error
        if inside[-1][1] > _MAX_VALUES:
            raise ValueError(f"it has more than {_MAX_VALUES} values, or its aliases (*NAME) stand for as many")


def _position(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
