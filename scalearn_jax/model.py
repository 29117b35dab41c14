"""The forward pass: bind, encode, pool, head. Start reading here.

    site   = combiner.bind(transfer, adapters)      one adapter a layer, whatever the number of sources
    hidden = encode(backbone, batch, site)          [R, S, d]
    first  = hidden at each sequence's first token  [N, d]
    logits = head(first)                            [B, C]

Letters: B examples, N sequences, R rows, S row length, L layers, T source tasks, d hidden size, C outputs.
"""

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from scalearn_jax import combiners
from scalearn_jax.combiners.base import bind_by_group
from scalearn_jax.errors import unknown
from scalearn_jax.models import bank, encoder
from scalearn_jax.models import heads as head_modules
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.layers import half_kernels
from scalearn_jax.typing import Array, Batch, Key, Params


@dataclass(frozen=True)
class ModelSpec:
    """Everything static about a model; hashable, so ``jit`` can treat it as a constant.

    Attributes:
      backbone: sizes of the encoder.
      combiner: a key of ``COMBINERS``.
      combiner_options: its keyword arguments, as sorted pairs.
      heads: (task, HeadSpec) pairs.
      num_sources: T, adapters in the bank; 0 for none.
      bottleneck: r, width of the bank.
      non_linearity: of the bank's adapters.
      backbone_dropout: whether the (frozen) backbone's own dropout acts in training, as published.
      dtype: ``"float32"``; ``"strict"``: that, without the short cuts that accelerators take in its products;
        ``"mixed"``: float32 with bfloat16 inputs to matrix products; ``"bfloat16"``: bfloat16 activations too;
        ``"float64"``.
      layers: ``"loop"`` or ``"scan"``.
      remat: recompute activations in the backward pass.
    """

    backbone: BackboneSpec
    combiner: str = "none"
    combiner_options: tuple[tuple[str, Any], ...] = ()
    heads: tuple[tuple[str, head_modules.HeadSpec], ...] = ()
    num_sources: int = 0
    bottleneck: int = 0
    non_linearity: str = "relu"
    backbone_dropout: bool = True
    dtype: str = "float32"
    layers: str = "loop"
    remat: bool = False

    @cached_property
    def make_combiner(self) -> combiners.Combiner:
        """The combiner this spec names."""
        options = {"non_linearity": self.non_linearity} if self.num_sources else {}  # without a bank, its own
        return combiners.make(self.combiner, **options | dict(self.combiner_options))

    @property
    def compute_dtype(self) -> str:
        """Type of the activations."""
        return "float32" if self.dtype in ("mixed", "strict") else self.dtype

    def precision(self) -> contextlib.AbstractContextManager:
        """The context in which products are traced."""
        return jax.default_matmul_precision("highest") if self.dtype == "strict" else contextlib.nullcontext()

    @property
    def bank_shape(self) -> bank.BankShape:
        """The sizes of the bank, (L, T, d, r)."""
        return bank.BankShape(self.backbone.num_layers, self.num_sources, self.backbone.hidden_size, self.bottleneck)

    def head(self, task: str) -> head_modules.HeadSpec:
        """The head of a task.

        Raises:
          InputError: no head of that name.
        """
        table = dict(self.heads)
        if task not in table:
            raise unknown("head", task, table)
        return table[task]


def init(key: Key, spec: ModelSpec) -> Params:
    """Draws all parameters of a model.

    Args:
      key: typed PRNG key.
      spec: the model.

    Returns:
      ``{"backbone", "adapters", "transfer", "heads": {task}}``; ``adapters`` is empty for T = 0.

    Example:
      >>> spec = ModelSpec(BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12), combiner="scalearn",
      ...                  heads=(("demo", head_modules.HeadSpec()),), num_sources=3, bottleneck=4)
      >>> init(jax.random.key(0), spec)["transfer"]["omega"].shape
      (2, 3, 8)
    """
    backbone_key, bank_key, transfer_key, heads_key = jax.random.split(key, 4)
    return {
        "backbone": encoder.init(backbone_key, spec.backbone),
        "adapters": bank.init(bank_key, spec.bank_shape) if spec.num_sources else {},
        **init_target(transfer_key, heads_key, spec),
    }


def init_target(transfer_key: Key, heads_key: Key, spec: ModelSpec) -> Params:
    """Draws only what a target task adds: transfer parameters and heads.

    Returns:
      ``{"transfer", "heads": {task}}``.
    """
    hidden_size = spec.backbone.hidden_size
    keys = jax.random.split(heads_key, max(len(spec.heads), 1))
    return {
        "transfer": spec.make_combiner.init(transfer_key, spec.bank_shape),
        "heads": {
            task: head_modules.init(key, head, hidden_size) for key, (task, head) in zip(keys, spec.heads, strict=False)
        },
    }


def encode(
    params: Params,
    batch: Batch,
    *,
    spec: ModelSpec,
    key: Key | None = None,
    mask=None,
    part: Array | None = None,
    all_layers: bool = False,
    observe: encoder.Observe | None = None,
    first_only: bool = False,
    groups: int = 1,
) -> Array | tuple[Array, Any]:
    """Runs the backbone with its adapter sites bound.

    Args:
      params: the four subtrees.
      batch: rows [R S].
      spec: the model.
      key: PRNG key for dropout; ``None`` for none.
      mask: combiner dropout mask to replay instead of drawing one.
      part: number of a part of an accumulated step; all parts share ScaLearn's mask, which is one a step.
      all_layers: also return the embedding output and every layer's output.
      observe: (site of one layer, its input Float[R S d]) -> pytree.
      first_only: see ``encoder.encode``; not together with ``all_layers`` or ``observe``.
      groups: devices that share out the rows; see ``combiners.base.bind_by_group``.

    Returns:
      Float[R S d], or Float[L+1 R S d] with ``all_layers``, or Float[N d] with ``first_only``; with ``observe`` a
      pair of that and what it saw, leading axis L.
    """
    site_key, encoder_key = (None, None) if key is None else jax.random.split(key)
    encoder_key = _of_part(encoder_key, part)
    combiner = spec.make_combiner
    bind = lambda transfer: combiner.bind(transfer, params["adapters"], key=site_key, mask=mask)  # noqa: E731
    groups = groups if batch.tokens.shape[0] % groups == 0 else 1
    backbone = params["backbone"]
    with spec.precision():
        site, update = bind_by_group(bind, combiner.apply, params["transfer"], groups)
        if part is not None and "dropout_key" in site:  # of scores, token by token: new ones in each part
            site = site | {"dropout_key": jax.vmap(lambda key: jax.random.fold_in(key, part))(site["dropout_key"])}
        if spec.dtype == "mixed":
            backbone, site = half_kernels(backbone), half_kernels(site)
        return encoder.encode(
            backbone,
            batch,
            spec.backbone,
            site=site,
            update=update,
            key=encoder_key if spec.backbone_dropout else None,
            dtype=spec.compute_dtype,
            layers=spec.layers,
            remat=spec.remat,
            all_layers=all_layers,
            observe=observe,
            first_only=first_only,
        )


def _of_part(key: Key | None, part: Array | None) -> Key | None:
    return key if key is None or part is None else jax.random.fold_in(key, part)


def apply(
    params: Params,
    batch: Batch,
    *,
    spec: ModelSpec,
    task: str,
    key: Key | None = None,
    mask=None,
    part: Array | None = None,
    groups: int = 1,
) -> Array:
    """Computes the logits of a task.

    Args:
      params: the four subtrees.
      batch: rows [R S], packed or not.
      spec: the model.
      task: which head to use.
      key: PRNG key; ``None`` switches every dropout off.
      mask: combiner dropout mask to replay instead of drawing one.
      part: see ``encode``.
      groups: devices that share out the rows; see ``combiners.base.bind_by_group``.

    Returns:
      Float[B C], or Float[B K] for multiple choice, in float32 or wider.

    Raises:
      InputError: the spec has no such head, or the combiner does not fit the bank.
    """
    encode_key, head_key = (None, None) if key is None else jax.random.split(key)
    first = features(params, batch, spec=spec, key=encode_key, mask=mask, part=part, groups=groups)
    return predict(params, first, spec=spec, task=task, key=_of_part(head_key, part))


def features(params: Params, batch: Batch, *, spec: ModelSpec, key: Key | None = None, mask=None, **options) -> Array:
    """Computes what a head sees: the final state of each sequence's first token.

    Args:
      params, batch, spec, key, mask: see ``encode``.
      **options: ``part`` and ``groups`` of ``encode``.

    Returns:
      Float[N d], in float32 or wider.
    """
    first_only = mask is None  # a mask to replay may have an entry a token
    first = encode(params, batch, spec=spec, key=key, mask=mask, first_only=first_only, **options)
    first = first if first_only else first[batch.example_at[:, 0], batch.example_at[:, 1]]
    return first.astype(jnp.promote_types(first.dtype, jnp.float32))  # a head costs nothing in full


def predict(params: Params, first: Array, *, spec: ModelSpec, task: str, key: Key | None = None) -> Array:
    """Applies a task's head to ``features``; see ``apply``."""
    head = head_modules.Head(spec.head(task), spec.backbone.hidden_size)
    with spec.precision():
        return head.apply({"params": params["heads"][task]}, first, params["backbone"].get("pooler"), key)
