"""AdapterSoup's weights in a run: from the training texts of target and sources, told in its folder."""

import json
import shutil

import numpy as np
import pytest

from scalearn_jax.config import EvaluateConfig, StudyConfig, TransferConfig
from scalearn_jax.data import splits, tasks
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tree, save_tree
from scalearn_jax.models import pretrained
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs import adapterhub, load, run_json
from scalearn_jax.runs import evaluate as inference
from scalearn_jax.runs.sources import load_source
from scalearn_jax.stages import pipeline, soup
from scalearn_jax.studies import cells as plan
from scalearn_jax.studies.checks import study_problems
from tests.support import tiny, tiny_backbone

SHORT = dict(max_steps=2, batch_size=8, eval_every=2, log_every=2, max_train_samples=24, max_eval_samples=16)
SOURCES = ("builtin/sentiment", "builtin/similarity", "builtin/complaints", "builtin/topic")
TARGET = "builtin/sentiment"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_backbone.write(tmp_path_factory.mktemp("backbone"), num_hidden_layers=1))


def write_source(folder, task, backbone):
    """Writes what a stage-1 run of 24 examples leaves behind, without training it."""
    _, sizes, content = pretrained.load_hashed_backbone(backbone)
    row = tasks.get(task)
    head = HeadSpec(num_outputs=row.num_outputs, num_choices=row.num_choices, dropout=0.0)
    spec = tiny.spec("single", backbone=sizes, heads=((task, head),))
    info = {
        "format": run_json.FORMAT,
        "method": "single",
        "config": {"max_train_samples": 24},
        "task": row.to_dict(),
        "backbone": {"path": "b", "revision": None, "hash": content},
        "data_dir": None,
        "sources": [],
        "parameters": {},
        "spec": run_json.spec_to_dict(spec),
        "seeds": [0],
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(info))
    adapters = tiny.params(spec, seed=len(task))["adapters"]
    save_tree(folder / "seed-0.safetensors", {"adapters": adapters})
    return str(folder)


@pytest.fixture(scope="module")
def sources(backbone, tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return [write_source(root / task, task, backbone) for task in SOURCES]


def transfer(backbone, sources, out, **changes):
    settings = dict(target=TARGET, method="soup", backbone=backbone, sources=tuple(sources), out=str(out), **SHORT)
    return load.Path(pipeline.transfer(TransferConfig(**settings | changes)))


@pytest.fixture(scope="module")
def weighed(backbone, sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("soup") / "run"
    return transfer(backbone, sources, out, top_sources=2, similarity_samples=16)


def read(folder):
    info = run_json.read_info(folder)
    return info, dict(info["spec"]["combiner_options"])["weights"]


@pytest.mark.slow
def test_a_run_folder_tells_the_weights_and_similarities(weighed, backbone):
    info, found = read(weighed)
    assert list(info["soup"]["similarities"]) == list(SOURCES) and info["soup"]["samples"] == 16
    assert info["soup"]["embedder"] == info["backbone"]
    assert tuple(found) == soup.weights(list(info["soup"]["similarities"].values()), 2)
    assert np.count_nonzero(found) == 2 and sum(found) == pytest.approx(1)


def test_computed_weights_act_like_given_ones(weighed, backbone, sources, tmp_path):
    given = transfer(backbone, sources, tmp_path / "run", weights=tuple(read(weighed)[1]))
    assert (given / "results.json").read_text() == (weighed / "results.json").read_text()
    one, other = (load_tree(folder / "seed-0.safetensors") for folder in (given, weighed))
    assert not tiny_backbone.weights_differ(one, other)


def test_a_soup_needs_no_source_once_it_is_trained(weighed, tmp_path):
    folder = shutil.copytree(weighed, tmp_path / "run")
    info = json.loads((folder / "run.json").read_text())
    info["sources"] = [source | {"path": "gone"} for source in info["sources"]]
    (folder / "run.json").write_text(json.dumps(info))
    results = json.loads((folder / "results.json").read_text())
    found = inference.evaluate(EvaluateConfig(run=str(folder)))
    assert found["seeds"]["0"] == pytest.approx(results["seeds"]["0"]["test"], rel=1e-5, abs=1e-6)


def measure(backbone, sources, target=TARGET, **changes):
    settings = dict(top_sources=2, similarity_samples=16) | changes
    config = TransferConfig(target=target, method="soup", backbone=backbone, out="", sources=tuple(sources), **settings)
    task = tasks.get(target)
    train = splits.load_splits(task, max_train_samples=24).train
    loaded = [load_source(path) for path in sources]
    return soup.measure(config, task, train, loaded, soup.load_embedder(backbone))


def test_weights_do_not_depend_on_seeds_cache_or_order_of_sources(weighed, backbone, sources, tmp_path, monkeypatch):
    found = read(weighed)[1]
    assert measure(backbone, sources, seeds=(3, 5)).weights == tuple(found)
    monkeypatch.setenv("SCALEARN_CACHE", str(tmp_path / "empty"))
    assert measure(backbone, sources).weights == tuple(found)
    for path in (tmp_path / "empty" / "similarity").iterdir():
        path.write_bytes(b"damaged")
    assert measure(backbone, sources[::-1]).weights == tuple(found[::-1])


def test_equal_texts_are_equally_alike(backbone, sources, tmp_path):
    rows = splits.load_splits(tasks.get(TARGET)).train.to_list()
    (tmp_path / "my" / "twin").mkdir(parents=True)
    for split in splits.SPLITS:
        (tmp_path / "my" / "twin" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    twin = shutil.copytree(sources[0], tmp_path / "run")
    info = json.loads((twin / "run.json").read_text())
    task = info["task"] | {"name": "my/twin"}
    spec = info["spec"] | {"heads": [["my/twin", info["spec"]["heads"][0][1]]]}
    (twin / "run.json").write_text(json.dumps(info | {"task": task, "spec": spec, "data_dir": str(tmp_path)}))
    found = measure(backbone, [*sources, str(twin)], top_sources=5, similarity_samples=24)  # all there are
    assert found.similarities["my/twin"] == found.similarities[TARGET]
    assert found.weights[-1] == found.weights[0]


def test_two_adapters_of_one_task_are_two_sources(backbone, sources):
    found = measure(backbone, [sources[0], sources[1], sources[0]], top_sources=3)
    assert len(found.weights) == 3 and found.weights[0] == found.weights[2]


@pytest.mark.parametrize("changes", [{}, tiny_backbone.MPNET], ids=["bert", "mpnet"])
def test_another_sentence_encoder_can_weigh(changes, backbone, sources, tmp_path):
    other = str(tiny_backbone.write(tmp_path / "other", seed=7, hidden_size=32, num_hidden_layers=1, **changes))
    found, own = measure(backbone, sources, embedder=other), measure(backbone, sources)
    assert found.embedder["path"] == other and found.similarities != own.similarities


def test_data_that_have_moved_are_found_in_the_targets_folder(backbone, sources, tmp_path):
    moved = shutil.copytree(sources[1], tmp_path / "moved")
    info = json.loads((moved / "run.json").read_text())
    (moved / "run.json").write_text(json.dumps(info | {"data_dir": str(tmp_path / "gone")}))
    assert measure(backbone, [str(moved)]).similarities == measure(backbone, [sources[1]]).similarities


def _adapterhub(tmp_path, sources):
    source = load_source(sources[1])
    adapterhub.save(source.adapter, tmp_path / "hub", name="mine", config={"model_type": "bert"})
    return dict(sources=[sources[0], str(tmp_path / "hub")])


def _without_data(tmp_path, sources):
    lost = shutil.copytree(sources[1], tmp_path / "lost")
    info = json.loads((lost / "run.json").read_text())
    task = info["task"] | {"name": "my/task"}
    spec = info["spec"] | {"heads": [["my/task", info["spec"]["heads"][0][1]]]}
    changes = {"task": task, "spec": spec, "data_dir": str(tmp_path / "gone")}
    (lost / "run.json").write_text(json.dumps(info | changes))
    return dict(sources=[str(lost)], data_dir=str(tmp_path))


BAD = {
    "weights as well": (lambda tmp, sources: dict(weights=(1.0,) * 4), "weights and top_sources both say"),
    "embedder alone": (
        lambda tmp, sources: dict(top_sources=None, embedder="e"),
        "embedder is for the similarities that top_sources asks for",
    ),
    "samples alone": (lambda tmp, sources: dict(top_sources=None, similarity_samples=5), "similarity_samples is for"),
    "no source kept": (lambda tmp, sources: dict(top_sources=0), "top_sources must be at least 1, got 0"),
    "no samples": (lambda tmp, sources: dict(similarity_samples=0), "similarity_samples must be at least 1"),
    "another method": (
        lambda tmp, sources: dict(method="scalearn"),
        "--top-sources does not apply to method 'scalearn'",
    ),
    "no embedder": (lambda tmp, sources: dict(embedder=str(tmp / "none")), "--embedder: .*is not a folder"),
    "an AdapterHub source": (_adapterhub, r"source mine \(.*hub\) is an AdapterHub folder.*pass --weights"),
    "a source without data": (_without_data, r"--top-sources, source my/task \(.*lost\): task my/task: no data"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_anything_is_written(case, backbone, sources, tmp_path):
    make, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        transfer(backbone, **dict(sources=sources, top_sources=2) | make(tmp_path, sources), out=tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_unlike_sources_are_told(backbone, sources, monkeypatch):
    monkeypatch.setattr(soup, "_mean_vector", lambda embedder, tokenizer, task, texts: _opposite(task))
    with pytest.raises(InputError, match="no source's training texts are like the target's") as caught:
        measure(backbone, sources[1:])
    assert "\n" not in str(caught.value)


def _opposite(task):
    return np.array([1.0, 0.0]) if task.name == TARGET else np.array([-0.5, 1.0])


def test_a_study_takes_the_options_and_names_bad_ones():
    values = dict(name="n", backbone="b", sources=("glue/rte",), targets=("glue/mrpc",), methods=("soup", "scalearn"))
    study = StudyConfig(**values, methods_options={"soup": {"top_sources": 5}})
    assert study_problems(study) == []
    configs = {cell.name: cell.config for cell in plan.cells(study, "o")}
    assert configs["glue/mrpc/soup"].top_sources == 5 and configs["glue/mrpc/scalearn"].top_sources is None
    for options, message in (
        ({"top_sources": 0}, "glue/mrpc/soup: top_sources must be at least 1"),
        ({"top_sources": 1, "weights": [1.0]}, "glue/mrpc/soup: weights and top_sources both"),
        ({"embedder": "e"}, "glue/mrpc/soup: embedder is for"),
    ):
        assert message in "; ".join(study_problems(StudyConfig(**values, methods_options={"soup": options})))
