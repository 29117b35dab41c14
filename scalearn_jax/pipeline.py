"""The two stages as functions of a config: everything between a command line and a run folder.

    train_adapter   stage 1: an adapter (or everything) on one task
    transfer        stage 2: a combiner over frozen source adapters, on a target task

Letters: M members (seeds trained together), T source tasks.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax import methods, out_of_memory, runs, together, tree
from scalearn_jax.config import AdapterConfig, TrainConfig, TransferConfig
from scalearn_jax.convert.safetensors_io import save_tensors, save_tree
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.files import check_out, new_folder, write_json
from scalearn_jax.inference import score
from scalearn_jax.prepare import Setup, count_parameters, prepare
from scalearn_jax.progress import Progress
from scalearn_jax.train import loop, parallel
from scalearn_jax.train.agreement import agree, check_joined, is_writer
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
    return _at_each_rate(prepare(config, config.task, ()))


def transfer_setups(config: TransferConfig) -> list[Setup]:
    """Checks and resolves a stage-2 config to its runs, one a target and learning rate; writes nothing.

    Raises:
      InputError: anything wrong with the input.
    """
    method = methods.get(config.method)
    sources = [runs.load_source(path) for path in config.sources] if method.uses_sources else []
    if method.uses_sources and not sources:
        raise InputError(f"method {config.method!r} needs --sources; pass at least one stage-1 run folder.")
    if config.target:
        return _at_each_rate(prepare(config, config.target, sources))
    alone = [
        dataclasses.replace(config, target=target, targets=(), out=str(Path(config.out, target)))
        for target in config.targets
    ]
    setups = [prepare(one, one.target, sources) for one in alone]
    return [rate for setup in _sharing(setups) for rate in _at_each_rate(setup)]


def _check_outs(config: TrainConfig) -> None:
    """Checks the processes and the run folders of a config, before anything is computed."""
    check_joined(config.num_processes)
    targets = getattr(config, "targets", ())
    for folder in [str(Path(config.out, target)) for target in targets] or [config.out]:
        for _, out in _rates(dataclasses.replace(config, out=folder)) if is_writer() else ():
            check_out(out)


def _rates(config: TrainConfig) -> list[tuple[float | None, str]]:
    """The learning rates of a config, each with its run folder."""
    several = [(rate, str(Path(config.out, f"lr-{rate:g}"))) for rate in config.learning_rates]
    return several or [(config.learning_rate, config.out)]


def _at_each_rate(setup: Setup) -> list[Setup]:
    config = setup.config
    return [
        dataclasses.replace(
            setup, config=dataclasses.replace(config, learning_rate=rate, learning_rates=(), out=folder)
        )
        for rate, folder in _rates(config)
    ]


def _sharing(setups: Sequence[Setup]) -> list[Setup]:
    """Lets runs on several targets hold one copy of the backbone."""
    owners: dict[bool, Setup] = {}
    owned = [owners.setdefault(setup.spec.backbone.has_pooler, setup) for setup in setups]
    return [
        dataclasses.replace(setup, frozen=setup.frozen | {"backbone": owner.frozen["backbone"]})
        for setup, owner in zip(setups, owned, strict=True)
    ]


def programs(setups: Sequence[Setup]) -> list[list[Setup]]:
    """Groups the runs of a config by what fits one program; see ``together.key``."""
    groups: dict[tuple, list[Setup]] = {}
    for setup in setups:
        groups.setdefault(together.key(setup.task, setup.spec.head(setup.task.name).kind), []).append(setup)
    return list(groups.values())


def _run(kind: str, config: TrainConfig, setups: Sequence[Setup]) -> Path:
    """Trains the runs of a config, and says which learning rate did best."""
    results: dict[str, Any] = {}
    for group in programs(setups):
        results |= _run_together(kind, config.out, group)
    if config.learning_rates and is_writer():
        write_json(Path(config.out, "rates.json"), best_rates(setups, results))
    return Path(config.out)


def _run_together(kind: str, title: str, setups: Sequence[Setup]) -> dict[str, Any]:
    """Trains runs in one program, scores their best checkpoints and writes their folders; returns their results."""
    schedules = [make_schedule(setup.config, setup.method, len(setup.data.train)) for setup in setups]
    steps = [schedule.num_steps for schedule in schedules]
    shape = lambda: f"{training_rows(setups, steps)[1][-1]} rows of {setups[0].task.max_length} tokens"  # noqa: E731
    with out_of_memory.explained(setups[0].config, shape), contextlib.ExitStack() as stack:
        folders = [stack.enter_context(new_folder(s.config.out)) if is_writer() else None for s in setups]
        agree(_facts_of_all(setups))
        with _recorders(title, setups, folders, schedules) as records:
            trained = train(setups, schedules, records)
        return {
            setup.config.out: _finish(kind, folder, setup, schedule, members)
            for folder, setup, schedule, members in zip(folders, setups, schedules, trained, strict=True)
        }


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


def best_rates(setups: Sequence[Setup], results: dict[str, Any]) -> dict[str, Any]:
    """Compares the learning rates of each task by the development score that chose the checkpoints.

    Returns:
      ``{task: {"best": rate, "select": name, "rates": {rate: mean over seeds}}}``.
    """
    found: dict[str, Any] = {}
    for setup in setups:
        name = "loss" if setup.config.select == "loss" else setup.task.metrics[0]
        seeds = results[setup.config.out]["seeds"].values()
        entry = found.setdefault(setup.task.name, {"best": None, "select": name, "rates": {}})
        entry["rates"][f"{setup.config.learning_rate:g}"] = float(np.mean([seed["dev"][name] for seed in seeds]))
    for entry in found.values():
        choose = min if entry["select"] == "loss" else max
        entry["best"] = choose(entry["rates"], key=entry["rates"].get)
    return found


def _facts_of_all(setups: Sequence[Setup]) -> dict[str, Any]:
    several = len(setups) > 1
    return {
        f"{name} for {setup.task.name}" if several else name: value
        for setup in setups
        for name, value in facts(setup).items()
    }


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


@contextlib.contextmanager
def _recorders(title: str, setups: Sequence[Setup], folders: Sequence[Path | None], schedules) -> Iterator[list]:
    """Opens the log of each run and one display for all; without folders, all stay silent."""
    if folders[0] is None:
        yield [lambda event: None] * len(setups)
        return
    main = int(np.argmax([schedule.num_steps for schedule in schedules]))
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context((folder / "metrics.jsonl").open("a")) for folder in folders]
        progress = stack.enter_context(Progress(title, setups[main].config.seeds))
        records = [
            _record(log, progress, label=_label(title, setup) if len(setups) > 1 else "", shown=number == main)
            for number, (log, setup) in enumerate(zip(logs, setups, strict=True))
        ]
        for record, setup, schedule in zip(records, setups, schedules, strict=True):
            record({"event": "start", "num_steps": schedule.num_steps, "examples": len(setup.data.train)})
        yield records


def _label(title: str, setup: Setup) -> str:
    return str(Path(setup.config.out).relative_to(title))


def _record(log, progress: Progress, label: str, shown: bool) -> Callable:
    """Writes events to a run's log, and to the display: of runs together, the evaluations of all, the steps of one."""

    def record(event: dict[str, Any]) -> None:
        log.write(json.dumps(event) + "\n")
        log.flush()
        if shown or event["event"] == "eval":
            progress.update(event | ({"run": label} if label else {}))

    return record
