"""The training loop: step, log, evaluate, save. Its only side effects are its events and its checkpoints.

Letters: M members (of all runs).
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.errors import Preempted
from scalearn_jax.train import agreement
from scalearn_jax.train.feed import Dispatch
from scalearn_jax.train.signals import signals
from scalearn_jax.train.state import GroupProgress, Member, Position, TrainState
from scalearn_jax.typing import Params

Event = dict[str, Any]
_AHEAD = 2  # dispatches that may be under way beside the one being sent off


@dataclass(frozen=True)
class Schedule:
    """When the loop evaluates, logs and stops."""

    num_steps: int
    eval_every: int  # the last step is always evaluated
    log_every: int = 50
    patience: int = 5  # evaluations in a row without strict improvement before a member stops
    select: str = "loss"  # lower is better; or "metric", higher is better

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the full schedule."""
        return -(-self.num_steps // self.eval_every)

    def evaluates(self, step: int) -> bool:
        return step % self.eval_every == 0 or step == self.num_steps

    def logs(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.num_steps

    def stops(self) -> list[int]:
        """Lists the steps after which the loop looks at the state, for ``feed.dispatches``.

        Step 1 is among them, since compiling it says nothing about speed.

        Example:
          >>> Schedule(num_steps=10, eval_every=4, log_every=5).stops()
          [1, 4, 5, 8, 10]
        """
        periods = (range(every, self.num_steps, every) for every in (self.eval_every, self.log_every))
        return sorted({1, self.num_steps}.union(*periods))


@dataclass(frozen=True)
class Evaluation:
    """How members are compared on development data."""

    evaluate: Callable[[Params], list[dict[str, float]]]  # trainable [members of a run ...] -> metrics, loss among them
    main_metric: str  # the one of ``select="metric"``


def start(state: TrainState, num_runs: int, num_members: int) -> Position:
    """Returns the position before the first step of some runs of so many members each."""
    return Position(0, state, {}, [GroupProgress([Member() for _ in range(num_members)]) for _ in range(num_runs)])


def train(
    step: Callable,
    position: Position,
    frozen: Params,
    dispatches: Iterator[Dispatch],
    schedule: Schedule,
    evaluation: Evaluation,
    on_events: Sequence[Callable[[Event], None]],
    save: Callable[[Position, str], None] = lambda position, why: None,
    *,
    on_progress: Callable[[Event], None] = lambda event: None,
    num_programs: int = 1,
) -> None:
    """Trains the members of some runs together until the schedule ends or they have run out of patience.

    A member that has stopped keeps its best checkpoint and ignores later evaluations, so it ends as it would alone.

    Args:
      step: compiled step over all members, for dispatches of one step and of several.
      position: where to go on; moved forward in place. Its groups are the runs, which differ in learning rate.
      dispatches: batches with a leading member axis from there on, cut at ``schedule.stops()``.
      on_events: of each run, receives ``{"event": "train" | "eval", "step", ...}``.
      save: called after every dispatch, with what it was for the runs: ``"step"``, ``"evaluation"`` or ``"end"``; with
        ``"compilation"`` before one, which cannot be interrupted and may take long; and with ``"stop"`` before
        ``Preempted`` is raised.
      on_progress: receives how far all are, for those who wait: ``{"event": "compile", "number", "of"}`` before a
        program is compiled, ``{"event": "step", "step"}`` after each dispatch.
      num_programs: that will be compiled.
    """
    clock, compiled = _Clock(), set()

    def secure(program) -> None:
        """Saves before a program is compiled, so that the process may end at any moment until the next step."""
        if program not in compiled:
            compiled.add(program)
            on_progress({"event": "compile", "number": len(compiled), "of": max(num_programs, len(compiled))})
            if position.step:
                save(position, "compilation")
            signals.mark_saved()

    with signals.training():
        try:
            while True:
                evaluates = schedule.evaluates(position.step)
                if evaluates or schedule.logs(position.step):
                    for number, on_event in enumerate(on_events):
                        for event in _look_at(position, number, schedule, evaluation, clock, secure):
                            on_event(event)
                ends = all(_is_finished(run, schedule) for run in position.groups)
                if position.step:
                    save(position, "end" if ends else "evaluation" if evaluates else "step")
                if ends:
                    return
                dispatch = next(dispatches)
                secure(tuple(leaf.shape for leaf in dispatch.batch))
                position.state, position.metrics = step(position.state, frozen, dispatch)
                position.step += dispatch.num_steps
                clock.count(dispatch, position.metrics)
                on_progress({"event": "step", "step": position.step})
                signals.mark_unsaved()
                agreement.boundary()
        except Preempted:
            save(position, "stop")
            raise Preempted(
                f"told to stop, and saved step {position.step}; run the same command again to go on."
            ) from None


def _look_at(position: Position, number: int, schedule: Schedule, evaluation: Evaluation, clock, secure) -> list[Event]:
    """Logs and evaluates one run, as the schedule says for this step, unless it has ended."""
    run, step = position.groups[number], position.step
    if run.last == step or _is_finished(run, schedule):
        return []
    own = slice(number * len(run.members), (number + 1) * len(run.members))
    events = [_train_event(position, own, clock)] if schedule.logs(step) else []
    _note_faults(run, position, own, schedule)
    if schedule.evaluates(step) and not _is_finished(run, schedule):
        with clock.paused():
            secure("evaluation")
            events.append(_evaluate(run, position, own, schedule, evaluation))
    run.last = step  # from here on a checkpoint holds what was logged
    return events


def _goes_on(member: Member, schedule: Schedule) -> bool:
    return member.waited < schedule.patience


def _is_finished(run: GroupProgress, schedule: Schedule) -> bool:
    """Whether a run has evaluated its last step, or every member gave up or has no patience left."""
    ended = max(member.stopped_at for member in run.members) >= schedule.num_steps
    gave_up = run.gave_up or [False] * len(run.members)
    return ended or not any(_goes_on(m, schedule) and not gave for m, gave in zip(run.members, gave_up, strict=True))


def _note_faults(run: GroupProgress, position: Position, own: slice, schedule: Schedule) -> None:
    """Notes which members of a run have had too many faults in a row while they still went on."""
    gave_up = np.asarray(position.metrics["gave_up"])[own].tolist()
    run.gave_up = [gave and _goes_on(member, schedule) for gave, member in zip(gave_up, run.members, strict=True)]


def _train_event(position: Position, own: slice, clock: "_Clock") -> Event:
    rate = clock.rate(position.metrics)
    values = {name: np.asarray(value)[own].tolist() for name, value in sorted(position.metrics.items())}
    values.pop("gave_up")
    return {"event": "train", "step": position.step, **values, "examples_per_second": round(rate, 2)}


def _evaluate(run: GroupProgress, position: Position, own: slice, schedule: Schedule, evaluation: Evaluation) -> Event:
    """Evaluates the members of a run, and keeps those that are better than before."""
    trainable = jax.tree.map(lambda leaf: leaf[own], position.state.trainable)
    results = evaluation.evaluate(trainable)
    for index, (member, metrics) in enumerate(zip(run.members, results, strict=True)):
        if _goes_on(member, schedule) and not run.gave_up[index]:
            score = -metrics["loss"] if schedule.select == "loss" else metrics[evaluation.main_metric]
            score = score if np.isfinite(metrics["loss"]) else np.nan  # whose accuracy may look fine
            member.update(position.step, metrics, score, tree.index(trainable, index))
    return {"event": "eval", "step": position.step, "dev": results}


class _Clock:
    """Counts examples and the time they took; the first dispatch, whose program is compiled, is left out."""

    def __init__(self):
        self._examples, self._started = None, time.perf_counter()
        self._under_way: deque = deque()

    def count(self, dispatch: Dispatch, metrics: dict) -> None:
        """Takes in a dispatch; keeps the devices from falling behind by more than a few, so that a run can stop."""
        if self._examples is None:
            jax.block_until_ready(metrics)
            self._examples, self._started = 0, time.perf_counter()
            return
        self._examples += dispatch.num_examples
        self._under_way.append(metrics)
        if len(self._under_way) > _AHEAD:
            jax.block_until_ready(self._under_way.popleft())

    @contextlib.contextmanager
    def paused(self):
        """Leaves the time inside out."""
        paused = time.perf_counter()
        yield
        self._started += time.perf_counter() - paused

    def rate(self, metrics: dict) -> float:
        """Examples a second so far, once the steps asked for are done."""
        jax.block_until_ready(metrics)
        return (self._examples or 0) / max(time.perf_counter() - self._started, 1e-9)
