"""Training as functions of a config: everything between a command line and a run folder.

    train_adapter   stage 1: an adapter (or everything) on one task
    transfer        stage 2: a combiner over frozen source adapters, on a target task
    train_joint     neither: several tasks at once

The runs of a target, one a learning rate, train in one program; targets follow one another over one backbone.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scalearn_jax.config import AdapterConfig, JointConfig, TrainConfig, TransferConfig, takes
from scalearn_jax.io.atomic_folder import SCRATCH, AtomicFolder, atomic_folder, check_out, clear_except
from scalearn_jax.io.files import write_json
from scalearn_jax.runs.provenance import report_choice
from scalearn_jax.stages import identity
from scalearn_jax.stages.joint import joint_setups
from scalearn_jax.stages.logs import TIMING, describe_early_stop, logs_of, recorders
from scalearn_jax.stages.outputs import score_test, write_run
from scalearn_jax.stages.prepare import is_solved
from scalearn_jax.stages.program import compare_rates, run_configs, runs_of, training_rows
from scalearn_jax.stages.setup import Setup
from scalearn_jax.stages.setups import (
    adapter_setups,
    of_targets,
    schedule_of,
    train_runs,
    transfer_setups,
    with_best_source,
)
from scalearn_jax.train import resume
from scalearn_jax.train.agreement import processes
from scalearn_jax.train.checkpoint import Checkpoint
from scalearn_jax.train.checkpoint_store import CheckpointStore
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.train.loop import Schedule
from scalearn_jax.train.memory import explain_out_of_memory, give_back


@takes(AdapterConfig)
def train_adapter(config: AdapterConfig) -> Path:
    """Stage 1: trains an adapter and a head on a source task, or with ``method="full"`` everything.

    Args:
      config: see ``AdapterConfig``.

    Returns:
      The run folder, itself a source for ``transfer``; of several learning rates the folder above theirs.

    Raises:
      InputError: anything wrong with the input; raised before anything is written.

    Example:
      >>> train_adapter(task="glue/rte", backbone="roberta-base", out="runs/rte")  # doctest: +SKIP
      PosixPath('runs/rte')
    """
    return _run("adapter", config, adapter_setups)


@takes(TransferConfig)
def transfer(config: TransferConfig) -> Path:
    """Stage 2: learns how to combine frozen source adapters for a target task (arXiv 2310.01217, section 3).

    The target's own adapter may be among the sources; it is then moved to the end, as published.

    Args:
      config: see ``TransferConfig``.

    Returns:
      The run folder; of several targets or learning rates the folder above theirs.

    Raises:
      InputError: anything wrong with the input; raised before anything is written.

    Example:
      >>> sources = ["runs/mnli", "runs/qnli"]
      >>> transfer(target="glue/rte", sources=sources, backbone="roberta-base", out="runs/x")  # doctest: +SKIP
      PosixPath('runs/x')
    """
    return _run("transfer", config, transfer_setups)


@takes(JointConfig)
def train_joint(config: JointConfig) -> Path:
    """Trains on several tasks at once: the joint baselines (method.md, "Joint training").

    Args:
      config: see ``JointConfig``.

    Returns:
      The run folder, with a folder of each task's name in it: an ordinary run, of an adapter itself a source for
      ``transfer``. Of several learning rates the folder above theirs.

    Raises:
      InputError: anything wrong with the input, all at once; raised before anything is written.

    Example:
      >>> train_joint(tasks=["glue/rte", "glue/mrpc"], backbone="roberta-base", out="runs/joint")  # doctest: +SKIP
      PosixPath('runs/joint')
    """
    return _run("joint", config, joint_setups)


@own_settings()
def _run(kind: str, config: Any, make_setups: Callable[[Any], list[Setup]]) -> Path:
    """Trains the runs of a config, one target after the other, and compares its learning rates."""
    processes.check_joined(config.num_processes)
    results = _finished(kind, config) if processes.is_writer else {}
    if config.out in results and processes.num_processes == 1:
        _name_lost_seeds(results)
        return Path(config.out)
    setups = make_setups(config)
    for source in setups[0].sources:
        report_choice(source.why)
    schedules = [schedule_of(setup) for setup in setups]
    failures: dict[str, str] = {}
    for setup, schedule in zip(setups, schedules, strict=True):
        found, failed = _train_target(kind, setup, schedule, results)
        results, failures = results | found, failures | failed
        give_back()
    if config.learning_rates and results and processes.is_writer:
        write_json(Path(config.out, "rates.json"), compare_rates(setups, results))
    if processes.is_writer:
        _name_lost_seeds(results)
    if failures:
        each = "; ".join(f"{out}: {failure}" for out, failure in failures.items())
        raise FloatingPointError(f"{each}; try a lower learning rate, and another --out.")
    return Path(config.out)


def _finished(kind: str, config: TrainConfig) -> dict[str, Any]:
    """Checks the run folders of a config; folder -> results of those that an earlier call has finished."""
    configs = [run for target in of_targets(config) for run in run_configs(target)]
    found = {run.out: identity.finished(kind, run) for run in configs}
    done = {out: results for out, results in found.items() if results}
    for out in found.keys() - done.keys():
        check_out(out)
    for out in done:
        _warn(out, "is finished already, by an earlier run with the same settings (its files are not compared).")
    return done


def _name_lost_seeds(results: dict[str, Any]) -> None:
    """Reports the seeds that runs, folder -> results, had to go on without."""
    for out, found in results.items():
        for why in found.get("lost", {}).values():
            _warn(out, f"LOST a seed, the run holds only {', '.join(found['seeds'])}: {why}")


def _warn(out: str, text: str) -> None:
    print(f"scalearn: {out}: {text}", file=sys.stderr)


def _train_target(
    kind: str, setup: Setup, schedule: Schedule, results: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Trains the runs of a target in one program, scores their best checkpoints and writes their folders.

    A folder appears as soon as its run is scored; runs in ``results`` are finished already. Returns, of the runs
    trained now, folder -> results and, of those that did not stay finite, folder -> why they have none.
    """

    def shape() -> str:
        return f"{training_rows(setup, schedule.num_steps)[1][-1]} rows of {setup.row_length} tokens"

    processes.prepare()
    runs = runs_of(with_best_source(setup))
    found, failures = {}, {}
    with explain_out_of_memory(setup.config, shape), contextlib.ExitStack() as stack:
        start = _start(stack, setup, runs, results)
        if all(run.config.out in start.done for run in runs):
            return {}, {}
        paths = [folder and folder.path for folder in start.folders]
        with recorders(setup.config.out, runs, paths, schedule, start.saved) as records:
            saver = start.saver if processes.is_writer else None
            runs, ends = train_runs(runs, schedule, records, start.saved, saver, records[0])
        for run, folder, outcome in zip(runs, start.folders, ends, strict=True):
            if run.config.out in start.done:
                continue
            if folder and not is_solved(run.config) and (stopped := describe_early_stop(schedule, outcome.members)):
                _warn(run.config.out, f"{stopped}.")
            outcome = score_test(run, outcome)
            if outcome.members:
                found[run.config.out] = write_run(kind, folder and folder.path, run, schedule, outcome)
            else:
                failures[run.config.out] = "; ".join(outcome.lost.values())
            if folder:
                folder.keep() if outcome.members else folder.discard()
    return found, failures


class _Start(NamedTuple):
    """What some runs begin with."""

    folders: list[AtomicFolder | None]  # of each run; none where it is done, and in a process that only computes
    saved: Checkpoint | None  # the checkpoint to go on from
    done: list[str]  # folders of the runs that are finished, the same in every process
    saver: resume.CheckpointSaver  # writes checkpoints


def _start(stack: contextlib.ExitStack, setup: Setup, runs: Sequence[Setup], results: dict[str, Any]) -> _Start:
    """Opens the folders of some runs, finds the checkpoint to go on from, and waits until all processes are ready.

    Checkpoints lie in the run folder that is completed last, or where an earlier call has put them. With ``--restart``
    they are removed first, unless they are of the same command, which may be stopped and go on, too.
    """
    config, folders = setup.config, []
    for run in runs:
        writes = processes.is_writer and run.config.out not in results
        folders.append(stack.enter_context(atomic_folder(run.config.out, scratch=SCRATCH)) if writes else None)
    facts, machine = identity.fingerprint(runs), identity.machine(setup)
    facts_of_results = identity.fingerprint_of_results(facts)
    paths = [folder and folder.path for folder in folders]
    stores = [CheckpointStore(path / SCRATCH, config.keep_checkpoints) for path in paths if path]
    for store in stores if config.restart else ():
        if not resume.is_of_restart(store, facts_of_results):
            store.clear()
    unused = CheckpointStore(Path(config.out, SCRATCH))
    store = next((store for store in stores if store.steps()), stores[-1] if stores else unused)
    stack.callback(store.close)
    saved = None
    if processes.is_writer:
        saved = resume.find(store, facts_of_results, machine, functools.partial(_warn, config.out))
    saved, done = resume.share(saved, sorted(results), facts)
    for path in filter(None, paths):
        clear_except(path, SCRATCH, TIMING)
    store.begin()

    def meta() -> dict[str, Any]:
        return dict(facts=facts_of_results, machine=machine, restart=config.restart, logs=logs_of(paths))

    saver = resume.CheckpointSaver(store, config.checkpoint_every, config.checkpoint_minutes, meta)
    return _Start(folders, saved, done, saver)
