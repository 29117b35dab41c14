"""Which sources help: contributions and masked scores against slow computations, and the command's files."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import cli, methods, tree
from scalearn_jax.combiners.scalearn import VARIANTS, effective_omega
from scalearn_jax.config import ExplainConfig, TransferConfig
from scalearn_jax.data.task import Task
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.errors import InputError
from scalearn_jax.io import files
from scalearn_jax.io.tensors import load_tensors, save_tensors, save_tree
from scalearn_jax.models import bank as banks
from scalearn_jax.models import encoder
from scalearn_jax.models.adapter import bottleneck
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs import attribution, explain
from scalearn_jax.runs.sources import Source
from scalearn_jax.stages import outputs, prepare
from scalearn_jax.train import evaluate, sharding
from scalearn_jax.train.evaluate import Layout, Members
from tests.support import tiny, tiny_backbone

# a correlation tells models apart that a few examples' accuracy does not
TASK = Task("demo", "regression", ("text",), metrics=("pearson",), max_length=8)
HEADS = (("demo", HeadSpec(num_outputs=1, dropout=0.0)),)
LENGTHS, BATCH_SIZE = (5, 3, 3, 5, 5, 3), 4  # the second batch is short
CASES = [(name, "none") for name in VARIANTS] + [("scalearn", "softmax"), ("scalearn-uniform++", "mean")]
FILES = ["contributions.csv", "explain.json", "explain.png", "explain.svg", "omega.csv", "pruning.csv", "sources.csv"]


def encoded():
    generator = np.random.default_rng(0)
    total, offsets = sum(LENGTHS), np.concatenate([[0], np.cumsum(LENGTHS)])
    labels = generator.normal(size=len(LENGTHS)).astype(np.float32)
    return Encoded(generator.integers(3, 50, total), np.zeros(total, int), offsets, labels, pad_id=1)


def make(combiner="scalearn", normalise="none", num_seeds=1, **changes):
    """A model over a random bank: spec, trainable [M ...] and frozen."""
    spec = tiny.spec(combiner, options={"normalise": normalise}, heads=HEADS, layers="scan", **changes)
    keep = methods.is_trainable(methods.get("scalearn"))
    halves = [tree.partition(tiny.params(spec, seed), keep) for seed in range(num_seeds)]
    return spec, tree.stack([trainable for trainable, _ in halves]), halves[0][1]


def members(spec, trainable, frozen):
    return Members(spec, TASK, *sharding.replicate((trainable, frozen), sharding.make_mesh()))


def score(spec, trainable, frozen):
    layout = Layout.of([encoded()], TASK.max_length, BATCH_SIZE)
    return evaluate.score(members(spec, trainable, frozen), encoded(), layout)


def contributions(spec, trainable, frozen, **layout):
    return attribution.contributions(members(spec, trainable, frozen), encoded(), BATCH_SIZE, **layout)


def scores(spec, trainable, frozen, choices):
    return attribution.masked_scores(members(spec, trainable, frozen), encoded(), BATCH_SIZE, np.array(choices))


@jax.jit
def site_inputs(backbone, site, batch):
    """What each layer's site gets, taken by a wrapper around the update."""
    inputs = []

    def update(site, h):
        inputs.append(h)
        return bottleneck(site, h)

    encoder.encode(encoder.Adapted(backbone, site, update), batch, tiny.BACKBONE, encoder.Compute())
    return inputs


def slow_contributions(spec, params, split):
    """Runs every example alone and unpadded, then loops over layers, sources and tokens."""
    omega = effective_omega(params["transfer"]["omega"], 2, spec.option("normalise"))
    site = banks.widen(params["adapters"], omega)
    bank, omega = jax.tree.map(np.asarray, (params["adapters"], omega))
    sums = np.zeros(omega.shape[:2])
    for example, length in enumerate(LENGTHS):
        tokens = split.ids[None, split.offsets[example] : split.offsets[example + 1]]
        inputs = site_inputs(params["backbone"], site, tiny.batch((length,), length)._replace(tokens=tokens))
        for layer, source in np.ndindex(*sums.shape):
            one = jax.tree.map(lambda leaf, at=(layer, source): leaf[at], bank)
            for token in np.asarray(inputs[layer][0]):
                hidden = np.maximum(token @ one["down"]["kernel"] + one["down"]["bias"], 0)
                output = omega[layer, source] * (hidden @ one["up"]["kernel"] + one["up"]["bias"])
                sums[layer, source] += np.sqrt((output**2).sum())
    return sums / sum(LENGTHS)


@pytest.mark.parametrize("combiner, normalise", CASES)
def test_contributions_equal_a_slow_computation(combiner, normalise):
    spec, trainable, frozen = make(combiner, normalise)
    expected = slow_contributions(spec, tree.combine(tree.index(trainable, 0), frozen), encoded())
    np.testing.assert_allclose(contributions(spec, trainable, frozen)[0], expected, rtol=1e-4)


@pytest.mark.parametrize("combiner, normalise", CASES)
def test_masked_scores_equal_models_whose_acting_factor_is_zero(combiner, normalise):
    """The other model has the factors after normalisation as plain vectors, so that nothing is normalised again."""
    spec, trainable, frozen = make(combiner, normalise)
    plain, *_ = make("scalearn")
    choices = [[True, True, True], [True, False, True], [False, False, False]]
    omega = effective_omega(trainable["transfer"]["omega"][0], 2, normalise)
    omega = jnp.broadcast_to(omega, (2, 3, 16))
    models = [
        trainable | {"transfer": {"omega": omega[None] * jnp.array(kept)[None, None, :, None]}} for kept in choices
    ]
    expected = [score(plain, model, frozen)[0]["pearson"] for model in models]
    np.testing.assert_allclose(scores(spec, trainable, frozen, choices)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_source_scaled_by_zero_contributes_nothing():
    spec, trainable, frozen = make()
    trainable["transfer"]["omega"] = trainable["transfer"]["omega"].at[:, :, 1].set(0)
    found = contributions(spec, trainable, frozen)[0]
    assert not found[:, 1].any() and found[:, [0, 2]].all()


def test_padding_and_packing_have_no_influence():
    spec, trainable, frozen = make()
    packed, padded = (contributions(spec, trainable, frozen, packed=packed) for packed in (True, False))
    np.testing.assert_allclose(packed, padded, rtol=1e-5)


def attribute(spec, trainable, frozen):
    names = tuple("abcdef"[: spec.num_sources])
    seeds = tuple(range(len(trainable["transfer"]["omega"])))
    found = members(spec, trainable, frozen)
    return attribution.attribute(found, encoded(), BATCH_SIZE, sources=names, seeds=seeds)


def test_an_empty_adapter_is_not_missed_and_all_sources_give_the_full_score():
    spec, trainable, frozen = make(num_seeds=2)
    frozen["adapters"] = jax.tree.map(lambda leaf: leaf.at[:, 1].set(0), frozen["adapters"])
    found = attribute(spec, trainable, frozen)
    assert not found.drops[1].any() and found.drops[[0, 2]].all()
    assert found.shares[1] == 0 and found.shares.sum() == pytest.approx(1)
    full = score(spec, trainable, frozen)
    np.testing.assert_array_equal(found.full, [result["pearson"] for result in full])
    np.testing.assert_array_equal(found.pruned[-1], found.full)
    np.testing.assert_array_equal(found.pruned[1], found.full)  # the empty one goes first
    assert found.order == np.argsort(-found.totals).tolist() and found.order[-1] == 1
    np.testing.assert_array_equal(found.kept.sum(1), [1, 2, 3])


@pytest.mark.slow
def test_one_source_or_many_take_two_programs():
    compiled = []

    def record(event, seconds, fun_name=None, **facts):
        if event.endswith("backend_compile_duration"):
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(record)
    try:
        for num_sources in (1, 4):
            compiled.clear()
            found = attribute(*make(num_sources=num_sources))
            assert (compiled.count("jit(observe)"), compiled.count("jit(predict)")) == (1, 1)
            assert found.without.shape == found.pruned.shape == (num_sources, 1) and found.drops.all()
            assert found.shares.sum() == pytest.approx(1)
            np.testing.assert_array_equal(found.pruned[-1], found.full)
    finally:
        jax.monitoring.unregister_event_duration_listener(record)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of two seeds at their start, over random sources: there is nothing to train for these tests."""
    root = tmp_path_factory.mktemp("explain")
    backbone = str(tiny_backbone.write(root / "backbone"))
    adapters = banks.init(jax.random.key(0), banks.BankShape(2, 3, 16, 4))
    adapters = [jax.tree.map(np.asarray, banks.select(adapters, source)) for source in range(3)]
    sources = [Source(name, "", one, "relu", None) for name, one in zip("abc", adapters, strict=True)]
    settings = dict(target="builtin/sentiment", backbone=backbone, max_train_samples=32, max_eval_samples=16)
    setup = prepare.prepare(
        TransferConfig(out=str(root / "run"), seeds=(0, 4), **settings), "builtin/sentiment", sources
    )
    folder = root / "run"
    folder.mkdir()
    for index, seed in enumerate(setup.config.seeds):
        save_tree(folder / f"seed-{seed}.safetensors", tree.index(setup.trainable, index))
    save_tree(folder / "frozen.safetensors", {"adapters": setup.frozen["adapters"]})
    files.write_json(folder / "run.json", outputs.describe("transfer", setup))
    return folder


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_command_writes_tables_and_a_figure(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "out"
    assert cli.main(["explain", str(run), "--out", str(out), "--max-samples", "12", "--batch-size", "8"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy without it" in shown and f"wrote {out}" in shown and "dev split, 12 of 200 examples" in shown
    assert sorted(path.name for path in out.iterdir()) == FILES
    contributions, omega, sources, pruning = (
        read(out / f"{name}.csv") for name in ("contributions", "omega", "sources", "pruning")
    )
    assert len(contributions) == len(omega) == 3 * 2 * 3  # two seeds and their mean, layers, sources
    norms = [float(row["norm"]) for row in contributions if (row["layer"], row["source"]) == ("2", "b")]
    assert norms[2] == pytest.approx((norms[0] + norms[1]) / 2)
    assert all(float(row["rms"]) == pytest.approx(2 / 3, abs=0.01) for row in omega)
    assert [row["source"] for row in sources] == ["a", "b", "c"]
    assert sum(float(row["share"]) for row in sources) == pytest.approx(1)
    facts = json.loads((out / "explain.json").read_text())
    assert (facts["split"], facts["seeds"], facts["metric"]) == ("dev", [0, 4], "accuracy")
    assert sorted(pruning[2]["kept"].split()) == ["a", "b", "c"]
    assert float(pruning[2]["score"]) == pytest.approx(np.mean(facts["scores"]))


@pytest.fixture
def measured(monkeypatch):
    """Puts ready numbers in the place of the measurement; yields what was asked for."""
    asked = {}

    def attribute(members, encoded, batch_size, *, sources, seeds, on_score):
        asked.update(examples=len(encoded), members=len(members.trainable["transfer"]["omega"]), batch_size=batch_size)
        by_layer, by_source = np.ones((len(seeds), 2, len(sources))), np.full((len(sources), len(seeds)), 0.25)
        full, kept = np.full(len(seeds), 0.5), attribution.keep_largest(np.ones(len(sources)))
        return attribution.Attribution(sources, seeds, *[by_layer] * 3, full, by_source, kept, by_source)

    monkeypatch.setattr(attribution, "attribute", attribute)
    return asked


def test_one_seed_beside_the_run_replaces_earlier_files(run, measured, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "explain").mkdir()
    (folder / "explain" / "sources.csv").write_text("old")
    text = explain.explain_run(ExplainConfig(run=str(folder), seed=4, split="test", batch_size=8))
    assert measured == {"examples": 16, "members": 1, "batch_size": 8}
    assert "±" not in text and "test split, 16 of 400 examples" in text and "25.00" in text
    rows = read(folder / "explain" / "sources.csv")
    assert [(row["drop"], row["sd_drop"]) for row in rows] == [("0.25", "")] * 3
    assert {row["seed"] for row in read(folder / "explain" / "omega.csv")} == {"4", "mean"}


def test_a_failure_writes_nothing_and_a_half_written_file_never_shows(run, measured, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    config = ExplainConfig(run=str(run), out=str(tmp_path / "out"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(explain, "sources_csv", stop)
        explain.explain_run(config)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(files.Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        explain.explain_run(config)
    assert not list((tmp_path / "out").iterdir())


def test_without_matplotlib_the_tables_remain(run, measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(explain.importlib.util, "find_spec", lambda name: None)
    explain.explain_run(ExplainConfig(run=str(run), out=str(tmp_path / "out")))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        n for n in FILES if n[-3:] not in ("png", "svg")
    ]
    assert "matplotlib is not installed" in capsys.readouterr().err


def _rewrite(folder, **changes):
    info = json.loads((folder / "run.json").read_text())
    files.write_json(folder / "run.json", info | changes)


BAD = {
    "another method": (
        lambda folder: _rewrite(folder, method="fusion"),
        {},
        "'fusion' run; explain covers scalearn, scalearn-uniform, scalearn\\+\\+",
    ),
    "no folder": (shutil.rmtree, {}, "run.json does not exist"),
    "no data": (lambda folder: _rewrite(folder, **_task(folder)), {"data_dir": "nowhere"}, "glue/rte: no data"),
    "no backbone": (lambda folder: None, {"backbone": "nowhere/none"}, "nowhere/none"),
    "no such seed": (lambda folder: None, {"seed": 3}, "--seed 3: the run .* holds seeds \\[0, 4\\]"),
    "a file in the way": (lambda folder: (folder.parent / "out").write_text(""), {}, "out is no folder"),
}


def _task(folder):
    """Makes the run one of a task without data here."""
    from scalearn_jax.data import tasks

    spec = json.loads((folder / "run.json").read_text())["spec"]
    task = tasks.get("glue/rte").to_dict() | {"max_length": 32}
    for path in folder.glob("seed-*.safetensors"):
        save_tensors(path, {k.replace("builtin:sentiment", "glue:rte"): x for k, x in load_tensors(path).items()})
    return {"task": task, "spec": spec | {"heads": [["glue/rte", spec["heads"][0][1]]]}}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(case, run, tmp_path):
    damage, settings, message = BAD[case]
    folder = shutil.copytree(run, tmp_path / "run")
    damage(folder)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        explain.explain_run(ExplainConfig(run=str(folder), out=str(tmp_path / "out"), **settings))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
