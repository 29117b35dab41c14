"""Fetching from a stand-in for the hub, using what was fetched without it, and noticing what has changed since."""

import json

import pytest

from scalearn_jax import cli
from scalearn_jax.config import FetchConfig
from scalearn_jax.data import splits, tasks, tokens
from scalearn_jax.errors import InputError
from scalearn_jax.runs import load as runs
from scalearn_jax.sharing import fetch as offline
from tests.support import hub_server, shareable, tiny_backbone

ROWS = 40
CB = {split: f"cb/{split}/0000.parquet" for split in ("train", "validation")}


def lines(first: int, count: int) -> bytes:
    rows = ({"excerpt": f"text {i}", "sectors": [], "pillars_1d": ["Context"]} for i in range(first, first + count))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(tmp_path, count: int) -> bytes:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "premise": [f"p{i}" for i in range(count)],
        "hypothesis": ["h"] * count,
        "label": [i % 3 for i in range(count)],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    return (tmp_path / "table.parquet").read_bytes()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tiny_backbone.write(tmp_path_factory.mktemp("backbone"), num_hidden_layers=1)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(monkeypatch, tmp_path, backbone):
    """A hub with a backbone, an adapter and two data sets; the package's own cache is empty."""
    monkeypatch.setenv("SCALEARN_CACHE", str(tmp_path / "own"))
    with hub_server.running(monkeypatch, tmp_path / "cache") as running:
        running.add("models/org/tiny", backbone | {"README.md": b"not fetched"})
        folder = shareable.write(tmp_path / "fold")
        running.add("models/me/fold", {path.name: path.read_bytes() for path in folder.iterdir()})
        running.add(
            "datasets/nlp-thedeep/humset", {f"data/{s}.jsonl": lines(i, 9) for i, s in enumerate(splits.SPLITS)}
        )
        tables = {path: parquet(tmp_path, ROWS) for path in CB.values()}
        running.add("datasets/aps/super_glue", tables | {"other.bin": b""}, branch="refs/convert/parquet")
        yield running


EVERYTHING = dict(backbone=("org/tiny@main",), tasks=("superglue/cb", "humset/sectors", "humset/pillars_1d"))
EVERYTHING |= {"sources": ("me/fold",)}


def all_of(where):
    """Reads everything that was fetched: a content hash, a vocabulary, tables, an adapter's hash."""
    loaded = [splits.load_splits(tasks.get(name), data_dir=where.get("data_dir")) for name in EVERYTHING["tasks"]]
    data = [[table[:] for table in tables] for tables in loaded]
    vocabulary = tokens.load_tokenizer(where["backbone"]).get_vocab()
    return runs.load_backbone(where["backbone"])[2], vocabulary, data, runs.load_source(where["sources"]).hash


def test_what_stays_in_the_cache_is_found_without_a_network(hub, monkeypatch):
    shown = offline.fetch(FetchConfig(**EVERYTHING))
    assert "HF_HUB_OFFLINE=1 scalearn transfer --backbone org/tiny@main --sources me/fold ..." in shown
    assert {line.split()[0] for line in shown.splitlines()[2:6]} == {
        *("backbones/org-tiny", "data/humset", "data/superglue/cb", "sources/me-fold")
    }
    ids = {"backbone": "org/tiny@main", "sources": "me/fold"}
    online = all_of(ids)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert all_of(ids) == online and not hub.asked
    assert offline.check(FetchConfig(check=True)) == "all as fetched: 14 files of 4 folders"


def test_a_folder_is_all_that_another_machine_needs(hub, monkeypatch, tmp_path, capsys):
    online = all_of({"backbone": "org/tiny", "sources": "me/fold"})
    out = tmp_path / "carried"
    argv = [word for name, values in EVERYTHING.items() for word in (f"--{name}", *values)]
    assert cli.main(["fetch", *argv, "--out", str(out)]) == 0
    flags = capsys.readouterr().out.splitlines()[-1].partition("scalearn transfer ")[2].split()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    where = {flag[2:].replace("-", "_"): value for flag, value in zip(flags[::2], flags[1::2], strict=False)}
    assert all_of(where) == online
    assert not (out / "backbones/org-tiny/README.md").exists() and not any(path.is_symlink() for path in out.rglob("*"))


def test_shards_become_one_file(hub, tmp_path):
    whole = lines(0, 30)
    cut = whole.index(b"\n", len(whole) // 2) + 1
    files = {"d/train-0.jsonl": whole[:cut], "d/train-1.jsonl": whole[cut:], "d/validation.jsonl": lines(0, 3)}
    hub.add("datasets/me/own", files)
    hub_files = {"train": "d/train-*.jsonl", "validation": "d/validation.jsonl"}
    row = {"name": "own", "kind": "multilabel", "texts": ["excerpt"], "labels": ["Context"]}
    (tmp_path / "own.yaml").write_text(
        json.dumps(row | {"label_column": "pillars_1d", "hub": {"repo": "me/own", "files": hub_files}})
    )
    offline.fetch(FetchConfig(tasks=(str(tmp_path / "own.yaml"),), out=str(tmp_path / "out")))
    assert (tmp_path / "out/data/own/train.jsonl").read_bytes() == whole
    carried = tasks.get("own", data_dir=tmp_path / "out/data")  # the row goes with its data
    assert carried.labels == ("Context",) and offline.check(FetchConfig(check=True, out=str(tmp_path / "out")))
    assert len(splits.load_splits(carried, data_dir=tmp_path / "out/data").test["excerpt"]) == 3


def test_every_difference_is_named(hub, tmp_path):
    with pytest.raises(InputError, match="fetched.json does not exist; pass the --out of the fetch"):
        offline.check(FetchConfig(check=True))
    out = tmp_path / "carried"
    offline.fetch(FetchConfig(backbone=("org/tiny",), sources=("me/fold",), out=str(out)))
    assert offline.check(FetchConfig(check=True, out=str(out))).startswith("all as fetched")
    weights = out / "sources/me-fold/adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    (out / "backbones/org-tiny/config.json").unlink()
    (out / "backbones/org-tiny/added.json").touch()
    with pytest.raises(InputError, match="not as fetched") as caught:
        offline.check(FetchConfig(check=True, out=str(out)))
    for part in (
        "org-tiny/config.json is missing",
        "org-tiny/added.json is new",
        "adapter.safetensors has other content",
    ):
        assert part in str(caught.value)
    (out / "fetched.json").write_text(json.dumps({"format": 1, "fetched": {"x": {"repo": 1}}}))
    with pytest.raises(InputError, match="fetched.json, x"):
        offline.check(FetchConfig(check=True, out=str(out)))


def test_a_later_fetch_adds_to_the_record_of_the_cache(hub):
    offline.fetch(FetchConfig(sources=("me/fold",)))
    offline.fetch(FetchConfig(backbone=("org/tiny",)))
    assert "9 files of 2 folders" in offline.check(FetchConfig(check=True))


def test_what_cannot_be_fetched_leaves_no_folder(hub, tmp_path):
    for settings, message in {
        (("backbone", ("org/none",)),): "backbone 'org/none' .*no such repository",
        (("sources", ("org/tiny@v9",)),): "no such revision",
        (("tasks", ("builtin/topic",)),): "names no hub data set",
        (("tasks", ("glue/rte",)),): "glue/rte: no --data-dir is given, and its data set 'nyu-mll/glue' could not be",
        (("sources", (str(tmp_path),)),): "is here already",
    }.items():
        with pytest.raises(InputError, match=message):
            offline.fetch(FetchConfig(**dict(settings), out=str(tmp_path / "out")))
        assert not list(tmp_path.glob("out*"))
    with pytest.raises(InputError, match="me/fold@a and me/fold@b would both be sources/me-fold; fetch them one after"):
        offline.fetch(FetchConfig(sources=("me/fold@a", "me/fold@b")))
    for settings, message in ({}, "nothing to fetch"), ({"check": True, "tasks": ("x",)}, "leave out tasks"):
        with pytest.raises(InputError, match=message):
            FetchConfig(**settings)
