"""The training loop: the only side effects of training are its events.

Letters: M members (seeds trained together), n examples of a split, C outputs.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from scalearn_jax import tree
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


def train(
    step: Callable,
    state: TrainState,
    frozen: Params,
    batches: Iterator[Batch],
    *,
    evaluate: Callable[[Params], list[dict[str, float]]],
    schedule: Schedule,
    main_metric: str,
    on_event: Callable[[Event], None] = lambda event: None,
) -> list[Member]:
    """Trains M members together until the schedule ends or all have run out of patience.

    A member that has stopped keeps its best checkpoint and ignores later evaluations, so it ends as it would
    alone.

    Args:
      step: compiled step over M members.
      state: its first state, leading axis M.
      frozen: the frozen half, shared.
      batches: batches with a leading member axis.
      evaluate: trainable trees [M ...] -> development metrics of each member, ``loss`` among them.
      schedule: when to evaluate, log and stop.
      main_metric: the metric of ``select="metric"``.
      on_event: receives ``{"event": "train" | "eval", "step", ...}``.

    Returns:
      The best checkpoint of each member.

    Raises:
      FloatingPointError: no evaluation of some member gave a finite score.
    """
    members = [Member() for _ in range(len(jax.tree.leaves(state.trainable)[0]))]
    started, num_examples = time.perf_counter(), 0
    for number, batch in zip(range(1, schedule.num_steps + 1), batches, strict=False):
        state, metrics = step(state, frozen, batch)
        num_examples += int(np.sum(batch.example_mask))
        last = number == schedule.num_steps
        if number == 1 or number % schedule.log_every == 0 or last:
            jax.block_until_ready(metrics)
        if number % schedule.log_every == 0 or last:
            on_event(_train_event(number, metrics, num_examples / (time.perf_counter() - started)))
        if number == 1:  # it was compiled, which says nothing about speed
            started, num_examples = time.perf_counter(), 0
        if number % schedule.eval_every == 0 or last:
            paused = time.perf_counter()
            results = evaluate(state.trainable)
            _update(members, number, results, state.trainable, schedule, main_metric)
            on_event({"event": "eval", "step": number, "dev": results})
            started += time.perf_counter() - paused
            if all(member.waited >= schedule.patience for member in members):
                break
    if any(member.trainable is None for member in members):
        raise FloatingPointError(
            f"no evaluation in {schedule.num_steps} steps gave a finite {schedule.select}; lower the learning rate."
        )
    return members


def _train_event(step: int, metrics: dict, rate: float) -> Event:
    values = {name: np.asarray(value).tolist() for name, value in metrics.items()}
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
