"""HyperFormer: every layer's adapter is generated from the embedding of its task (arXiv 2106.04489).

    z = LN(W2 relu(W1 e + b1) + b2),    e = e_t, or [e_t ; v_l] for HyperFormer++
    D, b, U, c, g, beta = generators of z;    update = LN_{g, beta}(gelu(h D + b) U + c)

HyperFormer has generators for each layer; the "++" variant has one set for all, and an embedding v_l for each layer.

Letters: L layers, d hidden size, r bottleneck, e embedding size, k hidden size of the projector, p size of z.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax.combiners.base import Combiner, adapter, of_module, per_task
from scalearn_jax.models import bank as banks
from scalearn_jax.models.dropout import NO_DROPOUT, DropoutKeys
from scalearn_jax.models.layers import Affine, LayerNorm, affine
from scalearn_jax.typing import Array, Params


class HyperFormer(nn.Module):
    """Generates the adapter of each layer for one task, whose embedding is ``own``."""

    shared: bool
    embedding_size: int
    projector_size: int
    projected_size: int

    @nn.compact
    def __call__(self, bank: Params, keys: DropoutKeys = NO_DROPOUT) -> Params:
        num_layers, _, d, r = banks.shape(bank)
        e, k, p = self.embedding_size, self.projector_size, self.projected_size
        own = self.param("own", lambda key: {"embedding": jax.random.normal(key, (e,), jnp.float32)})
        read = own["embedding"][None]  # [1, e]
        if self.shared:
            layers = self.param("layer_embedding", nn.initializers.normal(0.02, jnp.float32), (num_layers, e))
            read = jnp.concatenate([jnp.broadcast_to(read, layers.shape), layers.astype(read.dtype)], axis=1)  # [L, 2e]
        hidden = nn.relu(affine(Affine(read.shape[1], k, name="projector_1")(), read))
        z = affine(Affine(k, p, name="projector_2")(), hidden)
        z = LayerNorm(1e-6, name="projector_norm")(z)  # [1 or L, p]

        def generate(name: str, *shape: int) -> Array:
            maps = Generator(None if self.shared else num_layers, p, math.prod(shape), name=name)()
            if self.shared:
                made = affine(maps, z)  # [L, n]
            else:
                made = jnp.einsum("p,lpn->ln", z[0], maps["kernel"]) + maps["bias"]
            return made.reshape(num_layers, *shape)

        return {  # the kernels in the order of the release, [r d] and [d r]
            "down": {"kernel": generate("down_kernel", r, d).swapaxes(1, 2), "bias": generate("down_bias", r)},
            "up": {"kernel": generate("up_kernel", d, r).swapaxes(1, 2), "bias": generate("up_bias", d)},
            "norm": {"scale": generate("norm_scale", d), "bias": generate("norm_bias", d)},
        }


class Generator(nn.Module):
    """Declares a linear map Float[p n], or one a layer Float[L p n], kernels N(0, 0.02) and biases 0."""

    num_layers: int | None
    features_in: int
    features_out: int

    @nn.compact
    def __call__(self) -> Params:
        lead = () if self.num_layers is None else (self.num_layers,)
        kernel = nn.initializers.normal(0.02, jnp.float32)
        return {
            "kernel": self.param("kernel", kernel, (*lead, self.features_in, self.features_out)),
            "bias": self.param("bias", nn.initializers.zeros, (*lead, self.features_out), jnp.float32),
        }


def hyperformer(
    *,
    shared: bool = False,
    tasks: tuple[str, ...] = (),
    embedding_size: int = 512,
    projector_size: int = 128,
    projected_size: int = 64,
    non_linearity: str = "gelu_new",
) -> Combiner:
    """Makes HyperFormer, as the ScaLearn release has it: one site a layer, a generated norm after the up-projection.

    Args:
      shared: one set of generators for all layers (HyperFormer++).
      tasks: those of a joint run, which share all but their embeddings; empty for one task.
      embedding_size: e, of a task and, for HyperFormer++, of a layer.
      projector_size: k.
      projected_size: p.
      non_linearity: of the bottleneck.

    Example:
      >>> shape = banks.BankShape(12, 0, 768, 48)
      >>> params = jax.eval_shape(lambda: hyperformer(tasks=tuple("abcdefgh")).init(jax.random.key(0), shape))
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      59420544
    """
    module = HyperFormer(shared, embedding_size, projector_size, projected_size)
    one = of_module(module, apply=adapter(non_linearity), site=("down", "up", "norm"))
    return per_task(one, tasks)
