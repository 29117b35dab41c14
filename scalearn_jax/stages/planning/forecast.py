"""What a training run will need, measured before it starts: memory, operations and seconds of its own programs.

Unlike ``estimate``, which counts from sizes, this compiles what the run would compile and calls it a few times.

Letters: M members (seeds trained together).
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from scalearn_jax.stages.planning.workload import Work, workload
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train import memory
from scalearn_jax.train.compile import Compiled
from scalearn_jax.train.loop import Schedule
from scalearn_jax.train.state import TrainState, count_parameters

_CALLS, _BUDGET_SECONDS = 3, 5.0  # timed calls of a program; fewer where one takes long


class Program(NamedTuple):
    """A program of a run, compiled and timed.

    Attributes:
      name: see ``workload.Work``.
      rows: of a batch.
      length: of a row.
      calls: in the whole run.
      memory: bytes on one device; ``None`` where the compiler does not tell.
      flops: floating-point operations of a call on one device, as XLA counts them (a loop's body once).
      compile_seconds: lowering and compilation now; a program in the cache is only read.
      seconds: one call; ``None`` where it was not made, because it would not fit.
    """

    name: str
    rows: int
    length: int
    calls: int
    memory: memory.Memory | None
    flops: float | None
    compile_seconds: float
    seconds: float | None


class Forecast(NamedTuple):
    """What a run will need.

    Attributes:
      programs: all that it compiles, training first.
      schedule: its steps and evaluations.
      parameters: see ``count_parameters``.
      prepare_seconds: reading and encoding, as in a run.
      available: bytes for each device; ``None`` where unknown.
    """

    programs: list[Program]
    schedule: Schedule
    parameters: dict[str, int]
    prepare_seconds: float
    available: int | None

    @property
    def needed(self) -> int | None:
        """Bytes that the largest program needs."""
        return max((program.memory.peak for program in self.programs if program.memory), default=None)

    @property
    def seconds(self) -> dict[str, float | None]:
        """Seconds of the run by part, and ``total``, their sum: if no seed stops early."""
        parts: dict[str, float | None] = {
            "prepare": self.prepare_seconds,
            "compile": sum(program.compile_seconds for program in self.programs),
            "train": _sum(self.programs, lambda name: name != "evaluate"),
            "evaluate": _sum(self.programs, lambda name: name == "evaluate"),
        }
        known = all(value is not None for value in parts.values())
        return parts | {"total": sum(parts.values()) if known else None}


def _sum(programs: list[Program], chosen: Callable[[str], bool]) -> float | None:
    seconds = [(program.seconds, program.calls) for program in programs if chosen(program.name)]
    return None if any(one is None for one, _ in seconds) else sum(one * calls for one, calls in seconds)


def forecast(
    setup: Setup, schedule: Schedule, step: Compiled, state: TrainState, prepared: float, available: int | None
) -> tuple[Forecast, TrainState]:
    """Compiles the programs of a run and times those that fit.

    Args:
      setup: the run.
      schedule: its steps and evaluations.
      step: its training step.
      state: its first state; given up to the steps that are made.
      prepared: seconds that led here.
      available: bytes for each device.

    Returns:
      (the forecast, the state after the steps).
    """
    programs = []
    for work in workload(setup, schedule, step):
        program, state = measure(work, setup, state, available)
        programs.append(program)
    return Forecast(programs, schedule, count_parameters(state.trainable), prepared, available), state


def measure(work: Work, setup: Setup, state: TrainState, available: int | None) -> tuple[Program, TrainState]:
    """Compiles one program and calls it a few times, if it fits.

    Returns:
      (what was found, the state after it).
    """
    started = time.perf_counter()
    carried = _carried(work, state)
    compiled = work.step.lower(carried, setup.frozen, work.batch).compile()
    compile_seconds, need, seconds = time.perf_counter() - started, memory.of_program(compiled), None
    if memory.fits(need and need.peak, available) is not False:
        call = lambda carried: compiled(carried, setup.frozen, work.step.place(work.batch))  # noqa: E731
        seconds, state = _timed(call, work, state)
    program = Program(work.name, *work.shape, work.calls, need, flops(compiled), compile_seconds, seconds)
    return program, state


def _carried(work: Work, state: TrainState) -> Any:
    """A program's first argument."""
    if work.name == "train":
        return state
    return jax.tree.map(lambda leaf: leaf[:1], state.trainable) if work.name == "encode" else state.trainable


def _timed(call: Callable, work: Work, state: TrainState) -> tuple[float, TrainState]:
    """Seconds of a call: the median of a few after a first one, and the state they leave."""
    seconds, begun = [], time.perf_counter()
    while len(seconds) <= _CALLS and (len(seconds) < 2 or time.perf_counter() - begun < _BUDGET_SECONDS):
        started = time.perf_counter()
        result = jax.block_until_ready(call(_carried(work, state)))
        seconds.append(time.perf_counter() - started)
        state = result[0] if work.name == "train" else state
    return sorted(seconds[1:])[(len(seconds) - 1) // 2], state


def flops(compiled: Any) -> float | None:
    """Floating-point operations of a compiled program, as XLA counts them; ``None`` where it does not."""
    found = compiled.cost_analysis() or {}
    return (found[0] if isinstance(found, list) else found).get("flops")
