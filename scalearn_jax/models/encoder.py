"""The pretrained encoder: embeddings and post-norm transformer blocks with one adapter site each.

Letters: N sequences, R rows, S row length, L layers, H heads, d hidden size, f feed-forward width, b buckets.

A block owns residuals and layer norms. With a the attention sublayer's output, F the feed-forward output and
LN the block's pretrained output norm, it computes (Pfeiffer placement)

    h   = LN(F + a)
    out = LN(update(site, h) + F + a)

so a site sees the normalised state and returns only its update. Without a site, out = h.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax import tree
from scalearn_jax.models.adapter import non_linearity
from scalearn_jax.models.attention import attention, by_heads, relative_bias, visibility
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.dropout import dropout
from scalearn_jax.models.layers import Affine, LayerNorm, affine, row
from scalearn_jax.typing import Array, Batch, Key, Params

Update = Callable[[Params, Array], Array]
Observe = Callable[[Params, Array, Array], Any]


class Compute(NamedTuple):
    """How an encoder is computed, not what.

    Attributes:
      dtype: of the activations; ``None`` follows the parameters.
      layers: ``"loop"`` unrolls the layers, ``"scan"`` compiles one; equal results, but for the dropout masks of the
        last layer of ``encode_first``.
      remat: recompute each layer's activations in the backward pass.
    """

    dtype: Any = None
    layers: str = "loop"
    remat: bool = False


class Adapted(NamedTuple):
    """A backbone with an adapter in each layer.

    Attributes:
      backbone: the tree of ``init``; its layers stacked or, for a loop, from ``unstack``.
      site: pytree with leading axis L, given to ``update`` one layer at a time.
      update: (site of one layer, h Float[R S d]) -> Float[R S d]; ``None`` for no adapters.
      key: of the backbone's dropout; ``None`` for none.
      update_first: what stands for ``update`` where only first tokens are left, Float[N 1 d], if that differs.
    """

    backbone: Params
    site: Params = {}
    update: Update | None = None
    key: Key | None = None
    update_first: Update | None = None


class Embeddings(nn.Module):
    """Sums word, position and (where there are any) token-type embeddings and normalises them."""

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
        if spec.type_vocab_size:
            hidden += embed(spec.type_vocab_size, "token_type", batch.token_types)
        hidden = LayerNorm(spec.layer_norm_eps, self.dtype, name="norm")(hidden)
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
        bias: Array | None,
        site: Params,
        update: Update | None = None,
        key: Key | None = None,
        observe: Observe | None = None,
        at: Array | None = None,
    ) -> tuple[Array, Any]:
        """Maps Float[R S d] to Float[R S d], beside ``observe(site, h, out)``.

        ``visible`` Bool[R S S] marks the keys that a query may see, ``bias`` Float[R H S S] is added to the scores.
        With ``at`` Int[N 2] only the states at these (row, column) places go through the rest of the block once they
        have attended: Float[N 1 d].
        """
        spec, size = self.spec, self.spec.hidden_size
        attention_key, residual_key, output_key = (None,) * 3 if key is None else jax.random.split(key, 3)

        query, keys, values = (affine(Affine(size, size, name=name)(), hidden) for name in ("query", "key", "value"))
        keys, values = _scaled(keys, site, "key_scale"), _scaled(values, site, "value_scale")
        query, keys, values = (by_heads(x, spec.num_heads) for x in (query, keys, values))
        context = attention(query, keys, values, visible, bias, key=attention_key, dropout_rate=spec.attention_dropout)
        context = context.reshape(hidden.shape)  # [R, S, d]
        if at is not None:
            context, hidden = (x[at[:, 0], at[:, 1]][:, None] for x in (context, hidden))
        attended = affine(Affine(size, size, name="attention_output")(), context)
        attended = dropout(residual_key, attended, spec.hidden_dropout)
        a = LayerNorm(spec.layer_norm_eps, self.dtype, name="attention_norm")(hidden + attended)

        inner = affine(Affine(size, spec.intermediate_size, name="intermediate")(), a)  # [R, S, f]
        inner = _scaled(non_linearity(spec.activation)(_scaled(inner, site, "ffn_scale")), site, "inner_scale")
        forward = affine(Affine(spec.intermediate_size, size, name="output")(), inner)
        forward = dropout(output_key, forward, spec.hidden_dropout)
        norm = LayerNorm(spec.layer_norm_eps, self.dtype, name="output_norm")
        h = norm(forward + a)
        out = h
        if update is not None:
            u = update(site, h)
            chex.assert_equal_shape([u, h])
            out = norm(u + forward + a)
        return out, None if observe is None else observe(site, h, out)


def _scaled(x: Array, site: Params, name: str) -> Array:
    """Multiplies by an (IA)^3 vector where the site carries one."""
    return x * row(site[name], x) if name in site else x


def init(key: Key, spec: BackboneSpec) -> Params:
    """Draws a random backbone; every leaf under ``layers`` has a leading layer axis.

    Example:
      >>> spec = BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12)
      >>> init(jax.random.key(0), spec)["layers"]["query"]["kernel"].shape
      (2, 8, 8)
    """
    one = jnp.zeros((1, 1), jnp.int32)
    batch, hidden = Batch(*(one,) * len(Batch._fields)), jnp.zeros((1, 1, spec.hidden_size), jnp.float32)
    embeddings_key, layers_key, pooler_key = jax.random.split(key, 3)
    params = {
        "embeddings": Embeddings(spec).init(embeddings_key, batch)["params"],
        "layers": jax.vmap(lambda key: Block(spec).init(key, hidden, visibility(one), None, {})["params"])(
            jax.random.split(layers_key, spec.num_layers)
        ),
    }
    if spec.relative_buckets:
        shape = (spec.relative_buckets, spec.num_heads)
        params["relative"] = {"embedding": 0.02 * jax.random.normal(jax.random.fold_in(key, 3), shape)}
    if spec.has_pooler:
        params["pooler"] = Affine(spec.hidden_size, spec.hidden_size).init(pooler_key)["params"]
    return params


def encode(
    adapted: Adapted, batch: Batch, spec: BackboneSpec, compute: Compute, observe: Observe | None = None
) -> tuple[Array, Any]:
    """Runs the encoder over a batch of rows.

    Args:
      adapted: the backbone with its adapters.
      batch: tokens, token types, segments and positions, each [R S].
      spec: sizes and constants.
      compute: how.
      observe: (site of one layer, its input h Float[R S d], the layer's output Float[R S d]) -> pytree, to look
        inside without changing anything.

    Returns:
      (last states Float[R S d], what was seen with leading axis L).
    """
    hidden, layers, block = _start(adapted, batch, spec, compute, observe)
    if compute.layers == "scan":
        return jax.lax.scan(block, hidden, layers)
    seen = []
    for i in range(spec.num_layers):
        hidden, what = block(hidden, _layer(layers, i))
        seen.append(what)
    return hidden, tree.stack(seen)


def encode_first(adapted: Adapted, batch: Batch, spec: BackboneSpec, compute: Compute) -> Array:
    """Runs the encoder for the last states Float[N d] of the sequences' first tokens; see ``encode``.

    A loop's last layer computes no other states. ``batch.example_at`` Int[N 2] is where the first tokens are.
    """
    chex.assert_shape(batch.example_at, (None, 2))
    if compute.layers == "scan":
        hidden, _ = encode(adapted, batch, spec, compute)
        return hidden[batch.example_at[:, 0], batch.example_at[:, 1]]
    hidden, layers, block = _start(adapted, batch, spec, compute)
    for i in range(spec.num_layers - 1):
        hidden, _ = block(hidden, _layer(layers, i))
    return block(hidden, _layer(layers, spec.num_layers - 1), batch.example_at)[0][:, 0]


def _start(adapted: Adapted, batch: Batch, spec: BackboneSpec, compute: Compute, observe: Observe | None = None):
    """Returns the embedded tokens, what each layer needs (parameters, site, key), and the block that runs one."""
    chex.assert_rank(batch.tokens, 2)
    chex.assert_equal_shape([batch.tokens, batch.token_types, batch.segments, batch.positions])
    keys = None if adapted.key is None else jax.random.split(adapted.key, spec.num_layers + 1)
    embeddings, tables = Embeddings(spec, compute.dtype), adapted.backbone["embeddings"]
    hidden = embeddings.apply({"params": tables}, batch, None if keys is None else keys[-1])
    visible, bias = visibility(batch.segments), None
    if spec.relative_buckets:  # the layers share it
        table = adapted.backbone["relative"]["embedding"]
        bias = relative_bias(table.astype(compute.dtype or table.dtype), batch.positions)

    def block(hidden, layer, at=None):
        params, site, key = layer
        update = adapted.update if at is None else adapted.update_first or adapted.update
        module = Block(spec, compute.dtype)
        return module.apply({"params": params}, hidden, visible, bias, site, update, key, observe, at)

    layers = adapted.backbone["layers"], adapted.site, None if keys is None else keys[:-1]
    return hidden, layers, jax.checkpoint(block) if compute.remat else block


def _layer(layers: tuple, i: int) -> tuple:
    """Takes one layer's part; the parameters may be held layer by layer already, see ``unstack``."""
    blocks, *rest = layers
    return blocks[i] if isinstance(blocks, list) else tree.index(blocks, i), *tree.index(rest, i)


def unstack(backbone: Params) -> Params:
    """Holds every layer by itself, so that a program reads its kernels where they lie and cuts no copies out.

    Example:
      >>> spec = BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12)
      >>> len(unstack(init(jax.random.key(0), spec))["layers"])
      2
    """
    return backbone | {"layers": tree.unstack(backbone["layers"])}


def stacked(backbone: Params) -> Params:
    """Holds all layers together, as files do; undoes ``unstack``, and leaves what is stacked as it is.

    Example:
      >>> spec = BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12)
      >>> stacked(unstack(init(jax.random.key(0), spec)))["layers"]["query"]["kernel"].shape
      (2, 8, 8)
    """
    layers = backbone.get("layers")
    return backbone | {"layers": tree.stack(layers)} if isinstance(layers, list) else backbone
