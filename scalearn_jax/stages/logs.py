"""Where the events of runs that train together go: a log for each, and one display for all."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from scalearn_jax.errors import InputError, format_value
from scalearn_jax.io.files import as_json, named, write_text
from scalearn_jax.io.terminal import Progress, mean
from scalearn_jax.stages.setup import Data, Setup
from scalearn_jax.train.checkpoint import Checkpoint
from scalearn_jax.train.loop import Event, Schedule
from scalearn_jax.train.state import Member

LOG, TIMING = "metrics.jsonl", "timing.jsonl"
_FOR_DISPLAY = ("compile", "step")  # events that no log keeps


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
        progress = stack.enter_context(Progress(title, setups[0].config.seeds, about=describe_parts(setups[0])))
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
    return {"event": "start", "num_steps": schedule.num_steps, "examples": setup.num_examples}


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
    if not isinstance(event, Mapping) or "event" not in event:
        raise InputError(f"scalars: expected an event, as on_event gets it, got {format_value(event)}.")
    if event["event"] == "eval":
        return {f"dev/{name}": mean([member[name] for member in event["dev"]]) for name in event["dev"][0]}
    values = {name: value for name, value in event.items() if name not in ("event", "step")}
    numbers = {name: mean(value) for name, value in values.items() if not isinstance(value, str)}
    return {f"{event['event']}/{name}": value for name, value in numbers.items()}


def describe_data(data: Data) -> str:
    """Says how many examples each split has, of how many, and where they come from.

    For instance "train 540, dev 60 (held out of train.csv), test 50 of 200 (from validation.csv)"; of a regression also
    how its labels are standardised.
    """
    counts = {}
    for name, split in vars(data).items():
        whole = f" of {split.available:,}" if split.available and split.available > len(split) else ""
        origin = f" ({split.origin})" if split.origin and name != "train" else ""
        counts[name] = f"{name} {len(split):,}{whole}{origin}"
    mean, deviation = data.train.unit
    standardised = f"; learns (label - {mean:.4g}) / {deviation:.4g}" if (mean, deviation) != (0.0, 1.0) else ""
    return ", ".join(counts.values()) + standardised


def describe_parts(setup: Setup) -> str:
    """``describe_data``; of a joint run on one line a task, with the share of steps that it gets."""
    if not setup.is_joint:
        return describe_data(setup.data)
    lines = zip(setup.parts, setup.mixture.shares, strict=True)
    return "\n".join(f"{part.task.name}: {share:.1%} of steps, {describe_data(part.data)}" for part, share in lines)


def describe_early_stop(schedule: Schedule, members: Mapping[int, Member]) -> str:
    """Says which seeds, seed -> its end, ran out of patience, and which steps are kept of them; else nothing.

    Example:
      >>> schedule = Schedule(num_steps=1000, eval_every=50, patience=3)
      >>> describe_early_stop(schedule, {0: Member(best_step=150, stopped_at=300), 1: Member(stopped_at=1000)})
      'seed 0 stopped early at step 300 of 1000, no better for 3 evaluations; kept step 150'
    """
    stopped = {seed: member for seed, member in members.items() if member.stopped_at < schedule.num_steps}
    ends = ", ".join(f"seed {seed} stopped early at step {member.stopped_at}" for seed, member in stopped.items())
    kept = " and ".join(str(member.best_step) for member in stopped.values())
    waited = f"no better for {schedule.patience} evaluation{'s' if schedule.patience > 1 else ''}"
    return f"{ends} of {schedule.num_steps}, {waited}; kept step {kept}" if stopped else ""


def _recorder(write: Callable | None, progress: Progress, run: dict[str, str], *, shown: bool) -> Callable:
    """Returns what takes a run's events; of runs together, the display shows every evaluation, the steps of one."""

    def record(event: Event) -> None:
        if write and event["event"] not in _FOR_DISPLAY:
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
