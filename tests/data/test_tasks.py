"""Task rows: the official columns give the published texts; users' rows are read strictly."""

import json
from pathlib import Path

import pytest

from scalearn_jax.data import splits, tasks
from scalearn_jax.data.derive import RULES
from scalearn_jax.data.labels import labels_of
from scalearn_jax.data.task import HubFiles, Task
from scalearn_jax.data.tasks import SUITES, TASKS
from scalearn_jax.errors import InputError

# Our own examples in the official columns, and the texts the published code would tokenise.
ROWS = {
    "glue/cola": ({"sentence": "Birds sing."}, ("Birds sing.",)),
    "glue/sst2": ({"sentence": "a fine film "}, ("a fine film ",)),
    "glue/mrpc": ({"sentence1": "It rained.", "sentence2": "Rain fell."}, ("It rained.", "Rain fell.")),
    "glue/qqp": ({"question1": "Who?", "question2": "Which one?"}, ("Who?", "Which one?")),
    "glue/stsb": ({"sentence1": "A dog.", "sentence2": "A cat."}, ("A dog.", "A cat.")),
    "glue/mnli": ({"premise": "All left.", "hypothesis": "Some left."}, ("All left.", "Some left.")),
    "glue/qnli": ({"question": "When?", "sentence": "At noon."}, ("When?", "At noon.")),
    "glue/rte": ({"sentence1": "Ann ran.", "sentence2": "Ann moved."}, ("Ann ran.", "Ann moved.")),
    "superglue/boolq": ({"question": "is tin soft", "passage": "Tin -- It is."}, ("is tin soft", "Tin -- It is.")),
    "superglue/cb": ({"premise": "Did she go?", "hypothesis": "she went"}, ("Did she go?", "she went")),
    "superglue/rte": ({"premise": "Ann ran.", "hypothesis": "Ann moved."}, ("Ann ran.", "Ann moved.")),
    "superglue/wic": (
        {"word": "bank", "sentence1": "A river bank.", "sentence2": "Banks lend."},
        ("bank: A river bank.", "bank: Banks lend."),
    ),
}
# Data sets whose texts or examples are made of their columns: (row of the file, its examples' sequences, labels).
DERIVED = {
    "superglue/copa": (
        {"premise": "It rained.", "choice1": "She got wet.", "choice2": "He sang.", "question": "effect", "label": 0},
        [[("It rained. so", "She got wet."), ("It rained. so", "He sang.")]],
        [0],
    ),
    "superglue/wsc": (
        {"text": "Ann  told Sue that the old lady left .", "span1_text": "Sue", "span2_index": 4, "label": 1},
        [[("Ann told Sue that *the* old lady left .", "Sue")]],
        [1],
    ),
    "superglue/multirc": (
        {"paragraph": "It rained.", "question": "What fell?", "answer": "rain", "label": 1},
        [[("It rained.", "What fell? rain")]],
        [1],
    ),
    "superglue/record": (
        {
            "passage": "Ann met Bo.\n@highlight\nThey spoke",
            "query": "@placeholder spoke to Bo",
            "entities": ["Bo", "Ann"],
            "answers": ["Ann"],
        },
        [
            [("Ann met Bo.\n- They spoke", "Ann spoke to Bo")],
            [("Ann met Bo.\n- They spoke", "Bo spoke to Bo")],
        ],
        [1, 0],
    ),
}
EXCERPTS = [name for name in TASKS if name.split("/")[0] in ("humset", "disaster_response")]
OWN = {"name": "reviews", "kind": "classification", "texts": ["title", "body"], "labels": ["bad", "good"]}


def test_every_row_is_tested_here():
    assert {*ROWS, *DERIVED, *EXCERPTS} == set(TASKS)


@pytest.mark.parametrize("name", DERIVED)
def test_official_columns_give_the_published_examples(name):
    row, sequences, labels = DERIVED[name]
    task = TASKS[name]
    table = splits.examples(task, {column: [value] for column, value in row.items()}, "the file")
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    assert [task.sequences(example) for example in rows] == sequences
    assert labels_of(task, table["label"]).tolist() == labels
    assert set(task.columns) == set(row) - {"label", "answers"}


def test_copa_asks_for_causes_too():
    row = DERIVED["superglue/copa"][0] | {"question": "cause"}
    assert RULES["copa"].examples(row, True)[0]["prompt"] == "It rained. because"


@pytest.mark.parametrize("name", EXCERPTS)
def test_label_families_share_their_excerpts(name):
    task = TASKS[name]
    row = {"excerpt": "Water is needed.", "entry_id": "7", name.split("/")[1]: []}
    assert task.sequences(row) == [("Water is needed.",)]
    assert (task.kind, task.metrics[0], task.folder) == ("multilabel", "macro_f1", name.split("/")[0])
    assert labels_of(task, [list(task.labels), []]).tolist() == [[1.0] * len(task.labels), [0.0] * len(task.labels)]


@pytest.mark.parametrize(
    "name, size", [("sectors", 11), ("pillars_1d", 7), ("pillars_2d", 6), ("subpillars_1d", 33), ("subpillars_2d", 18)]
)
def test_humset_has_the_published_numbers_of_labels(name, size):
    assert tasks.get(f"humset/{name}").num_outputs == size


def test_the_suites_are_those_of_the_paper():
    sizes = {name: len(suite) for name, suite in SUITES.items()}
    assert sizes == {"glue": 8, "superglue": 8, "humset": 5, "glue+superglue": 15}
    assert all(task in TASKS for suite in SUITES.values() for task in suite)


@pytest.mark.parametrize(
    "name, max_length, stratify, rule",
    [
        ("superglue/multirc", 324, True, "published"),
        ("superglue/record", 256, True, "validation"),
        ("superglue/cb", 128, False, "published"),
        ("superglue/wsc", 128, True, "published"),
        ("humset/sectors", 128, True, "files"),
    ],
)
def test_lengths_and_splits_are_the_published_ones(name, max_length, stratify, rule):
    task = tasks.get(name)
    assert (task.max_length, task.stratify, task.split_rule) == (max_length, stratify, rule)


def test_record_cuts_the_passage_only():
    assert [task.name for task in TASKS.values() if task.truncate == "first"] == ["superglue/record"]


@pytest.mark.parametrize(
    "name, text",
    [
        ("superglue/copa", "It rained. She got wet."),
        ("superglue/wsc", "Ann  told Sue that the old lady left . Sue"),
        ("superglue/multirc", "It rained. What fell?"),
        ("superglue/record", "Ann met Bo.\n@highlight\nThey spoke @placeholder spoke to Bo"),
    ],
)
def test_data_sets_are_compared_by_the_published_texts(name, text):
    row = DERIVED[name][0]
    [example, *_] = RULES[TASKS[name].derive].examples(row, True)
    assert TASKS[name].similarity_text(example) == text


@pytest.mark.parametrize("name", ROWS)
def test_official_columns_give_the_published_texts(name):
    row, texts = ROWS[name]
    row = row | {"label": 0, "idx": 7}
    assert TASKS[name].sequences(row) == [texts]
    assert TASKS[name].columns == tuple(column for column in row if column not in ("label", "idx"))


@pytest.mark.parametrize("name", TASKS)
def test_a_row_survives_json(name):
    content = json.loads(json.dumps(TASKS[name].to_dict()))
    assert Task.from_dict(content) == TASKS[name]


@pytest.mark.parametrize(
    "name,num_outputs,main",
    [("cola", 2, "matthews"), ("stsb", 1, "pearson"), ("mnli", 3, "accuracy"), ("qqp", 2, "accuracy")],
)
def test_outputs_and_main_metrics_are_the_published_ones(name, num_outputs, main):
    task = tasks.get(f"glue/{name}")
    assert (task.num_outputs, task.num_choices, task.metrics[0], task.max_length) == (num_outputs, 1, main, 128)


def test_mnli_is_tested_on_the_matched_set():
    assert dict(tasks.get("glue/mnli").hub.files)["validation"] == "mnli/validation_matched-*.parquet"


def test_templates_and_choices_are_filled():
    task = Task("demo", "choice", ("{premise} {link}",), choices=("first", "second"))
    row = {"premise": "It rained", "link": "so", "first": "{premise}", "second": "it dried."}
    assert task.sequences(row) == [("It rained so", "{premise}"), ("It rained so", "it dried.")]
    assert task.columns == ("premise", "link", "first", "second")
    assert (task.num_choices, task.num_outputs) == (2, 1)


def test_column_names_may_hold_blanks_and_hyphens():
    task = Task("demo", "regression", ("{Title}: {Review Text}", "{product-name}"))
    assert task.columns == ("Title", "Review Text", "product-name")
    row = {"Title": "Fine", "Review Text": "It works.", "product-name": "kettle"}
    assert task.sequences(row) == [("Fine: It works.", "kettle")]


def test_generated_tasks_are_known():
    assert tasks.get("builtin/topic").kind == "classification"
    assert {"glue/rte", "builtin/topic"} <= set(tasks.known())


def write(path: Path, content: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))  # JSON is YAML too
    return path


@pytest.mark.parametrize("place", ["task.yaml", "reviews/task.yaml", "reviews/task.json"])
def test_a_users_task_is_found_in_the_data_folder(tmp_path, place):
    write(tmp_path / place, OWN)
    assert tasks.get("reviews", data_dir=tmp_path).texts == ("title", "body")


def test_a_users_task_is_found_by_its_path(tmp_path):
    path = write(
        tmp_path / "mine.yaml", OWN | {"hub": {"repo": "me/reviews", "files": {"train": "t", "validation": "v"}}}
    )
    assert tasks.get(str(path)).hub == HubFiles("me/reviews", (("train", "t"), ("validation", "v")))


def test_a_task_file_answers_only_to_its_own_name(tmp_path):
    write(tmp_path / "task.yaml", OWN)
    assert tasks.get("shop/reviews", data_dir=tmp_path).name == "shop/reviews"
    with pytest.raises(InputError, match="describes task 'reviews', not 'review'"):
        tasks.get("review", data_dir=tmp_path)


@pytest.mark.parametrize(
    "name,message",
    [("glue/rta", "did you mean 'glue/rte'"), ("builtin/topics", "did you mean 'builtin/topic'"), ("a.yaml", "a.yaml")],
)
def test_an_unknown_task_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        tasks.get(name)


@pytest.mark.parametrize(("place", "name"), [("workshop", "workshp"), ("mine/workshop", "mine/workshp")])
def test_an_unknown_task_may_be_one_of_the_data_folder(place, name, tmp_path):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "task.yaml").write_text(f"name: {place}\nkind: regression\ntexts: [a]\n")
    with pytest.raises(InputError, match=f"did you mean '{place}'"):
        tasks.get(name, data_dir=tmp_path)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"txts": ["a"]}, "unknown key 'txts'; did you mean 'texts'"),
        ({"texts": "title"}, "key 'texts': expected a list of text"),
        ({"texts": []}, "one or two texts, got 0"),
        ({"texts": ["a", "b", "c"]}, "one or two texts, got 3"),
        ({"kind": "clasification"}, "did you mean 'classification'"),
        ({"kind": "choice"}, "needs two or more choices"),
        ({"choices": ["a", "b"], "texts": ["c"]}, "kind 'choice'"),
        ({"labels": ["good"]}, "2 or more different label names"),
        ({"labels": ["good", "good"]}, "2 or more different label names"),
        ({"labels": [False, True]}, "quote them"),
        ({"labels": ["1", None]}, "the label None is NoneType to YAML; quote them all"),
        ({"labels": [1, [2]]}, "the label [2] is list to YAML; quote them all"),
        ({"labels": [1, 1]}, "2 or more different label names"),
        ({"metrics": ["acuracy"]}, "did you mean 'accuracy'"),
        ({"metrics": ["pearson"]}, "do not fit kind"),
        ({"metrics": ["f1"], "labels": ["a", "b", "c"]}, "metric 'f1' is that of label 1 of two, got 3"),
        ({"max_length": 2}, "max_length of 4 or more"),
        ({"max_length": "long"}, "key 'max_length': expected a whole number"),
        ({"truncate": "last"}, "one of longest_first, first"),
        ({"name": "../secret"}, "task name '../secret'"),
        ({"name": "/tmp/x"}, "task name '/tmp/x'"),
        ({"hub": {"repo": "a/b"}}, "missing key 'files'"),
        ({"hub": {"repo": "a/b", "files": {"train": "x"}}}, "must map train and validation"),
        ({"hub": "a/b"}, "hub"),
    ],
)
def test_a_malformed_row_is_refused_in_one_line(tmp_path, change, message):
    path = write(tmp_path / "task.yaml", OWN | change)
    with pytest.raises(InputError) as error:
        tasks.from_file(path)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [[1, 2, 3], [1.5, 2, 3], ["1", 2, 3]])
def test_numbers_are_names_of_labels(tmp_path, labels):
    names = tuple(map(str, labels))
    assert tasks.from_file(write(tmp_path / "task.yaml", OWN | {"labels": labels})).labels == names
    assert Task("stars", "classification", ("text",), labels).labels == names


def test_a_task_is_described_by_one_file(tmp_path):
    write(tmp_path / "task.yml", OWN)
    assert tasks.get("reviews", data_dir=tmp_path).name == "reviews"
    write(tmp_path / "task.json", OWN)
    with pytest.raises(InputError, match="task.yml and task.json beside it both describe the task; keep one"):
        tasks.get("reviews", data_dir=tmp_path)


@pytest.mark.parametrize("missing", ["name", "kind", "texts"])
def test_a_missing_field_is_named(tmp_path, missing):
    path = write(tmp_path / "task.yaml", {key: value for key, value in OWN.items() if key != missing})
    with pytest.raises(InputError, match=f"missing key '{missing}'"):
        tasks.from_file(path)


def test_a_task_that_is_missing_says_where_it_was_looked_for(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("")
    for place, missing in (("data", "data/reviews/task.yaml does not exist"), ("file", "file is no folder")):
        with pytest.raises(InputError, match=f"unknown task 'reviews' in the tables, and {tmp_path}/{missing}"):
            tasks.get("reviews", data_dir=tmp_path / place)
