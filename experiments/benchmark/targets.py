"""What the benchmark's cells come to: rounds joined, ratios, and what was aimed at."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Results = dict[str, dict[str, Any]]


class Target(NamedTuple):
    """One aim: what, the limit in words, how the figure is found, whether it is met, and how it is written."""

    text: str
    limit: str
    value: Callable[[Results], float]
    met: Callable[[float], bool]
    form: str = "{:.2f}"


def load(out: Path) -> Results:
    """Reads all cells; of a cell's rounds the fastest time and the highest memory count.

    Returns:
      ``{name without its round: result}``.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((out / "cells").rglob("*.json")):
        content = json.loads(path.read_text())
        name, _, number = content["cell"].rpartition(".")
        found.setdefault(name if number.isdigit() else content["cell"], []).append(content["result"])
    return {name: merge(rounds) for name, rounds in found.items()}


def merge(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins the rounds of a cell: least ``seconds`` and ``median``, most ``memory`` and matrix-product speed."""
    merged = dict(rounds[-1])
    for name, best in (("seconds", min), ("median", min), ("memory", max)):
        values = [entry[name] for entry in rounds if entry.get(name) is not None]
        merged |= {name: best(values)} if values else {}
    for kind in ("float32", "bfloat16"):
        if kind in merged:
            merged[kind] = {shape: max(entry[kind][shape] for entry in rounds) for shape in merged[kind]}
    return merged


def ratio(results: Results, name: str, other: str, key: str = "seconds") -> float:
    """One cell's figure over another's; raises KeyError where either is missing."""
    if None in (results[name][key], results[other][key]):
        raise KeyError(key)
    return results[name][key] / results[other][key]


def tasks(results: Results) -> list[str]:
    """The tasks whose three cells are there."""
    names = [name.split("/")[1] for name in results if name.startswith("tasks/") and name.endswith("/packed")]
    return [name for name in names if f"tasks/{name}/torch" in results]


def over_tasks(results: Results, name: str, other: str, key: str = "seconds") -> float:
    """Geometric mean over the tasks of one side's figure over the other's."""
    ratios = [ratio(results, f"tasks/{task}/{name}", f"tasks/{task}/{other}", key) for task in tasks(results)]
    if not ratios:
        raise KeyError("tasks")
    return statistics.geometric_mean(ratios)


def peak(results: Results) -> float:
    """The fastest matrix product of either side, in operations a second."""
    sides = [entry["float32"] for name, entry in results.items() if name.startswith("peak/")]
    if not sides:
        raise KeyError("peak")
    return max(rate for side in sides for rate in side.values())


def share(results: Results, name: str) -> float:
    """What part of the machine's speed at large products a step's needed operations reach."""
    return results[name]["needed_flops"] / results[name]["seconds"] / peak(results)


def worst_variant(results: Results, num_sources: int) -> float:
    """The slowest ScaLearn variant over the single adapter, at T sources."""
    names = [name for name in results if name.startswith(f"sources/{num_sources}/scalearn")]
    if not names:
        raise KeyError(num_sources)
    return max(ratio(results, name, "sources/single") for name in names)


def worst_flops(results: Results) -> float:
    """The largest ratio of compiled to needed operations, over the methods."""
    names = [name for name in results if name.startswith("methods/full/") and "needed_flops" in results[name]]
    if not names:
        raise KeyError("methods")
    return max(results[name]["flops"] / results[name]["needed_flops"] for name in names)


def worst_exchange(results: Results) -> float:
    """The most bytes exchanged for each byte of trainable parameters, over the methods."""
    entries = [entry for name, entry in results.items() if name.startswith("collectives/")]
    if not entries:
        raise KeyError("collectives")
    return max(entry["total"] / (4 * entry["trainable"]) for entry in entries)


def below(limit: float) -> Callable[[float], bool]:
    """Whether a figure is at most this."""
    return lambda value: value <= limit


def above(limit: float) -> Callable[[float], bool]:
    """Whether a figure is at least this."""
    return lambda value: value >= limit


TARGETS = (
    Target(
        "PyTorch's ScaLearn step, padded to 128, / ours, packed, geometric mean over tasks",
        ">= 6",
        lambda r: 1 / over_tasks(r, "packed", "torch"),
        above(6),
    ),
    Target(
        "peak memory of our step / PyTorch's, geometric mean over tasks",
        "<= 1/3",
        lambda r: over_tasks(r, "packed", "torch", "memory"),
        below(1 / 3),
        "{:.3f}",
    ),
    Target("any ScaLearn variant / single, 8 sources", "<= 1.10", lambda r: worst_variant(r, 8), below(1.10)),
    Target("any ScaLearn variant / single, 64 sources", "<= 1.6", lambda r: worst_variant(r, 64), below(1.6)),
    Target(
        "AdapterFusion / single, 8 sources",
        "<= 1.5",
        lambda r: ratio(r, "sources/8/fusion", "sources/single"),
        below(1.5),
    ),
    Target("compiled / needed operations, any method", "<= 1.05", worst_flops, below(1.05), "{:.3f}"),
    Target("bytes exchanged / bytes of trainable parameters, 8 devices", "<= 1.1", worst_exchange, below(1.1)),
    Target(
        "share of the matrix-product peak, ScaLearn, full rows",
        ">= 60 %",
        lambda r: 100 * share(r, "methods/full/scalearn"),
        above(60),
        "{:.0f} %",
    ),
    Target("`scalearn --help`", "< 0.5 s", lambda r: r["start/help"]["seconds"], lambda v: v < 0.5, "{:.2f} s"),
    Target(
        "first step of `scalearn transfer`, warm caches",
        "< 8 s",
        lambda r: r["start/first-step"]["seconds"],
        lambda v: v < 8,
        "{:.1f} s",
    ),
)
