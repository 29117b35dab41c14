"""AdapterFusion: attention over the source adapters, per token (method.md, "AdapterFusion").

    score_t = q . (W_k up_t + b_k),  q = W_q z + b_q
    update  = W_v sum_t softmax(score)_t up_t

Letters: B rows, S row length, L layers, T source tasks, d hidden size, r bottleneck.

Keys and values are linear in the bottleneck activations h_t, since up_t = h_t U_t + c_t. With p = W_k q the
score is p . (h_t U_t + c_t) + q . b_k, and the weighted sum is taken in the bottleneck before one up
projection. So nothing of size [B S T d] exists; the values are those of the published form.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax.combiners.base import Combiner, of_module
from scalearn_jax.combiners.scalearn import source_updates
from scalearn_jax.errors import unknown
from scalearn_jax.models import bank as banks
from scalearn_jax.models.adapter import activations
from scalearn_jax.models.dropout import dropout as apply_dropout
from scalearn_jax.models.layers import affine, matmul
from scalearn_jax.typing import Array, Params


class Fusion(nn.Module):
    """Declares query, key and value maps of every layer.

    Attributes:
      value: train a value map (``dynamic``) or use the sources' outputs as they are (``static``).
      compose: ``"folded"`` stays in the bottleneck, ``"reference"`` is the published form.
    """

    value: bool = True
    compose: str = "folded"

    @nn.compact
    def parameters(self, shape: banks.BankShape) -> Params:
        """Declares kernels [L d d], and biases [L d] for query and key.

        Query and key start at N(0, 0.02), the value map at 1 on the diagonal and 1e-6 elsewhere.
        """
        square = (shape.num_layers, shape.hidden_size, shape.hidden_size)
        near_identity = lambda key: jnp.broadcast_to(1e-6 + (1 - 1e-6) * jnp.eye(square[-1])[None], square)  # noqa: E731
        params = {name: Projection(square, name=name)() for name in ("query", "key")}
        if self.value:
            params["value"] = Projection(square, near_identity, use_bias=False, name="value")()
        return params

    def bind(self, bank: Params, key=None, mask: Array | None = None) -> Params:
        """Passes the bank through beside the maps; see ``Combiner.bind``."""
        shape = banks.shape(bank)
        site = {"bank": bank, **self.parameters(shape)}
        if self.compose == "folded":
            wide = banks.widen(bank, jnp.ones((shape.num_layers, shape.num_sources, 1), bank["up"]["bias"].dtype))
            site = site | {"wide": {"down": wide["down"], "up": wide["up"]}}
        if mask is not None:
            site["mask"] = mask
        elif key is not None:
            site["dropout_key"] = jax.random.split(key, shape.num_layers)
        return site


class Projection(nn.Module):
    """One linear map a layer, stacked."""

    size: tuple[int, int, int]
    kernel: nn.initializers.Initializer | None = None
    use_bias: bool = True

    @nn.compact
    def __call__(self) -> Params:
        kernel = self.kernel or (lambda key: 0.02 * jax.random.normal(key, self.size))
        params = {"kernel": self.param("kernel", kernel)}
        if self.use_bias:
            params["bias"] = self.param("bias", nn.initializers.zeros, self.size[:2])
        return params


def attend(site: Params, scores: Array, temperature: float, dropout: float) -> Array:
    """Turns scores Float[B S T] into weights; dropout acts on the scores, before the softmax."""
    if "mask" in site:
        scores = scores * site["mask"].astype(scores.dtype)
    scores = apply_dropout(site.get("dropout_key"), scores, dropout)
    weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) / temperature)
    return weights.astype(scores.dtype)


def _query(site: Params, z: Array) -> Array:
    return affine(site["query"], z)


def _value(site: Params, mixed: Array) -> Array:
    return matmul(mixed, site["value"]["kernel"]) if "value" in site else mixed


def fuse(site: Params, z: Array, *, phi: str, temperature: float, dropout: float) -> Array:
    """AdapterFusion inside the bottleneck; equals ``fuse_reference``.

    Args:
      site: of one layer, from ``Fusion.bind``.
      z: Float[B S d], normalised hidden states.
      phi: non-linearity of the sources.
      temperature: divisor of the scores.
      dropout: rate on the scores.

    Returns:
      Float[B S d].
    """
    num_sources, _, width = site["bank"]["down"]["kernel"].shape
    by_source = (*z.shape[:2], num_sources, width)
    up, up_bias = site["wide"]["up"]["kernel"], site["bank"]["up"]["bias"].astype(z.dtype)
    h = activations(site["wide"]["down"], z, phi)  # [B, S, T*r]
    query = _query(site, z)
    p = matmul(query, site["key"]["kernel"].T)  # [B, S, d]
    scores = (matmul(p, up.T) * h).reshape(by_source).sum(-1) + p @ up_bias.T  # [B, S, T]
    scores += (query @ site["key"]["bias"].astype(z.dtype))[..., None]  # matters once dropout acts on scores
    weights = attend(site, scores, temperature, dropout)
    mixed = matmul((h.reshape(by_source) * weights[..., None]).reshape(h.shape), up) + weights @ up_bias
    return _value(site, mixed)


def fuse_reference(site: Params, z: Array, *, phi: str, temperature: float, dropout: float) -> Array:
    """AdapterFusion as published: keys and values of every source, Float[B S T d]. See ``fuse``."""
    updates = source_updates(site["bank"], z, phi)  # [B, S, T, d]
    keys = affine(site["key"], updates)
    weights = attend(site, jnp.einsum("bsd,bstd->bst", _query(site, z), keys), temperature, dropout)
    return jnp.einsum("bst,bstd->bsd", weights, _value(site, updates))


def distance_from_identity(transfer: Params) -> Array:
    """The published penalty 0.01 * sum_l ||I - V_l||_F^2 on the value maps."""
    kernel = transfer["value"]["kernel"]
    return 0.01 * ((jnp.eye(kernel.shape[-1], dtype=kernel.dtype)[None] - kernel) ** 2).sum()


def fusion(
    *,
    value: bool = True,
    temperature: float = 1.0,
    dropout: float = 0.0,
    compose: str = "folded",
    non_linearity: str = "relu",
) -> Combiner:
    """Makes AdapterFusion, ``dynamic`` (with a value map, penalised) or ``static``.

    Args:
      value: see ``Fusion``.
      temperature: divisor of the scores; published 1.
      dropout: rate on the scores; published: the encoder's attention dropout.
      compose: see ``Fusion``.
      non_linearity: of the sources.

    Returns:
      The combiner.

    Raises:
      InputError: unknown ``compose``.

    Example:
      >>> shape = banks.BankShape(2, 3, 8, 4)
      >>> sorted(fusion(value=False).init(jax.random.key(0), shape))
      ['key', 'query']
    """
    functions = {"folded": fuse, "reference": fuse_reference}
    if compose not in functions:
        raise unknown("compose", compose, functions)
    options = {"phi": non_linearity, "temperature": temperature, "dropout": dropout}
    return of_module(
        Fusion(value, compose),
        apply=lambda site, z: functions[compose](site, z, **options),
        penalty=distance_from_identity if value else None,
    )
