"""Derived examples: questions of several examples, answers compared as SQuAD does, and rows that cannot be read."""

import json

import numpy as np
import pytest

from scalearn_jax.data import splits, tasks, tokens
from scalearn_jax.data.derive import RULES, examples, normalised, token_f1
from scalearn_jax.errors import InputError
from tests.data.test_tokens import tokenizer

RECORD = {
    "passage": "Ann met Bo.",
    "query": "@placeholder spoke",
    "entities": ["The Bo-Zo", "Ann Lee", "Ann"],
    "answers": ["Ann Lee", "the Lee"],
}


def table(*rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_candidates_are_scored_against_the_best_answer():
    found = examples(RULES["record"], [RECORD], "the file")
    assert [example["candidate"] for example in found] == ["Ann", "Ann Lee", "The Bo-Zo"]
    assert [example["answer_f1"] for example in found] == [pytest.approx(2 / 3), 1.0, 0.0]
    assert [example["answer_match"] for example in found] == [0.0, 1.0, 0.0]
    assert [example["label"] for example in found] == [0, 1, 0]


def test_each_row_of_record_is_a_question_even_a_repeated_one():
    found = examples(RULES["record"], [RECORD, RECORD], "the file")
    assert [example["question_number"] for example in found] == [0, 0, 0, 1, 1, 1]


def test_answers_to_one_question_of_multirc_belong_together():
    row = {"paragraph": "p", "question": "q", "answer": "a", "label": 1}
    rows = [row, row | {"question": "other"}, row | {"answer": "b"}]
    assert [example["question_number"] for example in examples(RULES["multirc"], rows, "the file")] == [0, 1, 0]


def test_without_answers_there_are_candidates_all_the_same():
    rows = [{name: value for name, value in RECORD.items() if name != "answers"}]
    assert len(examples(RULES["record"], rows, "the file", labels=False)) == 3


@pytest.mark.parametrize(
    "answer, right, f1",
    [
        ("the cat", "a Cat!", 1.0),
        ("red cross", "Red Cross of Norway", pytest.approx(4 / 6)),
        ("cat cat dog", "cat", pytest.approx(2 / 4)),  # repeated tokens count as often as both have them
        ("dog", "cat", 0.0),
        ("the", "a", 0.0),
        ("U.S.", "us", 1.0),
    ],
)
def test_token_f1(answer, right, f1):
    assert token_f1(answer, right) == f1 == token_f1(right, answer)


def test_articles_fall_only_as_whole_words():
    assert normalised("An   Anthem: a theatre, The End") == "anthem theatre end"


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("record", {"entities": []}, "row 1: column 'entities' holds '[]', expected a list of one text or more."),
        ("record", {"answers": "Ann"}, "row 1: column 'answers' holds 'Ann', expected a list"),
        ("record", {"entities": [1]}, "row 1: column 'entities' holds '[1]'"),
        ("wsc", {"span2_index": 3}, "row 1: column 'span2_index' holds 3, the text has words 0 to 2."),
        ("wsc", {"span2_index": "x"}, "row 1: column 'span2_index' holds 'x'"),
        ("wsc", {"span2_index": -1}, "row 1: column 'span2_index' holds -1"),
        ("copa", {"question": "why"}, "row 1: column 'question' holds 'why', expected 'cause' or 'effect'."),
    ],
)
def test_a_row_that_cannot_be_read_is_named(name, change, message):
    rows = {
        "record": RECORD,
        "wsc": {"text": "a b c", "span1_text": "a", "span2_index": 1, "label": 0},
        "copa": {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 0},
    }
    with pytest.raises(InputError) as error:
        splits.examples(tasks.get(f"superglue/{name}"), table(rows[name] | change), "data.jsonl")
    assert message in str(error.value) and str(error.value).startswith("data.jsonl, ")


def test_missing_columns_are_named_by_what_the_file_should_hold():
    with pytest.raises(InputError, match="unknown column 'answers'"):
        rows = table({name: value for name, value in RECORD.items() if name != "answers"})
        splits.examples(tasks.get("superglue/record"), rows, "data.jsonl")


def test_a_cut_split_ends_with_a_whole_question(tmp_path):
    rows = "".join(json.dumps(RECORD) + "\n" for _ in range(4))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(rows)
    loaded = splits.load_splits(tasks.get("superglue/record"), data_dir=tmp_path, max_eval_samples=8)
    assert [len(part["label"]) for part in loaded] == [12, 6, 6] and loaded.dev[:] == loaded.test[:]
    least = splits.load_splits(tasks.get("superglue/record"), data_dir=tmp_path, max_eval_samples=2)
    assert len(least.dev["label"]) == 2  # less than a question: better some candidates than none


def test_questions_reach_the_encoded_split_and_its_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEARN_CACHE", str(tmp_path))
    task = tasks.get("superglue/record")
    rows = splits.examples(task, table(RECORD, RECORD), "the file")
    first, again = (tokens.cached(tokenizer(), task, rows, max_length=64) for _ in range(2))
    expected = [[q, f1, match] for q in (0, 1) for f1, match in ((2 / 3, 0), (1, 1), (0, 0))]
    np.testing.assert_allclose(first.questions, expected)
    np.testing.assert_array_equal(again.questions, first.questions)
