"""What both stages do, in memory and in folders: a config to checked setups, setups to what came of their training."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from scalearn_jax.config import AdapterConfig, TrainConfig, TransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.runs.backbone import load_backbone
from scalearn_jax.runs.provenance import report_choice
from scalearn_jax.runs.sources import Source, load_source
from scalearn_jax.stages import solve
from scalearn_jax.stages.given import NOTHING, Given
from scalearn_jax.stages.outputs import Outcome, outcomes
from scalearn_jax.stages.prepare import is_solved, prepare, resolve_task
from scalearn_jax.stages.program import make_schedule, train
from scalearn_jax.stages.setup import Setup
from scalearn_jax.train import resume
from scalearn_jax.train.checkpoint import Checkpoint
from scalearn_jax.train.loop import Event, Schedule


def adapter_setups(config: AdapterConfig, given: Given = NOTHING) -> list[Setup]:
    """Checks and resolves a stage-1 config; writes nothing."""
    if given.method(config.method).uses_sources:
        raise InputError(f"method {config.method!r} combines source adapters; use `scalearn transfer` for it.")
    return [prepare(config, config.task, (), given)]


def transfer_setups(
    config: TransferConfig, given: Given = NOTHING, sources: Sequence[Source] | None = None
) -> list[Setup]:
    """Checks and resolves a stage-2 config, one setup a target, which share one backbone; writes nothing.

    ``sources`` are those of the config, where they have been read already.
    """
    method = given.method(config.method)
    if not method.uses_sources:
        sources = []
    elif sources is None:
        sources = [load_source(path, allow_pickle=config.allow_pickle) for path in config.sources]
    if method.uses_sources and not sources:
        raise InputError(f"method {config.method!r} needs --sources; pass at least one stage-1 run folder.")
    targets, setups = of_targets(config), []
    for one in targets:
        resolve_task(one, one.target, given)  # a wrong name fails before the backbone is read
    backbone = given.backbone or load_backbone(config.backbone, config.revision, allow_pickle=config.allow_pickle)
    loaded = dataclasses.replace(given, backbone=backbone)
    for one in targets:
        setup = prepare(one, one.target, sources, loaded)
        if is_solved(one) and one.top_sources and method.solves == "scales":
            best = [row["name"] for row in solve.rank(setup)[: one.top_sources]]
            report_choice(f"target {one.target}: sources {', '.join(best)} of {len(sources)}, by their error alone")
            kept = [source for source in sources if source.name in best]
            setup = prepare(one, one.target, kept, loaded)
        placed = next((other for other in setups if other.spec.backbone == setup.spec.backbone), setup)
        frozen = setup.frozen | {"backbone": placed.frozen["backbone"]}
        setups.append(dataclasses.replace(setup, frozen=frozen, given=given))
    return setups


def of_targets(config: TrainConfig) -> list[TrainConfig]:
    """The config of each target, with a folder of its own."""
    targets = getattr(config, "targets", ())
    each = [dict(target=target, targets=(), out=str(Path(config.out, target))) for target in targets]
    return [dataclasses.replace(config, **changes) for changes in each] or [config]


def schedule_of(setup: Setup) -> Schedule:
    """How long a run trains, or searches, and when it is evaluated."""
    if is_solved(setup.config):
        return solve.schedule(setup)
    return make_schedule(setup.config, setup.method, setup.num_examples)


def with_best_source(setup: Setup) -> Setup:
    """Gives a run of ``best-source`` that trains its head the one source; others stay."""
    searches = setup.method.coefficients == "best" and not is_solved(setup.config)
    return solve.take_best_source(setup) if searches else setup


def train_runs(
    runs: Sequence[Setup],
    schedule: Schedule,
    records: Sequence[Callable[[Event], None]],
    saved: Checkpoint | None = None,
    saver: resume.CheckpointSaver | None = None,
    on_progress: Callable[[Event], None] = lambda event: None,
) -> tuple[Sequence[Setup], list[Outcome]]:
    """Trains some runs in one program, or solves for the only one; see ``program.train`` for the arguments.

    Returns:
      The runs, with what was chosen for them, and what came of each, see ``outputs.score_test``.
    """
    if is_solved(runs[0].config):
        run, end = solve.solve(runs[0], records[0], saved, saver or (lambda position, why: None))
        return [run], [end]
    return runs, outcomes(runs, train(runs, schedule, records, saved, saver, on_progress))
