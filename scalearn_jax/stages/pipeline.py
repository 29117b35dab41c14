"""The two stages as functions of a config: everything between a command line and a run folder.

    train_adapter   stage 1: an adapter (or everything) on one task
    transfer        stage 2: a combiner over frozen source adapters, on a target task

Letters: M members (seeds trained together), T source tasks.
"""

import contextlib
import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from scalearn_jax import methods
from scalearn_jax.config import AdapterConfig, TrainConfig, TransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io.atomic_folder import SCRATCH, check_out, clear_but, new_folder
from scalearn_jax.io.files import write_json
from scalearn_jax.runs.sources import load_source
from scalearn_jax.stages import identity, rates
from scalearn_jax.stages.logs import TIMING, logs_of, recorders
from scalearn_jax.stages.outputs import write_run
from scalearn_jax.stages.prepare import Setup, prepare
from scalearn_jax.stages.program import make_schedule, train, training_rows
from scalearn_jax.train import out_of_memory, resume
from scalearn_jax.train.agreement import check_joined, is_writer
from scalearn_jax.train.agreement import prepare as prepare_to_agree
from scalearn_jax.train.agreement import state as processes
from scalearn_jax.train.checkpoint import Saved
from scalearn_jax.train.checkpoint_store import Checkpoints
from scalearn_jax.train.loop import Schedule


def train_adapter(config: AdapterConfig) -> Path:
    """Stage 1: trains an adapter and a head on a source task, or with ``method="full"`` everything.

    Args:
      config: see ``AdapterConfig``.

    Returns:
      The run folder, itself a source for ``transfer``; of several learning rates the folder above theirs.

    Raises:
      InputError: anything wrong with the input; raised before anything is written.
    """
    return _run("adapter", config, adapter_setups)


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
    return _run("transfer", config, transfer_setups)


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
    sources = [load_source(path, allow_pickle=config.allow_pickle) for path in paths]
    if method.uses_sources and not sources:
        raise InputError(f"method {config.method!r} needs --sources; pass at least one stage-1 run folder.")
    setups: list[Setup] = []
    for one in _of_targets(config):
        setups.append(_sharing(prepare(one, one.target, sources), setups))
    return [run for setup in setups for run in rates.at_each(setup)]


def _of_targets(config: TransferConfig) -> list[TransferConfig]:
    """The config of each target."""
    if config.target:
        return [config]
    each = (dict(target=target, targets=(), out=str(Path(config.out, target))) for target in config.targets)
    return [dataclasses.replace(config, **changes) for changes in each]


def _finished(kind: str, config: TrainConfig) -> dict[str, Any]:
    """Checks the processes and the run folders of a config, before anything is computed.

    Returns:
      run folder -> results, of the runs that an earlier call has finished.

    Raises:
      InputError: a folder is in use for something else.
    """
    check_joined(config.num_processes)
    if not is_writer():
        return {}
    targets = _of_targets(config) if isinstance(config, TransferConfig) else [config]
    configs = [one for target in targets for one in rates.configs(target)]
    found = {one.out: identity.finished(kind, one) for one in configs}
    done = {out: results for out, results in found.items() if results}
    for out in found.keys() - done.keys():
        check_out(out)
    for out in done:
        _warn(out, "is finished already, by an earlier run with the same settings (its files are not compared).")
    return done


def _warn(out: str, text: str) -> None:
    print(f"scalearn: {out}: {text}", file=sys.stderr)


def _sharing(setup: Setup, others: Sequence[Setup]) -> Setup:
    """Lets a run hold the same copy of the backbone as one of the others, if it is the same."""
    owner = next((other for other in others if other.spec.backbone == setup.spec.backbone), setup)
    return dataclasses.replace(setup, frozen=setup.frozen | {"backbone": owner.frozen["backbone"]})


def _run(kind: str, config: Any, make_setups: Callable[[Any], list[Setup]]) -> Path:
    """Trains the runs of a config, and says which learning rate did best.

    Raises:
      FloatingPointError: some run did not stay finite; the others are written.
    """
    results, failures = _finished(kind, config), {}
    if config.out in results and processes.num_processes == 1:
        return Path(config.out)
    setups = make_setups(config)
    schedules = {setup.config.out: make_schedule(setup.config, setup.method, len(setup.data.train)) for setup in setups}
    for _, runs in itertools.groupby(setups, lambda setup: setup.task.name):  # one target after the other
        group = list(runs)
        found, failed = _run_together(kind, config, group, [schedules[setup.config.out] for setup in group], results)
        results, failures = results | found, failures | failed
    if config.learning_rates and results and is_writer():
        write_json(Path(config.out, "rates.json"), rates.best(setups, results))
    if failures:
        each = "; ".join(f"{out}: {failure}" for out, failure in failures.items())
        raise FloatingPointError(f"{each}; try a lower learning rate, and another --out.")
    return Path(config.out)


def _run_together(
    kind: str, config: TrainConfig, setups: Sequence[Setup], schedules: Sequence[Schedule], done: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Trains runs in one program, scores their best checkpoints and writes their folders.

    A folder appears as soon as its run is scored. One that did not stay finite has none, and no results.

    Args:
      kind: of the runs.
      config: of them all.
      setups: the runs.
      schedules: of each.
      done: folder -> results, of those that an earlier call has finished.

    Returns:
      (folder -> results, folder -> why there are none).
    """
    prepare_to_agree()
    results, failures = {}, {}
    first, num_steps = setups[0], schedules[0].num_steps
    shape = lambda: f"{training_rows(first, num_steps)[1][-1]} rows of {first.task.max_length} tokens"  # noqa: E731
    with out_of_memory.explained(setups[0].config, shape), contextlib.ExitStack() as stack:
        folders = [stack.enter_context(_Folder(setup.config.out, setup.config.out not in done)) for setup in setups]
        paths = [folder.path for folder in folders]
        known = identity.facts(setups)
        known_results = identity.of_results(known)
        checkpoints = stack.enter_context(contextlib.closing(_checkpoints(config, paths, known_results)))
        begun, done = _begun(checkpoints, config, setups[0], known, done)
        if all(setup.config.out in done for setup in setups):
            return {}, {}
        for path in filter(None, paths):
            clear_but(path, SCRATCH, TIMING)
        checkpoints.begin()
        meta = dict(facts=known_results, machine=identity.machine(setups[0]), restart=config.restart)
        often = config.checkpoint_every, config.checkpoint_minutes
        keeper = resume.Keeper(checkpoints, *often, lambda: meta | {"logs": logs_of(paths)})
        with recorders(config.out, setups, paths, schedules, begun) as records:
            trained = train(setups, schedules, records, begun, keeper if is_writer() else None)
        for folder, setup, schedule, outcome in zip(folders, setups, schedules, trained, strict=True):
            if outcome.failure:
                failures[setup.config.out] = outcome.failure
                folder.drop()
            elif setup.config.out not in done:
                results[setup.config.out] = write_run(kind, folder.path, setup, schedule, outcome)
                folder.close()
    return results, failures


def _checkpoints(config: TrainConfig, paths: Sequence[Path | None], facts: dict[str, Any]) -> Checkpoints:
    """The checkpoints of a program: in the run folder that comes out last, or where they lie already.

    With ``--restart`` they are removed first, unless they are of the same command, which may be stopped and go on, too.
    """
    places = [Checkpoints(path / SCRATCH, config.keep_checkpoints) for path in paths if path]
    for place in places if config.restart else ():
        if not resume.is_of_restart(place, facts):
            place.clear()
    nowhere = Checkpoints(Path(config.out, SCRATCH))
    return next((place for place in places if place.steps()), places[-1] if places else nowhere)


def _begun(
    checkpoints: Checkpoints, config: TrainConfig, first: Setup, known: dict[str, Any], done: Iterable[str]
) -> tuple[Saved | None, list[str]]:
    """Waits until all processes are ready; returns the checkpoint to go on from, and the folders that are done."""
    begun, warn = None, functools.partial(_warn, config.out)
    if is_writer():
        begun = resume.find(checkpoints, identity.of_results(known), identity.machine(first), warn)
    return resume.share(begun, sorted(done), known)


class _Folder(contextlib.ExitStack):
    """A run folder in the making, of the process that writes; ``close`` brings it out.

    Any error removes it, unless checkpoints lie in it.
    """

    def __init__(self, out: str, needed: bool):
        super().__init__()
        self.path = self.enter_context(new_folder(out, scratch=SCRATCH)) if needed and is_writer() else None

    def drop(self) -> None:
        """Ends it as an error would."""
        with contextlib.suppress(_Dropped), self:
            raise _Dropped


class _Dropped(Exception):
    pass
