"""Prediction heads: first-token features to logits.

Letters: N sequences, B examples, K sequences per example, d hidden size, C outputs.
"""

from dataclasses import dataclass

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax.errors import unknown
from scalearn_jax.models.dropout import dropout
from scalearn_jax.models.layers import Affine, affine
from scalearn_jax.typing import Array, Key, Params

KINDS = ("two_layer", "pooled", "own_pooled", "linear")


@dataclass(frozen=True)
class HeadSpec:
    """The shape of a head (method.md, "Heads").

    Attributes:
      kind: ``"two_layer"``: dropout, dense, tanh, dropout, out (both published classification heads are this
        function). ``"pooled"``: the backbone's own pooler, dropout, out (the static multiple-choice head).
        ``"own_pooled"``: that with a copy of the pooler that is the head's own, and learns (joint multiple choice).
        ``"linear"``: dropout, out (the head that ``--fit solve`` finds in closed form).
      num_outputs: C; 1 for regression and for multiple choice, which scores each choice alone.
      num_choices: K; above 1 the K scores of an example form its logits.
      dropout: dropout rate; the encoder's hidden dropout as published.
    """

    kind: str = "two_layer"
    num_outputs: int = 2
    num_choices: int = 1
    dropout: float = 0.1

    @property
    def num_logits(self) -> int:
        """Logits of an example, one an output or one a choice."""
        return self.num_choices if self.num_choices > 1 else self.num_outputs


class Head(nn.Module):
    """Maps first-token states to logits."""

    spec: HeadSpec
    hidden_size: int

    @nn.compact
    def __call__(self, features: Array, pooler: Params | None = None, key: Key | None = None) -> Array:
        """Maps Float[N d] to Float[B C], or Float[B K] for multiple choice; ``pooler`` is for kind ``"pooled"``."""
        spec = self.spec
        chex.assert_shape(features, (None, self.hidden_size))
        dense_key, out_key = (None, None) if key is None else jax.random.split(key)
        if spec.kind == "linear":
            x = features
        elif spec.kind == "pooled":
            x = jnp.tanh(affine(pooler, features))
        else:
            dense = Affine(self.hidden_size, self.hidden_size, name="dense")()
            rate = spec.dropout if spec.kind == "two_layer" else 0.0  # a pooler has no dropout before it
            x = jnp.tanh(affine(dense, dropout(dense_key, features, rate)))
        out = Affine(self.hidden_size, spec.num_outputs, name="out")()
        logits = affine(out, dropout(out_key, x, spec.dropout))  # [N, C]
        return logits.reshape(-1, spec.num_choices) if spec.num_choices > 1 else logits


def init(key: Key, spec: HeadSpec, hidden_size: int) -> Params:
    """Draws a fresh head: kernels N(0, 0.02), biases 0.

    Raises:
      InputError: unknown kind.

    Example:
      >>> init(jax.random.key(0), HeadSpec(num_outputs=3), 8)["out"]["kernel"].shape
      (8, 3)
    """
    if spec.kind not in KINDS:
        raise unknown("head kind", spec.kind, KINDS)
    vector = jnp.zeros(hidden_size, jnp.float32)
    pooler = {"kernel": jnp.zeros((hidden_size, hidden_size), jnp.float32), "bias": vector}
    features = jnp.zeros((spec.num_choices, hidden_size), jnp.float32)
    return Head(spec, hidden_size).init(key, features, pooler)["params"]
