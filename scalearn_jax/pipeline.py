"""The two stages as functions of a config: everything between a command line and a run folder.

    train_adapter   stage 1: an adapter (or everything) on one task
    transfer        stage 2: a combiner over frozen source adapters, on a target task

Letters: M members (seeds trained together), T source tasks.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax import methods, out_of_memory, rates, runs, together, tree
from scalearn_jax.config import AdapterConfig, TrainConfig, TransferConfig
from scalearn_jax.convert.safetensors_io import save_tensors, save_tree
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.files import check_out, new_folder, write_json
from scalearn_jax.inference import score
from scalearn_jax.prepare import Setup, count_parameters, prepare
from scalearn_jax.records import recorders
from scalearn_jax.train import loop, parallel
from scalearn_jax.train.agreement import agree, check_joined, is_writer
from scalearn_jax.train.loop import Schedule
from scalearn_jax.training import evaluation_layout, make_schedule, train, training_rows
from scalearn_jax.typing import Params


def train_adapter(config: AdapterConfig) -> Path:
    """Stage 1: trains an adapter and a head on a source task, or with ``method="full"`` everything.

    Args:
      config: see ``AdapterConfig``.

    Returns:
      The run folder, itself a source for ``transfer``; of several learning rates the folder above theirs.

    Raises:
      InputError: anything wrong with the input; raised before anything is written.
    """
    _check_outs(config)
    return _run("adapter", config, adapter_setups(config))


def transfer(config: TransferConfig) -> Path:
    """Stage 2: learns how to combine frozen source adapters for a target task (arXiv 2310.01217, section 3).

    The target's own adapter may be among the sources; it is then moved to the end, as published.

    Args:
      config: see ``TransferConfig``.

    Returns:
      The run folder; of several targets or learning rates the folder above theirs.

    Raises:
      InputError: anything wrong with the input; raised before anything is written.
    """
    _check_outs(config)
    return _run("transfer", config, transfer_setups(config))


def adapter_setups(config: AdapterConfig) -> list[Setup]:
    """Checks and resolves a stage-1 config to its runs, one a learning rate; writes nothing.

    Raises:
      InputError: anything wrong with the input.
    """
    if methods.get(config.method).uses_sources:
        raise InputError(f"method {config.method!r} combines source adapters; use `scalearn transfer` for it.")
    return rates.at_each(prepare(config, config.task, ()))


def transfer_setups(config: TransferConfig) -> list[Setup]:
    """Checks and resolves a stage-2 config to its runs, one a target and learning rate; writes nothing.

    Raises:
      InputError: anything wrong with the input.
    """
    method = methods.get(config.method)
    paths = config.sources if method.uses_sources else ()
    sources = [runs.load_source(path, allow_pickle=config.allow_pickle) for path in paths]
    if method.uses_sources and not sources:
        raise InputError(f"method {config.method!r} needs --sources; pass at least one stage-1 run folder.")
    if config.target:
        return rates.at_each(prepare(config, config.target, sources))
    setups: list[Setup] = []
    for target in config.targets:
        one = dataclasses.replace(config, target=target, targets=(), out=str(Path(config.out, target)))
        setups.append(_sharing(prepare(one, target, sources), setups))
    return [run for setup in setups for run in rates.at_each(setup)]


def _check_outs(config: TrainConfig) -> None:
    """Checks the processes and the run folders of a config, before anything is computed."""
    check_joined(config.num_processes)
    if config.learning_rates and is_writer() and Path(config.out, "rates.json").exists():
        raise InputError(f"--out {config.out} holds learning rates compared before; choose another folder.")
    targets = getattr(config, "targets", ())
    for folder in [str(Path(config.out, target)) for target in targets] or [config.out]:
        for _, out in rates.folders(dataclasses.replace(config, out=folder)) if is_writer() else ():
            check_out(out)


def _sharing(setup: Setup, others: Sequence[Setup]) -> Setup:
    """Lets a run hold the same copy of the backbone as one of the others, if it is the same."""
    owner = next((other for other in others if other.spec.backbone == setup.spec.backbone), setup)
    return dataclasses.replace(setup, frozen=setup.frozen | {"backbone": owner.frozen["backbone"]})


def programs(setups: Sequence[Setup]) -> list[list[Setup]]:
    """Groups the runs of a config by what fits one program; see ``together.key``."""
    groups: dict[tuple, list[Setup]] = {}
    for setup in setups:
        groups.setdefault(together.key(setup), []).append(setup)
    return list(groups.values())


def _run(kind: str, config: TrainConfig, setups: Sequence[Setup]) -> Path:
    """Trains the runs of a config, and says which learning rate did best.

    Raises:
      FloatingPointError: some run never had a finite score; the others are written.
    """
    results: dict[str, Any] = {}
    schedules = {setup.config.out: make_schedule(setup.config, setup.method, len(setup.data.train)) for setup in setups}
    for group in programs(setups):
        results |= _run_together(kind, config.out, group, [schedules[setup.config.out] for setup in group])
    if config.learning_rates and results and is_writer():
        write_json(Path(config.out, "rates.json"), rates.best(setups, results))
    failed = [setup.config.out for setup in setups if setup.config.out not in results]
    if failed:
        select = config.select if config.select == "loss" else "metric"
        raise FloatingPointError(f"no evaluation gave a finite {select}: {', '.join(failed)}; lower the learning rate.")
    return Path(config.out)


def _run_together(kind: str, title: str, setups: Sequence[Setup], schedules: Sequence[Schedule]) -> dict[str, Any]:
    """Trains runs in one program, scores their best checkpoints and writes their folders; returns their results.

    A folder appears as soon as its run is scored. One that never had a finite score leaves none, and no results.
    """
    steps, results = [schedule.num_steps for schedule in schedules], {}
    shape = lambda: f"{training_rows(setups, steps)[1][-1]} rows of {setups[0].task.max_length} tokens"  # noqa: E731
    with out_of_memory.explained(setups[0].config, shape), contextlib.ExitStack() as all_folders:
        folders = [all_folders.enter_context(_Folder(setup.config.out)) for setup in setups]
        agree(_facts_of_all(setups))
        with recorders(title, setups, [folder.path for folder in folders], schedules) as records:
            trained = train(setups, schedules, records)
        for folder, setup, schedule, members in zip(folders, setups, schedules, trained, strict=True):
            if members is None:
                folder.drop()
                continue
            results[setup.config.out] = _finish(kind, folder.path, setup, schedule, members)
            folder.close()
    return results


class _Folder(contextlib.ExitStack):
    """A run folder in the making, of the process that writes; ``close`` brings it out, any error removes it."""

    def __init__(self, out: str):
        super().__init__()
        self.path = self.enter_context(new_folder(out)) if is_writer() else None

    def drop(self) -> None:
        """Removes what there is."""
        with contextlib.suppress(_Dropped), self:
            raise _Dropped


class _Dropped(Exception):
    pass


def _finish(kind: str, folder: Path | None, setup: Setup, schedule: loop.Schedule, members) -> dict[str, Any]:
    """Scores the best checkpoints of a run and fills its folder; returns its results."""
    best = parallel.replicate(tree.stack([member.trainable for member in members]), setup.mesh)
    test = score(setup.spec, setup.task, best, setup.frozen, setup.data.test, *evaluation_layout(setup))
    whole = {name: np.asarray(x) for name, x in tree.flatten(parallel.gather(_kept(setup), setup.mesh)).items()}
    kept = {name: leaf.astype(np.promote_types(leaf.dtype, np.float32)) for name, leaf in whole.items()}
    results = summarise(setup.task, setup.config.seeds, members, test, schedule)
    if folder:
        for seed, member in zip(setup.config.seeds, members, strict=True):
            save_tree(folder / f"seed-{seed}.safetensors", member.trainable)
        if kept:
            save_tensors(folder / "frozen.safetensors", kept)
        write_json(folder / "results.json", results)
        write_json(folder / "run.json", describe(kind, setup))
    return results


def _facts_of_all(setups: Sequence[Setup]) -> dict[str, Any]:
    """``facts`` of runs that share a program."""
    if len(setups) == 1:
        return facts(setups[0])
    numbered = [
        (f"{name} of run {number}", value)
        for number, setup in enumerate(setups, 1)
        for name, value in facts(setup).items()
    ]
    return {"the number of runs": len(setups), **dict(numbered)}


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
