"""The training loop: the only side effects of training are its events and its checkpoints.

Letters: M members (seeds trained together), n examples of a split, C outputs.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.errors import Preempted
from scalearn_jax.train import feed, preemption
from scalearn_jax.train.position import GroupProgress, Member, Position
from scalearn_jax.train.signals import signals
from scalearn_jax.train.state import TrainState
from scalearn_jax.typing import Params

Event = dict[str, Any]
_AHEAD = 2  # lots that may be under way beside the one being sent off


@dataclass(frozen=True)
class Schedule:
    """When the loop evaluates, logs and stops.

    Attributes:
      num_steps: steps of the full schedule.
      eval_every: steps between evaluations; the last step is always evaluated.
      log_every: steps between training records.
      patience: evaluations in a row without strict improvement before a member stops.
      select: ``"loss"`` (lower is better) or ``"metric"`` (higher is better).
    """

    num_steps: int
    eval_every: int
    log_every: int = 50
    patience: int = 5
    select: str = "loss"

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the full schedule."""
        return -(-self.num_steps // self.eval_every)


@dataclass(frozen=True)
class Group:
    """Members that share a task: their schedule, their evaluation, and where their events go.

    Attributes:
      num_members: how many; groups follow one another along the member axis.
      schedule: when to evaluate, log and stop.
      evaluate: trainable trees [M ...] of the group -> development metrics of each member, ``loss`` among them.
      main_metric: the metric of ``select="metric"``.
      on_event: receives ``{"event": "train" | "eval", "step", ...}``.
    """

    num_members: int
    schedule: Schedule
    evaluate: Callable[[Params], list[dict[str, float]]]
    main_metric: str
    on_event: Callable[[Event], None] = lambda event: None


def start(state: TrainState, groups: Sequence[Group]) -> Position:
    """Returns the position before the first step."""
    return Position(0, state, {}, [GroupProgress([Member() for _ in range(group.num_members)]) for group in groups])


def lookups(groups: Sequence[Group]) -> list[int]:
    """Lists the steps at which the loop evaluates or logs some group, for ``feed.lots``."""
    return feed.stops((g.schedule.num_steps, g.schedule.eval_every, g.schedule.log_every) for g in groups)


def train(
    step: Callable,
    position: Position,
    frozen: Params,
    lots: Iterator[feed.Lot],
    groups: Sequence[Group],
    save: Callable[[Position, str], None] = lambda position, why: None,
) -> None:
    """Trains all members of some groups together until their schedules end or they have run out of patience.

    A member that has stopped keeps its best checkpoint and ignores later evaluations, so it ends as it would
    alone; so does a group whose schedule is shorter.

    Args:
      step: compiled step over all members, for lots of one step and of several.
      position: where to go on; moved forward in place.
      frozen: the frozen half, shared.
      lots: batches with a leading member axis from there on, cut at ``lookups(groups)``.
      groups: who is trained.
      save: called after every lot, with what it was for the groups: ``"step"``, ``"evaluation"`` or ``"end"``; with
        ``"compilation"`` before one, which cannot be interrupted and may take long; and with ``"stop"`` when the
        process was told to stop.

    Raises:
      Preempted: the process was told to stop.
    """
    runs, clock, compiled = _runs(groups, position, save), _Clock(), set()
    with signals.training():
        try:
            _look(runs, clock, position, save)
            while not all(run.finished for run in runs):
                lot = next(lots)
                if (shape := _shape(lot)) not in compiled:
                    compiled.add(shape)
                    _secure(position, save)
                position.state, position.metrics = step(position.state, frozen, lot)
                position.step += lot.num_steps
                clock.count(lot, position.metrics)
                signals.mark_unsaved()
                preemption.boundary()
                _look(runs, clock, position, save)
        except Preempted:
            save(position, "stop")
            raise Preempted(
                f"told to stop, and saved step {position.step}; run the same command again to go on."
            ) from None


def _look(runs: Sequence["_Run"], clock: "_Clock", position: Position, save: Callable) -> None:
    """Lets each group log and evaluate, and then saves."""
    evaluated = [run.look(clock, position) for run in runs]
    ends = all(run.finished for run in runs)
    if position.step:
        save(position, "end" if ends else "evaluation" if any(evaluated) else "step")


def _secure(position: Position, save: Callable) -> None:
    """Brings a position to the disk, so that the process may end at any moment until the next step."""
    if position.step:
        save(position, "compilation")
    signals.mark_saved()


def _shape(lot: feed.Lot) -> tuple:
    """What lots of one program have in common."""
    return tuple(leaf.shape for leaf in lot.batch)


def _runs(groups: Sequence[Group], position: Position, save: Callable) -> list["_Run"]:
    ends = list(accumulate(group.num_members for group in groups))
    places = [slice(end - group.num_members, end) for group, end in zip(groups, ends, strict=True)]
    return [_Run(*run, save) for run in zip(groups, places, position.groups, strict=True)]


class _Clock:
    """Counts examples, and the time they took; the first lot, whose program is compiled, and evaluation aside."""

    def __init__(self):
        self._examples, self._started = None, time.perf_counter()
        self._under_way: deque = deque()

    def count(self, lot: feed.Lot, metrics: dict) -> None:
        """Takes in a lot; keeps the devices from falling behind by more than a few, so that a run can be stopped."""
        if self._examples is None:
            jax.block_until_ready(metrics)
            self._examples, self._started = 0, time.perf_counter()
            return
        self._examples += lot.num_examples
        self._under_way.append(metrics)
        if len(self._under_way) > _AHEAD:
            jax.block_until_ready(self._under_way.popleft())

    def rate(self, metrics: dict) -> float:
        """Examples a second so far, once the steps asked for are done."""
        jax.block_until_ready(metrics)
        return (self._examples or 0) / max(time.perf_counter() - self._started, 1e-9)

    @contextlib.contextmanager
    def paused(self):
        paused = time.perf_counter()
        yield
        self._started += time.perf_counter() - paused


class _Run:
    """A group on its way."""

    def __init__(self, group: Group, where: slice, looks: GroupProgress, save: Callable):
        self._group, self._where, self._looks, self._save, self._compiled = group, where, looks, save, False

    @property
    def finished(self) -> bool:
        members, schedule = self._looks.members, self._group.schedule
        done = max(member.stopped_at for member in members) >= schedule.num_steps
        return done or any(self._looks.gave_up) or not any(self._goes_on)

    @property
    def _goes_on(self) -> list[bool]:
        """For each member, whether it has patience left."""
        return [member.waited < self._group.schedule.patience for member in self._looks.members]

    def look(self, clock: _Clock, position: Position) -> bool:
        """Logs and evaluates where the schedule says so, once; returns whether it evaluated."""
        schedule, step = self._group.schedule, position.step
        if self.finished or not self._looks.last < step <= schedule.num_steps:
            return False
        logs, evaluates = (step % every == 0 or step == schedule.num_steps for every in _periods(schedule))
        if not (logs or evaluates):
            return False
        events = [self._logged(clock, position)] if logs else []
        gave_up = np.asarray(position.metrics["gave_up"])[self._where].tolist()
        self._looks.gave_up = [gave and goes_on for gave, goes_on in zip(gave_up, self._goes_on, strict=True)]
        if evaluates and not any(self._looks.gave_up):
            with clock.paused():
                if not self._compiled:
                    self._compiled = True
                    _secure(position, self._save)
                events.append(self._evaluated(position))
        self._looks.last = step  # the look is part of the position now
        for event in events:
            self._group.on_event(event)
        return evaluates

    def _logged(self, clock: _Clock, position: Position) -> Event:
        rate = clock.rate(position.metrics)
        values = {name: np.asarray(value)[self._where].tolist() for name, value in sorted(position.metrics.items())}
        values.pop("gave_up")
        return {"event": "train", "step": position.step, **values, "examples_per_second": round(rate, 2)}

    def _evaluated(self, position: Position) -> Event:
        own = jax.tree.map(lambda leaf: leaf[self._where], position.state.trainable)
        results = self._group.evaluate(own)
        _update(self._looks.members, position.step, results, own, self._group.schedule, self._group.main_metric)
        return {"event": "eval", "step": position.step, "dev": results}


def _periods(schedule: Schedule) -> tuple[int, int]:
    return schedule.log_every, schedule.eval_every


def _update(members, step, results, trainable, schedule: Schedule, main_metric: str) -> None:
    for index, (member, metrics) in enumerate(zip(members, results, strict=True)):
        if member.waited < schedule.patience:
            score = -metrics["loss"] if schedule.select == "loss" else metrics[main_metric]
            score = score if np.isfinite(metrics["loss"]) else np.nan  # whose accuracy may look fine
            member.update(step, metrics, score, tree.index(trainable, index))
