"""Joint runs: a config to a checked setup of several tasks, and a trained run to an ordinary run folder a task.

What a joint run has learned is, for each of its tasks, one adapter in each layer and a head. So a task's folder holds a
run of method ``single``, which scores, answers, is exported and serves as a source like any other. Where everything was
fine-tuned it is a run of method ``full``, whose backbone stays in the folder above.

Letters: L layers, d hidden size, r bottleneck, M members (seeds trained together).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import methods, model, tree
from scalearn_jax.config import JointConfig
from scalearn_jax.config.schema import problems
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io import terminal
from scalearn_jax.io.files import write_json
from scalearn_jax.io.tensors import save_tree
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.models.layers import cast_frozen
from scalearn_jax.runs import run_json
from scalearn_jax.runs.backbone import load_backbone
from scalearn_jax.runs.plain_adapter import phi
from scalearn_jax.stages.given import Given
from scalearn_jax.stages.prepare import (
    Part,
    Setup,
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
from scalearn_jax.train.evaluate import of_task
from scalearn_jax.train.sharding import replicate
from scalearn_jax.train.state import Member
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


def write_tasks(
    folder: Path, setup: Setup, members: dict[int, Member], results: dict[str, Any], info: dict[str, Any]
) -> None:
    """Writes the folder of each task of a joint run, with the content of ``results.json`` and ``run.json`` above."""
    adapters = {seed: _adapters(setup.spec, member.trainable) for seed, member in members.items()}
    for number, (task, _) in enumerate(setup.parts):
        place, spec = folder / task.name, task_spec(setup.spec, task.name)
        place.mkdir(parents=True, exist_ok=True)
        for seed, member in members.items():
            heads = {task.name: member.trainable["heads"][task.name]}
            save_tree(place / f"seed-{seed}.safetensors", {"adapters": adapters[seed](number), "heads": heads})
        write_json(place / "results.json", _task_results(task, results))
        write_json(place / "run.json", _task_info(setup, task, spec, info, tree.num_parameters(heads)))


def task_spec(spec: model.ModelSpec, task: str) -> model.ModelSpec:
    """The model of one task of a joint run: the adapter that is bound for it, and its head."""
    head = spec.head(task)
    head = dataclasses.replace(head, kind="two_layer") if head.kind == "own_pooled" else head
    if spec.combiner == "none":
        return dataclasses.replace(spec, heads=((task, head),))
    return dataclasses.replace(
        spec,
        combiner="single",
        combiner_options=(),
        heads=((task, head),),
        num_sources=1,
        non_linearity=phi(spec),
        norm_after="norm" in spec.combiner_functions.site and spec.combiner != "single",
    )


def _adapters(spec: model.ModelSpec, trainable: Params) -> Callable[[int], Params]:
    """Returns the function from a task's number to its adapter, as a bank of one."""
    if spec.combiner in ("none", "single"):
        return lambda number: trainable["adapters"]
    exact = dataclasses.replace(spec, dtype="strict")

    @jax.jit
    def bind(transfer: Params, number: jax.Array) -> Params:
        with exact.precision():
            params = {"backbone": {}, "adapters": {}, "transfer": transfer, "heads": {}}
            return model.adapt(params, spec=exact, task=number).site

    def of_number(number: int) -> Params:
        site = bind(trainable["transfer"], jnp.int32(number))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:, None], site)  # [L, 1, ...]

    return of_number


def _task_results(task: Task, results: dict[str, Any]) -> dict[str, Any]:
    """``results.json`` of one task."""
    parts = ("dev", "test", "se")
    seeds = {
        seed: entry | {part: of_task(task, entry[part]) for part in parts} for seed, entry in results["seeds"].items()
    }
    shared = {name: part for name, part in results.items() if name != "tasks"}
    own = {part: of_task(task, results[part]) for part in ("mean", "sd", "se")}
    return shared | {"main_metric": task.metrics[0], "seeds": seeds} | own | results["tasks"][task.name]


def _task_info(setup: Setup, task: Task, spec: model.ModelSpec, info: dict[str, Any], num_head: int) -> dict[str, Any]:
    """``run.json`` of one task."""
    counts = info["parameters"]
    joint = {"method": setup.config.method, "tasks": setup.spec.tasks}
    if spec.combiner == "none":
        joint["backbone_in"] = "/".join([".."] * len(Path(task.name).parts))
    own = {
        "kind": "adapter",
        "method": "full" if spec.combiner == "none" else "single",
        "task": task.to_dict(),
        "spec": run_json.spec_to_dict(spec),
        "joint": joint,
        "parameters": counts | {"head": num_head, "trainable": counts["transfer"] + num_head},
    }
    return {name: part for name, part in info.items() if name != "tasks"} | own
