"""The two stages as functions of a config: everything between a command line and a run folder.

    train_adapter   stage 1: an adapter (or everything) on one task
    transfer        stage 2: a combiner over frozen source adapters, on a target task

Letters: M members (seeds trained together), T source tasks.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import methods, runs, tree
from scalearn_jax.config import AdapterConfig, TrainConfig, TransferConfig
from scalearn_jax.convert.safetensors_io import save_tree
from scalearn_jax.data import batches, tasks, tokens
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.files import write_json
from scalearn_jax.inference import score
from scalearn_jax.models import bank as banks
from scalearn_jax.prepare import (
    Data,
    check_sources,
    count_parameters,
    in_published_order,
    init_members,
    load_data,
    make_spec,
)
from scalearn_jax.progress import Progress
from scalearn_jax.train import loop, parallel
from scalearn_jax.train import state as states
from scalearn_jax.train.optim import make_optimizer
from scalearn_jax.train.step import make_loss, make_train_step


def train_adapter(config: AdapterConfig) -> Path:
    """Stage 1: trains an adapter and a head on a source task, or with ``method="full"`` everything.

    Args:
      config: see ``AdapterConfig``.

    Returns:
      The run folder, itself a source for ``transfer``.

    Raises:
      InputError: anything wrong with the input; raised before anything is written.
    """
    if methods.get(config.method).uses_sources:
        raise InputError(f"method {config.method!r} combines source adapters; use `scalearn transfer` for it.")
    return _run("adapter", config, config.task, sources=())


def transfer(config: TransferConfig) -> Path:
    """Stage 2: learns how to combine frozen source adapters for a target task (arXiv 2310.01217, section 3).

    The target's own adapter may be among the sources; it is then moved to the end, as published.

    Args:
      config: see ``TransferConfig``.

    Returns:
      The run folder.

    Raises:
      InputError: anything wrong with the input; raised before anything is written.
    """
    method = methods.get(config.method)
    sources = [runs.load_source(path) for path in config.sources] if method.uses_sources else []
    if method.uses_sources and not sources:
        raise InputError(f"method {config.method!r} needs --sources; pass at least one stage-1 run folder.")
    return _run("transfer", config, config.target, sources=sources)


def _run(kind: str, config: TrainConfig, task_name: str, sources: Sequence[runs.Source]) -> Path:
    """Prepares, trains the seeds together, evaluates the best checkpoints and writes the run folder."""
    runs.check_out(config.out)
    method = methods.get(config.method)
    task = tasks.get(task_name, data_dir=config.data_dir)
    task = dataclasses.replace(task, max_length=config.max_length or task.max_length)
    backbone, backbone_spec, backbone_hash = runs.load_backbone(config.backbone, config.revision)
    check_sources(sources, backbone_spec, backbone_hash)
    if "transfer" in method.trainable and method.combiner != "fusion":
        sources = in_published_order(sources, task.name)
    spec = make_spec(config, method, task, backbone_spec, sources)
    data = load_data(config, task, backbone_spec)
    bank = banks.stack([source.adapter for source in sources]) if sources else None

    trainable, frozen = init_members(config.seeds, spec, method, backbone, bank)
    counts = count_parameters(trainable)
    with runs.new_folder(config.out) as folder:
        with (folder / "metrics.jsonl").open("a") as log, Progress(config.out, config.seeds) as progress:
            on_event = _recorder(log, progress)
            members, plan = _fit(config, method, spec, task, data, trainable, frozen, on_event)
        best = tree.stack([member.trainable for member in members])
        test = score(spec, task, best, frozen, data.test, *_evaluation(config, task, data))
        for seed, member in zip(config.seeds, members, strict=True):
            save_tree(folder / f"seed-{seed}.safetensors", member.trainable)
        if sources:
            save_tree(folder / "frozen.safetensors", {"adapters": bank})
        write_json(folder / "results.json", summarise(task, config.seeds, members, test, plan))
        info = {
            "format": runs.FORMAT,
            "kind": kind,
            "method": config.method,
            "config": dataclasses.asdict(config),
            "task": task.to_dict(),
            "backbone": {"path": config.backbone, "revision": config.revision, "hash": backbone_hash},
            "spec": runs.spec_to_dict(spec),
            "sources": [{"name": source.name, "path": source.path, "hash": source.hash} for source in sources],
            "seeds": list(config.seeds),
            "parameters": counts,
            "versions": runs.versions(),
            "command": runs.command(),
        }
        write_json(folder / "run.json", info)
    return Path(config.out)


def _fit(config, method, spec, task, data: Data, trainable, frozen, on_event: Callable):
    """Trains the members; returns their best checkpoints and the schedule."""
    per_epoch = batches.num_steps(len(data.train), config.batch_size)
    epochs = method.epochs if config.epochs is None else config.epochs
    plan = loop.Schedule(
        num_steps=config.max_steps or epochs * per_epoch,
        eval_every=config.eval_every or per_epoch,
        log_every=config.log_every,
        patience=method.patience if config.patience is None else config.patience,
        select=config.select,
    )
    tx = make_optimizer(
        learning_rate=method.learning_rate if config.learning_rate is None else config.learning_rate,
        num_steps=plan.num_steps,
        trainable=method.trainable,
        optimizer=config.optimizer,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm or None,
    )
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 1) for seed in config.seeds])
    state = jax.vmap(lambda trainable, key: states.create(trainable, tx, key))(trainable, keys)
    step = parallel.compile_train_step(make_train_step(make_loss(spec, task.name, task.kind), tx))
    evaluation = _evaluation(config, task, data)
    on_event({"event": "start", "num_steps": plan.num_steps, "examples": len(data.train)})
    members = loop.train(
        step,
        state,
        frozen,
        member_batches(config, task, data.train, plan.num_steps),
        evaluate=lambda current: score(spec, task, current, frozen, data.dev, *evaluation),
        schedule=plan,
        main_metric=task.metrics[0],
        on_event=on_event,
    )
    return members, plan


def _evaluation(config: TrainConfig, task: Task, data: Data) -> tuple:
    """The batch size, row count and layout that development and test set share, so that one program serves both."""
    rows = batches.eval_rows([data.dev, data.test], config.eval_batch_size, task.max_length)
    return config.eval_batch_size, rows, config.packed


_STEPS_WORTH_A_PROGRAM = 500  # compiling one more takes seconds, and spares a tenth of a step's rows


def member_batches(config: TrainConfig, task: Task, encoded: tokens.Encoded, num_steps: int):
    """Yields training batches with a leading member axis; each seed has its own order."""
    choices = batches.row_choices(
        encoded,
        config.batch_size,
        task.max_length,
        num_members=len(config.seeds),
        max_choices=3 if num_steps > _STEPS_WORTH_A_PROGRAM else 2,
    )
    streams = [
        batches.train_batches(
            encoded,
            seed=seed,
            batch_size=config.batch_size,
            row_length=task.max_length,
            row_choices=choices,
            packed=config.packed,
        )
        for seed in config.seeds
    ]
    for group in zip(*streams, strict=True):
        yield batches.stack_members(group)


def summarise(task: Task, seeds: Sequence[int], members: Sequence[loop.Member], test, plan) -> dict[str, Any]:
    """Builds ``results.json``: each seed's metrics at its best checkpoint, their mean and sd."""
    by_seed = {
        str(seed): {
            "dev": member.metrics,
            "test": metrics_,
            "best_step": member.best_step,
            "steps": member.stopped_at,
        }
        for seed, member, metrics_ in zip(seeds, members, test, strict=True)
    }
    values = {name: np.array([entry[name] for entry in test]) for name in test[0]}
    return {
        "main_metric": task.metrics[0],
        "num_steps": plan.num_steps,
        "seeds": by_seed,
        "mean": {name: float(value.mean()) for name, value in values.items()},
        "sd": {name: float(value.std(ddof=1)) if len(value) > 1 else 0.0 for name, value in values.items()},
    }


def _recorder(log, progress: Progress) -> Callable:
    def record(event: dict[str, Any]) -> None:
        log.write(json.dumps(event) + "\n")
        log.flush()
        progress.update(event)

    return record
