"""A finished run: read, score, explain, serve."""

from importlib import import_module
from typing import Any

_HOME = {"load_run": "load", "load_source": "sources"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
