"""What the command line prints as tables: the names one can choose from, and the scores of a run."""

import json
from statistics import fmean, stdev
from typing import Any

from scalearn_jax import tables


def listing(what: str) -> str:
    """Lists tasks, methods or backbones.

    Args:
      what: ``"tasks"``, ``"methods"`` or ``"backbones"``.

    Returns:
      A table.

    Example:
      >>> print(listing("backbones").splitlines()[0].split())
      ['model_type', 'about']
    """
    return {"tasks": _tasks, "methods": _methods, "backbones": _backbones}[what]()


def _tasks() -> str:
    from scalearn_jax.data import tasks

    rows = [
        [name, task.kind, ", ".join(task.texts), ", ".join(task.labels) or "-", ", ".join(task.metrics)]
        for name, task in tasks.known().items()
    ]
    return tables.plain(["task", "kind", "text", "labels", "metrics (main first)"], rows)


def _methods() -> str:
    from scalearn_jax.methods import METHODS

    rows = [
        [name, f"{row.learning_rate:g}", "yes" if row.uses_sources else "no", ", ".join(row.trainable), row.about]
        for name, row in METHODS.items()
    ]
    return tables.plain(["method", "rate", "sources", "trains", "about"], rows)


def _backbones() -> str:
    from scalearn_jax.models.backbones import BACKBONES

    return tables.plain(["model_type", "about"], [[name, row.about] for name, row in BACKBONES.items()])


def scores(result: dict[str, Any]) -> str:
    """Lays out what ``evaluate`` returns: a line a seed, and mean and sample standard deviation of several.

    Example:
      >>> seeds = {"0": {"accuracy": 0.5}, "1": {"accuracy": 0.7}}
      >>> print(scores({"run": "r", "task": "glue/rte", "split": "test", "seeds": seeds}))
      r: glue/rte, test split
      seed  accuracy
      ----  --------
      0     0.5000
      1     0.7000
      mean  0.6000
      sd    0.1414
    """
    seeds = result["seeds"]
    names = list(next(iter(seeds.values())))
    rows = [[str(seed), *(f"{values[name]:.4f}" for name in names)] for seed, values in seeds.items()]
    if len(seeds) > 1:
        for title, statistic in (("mean", fmean), ("sd", stdev)):
            rows.append([title, *(f"{statistic([v[name] for v in seeds.values()]):.4f}" for name in names)])
    return f"{result['run']}: {result['task']}, {result['split']} split\n{tables.plain(['seed', *names], rows)}"


def as_json(result: dict[str, Any]) -> str:
    """Writes a result as JSON."""
    return json.dumps(result, indent=2)
