"""Splits: the published held-out rows, the folders a task is found in, and what is wrong with a folder."""

import collections
import dataclasses
import json
from pathlib import Path

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


def put(path, columns):
    """Writes a split as the ending of a path says, or as ``datasets`` saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pytest.importorskip("pandas").DataFrame(columns)
    if not path.suffix:
        pytest.importorskip("datasets").Dataset.from_dict(columns).save_to_disk(path)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    elif ".json" in path.name:
        frame.to_json(path, orient="records", lines=".jsonl" in path.name)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")


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


def test_examples_may_be_drawn_instead(tmp_path):
    write(tmp_path, train=table(50), validation=table(8, first=50))
    whole = splits.load_splits(TASK, data_dir=tmp_path)

    def drawn(seed):
        found = splits.load_splits(TASK, data_dir=tmp_path, max_train_samples=6, sample_seed=seed)
        assert (found.dev[:], found.test[:], found.available) == (whole.dev[:], whole.test[:], whole.available)
        return found.train["text"]

    draws = [drawn(seed) for seed in range(40)]
    assert draws[3] == drawn(3) and all(len(set(texts)) == 6 for texts in draws)
    counts = collections.Counter(text for texts in draws for text in texts)
    assert counts.keys() == set(whole.train["text"])  # of 45, each missed by all 40 with a chance of 1 in 300
    assert draws[0] == [whole.train["text"][row] for row in np.random.default_rng(0).permutation(45)[:6]]


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


LAYOUTS = {  # a file, or the files of two halves, of the training set and of the validation set
    "the hub's": (["data/train-00000-of-00001.parquet"], ["data/validation-00000-of-00001.parquet"]),
    "the hub's, in parts": (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ["data/validation-00000-of-00001-8cbc3a1ad7e24a2e.parquet"],
    ),
    "the hub's, with hashes": (
        ["data/train-00000-of-00002-8cbc3a1ad7e24a2e.parquet", "data/train-00001-of-00002-0a1b2c3d4e5f6a7b.parquet"],
        ["data/validation.csv"],
    ),
    "the hub's conversion": (["default/train/0000.parquet", "default/train/0001.parquet"], ["validation/0.parquet"]),
    "files of GLUE": (["train.tsv"], ["dev.tsv"]),  # where a rule says that they are split as there
    "files of other programs": (["train.json.gz"], ["val.csv.gz"]),
    "saved": (["train"], ["valid"]),
    "a folder a split": (["train/train.jsonl"], ["validation/part-00000.csv", "validation/part-00001.csv"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_found_as_people_have_them(tmp_path, layout, capsys):
    for files, (first, count) in zip(LAYOUTS[layout], ((0, 20), (20, 4)), strict=True):
        for number, file in enumerate(files):
            half = count // len(files)
            put(tmp_path / file, table(half, first=first + number * half))
    capsys.readouterr()
    task = dataclasses.replace(TASK, split_rule="published") if "GLUE" in layout else TASK
    loaded = splits.load_splits(task, data_dir=tmp_path)
    assert sorted([*loaded.train["text"], *loaded.dev["text"]]) == sorted(table(20)["text"])
    assert list(loaded.test["text"]) == table(4, first=20)["text"]
    is_named = "validation" in LAYOUTS[layout][1][0]
    note = f"scalearn: note: task own/demo: {tmp_path / LAYOUTS[layout][1][0]} is taken for its validation split.\n"
    assert capsys.readouterr().err == ("" if is_named else note)


PAIRS = [
    ("train.csv", "train.jsonl"),
    ("train.jsonl", "train.jsonl.gz"),
    ("train.json", "train.tsv"),
    ("data/train-00000-of-00001.parquet", "train.csv"),
    ("train/0000.parquet", "train.parquet"),
    ("train-00000-of-00001.parquet", "train-00000-of-00002.parquet"),
    ("train", "train.csv"),
    ("train/train.csv", "train/0.csv"),
    ("valid.jsonl", "validation.jsonl"),
    ("valid.jsonl", "val.jsonl"),
    ("dev.jsonl", "dev.csv"),
    ("valid", "data/validation.csv"),
    ("test.csv", "test.tsv"),
]


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_of_two_candidates_for_a_split_none_is_taken(tmp_path, pair):
    for split in {"train", "validation"} - {"validation" if Path(pair[0]).name[0] == "v" else Path(pair[0]).parts[-1]}:
        if not any(part.startswith(split) for part in pair):
            put(tmp_path / f"{split}.csv", table(20))
    for path in pair:
        put(tmp_path / path, table(20))
    with pytest.raises(InputError) as error:
        splits.load_splits(TASK, data_dir=tmp_path)
    assert all(str(tmp_path / path) in str(error.value) for path in pair) and "keep one of them" in str(error.value)


@pytest.mark.parametrize(
    "files, expected, origins",
    [
        ("train dev", (18, 4, 2), "from train.jsonl, from dev.jsonl, held out of train.jsonl"),
        ("train dev validation", (20, 4, 5), "from train.jsonl, from dev.jsonl, from validation.jsonl"),
        ("train dev test", (20, 4, 6), "from train.jsonl, from dev.jsonl, from test.jsonl"),
        ("train validation test", (20, 5, 6), "from train.jsonl, from validation.jsonl, from test.jsonl"),
        ("train validation", (18, 2, 5), "from train.jsonl, held out of train.jsonl, from validation.jsonl"),
    ],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_set_called_dev_is_the_development_set(files, expected, origins, in_memory, tmp_path, capsys):
    sizes = {"train": 20, "dev": 4, "validation": 5, "test": 6}
    tables = {name: table(sizes[name], first=100 * number) for number, name in enumerate(files.split())}
    write(tmp_path, **tables)
    loaded = splits.load_splits(TASK, data_dir=tables if in_memory else tmp_path)
    assert tuple(map(num_rows, loaded)) == loaded.available == expected
    if "dev" in tables:
        assert loaded.dev[:] == tables["dev"]
    if not in_memory:
        assert ", ".join(loaded.origins) == origins and capsys.readouterr().err == ""
    assert sum(map(num_rows, loaded)) == len({text for part in loaded for text in part["text"]})  # none is in two


def test_a_development_set_beside_three_is_refused(tmp_path):
    write(tmp_path, train=table(20), dev=table(4), validation=table(4), test=table(4))
    with pytest.raises(InputError, match="dev.jsonl and validation.jsonl may both be its development set, beside a"):
        splits.load_splits(TASK, data_dir=tmp_path)


def test_a_published_task_tests_on_dev_as_glue_calls_it(tmp_path):
    known = {"sentence": [f"Bird {i} sings." for i in range(20)], "label": [0, 1] * 10}
    write(tmp_path / "glue/cola", train=known, dev=known)
    loaded = splits.load_splits(tasks.get("glue/cola"), data_dir=tmp_path)
    assert loaded.test[:] == known and num_rows(loaded.dev) == 2


def test_a_missing_part_and_files_of_other_names_are_named(tmp_path):
    put(tmp_path / "validation.csv", table(4))
    put(tmp_path / "training_set.csv", table(20))
    with pytest.raises(InputError, match="has no train file .*; found training_set.csv, validation.csv; add it"):
        splits.load_splits(TASK, data_dir=tmp_path)
    put(tmp_path / "train-00001-of-00003.csv", table(20))
    with pytest.raises(InputError, match="train-00001-of-00003.csv is one of 00003 files, found 1 of its kind"):
        splits.load_splits(TASK, data_dir=tmp_path)
    put(tmp_path / "one/set", table(4))
    with pytest.raises(InputError, match="set is one saved data set, without splits: save a DatasetDict"):
        splits.load_splits(TASK, data_dir=tmp_path / "one/set")


def test_a_hub_layout_of_a_known_task_is_read_below_its_folder(tmp_path):
    """MNLI's row names another validation file; the test file, without labels, is left alone."""
    rows = {"premise": ["a"] * 20, "hypothesis": ["b"] * 20, "label": [0, 1] * 10}
    for split in ("train", "validation_matched", "validation_mismatched", "test_matched"):
        labels = {"label": [2 if split == "validation_matched" else -1 if "test" in split else 1] * 20}
        put(tmp_path / f"mnli/{split}-00000-of-00001.parquet", rows | (labels if split != "train" else {}))
    assert set(splits.load_splits(tasks.get("glue/mnli"), data_dir=tmp_path).test["label"]) == {2}


@pytest.mark.parametrize(
    "hidden, found",
    [
        ({"label": [-1, -1]}, "all labels are -1"),
        ({"label": ["-1", "-1"]}, "all labels are '-1'"),
        ({"label": [None, None]}, "all labels are None"),
        ({"label": ["", ""]}, "all labels are ''"),
        ({"other": [0, 1]}, "there is no column 'label'"),
    ],
)
def test_a_test_set_without_labels_is_named_with_the_ways_out(tmp_path, hidden, found):
    files = {"train": table(20), "validation": table(4, first=20)}
    write(tmp_path, **files, test={"text": ["a", "b"]} | hidden)
    with pytest.raises(InputError) as error:
        splits.load_splits(TASK, data_dir=tmp_path)
    assert f"test.jsonl has no labels ({found}); remove it, or leave it out with `split_rule: published`" in str(
        error.value
    )
    published = splits.load_splits(dataclasses.replace(TASK, split_rule="published"), data_dir=tmp_path)
    (tmp_path / "test.jsonl").unlink()
    for loaded in (published, splits.load_splits(TASK, data_dir=tmp_path)):
        assert (len(loaded.train), len(loaded.dev), list(loaded.test["text"])) == (18, 2, files["validation"]["text"])


def test_a_label_may_be_called_minus_one(tmp_path):
    task = dataclasses.replace(TASK, labels=("-1", "0", "1"))
    write(tmp_path, train=table(6), validation=table(4), test={"text": ["a"], "label": [-1]})
    assert list(splits.load_splits(task, data_dir=tmp_path).test["label"]) == [-1]


def test_sets_in_memory_are_split_like_files(tmp_path):
    files = {"train": table(20), "validation": table(4)}
    write(tmp_path, **files)
    from_files, from_memory = (splits.load_splits(TASK, data_dir=where) for where in (tmp_path, files))
    assert [part[:] for part in from_files] == [part[:] for part in from_memory]
    with pytest.raises(InputError, match="data_dir holds no 'validation', only train; add it"):
        splits.load_splits(TASK, data_dir={"train": table(20)})
    with pytest.raises(InputError, match=r"data\['train'\], row 2: no value in column 'text'"):
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
        (
            {},
            "no data; looked for train and validation (.jsonl, .json, .csv, .tsv, each also with .gz, or .parquet) in ",
        ),
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
