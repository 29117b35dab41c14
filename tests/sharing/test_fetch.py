"""Fetching from a stand-in for the hub, and using what was fetched without it."""

import json

import pytest

from scalearn_jax import cli
from scalearn_jax.config import FetchConfig
from scalearn_jax.data import splits, tasks, tokens
from scalearn_jax.errors import InputError
from scalearn_jax.models import pretrained
from scalearn_jax.runs.sources import load_source
from scalearn_jax.sharing.fetch import fetch
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
    return pretrained.load_hashed_backbone(where["backbone"])[2], vocabulary, data, load_source(where["sources"]).hash


def test_what_stays_in_the_cache_is_found_without_a_network(hub, monkeypatch):
    shown = fetch(FetchConfig(**EVERYTHING))
    assert "HF_HUB_OFFLINE=1 scalearn transfer --backbone org/tiny@main --sources me/fold ..." in shown
    rows = [line.split() for line in shown.splitlines() if line.split()[:1] in (["backbone"], ["data"], ["source"])]
    assert [tuple(row[:2]) for row in rows] == [
        ("backbone", "org/tiny"),
        ("data", "aps/super_glue"),
        ("data", "nlp-thedeep/humset"),
        ("source", "me/fold"),
    ]
    ids = {"backbone": "org/tiny@main", "sources": "me/fold"}
    online = all_of(ids)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert all_of(ids) == online and not hub.asked


def test_a_source_on_the_hub_may_have_a_name_and_lie_below_the_top(hub, tmp_path):
    files = {f"rte/{path.name}": path.read_bytes() for path in (tmp_path / "fold").iterdir()}
    hub.add("models/me/checkpoint", files | {"trainer_state.json": b"{}"})
    plain, below = load_source("me/fold"), load_source("own/rte=me/checkpoint")
    assert (below.name, below.hash) == ("own/rte", plain.hash)
    assert below.path.startswith("me/checkpoint@") and load_source(below.path).hash == plain.hash
    shown = fetch(FetchConfig(sources=("own/rte=me/checkpoint",)))
    [row] = [line.split() for line in shown.splitlines() if line.startswith("source")]
    assert row[1:3] == ["me/checkpoint", below.path.partition("@")[2][:12]]
    assert "--sources own/rte=me/checkpoint ..." in shown


def test_nothing_is_written_but_the_hubs_cache(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    argv = [word for name, values in EVERYTHING.items() for word in (f"--{name}", *values)]
    assert cli.main(["fetch", *argv]) == 0
    assert {path.name for path in tmp_path.iterdir()} - before <= {"cache"}
    assert "next, without a network: HF_HUB_OFFLINE=1" in capsys.readouterr().out
    assert cli.main(["fetch", *argv, "--out", "carried"]) == 2  # the cache is the copy to carry
    assert not (tmp_path / "carried").exists()


def test_what_cannot_be_fetched_is_named(hub, tmp_path):
    for settings, message in {
        (("backbone", ("org/none",)),): "backbone 'org/none' .*no such repository",
        (("sources", ("org/tiny@v9",)),): "no such revision",
        (("tasks", ("builtin/topic",)),): "names no hub data set",
        (("tasks", ("glue/rte",)),): "glue/rte: no --data-dir is given, and its data set 'nyu-mll/glue' could not be",
        (("sources", (str(tmp_path),)),): "is here already",
    }.items():
        with pytest.raises(InputError, match=message):
            fetch(FetchConfig(**dict(settings)))
    with pytest.raises(InputError, match="nothing to fetch"):
        FetchConfig()
