"""Where the events of runs that train together go: a log each, and one display for all."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from scalearn_jax.io.files import named, write_text
from scalearn_jax.io.progress import Progress
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train.checkpoint import Checkpoint
from scalearn_jax.train.loop import Schedule

LOG, TIMING = "metrics.jsonl", "timing.jsonl"


@contextlib.contextmanager
def recorders(
    title: str, setups: Sequence[Setup], folders: Sequence[Path | None], schedules, begun: Checkpoint | None = None
) -> Iterator[list]:
    """Opens the log of each run and one display for all; without folders, all stay silent.

    What took how long goes to a file of its own, so that a log holds nothing but what the same run always gives.

    Args:
      title: of the display.
      setups: the runs.
      folders: of each; ``None`` where nothing is to be written.
      schedules: of each.
      begun: the checkpoint that the runs go on from, with the logs until then.

    Yields:
      For each run, what takes its events.
    """
    if not any(folders):
        yield [lambda event: None] * len(setups)
        return
    main = int(np.argmax([schedule.num_steps for schedule in schedules]))
    logs = begun.meta["logs"] if begun else [""] * len(setups)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(title, setups[main].config.seeds))
        records = [
            _record(
                _Log(stack, folder, text) if folder else None,
                progress,
                _label(title, setup, schedule) if len(setups) > 1 else {},
                shown=number == main,
            )
            for number, (folder, text, setup, schedule) in enumerate(zip(folders, logs, setups, schedules, strict=True))
        ]
        for record, setup, schedule in zip(records, setups, schedules, strict=True):
            start = {"event": "start", "num_steps": schedule.num_steps, "examples": len(setup.data.train)}
            record(start | ({"step": begun.step} if begun else {}))
        yield records


def logs_of(folders: Sequence[Path | None]) -> list[str]:
    """Reads the logs as they are now, for a checkpoint."""
    return [(folder / LOG).read_text() if folder else "" for folder in folders]


class _Log:
    """The files of one run: its log, begun with what it held before, and how long things took."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, text: str):
        write_text(folder / LOG, text)
        self._log, self._timing = (stack.enter_context((folder / name).open("a")) for name in (LOG, TIMING))

    def write(self, event: dict[str, Any]) -> None:
        """Writes an event; times, and where a run was taken up, are no part of the log."""
        rate = {name: event[name] for name in event if name == "examples_per_second"}
        if rate or event["event"] == "start":
            self._put(self._timing, {"event": event["event"], "step": event.get("step", 0), **rate})
        if not (event["event"] == "start" and "step" in event):
            self._put(self._log, {name: value for name, value in event.items() if name not in rate})

    def _put(self, file: IO[str], event: dict[str, Any]) -> None:
        with named(Path(file.name)):
            file.write(json.dumps(event) + "\n")
            file.flush()


def _label(title: str, setup: Setup, schedule: Schedule) -> dict[str, Any]:
    """What the display needs to know of a run among others."""
    return {"run": str(Path(setup.config.out).relative_to(title)), "num_steps": schedule.num_steps}


def _record(log: _Log | None, progress: Progress, label: dict[str, Any], shown: bool) -> Callable:
    """Writes events to a run's log, and to the display: of runs together, the evaluations of all, the steps of one."""

    def record(event: dict[str, Any]) -> None:
        if log:
            log.write(event)
        if shown or event["event"] == "eval":
            progress.update(label | event)

    return record
