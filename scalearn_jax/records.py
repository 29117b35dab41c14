"""Where the events of runs that train together go: a log each, and one display for all."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.prepare import Setup
from scalearn_jax.progress import Progress
from scalearn_jax.train.loop import Schedule


@contextlib.contextmanager
def recorders(title: str, setups: Sequence[Setup], folders: Sequence[Path | None], schedules) -> Iterator[list]:
    """Opens the log of each run and one display for all; without folders, all stay silent."""
    if folders[0] is None:
        yield [lambda event: None] * len(setups)
        return
    main = int(np.argmax([schedule.num_steps for schedule in schedules]))
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context((folder / "metrics.jsonl").open("a")) for folder in folders]
        progress = stack.enter_context(Progress(title, setups[main].config.seeds))
        records = [
            _record(log, progress, _label(title, setup, schedule) if len(setups) > 1 else {}, shown=number == main)
            for number, (log, setup, schedule) in enumerate(zip(logs, setups, schedules, strict=True))
        ]
        for record, setup, schedule in zip(records, setups, schedules, strict=True):
            record({"event": "start", "num_steps": schedule.num_steps, "examples": len(setup.data.train)})
        yield records


def _label(title: str, setup: Setup, schedule: Schedule) -> dict[str, Any]:
    """What the display needs to know of a run among others."""
    return {"run": str(Path(setup.config.out).relative_to(title)), "num_steps": schedule.num_steps}


def _record(log, progress: Progress, label: dict[str, Any], shown: bool) -> Callable:
    """Writes events to a run's log, and to the display: of runs together, the evaluations of all, the steps of one."""

    def record(event: dict[str, Any]) -> None:
        log.write(json.dumps(event) + "\n")
        log.flush()
        if shown or event["event"] == "eval":
            progress.update(label | event)

    return record
