"""Where the events of runs that train together go: a log for each, and one display for all."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scalearn_jax.io.files import as_json, named, write_text
from scalearn_jax.io.terminal import Progress, mean
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train.checkpoint import Checkpoint
from scalearn_jax.train.loop import Event, Schedule

LOG, TIMING = "metrics.jsonl", "timing.jsonl"


@contextlib.contextmanager
def recorders(
    title: str,
    setups: Sequence[Setup],
    folders: Sequence[Path | None],
    schedule: Schedule,
    saved: Checkpoint | None = None,
) -> Iterator[list[Callable[[Event], None]]]:
    """Opens the log of each run and one display for all; yields for each run what takes its events.

    Times go to a file of their own, so that a log holds only what the same run always gives. Where no run has a
    folder, as in a process that only computes, all stay silent. The display's title is the folder above those of the
    runs, or the run's own; ``saved`` holds the logs up to its step.
    """
    if not any(folders):
        yield [lambda event: None] * len(setups)
        return
    logs = saved.meta["logs"] if saved else [""] * len(setups)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(title, setups[0].config.seeds))
        records = []
        for number, (setup, folder, text) in enumerate(zip(setups, folders, logs, strict=True)):
            write = _open_log(stack, folder, text) if folder else None
            run = {"run": str(Path(setup.config.out).relative_to(title))} if len(setups) > 1 else {}
            records.append(_recorder(write, progress, run, shown=number == 0))
        for record, setup in zip(records, setups, strict=True):
            record(start_event(setup, schedule) | ({"step": saved.step} if saved else {}))
        yield records


def start_event(setup: Setup, schedule: Schedule) -> Event:
    """The event that a log begins with."""
    return {"event": "start", "num_steps": schedule.num_steps, "examples": len(setup.data.train)}


def write_logs(folder: Path, events: Sequence[Event]) -> None:
    """Writes the events of a run that has ended, as ``recorders`` does while one goes on."""
    with contextlib.ExitStack() as stack:
        write = _open_log(stack, folder, "")
        for event in events:
            write(event)


def scalars(event: Event) -> dict[str, float]:
    """Flattens an event to numbers by name, means over seeds, as W&B and TensorBoard take them.

    Example:
      >>> scalars({"event": "eval", "step": 4, "dev": [{"loss": 0.5}, {"loss": 0.25}]})
      {'dev/loss': 0.375}
      >>> scalars({"event": "train", "step": 4, "loss": [0.5, 1.0], "examples_per_second": 64.0})
      {'train/loss': 0.75, 'train/examples_per_second': 64.0}
    """
    if event["event"] == "eval":
        return {f"dev/{name}": mean([member[name] for member in event["dev"]]) for name in event["dev"][0]}
    values = {name: value for name, value in event.items() if name not in ("event", "step")}
    numbers = {name: mean(value) for name, value in values.items() if not isinstance(value, str)}
    return {f"{event['event']}/{name}": value for name, value in numbers.items()}


def _recorder(write: Callable | None, progress: Progress, run: dict[str, str], *, shown: bool) -> Callable:
    """Returns what takes a run's events; of runs together, the display shows every evaluation, the steps of one."""

    def record(event: Event) -> None:
        if write:
            write(event)
        if shown or event["event"] == "eval":
            progress.update(run | event)

    return record


def _open_log(stack: contextlib.ExitStack, folder: Path, text: str) -> Callable[[Event], None]:
    """Opens a run's log, begun with what it held before, and its times; returns what writes an event."""
    write_text(folder / LOG, text)
    log, timing = (stack.enter_context((folder / name).open("a", encoding="utf-8")) for name in (LOG, TIMING))

    def put(file, event: Event) -> None:
        with named(Path(file.name)):
            file.write(as_json(event, indent=None))
            file.flush()

    def write(event: Event) -> None:
        rate = {name: event[name] for name in event if name == "examples_per_second"}
        if rate or event["event"] == "start":
            put(timing, {"event": event["event"], "step": event.get("step", 0), **rate})
        if not (event["event"] == "start" and "step" in event):  # where a run was resumed is no part of the log
            put(log, {name: value for name, value in event.items() if name not in rate})

    return write


def logs_of(folders: Sequence[Path | None]) -> list[str]:
    """Reads the logs as they are now, for a checkpoint."""
    return [(folder / LOG).read_text("utf-8") if folder else "" for folder in folders]
