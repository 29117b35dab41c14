"""Resolves a config to what training needs: checked sources, a static spec, encoded data, first parameters.

Letters: M members (seeds trained together), T source tasks.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from scalearn_jax import methods, model, tree
from scalearn_jax.combiners import UNFOLDED
from scalearn_jax.config import TrainConfig
from scalearn_jax.config.stages import combiner_settings, foreign_settings
from scalearn_jax.data import splits, tasks, tokens
from scalearn_jax.data.labels import standardise
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io import terminal
from scalearn_jax.models import bank as banks
from scalearn_jax.models import encoder
from scalearn_jax.models.adapter import non_linearity
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.models.layers import cast_frozen
from scalearn_jax.runs.backbone import load_backbone
from scalearn_jax.runs.sources import Source, check_base_models, check_sources
from scalearn_jax.stages import soup
from scalearn_jax.stages.given import NOTHING, Given, check_update
from scalearn_jax.stages.setup import Data, Part, Setup
from scalearn_jax.train import sharding
from scalearn_jax.train.compile import keep_programs
from scalearn_jax.train.jax_settings import key_of_seed
from scalearn_jax.train.ridge import check_examples
from scalearn_jax.train.state import with_constants
from scalearn_jax.typing import Params


def prepare(
    config: TrainConfig,
    task_name: str,
    sources: Sequence[Source],
    given: Given = NOTHING,
) -> Setup:
    """Checks and resolves a config of either stage; writes nothing."""
    method = given.method(config.method)
    task = resolve_task(config, task_name, given)
    loaded = given.backbone or load_backbone(config.backbone, config.revision, allow_pickle=config.allow_pickle)
    backbone, backbone_spec = loaded.params, loaded.spec
    check_sources(sources, backbone_spec, loaded.hash)
    if sources and not config.any_base_model:
        check_base_models(sources, config.backbone)
    if "transfer" in method.trainable and method.combiner != "fusion":
        sources = in_published_order(sources, task.name)
    check_settings(config, method, task, backbone_spec, len(sources))
    mesh = make_mesh(config, backbone_spec)
    tables = load_tables(config, task, given)
    source_weights = None
    if getattr(config, "top_sources", None) and method.combiner == "average":
        source_weights = soup.measure(config, task, tables.train, sources, loaded)
    spec = make_spec(config, method, task, backbone_spec, sources, source_weights)
    if given.combiner:
        check_update(spec)
    data = encode_tables(config, task, backbone_spec, tables, given)
    if not is_solved(config):
        data = standardised(task, data)
    if is_solved(config) or method.coefficients == "best":
        warning = check_examples(task.kind, data.train.labels, task.num_outputs, task.labels)
        if warning:
            terminal.note(warning)
    if not spec.backbone.has_pooler:  # no head uses it: it must not count as trained
        backbone = {name: part for name, part in backbone.items() if name != "pooler"}
    adapters = [source.adapter for source in sources]
    if method.shuffles_sources:
        adapters = [banks.shuffle(number, adapter) for number, adapter in enumerate(adapters)]
    bank = banks.stack(adapters) if sources else None
    trainable, frozen = init_members(config.seeds, spec, method, backbone, bank, mesh)
    frozen = cast_frozen(frozen, config.frozen_dtype)
    rest = spec, sources, loaded.hash, trainable, frozen, mesh, source_weights
    return Setup(config, method, (Part(task, data),), *rest, given)


def standardised(task: Task, data: Data) -> Data:
    """Standardises the labels of a regression, but for those of the published tasks."""
    if task.kind != "regression" or task.name in tasks.known():
        return data
    return Data(*standardise(data.train, data.dev), data.test)


def is_solved(config: TrainConfig) -> bool:
    """Whether scales and head are solved for; a run of stage 1 always trains."""
    return getattr(config, "fit", "sgd") == "solve"


def make_mesh(config: TrainConfig, backbone: BackboneSpec) -> Mesh:
    """Makes the mesh a config asks for; it must fit the devices, the batch and the backbone."""
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_mesh(config.mesh, mesh, config.batch_size, backbone)
    return mesh


def resolve_task(config: TrainConfig, name: str, given: Given = NOTHING) -> Task:
    """Looks up a task and sets its length as the config says."""
    task = given.task or tasks.get(name, data_dir=config.data_dir)
    return dataclasses.replace(task, max_length=config.max_length or task.max_length)


def in_published_order(sources: Sequence[Source], target: str) -> list[Source]:
    """Moves the target's own adapter to the end of the bank; the order of the others stays.

    AdapterHub names adapters without a slash, so ``"rte"`` is the own adapter of ``"glue/rte"``.
    """
    return sorted(sources, key=lambda source: source.name in (target, target.rsplit("/", 1)[-1]))


def make_spec(
    config: TrainConfig,
    method: methods.Method,
    task: Task,
    backbone: BackboneSpec,
    sources: Sequence[Source],
    source_weights: soup.Soup | None = None,
) -> model.ModelSpec:
    """Resolves config, method and sources (in bank order) to a static model with one head, named like the task.

    The settings must have been checked, see ``check_settings``.
    """
    if method.trains_adapter:
        width, phi = bottleneck_width(config, backbone), config.non_linearity or "relu"
        num_sources = int("adapter" in method.trainable)  # the others make their weights, and need no bank
    else:
        width = max((source.adapter["down"]["kernel"].shape[2] for source in sources), default=0)
        num_sources, phi = len(sources), sources[0].non_linearity if sources else "relu"
    options = combiner_options(config, method, backbone)
    if any("norm" in source.adapter for source in sources):
        options["norm_after"] = True
        if options.get("compose") == "folded":
            raise InputError(f"--compose folded: sources {banks.NOT_LINEAR}; leave it out.")
        if method.combiner in UNFOLDED:
            options["compose"] = "reference"
    if source_weights:
        options["weights"] = source_weights.weights
    if method.coefficients:
        options["coefficients"] = (2 / num_sources,) * num_sources
    solved = is_solved(config)
    pooled = task.kind == "choice" and method.choice_head == "pooled" and backbone.has_pooler and not solved
    kind = "linear" if solved else "pooled" if pooled else "two_layer"
    head = HeadSpec(kind, task.num_outputs, task.num_choices, backbone.hidden_dropout)
    return model.ModelSpec(
        backbone=dataclasses.replace(backbone, has_pooler=pooled),
        combiner=method.combiner,
        combiner_options=tuple(sorted(options.items())),
        heads=((task.name, head),),
        num_sources=num_sources,
        bottleneck=width,
        non_linearity=phi,
        backbone_dropout=config.backbone_dropout,
        dtype=compute_dtype(config),
        layers=config.layers,
        remat=config.remat,
    )


def compute_dtype(config: TrainConfig) -> str:
    """Returns the type of the forward pass: where the config leaves it open, what the machine is fast in."""
    exact = jax.default_backend() == "cpu" or is_solved(config)
    dtype = config.dtype or ("float32" if exact else "bfloat16")
    if config.frozen_dtype == "bfloat16" and dtype not in ("mixed", "bfloat16"):
        raise InputError(f"--frozen-dtype bfloat16 needs --dtype mixed or bfloat16, got {dtype}.")
    return dtype


# Options that say what a combiner does by itself, which runs of before did without a word.
_AS_BEFORE = {"masks": "frozen", "ffn_scale": "before"}


def combiner_options(config: TrainConfig, method: methods.Method, backbone: BackboneSpec) -> dict[str, Any]:
    """Joins a method's options with those set in the config; the config wins."""
    options = combiner_settings(method.combiner)
    of_backbone = {
        "fusion": {"dropout": backbone.attention_dropout},
        "ia3": {"intermediate_size": backbone.intermediate_size},
    }
    defaults = of_backbone.get(method.combiner, {})
    given = {options[name]: value for name, value in given_options(config).items() if options.get(name)}
    found = defaults | method.options | given
    return {name: value for name, value in found.items() if value != _AS_BEFORE.get(name)}


def load_tables(config: TrainConfig, task: Task, given: Given = NOTHING) -> splits.Splits:
    """Loads and splits a task's data, as large as the config allows; a note says where it asks for more."""
    tables = splits.load_splits(
        task,
        data_dir=config.data_dir if given.data is None else given.data,
        max_train_samples=config.max_train_samples,
        sample_seed=config.sample_seed,
        max_eval_samples=config.max_eval_samples,
        max_dev_samples=config.max_dev_samples,
    )
    asked = (config.max_train_samples, config.max_dev_samples or config.max_eval_samples, config.max_eval_samples)
    named = zip(("training", "development", "test"), tables.available, asked, strict=True)
    fewer = [f"{there} {name} examples, not {most}" for name, there, most in named if most and most > there]
    if fewer:
        terminal.note(f"task {task.name} has only {', '.join(fewer)}; all are used.")
    return tables


def encode_tables(
    config: TrainConfig, task: Task, backbone: BackboneSpec, tables: splits.Splits, given: Given = NOTHING
) -> Data:
    """Tokenises a task's data."""
    loaded = given.backbone
    tokenizer = loaded.tokenizer if loaded else tokens.load_tokenizer(config.backbone, config.revision)
    encoded = (tokens.cached(tokenizer, task, table, max_length=task.max_length) for table in tables)
    checked = (tokens.check_ids(split, backbone, config.backbone) for split in encoded)
    known = zip(checked, tables.available, tables.origins, strict=True)
    return Data(*(dataclasses.replace(split, available=count, origin=origin) for split, count, origin in known))


def init_members(
    seeds: Sequence[int],
    spec: model.ModelSpec,
    method: methods.Method,
    backbone: Params,
    bank: Params | None,
    mesh: Mesh,
) -> tuple[Params, Params]:
    """Draws the parameters of M seeds, beside one copy of the backbone and the bank where these are frozen.

    Without a bank, adapters are fresh, or there are none. Returns (trainable with leading axis M, whole on every
    device; frozen, spread over the mesh's ``model`` axis, where ``state.own_part`` has the leading axis, too).
    """

    drawn = _draw(spec.program, bank is None and spec.num_sources > 0)(jnp.asarray(seeds, jnp.uint32))
    backbone = encoder.unstack(backbone) if spec.layers == "loop" else backbone
    given = jax.tree.map(jnp.asarray, {"backbone": backbone, "adapters": bank or {}})
    if bank is not None:
        del drawn["adapters"]
    keep = methods.is_trainable(method)
    trainable, frozen = tree.partition(given, keep)
    own, kept = with_constants(*tree.partition(drawn, keep), spec)
    copies = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(seeds), axis=0), trainable)
    frozen = sharding.place_frozen(frozen | kept, mesh, spec.backbone.num_heads)
    return sharding.replicate(copies | own, mesh), frozen


@keep_programs
def _draw(spec: model.ModelSpec, with_bank: bool) -> Callable:
    """Compiles seeds Int[M] -> what each seed draws, with or without a bank of fresh adapters."""

    def draw(seed):
        bank_key, transfer_key, heads_key = jax.random.split(jax.random.fold_in(key_of_seed(seed), 0), 3)
        fresh = banks.init(bank_key, spec.bank_shape) if with_bank else {}
        return {"adapters": fresh, **model.init_target(transfer_key, heads_key, spec)}

    return jax.jit(jax.vmap(draw))


_WIDEST = 1000  # times the hidden size: no adapter is meant to be as wide


def check_settings(
    config: TrainConfig, method: methods.Method, task: Task, backbone: BackboneSpec, num_sources: int
) -> None:
    """Checks all in a config that the backbone and the number of sources decide; needs no weights and no data."""
    if task.max_length > backbone.max_length:
        raise InputError(
            f"--max-length {task.max_length} exceeds the backbone's {backbone.max_length} positions;"
            " pass a smaller one."
        )
    if method.trains_adapter:
        bottleneck_width(config, backbone)
        non_linearity(config.non_linearity or "relu")
    given = given_options(config)
    ranked = {"top_sources"} if is_solved(config) and method.solves == "scales" else set()
    for name in set(foreign_settings(method, given)) - ranked:
        raise InputError(f"--{name.replace('_', '-')} does not apply to method {config.method!r}; leave it out.")
    for name in ("weights", "coefficients"):
        values, required = given.get(name), config.method == "fixed" and name == "coefficients"
        if required if values is None else len(values) != num_sources:
            raise InputError(
                f"--{name} has {len(values or ())} values for {num_sources} sources; pass one a source, in their order."
            )


def bottleneck_width(config: TrainConfig, backbone: BackboneSpec) -> int:
    """Computes the bottleneck of a fresh adapter, r = floor(d / reduction factor)."""
    reduction_factor = config.reduction_factor or 16
    if reduction_factor < 1 / _WIDEST:
        raise InputError(f"--reduction-factor {reduction_factor} is below 1/{_WIDEST}; pass a larger one.")
    width = int(backbone.hidden_size // reduction_factor)
    if width < 1:
        raise InputError(
            f"--reduction-factor {reduction_factor} leaves no bottleneck at hidden size"
            f" {backbone.hidden_size}; pass a smaller one."
        )
    return width


def given_options(config: TrainConfig) -> dict[str, Any]:
    """Lists the options of single methods that a config sets."""
    values = {name: getattr(config, name, None) for name in combiner_settings()}
    return {name: value for name, value in values.items() if value is not None}
