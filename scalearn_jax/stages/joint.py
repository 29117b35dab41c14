"""Joint runs: a config to a checked setup of several tasks.

Letters: M members (seeds trained together).
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from scalearn_jax import methods, model
from scalearn_jax.config import JointConfig
from scalearn_jax.config.schema import problems
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io import terminal
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.models.layers import cast_frozen
from scalearn_jax.runs.backbone import load_backbone
from scalearn_jax.stages.given import Given
from scalearn_jax.stages.prepare import (
    bottleneck_width,
    check_settings,
    combiner_options,
    compute_dtype,
    encode_tables,
    init_members,
    load_tables,
    make_mesh,
    resolve_task,
    standardised,
)
from scalearn_jax.stages.setup import Part, Setup
from scalearn_jax.train.sharding import replicate
from scalearn_jax.typing import Params

_T = TypeVar("_T")


def joint_setups(config: JointConfig) -> list[Setup]:
    """Checks and resolves a joint config; writes nothing.

    Raises:
      InputError: all that is wrong with the settings, the tasks and their data, at once.
    """
    found = config.problems()

    def attempt(function: Callable[..., _T], *arguments: Any, **options: Any) -> _T | None:
        try:
            return function(*arguments, **options)
        except InputError as error:
            found.append(str(error).rstrip("."))
            return None

    tasks = {name: attempt(resolve_task, config, name) for name in dict.fromkeys(config.tasks)}
    if twice := [name for name, count in Counter(task.name for task in tasks.values() if task).items() if count > 1]:
        found.append(f"tasks: {', '.join(twice)} is the name of two of them; give one another")
    tables = {name: attempt(load_tables, config, task) for name, task in tasks.items() if task}
    loaded = attempt(load_backbone, config.backbone, config.revision, allow_pickle=config.allow_pickle)
    method = methods.JOINT.get(config.method)
    for task in filter(None, tasks.values()) if loaded and method else ():
        attempt(check_settings, config, method, task, loaded.spec, 0)
    found += [f"task {name}: its training set is empty" for name, table in tables.items() if table and not table.train]
    if found:
        raise problems("train-joint", list(dict.fromkeys(found)))
    mesh, given = make_mesh(config, loaded.spec), Given(backbone=loaded)
    parts = []
    for name, task in tasks.items():
        data = encode_tables(config, task, loaded.spec, tables[name], given)
        parts.append(Part(task, standardised(task, data)))
    _note_lengths([part.task for part in parts])
    spec = make_joint_spec(config, method, [part.task for part in parts], loaded.spec)
    backbone = {name: part for name, part in loaded.params.items() if name != "pooler"}
    trainable, frozen = init_members(config.seeds, spec, method, backbone, None, mesh)
    trainable = replicate(with_poolers(trainable, spec, loaded.params.get("pooler")), mesh)
    frozen = cast_frozen(frozen, config.frozen_dtype)
    return [Setup(config, method, tuple(parts), spec, (), loaded.hash, trainable, frozen, mesh)]


def _note_lengths(tasks: list[Task]) -> None:
    longest = max(task.max_length for task in tasks)
    if shorter := [f"{task.name} at {task.max_length}" for task in tasks if task.max_length < longest]:
        cut = ", ".join(shorter)
        terminal.note(f"tasks have different max_length: rows hold {longest} tokens; texts are cut before of {cut}.")


def make_joint_spec(
    config: JointConfig, method: methods.Method, tasks: list[Task], backbone: BackboneSpec
) -> model.ModelSpec:
    """Resolves a checked config to a model with a head for each task."""
    options = combiner_options(config, method, backbone)
    if "transfer" in method.trainable:
        options["tasks"] = tuple(task.name for task in tasks)
    trains_bank = "adapter" in method.trainable

    def head(task: Task) -> HeadSpec:
        kind = method.choice_head if task.kind == "choice" else "two_layer"
        kind = "two_layer" if kind == "own_pooled" and not backbone.has_pooler else kind
        return HeadSpec(kind, task.num_outputs, task.num_choices, backbone.hidden_dropout)

    return model.ModelSpec(
        backbone=dataclasses.replace(backbone, has_pooler=False),  # a head that needs it has its own
        combiner=method.combiner,
        combiner_options=tuple(sorted(options.items())),
        heads=tuple((task.name, head(task)) for task in tasks),
        num_sources=int(trains_bank),
        bottleneck=bottleneck_width(config, backbone) if method.trains_adapter else 0,
        non_linearity=(config.non_linearity or "relu") if trains_bank else "relu",
        backbone_dropout=config.backbone_dropout,
        dtype=compute_dtype(config),
        layers=config.layers,
        remat=config.remat,
    )


def with_poolers(trainable: Params, spec: model.ModelSpec, pooler: Params | None) -> Params:
    """Starts heads of kind ``"own_pooled"`` at the backbone's pooler, in trees with a leading axis M."""
    heads = dict(trainable["heads"])
    for task, head in spec.heads:
        if head.kind == "own_pooled":
            drawn = heads[task]["dense"]
            copied = jax.tree.map(lambda leaf, mine: jnp.broadcast_to(mine[None], leaf.shape), drawn, dict(pooler))
            heads[task] = heads[task] | {"dense": copied}
    return trainable | {"heads": heads}
