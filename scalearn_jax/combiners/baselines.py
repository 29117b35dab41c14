"""Baselines that make an ordinary adapter site of few parameters of their own (method.md, "Baselines without sources").

Letters: L layers, d hidden size, r bottleneck, f feed-forward width, m = 4 components of a hyper-complex map.

They use no source adapters: ``bind`` ignores the bank, and the encoder runs what it returns like any adapter.
"""

import jax
import jax.numpy as jnp

from scalearn_jax.combiners.base import Combiner, adapter
from scalearn_jax.errors import InputError
from scalearn_jax.models.bank import BankShape
from scalearn_jax.typing import Array, Key, Params

NUM_COMPONENTS = 4


def compacter(*, non_linearity: str = "gelu") -> Combiner:
    """Makes Compacter++ (arXiv 2106.04647): both kernels are sums of Kronecker products of small matrices.

        kernel = sum_j rule_j (x) (left_j right_j)

    The rule [m m m] is shared by both projections and all layers; left and right have rank 1.

    Args:
      non_linearity: of the bottleneck; published GELU.

    Returns:
      The combiner.

    Raises:
      InputError: (at ``init``) hidden size or bottleneck is not a multiple of m.

    Example:
      >>> params = compacter().init(jax.random.key(0), BankShape(12, 0, 768, 48))
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      29440
    """

    def init(key: Key, shape: BankShape) -> Params:
        rule_key, down_key, up_key = jax.random.split(key, 3)
        return {
            "rule": 1e-4 * jax.random.normal(rule_key, (NUM_COMPONENTS,) * 3),
            "down": _factors(down_key, shape.num_layers, shape.hidden_size, shape.bottleneck),
            "up": _factors(up_key, shape.num_layers, shape.bottleneck, shape.hidden_size),
        }

    def bind(transfer: Params, bank: Params, *, key=None, mask=None) -> Params:
        return {part: _kronecker_map(transfer["rule"], transfer[part]) for part in ("down", "up")}

    return Combiner(init, bind, adapter(non_linearity))


def _factors(key: Key, num_layers: int, features_in: int, features_out: int) -> Params:
    if features_in % NUM_COMPONENTS or features_out % NUM_COMPONENTS:
        raise InputError(
            f"Compacter++ needs a hidden size and a bottleneck that are multiples of {NUM_COMPONENTS}, got"
            f" {features_in} and {features_out}; choose another reduction factor."
        )
    left = (num_layers, NUM_COMPONENTS, features_in // NUM_COMPONENTS, 1)
    right = (num_layers, NUM_COMPONENTS, 1, features_out // NUM_COMPONENTS)
    left_key, right_key = jax.random.split(key)
    return {
        "left": _xavier_normal(left_key, left),
        "right": _xavier_normal(right_key, right),
        "bias": jnp.zeros((num_layers, features_out)),
    }


def _xavier_normal(key: Key, shape: tuple[int, ...]) -> Array:
    return jnp.sqrt(2 / (shape[-2] + shape[-1])) * jax.random.normal(key, shape)


def _kronecker_map(rule: Array, factors: Params) -> Params:
    blocks = factors["left"] @ factors["right"]  # [L, m, in/m, out/m]
    kernel = jnp.einsum("jab,ljio->laibo", rule.astype(blocks.dtype), blocks)
    features_in, features_out = (NUM_COMPONENTS * size for size in blocks.shape[2:])
    return {"kernel": kernel.reshape(-1, features_in, features_out), "bias": factors["bias"]}


def ia3(*, intermediate_size: int | None = None, non_linearity: str = "relu") -> Combiner:
    """Makes (IA)^3 (arXiv 2205.05638): learned vectors on keys, values and the first feed-forward map.

    As in the release the feed-forward vector acts before the GELU; the original method scales after it.

    Args:
      intermediate_size: f; ``None`` for 4 d.
      non_linearity: unused; there is no bottleneck.

    Returns:
      The combiner.

    Example:
      >>> params = ia3().init(jax.random.key(0), BankShape(12, 0, 768, 0))
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      55296
    """

    def init(key: Key, shape: BankShape) -> Params:
        sizes = {"key": shape.hidden_size, "value": shape.hidden_size}
        sizes["ffn"] = intermediate_size or 4 * shape.hidden_size
        return {name: jnp.ones((shape.num_layers, size)) for name, size in sizes.items()}

    def bind(transfer: Params, bank: Params, *, key=None, mask=None) -> Params:
        return {f"{name}_scale": vector for name, vector in transfer.items()}

    return Combiner(init, bind, None)


def propetl(*, sparsity: float = 0.5, non_linearity: str = "relu") -> Combiner:
    """Makes single-task ProPETL (arXiv 2305.17682): one adapter for all layers, each with its own binary mask.

    Each layer keeps the fraction ``sparsity`` of the kernel entries with the largest absolute scores. As in
    the release the scores stay at their random start: only the shared adapter gets a gradient.

    Args:
      sparsity: fraction of entries kept.
      non_linearity: of the bottleneck.

    Returns:
      The combiner; its parameters are ``adapter`` (trained) and ``scores`` (not).

    Example:
      >>> params = propetl().init(jax.random.key(0), BankShape(12, 0, 768, 48))
      >>> sum(leaf.size for leaf in jax.tree.leaves(params["adapter"]))
      74544
    """

    def init(key: Key, shape: BankShape) -> Params:
        down, up = (shape.hidden_size, shape.bottleneck), (shape.bottleneck, shape.hidden_size)
        keys = jax.random.split(key, 4)
        kernels = {"down": (keys[0], keys[1], down), "up": (keys[2], keys[3], up)}
        return {
            "adapter": {
                part: {"kernel": 0.02 * jax.random.normal(key, size), "bias": jnp.zeros(size[1])}
                for part, (key, _, size) in kernels.items()
            },
            "scores": {
                part: _kaiming_uniform(key, (shape.num_layers, *size)) for part, (_, key, size) in kernels.items()
            },
        }

    def bind(transfer: Params, bank: Params, *, key=None, mask=None) -> Params:
        def part(name: str) -> Params:
            kernel, bias = transfer["adapter"][name]["kernel"], transfer["adapter"][name]["bias"]
            keep = jax.lax.stop_gradient(jax.vmap(lambda scores: largest(scores, sparsity))(transfer["scores"][name]))
            return {
                "kernel": kernel[None] * keep.astype(kernel.dtype),
                "bias": jnp.broadcast_to(bias[None], (len(keep), *bias.shape)),
            }

        return {name: part(name) for name in ("down", "up")}

    return Combiner(init, bind, adapter(non_linearity))


def _kaiming_uniform(key: Key, shape: tuple[int, ...]) -> Array:
    """Kaiming's uniform start with a = sqrt(5), as for a torch map whose weight has the scores' shape."""
    bound = 1 / jnp.sqrt(shape[-1])
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def largest(scores: Array, fraction: float) -> Array:
    """Marks the entries with the largest absolute scores; floor((1 - fraction) * size) are dropped.

    Args:
      scores: of any shape.
      fraction: share to keep.

    Returns:
      Zeros and ones, in the shape and dtype of ``scores``.

    Example:
      >>> largest(jnp.array([[1.0, -3.0], [2.0, 0.5]]), 0.5).tolist()
      [[0.0, 1.0], [1.0, 0.0]]
    """
    num_dropped = int((1 - fraction) * scores.size)
    order = jnp.argsort(jnp.abs(scores).ravel())
    return jnp.ones(scores.size, scores.dtype).at[order[:num_dropped]].set(0).reshape(scores.shape)
