"""The two stages as functions of a config: everything between a command line and a run folder.

    train_adapter   stage 1: an adapter (or everything) on one task
    transfer        stage 2: a combiner over frozen source adapters, on a target task

Letters: M members (seeds trained together), T source tasks.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import features, methods, runs, tree
from scalearn_jax.config import AdapterConfig, TrainConfig, TransferConfig
from scalearn_jax.convert.safetensors_io import save_tensors, save_tree
from scalearn_jax.data import batches
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.files import check_out, new_folder, write_json
from scalearn_jax.inference import eval_rows, score
from scalearn_jax.prepare import Setup, count_parameters, prepare
from scalearn_jax.progress import Progress
from scalearn_jax.train import loop, parallel
from scalearn_jax.train import state as states
from scalearn_jax.train.agreement import agree, check_joined, is_writer
from scalearn_jax.train.optim import make_optimizer
from scalearn_jax.train.step import make_loss, make_train_step
from scalearn_jax.typing import Batch, Params


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
    """Prepares, trains the seeds together, scores their best checkpoints and writes the run folder."""
    check_joined(config.num_processes)
    if is_writer():
        check_out(config.out)
    setup = prepare(config, task_name, sources)
    schedule = make_schedule(config, setup.method, len(setup.data.train))
    with new_folder(config.out) if is_writer() else nullcontext() as folder:
        agree(facts(setup))
        with _recorder(config, folder) as record:
            members = _fit(setup, schedule, record)
        best = parallel.replicate(tree.stack([member.trainable for member in members]), setup.mesh)
        test = score(setup.spec, setup.task, best, setup.frozen, setup.data.test, *_evaluation(setup))
        kept = tree.flatten(parallel.gather(_kept(setup), setup.mesh))
        if folder:
            for seed, member in zip(config.seeds, members, strict=True):
                save_tree(folder / f"seed-{seed}.safetensors", member.trainable)
            if kept:
                save_tensors(folder / "frozen.safetensors", kept)
            write_json(folder / "results.json", summarise(setup.task, config.seeds, members, test, schedule))
            write_json(folder / "run.json", describe(kind, setup))
    return Path(config.out)


_OF_ONE_HOST = ("backbone", "data_dir", "out", "sources", "process_id")  # places; what lies there is compared instead


def facts(setup: Setup) -> dict[str, Any]:
    """Lists what must be the same in every process of a run: the config, the backbone, the sources and the data."""
    config = dataclasses.asdict(setup.config)
    settings = {f"--{name.replace('_', '-')}": value for name, value in config.items() if name not in _OF_ONE_HOST}
    sizes = {f"the number of {name} examples": len(split) for name, split in vars(setup.data).items()}
    texts = [tree.content_hash({"ids": split.ids, "labels": split.labels}) for split in vars(setup.data).values()]
    hashes = {"the backbone": setup.backbone_hash, "the sources": [source.hash for source in setup.sources]}
    return settings | sizes | hashes | {"the data": texts}


def _kept(setup: Setup) -> Params:
    """The frozen parameters that a run keeps: its bank, and a pooler its head uses, which other copies may lack."""
    pooled = any(head.kind == "pooled" for _, head in setup.spec.heads)
    backbone = {"pooler": setup.frozen["backbone"]["pooler"]} if pooled else {}
    return {"adapters": setup.frozen["adapters"], "backbone": backbone}


def describe(kind: str, setup: Setup) -> dict[str, Any]:
    """Builds ``run.json``: all that is needed to repeat, evaluate or reuse the run."""
    config = setup.config
    return {
        "format": runs.FORMAT,
        "kind": kind,
        "method": config.method,
        "config": dataclasses.asdict(config),
        "task": setup.task.to_dict(),
        "backbone": runs.locate_backbone(config.backbone, config.revision) | {"hash": setup.backbone_hash},
        "data_dir": config.data_dir and str(Path(config.data_dir).expanduser().resolve()),
        "spec": runs.spec_to_dict(setup.spec),
        "sources": [{"name": source.name, "path": source.path, "hash": source.hash} for source in setup.sources],
        **({"soup": setup.weighed.to_dict()} if setup.weighed else {}),
        "seeds": list(config.seeds),
        "parameters": count_parameters(setup.trainable),
        "versions": runs.versions(),
        "command": runs.command(),
    }


def _fit(setup: Setup, schedule: loop.Schedule, on_event: Callable) -> list[loop.Member]:
    """Trains the members; returns their best checkpoints."""
    config, task = setup.config, setup.task
    tx = make_optimizer(
        learning_rate=_default(config.learning_rate, setup.method.learning_rate),
        num_steps=schedule.num_steps,
        trainable=setup.method.trainable,
        optimizer=config.optimizer,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm or None,
    )
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 1) for seed in config.seeds])
    state = jax.vmap(lambda trainable, key: states.create(trainable, tx, key))(setup.trainable, keys)
    on_event({"event": "start", "num_steps": schedule.num_steps, "examples": len(setup.data.train)})
    feed = _feed(setup, schedule.num_steps)
    return loop.train(
        parallel.compile_train_step(make_train_step(feed.loss, tx), setup.mesh),
        parallel.replicate(state, setup.mesh),
        setup.frozen,
        feed.batches,
        evaluate=feed.evaluate,
        schedule=schedule,
        main_metric=task.metrics[0],
        on_event=on_event,
    )


class _Feed(NamedTuple):
    """What a run trains on: batches, their loss, and the development metrics."""

    batches: Iterator
    loss: Callable
    evaluate: Callable


def _feed(setup: Setup, num_steps: int) -> _Feed:
    """Batches of tokens; of features where only a head learns on what never changes."""
    spec, task, data = setup.spec, setup.task, setup.data
    if features.are_constant(setup.method, spec):
        loss = make_loss(spec, task.name, task.kind, features.forward)
        return _Feed(features.train_batches(setup, num_steps), loss, features.evaluator(setup, data.dev))
    evaluation = _evaluation(setup)
    return _Feed(
        member_batches(setup, num_steps),
        make_loss(spec, task.name, task.kind, parallel.forward(setup.mesh)),
        lambda current: score(spec, task, current, setup.frozen, data.dev, *evaluation),
    )


def make_schedule(config: TrainConfig, method: methods.Method, num_examples: int) -> loop.Schedule:
    """Resolves steps, evaluations and patience: what the config leaves open is as published for the method.

    Raises:
      InputError: the warm-up is as long as the run.
    """
    per_epoch = batches.steps_per_epoch(num_examples, config.batch_size)
    num_steps = config.max_steps or _default(config.epochs, method.epochs) * per_epoch
    if config.warmup_steps >= num_steps:
        raise InputError(f"--warmup-steps {config.warmup_steps} leaves nothing of {num_steps} steps; pass fewer.")
    return loop.Schedule(
        num_steps=num_steps,
        eval_every=config.eval_every or per_epoch,
        log_every=config.log_every,
        patience=_default(config.patience, method.patience),
        select=config.select,
    )


def _default(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _evaluation(setup: Setup) -> tuple:
    """The batch size, row count, layout and mesh that both held-out sets share, so that one program serves them."""
    size = setup.config.eval_batch_size
    rows = eval_rows([setup.data.dev, setup.data.test], size, setup.task.max_length, setup.mesh)
    return size, rows, setup.config.packed, setup.mesh


_PROGRAM_COST = 100  # rows that train in about the time that compiling one more program takes, on a small machine


def member_batches(setup: Setup, num_steps: int) -> Iterator[Batch]:
    """Yields training batches with a leading member axis; each seed has its own order."""
    config, encoded = setup.config, setup.data.train
    layout = dict(batch_size=config.batch_size, row_length=setup.task.max_length)
    rows = batches.train_rows(encoded, seeds=config.seeds, num_steps=num_steps, **layout)
    rows = parallel.divisible(rows, setup.mesh)
    choices = batches.row_choices(rows, program_cost=_PROGRAM_COST)
    layout |= dict(row_choices=choices, packed=config.packed)
    streams = [batches.train_batches(encoded, seed=seed, **layout) for seed in config.seeds]
    return map(batches.stack_members, zip(*streams, strict=True))


def summarise(task: Task, seeds: Sequence[int], members: Sequence[loop.Member], test, schedule) -> dict[str, Any]:
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
        "num_steps": schedule.num_steps,
        "seeds": by_seed,
        "mean": {name: float(value.mean()) for name, value in values.items()},
        "sd": {name: float(value.std(ddof=1)) if len(value) > 1 else 0.0 for name, value in values.items()},
    }


@contextmanager
def _recorder(config: TrainConfig, folder: Path | None) -> Iterator[Callable]:
    """Opens the log and the progress display of a run; without a folder, both stay silent."""
    if folder is None:
        yield lambda event: None
        return
    with (folder / "metrics.jsonl").open("a") as log, Progress(config.out, config.seeds) as progress:

        def record(event: dict[str, Any]) -> None:
            log.write(json.dumps(event) + "\n")
            log.flush()
            progress.update(event)

        yield record
