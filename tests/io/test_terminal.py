"""Progress: plain lines without a terminal, a bar on one."""

import io

import pytest

from scalearn_jax.io import terminal
from scalearn_jax.io.terminal import Progress, accept_any_text, plain

EVENTS = [
    {"event": "start", "num_steps": 4, "examples": 64},
    {"event": "train", "step": 2, "loss": [0.5, 0.7], "examples_per_second": 1234.5},
    {"event": "eval", "step": 2, "dev": [{"loss": 0.25, "accuracy": 0.5}, {"loss": 0.35, "accuracy": 0.7}]},
    {"event": "note", "text": "[bold] is no markup here"},
    {"event": "train", "step": 4, "loss": [0.1, 0.2], "examples_per_second": 1000.0},
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(stream):
    with Progress("runs/rte", seeds=(0, 1), stream=stream) as progress:
        for event in EVENTS:
            progress.update(event)
    return stream.getvalue()


def test_plain_lines_average_the_seeds():
    lines = show(io.StringIO()).splitlines()
    assert lines[0] == "runs/rte: 4 steps, 64 examples, seeds 0 1"
    assert lines[1].startswith("step 2/4  loss 0.6000  1,234 examples/s  0:0") and lines[1].endswith(" left")
    assert lines[2] == "step 2/4  development  loss 0.3000  accuracy 60.00"
    assert len(lines) == len(EVENTS) and "\x1b" not in "".join(lines)


def test_terminal_has_a_bar_and_keeps_evaluations():
    shown = show(Terminal())
    assert "4/4" in shown and "examples/s" in shown and "\x1b[" in shown
    assert "development  loss 0.3000  accuracy 60.00" in shown and "[bold] is no markup here" in shown


def test_what_a_run_waits_for_and_what_it_holds_is_said():
    compiling = [{"event": "compile", "number": number, "of": 2} for number in (1, 2)]
    steps = [{"event": "step", "step": step} for step in (1, 2, 3)]
    for stream in (io.StringIO(), Terminal()):
        with Progress("runs/rte", seeds=(0,), stream=stream, about="train 540, dev 60") as progress:
            for event in (EVENTS[0], compiling[0], *steps, compiling[1]):
                progress.update(event)
                if progress._bar:
                    progress._bar.refresh()
        shown = stream.getvalue()
        assert "train 540, dev 60" in shown and "compiling 2 of 2 programs" in shown
        if stream.isatty():
            assert all(f"{step}/4" in shown for step in range(4))  # it moves at every step
        else:
            assert shown.count("\n") == 4 and "\x1b" not in shown and "\r" not in shown


@pytest.mark.parametrize("seconds, num_steps, told", [(6, 1000, "1:39:36"), (6, 100, None), (0.9, 5000, "1:14:47")])
def test_a_run_of_hours_says_so_once_it_knows(seconds, num_steps, told, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal, "perf_counter", lambda: now[0])
    stream = io.StringIO()
    with Progress("r", seeds=(0,), stream=stream) as progress:
        progress.update({"event": "start", "num_steps": num_steps, "examples": 9})
        for step in range(1, 40):
            if step <= 2:
                progress.update({"event": "compile", "number": step, "of": 2})
                now[0] += 300  # compiling says nothing about speed
            progress.update({"event": "step", "step": step})
            now[0] += seconds
    lines = [line for line in stream.getvalue().splitlines() if "this takes" in line]
    assert len(lines) == (told is not None)
    assert told is None or f"about {told} more" in lines[0]


def test_bar_stops_when_training_fails():
    stream = Terminal()
    try:
        with Progress("r", seeds=(0,), stream=stream) as progress:
            progress.update(EVENTS[0])
            raise RuntimeError
    except RuntimeError:
        pass
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is back


def printed(text, encoding):
    """The bytes that printing a text leaves on a stream."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    accept_any_text(stream, None, io.StringIO())  # no stream, and one that encodes nothing
    print(text, file=stream, flush=True, end="")
    return stream.buffer.getvalue()


@pytest.mark.parametrize(
    "encoding, shown",
    [
        ("ascii", b"55.0 +- 7.1 \\xe9tat \\u03c9 \\udcff"),
        ("cp1252", b"55.0 \xb1 7.1 \xe9tat \\u03c9 \\udcff"),
        ("cp437", b"55.0 \xf1 7.1 \x82tat \\u03c9 \\udcff"),
        ("utf-8", "55.0 ± 7.1 état ω ".encode() + b"\\udcff"),
    ],
)
def test_a_terminal_of_any_encoding_shows_any_text(encoding, shown):
    assert printed("55.0 ± 7.1 état ω \udcff", encoding) == shown  # the last, of a path, has no character at all


def test_a_bar_needs_no_unicode():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream.isatty = lambda: True
    accept_any_text(stream)
    with Progress("runs/état", seeds=(0,), stream=stream) as progress:
        for event in EVENTS:
            progress.update(event)
    stream.flush()
    assert b"runs/\\xe9tat" in stream.buffer.getvalue() and b"4/4" in stream.buffer.getvalue()


def test_columns_are_aligned_and_no_line_ends_in_spaces():
    rows = [["glue/rte", "", "1"], ["b", "a long one", "20"]]
    lines = plain(["task", "kind", "n"], rows).splitlines()
    assert lines[1].split("  ") == ["-" * 8, "-" * 10, "-" * 2] and not any(line.endswith(" ") for line in lines)
    starts = [0, 10, 22]
    for line, row in zip([lines[0], *lines[2:]], [["task", "kind", "n"], *rows], strict=True):
        assert [line[at:].split("  ")[0] for at in starts] == row


def test_what_was_solved_is_one_line_for_people():
    shown = io.StringIO()
    with Progress("runs/x", seeds=(0,), stream=shown) as progress:
        progress.update({"event": "start", "num_steps": 1, "examples": 64})
        progress.update({"event": "solved", "error": 0.80144, "scales": {"a/b": "1.20 ± 0.23", "c": "0.74 ± 0.35"}})
    assert shown.getvalue().splitlines() == [
        "runs/x: 1 step, 64 examples, seed 0",
        "solved  leave-one-out 0.8014  omega a/b 1.20 ± 0.23, c 0.74 ± 0.35",
    ]
