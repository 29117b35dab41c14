"""Splits: the published held-out rows, the folders a task is found in, and what is wrong with a folder."""

import json

import numpy as np
import pytest

from scalearn_jax.data import splits, tasks
from scalearn_jax.data.rows import num_rows
from scalearn_jax.data.splits import split_rows
from scalearn_jax.data.task import HubFiles, Task
from scalearn_jax.errors import InputError

TASK = Task("own/demo", "classification", ("text",), ("no", "yes"))


def table(count: int, first: int = 0) -> dict:
    return {"text": [f"text {i}" for i in range(first, first + count)], "label": [i % 2 for i in range(count)]}


def write(folder, **tables):
    """Writes one JSON-lines file a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, columns in tables.items():
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def published_split(num_rows: int, labels):
    """The rows ``datasets`` holds out."""
    datasets = pytest.importorskip("datasets")
    columns, features, options = {"row": list(range(num_rows))}, {"row": datasets.Value("int64")}, {}
    if labels is not None:
        columns["label"] = labels.tolist()
        features["label"] = datasets.ClassLabel(num_classes=int(labels.max()) + 1)
        options["stratify_by_column"] = "label"
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    halves = rows.train_test_split(test_size=0.1, seed=42, **options)
    return [halves[half].to_dict()["row"] for half in ("train", "test")]


@pytest.mark.filterwarnings("default")  # of the other library
@pytest.mark.parametrize("count,num_labels", [(20, 1), (37, 2), (60, 5), (101, 2), (250, 3), (999, 6), (2490, 2)])
@pytest.mark.parametrize("stratify", [True, False])
def test_held_out_rows_are_those_of_the_published_code(count, num_labels, stratify):
    labels = np.random.default_rng(count).integers(0, num_labels, count) if stratify else None
    ours = [half.tolist() for half in split_rows(count, labels)]
    assert ours == published_split(count, labels)


def test_the_published_rows_do_not_move_with_the_libraries():
    train, dev = split_rows(2490)
    assert (train[:5].tolist(), dev[:5].tolist()) == ([1108, 2092, 551, 2068, 125], [1913, 795, 1455, 1390, 1359])
    train, dev = split_rows(2490, np.arange(2490) % 3 // 2)
    assert (train[:5].tolist(), dev[:5].tolist()) == ([64, 528, 501, 1258, 117], [1621, 2273, 1519, 1012, 1235])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["glue/rte", "glue/stsb"])
def test_real_tasks_are_split_as_published(shared, name):
    task = tasks.get(name)
    loaded = splits.load_splits(task, data_dir=shared / "data")
    official = splits.read_table(shared / "data" / name / "train.jsonl.gz")
    labels = np.array(official["label"]) if task.stratify else None
    train, dev = published_split(num_rows(official), labels)
    assert loaded.train["idx"] == [official["idx"][row] for row in train]
    assert loaded.dev["idx"] == [official["idx"][row] for row in dev]
    assert num_rows(loaded.test) == {"glue/rte": 277, "glue/stsb": 1500}[name]


def test_the_caps_come_after_the_split(tmp_path):
    write(tmp_path, train=table(50), validation=table(8, first=50))
    whole = splits.load_splits(TASK, data_dir=tmp_path)
    few = splits.load_splits(TASK, data_dir=tmp_path, max_train_samples=4)
    assert few.train["text"] == whole.train["text"][:4]
    assert (few.dev[:], few.test[:]) == (whole.dev[:], whole.test[:])
    small = splits.load_splits(TASK, data_dir=tmp_path, max_eval_samples=3)
    assert (small.train[:], small.dev["text"]) == (whole.train[:], whole.dev["text"][:3])
    assert num_rows(small.test) == 3


def test_the_development_set_may_have_a_cap_of_its_own(tmp_path):
    write(tmp_path, train=table(50), validation=table(8, first=50))
    few = splits.load_splits(TASK, data_dir=tmp_path, max_dev_samples=2)
    assert [num_rows(split) for split in few] == [45, 2, 8]
    few = splits.load_splits(TASK, data_dir=tmp_path, max_dev_samples=2, max_eval_samples=3)
    assert [num_rows(split) for split in few] == [45, 2, 3]


def test_rows_without_labels_of_a_family_have_none_of_them():
    task = tasks.get("humset/sectors")
    rows = {"excerpt": ["a", "b", "c"], "sectors": [None, [], ["Health", "Health"]]}
    found = splits.examples(task, rows, "the file")
    assert found["sectors"] == [[], [], ["Health", "Health"]] and rows["sectors"][0] is None


def test_a_test_file_leaves_the_three_files_as_they_are(tmp_path):
    files = {"train": table(6), "validation": table(4, first=6), "test": table(2, first=10)}
    write(tmp_path, **files)
    assert [table[:] for table in splits.load_splits(TASK, data_dir=tmp_path)] == list(files.values())


def test_the_unlabelled_test_file_of_glue_is_left_alone(tmp_path):
    hidden = {"sentence": ["Birds sing."], "label": [-1]}
    known = {"sentence": [f"Bird {i} sings." for i in range(20)], "label": [0, 1] * 10}
    write(tmp_path / "glue/cola", train=known, validation=known, test=hidden)
    assert splits.load_splits(tasks.get("glue/cola"), data_dir=tmp_path).test[:] == known


@pytest.mark.parametrize("place", ["own/demo", "demo", "."])
def test_a_task_is_found_under_its_name_or_in_the_folder_itself(tmp_path, place):
    write(tmp_path / place, train=table(20), validation=table(4))
    assert num_rows(splits.load_splits(TASK, data_dir=tmp_path).train) == 18


def test_a_saved_data_set_is_a_data_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    saved = {split: datasets.Dataset.from_dict(table(size)) for split, size in (("train", 20), ("validation", 4))}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "demo")
    loaded = splits.load_splits(TASK, data_dir=tmp_path)
    assert [len(part) for part in loaded] == [18, 2, 4] and loaded.test[:] == table(4)


def test_sets_in_memory_are_split_like_files(tmp_path):
    files = {"train": table(20), "validation": table(4)}
    write(tmp_path, **files)
    from_files, from_memory = (splits.load_splits(TASK, data_dir=where) for where in (tmp_path, files))
    assert [part[:] for part in from_files] == [part[:] for part in from_memory]
    with pytest.raises(InputError, match="data_dir holds no 'validation', only train; add it"):
        splits.load_splits(TASK, data_dir={"train": table(20)})
    with pytest.raises(InputError, match=r"data_dir\['train'\], row 2: no value in column 'text'"):
        splits.load_splits(TASK, data_dir=files | {"train": {"text": ["a", None], "label": [0, 1]}})


def test_the_folder_of_another_task_is_not_taken(tmp_path):
    pairs = {"sentence1": ["a"] * 20, "sentence2": ["b"] * 20, "label": [0, 1] * 10}
    folder = write(tmp_path / "rte", train=pairs, validation=pairs)
    assert num_rows(splits.load_splits(tasks.get("glue/rte"), data_dir=folder).test) == 20
    with pytest.raises(InputError, match="task glue/mrpc: no data"):
        splits.load_splits(tasks.get("glue/mrpc"), data_dir=folder)


def test_generated_tasks_need_no_folder():
    loaded = splits.load_splits(tasks.get("builtin/agreement"))
    assert [num_rows(split) for split in loaded] == [64, 64, 500]


def test_hub_shards_are_joined(tmp_path, monkeypatch):
    write(tmp_path / "data", **{"train-0": table(12), "train-1": table(8, first=12), "validation-0": table(2)})
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: asked.append(options) or tmp_path)
    files = (("train", "data/train-*.jsonl"), ("validation", "data/validation-*.jsonl"))
    task = Task("demo", "classification", ("text",), ("no", "yes"), hub=HubFiles("me/demo", files, "abc"))
    loaded = splits.load_splits(task)
    assert sorted([*loaded.train["text"], *loaded.dev["text"]]) == sorted(table(20)["text"])
    assert asked == [{"repo_type": "dataset", "revision": "abc", "allow_patterns": [pattern for _, pattern in files]}]


@pytest.mark.parametrize("name", ["superglue/cb", "superglue/copa", "superglue/record", "humset/pillars_1d"])
def test_the_hub_files_of_a_row_are_found_in_a_snapshot(name, tmp_path, monkeypatch):
    """Snapshots as the hub lays them out: its own parquet conversion, and the JSON lines of HumSet."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = {
        "superglue/cb": {"premise": "p", "hypothesis": "h", "label": 2, "idx": {"a": 1}},
        "superglue/copa": {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 1},
        "superglue/record": {"passage": "p", "query": "q", "entities": ["a", "b"], "answers": ["b"]},
        "humset/pillars_1d": {"excerpt": "e", "pillars_1d": ["Context", "Covid-19"], "sectors": [], "lang": "en"},
    }
    tables = {split: {column: [value] * 20 for column, value in rows[name].items()} for split in splits.SPLITS}
    for split, columns in tables.items():
        if name.startswith("humset"):
            write(tmp_path / "data", **{split: columns})
        else:
            folder = tmp_path / name.split("/")[1] / split
            folder.mkdir(parents=True)
            parquet.write_table(pyarrow.table(columns), folder / "0000.parquet")
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: asked.append(options) or tmp_path)
    loaded = splits.load_splits(tasks.get(name))
    assert [len(table) for table in loaded] == {
        "superglue/record": [40, 40, 40],
        "humset/pillars_1d": [20, 20, 20],
    }.get(name, [18, 2, 20])
    assert asked[0]["revision"] == (None if name.startswith("humset") else "refs/convert/parquet")


def test_a_hub_out_of_reach_or_without_the_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="task own/demo names no hub data set; pass --data-dir"):
        splits.load_splits(TASK)
    with pytest.raises(InputError, match="'nyu-mll/glue' could not be read from the hub"):
        splits.load_splits(tasks.get("glue/rte"))  # the tests run offline
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: tmp_path)
    with pytest.raises(InputError, match="no file 'rte/train-.*' for split 'train'"):
        splits.load_splits(tasks.get("glue/rte"))


@pytest.mark.parametrize(
    "files,message",
    [
        ({}, "no data; looked for train and validation (.jsonl, .jsonl.gz, .csv, .parquet) in "),
        ({"train": table(20)}, "has no validation file"),
        ({"train": table(20), "validation": table(0)}, "validation.jsonl is empty"),
        ({"train": {"txt": ["a"], "label": [0]}, "validation": table(2)}, "unknown column 'text' in "),
        (
            {"train": {"text": ["a", "b"], "label": [0, 2]}, "validation": table(2)},
            "train.jsonl, row 2: label 2 is outside",
        ),
        ({"train": {"text": ["a", None], "label": [0, 1]}, "validation": table(2)}, "train.jsonl, row 2: no value"),
        ({"train": table(2), "validation": table(2)}, "no development set can be held out"),
        ({"train": table(1), "validation": table(2)}, "needs two rows or more"),
        ({"train": {"text": ["a"] * 30, "label": [1] + [0] * 29}, "validation": table(2)}, "label 1 occurs 1 times"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named_in_one_line(tmp_path, files, message):
    write(tmp_path, **files)
    with pytest.raises(InputError) as error:
        splits.load_splits(TASK, data_dir=tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)
