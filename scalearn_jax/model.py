"""The forward pass: ``apply`` is ``adapt``, ``encoder.encode_first`` and ``predict``. Start reading here.

    adapted = adapt(params)                         sources bound to one adapter a layer, whatever their number
    first   = encoder.encode_first(adapted, batch)  [N, d], the last state of each sequence's first token
    logits  = predict(params, first)                [B, C]

A joint model has several heads, and transfer parameters that belong to one task each. Its batches say whose they are.

Letters: B examples, N sequences, R rows, S row length, L layers, T source tasks, d hidden size, C outputs, W the most
outputs or choices of any task.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import chex
import jax
import jax.numpy as jnp

from scalearn_jax import combiners
from scalearn_jax.combiners import Combiner, OwnCombiner
from scalearn_jax.combiners.base import of_task
from scalearn_jax.errors import unknown
from scalearn_jax.models import bank as banks
from scalearn_jax.models import encoder, heads
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.dropout import NO_DROPOUT, DropoutKeys
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.models.layers import half_kernels
from scalearn_jax.typing import Array, Batch, JointBatch, Key, Params


@dataclass(frozen=True)
class ModelSpec:
    """Everything static about a model; hashable, so ``jit`` can treat it as a constant.

    Attributes:
      backbone: sizes of the encoder.
      combiner: a key of ``COMBINERS``, or what ``combiners.own`` makes of one of your own.
      combiner_options: its keyword arguments, as sorted pairs; and ``norm_after``, see below, where that is so.
      heads: (task, HeadSpec) pairs; several in a joint model, whose tasks are numbered in this order.
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
    combiner: str | OwnCombiner = "none"
    combiner_options: tuple[tuple[str, Any], ...] = ()
    heads: tuple[tuple[str, HeadSpec], ...] = ()
    num_sources: int = 0
    bottleneck: int = 0
    non_linearity: str = "relu"
    backbone_dropout: bool = True
    dtype: str = "float32"
    layers: str = "loop"
    remat: bool = False

    @cached_property
    def combiner_functions(self) -> Combiner:
        """The combiner this spec names."""
        options = {"non_linearity": self.non_linearity} if self.num_sources else {}  # without a bank, its own
        own = {name: value for name, value in self.combiner_options if name != "norm_after"}
        return combiners.make(self.combiner, **options | own)

    @property
    def norm_after(self) -> bool:
        """Whether the bank's adapters have a layer norm after their up-projection, which few have."""
        return self.option("norm_after") is True

    def option(self, name: str, default: Any = None) -> Any:
        """Returns an option of the combiner, or the default where it is not set."""
        return dict(self.combiner_options).get(name, default)

    def with_options(self, **options) -> "ModelSpec":
        """Returns the spec with some options of the combiner set."""
        options = dict(self.combiner_options) | options
        return dataclasses.replace(self, combiner_options=tuple(sorted(options.items())))

    @property
    def program(self) -> "ModelSpec":
        """The spec as programs know it, without the combiner's constants, which they take as data."""
        constants = self.combiner_functions.constants
        options = tuple((name, value) for name, value in self.combiner_options if name not in constants)
        return dataclasses.replace(self, combiner_options=options)

    @property
    def compute(self) -> encoder.Compute:
        """How the encoder is computed."""
        dtype = "float32" if self.dtype in ("mixed", "strict") else self.dtype
        return encoder.Compute(dtype, self.layers, self.remat)

    def precision(self) -> contextlib.AbstractContextManager:
        """The context in which products are traced."""
        return jax.default_matmul_precision("highest") if self.dtype == "strict" else contextlib.nullcontext()

    @property
    def bank_shape(self) -> banks.BankShape:
        """The sizes of the bank, (L, T, d, r)."""
        return banks.BankShape(self.backbone.num_layers, self.num_sources, self.backbone.hidden_size, self.bottleneck)

    @property
    def tasks(self) -> list[str]:
        """The names of its tasks, in the order of their numbers."""
        return [task for task, _ in self.heads]

    @property
    def only_task(self) -> str | None:
        """Its task; ``None`` of several, whose batches say their number."""
        return self.heads[0][0] if len(self.heads) == 1 else None

    @property
    def num_logits(self) -> int:
        """W, the most outputs or choices of any task."""
        return max(head.num_logits for _, head in self.heads)

    def head(self, task: str) -> HeadSpec:
        """Returns the head of a task.

        Raises:
          InputError: no head of that name.
        """
        table = dict(self.heads)
        if task not in table:
            raise unknown("head", task, table)
        return table[task]


def init(key: Key, spec: ModelSpec) -> Params:
    """Draws all parameters of a model.

    Returns:
      ``{"backbone", "adapters", "transfer", "heads": {task}}``; ``adapters`` is empty for T = 0.

    Example:
      >>> spec = ModelSpec(BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12), combiner="scalearn",
      ...                  heads=(("demo", HeadSpec()),), num_sources=3, bottleneck=4)
      >>> init(jax.random.key(0), spec)["transfer"]["omega"].shape
      (2, 3, 8)
    """
    backbone_key, bank_key, transfer_key, heads_key = jax.random.split(key, 4)
    return {
        "backbone": encoder.init(backbone_key, spec.backbone),
        "adapters": banks.init(bank_key, spec.bank_shape, norm=spec.norm_after) if spec.num_sources else {},
        **init_target(transfer_key, heads_key, spec),
    }


def init_target(transfer_key: Key, heads_key: Key, spec: ModelSpec) -> Params:
    """Draws only what a target task adds: ``{"transfer", "heads": {task}}``."""
    keys = jax.random.split(heads_key, max(len(spec.heads), 1))
    return {
        "transfer": spec.combiner_functions.init(transfer_key, spec.bank_shape),
        "heads": {
            task: heads.init(key, head, spec.backbone.hidden_size)
            for key, (task, head) in zip(keys, spec.heads, strict=False)
        },
    }


def apply(
    params: Params,
    batch: Batch | JointBatch,
    *,
    spec: ModelSpec,
    task: str | None,
    keys: DropoutKeys = NO_DROPOUT,
    combiner: Combiner | None = None,
) -> Array:
    """Computes the logits of a task.

    Args:
      params: the four subtrees of ``init``.
      batch: rows [R S], packed or not.
      spec: the model.
      task: which; ``None`` for the one that a joint batch says, so that one program serves all tasks.
      keys: of a training step, see ``dropout_keys``; by default every dropout is off.
      combiner: one to use in place of the spec's; see ``combiners.base.by_group``.

    Returns:
      Float[B C], or Float[B K] for multiple choice, in float32 or wider; for task ``None`` Float[B W], filled with 0.

    Raises:
      InputError: the spec has no such head, or the combiner does not fit the bank.
    """
    number = batch.task if task is None else spec.tasks.index(task) if task in spec.tasks else 0
    first = features(params, batch, spec=spec, keys=keys, combiner=combiner, task=number)  # [N, d]
    if task is None:
        return predict_numbered(params, first, number, spec=spec, num_examples=len(batch.example_mask), key=keys.head)
    return predict(params, first, spec=spec, task=task, key=keys.head)


def features(
    params: Params,
    batch: Batch,
    *,
    spec: ModelSpec,
    keys: DropoutKeys = NO_DROPOUT,
    combiner: Combiner | None = None,
    task: int | Array | None = None,
) -> Array:
    """Computes what a head sees, Float[N d] in float32 or wider: the last state of each sequence's first token."""
    with spec.precision():
        adapted = adapt(params, spec=spec, keys=keys, combiner=combiner, task=task)
        first = encoder.encode_first(adapted, batch, spec.backbone, spec.compute)
    return first.astype(jnp.promote_types(first.dtype, jnp.float32))  # a head costs nothing in full


def adapt(
    params: Params,
    *,
    spec: ModelSpec,
    keys: DropoutKeys = NO_DROPOUT,
    combiner: Combiner | None = None,
    task: int | Array | None = None,
) -> encoder.Adapted:
    """Binds the sources to one adapter a layer, and puts it beside the backbone.

    A joint model needs the number of the ``task`` whose adapter it is.
    """
    combiner = combiner or spec.combiner_functions
    bank = params["adapters"] or banks.zeros(spec.bank_shape)  # T = 0: it holds nothing but has its sizes
    transfer = of_task(params["transfer"], spec.tasks, task)
    backbone, site = params["backbone"], combiner.bind(transfer, bank, keys=keys)
    chex.assert_tree_shape_prefix(site, (spec.backbone.num_layers,))
    if spec.dtype == "mixed":
        backbone, site = half_kernels(backbone), half_kernels(site)
    key = keys.encoder if spec.backbone_dropout else None
    return encoder.Adapted(backbone, site, combiner.apply, key, combiner.apply_first)


def predict(params: Params, first: Array, *, spec: ModelSpec, task: str, key: Key | None = None) -> Array:
    """Applies a task's head to ``features``; see ``apply``."""
    head = heads.Head(spec.head(task), spec.backbone.hidden_size)
    with spec.precision():
        return head.apply({"params": params["heads"][task]}, first, params["backbone"].get("pooler"), key)


def predict_numbered(
    params: Params, first: Array, number: Array, *, spec: ModelSpec, num_examples: int, key: Key | None = None
) -> Array:
    """Applies the head of task ``number``, Int[], to the features of B examples; Float[B W], filled with 0."""

    def of_task(task: str, head: heads.HeadSpec) -> Callable[[Array], Array]:
        def logits(first: Array) -> Array:
            found = predict(params, first[: num_examples * head.num_choices], spec=spec, task=task, key=key)
            return jnp.pad(found, ((0, 0), (0, spec.num_logits - found.shape[1])))

        return logits

    return jax.lax.switch(number, [of_task(*pair) for pair in spec.heads], first)


def encode(
    params: Params,
    batch: Batch,
    *,
    spec: ModelSpec,
    observe: encoder.Observe | None = None,
    task: int | Array | None = None,
) -> tuple[Array, Any]:
    """Computes every state, Float[R S d] without dropout, beside what ``observe`` saw in each layer."""
    with spec.precision():
        return encoder.encode(adapt(params, spec=spec, task=task), batch, spec.backbone, spec.compute, observe)
