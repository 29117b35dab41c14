"""What the command line prints as tables: the names one can choose from, and the scores of a run."""

import json
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from scalearn_jax.io import text_table as tables
from scalearn_jax.io.progress import format_duration as clock
from scalearn_jax.train.memory import format_bytes as words

_LABELS = 8  # that are named


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
        [name, task.kind, ", ".join(task.texts), _labels(task.labels), ", ".join(task.metrics)]
        for name, task in tasks.known().items()
    ]
    return tables.plain(["task", "kind", "text", "labels", "metrics (main first)"], rows)


def _labels(labels: Sequence[str]) -> str:
    """Names labels; of many the first."""
    shown = ", ".join(labels[:_LABELS])
    return f"{shown}, ... ({len(labels)})" if len(labels) > _LABELS else shown or "-"


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


def forecast(result: dict[str, Any]) -> str:
    """Lays out what ``plan`` returns: parameters, a line a program, memory, time and suggestions."""
    parameters, memory_, seconds = result["parameters"], result["memory"], result["seconds"]
    several = f"{result['num_devices']} x " if result["num_devices"] > 1 else ""
    verdict = {True: "fits", False: f"does not fit ({_largest(result)})", None: "unknown whether it fits"}[
        memory_["fits"]
    ]
    facts = [
        ["parameters", f"{parameters['trainable']:,} trainable: {parameters['transfer']:,} transfer, head the rest"],
        ["schedule", f"{result['steps']:,} steps, {result['evaluations']:,} evaluations, if no seed stops early"],
        [
            "memory",
            f"{words(memory_['needed'])} of {words(memory_['available'])} on {several}{result['device']}: {verdict}",
        ],
        [
            "time",
            f"{_duration(seconds['total'])}: " + ", ".join(f"{part} {_duration(seconds[part])}" for part in _PARTS),
        ],
        *_suggestions(result["suggestions"]),
    ]
    seeds = f"{len(result['seeds'])} seed{'s' if len(result['seeds']) > 1 else ''}"
    title = f"{result['method']} on {result['task']}, {seeds} together, batch size {result['batch_size']}"
    programs = tables.plain(_COLUMNS, [_program(program) for program in result["programs"]])
    return "\n".join([title, "", *(f"{name.ljust(13)}{text}" for name, text in facts), "", programs])


_PARTS = ("prepare", "compile", "train", "evaluate")
_COLUMNS = "program,rows x length,calls,arguments,temporaries,output,peak,GFLOP a call,s a call,s to compile".split(",")


def as_json(result: dict[str, Any]) -> str:
    """Writes a result as JSON."""
    return json.dumps(result, indent=2)


def _program(program: dict[str, Any]) -> list[str]:
    need, shape = program["memory"] or {}, f"{program['rows']} x {program['length']}"
    sizes = [words(need.get(name)) for name in ("arguments", "temporaries", "output", "peak")]
    flops = "-" if program["flops"] is None else f"{program['flops'] / 1e9:.3g}"
    call = "-" if program["seconds"] is None else f"{program['seconds']:.3g}"
    return [program["name"], shape, f"{program['calls']:,}", *sizes, flops, call, f"{program['compile_seconds']:.1f}"]


def _largest(result: dict[str, Any]) -> str:
    """Says which program takes most memory, and which flag makes it smaller."""
    sized = [program for program in result["programs"] if program["memory"]]
    name = max(sized, key=lambda program: program["memory"]["peak"], default={"name": "train"})["name"]
    return f"{name} needs most: lower {'--batch-size' if name == 'train' else '--eval-batch-size'}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def _suggestions(found: dict[str, Any] | None) -> list[list[str]]:
    """The line of the largest batch, where there is an estimate."""
    if not found:
        return []
    best = found["batch_size"]
    return [["largest", f"--batch-size {best['value']} (an estimate: about {words(best['peak'])})"]]
