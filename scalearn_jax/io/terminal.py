"""What a terminal shows: how far a run is (a bar, or plain lines elsewhere), and tables as plain text."""

import codecs
import csv
import io
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from time import perf_counter
from typing import Any, TextIO

from scalearn_jax.errors import masked, printable

NO_SHARES = ("loss", "rmse")  # scores that are no share of anything, and so no percentage
_NARROWEST = 10  # characters of a column that is cut
_TIMED_SECONDS = 10.0  # of training, from which the rest is known
_LONG_SECONDS = 3600.0  # from which a run says how long it takes


@cache
def note(text: str) -> None:
    """Prints a line on standard error about what was done without being asked for; the same one once a process."""
    print(f"scalearn: note: {printable(masked(text))}", file=sys.stderr, flush=True)


def accept_any_text(*streams: TextIO | None) -> None:
    r"""Lets streams of any encoding take any text: what an ASCII terminal has no character for is written out.

    Example:
      >>> stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
      >>> accept_any_text(stream)
      >>> print("état: 55.0 ± 7.1", file=stream, flush=True)
      >>> print(stream.buffer.getvalue().decode(), end="")
      \xe9tat: 55.0 +- 7.1
    """

    def write_out(error: UnicodeEncodeError) -> tuple[str, int]:
        text = error.object[error.start : error.end].replace("±", "+-")
        return text.encode("ascii", "backslashreplace").decode(), error.end

    codecs.register_error("scalearn", write_out)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="scalearn")


class Progress:
    """Shows the events of a training loop of one or more seeds; losses are the mean of those that are finite.

    A context manager.

    On a terminal one bar holds the step, the loss, examples per second and the time left, and every evaluation leaves a
    line above it. Otherwise (a log file, a pipe) each event is one line. The stream is standard error by default, so
    that results on standard output stay clean.

    Example:
      >>> with Progress("runs/rte", seeds=(0,), stream=sys.stdout) as progress:
      ...     progress.update({"event": "start", "num_steps": 10, "examples": 320})
      ...     progress.update({"event": "train", "step": 5, "loss": [0.5], "examples_per_second": 64.0})
      runs/rte: 10 steps, 320 examples, seed 0
      step 5/10  loss 0.5000  64 examples/s  0:00 left
    """

    def __init__(self, title: str, seeds: Sequence[int], stream: TextIO | None = None, about: str = ""):
        self._title, self._seeds, self._stream, self._about = title, seeds, stream or sys.stderr, about
        self._num_steps, self._first, self._started, self._bar, self._task = 0, 0, perf_counter(), None, None
        self._timed: tuple[int, float] | None = None  # a step, and when it was done; none while a program is compiled
        self._warned = False  # whether it is known whether the run takes hours

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, event: dict[str, Any]) -> None:
        """Takes in one event.

        It is ``start`` (num_steps, examples; of a run that goes on also the step), ``compile`` (number, of), ``step``
        (step), ``train`` (step, loss, rate), ``eval`` (step, dev), ``solve``, ``solved`` (error, scales) or any other.
        """
        kinds = {"start": self._start, "train": self._train, "eval": self._eval, "solve": self._solve}
        kinds |= {"compile": self._compile, "step": self._step, "solved": self._solved}
        if event["event"] in kinds:
            kinds[event["event"]](event)
        else:
            self._line("  ".join(f"{name} {value}" for name, value in event.items()))

    def _start(self, event: dict[str, Any]) -> None:
        self._num_steps, self._first, self._started = event["num_steps"], event.get("step", 0), perf_counter()
        plural = "s" if len(self._seeds) > 1 else ""
        seeds = " ".join(map(str, self._seeds))
        on = f", going on from step {self._first}" if self._first else ""
        steps = f"{self._num_steps} step{'s' if self._num_steps != 1 else ''}"
        self._line(f"{self._title}: {steps}, {event['examples']} examples, seed{plural} {seeds}{on}")
        if self._about:
            self._line(self._about)
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            loss, rate = TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[rate]}")
            doing = TextColumn("{task.description}", markup=False)
            columns = BarColumn(), MofNCompleteColumn(), doing, loss, rate, TimeRemainingColumn(), TextColumn("left")
            self._bar = Bar(*columns, console=Console(file=self._stream), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._num_steps, completed=self._first, loss="", rate="")

    def _compile(self, event: dict[str, Any]) -> None:
        self._timed = None
        text = f"compiling {event['number']} of {event['of']} programs"
        if self._bar:
            self._bar.update(self._task, description=text)
        else:
            self._line(text)

    def _step(self, event: dict[str, Any]) -> None:
        step = event["step"]
        if self._bar:
            self._bar.update(self._task, completed=step, description="")
        if self._timed is None:
            self._timed = step, perf_counter()
        elapsed = perf_counter() - self._timed[1]
        if not self._warned and step > self._timed[0] and elapsed >= _TIMED_SECONDS:
            left = elapsed / (step - self._timed[0]) * (self._num_steps - step)
            self._warned = True
            if left >= _LONG_SECONDS:
                self._line(
                    f"this takes about {format_duration(left)} more, if it does not stop early; it may be interrupted:"
                    " the same command goes on"
                )

    def _train(self, event: dict[str, Any]) -> None:
        loss, step = f"loss {mean(event['loss']):.4f}", event["step"]
        rate = f"{event['examples_per_second']:,.0f} examples/s"
        if self._bar:
            self._bar.update(self._task, completed=step, loss=loss, rate=rate)
            return
        left = (perf_counter() - self._started) / max(step - self._first, 1) * (self._num_steps - step)
        self._line(f"step {step}/{self._num_steps}  {loss}  {rate}  {format_duration(left)} left")

    def _eval(self, event: dict[str, Any]) -> None:
        means = {name: mean([member[name] for member in event["dev"]]) for name in event["dev"][0]}
        shown = {name: value for name, value in means.items() if "/" not in name}  # of several tasks their means
        shown = "  ".join(f"{name} {format_score(name, value)}" for name, value in shown.items())
        run = f"{event['run']}  " if "run" in event else ""
        self._line(f"{run}step {event['step']}/{self._num_steps}  development  {shown}")
        if self._bar:
            self._bar.update(self._task, completed=event["step"])

    def _solve(self, event: dict[str, Any]) -> None:
        omega = " ".join(f"{value:.2f}" for value in event["omega"][:12]) + (" ..." if len(event["omega"]) > 12 else "")
        self._line(f"evaluation {event['step']} ({event['search']})  leave-one-out {event['error']:.4f}  omega {omega}")
        if self._bar:
            self._bar.update(self._task, completed=event["step"])

    def _solved(self, event: dict[str, Any]) -> None:
        scales = ", ".join(f"{name} {scale}" for name, scale in event["scales"].items())
        self._line(f"solved  leave-one-out {event['error']:.4f}  omega {scales}")

    def _line(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)


def format_duration(seconds: float) -> str:
    """Formats seconds as minutes and seconds, or hours, minutes and seconds.

    Example:
      >>> format_duration(75), format_duration(3675)
      ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def format_score(name: str, value: float) -> str:
    """Formats a score as all that people read shows it: in percent, but for ``NO_SHARES``.

    Example:
      >>> format_score("accuracy", 0.5), format_score("loss", 0.5)
      ('50.00', '0.5000')
    """
    return f"{value:.4f}" if name in NO_SHARES else f"{100 * value:.2f}"


def mean(values: Any) -> float:
    """The mean of those that are finite, as of seeds of which one has diverged; NaN without any."""
    values = [value for value in (values if isinstance(values, Sequence) else [values]) if math.isfinite(value)]
    return sum(values) / len(values) if values else math.nan


def width() -> int | None:
    """Characters of a line on standard output, where a terminal or ``COLUMNS`` says; a pipe has as many as needed."""
    return shutil.get_terminal_size((0, 0)).columns or None


def plain(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Lays out a table with two spaces between columns; for a terminal.

    The column that a line of ``width`` characters has no room for is cut, and those after it are left out.

    Example:
      >>> print(plain(["name", "kind"], [["glue/rte", "pair"]]))
      name      kind
      --------  ----
      glue/rte  pair
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    room = width or sum(widths) + 2 * len(widths)
    kept = []
    for needed in widths:
        kept.append(min(needed, max(room, 0)))
        room -= needed + 2
    widths = [size for size, needed in zip(kept, widths, strict=True) if size == needed or size >= _NARROWEST]
    lines = [header, ["-" * size for size in widths], *rows]
    lines = [[_cut(cell, size) for cell, size in zip(line, widths, strict=False)] for line in lines]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 3]}..."


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Lays out CSV; numbers keep full precision, ``None`` is empty."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()
