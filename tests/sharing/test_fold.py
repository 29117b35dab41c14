"""`scalearn fold`: the files compute what the run does, or they do not appear."""

import dataclasses
import json
import re
import shutil
from functools import cache

import jax
import numpy as np
import pytest

from scalearn_jax import cli, tree
from scalearn_jax.config import FoldConfig, ImportConfig, TransferConfig
from scalearn_jax.data import tasks
from scalearn_jax.io import files
from scalearn_jax.io.tensors import load_tensors, load_tree, save_tensors, save_tree
from scalearn_jax.models import bank as banks
from scalearn_jax.runs import adapterhub, attribution, provenance
from scalearn_jax.runs.evaluate import members_of, read_split
from scalearn_jax.runs.load import load_run
from scalearn_jax.runs.plain_adapter import to_plain_adapter
from scalearn_jax.runs.serving.predictor import Predictor
from scalearn_jax.runs.sources import Source, load_source
from scalearn_jax.sharing import fold, fold_check
from scalearn_jax.sharing.fold_narrow import only_member, published_form
from scalearn_jax.sharing.importing import import_source
from scalearn_jax.sharing.push import describe_folder
from scalearn_jax.stages import outputs, prepare
from scalearn_jax.train.evaluate import Layout, member_logits, score, scores
from tests.support import drawn_runs, tiny_backbone

SEEDS, SCORES = (0, 4), (0.5, 0.75)
WRITTEN = [
    *("adapter.safetensors", "adapter_config.json", "head_config.json", "model_head.safetensors", "scalearn.json"),
]


def drawn(params, seed):
    """Parameters far from their start, so that sources, layers and seeds differ."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.asarray(leaf + generator.normal(0, 0.3, leaf.shape), np.float32), params)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """Writes run folders of two seeds over random sources; there is nothing to train for these tests."""
    root = tmp_path_factory.mktemp("fold")

    @cache
    def make(method, target, num_layers=1):
        backbone = str(tiny_backbone.write(root / f"backbone-{num_layers}", num_hidden_layers=num_layers))
        bank = drawn(banks.init(jax.random.key(0), banks.BankShape(num_layers, 3, 16, 4)), 0)
        sources = [Source(name, "", banks.select(bank, at), "relu", None) for at, name in enumerate("abc")]
        sources = [] if method == "single" else sources
        folder = root / f"{method}-{target.replace('/', '-')}"
        settings = dict(target=target, method=method, backbone=backbone, max_train_samples=32, max_eval_samples=24)
        setup = prepare.prepare(TransferConfig(out=str(folder), seeds=SEEDS, **settings), target, sources)
        folder.mkdir()
        for index, seed in enumerate(SEEDS):
            save_tree(folder / f"seed-{seed}.safetensors", drawn(tree.index(setup.trainable, index), seed))
        pooler = {name: leaf for name, leaf in setup.frozen["backbone"].items() if name == "pooler"}
        save_tree(folder / "frozen.safetensors", {"adapters": setup.frozen["adapters"], "backbone": pooler})
        files.write_json(folder / "run.json", outputs.describe("transfer", setup))
        by_seed = {str(seed): {"dev": {"accuracy": score}} for seed, score in zip(SEEDS, SCORES, strict=True)}
        files.write_json(folder / "results.json", {"seeds": by_seed})
        return folder

    return make


@pytest.fixture(scope="module")
def run(make_run):
    return make_run("scalearn-mean", "builtin/sentiment", num_layers=2)


def logits_of(folder, run, num_texts=24):
    """What the written files give on the development set."""
    loaded = load_run(str(run))
    seed = json.loads((folder / "scalearn.json").read_text())["seed"]
    adapter, _ = adapterhub.load(folder)
    head, head_spec = adapterhub.load_head(folder)
    made = to_plain_adapter(loaded, seed)
    made = dataclasses.replace(made, adapter=adapter, head=head, head_spec=head_spec)
    encoded = read_split(loaded, "dev", max_eval_samples=num_texts)
    spec = dataclasses.replace(made.spec, dtype="strict")  # so that nothing is compiled again
    members = only_member(spec, loaded.task, made.params(loaded.members[seed]["backbone"]))
    return logits(members, encoded), encoded, loaded.task


def logits(members, encoded):
    return member_logits(members, encoded, Layout.of([encoded], members.task.max_length, 8))[0]


@pytest.mark.slow
def test_the_files_score_as_the_run_does(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["fold", str(run), "--out", str(out), "--batch-size", "8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in out.iterdir()) == WRITTEN
    assert (report["seed"], report["best_of"], report["sources"]) == (4, 2, ["a", "b", "c"])
    assert (report["width_before"], report["width"], report["reduction_factor"]) == (12, 12, 16 / 12)
    assert report["agreement"] == 1 and report["logit_difference"] < 1e-5 and report["fitted_on"] is None
    assert (report["text"], report["num_texts"]) == ("dev split", 24)
    loaded = load_run(str(run))
    encoded = read_split(loaded, "dev")
    own = score(members_of(loaded), encoded, Layout.of([encoded], loaded.task.max_length, 8))[1]
    assert report["scores"] == pytest.approx(own, abs=1e-5) == report["scores_before"]
    found, encoded, task = logits_of(out, run)
    assert scores(task, found[None], encoded)[0] == pytest.approx(own, abs=1e-5)
    told = provenance.read_provenance(out)
    assert (told["kind"], told["method"], told["seed"]) == ("fold", "scalearn-mean", 4)
    assert told["fold"] == {name: report[name] for name in told["fold"]} and str(tmp_path) not in str(told["fold"])
    assert adapterhub.describe_head(out).labels == task.labels


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, target",
    [("single", "builtin/similarity"), ("soup", "builtin/cause"), ("scalearn-uniform++", "builtin/complaints")],
)
def test_every_kind_of_task_folds(method, target, make_run, tmp_path):
    """A regression, a choice with the backbone's pooler in its head, and several labels."""
    report = fold.fold_run(FoldConfig(run=str(make_run(method, target)), out=str(tmp_path / "out"), batch_size=8))
    likeness = report["correlation"] if target == "builtin/similarity" else report["agreement"]
    assert likeness == pytest.approx(1) and report["logit_difference"] < 1e-5
    assert report["sources"] == ([] if method == "single" else ["a", "b", "c"])


@pytest.mark.slow
def test_a_fold_over_mpnet_is_for_this_library_alone(tmp_path, capsys):
    backbone = tiny_backbone.write(tmp_path / "backbone", num_hidden_layers=1, **tiny_backbone.MPNET)
    run = drawn_runs.write(tmp_path / "run", backbone, tasks.get("builtin/sentiment"))
    assert cli.main(["fold", run, "--out", str(tmp_path / "out"), "--batch-size", "8", "--max-samples", "16"]) == 0
    assert "for scalearn alone: the adapters library has no encoder of family 'mpnet'" in capsys.readouterr().out
    written = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (written["model_type"], written["model_class"]) == ("mpnet", None)
    again = import_source(ImportConfig(src=str(tmp_path / "out"), out=str(tmp_path / "again"), backbone=str(backbone)))
    one, other = (Predictor.load(str(folder)).logits(["a fine day", "no"]) for folder in (run, again))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_sources_can_only_go_where_they_are_scaled(make_run, tmp_path, capsys):
    folder = make_run("soup", "builtin/cause")
    assert cli.main(["fold", str(folder), "--out", str(tmp_path / "out"), "--keep", "1"]) == 2
    assert "does not scale sources" in capsys.readouterr().err


@pytest.mark.slow
def test_kept_sources_are_those_that_contribute_most(run, tmp_path):
    config = FoldConfig(run=str(run), out=str(tmp_path / "out"), seed=0, keep=2, batch_size=8)
    report = fold.fold_run(config)
    loaded = load_run(str(run))
    spec, params = published_form(loaded.spec, loaded.members[0])
    encoded, members = read_split(loaded, "dev"), only_member(spec, loaded.task, params)
    kept = attribution.keep_largest(attribution.contributions(members, encoded, 8)[0].sum(0))[1]
    assert report["sources"] == [name for name, is_kept in zip("abc", kept, strict=True) if is_kept]
    assert (report["width_before"], report["width"], report["best_of"]) == (12, 8, 1)
    assert report["logit_difference"] < 1e-5  # to the other sources masked, not to all of them
    masked = attribution.masked_scores(members, encoded, 8, kept[None])[0, 0]
    assert report["scores"]["accuracy"] == pytest.approx(masked)
    assert provenance.read_provenance(tmp_path / "out")["scores"] == {
        "dev": report["scores"]
    }  # not those of the whole run
    after, *_ = logits_of(tmp_path / "out", run)
    before = logits(members, encoded)
    assert report["agreement"] == (after.argmax(-1) == before.argmax(-1)).mean()
    assert np.abs(after - before).max() > 1e-2


@pytest.mark.slow
def test_a_smaller_width_is_reported_from_the_files(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["fold", str(run), "--out", str(out), *"--width 5 --batch-size 8 --max-samples 20".split()]) == 0
    shown = capsys.readouterr().out
    assert "seed 4, the best of 2 on development data" in shown and "12 -> 5 units a layer" in shown
    report = provenance.read_provenance(out)["fold"]
    assert report["width"] == 5 and int(16 // report["reduction_factor"]) == 5
    assert report["logit_difference"] < 1e-5  # of the fold before it is compressed
    assert report["fitted_on"]["num_texts"] == report["num_texts"] == 20
    assert provenance.read_provenance(out)["scores"] == {}  # twenty texts are not the split
    found, encoded, task = logits_of(out, run, num_texts=20)
    assert scores(task, found[None], encoded)[0] == pytest.approx(report["scores"], abs=1e-6)
    assert (
        f"accuracy     {100 * report['scores_before']['accuracy']:.2f} -> {100 * report['scores']['accuracy']:.2f}"
        in shown
    )


@pytest.mark.slow
def test_any_texts_will_do(make_run, tmp_path):
    run, texts = make_run("scalearn-uniform++", "builtin/complaints"), tmp_path / "texts.jsonl"
    rows = [{column: f"a fine {word}" for column in load_run(str(run)).task.columns} for word in "abcdefg"]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = dict(run=str(run), texts=str(texts), batch_size=8)
    plain = fold.fold_run(FoldConfig(out=str(tmp_path / "plain"), max_samples=5, **settings))
    assert (plain["text"], plain["num_texts"], plain["scores"]) == ("texts.jsonl", 5, None)
    narrow = fold.fold_run(FoldConfig(out=str(tmp_path / "narrow"), width=11, **settings))
    assert (narrow["num_texts"], narrow["fitted_on"]["num_texts"]) == (3, 4)
    assert narrow["text"] == "every other text of texts.jsonl" and "loss" not in fold_check.as_text(narrow)


def test_damaged_scores_choose_the_first_seed(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    info = json.loads((folder / "run.json").read_text())
    for seeds in ({"4": {"dev": {"accuracy": float("nan")}}}, {"4": []}, [], {"4": {"dev": {"accuracy": "1"}}}):
        (folder / "results.json").write_text(json.dumps({"seeds": seeds}))
        seed, why = provenance.choose_seed(folder, info)
        assert seed == 0 and why.endswith("took seed 0, the first of 2, since no development scores are kept")
    (folder / "results.json").unlink()
    assert provenance.choose_seed(folder, info)[0] == 0 and provenance.choose_seed(run, info, 0) == (0, "")


@pytest.mark.slow
def test_every_use_of_a_run_takes_its_best_seed_and_says_so(make_run, tmp_path, capsys):
    run = shutil.copytree(make_run("single", "builtin/similarity"), tmp_path / "run")
    scores = {"0": {"dev": {"pearson": 0.5}, "test": {}}, "4": {"dev": {"pearson": 0.75}, "test": {}}}
    files.write_json(run / "results.json", {"seeds": scores})
    said = f"scalearn: {run}: took seed 4, the best of 2 on development data (pearson 75.00)\n"
    (tmp_path / "texts.jsonl").write_text(json.dumps({"sentence1": "A fine day.", "sentence2": "It rains."}))
    answers = {}
    for seed in ([], ["--seed", "4"], ["--seed", "0"]):
        out = tmp_path / f"answers{''.join(seed)}.jsonl"
        argv = ["predict", str(run), "--input", str(tmp_path / "texts.jsonl"), "--output", str(out), *seed]
        assert cli.main(argv) == 0
        answers["".join(seed)] = out.read_text()
        assert capsys.readouterr().err == ("" if seed else said)
    assert answers[""] == answers["--seed4"] != answers["--seed0"]
    source, bank = load_source(str(run)), load_tree(run / "seed-4.safetensors")["adapters"]
    assert source.hash == tree.content_hash(banks.select(bank, 0)) and f"scalearn: {source.why}\n" == said
    for form in ("native", "adapterhub"):
        assert cli.main(["export", str(run), "--out", str(tmp_path / form), "--format", form]) == 0
        assert capsys.readouterr().err == said
    assert (tmp_path / "native/seed-4.safetensors").exists() and describe_folder(run)[0]["seed"] == 4
    assert provenance.read_provenance(tmp_path / "adapterhub")["seed"] == 4
    assert cli.main(["predict", str(run), "--input", "none.jsonl", "--output", str(tmp_path / "more.jsonl")]) == 2
    assert capsys.readouterr().err.count("\n") == 1  # an error is one line


def _larger(monkeypatch):
    fold_exactly = fold.to_plain_adapter

    def to_plain_adapter(run, seed):
        made = fold_exactly(run, seed)
        up = made.adapter["up"] | {"kernel": 1.01 * made.adapter["up"]["kernel"]}
        return dataclasses.replace(made, adapter=made.adapter | {"up": up})

    monkeypatch.setattr(fold, "to_plain_adapter", to_plain_adapter)


def _one_bit(monkeypatch):
    save = adapterhub.save

    def changed(adapter, *args, **kwargs):
        bias = adapter["up"]["bias"].copy()
        bias.view(np.uint32)[0, 0] ^= 1
        save(adapter | {"up": adapter["up"] | {"bias": bias}}, *args, **kwargs)

    monkeypatch.setattr(adapterhub, "save", changed)


@pytest.mark.parametrize(
    "tamper, code, message", [(_larger, 1, "logits differ from the run's by"), (_one_bit, 2, "reads back otherwise")]
)
def test_a_wrong_adapter_is_caught_and_leaves_nothing(tamper, code, message, run, tmp_path, monkeypatch, capsys):
    tamper(monkeypatch)
    assert cli.main(["fold", str(run), "--out", str(tmp_path / "out"), "--batch-size", "8"]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def _rewrite(folder, **changes):
    files.write_json(folder / "run.json", json.loads((folder / "run.json").read_text()) | changes)


def _without_data(folder):
    """Makes the run one of a task of the user's own."""
    (folder / "run.json").write_text((folder / "run.json").read_text().replace("builtin/sentiment", "own/sentiment"))
    for path in folder.glob("seed-*.safetensors"):
        save_tensors(path, {name.replace("builtin:", "own:"): leaf for name, leaf in load_tensors(path).items()})


NOTHING = lambda folder: None  # noqa: E731
BAD = {
    "another method": (lambda folder: _rewrite(folder, method="fusion"), {}, "'fusion' run, which is no ordinary"),
    "no folder": (shutil.rmtree, {}, "run.json does not exist"),
    "no data": (_without_data, {"data_dir": "nowhere"}, "no data; .* Or pass --texts with any .* columns sentence"),
    "no backbone": (NOTHING, {"backbone": "nowhere/none"}, "nowhere/none"),
    "no such seed": (NOTHING, {"seed": 3}, "--seed 3: the run .* holds seeds"),
    "no such texts": (NOTHING, {"texts": "nowhere.jsonl"}, "nowhere.jsonl"),
    "too many sources": (NOTHING, {"keep": 4}, "--keep 4: .* has 3 sources"),
    "too many units": (NOTHING, {"width": 13}, "--width 13: .* has 12 units"),
    "too many units of the kept sources": (NOTHING, {"width": 5, "keep": 1}, "--width 5: .* has 4 units"),
    "no units": (NOTHING, {"width": 0}, "width must be at least 1"),
    "a name with a dot": (NOTHING, {"name": "a.b"}, "a.b"),
    "an empty name": (NOTHING, {"name": ""}, "--name is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(case, run, tmp_path, capsys):
    damage, settings, message = BAD[case]
    folder = shutil.copytree(run, tmp_path / "run")
    damage(folder)
    before = sorted(tmp_path.rglob("*"))
    flags = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert cli.main(["fold", str(folder), "--out", str(tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error)
    assert sorted(tmp_path.rglob("*")) == before
