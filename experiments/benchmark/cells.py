"""What the benchmark measures: one table of cells."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

GLUE = tuple(f"glue/{name}" for name in ("rte", "mrpc", "stsb", "cola", "sst2", "qqp", "qnli", "mnli"))
SCALEARN = ("scalearn", "scalearn-uniform", "scalearn++", "scalearn-uniform++")
METHODS = ("single", *SCALEARN, "fusion")
TORCH_METHODS = ("single", "scalearn", "fusion")
REAL_TASK = "glue/mrpc"  # whose examples the methods and members train on


class Cell(NamedTuple):
    """One measurement.

    Attributes:
      name: path of its file below ``cells``.
      side: ``"ours"`` or ``"torch"``.
      worker: what its process does, a key of that side's table.
      setting: what differs from the defaults.
    """

    name: str
    side: str
    worker: str
    setting: dict[str, Any]


class Sizes(NamedTuple):
    """What --tiny makes small."""

    tasks: Sequence[str] = GLUE
    real_task: str = REAL_TASK
    sources: int = 8
    num_sources: Sequence[int] = (1, 8, 64)
    members: Sequence[int] = (1, 2, 5, 10)
    batch_size: int = 32
    length: int = 128
    batches: int = 3
    rounds: int = 2


TINY = Sizes(("builtin/topic",), "builtin/topic", 2, (1, 2), (1, 2), batch_size=2, length=24, batches=2, rounds=1)


def _alternate(sizes: Sizes, rows: Sequence[tuple[str, str, dict[str, Any]]]) -> Iterator[Cell]:
    """Steps that form ratios: all of them in turn, round after round; rows are (name, side, setting)."""
    for number, (name, side, setting) in itertools.product(range(1, sizes.rounds + 1), rows):
        yield Cell(f"{name}.{number}", side, "step", setting)


def machine_cells(sizes: Sizes) -> Iterator[Cell]:
    """The machine's speed, and that both sides compute the same."""
    for number in range(1, sizes.rounds + 1):
        yield Cell(f"peak/ours.{number}", "ours", "peak", {})
        yield Cell(f"peak/torch.{number}", "torch", "peak", {})
    same = {"task": sizes.tasks[0], "rows": "padded", "batches": 1, "file": "check", "logits": "logits"}
    yield Cell("check/batches", "ours", "batches", same)
    yield Cell("check/ours", "ours", "logits", same)
    yield Cell("check/torch", "torch", "logits", same | {"outputs": "check/batches"})


def task_cells(sizes: Sizes) -> Iterator[Cell]:
    """ScaLearn on each task's real examples: ours on packed and on padded rows, PyTorch's on padded ones.

    PyTorch's rows are padded to the full length, and once more to the longest of their batch, as a collator may do.
    """
    for task in sizes.tasks:
        name, padded = f"tasks/{task.split('/')[-1]}", {"task": task, "rows": "padded", "file": task}
        yield Cell(f"{name}/batches", "ours", "batches", padded)
        rows = [
            (f"{name}/packed", "ours", {"task": task, "rows": "packed"}),
            (f"{name}/padded", "ours", padded),
            (f"{name}/torch", "torch", padded | {"outputs": f"{name}/batches"}),
        ]
        yield from _alternate(sizes, rows)
        longest = padded | {"outputs": f"{name}/batches", "cut": True}
        yield Cell(f"{name}/torch-longest.1", "torch", "step", longest)


def method_cells(sizes: Sizes) -> Iterator[Cell]:
    """Every method on full rows, and on one task's real examples."""
    task = sizes.real_task
    for kind, ours, file in (("full", "full", "full"), ("real", "packed", task)):
        given = {"task": task, "rows": "full" if kind == "full" else "padded", "file": file}
        name = f"methods/{kind}"
        yield Cell(f"{name}/batches", "ours", "batches", given)
        rows = [(f"{name}/{method}", "ours", given | {"method": method, "rows": ours}) for method in METHODS]
        theirs = given | {"outputs": f"{name}/batches"}
        rows += [(f"{name}/torch-{method}", "torch", theirs | {"method": method}) for method in TORCH_METHODS]
        yield from _alternate(sizes, rows)


def source_cells(sizes: Sizes) -> Iterator[Cell]:
    """Methods with sources, over T, and the single adapter."""
    full = {"task": sizes.real_task, "rows": "full"}
    rows = [("sources/single", "ours", full | {"method": "single"})]
    rows += [
        (f"sources/{count}/{method}", "ours", full | {"method": method, "sources": count})
        for count in sizes.num_sources
        for method in METHODS[1:]
    ]
    yield from _alternate(sizes, rows)


def member_cells(sizes: Sizes) -> Iterator[Cell]:
    """ScaLearn with several seeds in one program."""
    real = {"task": sizes.real_task, "rows": "packed"}
    yield from _alternate(sizes, [(f"members/{seeds}", "ours", real | {"seeds": seeds}) for seeds in sizes.members])


def other_cells(sizes: Sizes) -> Iterator[Cell]:
    """Starting up, and what data-parallel steps exchange."""
    yield Cell("start/help", "ours", "help", {})
    yield Cell("start/first-step", "ours", "first-step", {"task": sizes.tasks[0], "rows": "packed"})
    for method in ("single", "scalearn", "fusion"):
        full = {"task": sizes.real_task, "rows": "full", "method": method, "devices": 8}
        yield Cell(f"collectives/{method}", "ours", "collectives", full | {"batch_size": max(sizes.batch_size, 8)})


CELLS = (machine_cells, task_cells, method_cells, source_cells, member_cells, other_cells)


def select(cells: Sequence[Cell], only: str) -> list[Cell]:
    """The cells whose name contains a string, and those that write the batches which they read."""
    chosen = [cell for cell in cells if only in cell.name]
    needed = {cell.setting.get("outputs") for cell in chosen}
    return [cell for cell in cells if cell in chosen or cell.name in needed]
