"""``scalearn import``: what others trained gives the same logits as run folders."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from scalearn_jax import cli, model, tree
from scalearn_jax.config import ImportConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tensors, save_tensors
from scalearn_jax.models import pretrained
from scalearn_jax.runs import adapterhub, sources
from scalearn_jax.runs.load import load_run
from scalearn_jax.runs.plain_adapter import foldable, to_plain_adapter
from scalearn_jax.runs.sources import check_base_model, load_source
from scalearn_jax.sharing.importing import import_source
from tests.conformance_checks.cases import make_batch
from tests.conftest import ROOT
from tests.support import tiny_backbone
from tests.support.bin_files import pickled, state
from tests.support.foreign import layer, static_head
from tests.support.released import FUSIONS, LAYERS

GOLDEN = ROOT / "tests/golden/roberta_l3_h32_t4"
FLOAT32 = 5e-5  # as in the conformance checks
TASKS = ("mnli", "qqp", "stsb", "rte")
VARIANTS = LAYERS | FUSIONS
SHUFFLED = tuple(str(GOLDEN / "adapters" / task) for task in ("rte", "stsb", "mnli", "qqp"))


def imported(src, out, case=GOLDEN, **changes):
    """Imports a folder over a case's backbone."""
    settings = {"src": str(src), "out": str(out), "backbone": str(case / "backbone")} | changes
    return import_source(ImportConfig(**settings))


def layers(variant, out, case=GOLDEN, **changes):
    """Imports a variant's layers, with the sources in another order than theirs."""
    sources = tuple(str(case / "adapters" / task) for task in sorted(json.loads(manifest(case))["tasks"]))
    settings = {"sources": sources, "head": str(case / "heads/target")} | changes
    return imported(case / "transfer" / variant, out, case, **settings)


def manifest(case):
    return (case / "manifest.json").read_text()


def error(folder, case=GOLDEN, stored=None, labels="labels_target"):
    """The largest difference between the logits of a run folder and stored ones; what folds shares a program."""
    run = load_run(str(folder))
    spec, params = run.spec, run.members[0]
    if run.info["method"] in foldable():
        one = to_plain_adapter(run, 0)
        spec, params = one.spec, one.params(params["backbone"])
    with np.load(case / "inputs.npz") as file:
        given = [file.get(name) for name in ("input_ids", "attention_mask", "token_type_ids", labels)]
    logits = apply(params, make_batch(*given, run.spec.backbone), spec, run.task.name)
    with np.load(case / f"forward/{stored}.npz") as file:
        return np.abs(np.asarray(logits) - file["logits_f32"]).max()


@functools.partial(jax.jit, static_argnums=(2, 3))
def apply(params, batch, spec, task):
    return model.apply(params, batch, spec=spec, task=task)


@pytest.mark.parametrize("variant", VARIANTS)
def test_imported_layers_give_the_official_logits(tmp_path, variant):
    folder = layers(variant, tmp_path / "run")
    assert error(folder, stored=variant) <= FLOAT32
    info = json.loads((folder / "run.json").read_text())
    assert info["method"] == VARIANTS[variant] and [source["name"] for source in info["sources"]] == list(TASKS)


def test_an_imported_adapter_gives_the_official_logits(tmp_path):
    assert error(imported(GOLDEN / "adapters/stsb", tmp_path / "run"), stored="single_stsb") <= FLOAT32


def test_a_static_head_stands_on_the_pooler_of_the_backbone(tmp_path, place):
    folder, classifier = shutil.copytree(place / "source0", tmp_path / "a"), layer("classifier", 2, 16)
    static_head(folder, "BertForSequenceClassification", classifier)
    run = load_run(str(imported(folder, tmp_path / "run", place)))
    assert (run.task.name, run.task.labels) == ("s0", ("bad", "good"))
    first, backbone = np.float32(np.random.default_rng(0).standard_normal((5, 16))), pretrained.load_backbone
    pooler = backbone(place / "backbone")[0]["pooler"]
    pooled = np.tanh(first @ pooler["kernel"] + pooler["bias"])
    expected = pooled @ classifier["classifier.weight"].T + classifier["classifier.bias"]
    found = model.predict(run.members[0], first, spec=run.spec, task="s0")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    bare = shutil.copytree(place / "backbone", tmp_path / "bare")
    tensors = load_tensors(bare / "model.safetensors")
    save_tensors(bare / "model.safetensors", {name: x for name, x in tensors.items() if "pooler" not in name})
    with pytest.raises(InputError, match="stands on the backbone's pooler, and this backbone has none"):
        imported(folder, tmp_path / "out", backbone=str(bare))


CASES = ("bert_l3_h32_t4", "roberta_l2_h40_t4_rf16", "roberta_l3_h32_t4", "xlmr_l3_h32_t4")
PICKLED = [variant for variant in VARIANTS if not variant.endswith("_pp")]  # the release saved nothing of those


_COPIES = ("transfer.safetensors", "adapter.safetensors", "head.safetensors")
_WITHOUT = {
    True: shutil.ignore_patterns(*_COPIES, "dropout", "train", "grads"),
    False: shutil.ignore_patterns("*.bin", "dropout", "train", "grads"),
}


@pytest.mark.slow
@pytest.mark.parametrize("pickles", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_all_released_folders_give_the_official_logits(tmp_path, shared, case, pickles):
    """The folders as the release writes them, pickles, and their copies as safetensors, without the other of both."""
    case = shutil.copytree(shared / "reference" / case, tmp_path / "case", ignore=_WITHOUT[pickles])
    for variant in PICKLED if pickles else VARIANTS:
        folder = layers(variant, tmp_path / variant, case, allow_pickle=pickles)
        assert error(folder, case, variant) <= FLOAT32, variant
    for task in json.loads(manifest(case))["tasks"]:
        folder = imported(case / "adapters" / task, tmp_path / task, case, allow_pickle=pickles)
        assert error(folder, case, f"single_{task}", f"labels_{task}") <= FLOAT32, task


def test_an_imported_run_says_where_it_comes_from(tmp_path):
    info = json.loads((imported(GOLDEN / "adapters/rte", tmp_path / "run") / "run.json").read_text())
    part = info["imported"]
    assert (part["from"], part["format"], part["reduction_factor"]) == ("rte", "an AdapterHub adapter", 4)
    names = ["adapter.safetensors", "adapter_config.json", "head.safetensors", "head_config.json"]
    assert sorted(part["files"]) == names and {len(digest) for digest in part["files"].values()} == {64}
    assert info["parameters"] == {"transfer": 3 * (2 * 32 * 8 + 32 + 8), "head": 33 * 34, "trainable": 1656 + 1122}
    assert info["sources"] == [] and info["task"]["labels"] == ["LABEL_0", "LABEL_1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A backbone with its tokenizer, an adapter without a head, and rows of a known task."""
    root = tiny_backbone.write_with_sources(tmp_path_factory.mktemp("place"), 2)
    rows = [{"sentence": "a good film", "label": 1}, {"sentence": "a bad film", "label": 0}] * 20
    for split in ("train", "validation"):
        path = root / "glue/sst2" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = {
        part: {"kernel": np.full((16, size), 0.1, np.float32), "bias": np.arange(size, dtype=np.float32)}
        for part, size in (("dense", 16), ("out", 2))
    }
    adapterhub.save_head(head, root / "head", name="s0", kind="classification", config={"model_type": "bert"})
    return root


@pytest.mark.slow
def test_every_command_works_on_an_imported_run(place, tmp_path, capsys):
    settings = ["--backbone", str(place / "backbone"), "--data-dir", str(place)]
    out, answers = str(tmp_path / "run"), str(tmp_path / "answers.jsonl")
    head = ["--task", "glue/sst2", "--head", str(place / "head")]
    assert cli.main(["import", str(place / "source0"), "--out", out, *settings, *head]) == 0
    assert cli.main(["evaluate", out, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert scores["task"] == "glue/sst2" and scores["seeds"]["0"]["accuracy"] == 0.5  # the head's bias wins everywhere
    given = str(place / "glue/sst2/train.jsonl")
    assert cli.main(["predict", out, "--input", given, "--output", answers]) == 0
    assert json.loads((tmp_path / "answers.jsonl").read_text().split("\n")[0])["label"] == "positive"
    assert load_source(out).hash == load_source(str(place / "source0")).hash


def test_a_run_WITHOUT_a_head_is_a_source_and_answers_nothing(place, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["import", str(place / "source0"), "--out", str(out), "--backbone", str(place / "backbone")]) == 0
    assert load_source(str(out)).name == "s0"
    capsys.readouterr()
    for command in (["evaluate", str(out)], ["predict", str(out), "--input", "x", "--output", str(tmp_path / "y")]):
        assert cli.main(command) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert "holds no head" in line and "--head FOLDER" in line
    assert load_run(str(out), headless=True).spec.heads == ()


def test_an_unknown_head_can_be_left_out(tmp_path):
    folder = edited(ADAPTER, tmp_path / "a", HEAD, config={"layers": 1})
    info = json.loads((imported(folder, tmp_path / "run", head="none") / "run.json").read_text())
    assert info["spec"]["heads"] == [] and "head_config.json" not in info["imported"]["files"]


def test_sources_may_be_imported_runs_and_named_with_their_suite(tmp_path):
    """A layer knows the adapter of ``glue/rte`` as ``rte``."""
    own = imported(GOLDEN / "adapters/rte", tmp_path / "rte", task="glue/rte", head=str(GOLDEN / "adapters/qqp"))
    folder = layers("scalearn", tmp_path / "run", sources=(*SHUFFLED[1:], str(own)))
    assert json.loads((folder / "run.json").read_text())["sources"][-1]["name"] == "glue/rte"
    assert error(folder, stored="scalearn") <= FLOAT32


def test_a_run_folder_is_copied_whole_and_told_where_the_backbone_lies(tmp_path):
    first = layers("scalearn_pp", tmp_path / "first")
    (first / "results.json").write_text('{"seeds": {}}')
    moved = shutil.copytree(GOLDEN / "backbone", tmp_path / "moved")
    second = imported(first, tmp_path / "second", backbone=str(moved), data_dir="data")
    infos = [json.loads((folder / "run.json").read_text()) for folder in (first, second)]
    assert infos[1].pop("backbone")["path"] == str(moved) and infos[1].pop("data_dir").endswith("data")
    assert {name: infos[0][name] for name in infos[1]} == infos[1]
    names = ["frozen.safetensors", "results.json", "run.json", "seed-0.safetensors"]
    assert sorted(path.name for path in second.iterdir()) == names
    for name in ("frozen.safetensors", "seed-0.safetensors"):
        assert tree.content_hash(load_tensors(first / name)) == tree.content_hash(load_tensors(second / name))


# ---------------------------------------------------------------- bad input

CONFIG, HEAD = "adapter_config.json", "head_config.json"


def edited(folder, to, file, **changes):
    """A copy of a folder with changes in one JSON file."""
    folder = shutil.copytree(folder, to)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))
    return folder


def empty_pickle(tmp_path):
    folder = shutil.copytree(GOLDEN / "transfer/scalearn_pp", tmp_path / "a")
    (folder / "transfer.safetensors").unlink()
    (folder / "pytorch_model_scalearn.bin").write_bytes(state({}))
    return dict(src=folder, sources=SHUFFLED, allow_pickle=True)


def escaping(tmp_path):
    folder = shutil.copytree(GOLDEN / "adapters/rte", tmp_path / "a")
    (folder / "adapter.safetensors").unlink()
    (folder / "adapter.safetensors").symlink_to(GOLDEN / "adapters/mnli/adapter.safetensors")
    return dict(src=folder)


def escaping_setup(tmp_path):
    children = [{"type": "single", "children": ["../../adapters/rte"]}]
    setup = {"adapter_setup": {"type": "Fuse", "children": children}, "head_setup": None}
    (tmp_path / "adapter_setup.json").write_text(json.dumps(setup))
    return dict(src=tmp_path)


def swapped_labels(tmp_path):
    config = json.loads((GOLDEN / "adapters/rte" / HEAD).read_text())["config"]
    ids = {"label2id": {"not_entailment": 0, "entailment": 1}}
    return dict(src=edited(GOLDEN / "adapters/rte", tmp_path / "a", HEAD, config=config | ids), task="glue/rte")


def other_head(tmp_path):
    part = {"kernel": np.zeros((8, 8), np.float32), "bias": np.zeros(8, np.float32)}
    head = {"dense": part, "out": part}
    adapterhub.save_head(head, tmp_path / "h", name="a", kind="classification", config={"model_type": "bert"})
    return dict(src=GOLDEN / "adapters/rte", head=str(tmp_path / "h"))


ADAPTER, LAYERS = GOLDEN / "adapters/rte", GOLDEN / "transfer/scalearn"
BAD = {
    "no folder": (lambda t: dict(src=t / "none"), "is no folder; expected one with run.json"),
    "an empty folder": (lambda t: dict(src=GOLDEN / "train"), "holds none of run.json, adapter_config.json"),
    "PEFT": (lambda t: dict(src=edited(ADAPTER, t / "a", CONFIG, peft_type="LORA")), "is a PEFT adapter (LORA)"),
    "a known file name of unknown content": (
        lambda t: dict(src=_alien(t / "a")),
        "adapter_config.json describes nothing known",
    ),
    "a fusion under an adapter's file name": (
        lambda t: dict(src=_renamed(GOLDEN / "transfer/fusion_static", t / "a", "adapter_fusion_config.json", CONFIG)),
        "describes an AdapterHub fusion, which adapter_fusion_config.json does; rename it",
    ),
    "two things": (lambda t: dict(src=_both(t / "a")), "holds adapter_config.json and scalearn_config.json"),
    "a pickle": (
        lambda t: dict(src=pickled(shutil.copytree(ADAPTER, t / "a"), "pytorch_adapter.bin", "adapter.safetensors")),
        "--allow-pickle",
    ),
    "an empty pickle": (empty_pickle, "is empty, as the published implementation leaves it"),
    "layers without sources": (lambda t: dict(src=LAYERS), "name their folders with --sources"),
    "an adapter with sources": (lambda t: dict(src=ADAPTER, sources=SHUFFLED), "is an adapter, which combines none"),
    "a source too few": (lambda t: dict(src=LAYERS, sources=SHUFFLED[1:]), "missing: ['rte'], unexpected: none"),
    "another source": (
        lambda t: dict(src=LAYERS, sources=(*SHUFFLED[1:], str(edited(ADAPTER, t / "a", CONFIG, name="wnli")))),
        "not those of one adapter 'wnli'",
    ),
    "a source twice": (lambda t: dict(src=LAYERS, sources=(*SHUFFLED, SHUFFLED[0])), "twice: ['rte']"),
    "a source that leaves out a layer": (
        lambda t: dict(src=LAYERS, sources=(*SHUFFLED[1:], str(_without_a_layer(t / "a")))),
        "has no adapter in some layers (leave_out)",
    ),
    "no backbone": (lambda t: dict(src=ADAPTER, backbone=None), "names no base model on the hub; pass its folder"),
    "another family": (
        lambda t: dict(src=edited(ADAPTER, t / "a", CONFIG, model_type="bert")),
        "is for a bert backbone of hidden size 32",
    ),
    "another hidden size": (
        lambda t: dict(src=ADAPTER, backbone=str(tiny_backbone.write(t / "b", model_type="roberta", pad_token_id=1))),
        "backbone of hidden size 32",
    ),
    "another depth": (
        lambda t: dict(src=ADAPTER, backbone=str(_like(t / "b", num_hidden_layers=2))),
        "has 3 layers of hidden size 32, the backbone has 2 of 32",
    ),
    "a head of another size": (other_head, "has hidden size 8, the backbone 32"),
    "a head of another layout": (
        lambda t: dict(src=edited(ADAPTER, t / "a", HEAD, config={"layers": 1})),
        "layers is 1, expected 2. Pass --head none",
    ),
    "a head of another kind": (lambda t: dict(src=ADAPTER, task="glue/stsb"), "a regression of 1 outputs"),
    "a head with other labels": (lambda t: dict(src=ADAPTER, task="glue/mnli"), "a classification of 3 outputs"),
    "labels in another order": (swapped_labels, "in the order ['not_entailment', 'entailment']"),
    "an unknown task": (lambda t: dict(src=ADAPTER, task="glue/rtee"), "did you mean 'glue/rte'"),
    "a link that leads out": (escaping, "is a link that leads out of its folder"),
    "a setup that leads out": (escaping_setup, "must be those of folders beside it"),
}


def _without_a_layer(to):
    config = json.loads((ADAPTER / CONFIG).read_text())["config"]
    folder = edited(ADAPTER, to, CONFIG, config=config | {"leave_out": [2]})
    tensors = load_tensors(folder / "adapter.safetensors")
    save_tensors(folder / "adapter.safetensors", {name: x for name, x in tensors.items() if "layer.2." not in name})
    return folder


def _renamed(folder, to, old, new):
    folder = shutil.copytree(folder, to)
    (folder / old).rename(folder / new)
    return folder


def _alien(folder):
    folder.mkdir()
    (folder / CONFIG).write_text('{"model_type": "roberta"}')
    return folder


def _both(to):
    folder = shutil.copytree(ADAPTER, to)
    shutil.copy(LAYERS / "scalearn_config.json", folder)
    return folder


def _like(folder, **changes):
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "model_type": "roberta", "pad_token_id": 1}
    return tiny_backbone.write(folder, **sizes | changes)


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, what):
    make, message = BAD[what]
    settings = make(tmp_path)
    with pytest.raises(InputError) as caught:
        imported(settings.pop("src"), tmp_path / "out", **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out*"))


def test_another_base_model_is_refused_unless_told_otherwise(tmp_path, monkeypatch):
    names = {"base_model": "bert-base-cased", "backbone": "google-bert/bert-base-uncased"}
    with pytest.raises(InputError, match=r"base model 'bert-base-cased', .*bert-base-uncased'.*--any-base-model"):
        check_base_model("adapter", **names)
    with pytest.raises(InputError, match="bert-base-uncased@main"):
        check_base_model("adapter", "bert-base-cased", "google-bert/bert-base-uncased@main")
    folder = edited(ADAPTER, tmp_path / "a", CONFIG, model_name="some/other-base")
    assert load_source(str(folder)).base_model == "some/other-base"
    imported(folder, tmp_path / "run")  # a backbone in a folder has no name to compare
    with pytest.raises(InputError, match="'some/other-base', the backbone is 'roberta-base'"):
        imported(folder, tmp_path / "out", backbone="roberta-base")
    monkeypatch.setattr(sources, "is_hub_id", lambda name: True)
    with pytest.raises(InputError, match="'some/other-base', the backbone is '.*/backbone'"):
        imported(folder, tmp_path / "out")
    imported(folder, tmp_path / "out", any_base_model=True)


def test_a_run_on_another_backbone_is_refused(tmp_path):
    first = layers("scalearn_pp", tmp_path / "first")
    with pytest.raises(InputError, match="first was trained on backbone"):
        imported(first, tmp_path / "second", backbone=str(_like(tmp_path / "b", num_hidden_layers=3)))
    with pytest.raises(InputError, match="is a run folder, which has its own"):
        imported(first, tmp_path / "second", sources=SHUFFLED)
    assert not list(tmp_path.glob("second*"))


def test_the_texts_of_a_plain_task_may_be_pairs(tmp_path):
    folder = imported(GOLDEN / "adapters/rte", tmp_path / "run", columns=("text", "other"))
    assert load_run(str(folder)).task.columns == ("text", "other")
    with pytest.raises(InputError, match="one or two texts, got 3"):
        imported(GOLDEN / "adapters/rte", tmp_path / "out", columns=("a", "b", "c"))
    assert not (tmp_path / "out").exists()
