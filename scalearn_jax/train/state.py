"""What a training run carries from step to step, and how far it is.

Letters: M members (of all runs).
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scalearn_jax import tree
from scalearn_jax.model import ModelSpec
from scalearn_jax.typing import Array, Key, Params

SHARED = ("backbone", "adapters")  # groups of which members share what is frozen


class Faults(NamedTuple):
    """The steps whose update was skipped because a loss or gradient was not finite."""

    skipped: Array  # Int[], how many
    in_a_row: Array  # Int[], how many of them came last, one after the other; at the limit it stays
    step: Array  # Int[], the last of them; -1 before the first
    gradient_norms: dict[str, Array]  # group -> Float[], norm of its gradient in that step
    parameter_norms: dict[str, Array]  # group -> Float[], norm of its parameters then


class TrainState(NamedTuple):
    """The whole run: nothing frozen is in it, so it is small to save and to stack."""

    step: Array  # Int[], updates done
    trainable: Params  # the trainable half of the parameters
    opt_state: Any
    key: Key  # typed PRNG key of the run's dropout; step k uses ``fold_in(key, k)``
    faults: Faults


def own_part(frozen: Params) -> Params:
    """Takes the part of what is frozen that each member has for itself, with a leading axis M; see ``SHARED``.

    Example:
      >>> own_part({"backbone": {}, "transfer": {"masks": jnp.ones((2, 3))}}).keys()
      dict_keys(['transfer'])
    """
    return {group: part for group, part in frozen.items() if group not in SHARED}


def with_constants(trainable: Params, frozen: Params, spec: ModelSpec) -> tuple[Params, Params]:
    """Puts the constants of a model's combiner beside what is frozen of each member, for ``ModelSpec.program``."""
    constants, count = spec.combiner_functions.constants, len(jax.tree.leaves(trainable)[0])
    copies = {name: jnp.repeat(jnp.asarray(x, jnp.float32)[None], count, axis=0) for name, x in constants.items()}
    gaps = trainable["transfer"] | dict.fromkeys(constants)
    return trainable | {"transfer": gaps}, frozen | {"transfer": frozen["transfer"] | copies}


def create(trainable: Params, tx: optax.GradientTransformation, key: Key) -> TrainState:
    """Makes the state before the first step.

    Example:
      >>> create({"omega": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(0)).step.item()
      0
    """
    zero = jnp.zeros((), jnp.int32)
    norms = jax.tree.map(jnp.zeros_like, jax.eval_shape(group_norms, trainable))
    return TrainState(zero, trainable, tx.init(trainable), key, Faults(zero, zero, zero - 1, norms, norms))


def group_norms(params: Params) -> dict[str, Array]:
    """Computes the norm of each top-level group that has leaves.

    Example:
      >>> {name: float(norm) for name, norm in group_norms({"heads": {"bias": jnp.array([3.0, 4.0])}}).items()}
      {'heads': 5.0}
    """
    return {name: optax.tree.norm(group) for name, group in params.items() if jax.tree.leaves(group)}


def count_parameters(trainable: Params) -> dict[str, int]:
    """Counts one member's trainable parameters: of the head, of all else (``transfer``), and in all.

    Example:
      >>> count_parameters({"transfer": {"omega": jnp.ones((2, 8, 1))}, "heads": {}})  # two members
      {'transfer': 8, 'head': 0, 'trainable': 8}
    """
    one = jax.eval_shape(lambda members: tree.index(members, 0), trainable)
    head, total = tree.num_parameters(one["heads"]), tree.num_parameters(one)
    return {"transfer": total - head, "head": head, "trainable": total}


@dataclass
class Member:
    """The best checkpoint of one member so far; it is the whole trainable tree, transfer and head together."""

    trainable: Params | None = None  # the tree at the best evaluation, on the host
    best: float = -np.inf  # its score, larger is better
    best_step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # on development data there
    waited: int = 0  # evaluations since
    stopped_at: int = 0  # the step of the last evaluation that counted

    def update(self, step: int, metrics: dict[str, float], score: float, trainable: Params) -> None:
        """Takes in one evaluation; NaN is never an improvement."""
        self.stopped_at = step
        self.waited += 1
        if score > self.best:
            self.trainable = jax.tree.map(np.array, trainable)
            self.best, self.best_step, self.metrics, self.waited = score, step, metrics, 0


@dataclass
class GroupProgress:
    """What the loop has seen of a group."""

    members: list[Member]
    last: int = 0  # the last step at which it logged or evaluated
    # For each member, whether it had too many faults in a row while it still went on; see ``skip_faults``.
    gave_up: list[bool] = field(default_factory=list)


@dataclass
class Position:
    """How far a program is: all that going on needs."""

    step: int  # steps done
    state: TrainState  # after them, leading axis M
    metrics: dict[str, Any]  # of the last step, [M] each; empty before the first
    groups: list[GroupProgress]
