"""Resolves a config to what training needs: checked sources, a static spec, encoded data, first parameters.

Letters: M members (seeds trained together), T source tasks.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from scalearn_jax import methods, model, runs, tree
from scalearn_jax.config import TrainConfig
from scalearn_jax.data import splits, tasks, tokens
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.models import bank as banks
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.train import parallel
from scalearn_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything a training run needs, checked and resolved.

    Attributes:
      config: as given.
      method: its row of ``METHODS``.
      task: its row, with the config's length.
      spec: the static model.
      data: the encoded splits.
      sources: the source adapters, in bank order.
      backbone_hash: content hash of the backbone.
      trainable: first trainable parameters, leading axis M.
      frozen: the frozen half, shared by the members.
    """

    config: TrainConfig
    method: methods.Method
    task: Task
    spec: model.ModelSpec
    data: "Data"
    sources: Sequence[runs.Source]
    backbone_hash: str
    trainable: Params
    frozen: Params


def prepare(config: TrainConfig, task_name: str, sources: Sequence[runs.Source]) -> Setup:
    """Checks and resolves a config; writes nothing.

    Args:
      config: of either stage.
      task_name: the task to train on.
      sources: source adapters, empty where the method uses none.

    Returns:
      The setup.

    Raises:
      InputError: anything wrong with the input.
    """
    method = methods.get(config.method)
    task = tasks.get(task_name, data_dir=config.data_dir)
    task = dataclasses.replace(task, max_length=config.max_length or task.max_length)
    backbone, backbone_spec, backbone_hash = runs.load_backbone(config.backbone, config.revision)
    check_sources(sources, backbone_spec, backbone_hash)
    if "transfer" in method.trainable and method.combiner != "fusion":
        sources = in_published_order(sources, task.name)
    spec = make_spec(config, method, task, backbone_spec, sources)
    data = load_data(config, task)
    bank = banks.stack([source.adapter for source in sources]) if sources else None
    halves = init_members(config.seeds, spec, method, backbone, bank)
    return Setup(config, method, task, spec, data, sources, backbone_hash, *halves)


def check_sources(sources: Sequence[runs.Source], spec: BackboneSpec, backbone_hash: str) -> Sequence[runs.Source]:
    """Checks that source adapters fit the backbone and each other.

    Args:
      sources: the adapters.
      spec: sizes of the backbone.
      backbone_hash: its content hash.

    Returns:
      The sources, unchanged.

    Raises:
      InputError: duplicate names, another backbone, another size, or different non-linearities.
    """
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        double = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"--sources: duplicate source names {double}; pass each source task once.")
    for source in sources:
        layers, hidden = source.adapter["down"]["kernel"].shape[:2]
        if (layers, hidden) != (spec.num_layers, spec.hidden_size):
            raise InputError(
                f"source {source.name} ({source.path}) has {layers} layers of hidden size {hidden}, the backbone has"
                f" {spec.num_layers} of {spec.hidden_size}; use adapters trained on this backbone."
            )
        if source.family not in (None, spec.family):
            raise InputError(
                f"source {source.name} ({source.path}) is for a {source.family!r} backbone, this one is"
                f" {spec.family!r}; use adapters trained on this backbone."
            )
        if source.backbone_hash not in (None, backbone_hash):
            raise InputError(
                f"source {source.name} ({source.path}) was trained on backbone {source.backbone_hash[:12]}, this one is"
                f" {backbone_hash[:12]}; use adapters trained on this backbone."
            )
    phis = {source.name: source.non_linearity for source in sources}
    if len(set(phis.values())) > 1:
        raise InputError(f"--sources mix non-linearities {phis}; one bank holds one kind.")
    return sources


def in_published_order(sources: Sequence[runs.Source], target: str) -> list[runs.Source]:
    """Moves the target's own adapter to the end of the bank; the order of the others stays.

    AdapterHub names adapters without a slash, so ``"rte"`` is the own adapter of ``"glue/rte"``.
    """
    return sorted(sources, key=lambda source: source.name in (target, target.rsplit("/", 1)[-1]))


def make_spec(
    config: TrainConfig,
    method: methods.Method,
    task: Task,
    backbone: BackboneSpec,
    sources: Sequence[runs.Source],
) -> model.ModelSpec:
    """Resolves config, method and sources to a static model.

    Returns:
      The spec, with one head named like the task.

    Raises:
      InputError: the task is longer than the position table, or options do not fit the method.
    """
    if task.max_length > backbone.max_length:
        raise InputError(
            f"--max-length {task.max_length} exceeds the backbone's {backbone.max_length} positions;"
            " pass a smaller one."
        )
    if method.combiner == "single":
        reduction_factor = config.reduction_factor or 16
        width = int(backbone.hidden_size // reduction_factor)
        if width < 1:
            raise InputError(
                f"--reduction-factor {reduction_factor} leaves no bottleneck at hidden size"
                f" {backbone.hidden_size}; pass a smaller one."
            )
        num_sources, non_linearity = 1, config.non_linearity or "relu"
    else:
        width = max((source.adapter["down"]["kernel"].shape[2] for source in sources), default=0)
        num_sources, non_linearity = len(sources), sources[0].non_linearity if sources else "relu"
    pooled = task.kind == "choice" and method.choice_head == "pooled" and backbone.has_pooler
    head = HeadSpec("pooled" if pooled else "two_layer", task.num_outputs, task.num_choices, backbone.hidden_dropout)
    return model.ModelSpec(
        backbone=backbone,
        combiner=method.combiner,
        combiner_options=tuple(sorted(combiner_options(config, method, backbone, num_sources).items())),
        heads=((task.name, head),),
        num_sources=num_sources,
        bottleneck=width,
        non_linearity=non_linearity,
        backbone_dropout=config.backbone_dropout,
        dtype=config.dtype,
        layers=config.layers,
        remat=config.remat,
    )


def combiner_options(
    config: TrainConfig, method: methods.Method, backbone: BackboneSpec, num_sources: int
) -> dict[str, Any]:
    """Joins a method's options with those set in the config; the config wins.

    Raises:
      InputError: the config sets an option that the method's combiner does not have, or not one value a source.
    """
    flags = methods.FLAGS.get(method.combiner, {})
    given = {name: getattr(config, name, None) for name in methods.all_flags()}
    given = {name: value for name, value in given.items() if value is not None}
    for name in methods.foreign_flags(method, given):
        raise InputError(f"--{name.replace('_', '-')} does not apply to method {config.method!r}; leave it out.")
    for name in ("weights", "coefficients"):
        check_length(name, given.get(name), num_sources, required=flags.get(name) == "coefficients")
    defaults = {"dropout": backbone.attention_dropout} if method.combiner == "fusion" else {}
    return defaults | method.options | {flags[name]: value for name, value in given.items() if flags[name]}


def check_length(name: str, values: Sequence[float] | None, num_sources: int, *, required: bool = False) -> None:
    """Checks an option that takes one value a source.

    Raises:
      InputError: it is required and missing, or has another length.
    """
    if values is None and not required:
        return
    if values is None or len(values) != num_sources:
        raise InputError(
            f"--{name} has {len(values or ())} values for {num_sources} sources; pass one a source, in their order."
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """The three encoded splits of a task."""

    train: tokens.Encoded
    dev: tokens.Encoded
    test: tokens.Encoded


def load_data(config: TrainConfig, task: Task) -> Data:
    """Loads, splits and tokenises a task's data.

    Raises:
      InputError: see ``splits.load_splits`` and ``tokens.load_tokenizer``.
    """
    tables = splits.load_splits(
        task,
        data_dir=config.data_dir,
        max_train_samples=config.max_train_samples,
        max_eval_samples=config.max_eval_samples,
    )
    tokenizer = tokens.load_tokenizer(config.backbone, config.revision)
    return Data(*(tokens.cached(tokenizer, task, table, max_length=task.max_length) for table in tables))


def init_members(
    seeds: Sequence[int], spec: model.ModelSpec, method: methods.Method, backbone: Params, bank: Params | None
) -> tuple[Params, Params]:
    """Draws each seed's trainable parameters and keeps one frozen copy of the rest.

    Args:
      seeds: M seeds.
      spec: the model.
      method: says what is trainable.
      backbone: pretrained weights.
      bank: the source bank, or ``None`` for a fresh adapter (or none at all).

    Returns:
      (trainable with leading axis M, frozen), both on every device.
    """

    def draw(seed):
        bank_key, transfer_key, heads_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 0), 3)
        fresh = banks.init(bank_key, spec.bank_shape) if bank is None and spec.num_sources else {}
        return {"adapters": fresh, **model.init_target(transfer_key, heads_key, spec)}

    drawn = jax.jit(jax.vmap(draw))(jnp.asarray(seeds, jnp.uint32))
    given = jax.tree.map(jnp.asarray, {"backbone": backbone, "adapters": bank or {}})
    trainable, frozen = tree.partition(given, methods.is_trainable(method))
    copies = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(seeds), axis=0), trainable)
    if bank is not None:
        del drawn["adapters"]
    halves = copies | drawn, frozen | jax.tree.map(lambda leaf: None, drawn)
    return parallel.replicate(halves, parallel.make_mesh())


def count_parameters(trainable: Params) -> dict[str, int]:
    """Counts one member's trainable parameters: of the head, of all else (``transfer``), and in all.

    Example:
      >>> count_parameters({"transfer": {"omega": jnp.ones((2, 8, 1))}, "heads": {}})  # two members
      {'transfer': 8, 'head': 0, 'trainable': 8}
    """
    one = jax.eval_shape(lambda members: tree.index(members, 0), trainable)
    head, total = tree.num_parameters(one["heads"]), tree.num_parameters(one)
    return {"transfer": total - head, "head": head, "trainable": total}
