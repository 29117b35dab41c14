"""What a run leaves in its folder once it is trained: weights, scores, and all that is needed to use or repeat it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax import tree
from scalearn_jax.data.tasks import Task
from scalearn_jax.io.files import write_json
from scalearn_jax.io.tensors import save_tensors, save_tree
from scalearn_jax.models import pretrained
from scalearn_jax.runs import provenance
from scalearn_jax.runs import run_json as run_info
from scalearn_jax.stages.outcomes import Trained
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.stages.program import evaluation_layout
from scalearn_jax.train import loop, parallel
from scalearn_jax.train.evaluate import Members, score
from scalearn_jax.train.state import count_parameters
from scalearn_jax.typing import Params


def write_run(
    kind: str, folder: Path | None, setup: Setup, schedule: loop.Schedule, trained: Trained
) -> dict[str, Any]:
    """Scores the best checkpoints of a run and fills its folder.

    Args:
      kind: ``"adapter"`` or ``"transfer"``.
      folder: where to; ``None`` for a process that only computes.
      setup: the run.
      schedule: of the run.
      trained: what came of it.

    Returns:
      Its results.
    """
    best = parallel.replicate(tree.stack([member.trainable for member in trained.members]), setup.mesh)
    members = Members(setup.spec, setup.task, best, setup.frozen)
    test = score(members, setup.data.test, evaluation_layout(setup))
    whole = {name: np.asarray(x) for name, x in tree.flatten(parallel.gather(_kept(setup), setup.mesh)).items()}
    kept = {name: leaf.astype(np.promote_types(leaf.dtype, np.float32)) for name, leaf in whole.items()}
    results = summarise(setup.task, setup.config.seeds, trained, test, schedule)
    if folder:
        for seed, member in zip(setup.config.seeds, trained.members, strict=True):
            save_tree(folder / f"seed-{seed}.safetensors", member.trainable)
        if kept:
            save_tensors(folder / "frozen.safetensors", kept)
        write_json(folder / "results.json", results)
        write_json(folder / "run.json", describe(kind, setup))
    return results


def _kept(setup: Setup) -> Params:
    """The frozen parameters that a run keeps: its bank, and a pooler its head uses, which other copies may lack."""
    pooled = any(head.kind == "pooled" for _, head in setup.spec.heads)
    backbone = {"pooler": setup.frozen["backbone"]["pooler"]} if pooled else {}
    return {"adapters": setup.frozen["adapters"], "backbone": backbone}


def describe(kind: str, setup: Setup) -> dict[str, Any]:
    """Builds ``run.json``: all that is needed to repeat, evaluate or reuse the run."""
    config = setup.config
    return {
        "format": run_info.FORMAT,
        "kind": kind,
        "method": config.method,
        "config": dataclasses.asdict(config),
        "task": setup.task.to_dict(),
        "backbone": pretrained.locate_backbone(config.backbone, config.revision) | {"hash": setup.backbone_hash},
        "data_dir": config.data_dir and str(Path(config.data_dir).expanduser().resolve()),
        "spec": run_info.spec_to_dict(setup.spec),
        "sources": [{"name": source.name, "path": source.path, "hash": source.hash} for source in setup.sources],
        **({"soup": setup.weighed.to_dict()} if setup.weighed else {}),
        "seeds": list(config.seeds),
        "parameters": count_parameters(setup.trainable),
        "versions": provenance.versions(),
        "command": provenance.command(),
    }


def summarise(task: Task, seeds: Sequence[int], trained: Trained, test, schedule) -> dict[str, Any]:
    """Builds ``results.json``: each seed's metrics at its best checkpoint, their mean and sd.

    The hash of the last training state, optimiser included, tells whether two runs were the same to the last bit; of
    runs that train together, the state is that at the end of the longest.
    """
    by_seed = {
        str(seed): {
            "dev": member.metrics,
            "test": metrics_,
            "best_step": member.best_step,
            "steps": member.stopped_at,
        }
        for seed, member, metrics_ in zip(seeds, trained.members, test, strict=True)
    }
    values = {name: np.array([entry[name] for entry in test]) for name in test[0]}
    return {
        "main_metric": task.metrics[0],
        "num_steps": schedule.num_steps,
        "seeds": by_seed,
        "mean": {name: float(value.mean()) for name, value in values.items()},
        "sd": {name: float(value.std(ddof=1)) if len(value) > 1 else 0.0 for name, value in values.items()},
        "state": trained.state_hash,
    }
