"""Both stages end to end, on a tiny random backbone and the built-in suite."""

import json
import shutil
from unittest import mock

import jax
import numpy as np
import pytest

from scalearn_jax import tree
from scalearn_jax.config import AdapterConfig, EvaluateConfig, ExplainConfig, PredictConfig, TransferConfig
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tensors, load_tree, save_tensors
from scalearn_jax.models import bank as banks
from scalearn_jax.models import pretrained
from scalearn_jax.runs import adapterhub, load, run_json
from scalearn_jax.runs import evaluate as inference
from scalearn_jax.runs.explain import explain_run
from scalearn_jax.runs.serving import answer_file
from scalearn_jax.runs.sources import Source, load_source
from scalearn_jax.stages import outputs, pipeline, prepare
from scalearn_jax.stages import program as training
from scalearn_jax.train import evaluate, resume
from tests.support import tiny_backbone
from tests.support.bin_files import pickled

SHORT = dict(max_steps=4, batch_size=8, eval_every=2, log_every=2, max_train_samples=32, max_eval_samples=16)
SOURCES = ("builtin/sentiment", "builtin/similarity", "builtin/complaints")
TARGET = "builtin/sentiment"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_backbone.write(tmp_path_factory.mktemp("backbone"), num_hidden_layers=1))


def train_source(task, backbone, out, **changes):
    settings = dict(task=task, backbone=backbone, out=str(out), reduction_factor=4, **SHORT) | changes
    return str(pipeline.train_adapter(AdapterConfig(**settings)))


@pytest.fixture(scope="module")
def sources(backbone, tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    # widths 4, 8 and 4: the bank pads the narrower ones
    factors = dict(zip(SOURCES, (4, 2, 4), strict=True))
    return [train_source(task, backbone, root / task, reduction_factor=factors[task]) for task in SOURCES]


def transfer(backbone, sources, out, **changes):
    settings = dict(target=TARGET, backbone=backbone, sources=tuple(sources), out=str(out), **SHORT) | changes
    return str(pipeline.transfer(TransferConfig(**settings)))


@pytest.fixture(scope="module")
def transferred(backbone, sources, tmp_path_factory):
    return transfer(backbone, sources, tmp_path_factory.mktemp("transfer") / "run", seeds=(0, 4))


def test_a_note_says_where_there_are_fewer_examples_than_asked_for(tmp_path, capsys):
    for split, count in (("train", 20), ("validation", 3)):
        rows = [{"text": f"good soup {i}", "label": i % 2} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = Task("own/few", "classification", ("text",), ("no", "yes"))

    def said(**most):
        config = AdapterConfig(task="own/few", backbone="b", out="o", data_dir=str(tmp_path), **most)
        return [len(table) for table in prepare.load_tables(config, task)], capsys.readouterr().err

    assert said(max_train_samples=18, max_dev_samples=2, max_eval_samples=2) == ([18, 2, 2], "")
    note = "scalearn: note: task own/few has only 18 training examples, not 100{}; all are used.\n"
    assert said(max_train_samples=100) == ([18, 2, 3], note.format(""))
    assert said(max_train_samples=100) == ([18, 2, 3], "")  # once a process
    more = ", 2 development examples, not 9, 3 test examples, not 8"
    found = said(max_train_samples=100, max_dev_samples=9, max_eval_samples=8)
    assert found == ([18, 2, 3], note.format(more))


@pytest.mark.slow
def test_a_run_folder_says_all(transferred, sources):
    info = run_json.read_info(load.Path(transferred))
    names = [source["name"] for source in info["sources"]]
    assert names == ["builtin/similarity", "builtin/complaints", "builtin/sentiment"]  # the target's own comes last
    assert info["parameters"]["transfer"] == 3 * 16
    assert set(info["versions"]) >= {"python", "jax", "flax", "scalearn-jax"}
    events = [json.loads(line) for line in (load.Path(transferred) / "metrics.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "train", "eval", "train", "eval"]


def test_sources_stay_bit_identical(transferred, sources):
    stored = load_tree(load.Path(transferred) / "frozen.safetensors")["adapters"]
    order = [sources[1], sources[2], sources[0]]
    expected = banks.stack([load_source(path).adapter for path in order])
    assert not tiny_backbone.weights_differ(stored, expected)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_evaluating_a_folder_repeats_its_results(transferred, split):
    results = json.loads((load.Path(transferred) / "results.json").read_text())
    found = inference.evaluate(EvaluateConfig(run=transferred, split=split))
    for seed, metrics in found["seeds"].items():
        assert metrics == pytest.approx(results["seeds"][seed][split], rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_seeds_together_equal_a_seed_alone(backbone, sources, transferred, tmp_path):
    alone = transfer(backbone, sources, tmp_path / "alone", seeds=(4,))
    one, both = (load_tree(load.Path(path) / "seed-4.safetensors") for path in (alone, transferred))
    for path, leaf in tree.flatten(one).items():
        np.testing.assert_allclose(leaf, tree.flatten(both)[path], atol=2e-5, err_msg=path)


@pytest.mark.slow
def test_packed_and_padded_training_agree(backbone, sources, tmp_path):
    folders = [
        transfer(backbone, sources, tmp_path / str(packed), packed=packed, backbone_dropout=False, omega_dropout=0.0)
        for packed in (True, False)
    ]
    losses = [
        [
            json.loads(line)["loss"]
            for line in (load.Path(f) / "metrics.jsonl").read_text().splitlines()
            if '"train"' in line
        ]
        for f in folders
    ]
    # the head's dropout acts on examples, which packing leaves in place; the rest is rounding
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["builtin/topic", "builtin/cause"])
@pytest.mark.parametrize("method", ["fusion", "soup"])
def test_other_methods_and_label_kinds(backbone, sources, task, method, tmp_path):
    folder = transfer(backbone, sources, tmp_path / "run", target=task, method=method)
    assert np.isfinite(list(json.loads((load.Path(folder) / "results.json").read_text())["mean"].values())).all()


@pytest.mark.slow
@pytest.mark.parametrize("cost, num_programs", [(0, 2), (100, 1)])
def test_a_run_compiles_few_programs(cost, num_programs, backbone, tmp_path, monkeypatch):
    """One for each row count of training that repays its compilation, and one for evaluation on both splits."""
    monkeypatch.setattr(training, "_PROGRAM_COST", cost)
    evaluate._predict_step.cache_clear()  # a program of another test would serve
    compiled = []

    def record(event, seconds, fun_name=None, **facts):
        if event.endswith("backend_compile_duration"):
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(record)
    try:
        varied = dict(max_length=16, batch_size=36, max_train_samples=200, max_steps=6)  # the last batch is short
        train_source("builtin/entailment", backbone, tmp_path / "run", **varied)
    finally:
        jax.monitoring.unregister_event_duration_listener(record)
    assert (compiled.count("jit(step)"), compiled.count("jit(predict)")) == (num_programs, 1)


@pytest.mark.slow
def test_what_never_learns_stays_with_the_seed_that_drew_it(tmp_path):
    """ProPETL's masks count as no parameters, are in no optimiser and no checkpoint, and differ from seed to seed."""
    backbone = str(tiny_backbone.write(tmp_path / "backbone", **tiny_backbone.SILENT))
    saved, save = [], resume.pack
    frozen = dict(method="propetl", masks="frozen", reduction_factor=4)
    with mock.patch.object(resume, "pack", lambda position: saved.append(save(position)) or saved[-1]):
        both = transfer(backbone, [], tmp_path / "both", seeds=(0, 1), **frozen)
    alone = transfer(backbone, [], tmp_path / "alone", seeds=(1,), **frozen)
    counts = json.loads((load.Path(both) / "run.json").read_text())["parameters"]
    assert counts["transfer"] == 2 * 16 * 4 + 16 + 4
    assert saved and not any("masks" in name or "scores" in name for arrays, _ in saved for name in arrays)
    first, second = (load_tensors(load.Path(both) / f"seed-{seed}.safetensors") for seed in (0, 1))
    again = load_tensors(load.Path(alone) / "seed-1.safetensors")
    for name in ("transfer/masks/down", "transfer/masks/up"):
        assert first[name].dtype == bool and (first[name].sum((1, 2)) == 32).all()
        assert (first[name] != second[name]).any() and (first[name][0] != first[name][1]).any()
        np.testing.assert_array_equal(again[name], second[name])
    assert (first["transfer/adapter/down/kernel"] != second["transfer/adapter/down/kernel"]).any()
    results = json.loads((load.Path(both) / "results.json").read_text())["seeds"]
    for seed, found in inference.evaluate(EvaluateConfig(run=both))["seeds"].items():
        assert found == pytest.approx(results[seed]["test"], abs=1e-5)


@pytest.mark.slow
def test_propetl_learns_its_masks_and_its_run_is_read_as_it_was(tmp_path):
    backbone = str(tiny_backbone.write(tmp_path / "backbone", num_hidden_layers=1, **tiny_backbone.SILENT))
    settings = dict(method="propetl", reduction_factor=4, learning_rate=0.01)
    out = load.Path(transfer(backbone, [], tmp_path / "run", **settings))
    info, results = (json.loads((out / f"{name}.json").read_text()) for name in ("run", "results"))
    assert info["parameters"]["transfer"] == 2 * 16 * 4 + 16 + 4 + 2 * 16 * 4
    scores = load_tensors(out / "seed-0.safetensors")["transfer/scores/down"]
    assert abs(scores).max() > 16**-0.5  # they have left where they were drawn
    found = inference.evaluate(EvaluateConfig(run=str(out)))["seeds"]["0"]
    assert found == pytest.approx(results["seeds"]["0"]["test"], abs=1e-5)
    with pytest.raises(InputError, match="holds a run with other settings.*masks"):
        transfer(backbone, [], out, **settings, masks="frozen")


@pytest.mark.slow
def test_full_fine_tuning_reads_trained_layers_where_they_lie(tmp_path):
    """One by one in training, and together in files."""
    backbone = str(tiny_backbone.write(tmp_path / "backbone"))
    setup = pipeline.adapter_setups(AdapterConfig(task=TARGET, backbone=backbone, out="", method="full", **SHORT))[0]
    layers = setup.trainable["backbone"]["layers"]
    assert isinstance(layers, list) and layers[1]["query"]["kernel"].shape == (1, 16, 16)
    folder = train_source(TARGET, backbone, tmp_path / "full", method="full", reduction_factor=None)
    stored = load_tensors(load.Path(folder) / "seed-0.safetensors")
    assert stored["backbone/layers/query/kernel"].shape == (2, 16, 16)
    assert run_json.expected_shapes(setup.spec, "backbone", "heads") == {name: x.shape for name, x in stored.items()}


@pytest.mark.slow
def test_full_fine_tuning_keeps_its_own_backbone(backbone, tmp_path):
    folder = train_source(TARGET, backbone, tmp_path / "full", method="full", reduction_factor=None)
    trained = load.load_run(folder).members[0]["backbone"]
    original, *_ = pretrained.load_hashed_backbone(backbone)
    assert "pooler" in original and "pooler" not in trained  # its head does not use it
    assert tiny_backbone.weights_differ(trained, original)
    with pytest.raises(InputError, match="expected a single adapter"):
        load_source(folder)


@pytest.mark.slow
def test_a_fresh_adapter_is_a_method_of_stage_two_as_well(backbone, tmp_path):
    folder = transfer(backbone, [], tmp_path / "run", method="single", reduction_factor=8, non_linearity="gelu")
    source = load_source(folder)
    assert source.adapter["down"]["kernel"].shape == (1, 16, 2) and source.non_linearity == "gelu"


@pytest.mark.slow
def test_a_pooled_head_keeps_its_pooler(backbone, sources, tmp_path):
    """A copy of the backbone without pooler has the same content hash, but the head needs it."""
    folder = transfer(backbone, sources, tmp_path / "run", target="builtin/cause")
    copy = shutil.copytree(backbone, tmp_path / "copy")
    tensors = load_tensors(copy / "model.safetensors")
    save_tensors(copy / "model.safetensors", {name: t for name, t in tensors.items() if "pooler" not in name})
    results = json.loads((load.Path(folder) / "results.json").read_text())
    found = inference.evaluate(EvaluateConfig(run=folder, backbone=str(copy)))
    assert found["seeds"]["0"] == pytest.approx(results["seeds"]["0"]["test"], rel=1e-5)


def test_an_adapterhub_adapter_of_the_target_comes_last():
    source = lambda name: Source(name, "", {}, "relu", None)  # noqa: E731
    ordered = prepare.in_published_order([source("rte"), source("glue/mnli"), source("qqp")], "glue/rte")
    assert [source.name for source in ordered] == ["glue/mnli", "qqp", "rte"]


def _lose_a_leaf(folder):
    tensors = load_tensors(folder / "seed-0.safetensors")
    del tensors["transfer/omega"]
    save_tensors(folder / "seed-0.safetensors", tensors)


def _cut_a_leaf(folder):
    tensors = load_tensors(folder / "seed-0.safetensors")
    save_tensors(folder / "seed-0.safetensors", tensors | {"transfer/omega": tensors["transfer/omega"][:, :2]})


def _rewrite(folder, **changes):
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | changes))


DAMAGED = {
    "a leaf is missing": (_lose_a_leaf, r"do not fit run.json \(1 differ: transfer/omega: missing, not \(1, 3, 16\)"),
    "a leaf is cut": (_cut_a_leaf, r"transfer/omega: \(1, 2, 16\), not \(1, 3, 16\)"),
    "no frozen part": (lambda folder: (folder / "frozen.safetensors").unlink(), "adapters/down/bias: missing"),
    "another spec": (lambda folder: _rewrite(folder, spec={"backbone": {}}), "run.json describes no model"),
    "another task": (lambda folder: _rewrite(folder, task={"name": "x"}), "missing key 'kind'"),
    "seeds that are paths": (lambda folder: _rewrite(folder, seeds=["../../x"]), "seeds.: expected a whole number"),
    "no seeds": (lambda folder: _rewrite(folder, seeds=[]), "whole numbers, which name files"),
    "another config": (lambda folder: _rewrite(folder, config="x"), "config.: expected names and values"),
    "another format": (lambda folder: _rewrite(folder, format=9), "has format 9, expected 1"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_run_is_named(case, transferred, tmp_path):
    damage, message = DAMAGED[case]
    folder = shutil.copytree(transferred, tmp_path / "run")
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        inference.evaluate(EvaluateConfig(run=str(folder)))
    assert "\n" not in str(caught.value)


@pytest.fixture
def pickles(backbone, sources, tmp_path):
    """The backbone and a source as folders with pickles only."""
    adapterhub.save(load_source(sources[1]).adapter, tmp_path / "source", name="s", config={"model_type": "bert"})
    copy = shutil.copytree(backbone, tmp_path / "backbone")
    pickled(copy, "pytorch_model.bin", "model.safetensors")
    return str(copy), str(pickled(tmp_path / "source", "pytorch_adapter.bin", "adapter.safetensors"))


def test_pickles_are_read_in_training_on_request(backbone, sources, pickles, tmp_path):
    where = dict(target=TARGET, out=str(tmp_path / "run"), **SHORT)
    for copy, source, name in ((pickles[0], sources[1], "pytorch_model"), (backbone, pickles[1], "pytorch_adapter")):
        with pytest.raises(InputError, match=f"{name}.bin.*--allow-pickle"):
            pipeline.transfer_setups(TransferConfig(backbone=copy, sources=(source,), **where))
    config = TransferConfig(backbone=pickles[0], sources=(pickles[1],), allow_pickle=True, **where)
    (setup,) = pipeline.transfer_setups(config)
    assert setup.sources[0].hash == load_source(sources[1]).hash
    assert setup.backbone_hash == pretrained.load_hashed_backbone(backbone)[2]
    assert outputs.describe("transfer", setup)["config"]["allow_pickle"] is True


def test_a_run_cannot_allow_its_pickle_by_itself(transferred, pickles, tmp_path):
    folder = str(shutil.copytree(transferred, tmp_path / "run"))
    info = json.loads((tmp_path / "run/run.json").read_text())
    allowed = info["config"] | {"allow_pickle": True}
    _rewrite(tmp_path / "run", config=allowed, backbone=info["backbone"] | {"path": pickles[0]})
    for refuse in (
        lambda: load.load_run(folder),
        lambda: inference.evaluate(EvaluateConfig(run=folder)),
        lambda: answer_file.predict(PredictConfig(run=folder, input="in.jsonl", output=str(tmp_path / "out.jsonl"))),
        lambda: explain_run(ExplainConfig(run=folder)),
    ):
        with pytest.raises(InputError, match="pytorch_model.bin.*--allow-pickle"):
            refuse()
    expected = load.load_run(transferred).members
    assert tree.content_hash(load.load_run(folder, allow_pickle=True).members[4]) == tree.content_hash(expected[4])
    scores = [inference.evaluate(EvaluateConfig(run=run, allow_pickle=run == folder)) for run in (transferred, folder)]
    assert scores[0]["seeds"] == scores[1]["seeds"]


def test_predictions_follow_the_input(transferred, tmp_path):
    rows = [{"sentence": "the soup was cold"}, {"sentence": "a lovely evening"}, {"sentence": ""}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = PredictConfig(run=transferred, input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.jsonl"))
    lines = [json.loads(line) for line in answer_file.predict(config).read_text().splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="already exists"):
        answer_file.predict(config)


def test_predicting_without_a_column_or_folder_is_refused(transferred, tmp_path):
    (tmp_path / "in.csv").write_text("text\nhello\n")
    config = dict(run=transferred, input=str(tmp_path / "in.csv"))
    with pytest.raises(InputError, match="unknown column 'sentence' in .*in.csv"):
        answer_file.predict(PredictConfig(output=str(tmp_path / "out.jsonl"), **config))
    with pytest.raises(InputError, match="there is no folder .*none; make it first"):
        answer_file.predict(PredictConfig(output=str(tmp_path / "none" / "out.jsonl"), **config))
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def _other_weights(tmp_path, sources):
    return dict(backbone=str(tiny_backbone.write(tmp_path / "other", seed=1, num_hidden_layers=1)), sources=sources)


def _other_size(tmp_path, sources):
    wide = tiny_backbone.write(tmp_path / "wide", hidden_size=32, num_hidden_layers=1)
    return dict(backbone=str(wide), sources=sources)


def _truncated(tmp_path, sources):
    broken = shutil.copytree(sources[0], tmp_path / "broken")
    weights = broken / "seed-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return dict(sources=[str(broken)])


def _other_tokenizer(tmp_path, sources):
    folder = tiny_backbone.write(tmp_path / "other", num_hidden_layers=1)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: i + 10 * (word not in tiny_backbone.SPECIAL) for word, i in vocabulary.items()}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return dict(backbone=str(folder), sources=sources)


BAD = {
    "another backbone": (_other_weights, "trained on backbone"),
    "another hidden size": (_other_size, "hidden size"),
    "truncated weights": (_truncated, "seed-0.safetensors"),
    "duplicate sources": (lambda tmp, sources: dict(sources=[sources[0]] * 2), "duplicate source names"),
    "no sources": (lambda tmp, sources: dict(sources=[]), "needs --sources"),
    "no run folder": (lambda tmp, sources: dict(sources=[str(tmp)]), "neither a run folder"),
    "unknown method": (lambda tmp, sources: dict(sources=sources, method="scalern"), "did you mean 'scalearn'"),
    "unknown task": (lambda tmp, sources: dict(sources=sources, target="builtin/sentimen"), "builtin/sentiment"),
    "too long": (lambda tmp, sources: dict(sources=sources, max_length=500), "exceeds the backbone's 80 positions"),
    "unknown non-linearity": (
        lambda tmp, sources: dict(sources=[], method="single", non_linearity="rleu"),
        "did you mean 'relu'",
    ),
    "endless warm-up": (lambda tmp, sources: dict(sources=sources, warmup_steps=4), "leaves nothing of 4 steps"),
    "another tokenizer": (_other_tokenizer, "its tokenizer gives token id"),
    "missing coefficients": (
        lambda tmp, sources: dict(sources=sources, method="fixed"),
        "--coefficients has 0 values for 3 sources",
    ),
    "an option of another method": (
        lambda tmp, sources: dict(sources=sources, method="fusion", omega_dropout=0.1),
        "--omega-dropout does not apply to method 'fusion'",
    ),
    "wrong number of weights": (
        lambda tmp, sources: dict(sources=sources, method="soup", weights=(1.0,)),
        "--weights has 1 values for 3 sources",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_before_anything_is_written(case, backbone, sources, tmp_path):
    make, message = BAD[case]
    settings = dict(backbone=backbone) | make(tmp_path, sources)
    with pytest.raises(InputError, match=message) as caught:
        transfer(settings.pop("backbone"), settings.pop("sources"), tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_an_existing_folder_is_never_overwritten(backbone, sources, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        transfer(backbone, sources, tmp_path / "out")
    assert (tmp_path / "out" / "precious").read_text() == "x"


def test_source_methods_belong_to_stage_two(backbone, tmp_path):
    with pytest.raises(InputError, match="scalearn transfer"):
        train_source(TARGET, backbone, tmp_path / "run", method="scalearn")
