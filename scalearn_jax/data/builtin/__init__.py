"""A small suite of English tasks, generated from our own word lists: no download, no licence to check.

Eight source tasks of 2,000 training rows cover every label kind; their evaluation rows use words and templates that
training never shows. Two low-resource targets of 64 rows need what the sources teach: ``builtin/recommendation``
weighs opinions about other things, ``builtin/agreement`` compares two reports in another frame.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scalearn_jax.data.builtin import causes, opinions, pairs, topics
from scalearn_jax.data.builtin.draw import Draw
from scalearn_jax.data.task import Task
from scalearn_jax.errors import unknown
from scalearn_jax.io.files import write_text


class Recipe(NamedTuple):
    """How a task's splits are made."""

    make: Callable[[Draw, int], dict]  # (draw, stratum) -> row; the stratum is the label, or decides it
    num_strata: int  # every split holds equally many rows of each
    sizes: dict[str, int]  # rows per split; one drawn later never repeats a text of an earlier one
    # Whether evaluation rows use words and templates that training rows never show. Off for the targets: what their
    # few training rows do not show, the sources do.
    held_out: bool


_SOURCE = {"train": 2000, "validation": 400}
_LOW_RESOURCE = {"train": 64, "validation": 64, "test": 500}


def _row(make, texts, labels, kind="classification", *, num_strata=0, target=False, **fields) -> tuple[Task, Recipe]:
    """A task, called as the function that makes its rows, and its recipe."""
    task = Task(f"builtin/{make.__name__}", kind, texts, labels, max_length=64, **fields)
    return task, Recipe(make, num_strata or len(labels), _LOW_RESOURCE if target else _SOURCE, held_out=not target)


_SENTENCE, _PAIR = ("sentence",), ("sentence1", "sentence2")
_SUITE = (
    _row(opinions.sentiment, _SENTENCE, ("negative", "positive")),
    _row(topics.topic, _SENTENCE, topics.NAMES, metrics=("accuracy", "macro_f1")),
    _row(opinions.complaints, _SENTENCE, opinions.ASPECTS, "multilabel", metrics=("macro_f1",), stratify=False),
    _row(pairs.entailment, ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    _row(pairs.paraphrase, _PAIR, ("different", "same"), metrics=("accuracy", "f1")),
    _row(pairs.similarity, _PAIR, (), "regression", num_strata=5, metrics=("pearson", "spearman"), stratify=False),
    _row(pairs.answer, ("question", "sentence"), ("unanswered", "answered")),
    _row(causes.cause, ("{premise} {question}",), (), "choice", num_strata=2, choices=("choice1", "choice2")),
    _row(opinions.recommendation, ("letter",), ("advises against", "recommends"), target=True),
    _row(pairs.agreement, ("witness1", "witness2"), ("disagree", "agree"), target=True),
)
BUILTIN = {task.name: task for task, _ in _SUITE}
RECIPES = {task.name: recipe for task, recipe in _SUITE}


def splits(name: str) -> tuple[str, ...]:
    """Names the splits of a task; the low-resource targets bring their own ``"test"``."""
    if name not in RECIPES:
        raise unknown("built-in task", name, RECIPES)
    return tuple(RECIPES[name].sizes)


def rows(name: str, split: str) -> list[dict]:
    """Makes the rows of one split, the text columns and ``label``; the same on every machine.

    Example:
      >>> len(rows("builtin/recommendation", "train"))
      64
    """
    if split not in splits(name):
        raise unknown(f"split of {name}", split, splits(name))
    return [dict(row) for row in _generate(name)[split]]


def write(folder: str | Path) -> Path:
    """Writes every split as ``FOLDER/builtin/NAME/SPLIT.jsonl``, to look at or to edit with ``--data-dir``."""
    folder = Path(folder)
    for name in RECIPES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split in splits(name):
            text = "".join(json.dumps(row) + "\n" for row in rows(name, split))
            write_text(folder / name / f"{split}.jsonl", text)
    return folder


@cache
def _generate(name: str) -> dict[str, list[dict]]:
    make, num_strata, sizes, held_out = RECIPES[name]
    made, seen = {}, set()
    for split, size in sizes.items():
        draw, split_rows = Draw(f"{name} {split}", held_out=held_out and split != "train"), []
        while len(split_rows) < size:
            row = make(draw, len(split_rows) % num_strata)
            texts = tuple(sorted(value for value in row.values() if isinstance(value, str)))
            if texts not in seen:
                seen.add(texts)
                split_rows.append(row)
        made[split] = draw.shuffled(split_rows)
    return made
