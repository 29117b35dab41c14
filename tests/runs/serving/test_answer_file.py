"""``scalearn predict``: streams, columns that are kept, thresholds of multi-label tasks."""

import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
from pyarrow import csv, parquet
from sklearn.metrics import f1_score

from scalearn_jax import cli
from scalearn_jax.data import builtin, splits
from scalearn_jax.runs.serving.predictor import Predictor
from tests.support import drawn_runs, tiny_backbone

SENTIMENT, COMPLAINTS = builtin.BUILTIN["builtin/sentiment"], builtin.BUILTIN["builtin/complaints"]
ROWS = [
    {"id": 7, "sentence": "good soup", "label": "negative", "meta": {"a": [1]}},
    {"id": 8, "sentence": 'a cold, "late"\nservice', "label": None, "meta": None},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("answers")
    backbone = tiny_backbone.write(root / "backbone", num_hidden_layers=1)
    runs = {task: drawn_runs.write(root / task.name, backbone, task) for task in (SENTIMENT, COMPLAINTS)}
    return runs | {"backbone": str(backbone)}


@pytest.fixture
def predict(folders, tmp_path, monkeypatch, capsys):
    """Calls the command for rows; returns its exit code, standard output and error."""

    def call(rows, *flags, task=SENTIMENT, source="in.jsonl", output="-"):
        text = "".join(json.dumps(row) + "\n" for row in rows) if isinstance(rows, list) else rows
        if source == "-":
            content = text if isinstance(text, bytes) else text.encode()
            monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        else:
            (tmp_path / source).write_text(text)
            source = str(tmp_path / source)
        output = output if output == "-" else str(tmp_path / output)
        code = cli.main(["predict", folders[task], "--input", source, "--output", output, *flags])
        return (code, *capsys.readouterr())

    return call


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_standard_input_and_output_hold_json_lines_and_nothing_else(folders, predict):
    code, out, errors = predict(ROWS, source="-")
    assert (code, errors) == (0, "")
    expected = Predictor.load(folders[SENTIMENT], batch_size=128).predict([row["sentence"] for row in ROWS])
    assert lines(out) == expected


def test_standard_input_may_be_one_list_in_another_encoding(predict):
    assert predict(json.dumps(ROWS).encode("utf-16"), source="-")[:2] == predict(ROWS, source="-")[:2]


@pytest.mark.parametrize(
    "content, told",
    [
        ("sentence\ngood soup\n", "standard input (for another format pass --input FILE), line 1: not valid JSON"),
        ('{"sentence": "a"}\n[1]\n', "line 2: expected an object, got list"),
        ("", "standard input is empty"),
        (b'{"sentence": "caf\xe9"}', "standard input, line 1: the byte 0xe9 is not UTF-8"),
        ('{"sentence": "a"}\n{"sentence": null}\n', "standard input, row 2: no value in column 'sentence'"),
    ],
)
def test_wrong_standard_input_is_one_line(content, told, predict):
    code, out, errors = predict(content, source="-")
    assert (code, out) == (2, "") and told in errors and errors.count("\n") == 1


def test_named_columns_stand_before_the_answers_and_a_label_of_the_input_stays_apart(predict):
    plain, found = lines(predict(ROWS)[1]), lines(predict(ROWS, "--keep", "label", "id", "meta")[1])
    kept = [{"input_label": "negative", "id": 7, "meta": {"a": [1]}}, {"input_label": None, "id": 8, "meta": None}]
    assert [list(one)[:3] for one in found] == [["input_label", "id", "meta"]] * 2
    assert found == [row | answer for row, answer in zip(kept, plain, strict=True)]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_all_columns_are_kept_in_every_kind_of_file(suffix, predict, tmp_path):
    code, out, _ = predict(ROWS, "--keep-all", output=f"out.{suffix}")
    assert code == 0 and out == f"wrote {tmp_path / 'out'}.{suffix}\n"
    path = tmp_path / f"out.{suffix}"
    if suffix == "jsonl":
        table = pyarrow.Table.from_pylist(lines(path.read_text()))
    elif suffix == "parquet":
        table = parquet.read_table(path)
    else:
        options = csv.ParseOptions(delimiter="\t" if suffix == "tsv" else ",", newlines_in_values=True)
        table = csv.read_csv(path, parse_options=options)
    found = table.to_pydict()
    assert list(found)[:4] == ["id", "sentence", "input_label", "meta"] and "label" in found
    assert found["id"] == [7, 8] and found["sentence"] == [row["sentence"] for row in ROWS]


def test_a_kept_date_becomes_its_text(folders, predict, tmp_path, capsys):
    import datetime

    table = {"sentence": ["a", "b"], "day": [datetime.date(2024, 2, 29), None]}
    parquet.write_table(pyarrow.table(table), tmp_path / "in.parquet")
    flags = ["--input", str(tmp_path / "in.parquet"), "--output", "-", "--keep", "day"]
    assert cli.main(["predict", folders[SENTIMENT], *flags]) == 0
    assert [row["day"] for row in lines(capsys.readouterr().out)] == ["2024-02-29", None]


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--keep", "idd"], "unknown column 'idd' in"),
        (["--keep", "id", "--keep-all"], "--keep and --keep-all exclude each other"),
        (["--keep", "label", "input_label"], "label would be written as input_label, a kept column, too"),
        (["--threshold", "0.3"], "--threshold is for tasks of kind multilabel; builtin/sentiment is classification"),
        (["--tune-threshold"], "--tune-threshold is for tasks of kind multilabel"),
        (["--threshold", "0.3", "--tune-threshold"], "exclude each other"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(flags, told, predict):
    code, out, errors = predict([row | {"input_label": 1} for row in ROWS], *flags)
    assert (code, out) == (2, "") and told in errors and errors.count("\n") == 1


def test_a_threshold_decides_which_labels_are_given(predict):
    rows = builtin.rows(COMPLAINTS.name, "train")[:8]
    for threshold in ("0", "0.3", "0.97"):
        code, out, errors = predict(rows, "--threshold", threshold, task=COMPLAINTS)
        assert code == 0
        for one in lines(out):
            assert one["labels"] == [name for name, p in one["probabilities"].items() if p > float(threshold)]
        empty = sum(not one["labels"] for one in lines(out))
        assert errors.count("get no label") == bool(empty)
        if empty:
            assert (
                f"{empty} of 8 rows get no label of builtin/complaints: none has a probability above {threshold}"
                in errors
            )
    assert predict(rows, task=COMPLAINTS)[1] == predict(rows, "--threshold", "0.5", task=COMPLAINTS)[1]


@pytest.mark.parametrize("threshold", ["1", "-0.1", "nan"])
def test_a_threshold_outside_its_range_is_refused(threshold, predict):
    code, _, errors = predict(ROWS, f"--threshold={threshold}", task=COMPLAINTS)
    assert code == 2 and "threshold" in errors and errors.count("\n") == 1


def test_a_tuned_threshold_is_the_best_on_development_data(folders, predict):
    rows = builtin.rows(COMPLAINTS.name, "train")[:3]
    code, out, errors = predict(rows, "--tune-threshold", task=COMPLAINTS)
    assert code == 0
    dev = splits.load_splits(COMPLAINTS).dev[:]
    texts = [{name: dev[name][i] for name in COMPLAINTS.columns} for i in range(len(dev["label"]))]
    said = Predictor.load(folders[COMPLAINTS], batch_size=128).predict(texts)
    probabilities = np.array([list(one["probabilities"].values()) for one in said])
    truth = np.array([[number in label for number in range(len(COMPLAINTS.labels))] for label in dev["label"]])
    assert COMPLAINTS.metrics[0] == "macro_f1"
    scores = {
        number: f1_score(truth, probabilities > number / 20, average="macro", zero_division=0)
        for number in range(1, 20)
    }
    best = max(scores, key=lambda number: (scores[number], -abs(number - 10)))
    assert len(set(scores.values())) > 3
    shown = f"threshold {best / 20}, by macro_f1 on {len(texts)} development examples: {100 * scores[best]:.2f}"
    assert f"{shown}, at 0.5 {100 * scores[10]:.2f}" in errors
    for one in lines(out):
        assert one["labels"] == [name for name, p in one["probabilities"].items() if p > best / 20]


def test_tuning_needs_the_development_data(folders, tmp_path, capsys):
    task = dataclasses.replace(COMPLAINTS, name="my/complaints")
    folder = drawn_runs.write(tmp_path / "run", folders["backbone"], task)
    (tmp_path / "in.jsonl").write_text(json.dumps({name: "a" for name in task.columns}))
    flags = ["--input", str(tmp_path / "in.jsonl"), "--output", "-", "--tune-threshold"]
    assert cli.main(["predict", folder, *flags]) == 2
    error = capsys.readouterr().err
    assert "--tune-threshold needs a run and its development data: task my/complaints" in error
    assert "pass --data-dir" in error and error.count("\n") == 1
