"""A combiner of one's own: a gate by which each token says how much it takes of each source."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax.combiners.base import of_module
from scalearn_jax.models import bank as banks
from scalearn_jax.models.adapter import bottleneck
from scalearn_jax.models.dropout import NO_DROPOUT


class Gates(nn.Module):
    """A vector for each source, whose product with a token says how much of the source is added to it."""

    @nn.compact
    def __call__(self, bank, keys=NO_DROPOUT):
        num_layers, num_sources, hidden_size, _ = banks.shape(bank)
        size = num_layers, num_sources, hidden_size
        return {"bank": bank, "gate": self.param("gate", nn.initializers.normal(0.5), size)}


def gated(*, non_linearity="relu"):
    def apply(site, z):
        updates = jax.vmap(lambda one: bottleneck(one, z, non_linearity), out_axes=-2)(site["bank"])
        return jnp.einsum("rstd,rst->rsd", updates, jax.nn.sigmoid(jnp.einsum("rsd,td->rst", z, site["gate"])))

    return of_module(Gates(), apply=apply)
