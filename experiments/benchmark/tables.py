"""Turns the benchmark's cells into Markdown: what was aimed at and met, then every figure."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.benchmark.targets import TARGETS, Results, load, peak, tasks


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
        "to longest s",
        "PyTorch / packed",
        "to longest / packed",
        "padded / packed",
        "MB",
        "PyTorch MB",
    )
    rows = []
    for task in tasks(results):
        sides = ("packed", "padded", "torch", "torch-longest")
        packed, padded, torch, longest = (results.get(f"tasks/{task}/{side}", {}) for side in sides)
        times = [number(entry, "seconds") for entry in (packed, padded, torch, longest)]
        factors = [number(entry, "seconds", "{:.2f}", packed["seconds"]) for entry in (torch, longest, padded)]
        memory = [number(entry, "memory", "{:.0f}", 1e6) for entry in (packed, torch)]
        rows.append((task, number(packed, "rows", "{:.1f}"), *times, *factors, *memory))
    return table(head, rows)


STEP_HEAD = (
    "step",
    "s",
    "median s",
    "/ base",
    "/ PyTorch's single",
    "GFLOP",
    "needed",
    "ratio",
    "share of peak",
    "temp MB",
    "memory MB",
    "trained",
)


def step_table(results: Results, prefix: str, base: str) -> list[str]:
    """Everything about the steps below a prefix, with ratios to one of them."""
    names = [name for name in results if name.startswith(prefix) and "seconds" in results[name]]
    bases = [results.get(name, {}).get("seconds") for name in (base, f"{prefix}torch-single")]
    rows = [
        step_row(name.removeprefix(prefix), results[name], bases, _peak(results)) for name in sorted(names, key=_order)
    ]
    return table(STEP_HEAD, rows)


def _order(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names as numbers; PyTorch's rows come last."""
    parts = name.split("/")
    return [(int(part), "") if part.isdigit() else (-1, part.replace("torch-", "~")) for part in parts]


def _peak(results: Results) -> float | None:
    return peak(results) if "peak/ours" in results else None


def step_row(name: str, entry: dict[str, Any], bases: Sequence[float | None], fastest: float | None) -> list[str]:
    """One step's figures.

    Args:
      name: what it is called.
      entry: its cell.
      bases: seconds of our base and of PyTorch's single adapter, to which only PyTorch's steps are set in relation.
      fastest: operations a second of the fastest matrix product.

    Returns:
      The cells of ``STEP_HEAD``.
    """
    ours, theirs = bases
    compiled, needed, seconds = entry.get("flops"), entry.get("needed_flops"), entry["seconds"]
    return [
        name,
        number(entry, "seconds"),
        number(entry, "median"),
        f"{seconds / ours:.2f}" if ours else "-",
        f"{seconds / theirs:.2f}" if theirs and name.startswith("torch-") else "-",
        number(entry, "flops", "{:.1f}", 1e9),
        number(entry, "needed_flops", "{:.1f}", 1e9),
        f"{compiled / needed:.3f}" if compiled and needed else "-",
        f"{100 * needed / seconds / fastest:.0f} %" if needed and fastest else "-",
        number(entry, "temp", "{:.0f}", 1e6),
        number(entry, "memory", "{:.0f}", 1e6),
        number(entry, "trainable", "{:,.0f}"),
    ]


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
        "Members, seeds trained together": step_table(results, "members/", "members/1"),
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
less the resident memory after a first one. PyTorch's rows are padded to the full length, as the published scripts do;
"to longest": to the longest of their batch. Needed operations: matrix products of forward pass, gradients of
activations and gradients of what is trained (`experiments/benchmark/flops.py`). Share of peak: needed operations a
second over the fastest float32 product of either side. Base: our single adapter; of members, one seed. Dropout,
clipping and the gradient norm are on, on both sides."""


if __name__ == "__main__":
    write(Path(sys.argv[1]), command="python -m experiments.benchmark.tables " + sys.argv[1])
