"""Baselines without sources: an adapter or vectors that a few parameters of their own generate (method.md, "Baselines
without sources").

The bank that they get holds no adapter and has only its sizes.

Letters: L layers, d hidden size, r bottleneck, f feed-forward width, m = 4 components of a hyper-complex map, i inputs,
o outputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax.combiners.base import ADAPTER, VECTORS, Combiner, adapter, of_module, per_task
from scalearn_jax.errors import InputError, unknown
from scalearn_jax.models import bank as banks
from scalearn_jax.models.adapter import Adapter
from scalearn_jax.models.dropout import NO_DROPOUT, DropoutKeys
from scalearn_jax.typing import Array, Key, Params

NUM_COMPONENTS = 4
FFN_SCALES = ("after", "before")
MASKS = ("frozen", "trained", "joint")

_xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal", batch_axis=(0, 1), dtype=jnp.float32)
# Kaiming's start with a = sqrt(5), as for a torch map whose weight [o i] has the shape of one layer's scores.
_kaiming_uniform = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2, batch_axis=0, dtype=jnp.float32
)


class Compacter(nn.Module):
    """Generates both kernels of each layer from one rule and factors of rank 1."""

    @nn.compact
    def __call__(self, bank: Params, keys: DropoutKeys = NO_DROPOUT) -> Params:
        num_layers, _, hidden_size, bottleneck = banks.shape(bank)
        rule = self.param("rule", nn.initializers.normal(1e-4, jnp.float32), (NUM_COMPONENTS,) * 3)
        down = self.param("down", init_factors, (num_layers, hidden_size, bottleneck))
        up = self.param("up", init_factors, (num_layers, bottleneck, hidden_size))
        return {"down": kronecker_map(rule, down), "up": kronecker_map(rule, up)}


def init_factors(key: Key, size: tuple[int, int, int]) -> Params:
    """Draws the factors of maps Float[L i o].

    Raises:
      InputError: i or o is not a multiple of m.
    """
    num_layers, features_in, features_out = size
    if features_in % NUM_COMPONENTS or features_out % NUM_COMPONENTS:
        raise InputError(
            f"Compacter++ needs a hidden size and a bottleneck that are multiples of {NUM_COMPONENTS}, got"
            f" {features_in} and {features_out}; choose another reduction factor."
        )
    left_key, right_key = jax.random.split(key)
    return {
        "left": _xavier_normal(left_key, (num_layers, NUM_COMPONENTS, features_in // NUM_COMPONENTS, 1)),
        "right": _xavier_normal(right_key, (num_layers, NUM_COMPONENTS, 1, features_out // NUM_COMPONENTS)),
        "bias": jnp.zeros((num_layers, features_out), jnp.float32),
    }


def kronecker_map(rule: Array, factors: Params) -> Params:
    """Computes the maps of all layers, kernel = sum_j rule_j (x) (left_j right_j) Float[L i o], beside their biases."""
    blocks = factors["left"] @ factors["right"]  # [L, m, i/m, o/m]
    kernel = jnp.einsum("jab,ljio->laibo", rule.astype(blocks.dtype), blocks)
    features_in, features_out = (NUM_COMPONENTS * size for size in blocks.shape[2:])
    return {"kernel": kernel.reshape(-1, features_in, features_out), "bias": factors["bias"]}


def compacter(*, non_linearity: str = "gelu") -> Combiner:
    """Makes Compacter++ (arXiv 2106.04647): both kernels are sums of Kronecker products of small matrices.

    The rule [m m m] is shared by both projections and all layers; left and right factors have rank 1.

    Args:
      non_linearity: of the bottleneck; published GELU.

    Raises:
      InputError: (at ``init``) hidden size or bottleneck is not a multiple of m.

    Example:
      >>> params = compacter().init(jax.random.key(0), banks.BankShape(12, 0, 768, 48))
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      29440
    """
    return of_module(Compacter(), apply=adapter(non_linearity))


class IA3(nn.Module):
    """Declares one vector each for keys, values and the feed-forward map of every layer, all 1."""

    intermediate_size: int | None = None
    ffn_scale: str = "before"

    @nn.compact
    def __call__(self, bank: Params, keys: DropoutKeys = NO_DROPOUT) -> Params:
        num_layers, _, hidden_size, _ = banks.shape(bank)
        sizes = {"key": hidden_size, "value": hidden_size, "ffn": self.intermediate_size or 4 * hidden_size}
        site = {
            f"{name}_scale": self.param(name, nn.initializers.ones, (num_layers, size), jnp.float32)
            for name, size in sizes.items()
        }
        if self.ffn_scale == "after":
            site["inner_scale"] = site.pop("ffn_scale")
        return site


def ia3(*, intermediate_size: int | None = None, ffn_scale: str = "before", non_linearity: str = "relu") -> Combiner:
    """Makes (IA)^3 (arXiv 2205.05638): learned vectors on keys, values and the first feed-forward map.

    Args:
      intermediate_size: f; ``None`` for 4 d.
      ffn_scale: where the feed-forward vector acts: ``"after"`` the GELU, as published, or ``"before"`` it, as in the
        ScaLearn release.
      non_linearity: unused; there is no bottleneck.

    Raises:
      InputError: unknown ``ffn_scale``.

    Example:
      >>> params = ia3().init(jax.random.key(0), banks.BankShape(12, 0, 768, 0))
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      55296
    """
    if ffn_scale not in FFN_SCALES:
        raise unknown("ffn_scale", ffn_scale, FFN_SCALES)
    return of_module(IA3(intermediate_size, ffn_scale), apply=None, site=VECTORS)


class ProPETL(nn.Module):
    """Cuts each layer's adapter out of one for all layers.

    ``masks`` says what tells where: ``"frozen"``, masks that are drawn once; ``"trained"``, the scores of each layer;
    ``"joint"``, those and ``own`` scores of the task: an entry is kept where one of the two keeps it.
    """

    sparsity: float
    masks: str

    @nn.compact
    def __call__(self, bank: Params, keys: DropoutKeys = NO_DROPOUT) -> Params:
        num_layers, _, hidden_size, bottleneck = banks.shape(bank)
        shared = Adapter(hidden_size, bottleneck, name="adapter")()
        shapes = {"down": (num_layers, hidden_size, bottleneck), "up": (num_layers, bottleneck, hidden_size)}

        def init_masks(key: Key) -> Params:
            drawn = zip(jax.random.split(key), shapes.items(), strict=True)
            scores = {part: _kaiming_uniform(key, shape) for key, (part, shape) in drawn}
            return {part: masks_of(scores[part], self.sparsity).astype(jnp.float32) for part in scores}

        if self.masks == "frozen":
            masks = self.param("masks", init_masks)
        else:
            scores = self.param("scores", init_scores, shapes)
            masks = {part: trained_masks(scores[part], self.sparsity) for part in shapes}
        if self.masks == "joint":
            own = self.param("own", lambda key: {"scores": init_scores(key, {p: x[1:] for p, x in shapes.items()})})
            kept = {part: trained_masks(own["scores"][part][None], self.sparsity) for part in shapes}
            masks = {part: 1 - (1 - kept[part]) * (1 - masks[part]) for part in shapes}
        return {part: masked_map(shared[part], masks[part]) for part in shapes}


def init_scores(key: Key, shapes: dict[str, tuple[int, ...]]) -> Params:
    """Draws scores Float[... i o] of both parts as torch draws the weight of such a map, U(-1/sqrt(i), 1/sqrt(i))."""
    drawn = zip(jax.random.split(key), shapes.items(), strict=True)
    return {
        part: jax.random.uniform(key, shape, jnp.float32, -(shape[-2] ** -0.5), shape[-2] ** -0.5)
        for key, (part, shape) in drawn
    }


def trained_masks(scores: Array, fraction: float) -> Array:
    """Computes ``masks_of`` in the type of the scores; the gradient passes straight to |scores|."""
    size = jnp.abs(scores)
    return masks_of(scores, fraction).astype(scores.dtype) + (size - jax.lax.stop_gradient(size))


def masked_map(shared: Params, masks: Array) -> Params:
    """Keeps in each layer the kernel entries where its mask Float[L i o] is 1; the bias is the same in all."""
    kernel, bias = shared["kernel"], shared["bias"]
    return {
        "kernel": kernel[None] * masks.astype(kernel.dtype),
        "bias": jnp.broadcast_to(bias[None], (len(masks), *bias.shape)),
    }


def masks_of(scores: Array, fraction: float) -> Array:
    """Marks in each layer the entries with the largest absolute scores; floor((1 - fraction) * size) are dropped.

    Returns:
      Bool[L i o], of scores Float[L i o].

    Example:
      >>> masks_of(jnp.array([[[1.0, -3.0], [2.0, 0.5]]]), 0.5).astype(int).tolist()
      [[[0, 1], [1, 0]]]
    """

    def of_layer(scores: Array) -> Array:
        order = jnp.argsort(jnp.abs(scores).ravel())
        dropped = order[: int((1 - fraction) * scores.size)]
        return jnp.ones(scores.size, bool).at[dropped].set(False).reshape(scores.shape)

    return jax.vmap(of_layer)(scores)


def propetl(
    *, sparsity: float = 0.5, masks: str = "frozen", tasks: tuple[str, ...] = (), non_linearity: str = "relu"
) -> Combiner:
    """Makes ProPETL (arXiv 2305.17682): one adapter for all layers, each with its own binary mask on both kernels.

    A mask keeps the fraction ``sparsity`` of the entries with the largest absolute scores.

    Args:
      sparsity: the fraction that is kept; published 0.5 for one task, 0.3 for several.
      masks: ``"trained"``: the scores of each layer learn, as published; ``"joint"``: those and scores of each task, an
        entry is kept where either keeps it; ``"frozen"``: as in the ScaLearn release the scores stay at their random
        start, so that of them only the masks are kept, and what learns is the shared ``adapter``.
      tasks: those of a joint run; empty for one task.
      non_linearity: of the bottleneck.

    Raises:
      InputError: unknown ``masks``.

    Example:
      >>> params = propetl().init(jax.random.key(0), banks.BankShape(12, 0, 768, 48))
      >>> sum(leaf.size for leaf in jax.tree.leaves(params["adapter"]))
      74544
    """
    if masks not in MASKS:
        raise unknown("masks", masks, MASKS)
    site = ADAPTER if masks == "frozen" else ("down", "up")  # scores are more than the adapter, see ``by_group``
    one = of_module(ProPETL(sparsity, masks), apply=adapter(non_linearity), site=site)
    return per_task(one, tasks)
