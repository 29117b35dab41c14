"""The training loop: the only side effects of training are its events.

Letters: M members (seeds trained together), n examples of a split, C outputs.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.train import feed
from scalearn_jax.train.state import TrainState
from scalearn_jax.typing import Batch, Params

Event = dict[str, Any]


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


@dataclass
class Member:
    """The best checkpoint of one member so far; it is the whole trainable tree, transfer and head together.

    Attributes:
      trainable: the tree at the best evaluation, on the host.
      best: its score, larger is better.
      best_step: its step.
      metrics: the development metrics there.
      waited: evaluations since.
      stopped_at: the step of the last evaluation that counted.
    """

    trainable: Params | None = None
    best: float = -np.inf
    best_step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    waited: int = 0
    stopped_at: int = 0

    def update(self, step: int, metrics: dict[str, float], score: float, trainable: Params) -> None:
        """Takes in one evaluation; NaN is never an improvement."""
        self.stopped_at = step
        self.waited += 1
        if score > self.best:
            self.trainable = jax.tree.map(np.array, trainable)
            self.best, self.best_step, self.metrics, self.waited = score, step, metrics, 0


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


def lookups(groups: Sequence[Group]) -> list[int]:
    """Lists the steps at which the loop evaluates or logs some group, for ``feed.lots``."""
    return feed.stops((g.schedule.num_steps, g.schedule.eval_every, g.schedule.log_every) for g in groups)


def train(
    step: Callable, state: TrainState, frozen: Params, lots: Iterator[feed.Lot], groups: Sequence[Group]
) -> list[list[Member] | None]:
    """Trains all members of some groups together until their schedules end or they have run out of patience.

    A member that has stopped keeps its best checkpoint and ignores later evaluations, so it ends as it would
    alone; so does a group whose schedule is shorter.

    Args:
      step: compiled step over all members, for lots of one step and of several.
      state: its first state, leading axis M.
      frozen: the frozen half, shared.
      lots: batches with a leading member axis, cut at ``lookups(groups)``.
      groups: who is trained.

    Returns:
      The best checkpoint of each member of each group; ``None`` for a group with a member of which no evaluation gave
      a finite score.
    """
    runs, clock = _runs(groups), _Clock()
    for lot in lots:
        state, metrics = step(state, frozen, lot)
        clock.count(lot, metrics)
        for run in runs:
            run.look(clock, state, metrics)
        if all(run.finished for run in runs):
            break
    return [run.members if run.is_finite else None for run in runs]


def _runs(groups: Sequence[Group]) -> list["_Run"]:
    ends = list(accumulate(group.num_members for group in groups))
    return [_Run(group, slice(end - group.num_members, end)) for group, end in zip(groups, ends, strict=True)]


class _Clock:
    """Counts steps and examples, and the time they took; the first step, which is compiled, and evaluation aside."""

    def __init__(self):
        self.step, self._examples, self._started = 0, 0, time.perf_counter()

    def count(self, lot: feed.Lot, metrics: dict) -> None:
        if self.step == 0:
            jax.block_until_ready(metrics)
            self._started = time.perf_counter()
        else:
            self._examples += lot.num_examples
        self.step += lot.num_steps

    def rate(self, metrics: dict) -> float:
        """Examples a second so far, once the steps asked for are done."""
        jax.block_until_ready(metrics)
        return self._examples / max(time.perf_counter() - self._started, 1e-9)

    @contextlib.contextmanager
    def paused(self):
        paused = time.perf_counter()
        yield
        self._started += time.perf_counter() - paused


class _Run:
    """A group on its way."""

    def __init__(self, group: Group, where: slice):
        self._group, self._where = group, where
        self.members = [Member() for _ in range(group.num_members)]

    @property
    def finished(self) -> bool:
        patience = self._group.schedule.patience
        done = max(member.stopped_at for member in self.members) >= self._group.schedule.num_steps
        return done or all(member.waited >= patience for member in self.members)

    def look(self, clock: _Clock, state: TrainState, metrics: dict) -> None:
        """Logs and evaluates where the schedule says so."""
        group, schedule, step = self._group, self._group.schedule, clock.step
        if self.finished or step > schedule.num_steps:
            return
        last = step == schedule.num_steps
        if step % schedule.log_every == 0 or last:
            rate = clock.rate(metrics)
            group.on_event(_train_event(step, jax.tree.map(lambda x: np.asarray(x)[self._where], metrics), rate))
        if step % schedule.eval_every == 0 or last:
            with clock.paused():
                own = jax.tree.map(lambda leaf: leaf[self._where], state.trainable)
                results = group.evaluate(own)
                _update(self.members, step, results, own, schedule, group.main_metric)
                group.on_event({"event": "eval", "step": step, "dev": results})

    @property
    def is_finite(self) -> bool:
        """Whether every member has a best checkpoint."""
        return all(member.trainable is not None for member in self.members)


def _train_event(step: int, metrics: dict, rate: float) -> Event:
    values = {name: value.tolist() for name, value in metrics.items()}
    return {"event": "train", "step": step, **values, "examples_per_second": round(rate, 2)}


def _update(members, step, results, trainable, schedule: Schedule, main_metric: str) -> None:
    for index, (member, metrics) in enumerate(zip(members, results, strict=True)):
        if member.waited < schedule.patience:
            score = -metrics["loss"] if schedule.select == "loss" else metrics[main_metric]
            member.update(step, metrics, score, tree.index(trainable, index))


def collect_logits(predict: Callable, trainable: Params, frozen: Params, batches: Iterator[Batch]) -> np.ndarray:
    """Runs a prediction over a split.

    Args:
      predict: compiled over members, (trainable, frozen, batch) -> Float[M B C].
      trainable: leading axis M.
      frozen: shared.
      batches: batches without member axis; fillers are dropped, ``example_id`` restores the order.

    Returns:
      Float[M n C].
    """
    logits, ids = [], []
    for batch in batches:
        real = np.asarray(batch.example_mask)
        logits.append(np.asarray(predict(trainable, frozen, batch))[:, real])
        ids.append(np.asarray(batch.example_id)[real])
    order = np.argsort(np.concatenate(ids), kind="stable")
    return np.concatenate(logits, axis=1)[:, order]
