"""How far a program is: what the loop moves forward, and a checkpoint holds.

Letters: M members (of all groups).
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from scalearn_jax.train.state import TrainState
from scalearn_jax.typing import Params


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


@dataclass
class GroupProgress:
    """What the loop has seen of a group.

    Attributes:
      members: the best checkpoint of each so far.
      last: the last step at which it logged or evaluated.
      gave_up: for each member, whether it had too many faults in a row while it still went on; see
        ``make_train_step``.
    """

    members: list[Member]
    last: int = 0
    gave_up: list[bool] = field(default_factory=list)


@dataclass
class Position:
    """How far a program is: all that going on needs.

    Attributes:
      step: steps done.
      state: the training state after them, leading axis M.
      metrics: of the last step, [M] each; empty before the first.
      groups: what was seen of each group.
    """

    step: int
    state: TrainState
    metrics: dict[str, Any]
    groups: list[GroupProgress]
