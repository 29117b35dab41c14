"""Pruning and compressing a folded adapter, against slow computations and ordinary least squares."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax.data.tokens import Encoded
from scalearn_jax.models import bank as banks
from scalearn_jax.models import encoder
from scalearn_jax.models.adapter import bottleneck
from scalearn_jax.runs.plain_adapter import to_plain_adapter
from scalearn_jax.sharing.fold_narrow import choose_units, compress, grams, prune, published_form, refit
from tests.runs.test_plain_adapter import SUMS, make_run
from tests.support import tiny

LENGTHS = (5, 3, 3, 5, 5, 3)


def draw(tokens=200, units=6, hidden_size=4, seed=0):
    """Activations [tokens units] of a ReLU with the bias' ones, their Gram matrix, and an up-projection."""
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(units, units))
    h = np.maximum(generator.normal(size=(tokens, units)) @ mix, 0)
    h = np.concatenate([h, np.ones((tokens, 1))], 1)
    return h, h.T @ h, generator.normal(size=(units + 1, hidden_size))


def squared_error(h, matrix, units, fitted):
    kept = np.append(units, h.shape[1] - 1)
    return ((h @ matrix - h[:, kept] @ fitted) ** 2).sum()


def test_keeping_all_units_changes_no_bit():
    _, gram, matrix = draw()
    np.testing.assert_array_equal(choose_units(gram, matrix, 6), np.arange(6))
    np.testing.assert_array_equal(refit(gram, matrix, np.arange(6)), matrix)


@pytest.mark.parametrize("units", [[0, 1, 2, 3, 4], [1, 4], [3]])
def test_refit_is_least_squares(units):
    h, gram, matrix = draw()
    expected, *_ = np.linalg.lstsq(h[:, [*units, 6]], h @ matrix, rcond=None)
    np.testing.assert_allclose(refit(gram, matrix, np.array(units)), expected, atol=1e-4)


def test_a_duplicated_unit_goes_without_loss():
    h, _, matrix = draw()
    h[:, 3] = 2.5 * h[:, 1]
    gram = h.T @ h
    units = choose_units(gram, matrix, 5)
    assert set(range(6)) - set(units.tolist()) <= {1, 3}
    fitted = refit(gram, matrix, units)
    assert squared_error(h, matrix, units, fitted) < 1e-10 * ((h @ matrix) ** 2).sum()


def test_dead_units_go_first_and_change_nothing():
    h, _, matrix = draw()
    h[:, [0, 4]] = 0
    gram = h.T @ h
    assert choose_units(gram, matrix, 4).tolist() == [1, 2, 3, 5]
    np.testing.assert_array_equal(refit(gram, matrix, np.array([1, 2, 3, 5])), matrix[[1, 2, 3, 5, 6]])
    assert np.isfinite(refit(gram, matrix, np.array([0, 4]))).all()


def test_every_choice_is_the_best_next_one():
    h, gram, matrix = draw()
    error = lambda units: squared_error(h, matrix, units, refit(gram, matrix, np.array(units)))  # noqa: E731
    for width in range(1, 6):
        before, after = (choose_units(gram, matrix, w).tolist() for w in (width - 1, width))
        assert set(before) < set(after)
        best = min(error([*before, unit]) for unit in set(range(6)) - set(before))
        assert error(after) == pytest.approx(best)


def test_units_that_do_the_same_are_not_chosen_together():
    """Three sources of eight units each that differ by little: those that add most are not those to keep."""
    generator = np.random.default_rng(0)
    one = np.maximum(generator.normal(size=(2000, 8)), 0)
    three = np.concatenate([one + 0.05 * generator.normal(size=one.shape) for _ in range(3)] + [np.ones((2000, 1))], 1)
    gram, matrix = three.T @ three, generator.normal(size=(25, 4))
    size = np.linalg.norm(matrix[:-1], axis=1) * np.sqrt(np.diag(gram)[:-1])
    choices = choose_units(gram, matrix, 8), np.sort(np.argsort(-size)[:8])
    ours, theirs = (squared_error(three, matrix, units, refit(gram, matrix, units)) for units in choices)
    assert set(choices[0] % 8) == set(range(8)) and ours < 0.1 * theirs


def test_fewer_tokens_than_units_leave_the_original_where_they_say_nothing():
    h, gram, matrix = draw(tokens=3, units=12)
    units = choose_units(gram, matrix, 6)
    fitted = refit(gram, matrix, units)
    assert np.abs(fitted).max() < 100 and np.isfinite(fitted).all()
    assert squared_error(h, matrix, units, fitted) < 1e-6 * ((h @ matrix) ** 2).sum()


@pytest.fixture(scope="module")
def folded():
    """A run of ScaLearn with its fold."""
    run = make_run("scalearn")
    return run.members[0], dataclasses.replace(
        to_plain_adapter(run, 0), task=dataclasses.replace(run.task, max_length=8)
    )


def encoded():
    generator, total = np.random.default_rng(0), sum(LENGTHS)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    return Encoded(
        generator.integers(3, 50, total), np.zeros(total, int), offsets, np.zeros(len(LENGTHS), int), pad_id=1
    )


@jax.jit
def site_inputs(backbone, site, batch):
    """What each layer's site gets, taken by a wrapper around the update."""
    inputs = []

    def update(site, z):
        inputs.append(z)
        return bottleneck(site, z)

    encoder.encode(encoder.Adapted(backbone, site, update), batch, tiny.BACKBONE, encoder.Compute())
    return inputs


def test_grams_are_those_of_every_text_alone(folded):
    params, adapter = folded
    text, expected = encoded(), np.zeros((2, 13, 13))
    for example, length in enumerate(LENGTHS):
        one = tiny.batch((length,), length)._replace(tokens=text.ids[None, slice(*text.offsets[example:][:2])])
        for layer, z in enumerate(site_inputs(params["backbone"], adapter.adapter, one)):
            down = {name: leaf[layer].astype(float) for name, leaf in adapter.adapter["down"].items()}
            h = np.maximum(np.asarray(z[0], float) @ down["kernel"] + down["bias"][None], 0)
            h = np.concatenate([h, np.ones((length, 1))], 1)
            expected[layer] += h.T @ h
    found = grams(adapter, params["backbone"], text, batch_size=4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert found[0, -1, -1] == sum(LENGTHS)


def test_compressing_to_the_same_width_is_the_identity(folded):
    _, adapter = folded
    gram = np.stack([draw(units=12, seed=layer)[1] for layer in range(2)])
    same, smaller = (compress(adapter, gram, width) for width in (12, 5))
    jax.tree.map(np.testing.assert_array_equal, same.adapter, adapter.adapter)
    assert smaller.width == 5 and smaller.adapter["up"]["kernel"].dtype == np.float32
    matrix = np.concatenate([adapter.adapter["up"]["kernel"][1], adapter.adapter["up"]["bias"][1][None]]).astype(float)
    units = choose_units(gram[1], matrix, 5)
    np.testing.assert_array_equal(smaller.adapter["down"]["kernel"][1], adapter.adapter["down"]["kernel"][1][:, units])
    np.testing.assert_array_equal(smaller.adapter["down"]["bias"][1], adapter.adapter["down"]["bias"][1][units])


@pytest.mark.parametrize("method", [*SUMS, "fixed"])
def test_a_pruned_fold_is_the_model_with_the_other_sources_masked(method):
    """The factors stay those among all sources, also where they are normalised."""
    run = make_run(method)
    spec, params = published_form(run.spec, run.members[0])
    z = np.random.default_rng(0).normal(size=(1, 5, 16)).astype(np.float32)
    for kept in map(np.array, ([False, True, False], [True, False, True], [True, True, True])):
        site = spec.combiner_functions.bind(params["transfer"], banks.mask(params["adapters"], jnp.asarray(kept)))
        adapter = prune(spec, params, kept)
        assert adapter["down"]["bias"].shape == (2, 4 * kept.sum())
        for layer in range(2):
            of_layer = lambda leaf, at=layer: leaf[at]  # noqa: E731
            expected = spec.combiner_functions.apply(jax.tree.map(of_layer, site), z)
            found = bottleneck(jax.tree.map(of_layer, adapter), z)
            np.testing.assert_allclose(found, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))
    jax.tree.map(np.testing.assert_array_equal, adapter, to_plain_adapter(run, 0).adapter)  # the last keeps all
