"""What a trained run leaves: its best checkpoints, their scores and all that is needed to use or repeat it; or why not.

Letters: M members (seeds of a run).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.data import batches
from scalearn_jax.data.tasks import Task
from scalearn_jax.io.files import write_json
from scalearn_jax.io.tensors import save_tensors, save_tree
from scalearn_jax.models import pretrained
from scalearn_jax.runs import provenance, run_json
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train.checkpoint import to_host
from scalearn_jax.train.evaluate import Members, score
from scalearn_jax.train.loop import Schedule
from scalearn_jax.train.sharding import gather, replicate
from scalearn_jax.train.state import Faults, Member, Position, count_parameters


class Outcome(NamedTuple):
    """What came of a run."""

    members: list[Member] | None  # the best checkpoint of each; none where one has none
    failure: str  # why there are none
    state_hash: str  # of the last training state, optimiser included


def outcomes(setups: Sequence[Setup], position: Position) -> list[Outcome]:
    """Collects the outcome of each run from the program that trained them."""
    found = []
    for number, (setup, run) in enumerate(zip(setups, position.groups, strict=True)):
        own = slice(number * len(run.members), (number + 1) * len(run.members))
        state = tree.index(position.state, own)
        never = [seed for seed, m in zip(setup.config.seeds, run.members, strict=True) if m.trainable is None]
        failure = ""
        if any(run.gave_up):
            failure = _diagnosis(setup, run.gave_up.index(True), state.faults)
        elif never:
            select = "loss" if setup.config.select == "loss" else "metric"
            failure = f"no evaluation of seed {never[0]} gave a finite {select}"
        found.append(Outcome(None if failure else run.members, failure, tree.content_hash(to_host(state))))
    return found


def _diagnosis(setup: Setup, index: int, faults: Faults) -> str:
    """Describes the last step of a member whose loss or gradient was not finite too often."""
    seed, fault = setup.config.seeds[index], tree.index(jax.tree.map(np.asarray, faults), index)
    examples = batches.examples_of(seed, int(fault.step), len(setup.data.train), setup.config.batch_size)
    gradients, parameters = (
        ", ".join(f"{name} {float(norm):.3g}" for name, norm in norms.items())
        for norms in (fault.gradient_norms, fault.parameter_norms)
    )
    return (
        f"seed {seed}: no finite loss and gradient in {int(fault.in_a_row)} steps in a row, up to step"
        f" {int(fault.step) + 1} (training examples {', '.join(map(str, examples))}); norms of gradients: {gradients};"
        f" norms of parameters: {parameters}"
    )


def write_run(kind: str, folder: Path | None, setup: Setup, schedule: Schedule, outcome: Outcome) -> dict[str, Any]:
    """Scores the best checkpoints of a run and fills its folder; returns the results.

    A process that only computes has no folder.
    """
    best = replicate(tree.stack([member.trainable for member in outcome.members]), setup.mesh)
    test = score(Members(setup.spec, setup.task, best, setup.frozen), setup.data.test, setup.evaluation_layout)
    # What is frozen stays in the run where other copies may lack it: the bank, and a pooler that its head uses.
    pooled = any(head.kind == "pooled" for _, head in setup.spec.heads)
    backbone = {"pooler": setup.frozen["backbone"]["pooler"]} if pooled else {}
    kept = tree.flatten(gather({"adapters": setup.frozen["adapters"], "backbone": backbone}, setup.mesh))
    kept = {name: np.asarray(leaf) for name, leaf in kept.items()}
    results = summarise(setup.task, setup.config.seeds, outcome, test, schedule)
    if folder:
        for seed, member in zip(setup.config.seeds, outcome.members, strict=True):
            save_tree(folder / f"seed-{seed}.safetensors", member.trainable)
        if kept:
            widened = {name: leaf.astype(np.promote_types(leaf.dtype, np.float32)) for name, leaf in kept.items()}
            save_tensors(folder / "frozen.safetensors", widened)
        write_json(folder / "results.json", results)
        write_json(folder / "run.json", describe(kind, setup))
    return results


def describe(kind: str, setup: Setup) -> dict[str, Any]:
    """Builds ``run.json``: all that is needed to repeat, evaluate or reuse the run."""
    config = setup.config
    return {
        "format": run_json.FORMAT,
        "kind": kind,
        "method": config.method,
        "config": dataclasses.asdict(config),
        "task": setup.task.to_dict(),
        "backbone": pretrained.locate_backbone(config.backbone, config.revision) | {"hash": setup.backbone_hash},
        "data_dir": config.data_dir and str(Path(config.data_dir).expanduser().resolve()),
        "spec": run_json.spec_to_dict(setup.spec),
        "sources": [{"name": source.name, "path": source.path, "hash": source.hash} for source in setup.sources],
        **({"soup": setup.source_weights.to_dict()} if setup.source_weights else {}),
        "seeds": list(config.seeds),
        "parameters": count_parameters(setup.trainable),
        "versions": provenance.versions(),
        "command": provenance.command(),
    }


def summarise(task: Task, seeds: Sequence[int], outcome: Outcome, test, schedule) -> dict[str, Any]:
    """Builds ``results.json``: each seed's metrics at its best checkpoint, their mean and sd.

    The hash of the last training state, optimiser included, shows whether two runs were the same to the last bit; of
    runs that train together, the state is that when the last of them ended.
    """
    by_seed = {
        str(seed): {"dev": member.metrics, "test": scores, "best_step": member.best_step, "steps": member.stopped_at}
        for seed, member, scores in zip(seeds, outcome.members, test, strict=True)
    }
    values = {name: np.array([entry[name] for entry in test]) for name in test[0]}
    return {
        "main_metric": task.metrics[0],
        "num_steps": schedule.num_steps,
        "seeds": by_seed,
        "mean": {name: float(value.mean()) for name, value in values.items()},
        "sd": {name: float(value.std(ddof=1)) if len(value) > 1 else 0.0 for name, value in values.items()},
        "state": outcome.state_hash,
    }
