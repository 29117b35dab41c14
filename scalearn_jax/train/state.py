"""What a training run carries from step to step."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from scalearn_jax.typing import Array, Key, Params


class TrainState(NamedTuple):
    """The whole run: nothing frozen is in it, so it is small to save and to stack.

    Attributes:
      step: Int[], updates done.
      trainable: the trainable half of the parameters.
      opt_state: the optimiser's state.
      key: typed PRNG key of the run's dropout; step k uses ``fold_in(key, k)``.
    """

    step: Array
    trainable: Params
    opt_state: Any
    key: Key


def create(trainable: Params, tx: optax.GradientTransformation, key: Key) -> TrainState:
    """Makes the state before the first step.

    Example:
      >>> import jax
      >>> create({"omega": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(0)).step.item()
      0
    """
    return TrainState(jnp.zeros((), jnp.int32), trainable, tx.init(trainable), key)
