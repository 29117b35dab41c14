"""Strict YAML files."""

import functools
import typing
from pathlib import Path
from typing import Any

from scalearn_jax.errors import InputError, format_value
from scalearn_jax.io.files import read_text

MAX_BYTES = 1_000_000  # far above any real file; keeps a wrong one from filling the memory
_MAX_VALUES = 100_000  # likewise, once aliases are written out
# What the YAML reader raises beside its own error, mostly where a value is none of the type that its tag (!!int) says.
_DAMAGES = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(path: str | Path, *, pipes: bool = True) -> dict[str, Any]:
    """Reads a YAML or JSON file of keys and values; hyphens in its top-level keys count as underscores.

    Args:
      path: the file.
      pipes: see ``files.read_text``.

    Raises:
      InputError: no such file, too large (also once its aliases are written out), not YAML, a key twice, or not keys
        and values.
    """
    import yaml

    try:
        content = _load(read_text(Path(path), MAX_BYTES, pipes=pipes))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    except (*_DAMAGES, yaml.YAMLError) as error:
        if isinstance(error, InputError):
            raise
        kind = "" if isinstance(error, yaml.YAMLError | ValueError) else f"{type(error).__name__}: "
        raise InputError(f"{path} is not valid YAML: {kind}{error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, got {format_value(content)}.")
    names = [name.replace("-", "_") if isinstance(name, str) else name for name in content]
    if double := _first_double(names):
        raise InputError(f"{path}: key {double!r} twice, with hyphens and with underscores; keep one.")
    return dict(zip(names, content.values(), strict=True))


def _load(text: str) -> Any:
    """Reads a YAML document once it is known how much its aliases make of it."""
    loader = _loader()(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _written_out(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _written_out(node: Any, sizes: dict[int, int]) -> int:
    """Counts the values of a YAML node with every alias written out.

    Raises:
      ValueError: too many, or a node inside itself.
    """
    if id(node) not in sizes:
        sizes[id(node)] = _MAX_VALUES  # until it is known: what is inside itself has no end
        inner = node.value if isinstance(node.value, list) else []
        parts = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        sizes[id(node)] = 1 + sum(_written_out(part, sizes) for part in parts)
    if sizes[id(node)] > _MAX_VALUES:
        raise ValueError(f"its aliases (*NAME) stand for more than {_MAX_VALUES} values")
    return sizes[id(node)]


def _first_double(names: list[Any]) -> Any:
    """The first of some names that comes twice; a name that cannot be a key counts as none."""
    seen = set()
    for name in names:
        if isinstance(name, typing.Hashable) and (name in seen or seen.add(name)):
            return name
    return None


@functools.cache
def _loader() -> type:
    """A safe YAML loader that refuses a key given twice, where YAML would silently keep the last.

    It also refuses numbers to the base of 60, by which YAML makes 750 of ``12:30``: long ones take minutes.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            merge = "tag:yaml.org,2002:merge"
            names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
            if double := _first_double(names):
                raise yaml.constructor.ConstructorError(None, None, f"key {double!r} twice", node.start_mark)
            return super().construct_mapping(node, deep)

        def construct_scalar(self, node):
            text = super().construct_scalar(node)
            if node.tag in _NUMBERS and ":" in text:
                problem = f"{format_value(text)} is a number to the base of 60 to YAML; quote it"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            return text

    return Loader
