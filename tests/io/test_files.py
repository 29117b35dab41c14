"""Folders that appear whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

import scalearn_jax
from scalearn_jax.errors import InputError
from scalearn_jax.io.atomic_folder import atomic_folder
from scalearn_jax.io.files import as_json, named, read_json, safe_name, write_json
from scalearn_jax.io.yaml_file import read_yaml

HOLD = """
import sys
from pathlib import Path
from scalearn_jax.io.atomic_folder import atomic_folder
with atomic_folder(sys.argv[1]) as folder:
    (folder.path / "weights").write_text("half")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def hold(out):
    """Starts a process that is writing a folder; a line on its standard input lets it finish."""
    command = [sys.executable, "-c", HOLD, str(out)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with atomic_folder(str(tmp_path / "a" / "run")) as folder:
        (folder.path / "weights").write_text("x")
        assert not (tmp_path / "a" / "run").exists()
    assert names(tmp_path) == ["a", "run", "weights"]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(str(tmp_path / "run")) as folder:
        (folder.path / "weights").write_text(str(1 / 0))
    assert names(tmp_path) == []


@pytest.mark.parametrize("out", [".", "link", "empty"])
def test_an_empty_folder_is_taken_over(out, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    monkeypatch.chdir(tmp_path / "empty" if out == "." else tmp_path)
    with atomic_folder(out) as folder:
        (folder.path / "weights").write_text("x")
    assert (tmp_path / "empty" / "weights").read_text() == "x"


def test_a_living_process_keeps_its_folder(tmp_path):
    process = hold(tmp_path / "run")
    with (
        pytest.raises(InputError, match="run.partial is being written by process [0-9]+ of "),
        atomic_folder(str(tmp_path / "run")),
    ):
        pass
    process.communicate("done\n")
    assert process.returncode == 0 and names(tmp_path / "run") == ["weights"]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    process = hold(tmp_path / "run")
    process.kill()
    process.communicate()
    assert names(tmp_path) == [".lock", ".owner", "run.partial", "weights"]
    with atomic_folder(str(tmp_path / "run")) as folder:
        assert names(folder.path) == [".lock", ".owner"]
    assert names(tmp_path) == ["run"]


def test_a_folder_that_came_out_meanwhile_is_found(tmp_path, monkeypatch):
    acquire = filelock.FileLock.acquire

    def late(lock):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "weights").write_text("whole")
        return acquire(lock)

    monkeypatch.setattr(filelock.FileLock, "acquire", late)
    with pytest.raises(InputError, match="already exists"), atomic_folder(str(tmp_path / "run")):
        pass
    assert names(tmp_path) == ["run", "weights"]


def test_a_folder_of_the_user_is_left_alone(tmp_path):
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "thesis").write_text("x")
    with pytest.raises(InputError, match="was not left by a run"), atomic_folder(str(tmp_path / "run")):
        pass
    assert names(tmp_path) == ["run.partial", "thesis"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write the folder: Not a directory"):
        with atomic_folder(str(tmp_path / "file" / "run")):
            pass


def test_names_from_files_are_one_component_of_a_path():
    strange = [
        "",
        ".",
        "..",
        "../a",
        "/a",
        "a\0b",
        "a b",
        "a\tb",
        "\x1b[2J",
        "ä",
        "ö",
        ".a",
        "-a",
        "a" * 300,
        "a" * 301,
        "\ud800",
    ]
    made = [safe_name(name) for name in strange]
    assert len(set(made)) == len(made)
    for name in made:
        assert (
            name
            and "/" not in name
            and name[0] not in ".-"
            and name.isascii()
            and name.isprintable()
            and len(name) < 120
        )
    assert [safe_name(name) for name in ("scalearn++", "glue/rte", "k-5_x.1")] == ["scalearn++", "glue-rte", "k-5_x.1"]


def test_errors_show_what_would_act_on_a_terminal():
    error = InputError("name 'a\x1b]0;b\x07' of\n\u202e\ud800 caf\u00e9 " + "x" * 20_000)
    assert str(error).startswith(r"name 'a\x1b]0;b\x07' of \u202e\ud800 café xxx")
    assert str(error).isprintable() and len(str(error)) < 11_000


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device: .*run.json"):
        write_json(tmp_path / "run.json", {})
    assert not list(tmp_path.iterdir())


def test_what_other_libraries_say_of_a_full_disk_is_understood(tmp_path):
    with pytest.raises(OSError, match="No space left on device: .*weights") as caught, named(tmp_path / "weights"):
        raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.errno == 28
    with pytest.raises(ValueError, match="something else"), named(tmp_path):
        raise ValueError("something else")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding):
    """As the editors and shells of Windows write it."""
    path = tmp_path / "a.json"
    path.write_text('{"a": "café"}', encoding=encoding)
    assert read_json(path) == read_yaml(path) == {"a": "café"}


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_another_encoding_is_named_with_the_fix(tmp_path, read):
    (tmp_path / "a.json").write_bytes('{"b": 1,\n"a": "café"}'.encode("cp1252"))
    told = r"a.json, line 2: the byte 0xe9 is not UTF-8; in Windows-1252 it is 'é'; save the file as UTF-8.*iconv"
    with pytest.raises(InputError, match=told):
        read(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes("{}".encode("utf-16")[:-1])
    with pytest.raises(InputError, match="is not UTF-16-LE; the file is damaged or cut short"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize("size, message", [(100, None), (101, "a.json has more than 100 bytes")])
def test_no_more_of_a_file_is_read_than_it_may_have(tmp_path, size, message):
    path = tmp_path / "a.json"
    path.write_text("{}".ljust(size))
    if message is None:
        assert read_json(path, 100) == {}
        return
    with pytest.raises(InputError, match=message):
        read_json(path, 100)


def test_what_is_no_plain_file_is_neither_waited_for_nor_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(InputError, match=f"{name} is no plain file"):
            read_json(tmp_path / name)


def test_json_has_no_number_that_is_not_finite(tmp_path):
    content = {"a": [1, 2.5, float("nan")], "b": {"c": (float("inf"), -float("inf"), True, None, "NaN")}}
    write_json(tmp_path / "x.json", content)
    expected = {"a": [1, 2.5, None], "b": {"c": [None, None, True, None, "NaN"]}}
    assert read_json(tmp_path / "x.json") == json.loads(as_json(content, indent=None)) == expected
    assert as_json(content, indent=None).count("\n") == 1


def test_json_is_written_in_one_place():
    """Elsewhere ``json.dumps`` only makes texts to hash or to compare, and examples of generated data."""
    package = Path(scalearn_jax.__file__).parent
    users = {str(path.relative_to(package)) for path in package.rglob("*.py") if "json.dump" in path.read_text()}
    compare = {"stages/identity.py", "stages/soup.py", "train/agreement.py", "train/checkpoint.py", "train/resume.py"}
    assert users == {"io/files.py", "data/tokens.py", "data/rows.py", "data/builtin/__init__.py", *compare}
