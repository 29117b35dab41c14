"""The generated suite: the same on every machine, balanced, without leaks between its splits."""

import collections
import hashlib
import json

import pytest

from scalearn_jax.data import builtin
from scalearn_jax.data.builtin import RECIPES
from scalearn_jax.data.builtin.draw import Draw
from scalearn_jax.data.rows import num_rows
from scalearn_jax.data.splits import labels_of, load_splits
from scalearn_jax.data.tasks import get
from scalearn_jax.errors import InputError

SPLITS = [(name, split) for name, recipe in RECIPES.items() for split in recipe.sizes]
BALANCED = [name for name in RECIPES if name not in ("builtin/similarity", "builtin/complaints")]


def texts(row: dict) -> dict:
    return {column: value for column, value in row.items() if isinstance(value, str)}


def test_rows_are_the_same_on_every_machine():
    lines = [json.dumps(row) for name, split in SPLITS for row in builtin.rows(name, split)]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest[:16] == "181a73702c58ab92", "the published quickstart numbers belong to other rows"


def test_rows_are_a_copy():
    builtin.rows("builtin/topic", "train")[0]["label"] = "spoilt"
    assert builtin.rows("builtin/topic", "train")[0]["label"] != "spoilt"


@pytest.mark.parametrize("name,split", SPLITS)
def test_a_split_has_its_size_and_the_same_columns_throughout(name, split):
    rows = builtin.rows(name, split)
    assert len(rows) == RECIPES[name].sizes[split]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}


@pytest.mark.parametrize("name", RECIPES)
def test_no_text_occurs_twice_within_or_across_splits(name):
    rows = [row for split in RECIPES[name].sizes for row in builtin.rows(name, split)]
    counts = collections.Counter(tuple(sorted(texts(row).values())) for row in rows)
    assert counts.most_common(1)[0][1] == 1


@pytest.mark.parametrize("name,split", SPLITS)
def test_rows_fit_their_task(name, split):
    task, rows = get(name), builtin.rows(name, split)
    assert task is builtin.BUILTIN[name] and set(rows[0]) == {*task.columns, task.label_column}
    assert all(len(task.sequences(row)) == task.num_choices for row in rows)
    labels = labels_of(task, [row["label"] for row in rows])
    assert labels.shape == ((len(rows), len(task.labels)) if task.kind == "multilabel" else (len(rows),))


def test_tasks_and_recipes_are_the_same():
    assert list(builtin.BUILTIN) == list(RECIPES)


@pytest.mark.parametrize("name", ["builtin/similarity", "builtin/agreement"])
def test_splits_come_without_a_data_folder(name):
    splits = load_splits(get(name))
    assert num_rows(splits.dev) > 0 and num_rows(splits.test) >= 400
    assert num_rows(splits.train) == (64 if name == "builtin/agreement" else 1800)


@pytest.mark.parametrize("name", BALANCED)
def test_labels_are_balanced(name):
    for split in RECIPES[name].sizes:
        counts = collections.Counter(row["label"] for row in builtin.rows(name, split)).values()
        assert max(counts) - min(counts) <= 1


def test_every_complaint_and_every_score_is_frequent():
    rows = builtin.rows("builtin/complaints", "train")
    blamed = collections.Counter(aspect for row in rows for aspect in row["label"])
    assert len(blamed) == 5 and min(blamed.values()) > 400
    scores = collections.Counter(row["label"] for row in builtin.rows("builtin/similarity", "train"))
    assert sorted(scores) == [0, 1, 2, 3, 4, 5] and min(scores.values()) > 150


@pytest.mark.parametrize("name,split", SPLITS)
def test_texts_are_short_english_sentences(name, split):
    for row in builtin.rows(name, split):
        assert 6 <= sum(len(text.split()) for text in texts(row).values()) <= 45
        for text in texts(row).values():
            assert text[0].isupper() and text[-1] in ".?" and "  " not in text and "{" not in text


@pytest.mark.parametrize("column", ["hypothesis", "premise"])
def test_one_half_of_a_pair_tells_nothing_about_entailment(column):
    """Every opening of a sentence is about equally frequent under each label."""
    rows = builtin.rows("builtin/entailment", "train")
    openings = collections.Counter((" ".join(row[column].split()[:2]), row["label"]) for row in rows)
    for opening in {opening for opening, _ in openings}:
        counts = [openings[opening, label] for label in range(3)]
        assert sum(counts) < 60 or max(counts) < 2 * min(counts), (opening, counts)


def test_training_rows_never_show_the_held_out_words():
    shown = " ".join(text for row in builtin.rows("builtin/sentiment", "train") for text in texts(row).values())
    unseen = " ".join(text for row in builtin.rows("builtin/sentiment", "validation") for text in texts(row).values())
    for words in ("dumpling soup", "immaculate", "arrogant", "then again"):
        assert words not in shown.lower() and words in unseen.lower()


def test_a_quarter_is_held_out():
    options = range(8)
    train, evaluation = Draw("a", held_out=False), Draw("a", held_out=True)
    assert {train.pick(options) for _ in range(200)} == set(range(6))
    assert {evaluation.pick(options) for _ in range(200)} == set(range(8))


def test_the_files_hold_the_same_rows(tmp_path):
    builtin.write(tmp_path)
    for name, split in SPLITS:
        lines = (tmp_path / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == builtin.rows(name, split)


@pytest.mark.parametrize("name,split,nearest", [("builtin/topics", "train", "builtin/topic"),
                                                ("builtin/topic", "test", "train")])  # fmt: skip
def test_unknown_names_are_reported_with_what_there_is(name, split, nearest):
    with pytest.raises(InputError, match=nearest):
        builtin.rows(name, split)
