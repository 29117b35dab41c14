"""A trained joint run to an ordinary run folder for each of its tasks.

What a joint run has learned is, for each of its tasks, one adapter in each layer and a head. So a task's folder holds a
run of method ``single``, which scores, answers, is exported and serves as a source like any other. Where everything was
fine-tuned it is a run of method ``full``, whose backbone stays in the folder above.

Letters: L layers.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import model, tree
from scalearn_jax.data.task import Task
from scalearn_jax.io.files import write_json
from scalearn_jax.io.tensors import save_tree
from scalearn_jax.runs import run_json
from scalearn_jax.runs.plain_adapter import phi
from scalearn_jax.stages.setup import Setup
from scalearn_jax.train.evaluate import of_task
from scalearn_jax.train.state import Member
from scalearn_jax.typing import Params


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
    has_norm = "norm" in spec.combiner_functions.site and spec.combiner != "single"  # whose own may be anything
    return dataclasses.replace(
        spec,
        combiner="single",
        combiner_options=(("norm_after", True),) if has_norm else (),
        heads=((task, head),),
        num_sources=1,
        non_linearity=phi(spec),
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
