"""AdapterFusion: attention over the source adapters, per token (method.md, "AdapterFusion").

    score_t = q . (W_k up_t + b_k),  q = W_q z + b_q
    update  = W_v sum_t softmax(score)_t up_t

Letters: R rows, S row length, L layers, T source tasks, d hidden size, r bottleneck.

Keys and values are linear in the bottleneck activations h_t, since up_t = h_t U_t + c_t. With p = W_k q the
score is p . (h_t U_t + c_t) + q . b_k, and the weighted sum is taken in the bottleneck before one up
projection. So nothing of size [R S T d] exists; the values are those of the published form.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax.combiners.base import ATTENTION, Combiner, no_penalty, of_module
from scalearn_jax.combiners.scalearn import source_updates
from scalearn_jax.errors import unknown
from scalearn_jax.models import bank as banks
from scalearn_jax.models.adapter import activations
from scalearn_jax.models.dropout import NO_DROPOUT, DropoutKeys
from scalearn_jax.models.dropout import dropout as apply_dropout
from scalearn_jax.models.layers import affine, matmul
from scalearn_jax.typing import Array, Key, Params


class Fusion(nn.Module):
    """Puts query, key and value maps of every layer beside the bank.

    Attributes:
      value: train a value map (``dynamic``) or use the sources' outputs as they are (``static``).
      compose: ``"folded"`` stays in the bottleneck, ``"reference"`` is the published form.
    """

    value: bool = True
    compose: str = "folded"

    @nn.compact
    def __call__(self, bank: Params, keys: DropoutKeys = NO_DROPOUT) -> Params:
        num_layers, num_sources, hidden_size, _ = banks.shape(bank)
        size = (num_layers, hidden_size, hidden_size)
        site = {"bank": bank, "query": Projection(size, name="query")(), "key": Projection(size, name="key")()}
        if self.value:
            site["value"] = Projection(size, near_identity, use_bias=False, name="value")()
        if self.compose == "folded":
            wide = banks.widen(bank, jnp.ones((num_layers, num_sources, 1), bank["up"]["bias"].dtype))
            site["wide"] = {"down": wide["down"], "up": wide["up"]}
        if keys.scores is not None:
            site["dropout_key"] = keys.scores
        return site


class Projection(nn.Module):
    """Declares a kernel Float[L d d], N(0, 0.02) by default, and a bias Float[L d], 0, and hands them over."""

    size: tuple[int, int, int]
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02, jnp.float32)
    use_bias: bool = True

    @nn.compact
    def __call__(self) -> Params:
        params = {"kernel": self.param("kernel", self.kernel_init, self.size)}
        if self.use_bias:
            params["bias"] = self.param("bias", nn.initializers.zeros, self.size[:2], jnp.float32)
        return params


def near_identity(key: Key, size: tuple[int, int, int]) -> Array:
    """Starts a value map as published: 1 on the diagonal and 1e-6 elsewhere."""
    return jnp.broadcast_to(1e-6 + (1 - 1e-6) * jnp.eye(size[-1], dtype=jnp.float32)[None], size)


def attend(site: Params, scores: Array, temperature: float, dropout: float) -> Array:
    """Turns scores Float[R S T] into weights; dropout acts on the scores, before the softmax."""
    scores = apply_dropout(site.get("dropout_key"), scores, dropout)
    weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) / temperature)
    return weights.astype(scores.dtype)


def _value(site: Params, mixed: Array) -> Array:
    return matmul(mixed, site["value"]["kernel"]) if "value" in site else mixed


def fuse(site: Params, z: Array, *, phi: str, temperature: float, dropout: float) -> Array:
    """Computes AdapterFusion inside the bottleneck, Float[R S d] to Float[R S d]; equals ``fuse_reference``."""
    num_sources, _, width = site["bank"]["down"]["kernel"].shape
    by_source = (*z.shape[:-1], num_sources, width)
    up, up_bias = site["wide"]["up"]["kernel"], site["bank"]["up"]["bias"].astype(z.dtype)
    h = activations(site["wide"]["down"], z, phi)  # [R, S, T*r]
    query = affine(site["query"], z)
    p = matmul(query, site["key"]["kernel"].T)  # [R, S, d]
    scores = (matmul(p, up.T) * h).reshape(by_source).sum(-1) + p @ up_bias.T  # [R, S, T]
    scores += (query @ site["key"]["bias"].astype(z.dtype))[..., None]  # matters once dropout acts on scores
    weights = attend(site, scores, temperature, dropout)
    mixed = matmul((h.reshape(by_source) * weights[..., None]).reshape(h.shape), up) + weights @ up_bias
    return _value(site, mixed)


def fuse_reference(site: Params, z: Array, *, phi: str, temperature: float, dropout: float) -> Array:
    """Computes AdapterFusion as published: keys and values of every source, Float[R S T d]. See ``fuse``."""
    updates = source_updates(site["bank"], z, phi)  # [R, S, T, d]
    query, keys = affine(site["query"], z), affine(site["key"], updates)
    weights = attend(site, jnp.einsum("rsd,rstd->rst", query, keys), temperature, dropout)
    return jnp.einsum("rst,rstd->rsd", weights, _value(site, updates))


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
    forms = {"folded": fuse, "reference": fuse_reference}
    if compose not in forms:
        raise unknown("compose", compose, forms)

    def apply(site: Params, z: Array) -> Array:
        return forms[compose](site, z, phi=non_linearity, temperature=temperature, dropout=dropout)

    penalty = distance_from_identity if value else no_penalty
    return of_module(Fusion(value, compose), apply=apply, penalty=penalty, site=ATTENTION)
