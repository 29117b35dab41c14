"""What a training run will need, measured before it starts: memory, operations and seconds of its own programs.

Unlike ``estimate``, which counts from sizes, this compiles what the run would compile and calls it a few times.

Letters: M members (seeds trained together), B examples, K sequences an example, R rows, S row length, d hidden size.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from scalearn_jax.stages import features
from scalearn_jax.stages import program as training
from scalearn_jax.stages.setup import Setup
from scalearn_jax.train import memory
from scalearn_jax.train.compile import Compiled, compile_predict_step, compile_train_step
from scalearn_jax.train.evaluate import held_out_batches
from scalearn_jax.train.loop import Schedule
from scalearn_jax.train.state import TrainState, count_parameters
from scalearn_jax.train.step import make_predict_step
from scalearn_jax.typing import Batch, FeatureBatch, Params

_CALLS, _BUDGET_SECONDS = 3, 5.0  # timed calls of a program; fewer where one takes long


class Work(NamedTuple):
    """One program of a run, and how often it is called."""

    name: str  # "train", "evaluate" or "encode" (features for a head alone)
    step: Compiled  # on demand
    batch: Batch | FeatureBatch  # one of the run's
    calls: int  # of a run in which no seed stops early

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and length; of features examples, and 1."""
        if isinstance(self.batch, FeatureBatch):
            return self.batch.features.shape[-2], 1
        return self.batch.tokens.shape[-2:]


class MeasuredProgram(NamedTuple):
    """A program of a run, compiled and timed."""

    name: str  # as of its Work
    rows: int
    length: int
    calls: int  # in the whole run
    memory: memory.Memory | None  # on one device; none where the compiler does not report it
    flops: float | None  # of a call on one device, as XLA counts them (a loop's body once)
    compile_seconds: float  # lowering and compilation now; a program in the cache is only read
    seconds: float | None  # of a call; none where it was not made, because it would not fit


class Forecast(NamedTuple):
    """What a run will need."""

    programs: list[MeasuredProgram]  # all that it compiles, training first
    schedule: Schedule
    parameters: dict[str, int]  # see count_parameters
    prepare_seconds: float  # reading and encoding, as in a run
    available: int | None  # bytes for each device, where known

    @property
    def needed(self) -> int | None:
        """Bytes that the largest program needs."""
        return max((program.memory.peak for program in self.programs if program.memory), default=None)

    @property
    def seconds(self) -> dict[str, float | None]:
        """Seconds of the run by part, and ``total``, their sum: if no seed stops early."""
        parts: dict[str, float | None] = {"prepare": self.prepare_seconds}
        parts["compile"] = sum(program.compile_seconds for program in self.programs)
        evaluations = [program for program in self.programs if program.name == "evaluate"]
        trained = [program for program in self.programs if program.name != "evaluate"]
        for part, programs in (("train", trained), ("evaluate", evaluations)):
            known = all(program.seconds is not None for program in programs)
            parts[part] = sum(program.seconds * program.calls for program in programs) if known else None
        known = all(value is not None for value in parts.values())
        return parts | {"total": sum(parts.values()) if known else None}


def compiled_training(setup: Setup, schedule: Schedule) -> tuple[Compiled, TrainState]:
    """The training step of a run, compiled on demand, and its first state."""
    made = training.make_program([setup], schedule)
    return compile_train_step(made.step, setup.mesh), made.state


def workload(setup: Setup, schedule: Schedule, step: Compiled) -> list[Work]:
    """Lists the programs of a run, training first; needs no device.

    Those that only read features off a table are left out, and of several steps in one dispatch there is one.
    """
    config, (task, data), size = setup.config, setup.parts[0], setup.config.eval_batch_size
    predict = compile_predict_step(make_predict_step(setup.spec.program, setup.spec.only_task), setup.mesh)
    batch = next(held_out_batches(setup.spec, task.name, data.dev, setup.evaluation_layout))
    on_dev, on_test = (
        sum(-(-len(getattr(part.data, split)) // size) for part in setup.parts) for split in ("dev", "test")
    )
    if not features.trains_head_only(setup.method, setup.spec):
        calls = schedule.num_evaluations * on_dev + on_test
        trained = [Work("train", step, *batch_calls) for batch_calls in train_batches(setup, schedule.num_steps)]
        return [*trained, Work("evaluate", predict, batch, calls)]
    # A head alone: trained on features that are zero, which takes as long as on any; each example is encoded once.
    members, num_examples, encoded = len(config.seeds), config.batch_size, data.train
    table = np.zeros((members, num_examples * encoded.num_choices, setup.spec.backbone.hidden_size), np.float32)
    labels = np.zeros((members, num_examples, *encoded.labels.shape[1:]), encoded.labels.dtype)
    examples = FeatureBatch(table, np.ones((members, num_examples), bool), labels)
    works = [Work("train", step, examples, schedule.num_steps)]
    for split, used in (
        (data.train, features.used_examples(setup, schedule.num_steps)),
        (data.dev, np.arange(len(data.dev))),
    ):
        encode, stream = features.encoding(setup, split, used)
        works.append(Work("encode", encode, next(stream), -(-len(used) // size)))
    return [*works, Work("evaluate", predict, batch, on_test)]


def train_batches(setup: Setup, num_steps: int) -> Iterator[tuple[Batch, int]]:
    """Yields a real batch of each row count that training uses, ascending, and how many steps have that count."""
    rows, choices = training.training_rows(setup, num_steps)
    rounded = np.asarray(choices)[np.searchsorted(choices, rows)]
    for choice in choices:
        steps = np.flatnonzero(rounded == choice)
        yield next(training.member_batches(setup, choices, start_step=int(steps[0]))), len(steps)


def forecast(
    setup: Setup, schedule: Schedule, step: Compiled, state: TrainState, prepared: float, available: int | None
) -> tuple[Forecast, TrainState]:
    """Compiles the programs of a run and times those that fit; returns also the state after the steps.

    ``prepared`` are the seconds that led here, ``available`` the bytes for each device. The steps use up the state.
    """
    programs = []
    for work in workload(setup, schedule, step):
        program, state = measure(work, setup, state, available)
        programs.append(program)
    return Forecast(programs, schedule, count_parameters(state.trainable), prepared, available), state


def measure(work: Work, setup: Setup, state: TrainState, available: int | None) -> tuple[MeasuredProgram, TrainState]:
    """Compiles one program and calls it a few times, if it fits; returns also the state after it."""
    started = time.perf_counter()
    compiled = work.step.lower(*_parameters(work, setup, state), work.batch).compile()
    compile_seconds, need, seconds = time.perf_counter() - started, memory.of_program(compiled), None
    if memory.fits(need and need.peak, available) is not False:
        seconds, state = _timed(compiled, work, setup, state)
    operations = compiled.cost_analysis() or {}
    flops = (operations[0] if isinstance(operations, list) else operations).get("flops")
    return MeasuredProgram(work.name, *work.shape, work.calls, need, flops, compile_seconds, seconds), state


def _parameters(work: Work, setup: Setup, state: TrainState) -> tuple[Any, Params]:
    """A program's arguments beside the batch."""
    if work.name == "encode":
        return jax.tree.map(lambda leaf: leaf[:1], state.trainable), features.frozen_of_first(setup)
    return state if work.name == "train" else state.trainable, setup.frozen


def _timed(compiled: Callable, work: Work, setup: Setup, state: TrainState) -> tuple[float, TrainState]:
    """Seconds of a call: the median of a few after a first one, and the state they leave."""
    seconds, begun = [], time.perf_counter()
    while len(seconds) <= _CALLS and (len(seconds) < 2 or time.perf_counter() - begun < _BUDGET_SECONDS):
        started = time.perf_counter()
        result = jax.block_until_ready(compiled(*_parameters(work, setup, state), work.step.place(work.batch)))
        seconds.append(time.perf_counter() - started)
        state = result[0] if work.name == "train" else state
    return sorted(seconds[1:])[(len(seconds) - 1) // 2], state
