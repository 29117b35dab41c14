"""Turns the benchmark's cells into Markdown: what was aimed at and met, then every figure."""

import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
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


def peak(results: Results, side: str = "ours") -> float:
    """The fastest matrix product of a side, in operations a second."""
    return max(results[f"peak/{side}"]["float32"].values())


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
        "PyTorch's ScaLearn step / ours, packed, geometric mean over tasks",
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


def targets(results: Results) -> list[str]:
    """The table of targets: target, limit, measured, met or missed."""
    rows = []
    for target in TARGETS:
        try:
            value = target.value(results)
            rows.append(
                (target.text, target.limit, target.form.format(value), "met" if target.met(value) else "missed")
            )
        except KeyError:
            rows.append((target.text, target.limit, "not measured", ""))
    return table(("target", "limit", "measured", ""), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table, with an empty line after it; none without rows."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines, ""] if lines else []


def number(entry: dict[str, Any], key: str, form: str = "{:.3f}", unit: float = 1.0) -> str:
    """One figure of a cell, or a dash."""
    value = entry.get(key)
    return "-" if value is None else form.format(value / unit)


def task_table(results: Results) -> list[str]:
    """Seconds a step and memory of both sides on each task."""
    head = (
        "task",
        "rows",
        "packed s",
        "padded s",
        "PyTorch s",
        "PyTorch / packed",
        "padded / packed",
        "MB",
        "PyTorch MB",
    )
    rows = []
    for task in tasks(results):
        packed, padded, torch = (results.get(f"tasks/{task}/{side}", {}) for side in ("packed", "padded", "torch"))
        times = [number(entry, "seconds") for entry in (packed, padded, torch)]
        factors = [
            number({"x": entry.get("seconds", math.nan)}, "x", "{:.2f}", packed["seconds"]) for entry in (torch, padded)
        ]
        memory = [number(entry, "memory", "{:.0f}", 1e6) for entry in (packed, torch)]
        rows.append((task, number(packed, "rows", "{:.1f}"), *times, *factors, *memory))
    return table(head, rows)


def step_table(results: Results, prefix: str, base: str) -> list[str]:
    """Everything about the steps below a prefix, with ratios to one of them."""
    head = (
        "step",
        "s",
        "median s",
        "/ single",
        "GFLOP",
        "needed",
        "ratio",
        "share of peak",
        "temp MB",
        "memory MB",
        "trained",
    )
    rows = []
    for name, entry in sorted(
        results.items(), key=lambda item: [int(p) if p.isdigit() else 0 for p in item[0].split("/")]
    ):
        if not name.startswith(prefix) or "seconds" not in entry:
            continue
        has_flops, has_peak = "needed_flops" in entry, "peak/ours" in results
        rows.append(
            (
                name.removeprefix(prefix),
                number(entry, "seconds"),
                number(entry, "median"),
                number({"x": entry["seconds"]}, "x", "{:.2f}", results[base]["seconds"]) if base in results else "-",
                number(entry, "flops", "{:.1f}", 1e9),
                number(entry, "needed_flops", "{:.1f}", 1e9),
                f"{entry['flops'] / entry['needed_flops']:.3f}" if has_flops else "-",
                f"{100 * share(results, name):.0f} %" if has_flops and has_peak else "-",
                number(entry, "temp", "{:.0f}", 1e6),
                number(entry, "memory", "{:.0f}", 1e6),
                number(entry, "trainable", "{:,.0f}"),
            )
        )
    return table(head, rows)


def other_tables(results: Results) -> list[str]:
    """Matrix-product speeds, start-up times, collectives and the comparison of both sides' logits."""
    lines = []
    for side in ("ours", "torch"):
        for kind in ("float32", "bfloat16"):
            rates = results.get(f"peak/{side}", {}).get(kind, {})
            rows = [(shape, f"{rate / 1e9:.1f}") for shape, rate in rates.items()]
            lines += table((f"product, {side}, {kind}", "GFLOP/s"), rows)
    rows = [(name, number(results[name], "seconds", "{:.2f}")) for name in sorted(results) if name.startswith("start/")]
    lines += table(("start", "s"), rows)
    rows = [
        (name.split("/")[1], entry["total"], 4 * entry["trainable"], json.dumps(entry["bytes"]))
        for name, entry in sorted(results.items())
        if name.startswith("collectives/")
    ]
    lines += table(("data-parallel step", "bytes", "bytes of trainable parameters", "by kind"), rows)
    if "check/torch" in results:
        found = results["check/torch"]
        lines += [
            f"Both sides' ScaLearn logits, same weights, no dropout: largest difference {found['difference']:.1e}; with"
            f" PyTorch's omega at 0 it would be {found['without_sources']:.1e}.",
            "",
        ]
    return lines


def machine(results: Results) -> list[str]:
    """Processor, cores and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    cores = sum(line.startswith("processor") for line in lines)
    found = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    theirs = results.get("peak/torch", {}).get("versions", {})
    return [
        f"- machine: {model}, {cores} cores, {platform.system()} {platform.machine()}",
        f"- python {platform.python_version()}, " + ", ".join(f"{name} {version}" for name, version in found.items()),
        *(
            ["- PyTorch's side: " + ", ".join(f"{name} {version}" for name, version in theirs.items())]
            if theirs
            else []
        ),
        f"- written {time.strftime('%d %B %Y, %H:%M UTC', time.gmtime())}, of commit {_commit()}",
    ]


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write(out: Path, command: str) -> None:
    """Writes README.md from the cells that are there."""
    results = load(out)
    sections = {
        "Targets": targets(results),
        "ScaLearn on each task's examples": task_table(results),
        "Methods, full rows": step_table(results, "methods/full/", "methods/full/single"),
        "Methods, one task's examples": step_table(results, "methods/real/", "methods/real/single"),
        "Number of sources": step_table(results, "sources/", "sources/single"),
        "Members (seeds together; ratio to one seed)": step_table(results, "members/", "members/1"),
        "Machine, start, exchange, equality": other_tables(results),
    }
    lines = ["# Benchmark", "", "```bash", command, "```", "", *machine(results), "", ABOUT, ""]
    for title, body in sections.items():
        lines += [f"## {title}", "", *body] if body else []
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text("\n".join(lines).rstrip() + "\n")


ABOUT = """\
Every cell ran in a process of its own, what is compared in turn; of the rounds the least time and the highest memory
count. Seconds: mean over a cell's batches of each one's fastest step. Memory: highest resident memory during the steps
less the resident memory before them. Needed operations: matrix products of forward pass, gradients of activations and
gradients of what is trained (`benchmark_flops.py`). Share of peak: needed operations a second over the fastest float32
product. Dropout, clipping and the gradient norm are on, on both sides."""


if __name__ == "__main__":
    write(Path(sys.argv[1]), command="python experiments/benchmark_tables.py " + sys.argv[1])
