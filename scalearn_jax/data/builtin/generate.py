"""Turns the generators into balanced, duplicate-free splits."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scalearn_jax.data.builtin import causes, opinions, pairs, topics
from scalearn_jax.data.builtin.draw import Draw
from scalearn_jax.errors import unknown
from scalearn_jax.io.files import write_text


class Recipe(NamedTuple):
    """How a task's splits are made.

    Attributes:
      make: (draw, stratum) -> row; the stratum is the label, or decides it.
      num_strata: how many; every split holds equally many rows of each.
      sizes: rows per split. A split drawn later never repeats a text of an earlier one.
      held_out: whether evaluation rows use words and templates that training rows never show. Off for the targets:
        what their few training rows do not show, the sources do.
    """

    make: Callable[[Draw, int], dict]
    num_strata: int
    sizes: dict[str, int]
    held_out: bool = True


_SOURCE = {"train": 2000, "validation": 400}
_LOW_RESOURCE = {"train": 64, "validation": 64, "test": 500}

RECIPES = {
    "builtin/sentiment": Recipe(opinions.sentiment, 2, _SOURCE),
    "builtin/topic": Recipe(topics.topic, len(topics.NAMES), _SOURCE),
    "builtin/complaints": Recipe(opinions.complaints, len(opinions.ASPECTS), _SOURCE),
    "builtin/entailment": Recipe(pairs.entailment, 3, _SOURCE),
    "builtin/paraphrase": Recipe(pairs.paraphrase, 2, _SOURCE),
    "builtin/similarity": Recipe(pairs.similarity, 5, _SOURCE),
    "builtin/answer": Recipe(pairs.answer, 2, _SOURCE),
    "builtin/cause": Recipe(causes.cause, 2, _SOURCE),
    "builtin/recommendation": Recipe(opinions.recommendation, 2, _LOW_RESOURCE, held_out=False),
    "builtin/agreement": Recipe(pairs.agreement, 2, _LOW_RESOURCE, held_out=False),
}


def splits(name: str) -> tuple[str, ...]:
    """Names the splits of a task; the low-resource targets bring their own ``"test"``.

    Raises:
      InputError: no such task.
    """
    if name not in RECIPES:
        raise unknown("built-in task", name, RECIPES)
    return tuple(RECIPES[name].sizes)


def rows(name: str, split: str) -> list[dict]:
    """Makes the rows of one split; the same on every machine.

    Args:
      name: a built-in task, such as ``"builtin/sentiment"``.
      split: ``"train"``, ``"validation"`` or, for the low-resource targets, ``"test"``.

    Returns:
      One dictionary a row: the text columns and ``label``.

    Raises:
      InputError: no such task or split.

    Example:
      >>> len(rows("builtin/recommendation", "train"))
      64
    """
    if split not in splits(name):
        raise unknown(f"split of {name}", split, splits(name))
    return [dict(row) for row in _generate(name)[split]]


def write(folder: str | Path) -> Path:
    """Writes every split as ``FOLDER/builtin/NAME/SPLIT.jsonl``, to look at or to edit.

    Args:
      folder: where to; made if it is missing.

    Returns:
      The folder, fit for ``--data-dir``.
    """
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
