"""Rows of a file to examples, for data sets whose text or label is no plain column.

A rule keeps the file's columns and adds those that the task's templates name. Two data sets ask questions of
several examples each; their examples also carry

    question_number   which question of the file they belong to
    answer_f1         token F1 of answering the question with this example's candidate, the best over right answers
    answer_match      whether that answer is exactly right, 0 or 1

so that a metric over questions needs nothing but numbers.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from scalearn_jax.errors import InputError

Row = dict[str, Any]
QUESTION = ("question_number", "answer_f1", "answer_match")


class Rule(NamedTuple):
    """How a data set's rows become examples."""

    columns: tuple[str, ...]  # those it reads, all of text but for those in ``lists``
    examples: Callable[[Row, bool], list[Row]]  # (row, whether labels are wanted) -> examples
    similarity: tuple[str, ...]  # columns that stand for a row when data sets are compared (AdapterSoup)
    labels: tuple[str, ...] = ()  # columns the label is made of; none where the file has a label column
    # Columns that distinguish questions, none where each row is one; ``None`` where no metric looks at questions.
    question: tuple[str, ...] | None = None
    lists: tuple[str, ...] = ()  # those of its columns that hold lists of texts


def _copa(row: Row, labels: bool) -> list[Row]:
    links = {"cause": "because", "effect": "so"}
    if row["question"] not in links:
        raise InputError(f"column 'question' holds {row['question']!r}, expected 'cause' or 'effect'.")
    return [row | {"prompt": f"{row['premise']} {links[row['question']]}"}]


def _wsc(row: Row, labels: bool) -> list[Row]:
    words, at = str(row["text"]).split(), row["span2_index"]
    try:
        at = int(at)
    except (TypeError, ValueError, OverflowError):
        at = -1
    if not 0 <= at < len(words):
        raise InputError(
            f"column 'span2_index' holds {row['span2_index']!r}, the text has words 0 to {len(words) - 1}."
        )
    return [row | {"marked": " ".join([*words[:at], f"*{words[at]}*", *words[at + 1 :]])}]


def _record(row: Row, labels: bool) -> list[Row]:
    """One example a candidate entity, the lexicographically larger later, so that the last of equals wins a tie."""
    candidates = sorted(_texts(row, "entities"))
    answers = _texts(row, "answers") if labels else []
    passage = str(row["passage"]).replace("@highlight\n", "- ")
    return [
        {
            **row,
            "bulleted": passage,
            "filled": str(row["query"]).replace("@placeholder", candidate),
            "candidate": candidate,
            "label": int(candidate in answers),
            "answer_f1": max((token_f1(candidate, answer) for answer in answers), default=0.0),
            "answer_match": float(normalised(candidate) in map(normalised, answers)),
        }
        for candidate in candidates
    ]


def _texts(row: Row, column: str) -> list[str]:
    values = row[column]
    if not isinstance(values, list | tuple) or not values or not all(isinstance(value, str) for value in values):
        raise InputError(f"column {column!r} holds {str(values)[:60]!r}, expected a list of one text or more.")
    return list(values)


RULES = {
    "copa": Rule(("premise", "choice1", "choice2", "question"), _copa, ("premise", "choice1")),
    "multirc": Rule(
        ("paragraph", "question", "answer"),
        lambda row, labels: [row],
        ("paragraph", "question"),
        question=("paragraph", "question"),
    ),
    "record": Rule(
        ("passage", "query", "entities"),
        _record,
        ("passage", "query"),
        labels=("answers",),
        question=(),
        lists=("entities",),
    ),
    "wsc": Rule(("text", "span1_text", "span2_index"), _wsc, ("text", "span1_text")),
}


def examples(rule: Rule, rows: Iterable[Row], where: str, *, labels: bool = True) -> list[Row]:
    """Turns a file's rows into examples, in their order; ``question_number`` counts from 0.

    Example:
      >>> rows = [{"premise": "It rained.", "question": "effect", "choice1": "A", "choice2": "B"}]
      >>> examples(RULES["copa"], rows, "the demo")[0]["prompt"]
      'It rained. so'
    """
    found, numbers = [], {}
    for row_number, row in enumerate(rows, 1):
        try:
            own = rule.examples(row, labels)
        except InputError as error:
            raise InputError(f"{where}, row {row_number}: {error}") from error
        if rule.question is not None:
            key = tuple(str(row[name]) for name in rule.question) or row_number
            number = numbers.setdefault(key, len(numbers))
            own = [{"answer_f1": 0.0, "answer_match": 0.0} | example | {"question_number": number} for example in own]
        found += own
    return found


def normalised(text: str) -> str:
    """Normalises an answer as SQuAD does: lower case, no punctuation, no articles, single blanks.

    Example:
      >>> normalised("The  Red-Cross!")
      'redcross'
    """
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def token_f1(answer: str, right: str) -> float:
    """Token F1 of two normalised answers, 2 |common| / (|answer| + |right|); 0 without a common token.

    Example:
      >>> token_f1("the Red Cross", "Red Cross of Norway")
      0.6666666666666666
    """
    ours, theirs = normalised(answer).split(), normalised(right).split()
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0
