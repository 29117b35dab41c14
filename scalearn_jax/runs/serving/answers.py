"""What is said of logits: labels with their probabilities, values, chosen candidates.

Letters: n examples, C outputs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scalearn_jax import metrics
from scalearn_jax.data.rows import Table, num_rows
from scalearn_jax.data.tasks import Task


def answers(task: Task, table: Table, logits: np.ndarray) -> list[dict[str, Any]]:
    """Words the answer to each row of a task's file.

    Args:
      task: the row.
      table: the examples of the file's rows, see ``splits.examples``.
      logits: Float[n C] of the examples.

    Returns:
      One dict a row, see ``answer``; where a row's examples are candidates, ``{"label": the chosen one,
      "probabilities": {candidate: probability of being right}}``.
    """
    examples = examples_of(task, table)
    return _chosen(table, examples, logits) if task.derive == "record" else [answer(task, one) for one in logits]


def examples_of(task: Task, table: Table) -> Sequence[np.ndarray]:
    """Lists the examples of each row of a task's file: its own one, or one for each candidate it offers.

    Example:
      >>> from scalearn_jax.data import tasks
      >>> [rows.tolist() for rows in examples_of(tasks.get("superglue/record"), {"question_number": [0, 0, 1]})]
      [[0, 1], [2]]
    """
    if task.derive != "record":
        return np.arange(num_rows(table))[:, None]
    numbers = np.array(table["question_number"])
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]


def answer(task: Task, logits: np.ndarray) -> dict[str, Any]:
    """Words one example's logits Float[C].

    Returns:
      ``{"label", "probabilities": {label: p}}``; of a regression task ``{"value"}``, of a multi-label one
      ``{"labels", "probabilities"}``.

    Example:
      >>> answer(Task("demo", "regression", ("text",)), np.array([0.5]))
      {'value': 0.5}
    """
    if task.kind == "regression":
        return {"value": float(logits[0])}
    names = task.labels or tuple(str(i) for i in range(len(logits)))
    probabilities = metrics.probabilities(task.kind, logits[None])[0]
    table = {name: round(float(p), 6) for name, p in zip(names, probabilities, strict=True)}
    if task.kind == "multilabel":
        return {"labels": [name for name, p in table.items() if p > 0.5], "probabilities": table}
    return {"label": names[int(logits.argmax())], "probabilities": table}


def _chosen(table: Table, examples: Sequence[np.ndarray], logits: np.ndarray) -> list[dict[str, Any]]:
    """Words the answer to each question that several examples offer candidates for."""
    numbers, candidates = np.array(table["question_number"]), table["candidate"]
    right = metrics.probabilities("classification", logits)[:, 1]
    return [
        {"label": candidates[best], "probabilities": {candidates[row]: round(float(right[row]), 6) for row in rows}}
        for best, rows in zip(metrics.chosen(logits, numbers[:, None]), examples, strict=True)
    ]
