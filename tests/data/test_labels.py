"""Labels: ids and names mean the same, anything else is refused with its row."""

import numpy as np
import pytest

from scalearn_jax.data.labels import label_id, labels_of, no_labels
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError

TASK = Task("demo", "classification", ("text",), ("bad", "good", "fine"))
STARS = Task("stars", "classification", ("text",), ("1", "2", "3"))
CHOICE = Task("which", "choice", ("text",), choices=("a", "b"))
MANY = Task("many", "multilabel", ("text",), ("food", "price", "staff"), metrics=("macro_f1",))
SCORE = Task("score", "regression", ("text",), metrics=("pearson",))


@pytest.mark.parametrize("label", [1, "1", 1.0, "1.0", "good", np.int64(1)])
def test_ids_and_names_mean_the_same(label):
    assert label_id(TASK, label) == 1


def test_names_that_are_numbers_are_no_ids():
    assert labels_of(STARS, [1, "3", 2]).tolist() == [0, 2, 1]
    with pytest.raises(InputError, match="label 0 is outside the list of task stars: 1, 2, 3"):
        label_id(STARS, 0)


@pytest.mark.parametrize("label", [2, "2", 2.0, "2.0", np.float64(2), " 2"])
def test_a_number_is_the_name_of_that_value(label):
    assert label_id(STARS, label) == 1


def test_a_name_comes_before_its_value():
    task = Task("versions", "classification", ("text",), ("1", "1.0", "2"))
    assert labels_of(task, [1, 1.0, "1.0", 2.0]).tolist() == [0, 1, 1, 2]
    for label in ("1.00", 1.5):
        with pytest.raises(InputError, match=f"label {label!r} is outside the list"):
            label_id(task, label)


def test_a_truth_value_is_a_name_and_no_id():
    """Else the order of the names would turn it round."""
    task = Task("truth", "classification", ("text",), ("true", "false"))
    assert labels_of(task, [True, False, np.True_, "false"]).tolist() == [0, 1, 0, 1]
    for other in (TASK, Task("ask", "classification", ("text",), ("yes", "no")), CHOICE):
        with pytest.raises(InputError, match="label True is outside the list"):
            label_id(other, True)


def test_names_that_are_decimal_numbers_are_no_ids():
    halves = Task("halves", "classification", ("text",), ("0.5", "1.0", "1.5"))
    assert labels_of(halves, [0.5, "1.0", 1.5, 1]).tolist() == [0, 1, 2, 1]
    with pytest.raises(InputError, match="label 2 is outside the list of task halves: 0.5, 1.0, 1.5"):
        label_id(halves, 2)


def test_labels_have_the_shape_and_type_of_their_kind():
    assert labels_of(TASK, ["fine", 0]).dtype == np.int32
    assert labels_of(CHOICE, [1, 0]).tolist() == [1, 0]
    assert labels_of(SCORE, ["2.5", 3]).tolist() == [2.5, 3.0]
    hot = labels_of(MANY, [[0, "staff"], [], "[1]", "food|price", ""])
    assert hot.dtype == np.float32
    assert hot.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("task", [TASK, CHOICE, MANY, SCORE], ids=lambda task: task.kind)
def test_unknown_labels_have_the_same_shape(task):
    known = labels_of(task, [[0] if task.kind == "multilabel" else 0] * 3)
    unknown = no_labels(task, 3)
    assert (unknown.shape, unknown.dtype) == (known.shape, known.dtype) and not unknown.any()


@pytest.mark.parametrize(
    "task,label,message",
    [
        (TASK, 3, "label 3 is outside the list of task demo: 0 bad, 1 good, 2 fine"),
        (
            TASK,
            -1,
            "label -1 is outside the list of task demo: 0 bad, 1 good, 2 fine. In many data sets -1 stands for no",
        ),
        (SCORE, "3,5", "label '3,5' is no finite number, as task score needs. Write a decimal point, not a comma."),
        (TASK, 0.5, "label 0.5"),
        (TASK, "god", "label 'god'"),
        (TASK, None, "label None"),
        (TASK, [1], "label [1]"),
        (TASK, float("nan"), "label nan"),
        (TASK, 10**400, "outside the list"),
        (CHOICE, 2, "label 2 is outside the list of task which: 0 to 1"),
        (MANY, 1, "label 1 is no list"),
        (MANY, [3], "label 3 is outside"),
        (MANY, "[1", "is no list"),
        (MANY, [0, 1, 1], "label [0, 1, 1] names 'price' twice; list ids or names, not zeros and ones"),
        (SCORE, "high", "label 'high' is no finite number"),
        (SCORE, float("inf"), "label inf is no finite number"),
        (SCORE, 1e300, "is no finite number"),
    ],
)
def test_other_labels_are_refused_with_their_row(task, label, message):
    good = [0] if task.kind == "multilabel" else 0
    with pytest.raises(InputError) as error:
        labels_of(task, [good, label], "train.csv")
    assert "train.csv, row 2: " in str(error.value) and message in str(error.value)
