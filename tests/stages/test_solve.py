"""Scales that are solved for: laws of the objective through the encoder, the run folder, and what is refused."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from scalearn_jax import tree
from scalearn_jax.config import EvaluateConfig, FoldConfig, ScreenConfig, TransferConfig
from scalearn_jax.errors import InputError, Preempted
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.models import bank as banks
from scalearn_jax.runs.evaluate import evaluate
from scalearn_jax.runs.serving.predictor import Predictor
from scalearn_jax.sharing import fold
from scalearn_jax.stages import pipeline, scales, solve
from scalearn_jax.stages.features import Features, compute, frozen_of_first
from scalearn_jax.stages.screen import screen
from scalearn_jax.train import sharding
from scalearn_jax.train.evaluate import Layout, Members, member_logits
from scalearn_jax.train.ridge import Ridge, Rows
from scalearn_jax.train.solver import Prior
from tests.support import solvable

OMEGA = np.array([[0.4, 0.9, 0.2]])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return solvable.write(tmp_path_factory.mktemp("solve"))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    make = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda text=None, devices=None: make(text, devices or jax.devices()[:1]))


def config_of(root, out="nowhere", **changes):
    sources = tuple(str(root / f"source{number}") for number in changes.pop("order", (0, 1, 2)))
    settings = dict(target="classes", method="scalearn-uniform++", fit="solve", batch_size=16, eval_batch_size=12)
    where = dict(backbone=str(root / "backbone"), data_dir=str(root / "data"), out=str(out))
    return TransferConfig(**where, **settings | {"sources": sources} | changes)


_SETUPS = {}


def setup_of(root, **changes):
    """The setup of a run; equal ones are made once."""
    key = repr((root, len(sharding.make_mesh().devices.flat), sorted(changes.items())))
    if key not in _SETUPS:
        (_SETUPS[key],) = pipeline.transfer_setups(config_of(root, **changes))
    return _SETUPS[key]


def objective_of(root, **changes):
    """The objective of a run on its training set, and the run's setup."""
    setup = setup_of(root, **changes)
    sizes, train = (setup.task.max_length, setup.config.batch_size), setup.data.train
    layout = Layout.of([train], *sizes, packed=setup.config.packed, mesh=setup.mesh)
    return scales.Objective(setup, train, layout), setup


@pytest.fixture(scope="module")
def solved(root, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        make = sharding.make_mesh
        patch.setattr(sharding, "make_mesh", lambda text=None, devices=None: make(text, devices or jax.devices()[:1]))
        return pipeline.transfer(config_of(root, tmp_path_factory.mktemp("solved") / "run"))


def results_of(folder):
    return json.loads(Path(folder, "results.json").read_text())


# ---------------------------------------------------------------- the objective


@pytest.mark.parametrize("method, target", [("scalearn-uniform++", "classes"), ("scalearn", "scores")])
def test_its_gradient_is_that_of_finite_differences(method, target, root):
    objective, setup = objective_of(root, method=method, target=target)
    generator, count = np.random.default_rng(0), scales.numbers_of_each(setup)
    omega = OMEGA + (generator.normal(0, 0.1, (count, 3)) if count > 1 else 0)
    direction = generator.normal(size=omega.shape)
    found = (objective(omega).gradient * direction).sum()
    ahead, back = (objective(omega + step * direction, False).error for step in (1e-2, -1e-2))
    assert found == pytest.approx((ahead - back) / 2e-2, rel=0.02)  # features are float32


def test_its_error_is_the_sum_of_squares_of_its_residuals(root):
    objective, _ = objective_of(root)
    assert (objective.residuals(OMEGA) ** 2).sum() == pytest.approx(objective(OMEGA, False).error, rel=1e-12)


def test_one_number_for_all_is_the_sum_of_its_parts(root):
    objective, setup = objective_of(root, method="scalearn")
    apart = objective(np.repeat(OMEGA, scales.numbers_of_each(setup), axis=0))
    together = objective(OMEGA)
    assert together.error == apart.error
    np.testing.assert_allclose(together.gradient[0], apart.gradient.sum(0), rtol=1e-5)


def test_neither_chunks_nor_padding_matter(root):
    whole = objective_of(root, batch_size=40)[0](OMEGA)
    for changes in ({"batch_size": 8}, {"batch_size": 16, "packed": False}):
        parts = objective_of(root, **changes)[0](OMEGA)
        assert parts.error == pytest.approx(whole.error, rel=1e-5)
        np.testing.assert_allclose(parts.gradient, whole.gradient, rtol=1e-3, atol=1e-5)


def test_it_is_the_same_on_eight_devices(root, monkeypatch):
    one = objective_of(root)[0](OMEGA)
    monkeypatch.undo()
    objective, setup = objective_of(root)
    assert setup.mesh.size == 8
    eight = objective(OMEGA)
    assert eight.error == pytest.approx(one.error, rel=1e-5)
    np.testing.assert_allclose(eight.gradient, one.gradient, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- its solution


def omega_of(setup):
    _, outcome = solve.solve(setup, lambda event: None)
    return outcome.members[0].trainable["transfer"]["omega"], outcome.solved


@pytest.mark.slow
def test_permuted_sources_permute_omega(root, solved):
    order = (2, 0, 1)
    setup = setup_of(root, order=order)
    here, there = omega_of(setup)[1], results_of(solved)["solve"]
    for part in ("omega", "deviation", "error_of_source"):
        assert here[part] == pytest.approx(there[part], rel=0.02), part


@pytest.mark.parametrize("samples, count", [(2000, 4), (6, 1)])
def test_it_is_the_mean_of_halves_none_of_which_is_worse_than_the_centre(samples, count, root):
    setup = setup_of(root)
    setup = dataclasses.replace(setup, config=dataclasses.replace(setup.config, solve_samples=samples))
    _, found = omega_of(setup)
    omegas = np.array(found["omega_of_halves"])
    assert len(omegas) == count
    np.testing.assert_allclose(omegas.mean(0), list(found["omega"].values()))
    prior = Prior(np.array(found["prior"]["center"]), found["prior"]["pull"])
    chosen, layout = solve._chosen(setup)
    halves = scales.halves_of(setup, chosen)
    assert sum(map(len, halves)) == max(1, count // 2) * len(chosen)
    for half, omega in zip(halves, omegas, strict=True):
        evaluate = scales.Objective(setup, half, layout)
        assert evaluate(omega[None], False).error + prior(omega[None])[0] < evaluate(prior.center[None], False).error


def test_halves_are_disjoint_and_have_labels_alike(root):
    setup = setup_of(root)
    chosen, _ = solve._chosen(setup)
    halves = scales.halves_of(setup, chosen)

    def texts(encoded):
        return [encoded.ids[first:last].tobytes() for first, last in pairwise(encoded.offsets)]

    assert texts(halves[0]) not in (texts(halves[2]), texts(halves[3]))  # another draw
    for pair in (halves[:2], halves[2:]):
        assert sorted(texts(pair[0]) + texts(pair[1])) == sorted(texts(chosen))
        counts = [np.bincount(half.labels, minlength=2) for half in pair]
        assert np.abs(counts[0] - counts[1]).max() <= 1


@pytest.mark.slow
def test_a_source_without_effect_stays_at_the_centre(root):
    setup = setup_of(root)
    up = jax.tree.map(lambda leaf: leaf.at[:, 1].set(0), setup.frozen["adapters"]["up"])
    adapters = setup.frozen["adapters"] | {"up": up}
    omega, found = omega_of(dataclasses.replace(setup, frozen=setup.frozen | {"adapters": adapters}))
    away = np.abs(omega[:, 0] - found["prior"]["center"])
    assert away[1] < 1e-6 and away[[0, 2]].max() > 0.01


def test_scales_follow_from_some_examples_and_the_head_from_all(root, solved, monkeypatch):
    rows, head = [], solve.fit_head
    monkeypatch.setattr(solve, "fit_head", lambda *args: rows.append(len(args[1])) or head(*args))
    setup = setup_of(root)
    omega, found = omega_of(dataclasses.replace(setup, config=dataclasses.replace(setup.config, solve_samples=20)))
    assert found["examples"] == 20 and rows == [40]
    assert np.abs(omega[:, 0] - list(results_of(solved)["solve"]["omega"].values())).max() > 0.02


@pytest.mark.slow
def test_one_source_is_solved_for(root):
    setup = setup_of(root, order=(1,))
    omega, found = omega_of(setup)
    assert omega.shape == (1, 1) and 0 < found["deviation"]["s1"] < 1


@pytest.mark.parametrize("spreads", [(), (3.0,)])
def test_the_numbers_of_a_source_part_only_with_evidence(spreads, root, monkeypatch):
    monkeypatch.setattr(scales, "_SPREADS", spreads)
    monkeypatch.setattr(scales, "_VECTOR_LIMIT", 4)
    setup = setup_of(root, method="scalearn", target="scores")
    omega, found = omega_of(setup)
    assert omega.shape == setup.trainable["transfer"]["omega"].shape[1:]
    spread, numbers = found["prior"]["spread"], scales.from_transfer({"omega": omega})
    assert spread in (None, *spreads) and (np.ptp(numbers, axis=0).max() > 1e-6) == (spread is not None)
    np.testing.assert_allclose(numbers.mean(0), list(found["omega"].values()), atol=1e-6)
    assert all(0 < deviation < 1 for deviation in found["deviation"].values())


# ---------------------------------------------------------------- its run


@pytest.mark.slow
def test_the_run_is_scored_served_and_folded_as_any(root, solved, tmp_path):
    results = results_of(solved)
    scores = evaluate(EvaluateConfig(run=str(solved)))["seeds"]["0"]
    assert scores == pytest.approx(results["seeds"]["0"]["test"], rel=1e-5)
    assert results["solve"]["head"]["kind"] == "logistic"
    fold.fold_run(FoldConfig(run=str(solved), out=str(tmp_path / "fold")))
    written = json.loads((tmp_path / "fold/scalearn.json").read_text())["scales"]
    found = results["solve"]
    assert written == {name: [found["omega"][name], found["deviation"][name]] for name in ("s0", "s1", "s2")}
    texts = ["nice soup", "cold dirty floor"]
    plain = Predictor.load(tmp_path / "fold", backbone=str(root / "backbone"))
    np.testing.assert_allclose(plain.logits(texts), Predictor.load(solved).logits(texts), atol=1e-5)


@pytest.mark.slow
def test_a_stopped_solve_goes_on_to_the_same_end(root, solved, tmp_path, monkeypatch):
    config, evaluated, evaluate = config_of(root, tmp_path / "run"), [], scales.Objective.__call__

    def counted(objective, *omega):
        if len(evaluated) == stop:
            raise Preempted("told to stop")
        evaluated.append(omega)
        return evaluate(objective, *omega)

    monkeypatch.setattr(scales.Objective, "__call__", counted)
    stop = 5
    with pytest.raises(Preempted, match="saved 5 evaluations"):
        pipeline.transfer(config)
    assert not Path(config.out).exists()
    stop = None
    pipeline.transfer(config)
    found, expected = results_of(config.out), results_of(solved)
    assert found == expected and len(evaluated) == expected["solve"]["evaluations"]
    logs = [Path(folder, "metrics.jsonl").read_text() for folder in (config.out, solved)]
    assert logs[0] == logs[1]
    pipeline.transfer(config)  # which is finished
    with pytest.raises(InputError, match="solve_samples"):
        pipeline.transfer(dataclasses.replace(config, solve_samples=7))


@pytest.mark.parametrize(
    "method, changes",
    [("head", {"order": (), "target": "own/scores"}), ("fixed", {"coefficients": (0.5, 0.2, 1.0)}), ("soup", {})],
)
def test_a_head_alone_is_solved_for(method, changes, root):
    setup = setup_of(root, **{"target": "scores"} | changes, method=method)
    _, outcome = solve.solve(setup, lambda event: None)
    assert outcome.solved["head"]["kind"] == "ridge" and outcome.solved["evaluations"] == 0
    train, solution = setup.data.train, outcome.members[0].trainable
    inputs = compute(setup, train, np.arange(len(train)))[:, 0]
    expected = Ridge(Rows.of("regression", inputs, train.labels, 1))
    stacked = tree.stack([solution])
    members = Members(setup.spec.program, setup.task, stacked, frozen_of_first(setup))
    [logits] = member_logits(members, train, setup.evaluation_layout)
    weights = expected.weights(outcome.solved["head"]["strength"])
    fitted = train.labels.mean() + expected.rows.x @ weights
    np.testing.assert_allclose(logits, fitted, atol=1e-4)


@pytest.mark.slow
def test_controls_are_where_they_say(root, solved):
    (best, of_best), (equal, of_equal) = (
        solve.solve(setup_of(root, method=method), lambda event: None) for method in ("best-source", "constant")
    )
    errors = results_of(solved)["solve"]["error_of_source"]
    assert of_best.solved["error_of_source"] == pytest.approx(errors, rel=1e-4)
    chosen = best.spec.option("coefficients")
    assert best.sources[chosen.index(1.0)].name == min(errors, key=errors.get) and sum(chosen) == 1
    assert equal.spec.option("coefficients") == (2 / 3,) * 3
    constant = setup_of(root, method="fixed", coefficients=(2 / 3,) * 3)
    expected = solve.solve(constant, lambda event: None)[1].members[0].trainable
    chex.assert_trees_all_equal(of_equal.members[0].trainable, expected)
    alone = [1.0 if one else 0.0 for one in chosen]
    alone = setup_of(root, method="fixed", coefficients=tuple(alone))
    expected = solve.solve(alone, lambda event: None)[1].members[0].trainable
    chex.assert_trees_all_equal(of_best.members[0].trainable, expected)


@pytest.mark.slow
def test_the_best_source_is_the_same_where_the_head_is_trained(root, solved, tmp_path, capsys):
    errors = results_of(solved)["solve"]["error_of_source"]
    best = min(errors, key=errors.get)
    changes = dict(fit="sgd", max_steps=2, eval_every=2, seeds=(0, 1))
    folder = pipeline.transfer(config_of(root, tmp_path / "best", method="best-source", **changes))
    assert f"source {best} has the least leave-one-out error ({errors[best]:.3f})" in capsys.readouterr().err
    chosen = tuple(float(name == best) for name in errors)
    same = pipeline.transfer(config_of(root, tmp_path / "same", method="fixed", coefficients=chosen, **changes))
    for name in ("seed-0.safetensors", "seed-1.safetensors"):
        chex.assert_trees_all_equal(load_tensors(folder / name), load_tensors(same / name))


@pytest.mark.slow
def test_random_sources_keep_the_numbers_of_each_layer_in_another_order(root, tmp_path):
    folder = pipeline.transfer(config_of(root, tmp_path / "run", method="random-source"))
    bank = tree.unflatten(load_tensors(folder / "frozen.safetensors"))["adapters"]
    plain, again = (setup_of(root, method=method).frozen["adapters"] for method in ("constant", "random-source"))
    chex.assert_trees_all_equal(bank, jax.tree.map(np.asarray, again))
    for (path, one), other in zip(jax.tree.leaves_with_path(bank), jax.tree.leaves(plain), strict=True):
        one, other = (np.reshape(leaf, (*leaf.shape[:2], -1)) for leaf in (one, other))  # [L, T, n]
        np.testing.assert_array_equal(np.sort(one), np.sort(other), err_msg=str(path))
        assert (one != other).any(), path


# ---------------------------------------------------------------- which sources


@pytest.mark.slow
def test_three_relevant_of_64_sources_are_found(root):
    """Labels are what one adapter changes in the features; three of the sources are that one, but for some noise."""
    setup = setup_of(root, target="scores", order=(0,))
    layout = Layout.of([setup.data.train], setup.task.max_length, 16, mesh=setup.mesh)
    features = Features(setup, setup.data.train, layout)
    plain, changed = (features(scales.to_transfer(np.array([[scale]]), (1, 1))) for scale in (0, 1))
    plain, changed = plain - plain.mean(0), changed - changed.mean(0)
    rest = changed - plain @ np.linalg.lstsq(plain, changed, rcond=0.2)[0]
    labels = changed @ np.linalg.svd(rest, full_matrices=False)[2][0]
    adapters = [solvable.draw_adapter(100 + number) for number in range(64)]
    relevant = (5, 30, 61)
    for number in relevant:
        noise = solvable.draw_adapter(number, size=0.02)
        adapters[number] = jax.tree.map(np.add, solvable.draw_adapter(0), noise)
    sources = [dataclasses.replace(setup.sources[0], name=f"s{number}") for number in range(64)]
    frozen = setup.frozen | {"adapters": banks.stack(adapters)}
    train = dataclasses.replace(setup.data.train, labels=labels.astype(np.float32))
    data, spec = dataclasses.replace(setup.data, train=train), dataclasses.replace(setup.spec, num_sources=64)
    trainable = setup.trainable | {"transfer": {"omega": np.zeros((1, 64, 1), np.float32)}}
    wide = dataclasses.replace(setup, sources=sources, frozen=frozen, data=data, spec=spec, trainable=trainable)
    found = solve.rank(wide)
    assert {row["name"] for row in found[:3]} == {f"s{number}" for number in relevant}
    # What each says of itself in a bank of its own is what it says beside others at scale 0.
    evaluate = scales.Objective(wide, train, layout)
    errors = {row["name"]: row["error"] for row in found}
    assert evaluate(np.eye(64)[[5]], False).error == pytest.approx(errors["s5"], rel=1e-3)


@pytest.mark.slow
def test_the_best_sources_are_screened_and_taken(root, solved, capsys):
    where = dict(backbone=str(root / "backbone"), data_dir=str(root / "data"), target="classes", batch_size=16)
    found = screen(ScreenConfig(sources=tuple(str(root / f"source{number}") for number in range(3)), **where))
    errors = results_of(solved)["solve"]["error_of_source"]
    assert {row["name"]: row["error"] for row in found["sources"]} == pytest.approx(errors, rel=1e-3)
    assert [row["error"] for row in found["sources"]] == sorted(row["error"] for row in found["sources"])
    gains, objective = {row["name"]: row["gain_at_constant"] for row in found["sources"]}, objective_of(root)[0]
    gradient = objective(np.full((1, 3), 2 / 3)).gradient[0]
    assert [gains[f"s{number}"] for number in range(3)] == pytest.approx((-gradient).tolist(), rel=1e-3)
    kept = [source.name for source in setup_of(root, top_sources=2).sources]
    assert sorted(kept) == sorted(row["name"] for row in found["sources"][:2])
    assert "of 3, by their error alone" in capsys.readouterr().err


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"method": "fusion"}, "fit solve: expected a method of scalearn,.* got 'fusion'"),
        ({"method": "scalearn-softmax"}, "got 'scalearn-softmax'"),
        ({"method": "constant", "coefficients": (1.0,) * 3}, "coefficients do not apply to method 'constant'"),
        ({"learning_rate": 0.1}, "learning_rate is a setting of training"),
        ({"fit": "sgd", "solve_samples": 3}, "solve_samples is for fit solve"),
        ({"max_train_samples": 1}, "1 training examples for 2 classes"),
        ({"fit": "solved"}, "'fit': expected one of sgd, solve"),
    ],
)
def test_bad_settings_get_one_line(changes, expected, root):
    with pytest.raises(InputError, match=expected):
        pipeline.transfer_setups(config_of(root, **changes))


def test_an_error_that_is_not_finite_gets_one_line(root):
    setup = setup_of(root)
    up = jax.tree.map(lambda leaf: leaf * np.nan, setup.frozen["adapters"]["up"])
    adapters = setup.frozen["adapters"] | {"up": up}
    with pytest.raises(InputError, match="features are not finite"):
        solve.solve(dataclasses.replace(setup, frozen=setup.frozen | {"adapters": adapters}), lambda event: None)


def test_a_class_of_one_example_is_named(root, capsys):
    pipeline.transfer_setups(config_of(root, max_train_samples=4))
    said = capsys.readouterr().err
    assert "one training example of class 'yes'" in said or "one training example of class 'no'" in said
