"""The pretrained encoder: embeddings and post-norm transformer blocks with one adapter site each.

Letters: R rows, S row length, L layers, H heads, d hidden size, f feed-forward width.

A block owns residuals and layer norms. With a the attention sublayer's output, F the feed-forward output and
LN the block's pretrained output norm, it computes (Pfeiffer placement)

    h   = LN(F + a)
    out = LN(update(site, h) + F + a)

so a site sees the normalised state and returns only its update. Without a site, out = h.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax import tree
from scalearn_jax.models.adapter import non_linearity
from scalearn_jax.models.attention import attention, by_heads, visibility
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.dropout import dropout
from scalearn_jax.models.layers import Affine, affine
from scalearn_jax.models.norm import LayerNorm
from scalearn_jax.typing import Array, Batch, Key, Params

Update = Callable[[Params, Array], Array]
Observe = Callable[[Params, Array], Any]


def _layer_norm(spec: BackboneSpec, name: str, dtype) -> LayerNorm:
    return LayerNorm(spec.layer_norm_eps, dtype, name=name)


class Embeddings(nn.Module):
    """Sums word, position and token-type embeddings and normalises them."""

    spec: BackboneSpec
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, batch: Batch, key: Key | None = None) -> Array:
        spec, init = self.spec, nn.initializers.normal(0.02)

        def embed(size: int, name: str, ids: Array) -> Array:
            found = nn.Embed(size, spec.hidden_size, embedding_init=init, name=name)(ids)
            return found.astype(self.dtype or found.dtype)  # what was found, not the whole table

        hidden = embed(spec.vocab_size, "word", batch.tokens)
        hidden += embed(spec.max_positions, "position", batch.positions + spec.position_offset)
        hidden += embed(spec.type_vocab_size, "token_type", batch.token_types)
        hidden = _layer_norm(spec, "norm", self.dtype)(hidden)
        return dropout(key, hidden, spec.hidden_dropout)  # [R, S, d]


class Block(nn.Module):
    """One transformer block with an adapter site after the feed-forward sublayer."""

    spec: BackboneSpec
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self,
        hidden: Array,
        visible: Array,
        site: Params | None = None,
        update: Update | None = None,
        key: Key | None = None,
        observe: Observe | None = None,
        at: Array | None = None,
    ) -> tuple[Array, Any]:
        """Maps Float[R S d] to Float[R S d], beside ``observe(site, h)``.

        ``visible`` Bool[R S S] says which keys a query may see. With ``at`` Int[N 2] only the states at these (row,
        column) places go through the rest of the block once they have attended: Float[N 1 d].
        """
        spec, site = self.spec, site or {}
        attention_key, residual_key, output_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        context = self._attention(hidden, visible, site, attention_key)
        if at is not None:
            context, hidden = (x[at[:, 0], at[:, 1]][:, None] for x in (context, hidden))
        attended = affine(Affine(spec.hidden_size, spec.hidden_size, name="attention_output")(), context)
        attended = dropout(residual_key, attended, spec.hidden_dropout)
        a = _layer_norm(spec, "attention_norm", self.dtype)(hidden + attended)
        inner = affine(Affine(spec.hidden_size, spec.intermediate_size, name="intermediate")(), a)  # [R, S, f]
        inner = non_linearity(spec.activation)(_scaled(inner, site, "ffn_scale"))
        forward = affine(Affine(spec.intermediate_size, spec.hidden_size, name="output")(), inner)
        forward = dropout(output_key, forward, spec.hidden_dropout)
        norm = _layer_norm(spec, "output_norm", self.dtype)
        h = norm(forward + a)
        out = h if update is None else norm(update(site, h) + forward + a)
        return out, None if observe is None else observe(site, h)

    def _attention(self, hidden: Array, visible: Array, site: Params, key: Key | None) -> Array:
        spec, size = self.spec, self.spec.hidden_size
        project = lambda name, x: affine(Affine(size, size, name=name)(), x)  # noqa: E731
        query = project("query", hidden)
        keys = _scaled(project("key", hidden), site, "key_scale")
        values = _scaled(project("value", hidden), site, "value_scale")
        query, keys, values = (by_heads(x, spec.num_heads) for x in (query, keys, values))
        context = attention(query, keys, values, visible, key=key, dropout_rate=spec.attention_dropout)
        return context.reshape(hidden.shape)


def _scaled(x: Array, site: Params, name: str) -> Array:
    """Multiplies by an (IA)^3 vector where the site carries one."""
    return x * site[name].astype(x.dtype)[None, None] if name in site else x


def init(key: Key, spec: BackboneSpec) -> Params:
    """Draws a random backbone; every leaf under ``layers`` has a leading layer axis.

    Example:
      >>> spec = BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12)
      >>> init(jax.random.key(0), spec)["layers"]["query"]["kernel"].shape
      (2, 8, 8)
    """
    row = jnp.zeros((1, 1), jnp.int32)
    batch = Batch(row, row, row, row, row, row, row, row)
    embeddings_key, layers_key, pooler_key = jax.random.split(key, 3)
    hidden = jnp.zeros((1, 1, spec.hidden_size))
    block = lambda key: Block(spec).init(key, hidden, visibility(row))["params"]  # noqa: E731
    params = {
        "embeddings": Embeddings(spec).init(embeddings_key, batch)["params"],
        "layers": jax.vmap(block)(jax.random.split(layers_key, spec.num_layers)),
    }
    if spec.has_pooler:
        params["pooler"] = Affine(spec.hidden_size, spec.hidden_size).init(pooler_key)["params"]
    return params


def encode(
    params: Params,
    batch: Batch,
    spec: BackboneSpec,
    *,
    site: Params | None = None,
    update: Update | None = None,
    key: Key | None = None,
    dtype=None,
    layers: str = "loop",
    remat: bool = False,
    all_layers: bool = False,
    observe: Observe | None = None,
    first_only: bool = False,
) -> Array | tuple[Array, Any]:
    """Runs the encoder over a batch of rows.

    Args:
      params: the backbone tree; its layers stacked or, with ``layers="loop"``, from ``unstack``.
      batch: tokens, token types, segments and positions, each [R S].
      spec: sizes and constants.
      site: pytree with leading axis L, handed to ``update`` one layer at a time; ``None`` for no adapters.
      update: (site of one layer, h Float[R S d]) -> Float[R S d].
      key: key for the backbone's dropout; ``None`` for none.
      dtype: compute dtype; ``None`` follows the parameters.
      layers: ``"loop"`` unrolls the layers, ``"scan"`` compiles one; equal results, but for the dropout masks of the
        last layer with ``first_only``.
      remat: recompute each layer's activations in the backward pass.
      all_layers: also return the embedding output and every layer's output.
      observe: (site of one layer, h Float[R S d]) -> pytree, to look at a site's input without changing anything.
      first_only: return the states of the sequences' first tokens only; with ``"loop"`` the last layer then computes
        no others. Not together with ``all_layers`` or ``observe``.

    Returns:
      Float[R S d], or Float[L+1 R S d] with ``all_layers``, or Float[N d] with ``first_only``; with ``observe`` a
      pair of that and what it saw, leading axis L.
    """
    keys = None if key is None else jax.random.split(key, spec.num_layers + 1)
    embeddings = Embeddings(spec, dtype)
    hidden = embeddings.apply({"params": params["embeddings"]}, batch, None if keys is None else keys[-1])
    visible = visibility(batch.segments)

    def step(hidden, layer):
        block_params, block_site, block_key = layer
        block = Block(spec, dtype)
        hidden, seen = block.apply({"params": block_params}, hidden, visible, block_site, update, block_key, observe)
        return hidden, (hidden if all_layers else None, seen)

    def last(hidden, layer):
        block_params, block_site, block_key = layer
        block = Block(spec, dtype)
        at = batch.example_at
        return block.apply({"params": block_params}, hidden, visible, block_site, update, block_key, None, at)[0][:, 0]

    step, last = (jax.checkpoint(step), jax.checkpoint(last)) if remat else (step, last)
    blocks, rest = params["layers"], (site, None if keys is None else keys[:-1])
    if first_only and layers == "loop":
        hidden, _ = _loop(step, hidden, blocks, rest, spec.num_layers - 1)
        return last(hidden, _layer(blocks, rest, spec.num_layers - 1))
    if layers == "loop":
        states, (outputs, seen) = _loop(step, hidden, blocks, rest, spec.num_layers)
    else:
        states, (outputs, seen) = jax.lax.scan(step, hidden, (blocks, *rest))
    if first_only:
        return states[batch.example_at[:, 0], batch.example_at[:, 1]]
    out = jnp.concatenate([hidden[None], outputs]) if all_layers else states
    return out if observe is None else (out, seen)


def _loop(step, carry, blocks, rest, num_layers: int):
    """``jax.lax.scan`` with the loop unrolled in Python: faster code, longer compilation."""
    outputs = []
    for i in range(num_layers):
        carry, output = step(carry, _layer(blocks, rest, i))
        outputs.append(output)
    return carry, tree.stack(outputs) if outputs else None


def _layer(blocks, rest, i: int):
    """The parameters, site and key of one layer."""
    return (blocks[i] if isinstance(blocks, list) else tree.index(blocks, i), *tree.index(rest, i))


def unstack(backbone: Params) -> Params:
    """Holds every layer by itself, so that a program reads its kernels where they lie and cuts no copies out.

    Example:
      >>> spec = BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12)
      >>> len(unstack(init(jax.random.key(0), spec))["layers"])
      2
    """
    return backbone | {"layers": tree.unstack(backbone["layers"])}
