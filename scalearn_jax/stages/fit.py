"""The two stages in memory: from a config, and what a caller passes as objects, to a ``Result``.

    fit_adapter    stage 1: an adapter (or everything) on one task
    fit_transfer   stage 2: a combiner over frozen source adapters, on a target task

``stages/pipeline`` trains through the same functions, those of ``stages/setups``, and writes folders and checkpoints.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

from scalearn_jax.config import AdapterConfig, TrainConfig, TransferConfig, from_dict
from scalearn_jax.data import tasks
from scalearn_jax.errors import InputError, format_value
from scalearn_jax.io.terminal import Progress, note
from scalearn_jax.runs.backbone import Backbone
from scalearn_jax.runs.provenance import report_choice
from scalearn_jax.runs.sources import Source, load_source
from scalearn_jax.stages import given as givens
from scalearn_jax.stages.given import Given
from scalearn_jax.stages.logs import describe_data, start_event
from scalearn_jax.stages.outputs import score_test
from scalearn_jax.stages.program import training_rows
from scalearn_jax.stages.result import Result
from scalearn_jax.stages.setup import Setup
from scalearn_jax.stages.setups import adapter_setups, schedule_of, train_runs, transfer_setups, with_best_source
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.train.loop import Event
from scalearn_jax.train.memory import explain_out_of_memory

# Settings of runs that write a folder as they go, or of several runs at once.
_OF_FOLDERS = ("out", "restart", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "learning_rates")
_OF_FOLDERS += ("targets", "coordinator", "num_processes", "process_id", "start_timeout", "heartbeat_timeout")


def fit_adapter(
    task: Any,
    *,
    backbone: Any,
    data: Any = None,
    seeds: Sequence[int] = (0,),
    optimizer: Any = None,
    on_event: Callable[[Event], None] | None = None,
    **settings: Any,
) -> Result:
    """Stage 1 in memory: trains an adapter and a head on a task; nothing is written.

    Args:
      task: a ``Task``, or the name of one.
      backbone: what ``load_backbone`` returns, a folder or a hub id.
      data: the examples, see ``given.as_splits``; ``None`` reads them as ``train_adapter`` does.
      seeds: of init, order and dropout; several train together in one program.
      optimizer: an optax transformation in place of the published AdamW; it is taken as it is, so ``learning_rate``,
        ``warmup_steps``, ``weight_decay`` and ``clip_norm`` do not apply. Or ``"published"`` or ``"optax"``.
      on_event: called with each event of training, ``{"event": "start" | "train" | "eval", ...}``; see ``scalars``.
      **settings: any other field of ``AdapterConfig`` that concerns no folder, such as ``max_steps`` or ``method``.

    Returns:
      The trained adapter, itself a source for ``fit_transfer``.

    Raises:
      InputError: anything wrong with the input; raised before anything is trained.
      FloatingPointError: no seed stayed finite.

    Example:
      >>> task = Task("reviews", "classification", ("text",), labels=("bad", "good"))  # doctest: +SKIP
      >>> result = fit_adapter(task, backbone="roberta-base", data=frame, max_steps=100)  # doctest: +SKIP
      >>> result.predict(frame["text"])  # doctest: +SKIP
    """
    own = Given(task=givens.check_task(task), optimizer=givens.check_optimizer(optimizer, settings))
    config = _config(AdapterConfig, "fit_adapter", backbone, seeds, optimizer, settings, task=_name(task))
    return _fit("adapter", config, own, backbone, data, on_event, lambda own: adapter_setups(config, own))


def fit_transfer(
    target: Any,
    *,
    backbone: Any,
    sources: Any = (),
    data: Any = None,
    seeds: Sequence[int] = (0,),
    combiner: Any = None,
    optimizer: Any = None,
    on_event: Callable[[Event], None] | None = None,
    **settings: Any,
) -> Result:
    """Stage 2 in memory: learns how to combine frozen source adapters for a target task; nothing is written.

    Args:
      target: a ``Task``, or the name of one.
      backbone, data, seeds, optimizer, on_event: see ``fit_adapter``.
      sources: results of ``fit_adapter``, folders and hub ids, mixed as you like; a dict gives them names.
      combiner: one of your own in place of a ``method``: a function that makes a ``Combiner``, see ``combiners.own``.
        Saved runs name it, and take it again as ``combiner`` where they are loaded.
      **settings: any other field of ``TransferConfig`` that concerns no folder, such as ``method`` or ``fit``.

    Returns:
      The trained combination.

    Raises:
      InputError: anything wrong with the input; raised before anything is trained.
      FloatingPointError: no seed stayed finite.

    Example:
      >>> result = fit_transfer("glue/rte", backbone="roberta-base", sources=[first, "runs/mnli", "OWNER/NAME"],
      ...                       method="scalearn-uniform++")  # doctest: +SKIP
      >>> result.omega  # doctest: +SKIP
    """
    own = Given(
        task=givens.check_task(target),
        combiner=givens.check_combiner(combiner, settings),
        optimizer=givens.check_optimizer(optimizer, settings),
    )
    settings = settings | ({"method": "own"} if combiner is not None else {})
    config = _config(TransferConfig, "fit_transfer", backbone, seeds, optimizer, settings, target=_name(target))
    trusts = config.allow_pickle
    found = [_source(one, trusts) for one in _listed(sources)]
    config = dataclasses.replace(config, sources=tuple(source.path for source in found))
    return _fit("transfer", config, own, backbone, data, on_event, lambda own: transfer_setups(config, own, found))


def _name(task: Any) -> str:
    return task if isinstance(task, str) else task.name


def _config(cls: type, where: str, backbone: Any, seeds: Any, optimizer: Any, settings: dict[str, Any], **named: str):
    """Makes the config of a run in memory, whose folder has no name yet."""
    if of_folders := [name for name in settings if name in _OF_FOLDERS]:
        raise InputError(f"{where}: {of_folders[0]} is a setting of runs that write their folder; leave it out.")
    if not isinstance(backbone, str | PathLike | Backbone):
        raise InputError(
            f"{where}: backbone: expected a folder, a hub id or what load_backbone returns, got"
            f" {format_value(backbone)}."
        )
    loaded = isinstance(backbone, Backbone)
    place = {"backbone": backbone.path, "revision": backbone.revision} if loaded else {"backbone": backbone}
    chosen = {"optimizer": optimizer} if isinstance(optimizer, str) else {}
    return from_dict(cls, settings | place | chosen | named | {"seeds": seeds, "out": ""}, where=where)


def _listed(sources: Any) -> list[Any]:
    """Lists sources, each with the name that a dict gives it, if any."""
    if isinstance(sources, Mapping):
        return list(sources.items())
    if isinstance(sources, str | PathLike | Result | Source):
        return [sources]
    try:
        return list(sources)
    except TypeError:
        raise InputError(
            f"sources: expected a list of results, folders and hub ids, got {format_value(sources)}."
        ) from None


def _source(given: Any, allow_pickle: bool) -> Source:
    if isinstance(given, tuple):
        return dataclasses.replace(_source(given[1], allow_pickle), name=str(given[0]))
    if isinstance(given, Result):
        return given.as_source()
    if isinstance(given, str | PathLike):
        return load_source(str(given), allow_pickle=allow_pickle)
    if isinstance(given, Source):
        return given
    raise InputError(f"sources: expected results of fit_adapter, folders and hub ids, got {format_value(given)}.")


@own_settings()
def _fit(
    kind: str,
    config: TrainConfig,
    given: Given,
    backbone: Any,
    data: Any,
    on_event: Callable[[Event], None] | None,
    make_setups: Callable[[Given], list[Setup]],
) -> Result:
    """Checks and trains one run, and scores it on its test set."""
    if on_event is not None and not callable(on_event):
        raise InputError(f"on_event: expected a function of an event, got {format_value(on_event)}.")
    task = given.task or tasks.get(getattr(config, "task", None) or config.target, data_dir=config.data_dir)
    given = givens.in_memory(config, dataclasses.replace(given, task=task), data)
    if isinstance(backbone, Backbone):
        given = dataclasses.replace(given, backbone=backbone)
    (setup,) = make_setups(given)
    for source in setup.sources:
        report_choice(source.why)
    setup, schedule, events = with_best_source(setup), schedule_of(setup), []

    def record(event: Event) -> None:
        events.append(event)
        progress.update(event)
        if on_event:
            on_event(event)

    def shape() -> str:
        return f"{training_rows(setup, schedule.num_steps)[1][-1]} rows of {setup.task.max_length} tokens"

    about = describe_data(setup.data)
    with explain_out_of_memory(config, shape), Progress(setup.task.name, config.seeds, about=about) as progress:
        record(start_event(setup, schedule))
        (run,), (outcome,) = train_runs([setup], schedule, [record], on_progress=progress.update)
        outcome = score_test(run, outcome)
    why = "; ".join(outcome.lost.values())
    if not outcome.members:
        raise FloatingPointError(f"{why}; try a lower learning rate.")
    if why:
        note(f"{setup.task.name}: LOST a seed, the result holds only {', '.join(map(str, outcome.members))}: {why}")
    return Result(kind, run, schedule, outcome, tuple(events))
