"""Label columns to numbers.

Letters: n examples, C outputs.
"""

import contextlib
import dataclasses
import functools
import json
import math
import re
from typing import Any

import numpy as np

from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError


def label_id(task: Task, label: Any) -> int:
    """Turns one label, name or id, into its id; names that are numbers themselves are never read as ids.

    A truth value is the name true or false, in any case, and no id.

    Example:
      >>> task = Task("demo", "classification", ("text",), ("bad", "good"))
      >>> label_id(task, "good"), label_id(task, 1), label_id(task, "1")
      (1, 1, 1)
    """
    names, is_truth = task.labels, isinstance(label, bool | np.bool_)
    if str(label) in names:
        return names.index(str(label))
    if is_truth and str(label).lower() in map(str.lower, names):
        return [name.lower() for name in names].index(str(label).lower())
    try:
        number = math.nan if is_truth else float(label)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    numbers, size = _numbers(names), len(names) or task.num_choices
    same = [index for index, value in numbers.items() if value == number]
    if len(same) == 1:  # 4.0 is the name 4
        return same[0]
    if not numbers and number.is_integer() and 0 <= number < size:
        return int(number)
    allowed = ", ".join(name if numbers else f"{i} {name}" for i, name in enumerate(names)) or f"0 to {size - 1}"
    hint = " In many data sets -1 stands for no label; leave such rows out." if number == -1 else ""
    raise InputError(f"label {label!r} is outside the list of task {task.name}: {allowed}.{hint}")


@functools.cache
def _numbers(names: tuple[str, ...]) -> dict[int, float]:
    """The values of the names that are numbers, by id; where there are any, a number in a file is a name and no id."""
    found = {}
    for index, name in enumerate(names):
        with contextlib.suppress(ValueError):
            if math.isfinite(float(name)):
                found[index] = float(name)
    return found


def labels_of(task: Task, values: list, where: str = "label column") -> np.ndarray:
    """Turns a column into ids Int[n], scores Float[n] (regression) or zeros and ones Float[n C] (multi-label)."""
    convert = {"regression": _score, "multilabel": _multi_hot}.get(task.kind, label_id)
    numbers = []
    for row, value in enumerate(values, 1):
        try:
            numbers.append(convert(task, value))
        except InputError as error:
            raise InputError(f"{where}, row {row}: {error}") from error
    return np.array(numbers, np.int32 if convert is label_id else np.float32)


def no_labels(task: Task, count: int) -> np.ndarray:
    """Zeros in the shape of ``labels_of``, for texts whose labels nobody knows."""
    shape = (count, task.num_outputs) if task.kind == "multilabel" else (count,)
    return np.zeros(shape, np.float32 if task.kind in ("multilabel", "regression") else np.int32)


def _multi_hot(task: Task, value: Any) -> np.ndarray:
    """Turns a list of ids or names, in CSV ``"[0, 2]"`` or ``"food|price"``, into zeros and ones."""
    labels = value
    if isinstance(value, str) and value.startswith("["):  # a list in a CSV file
        try:
            labels = json.loads(value)
        except ValueError as error:
            raise InputError(f"label {value!r} is no list ({error}); write [0, 2] or names joined by '|'.") from error
    elif isinstance(value, str):
        labels = [name for name in value.split("|") if name]
    if not isinstance(labels, list | tuple):
        raise InputError(f"label {value!r} is no list; a multi-label task needs a list of ids or names.")
    hot = np.zeros(len(task.labels), np.float32)
    for index in (label_id(task, label) for label in labels):
        if hot[index] and not isinstance(labels[0], str):
            raise InputError(
                f"label {value!r} names {task.labels[index]!r} twice; list ids or names, not zeros and ones."
            )
        hot[index] = 1
    return hot


def _score(task: Task, value: Any) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        score = float("nan")
    if not abs(score) <= float(np.finfo(np.float32).max):  # also refuses NaN
        comma = " Write a decimal point, not a comma." if re.fullmatch(r"-?\d+,\d+", str(value)) else ""
        raise InputError(f"label {value!r} is no finite number, as task {task.name} needs.{comma}")
    return score


def standardise(train: Any, dev: Any) -> tuple[Any, Any]:
    """Gives the labels of a regression mean 0 and deviation 1: (label - mean) / deviation of the training set.

    Both are ``tokens.Encoded``. Steps and rates are made for such labels. The test set keeps the unit of the data, and
    so does what a run leaves: see ``outputs.in_units``. Those of the published tasks stay as they were published.
    """
    mean, deviation = float(train.labels.mean()), float(train.labels.std()) or 1.0

    def of(split: Any) -> Any:
        labels = ((split.labels - mean) / deviation).astype(split.labels.dtype)
        return dataclasses.replace(split, labels=labels, unit=(mean, deviation))

    return of(train), of(dev)
