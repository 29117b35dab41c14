"""``scalearn export``: what is written reads back as the same, and names no place on this machine."""

import json
import shutil

import numpy as np
import pytest

from scalearn_jax import cli, methods, tree
from scalearn_jax.config import ExportConfig, ImportConfig
from scalearn_jax.data import tasks
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tensors, save_tensors
from scalearn_jax.models import bank as banks
from scalearn_jax.runs import adapterhub
from scalearn_jax.runs.load import load_run
from scalearn_jax.runs.plain_adapter import foldable
from scalearn_jax.sharing import exporting, folders
from scalearn_jax.sharing.exporting import export_run
from scalearn_jax.sharing.importing import import_source
from tests.conftest import ROOT
from tests.support import drawn_runs, tiny_backbone

GOLDEN = ROOT / "tests/golden/roberta_l3_h32_t4"
TASKS = ("mnli", "qqp", "stsb", "rte")
SOURCES = tuple(str(GOLDEN / "adapters" / task) for task in TASKS)


def imported(src, out, **changes):
    settings = {"src": str(src), "out": str(out), "backbone": str(GOLDEN / "backbone")} | changes
    return import_source(ImportConfig(**settings))


def exported(run, out, **changes):
    return export_run(ExportConfig(run=str(run), out=str(out), **changes))


def files(folder, *left_out):
    """Every file of a folder by its path: tensors, or content."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in left_out]
    return {
        str(path.relative_to(folder)): tree.content_hash(load_tensors(path))
        if path.suffix == ".safetensors"
        else json.loads(path.read_text())
        for path in paths
    }


@pytest.fixture(scope="module")
def fusion(tmp_path_factory):
    """An imported run of AdapterFusion."""
    out = tmp_path_factory.mktemp("fusion") / "run"
    return imported(GOLDEN / "transfer/fusion_dynamic", out, sources=SOURCES, head=str(GOLDEN / "heads/target"))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """An imported run of one adapter."""
    return imported(GOLDEN / "adapters/rte", tmp_path_factory.mktemp("single") / "run", task="glue/rte")


@pytest.mark.parametrize("head", ["target", "regression", "multilabel", "choice"])
def test_export_undoes_import(tmp_path, head):
    """Adapter and head come back bit for bit, and their configuration word for word where the formats overlap."""
    run = imported(GOLDEN / "adapters/rte", tmp_path / "run", head=str(GOLDEN / "heads" / head))
    first = exported(run, tmp_path / "a")
    found, theirs = adapterhub.load(first), adapterhub.load(GOLDEN / "adapters/rte")
    assert tree.content_hash(found[0]) == tree.content_hash(theirs[0]) and found[1] == theirs[1]
    (params, spec), (their_params, their_spec) = map(adapterhub.load_head, (first, GOLDEN / "heads" / head))
    assert tree.content_hash(params) == tree.content_hash(their_params) and spec == their_spec
    assert adapterhub.describe_head(first).kind == adapterhub.describe_head(GOLDEN / "heads" / head).kind
    second = exported(imported(first, tmp_path / "run2"), tmp_path / "b")
    assert files(first, "scalearn.json") == files(second, "scalearn.json")


def test_export_undoes_import_of_a_fusion(tmp_path, fusion):
    """So does import undo export: the setup alone, with its sources beside the fusion, makes the same run."""
    first = exported(fusion, tmp_path / "a")
    again = imported(first, tmp_path / "run")
    second = exported(again, tmp_path / "b")
    assert files(first, "scalearn.json") == files(second, "scalearn.json")
    for name in ("seed-0.safetensors", "frozen.safetensors"):
        assert tree.content_hash(load_tensors(fusion / name)) == tree.content_hash(load_tensors(again / name))
    for task in TASKS:
        ours, theirs = adapterhub.load(first / task), adapterhub.load(GOLDEN / "adapters" / task)
        assert tree.content_hash(ours[0]) == tree.content_hash(theirs[0]) and ours[1] == theirs[1]
    setup = json.loads((first / "adapter_setup.json").read_text())
    assert setup["head_setup"] == "mnli,qqp,stsb,rte" and setup["adapter_setup"]["type"] == "Fuse"


def test_an_exported_adapter_keeps_its_task_and_says_what_it_is(tmp_path, single):
    first = exported(single, tmp_path / "a", name="mine")
    assert sorted(path.name for path in first.iterdir()) == [
        *("adapter.safetensors", "adapter_config.json", "head_config.json", "model_head.safetensors", "scalearn.json"),
    ]
    assert adapterhub.load(first)[1]["name"] == adapterhub.describe_head(first).name == "mine"
    about = json.loads((first / "scalearn.json").read_text())
    assert about["kind"] == "adapter" and about["task"]["name"] == "glue/rte"
    info = json.loads((imported(first, tmp_path / "run") / "run.json").read_text())
    assert info["task"] | {"max_length": 64} == about["task"]


def test_an_export_is_for_its_backbone_only(tmp_path, single):
    first = exported(single, tmp_path / "a")
    other = shutil.copytree(GOLDEN / "backbone", tmp_path / "other")
    tensors = load_tensors(other / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    save_tensors(other / "model.safetensors", tensors | {name: tensors[name] + 1})
    with pytest.raises(InputError, match="was trained on backbone"):
        imported(first, tmp_path / "run", backbone=str(other))


def adapter(width):
    """A random adapter."""
    draw = lambda *shape: np.random.default_rng(width).standard_normal(shape).astype(np.float32)  # noqa: E731
    parts = {"down": (8, width), "up": (width, 8)}
    return {name: {"kernel": draw(2, *shape), "bias": draw(2, shape[1])} for name, shape in parts.items()}


def test_narrow_sources_come_out_as_narrow_as_they_went_in():
    bank = banks.stack([adapter(width) for width in (2, 5, 3)])
    for number, width in enumerate((2, 5, 3)):
        found = exporting.trimmed(banks.select(bank, number))
        assert tree.content_hash(found) == tree.content_hash(adapter(width))


def test_a_native_export_names_no_place_and_runs_elsewhere(tmp_path, fusion):
    run = shutil.copytree(fusion, tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    info |= {"data_dir": str(tmp_path / "data"), "command": f"scalearn transfer --out={tmp_path}/run -x {tmp_path}"}
    info["config"] |= {"out": str(run), "backbone": str(GOLDEN), "data_dir": str(tmp_path), "sources": list(SOURCES)}
    info["imported"]["model_name"] = f"{tmp_path}/base"
    info["seeds"] = [3, 0]
    (run / "run.json").write_text(json.dumps(info))
    shutil.copy(run / "seed-0.safetensors", run / "seed-3.safetensors")
    scores = {str(seed): {"dev": {}, "test": {"accuracy": seed / 10}} for seed in (3, 0)}
    (run / "results.json").write_text(json.dumps({"main_metric": "accuracy", "seeds": scores, "mean": {}, "sd": {}}))
    (run / "metrics.jsonl").write_text("{}\n")
    first = exported(run, tmp_path / "a", format="native")
    names = ["frozen.safetensors", "results.json", "run.json", "seed-3.safetensors"]
    assert sorted(path.name for path in first.iterdir()) == names
    text = (first / "run.json").read_text()
    assert str(tmp_path) not in text and str(ROOT) not in text
    results = json.loads((first / "results.json").read_text())
    assert (list(results["seeds"]), results["mean"], results["sd"]) == (["3"], {"accuracy": 0.3}, {"accuracy": None})
    moved = imported(first, tmp_path / "moved")
    a, b = (load_run(str(folder)).members[seed] for folder, seed in ((fusion, 0), (moved, 3)))
    assert tree.content_hash(a) == tree.content_hash(b)
    exported(moved, tmp_path / "b", format="native")
    assert files(first, "run.json") == files(tmp_path / "b", "run.json")


def test_what_reads_back_otherwise_never_appears(tmp_path, single, monkeypatch):
    save = folders.save_tensors
    flipped = lambda path, tensors: save(path, {name: -array for name, array in tensors.items()})  # noqa: E731
    monkeypatch.setattr(folders, "save_tensors", flipped)
    with pytest.raises(InputError, match="reads back otherwise"):
        exported(single, tmp_path / "a", format="native")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- bad input


def same_names(fusion, to):
    run = shutil.copytree(fusion, to)
    info = json.loads((run / "run.json").read_text())
    info["sources"][0]["name"], info["sources"][1]["name"] = "a/b", "a-b"
    (run / "run.json").write_text(json.dumps(info))
    return run


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"seed": 7}, "--seed 7: the run"),
        ({"seed": 7, "format": "native"}, "--seed 7: the run"),
        ({"name": "a.b"}, "adapter name 'a.b' cannot be written"),
        ({"name": "a", "format": "native"}, "leave it out"),
        ({"run": "none"}, "run.json does not exist"),
    ],
)
def test_bad_settings_are_one_line_and_nothing_is_written(tmp_path, single, settings, message):
    with pytest.raises(InputError) as caught:
        exported(**{"run": single, "out": tmp_path / "out"} | settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_fusions_are_named_after_their_sources(tmp_path, fusion):
    with pytest.raises(InputError, match="a fusion is named after its sources"):
        exported(fusion, tmp_path / "out", name="a")
    with pytest.raises(InputError, match="cannot be told apart"):
        exported(same_names(fusion, tmp_path / "run"), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_layers_that_adapterhub_lacks_are_sent_to_fold(tmp_path, capsys):
    run = imported(GOLDEN / "transfer/scalearn_uniform", tmp_path / "run", sources=SOURCES)
    assert cli.main(["export", str(run), "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "has no such layer" in line and "`scalearn fold " in line
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("method", ["single", "scalearn", "fusion"])
def test_an_encoder_that_adapterhub_lacks_stays_in_our_own_format(method, tmp_path, capsys):
    backbone = tiny_backbone.write(tmp_path / "backbone", num_hidden_layers=1, **tiny_backbone.MPNET)
    run = drawn_runs.write(tmp_path / "run", backbone, tasks.get("builtin/sentiment"), method=method)
    assert cli.main(["export", run, "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "family 'mpnet', which the adapters library does not have" in line and "pass --format native" in line
    assert not list(tmp_path.glob("out*"))
    assert exported(run, tmp_path / "out", format="native").is_dir()


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_is_written_or_refused(method):
    config = ExportConfig(run="run", out="out")
    if method in exporting.ADAPTERS or method.startswith("fusion"):
        assert exporting._kind(config, method) == ("fusion" if "fusion" in method else "adapter")
    else:
        with pytest.raises(InputError, match="scalearn fold run" if method in foldable() else "not .* yet"):
            exporting._kind(config, method)


def test_what_is_written_is_foldable():
    assert set(exporting.ADAPTERS) <= set(foldable())


WHOLE = {"name": "rte", "model_name": None, "reduction_factor": 2.5}


@pytest.mark.parametrize(
    "part, expected",
    [
        (WHOLE, WHOLE),
        ({"name": 3, "model_name": [], "reduction_factor": None}, {}),
        ("text", {}),
    ],
)
def test_what_a_run_says_of_its_import_is_checked(part, expected):
    assert exporting.imported({"imported": part}) == expected
