"""What a caller passes as objects, where a config has names: a task, data, a backbone, a combiner, an optimiser."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax

from scalearn_jax import combiners, methods, model
from scalearn_jax.combiners import OwnCombiner
from scalearn_jax.combiners.base import place_of
from scalearn_jax.config import TrainConfig
from scalearn_jax.data import memory, splits
from scalearn_jax.data.labels import labels_of
from scalearn_jax.data.rows import Table, num_rows, take
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError, format_value
from scalearn_jax.io.terminal import note
from scalearn_jax.runs import run_json
from scalearn_jax.runs.backbone import Backbone

# Settings that an optimiser of one's own has no use for: it is taken as it is.
_OF_OPTIMIZER = ("learning_rate", "warmup_steps", "weight_decay", "clip_norm")


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What is ``None`` is found by what the config says."""

    task: Task | None = None
    data: Mapping[str, Table] | None = None  # by split
    backbone: Backbone | None = None
    combiner: OwnCombiner | None = None
    optimizer: optax.GradientTransformation | None = None

    def method(self, name: str) -> methods.Method:
        """Looks up a method; with a combiner of one's own, that of its runs."""
        method = methods.get(name)
        if name != methods.OWN:
            return method
        if self.combiner is None:
            raise InputError(
                f"method {name!r} stands for a combiner that is passed in Python, as fit_transfer(..., combiner=it)."
            )
        return dataclasses.replace(method, combiner=self.combiner)

    def describe(self) -> dict[str, Any]:
        """Names what ``run.json`` cannot hold; empty where there is nothing of one's own."""
        optimizer = self.optimizer and place_of(self.optimizer.update)
        found = {"combiner": self.combiner and str(self.combiner), "optimizer": optimizer}
        return {name: value for name, value in found.items() if value}


NOTHING = Given()


def check_task(task: Any) -> Task | None:
    """Takes a task that is passed as a row; ``None`` for a name."""
    if isinstance(task, str | Task):
        return task if isinstance(task, Task) else None
    raise InputError(f"task: expected a name, see `scalearn list tasks`, or a Task, got {format_value(task)}.")


def check_combiner(combiner: Any, settings: Mapping[str, Any]) -> OwnCombiner | None:
    """Takes a combiner of one's own; a method or a solve beside it is an error."""
    if combiner is None:
        return None
    for name in ("method", "fit"):
        if settings.get(name, "sgd") != "sgd":
            raise InputError(f"{name} does not apply to a combiner of one's own, got {settings[name]!r}; leave it out.")
    return combiners.own(combiner)


def check_optimizer(optimizer: Any, settings: Mapping[str, Any]) -> optax.GradientTransformation | None:
    """Takes an optax transformation; ``None`` for a name. A setting that it would not heed is an error."""
    if optimizer is None or isinstance(optimizer, str):
        return None
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise InputError(
            "optimizer: expected an optax transformation, for instance optax.adam(1e-3), or one of published, optax,"
            f" got {format_value(optimizer)}."
        )
    if settings.get("fit", "sgd") != "sgd":
        raise InputError("optimizer is a setting of training; leave it out with fit solve.")
    if given := [name for name in _OF_OPTIMIZER if name in settings]:
        raise InputError(f"{given[0]} does not apply to an optimizer of one's own, which says it itself; leave it out.")
    return optax.GradientTransformation(optimizer.init, optimizer.update)


def in_memory(config: TrainConfig, given: Given, data: Any) -> Given:
    """Takes data for a task: what is in memory, or ``None`` to read what the config says."""
    if data is None:
        return given
    if config.data_dir is not None:
        raise InputError("data and data_dir both say where the examples are; give one of them.")
    found = as_splits(given.task, data)
    rule = "files" if {"dev", "test"} & {*found} else given.task.split_rule  # what is passed as such is such
    return dataclasses.replace(given, data=found, task=dataclasses.replace(given.task, split_rule=rule))


def as_splits(task: Task, data: Any, where: str = "data") -> dict[str, Table]:
    """Makes the sets of a task, by split, of what a caller has.

    Args:
      task: the row.
      data: a dict of sets by split, ``"train"``, ``"validation"`` or ``"dev"``, and perhaps ``"test"``, see
        ``splits.load_splits``; or one set for all, a tenth of which becomes the test set, with seed 42, and a note says
        so. For a set see ``memory.as_table``.
      where: what errors call it.

    Raises:
      InputError: no such thing, a missing split, or one set that cannot be split.

    Example:
      >>> task = Task("demo", "regression", ("text",))
      >>> {name: num_rows(table) for name, table in as_splits(task, {"text": ["a"] * 20, "label": range(20)}).items()}
      {'train': 18, 'validation': 2}
    """
    if isinstance(data, Mapping) and "train" in data:
        names = (*splits.SPLITS, "dev")
        if unknown := [name for name in data if name not in names]:
            raise InputError(
                f"{where}: expected the splits train, validation or dev and, if there is one, test, got"
                f" {format_value(unknown[0])}, too; rename it or leave it out."
            )
        if not {"validation", "dev"} & {*data}:
            raise InputError(f"{where}: there is train, but no validation; add it, or pass all rows as one set.")
        return {name: memory.as_table(data[name], f"{where}[{name!r}]") for name in names if name in data}
    table = memory.as_table(data, where)
    if task.derive or task.has_questions:
        raise InputError(f"{where}: task {task.name} makes its examples of rows; pass a dict of sets by split.")
    splits.examples(task, table, where)
    stratify = task.stratify and task.kind in ("classification", "choice")
    try:
        rest, held = splits.split_rows(num_rows(table), labels_of(task, table[task.label_column]) if stratify else None)
    except InputError as error:
        raise InputError(
            f'{where}: no test set can be held out of one set: {error} Pass {{"train": ..., "validation": ...}}.'
        ) from error
    note(f"{where}: {len(held)} of {num_rows(table)} rows, drawn with seed 42, are the test set.")
    return {"train": take(table, rest), "validation": take(table, held)}


def check_update(spec: model.ModelSpec) -> None:
    """Checks that what the user's own combiner adds to a token has the shape of the token; computes nothing."""
    found = jax.eval_shape(lambda: run_json.bound(model.init(jax.random.key(0), spec), spec))
    size = spec.backbone.hidden_size
    if spec.combiner_functions.apply and found.shape != (1, 1, size):
        raise InputError(
            f"combiner {spec.combiner}: its update has shape {list(found.shape)} for one token, expected"
            f" {[1, 1, size]}; return from apply what is added to the token."
        )
