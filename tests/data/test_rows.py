"""Reading files: all formats give the same table, damage gives one line that names the place."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys

import pytest

from scalearn_jax.data import rows as tables
from scalearn_jax.errors import InputError

TABLE = {"text": ['one, "two"', "zwei\nZeilen", "три"], "label": [0, 1, 0]}
ROWS = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def write(folder, suffix, table=TABLE):
    """Writes a table in the format of the suffix."""
    path = folder / f"train{suffix}"
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    if suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(table), path)
        return path
    if suffix.startswith((".csv", ".tsv")):
        file = io.StringIO()
        csv.writer(file, delimiter="\t" if "tsv" in suffix else ",").writerows(
            [table, *zip(*table.values(), strict=True)]
        )
        content = file.getvalue().encode()
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
def test_every_format_gives_the_same_table(tmp_path, suffix):
    table = tables.read_table(write(tmp_path, suffix))
    assert table["text"] == TABLE["text"]
    assert [int(label) for label in table["label"]] == TABLE["label"]


def test_a_field_may_be_as_long_as_a_book(tmp_path):
    table = {"text": ["word " * 200_000], "label": [1]}
    assert tables.read_table(write(tmp_path, ".csv", table))["text"] == table["text"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_a_byte_order_mark_names_the_encoding_and_is_no_part_of_the_data(tmp_path, suffix, encoding):
    path = write(tmp_path, suffix)
    expected = tables.read_table(path)
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    assert tables.read_table(path) == expected and list(expected) == ["text", "label"]


@pytest.mark.parametrize("indent", [None, 1])
def test_json_may_be_one_list_of_objects(tmp_path, indent):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(ROWS, indent=indent))
    assert tables.read_table(path) == TABLE
    pytest.importorskip("pandas").DataFrame(TABLE).to_json(path, orient="records")
    assert tables.read_table(path) == TABLE


@pytest.mark.parametrize(
    "name,content,expected",
    [
        ("a.csv", "text;label\na, b;0\n", {"text": ["a, b"], "label": ["0"]}),
        ("a.csv", '"text";"label"\n"a; b";"0"\n', {"text": ["a; b"], "label": ["0"]}),
        ("a.csv", "text\tlabel\na;b\t0\n", {"text": ["a;b"], "label": ["0"]}),
        ("a.tsv", "text,label\na;b,0\n", {"text": ["a;b"], "label": ["0"]}),
        ("a.csv", "sep=;\ntext;label,x\na;0\n", {"text": ["a"], "label,x": ["0"]}),
        ("a.csv", "text;raw,label\na,0\n", {"text;raw": ["a"], "label": ["0"]}),  # commas are there
        ("a.csv", "text\na;b\n", {"text": ["a;b"]}),
        ("a.csv", "text,label\na,0\n,\n , \n\n\n", {"text": ["a"], "label": ["0"]}),
        ("a.csv", "text,label\n,\na,0\n", {"text": ["", "a"], "label": ["", "0"]}),
        ("a.csv", "text,label\ra,0\rb,1\r", {"text": ["a", "b"], "label": ["0", "1"]}),
        # quotes that enclose a field, as pandas and R write them, and quotes of the text, as in GLUE
        ("a.tsv", 'text\tlabel\n"a ""b"""\t0\n', {"text": ['a "b"'], "label": ["0"]}),
        ("a.tsv", 'text\tlabel\n"a\tb"\t0\n', {"text": ["a\tb"], "label": ["0"]}),
        ("a.tsv", '"text"\t"label"\n"a"\t0\n', {"text": ["a"], "label": ["0"]}),
        ("a.tsv", 'text\tlabel\n"a" said b\t0\n', {"text": ['"a" said b'], "label": ["0"]}),
        ("a.tsv", 'text\tlabel\n"a\t0\nb\t1\n', {"text": ['"a', "b"], "label": ["0", "1"]}),
        ("a.tsv", 'text\tlabel\na "b"\t0\n', {"text": ['a "b"'], "label": ["0"]}),
    ],
)
def test_separators_and_quotes_are_read_where_they_are_no_guess(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content.encode())
    assert tables.read_table(tmp_path / name) == expected


def test_every_row_may_bring_columns(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b", "label": 1}\n')
    assert tables.read_table(path) == {"text": ["a", "b"], "label": [None, 1]}


def test_blank_lines_are_skipped_and_missing_entries_show(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a", "label": 0}\n\n{"text": "b"}\n')
    assert tables.read_table(path) == {"text": ["a", "b"], "label": [0, None]}


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n\n[1]\n', "a.jsonl, line 3: expected an object, got list"),
        ("a.jsonl", b'{"text": "a"}\n"\xff\xfe"\n', "a.jsonl, line 2: the byte 0xff is not UTF-8"),
        ("a.json", b'[{"text": "a"},\n', "a.json, line 1: not valid JSON"),
        (
            "a.json",
            b'{"text": ["a", "b"], "label": [0, 1]}',
            "a.json holds one object of columns; expected an object a",
        ),
        ("a.json", b'{"text": {"0": "a"}, "label": {"0": 1}}', "a.json holds one object of columns"),
        ("a.json", b'{\n"text": "a"\n}', "a.json, line 1: not valid JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not valid JSON"),
        ("a.jsonl.gz", b"plain text", "a.jsonl.gz, after line 0: not readable"),
        ("a.jsonl.gz", gzip.compress(LINES.encode() * 50, mtime=0)[:60], "a.jsonl.gz, after line"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9] + b"\0" * 9, "a.jsonl.gz, after line"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:12] + b"\xff" * 40, "a.jsonl.gz, after line"),
        ("a.csv", b"text,label\na,0\nb,c,1\n", "a.csv, line 3: 3 fields, the first line names 2"),
        ("a.csv", b"text,label\na\n", "a.csv, line 2: 1 fields"),
        ("a.csv", b"text,text,label\na,b,0\n", "the first line names a column twice: 'text', 'text', 'label'"),
        ("a.csv", b"sep=;\na;b\n0\n", "a.csv, line 3: 1 fields, the first line names 2; quote fields that hold the"),
        ("a.tsv", b'text\tlabel\n"a"\t0\n', "a.tsv: the quotes of '\"a\"' are part of the text, or enclose a field"),
        ("a.tsv", b'text\tlabel\n"a\t0\nb"\t0\n', "a.tsv: the quotes of '\"a' are part of the text, or enclose"),
        ("a.csv", "text,label\na,0\n".encode("utf-16-le"), "a.csv holds zero bytes, as UTF-16 without a mark"),
        ("a.csv", "text,label\na,0\n".encode("utf-16")[:-1], "a.csv, after line "),
        (
            "a.csv",
            b"text,label\na,0\ncaf\xe9,0\n",
            "a.csv, line 3: the byte 0xe9 is not UTF-8; in Windows-1252 it is 'é'",
        ),
        ("a.csv.gz", gzip.compress(b"text\ncaf\xe9\n", mtime=0), "a.csv.gz, line 2: the byte 0xe9 is not UTF-8"),
        ("a.csv", gzip.compress(b"text\n", mtime=0), "a.csv begins as a .gz file does; rename it, or save it as"),
        ("a.csv", b"PK\x03\x04 and so on", "a.csv begins as a .xlsx file does"),
        ("a.jsonl", b"PAR1 and so on", "a.jsonl begins as a .parquet file does"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a.parquet: it is a pointer of Git LFS"),
        ("a.csv", b'text,label\n"a,0\n', "a.csv, after line 1: not readable"),
        ("a.csv", b"text,label\n\xff\xfe,0\n", "a.csv, line 2: the byte 0xff is not UTF-8"),
        ("a.parquet", b"PAR1 and nothing more", "a.parquet: not readable"),
        ("a.parquet", b"", "a.parquet: not readable"),
        ("a.xlsx", b"", "a.xlsx: unknown file type; expected .jsonl, .json, .csv, .tsv"),
        ("a.jsonl", None, "a.jsonl does not exist"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        tables.read_table(tmp_path / name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_columns_and_entries_are_named():
    table = {"text": ["a", None], "label": [0, 1]}
    tables.check_columns(table, ["label"], "x.csv")
    with pytest.raises(InputError, match="unknown column 'txt' in x.csv.*did you mean 'text'.*Known: label, text"):
        tables.check_columns(table, ["txt"], "x.csv")
    with pytest.raises(InputError, match="x.csv, row 2: no value in column 'text'"):
        tables.check_columns(table, ["text"], "x.csv")
    with pytest.raises(InputError, match="x.csv is empty"):
        tables.check_columns({}, ["text"], "x.csv")


def test_shards_are_joined_where_their_columns_agree():
    assert tables.concatenate([{"a": [1]}, {"a": [2, 3]}], "x") == {"a": [1, 2, 3]}
    with pytest.raises(InputError, match="shards with different columns"):
        tables.concatenate([{"a": [1]}, {"b": [2]}], "x")


SETS = {
    "a list of rows": lambda: ROWS,
    "columns": lambda: TABLE,
    "a DataFrame": lambda: pytest.importorskip("pandas").DataFrame(TABLE),
    "a Dataset": lambda: tables.to_arrow(TABLE),
    "some of a Dataset": lambda: tables.to_arrow({name: [*v, *v] for name, v in TABLE.items()}).select([3, 1, 2]),
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_in_memory_gives_the_same_table(name):
    assert tables.read_table(SETS[name]()) == TABLE


def test_a_saved_data_set_gives_the_same_table(tmp_path, capfd):
    tables.to_arrow(TABLE).save_to_disk(tmp_path / "train")
    capfd.readouterr()
    assert tables.read_table(tmp_path / "train") == TABLE
    assert capfd.readouterr() == ("", "")  # no progress bar
    next((tmp_path / "train").glob("*.arrow")).write_bytes(b"no more")
    with pytest.raises(InputError, match="train: not readable"):
        tables.read_table(tmp_path / "train")


@pytest.mark.parametrize(
    "values,kept",
    [
        ([0, "fair", None], ["0", "fair", None]),
        ([0, 0.5], [0.0, 0.5]),
        ([10**30, 1], [str(10**30), "1"]),
        (["a\ud800", "b"], ["a?", "b"]),
        ([["a"], [1, 2]], ['["a"]', "[1, 2]"]),
        ([["a"], []], [["a"], []]),
        ([{"b": 1}, 2], ['{"b": 1}', "2"]),
    ],
)
def test_arrow_holds_any_column(values, kept):
    assert tables.to_arrow({"a": values})[:] == {"a": kept}


def test_text_columns_stay_texts_in_arrow():
    assert tables.to_arrow({"a": [1, 0.5, "x"]}, ["a"])[:] == {"a": ["1", "0.5", "x"]}


@pytest.mark.slow
def test_reading_needs_no_cache_and_writes_none(tmp_path):
    """In a home where nothing can be written, and one where something could."""
    write(tmp_path, ".jsonl", {"text": ["a", "b"] * 20, "label": [0, 1] * 20}).rename(tmp_path / "validation.jsonl")
    write(tmp_path, ".parquet", {"text": ["c", "d"] * 20, "label": [0, 1] * 20})
    (tmp_path / "home").mkdir()
    code = """
from scalearn_jax.data import splits, task
mine = task.Task("mine", "classification", ("text",), ("no", "yes"))
print([len(table) for table in splits.load_splits(mine, data_dir=".")])
"""
    for home in ("/proc/none", str(tmp_path / "home")):
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": home, "HF_HUB_OFFLINE": "1"}
        run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (run.stdout, run.stderr, run.returncode) == ("[36, 4, 40]\n", "", 0)
    assert not list((tmp_path / "home").iterdir())
