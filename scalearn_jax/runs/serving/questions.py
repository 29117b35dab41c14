"""Questions to a predictor and its answers: texts or rows to one query a task, logits to labels.

Letters: n examples, C outputs.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from scalearn_jax import metrics
from scalearn_jax.data import splits
from scalearn_jax.data.rows import Table, check_columns, columns, num_rows, take
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError, unknown

PAIR = "text_pair"


class PlainTask(Task):
    """A task over the column ``text``, of which it is not known whether it has a second, ``text_pair``."""


class Query(NamedTuple):
    """The questions to one task."""

    task: Task  # its row
    number: int  # its place among the predictor's tasks
    positions: list[int]  # the places of its rows in the question, and of its answers
    table: Table  # the examples of its rows


def of_texts(texts: Any, names: str | Sequence[str] | None, tasks: Mapping[str, Task]) -> list[Query]:
    """Sorts texts by task.

    Args:
      texts: for each question a text, a sequence with one for each column of its task, or a dict by column; one text
        or dict alone is one question. Any list, array, column of a table, DataFrame (its rows) or generator holds them.
      names: the task of each, of all, or ``None`` where there is one task.
      tasks: the tasks there are.

    Returns:
      One query for each task that is asked anything.

    Raises:
      InputError: nothing with an order, an unknown task, or texts that do not fit their task; names the first.
    """
    texts = _as_list(texts)
    names = _names(names, len(texts), tasks)
    rows = [_row(tasks[name], item, f"texts[{i}]") for i, (name, item) in enumerate(zip(names, texts, strict=True))]
    return _by_task(lambda positions: columns([rows[i] for i in positions]), names, tasks, "the texts")


def _as_list(texts: Any) -> list[Any]:
    """Lists questions: one alone, or those of anything that has an order; of tables, the rows."""
    if hasattr(texts, "iloc") and hasattr(texts, "columns"):
        texts = texts.to_dict("records")
    for method in ("tolist", "to_pylist", "to_dicts"):  # of numpy and pandas, of Arrow, of Polars
        texts = getattr(texts, method)() if hasattr(texts, method) else texts
    if isinstance(texts, str | Mapping):
        return [texts]
    if isinstance(texts, bytes | set | frozenset) or not isinstance(texts, Iterable):
        raise InputError(f"texts must be a text or a list of texts, got a {type(texts).__name__}; pass list(...).")
    return list(texts)


def of_table(table: Table, where: str, names: Sequence[str] | None, tasks: Mapping[str, Task]) -> list[Query]:
    """Sorts the rows of the file ``where`` by task; ``names`` and ``tasks`` as in ``of_texts``."""
    if not num_rows(table):
        check_columns(table, next(iter(tasks.values())).columns, where)
    names = _names(names, num_rows(table), tasks)
    return _by_task(lambda positions: take(table, positions), names, tasks, where)


def _names(names: str | Sequence[str] | None, count: int, tasks: Mapping[str, Task]) -> list[str]:
    """The task of each of some questions."""
    if names is None and len(tasks) > 1:
        raise InputError(f"there are {len(tasks)} tasks ({', '.join(tasks)}); name that of each text, or one for all.")
    names = next(iter(tasks)) if names is None else names
    names = [names] * count if isinstance(names, str) else list(names)
    if len(names) != count:
        raise InputError(f"tasks names {len(names)} tasks for {count} texts; name one for each text, or one for all.")
    for name in names:
        if not isinstance(name, str) or name not in tasks:
            raise unknown("task", name, tasks)
    return names


def _row(task: Task, item: Any, where: str) -> dict[str, Any]:
    """A question as a row of the task's file."""
    if isinstance(item, Mapping):
        return dict(item)
    texts = [item] if isinstance(item, str) else item
    optional = isinstance(task, PlainTask)
    if not isinstance(texts, list | tuple) or not len(task.columns) - optional <= len(texts) <= len(task.columns):
        got = f"{len(texts)} texts" if isinstance(texts, list | tuple) else f"a {type(item).__name__}"
        expected = "a text" if len(task.columns) == 1 else f"a sequence of {len(task.columns)} texts"
        raise InputError(
            f"{where}: task {task.name} takes {expected} ({', '.join(task.columns)}), or a dict with these keys; got"
            f" {'one text' if isinstance(item, str) else got}."
        )
    return dict(zip(task.columns, texts, strict=False))


def _by_task(
    table: Callable[[list[int]], Table], names: list[str], tasks: Mapping[str, Task], where: str
) -> list[Query]:
    """Makes the queries; ``table`` maps positions to their columns."""
    queries = []
    for number, (name, task) in enumerate(tasks.items()):
        if positions := [i for i, own in enumerate(names) if own == name]:
            place, own = where if len(tasks) == 1 else f"{where}, of those of task {name}", table(positions)
            if isinstance(task, PlainTask) and all(value is None for value in own.get(PAIR, ())):
                task = dataclasses.replace(task, texts=("text",))
            queries.append(Query(task, number, positions, splits.examples(task, own, place, labels=False)))
    return queries


def answers(task: Task, table: Table, logits: np.ndarray) -> list[dict[str, Any]]:
    """Answers each row of a task's file, from the logits Float[n C] of its examples; see ``splits.examples``.

    Returns:
      One dict a row, see ``answer``; where a row's examples are candidates, ``{"label": the chosen one,
      "probabilities": {candidate: probability of being right}}``.
    """
    if task.derive != "record":
        return [answer(task, one) for one in logits]
    numbers, candidates = np.array(table["question_number"]), table["candidate"]
    right = metrics.probabilities("classification", logits)[:, 1]
    best = metrics.chosen(logits, numbers[:, None])
    return [
        {"label": candidates[one], "probabilities": {candidates[row]: round(float(right[row]), 6) for row in rows}}
        for one, rows in zip(best, examples_of(task, table), strict=True)
    ]


def examples_of(task: Task, table: Table) -> Sequence[np.ndarray]:
    """Lists the examples of each row of a task's file: its own one, or one for each candidate it offers."""
    if task.derive != "record":
        return np.arange(num_rows(table))[:, None]
    numbers = np.array(table["question_number"])
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]


def answer(task: Task, logits: np.ndarray) -> dict[str, Any]:
    """Answers one example, from its logits Float[C].

    Returns:
      ``{"label", "probabilities": {label: p}}``; of a regression task ``{"value"}``, of a multi-label one
      ``{"labels", "probabilities"}``.
    """
    if task.kind == "regression":
        return {"value": float(logits[0])}
    names = task.labels or tuple(str(i) for i in range(len(logits)))
    probabilities = metrics.probabilities(task.kind, logits[None])[0]
    table = {name: round(float(p), 6) for name, p in zip(names, probabilities, strict=True)}
    if task.kind == "multilabel":
        return {"labels": [name for name, p in table.items() if p > 0.5], "probabilities": table}
    return {"label": names[int(logits.argmax())], "probabilities": table}
