"""The paper's numbers, of base models: test scores in percent, mean over seeds, from the official repository's tables.

A table is one suite on one backbone. RTE stands in both GLUE and SuperGLUE, with other source adapters.
"""

import functools
import json
from importlib import resources
from typing import Any

from scalearn_jax.errors import unknown


@functools.cache
def _tables() -> dict[str, dict[str, Any]]:
    return json.loads(resources.files("scalearn_jax.studies").joinpath("published.json").read_text(encoding="utf-8"))


def names() -> list[str]:
    """Lists the tables.

    Example:
      >>> names()
      ['glue/roberta-base', 'superglue/roberta-base', 'humset/xlm-roberta-base']
    """
    return list(_tables())


def get(table: str) -> dict[str, Any]:
    """Looks up a table.

    Args:
      table: its name.

    Returns:
      ``backbone``; ``tasks``, the names of its columns; ``scores``, method -> a number a task; ``averages``,
      method -> its average as published.

    Raises:
      InputError: unknown name; the nearest is named.
    """
    if table not in _tables():
        raise unknown("published table", table, _tables())
    return _tables()[table]


def lookup(table: str, method: str, task: str) -> float | None:
    """Looks up one number.

    Args:
      table: see ``names``.
      method: a row of ``METHODS``, or a baseline that only the paper has.
      task: the target.

    Returns:
      The score in percent, or ``None`` where the paper has none.

    Raises:
      InputError: unknown table.

    Example:
      >>> lookup("glue/roberta-base", "fusion", "glue/rte")
      79.49
    """
    found = get(table)
    if method not in found["scores"] or task not in found["tasks"]:
        return None
    return found["scores"][method][found["tasks"].index(task)]
