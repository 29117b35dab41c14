"""Laws every combiner, or every linear one, obeys."""

from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import combiners, methods, model
from scalearn_jax.errors import InputError
from scalearn_jax.models import bank as banks
from scalearn_jax.models.dropout import dropout_keys
from tests.conformance_checks.training import COUNTED, parameter_counts
from tests.support import tiny

SCALEARN = ("scalearn", "scalearn-uniform", "scalearn++", "scalearn-uniform++")
FOLDING = (*SCALEARN, "fusion")
GIVEN_BANK = sorted(set(combiners.COMBINERS) - {"single", "none", *tiny.GENERATED})
# float32 sums in another order: a few units in the last place of values near 10
ROUNDING = {"rtol": 2e-5, "atol": 2e-5}


_apply = jax.jit(model.apply, static_argnames=("spec", "task"))


def logits(spec, params, batch, key=None):
    return _apply(params, batch, spec=spec, task="demo", keys=dropout_keys(key, spec.backbone.num_layers))


@partial(jax.jit, static_argnums=0)
def value_and_gradient(spec, params, batch, key=None):
    """Differentiates all but the backbone, which keeps compilation short."""

    def total(learned):
        keys = dropout_keys(key, spec.backbone.num_layers)
        logits = model.apply(params | learned, batch, spec=spec, task="demo", keys=keys)
        return (logits**2).sum()

    return jax.value_and_grad(total)({name: leaf for name, leaf in params.items() if name != "backbone"})


def assert_same_gradient(a, b, rtol=1e-4):
    """Compares to rounding: relative, and absolute on the scale of the largest entry."""
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(a))
    chex.assert_trees_all_close(a, b, rtol=rtol, atol=2e-5 * scale)


def both_forms(name, **options):
    return [tiny.spec(name, options={"compose": compose, **options}) for compose in ("folded", "reference")]


@pytest.mark.parametrize(
    "name, num_sources", [*((name, 5) for name in FOLDING), ("scalearn", 1), ("scalearn-uniform++", 1), ("fusion", 1)]
)
def test_fold_equals_reference_in_value_and_gradient(name, num_sources):
    folded, reference = both_forms(name, dropout=0.0)
    folded, reference = (
        model.ModelSpec(**{**spec.__dict__, "num_sources": num_sources}) for spec in (folded, reference)
    )
    params, batch = tiny.params(folded), tiny.batch()

    values, gradients = zip(*(value_and_gradient(spec, params, batch) for spec in (folded, reference)), strict=True)
    chex.assert_trees_all_close(*values, rtol=1e-5)
    assert_same_gradient(*gradients)
    assert_same_gradient(*(gradient["transfer"] for gradient in gradients))


@pytest.mark.parametrize("name", FOLDING)
def test_fold_equals_reference_under_dropout(name):
    folded, reference = both_forms(name, dropout=0.4)
    params, batch, key = tiny.params(folded), tiny.batch(), jax.random.key(7)
    chex.assert_trees_all_close(*(logits(spec, params, batch, key=key) for spec in (folded, reference)), **ROUNDING)


@pytest.mark.parametrize("normalise", ["mean", "softmax"])
def test_normalised_factors_sum_to_one(normalise):
    from scalearn_jax.combiners.scalearn import effective_omega

    omega = effective_omega(jnp.arange(1.0, 25.0).reshape(2, 3, 4), 2, normalise)
    chex.assert_trees_all_close(omega.sum(1), jnp.ones((2, 4)), rtol=1e-6)


@pytest.mark.parametrize("name", SCALEARN)
def test_one_source_at_omega_one_is_that_adapter(name):
    spec = tiny.spec(name, num_sources=1, options={"dropout": 0.0})
    single = tiny.spec("single")
    params, batch = tiny.params(spec), tiny.batch()
    params["transfer"] = jax.tree.map(jnp.ones_like, params["transfer"])
    expected = logits(single, params | {"transfer": {}}, batch)
    chex.assert_trees_all_close(logits(spec, params, batch), expected, **ROUNDING)


@pytest.mark.parametrize("name", SCALEARN)
def test_permuting_sources_permutes_omega(name):
    spec = tiny.spec(name, options={"dropout": 0.0})
    params, batch = tiny.params(spec), tiny.batch()
    order = jnp.array([2, 0, 1])
    permuted = params | {
        "adapters": jax.tree.map(lambda leaf: leaf[:, order], params["adapters"]),
        "transfer": {"omega": jnp.take(params["transfer"]["omega"], order, axis=-2)},
    }
    chex.assert_trees_all_close(logits(spec, params, batch), logits(spec, permuted, batch), **ROUNDING)


def test_permuting_sources_leaves_fusion_alone():
    spec = tiny.spec("fusion")
    params, batch = tiny.params(spec), tiny.batch()
    order = jnp.array([2, 0, 1])
    permuted = params | {"adapters": jax.tree.map(lambda leaf: leaf[:, order], params["adapters"])}
    chex.assert_trees_all_close(logits(spec, params, batch), logits(spec, permuted, batch), **ROUNDING)


def test_equal_fixed_coefficients_and_uniform_omega_agree():
    fixed = tiny.spec("fixed", options={"coefficients": (0.4, 0.4, 0.4)})
    uniform = tiny.spec("scalearn-uniform++", options={"dropout": 0.0})
    params, batch = tiny.params(uniform), tiny.batch()
    params["transfer"] = {"omega": jnp.full((3, 1), 0.4)}
    expected = logits(fixed, params | {"transfer": {}}, batch)
    chex.assert_trees_all_close(logits(uniform, params, batch), expected, **ROUNDING)


def test_average_with_one_hot_weights_selects():
    spec = tiny.spec("average", options={"weights": (0.0, 1.0, 0.0)})
    params, batch = tiny.params(spec), tiny.batch()
    chosen = jax.tree.map(lambda leaf: leaf[:, 1:2], params["adapters"])
    expected = logits(tiny.spec("single"), params | {"adapters": chosen}, batch)
    chex.assert_trees_all_close(logits(spec, params, batch), expected, **ROUNDING)


@pytest.mark.parametrize("name", sorted(combiners.COMBINERS))
def test_scan_equals_loop(name):
    """With every dropout off, and with the combiner's own, where it has one."""
    loop = tiny.spec(name)
    scan = tiny.spec(name, layers="scan")
    params, batch = tiny.params(loop), tiny.batch()
    for key in (None, jax.random.key(3)) if name in FOLDING else (None,):
        chex.assert_trees_all_close(
            logits(loop, params, batch, key=key), logits(scan, params, batch, key=key), **ROUNDING
        )


@pytest.mark.parametrize("name", sorted(combiners.COMBINERS))
def test_packed_equals_padded_in_value_and_gradient(name):
    """In batches of one shape, and so of one program: packed, two of the rows hold nothing."""
    spec = tiny.spec(name)
    params, padded = tiny.params(spec), tiny.batch((5, 3, 7, 4), row_length=12)
    packed = tiny.pack(padded, [[0, 2], [3, 1], [], []], 12)

    values, gradients = zip(*(value_and_gradient(spec, params, batch) for batch in (padded, packed)), strict=True)
    chex.assert_trees_all_close(*values, rtol=1e-5)
    assert_same_gradient(*gradients)


@pytest.mark.parametrize("name", sorted(combiners.COMBINERS))
def test_a_text_sees_nothing_of_those_beside_it(name):
    """Not one bit of its logits changes with the other text of its row, nor with what stands for padding."""
    spec = tiny.spec(name)
    params, packed = tiny.params(spec), tiny.pack(tiny.batch((4, 3, 7, 4)), [[0, 1], [2], [3], []], 8)
    for kept, others, start, end in ((0, [1, 2, 3], 0, 4), (1, [0, 2, 3], 4, 7)):  # the last place is padding
        own = np.zeros_like(packed.segments)
        own[0, start:end] = 1
        tokens = np.where(own, packed.tokens, (packed.tokens + 7) % 40 + 3).astype(np.int32)
        before, after = (np.asarray(logits(spec, params, packed._replace(tokens=x))) for x in (packed.tokens, tokens))
        np.testing.assert_array_equal(before[kept], after[kept])
        assert (before[others] != after[others]).any(1).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scalearn", "fusion"])
def test_remat_changes_nothing(name):
    spec, params, batch = tiny.spec(name), tiny.params(tiny.spec(name)), tiny.batch()
    plain, again = (
        value_and_gradient(s, params, batch, jax.random.key(0))[1] for s in (spec, tiny.spec(name, remat=True))
    )
    assert_same_gradient(plain, again)


def test_dropout_on_omega_is_one_mask_a_layer():
    spec = tiny.spec("scalearn-uniform++", options={"dropout": 0.5})
    bank = tiny.params(spec)["adapters"]
    site = spec.combiner_functions.bind({"omega": jnp.ones((3, 1))}, bank, keys=dropout_keys(jax.random.key(1), 2))
    factors = site["scale"].reshape(2, 3, 4)
    chex.assert_trees_all_equal(factors, jnp.broadcast_to(factors[..., :1], factors.shape))
    assert set(factors.ravel().tolist()) == {0.0, 2.0}
    assert len({tuple(layer) for layer in factors[..., 0].tolist()}) == 2


@pytest.mark.parametrize("name", SCALEARN)
def test_omega_starts_at_two_over_n(name):
    spec = tiny.spec(name)
    shape = banks.BankShape(12, 8, 768, 48)
    omega = spec.combiner_functions.init(jax.random.key(0), shape)["omega"]
    assert abs(float(omega.mean()) - 0.25) < 0.004 / omega.size**0.5
    assert omega.size < 100 or abs(float(omega.std()) / 0.001 - 1) < 0.2


def test_narrow_sources_are_padded_exactly():
    narrow, wide = (banks.init(jax.random.key(r), banks.BankShape(2, 1, 16, r)) for r in (2, 4))
    bank = banks.stack([banks.select(narrow, 0), banks.select(wide, 0)])
    spec = tiny.spec("fixed", num_sources=2, options={"coefficients": (1.0, 0.0)})
    params, batch = tiny.params(spec), tiny.batch()
    expected = logits(tiny.spec("single"), params | {"adapters": narrow}, batch)
    chex.assert_trees_all_close(logits(spec, params | {"adapters": bank}, batch), expected, **ROUNDING)


@pytest.mark.parametrize("name", GIVEN_BANK)
def test_wrong_number_of_sources_is_named(name):
    spec = tiny.spec(name)
    params = tiny.params(spec)
    params["adapters"] = jax.tree.map(lambda leaf: leaf[:, :2], params["adapters"])
    if name == "fusion":  # attends to however many sources there are
        assert logits(spec, params, tiny.batch()).shape == (4, 3)
    else:
        with pytest.raises(InputError, match="2 sources"):
            logits(spec, params, tiny.batch())


@pytest.mark.slow
def test_published_parameter_counts():
    """Of every method at full size, counted as runs count theirs."""
    found = list(parameter_counts(Path(__file__).resolve().parents[1] / "golden"))
    assert len(found) >= len(COUNTED) and [one.name for one in found if not one.passed] == []
    assert {name for name, _ in COUNTED.values()} >= set(methods.METHODS) - {
        *("scalearn-mean", "scalearn-softmax"),  # as many as ScaLearn
        *("soup", "fixed", "constant", "best-source", "random-source"),  # the head alone
    }


@pytest.mark.parametrize("where", ["before", "after"])
def test_the_feed_forward_vector_of_ia3_acts_where_it_says(where):
    """After the GELU it is as if the rows of the next kernel were scaled; before it, the columns of this one."""
    spec = tiny.spec("ia3", options={"ffn_scale": where})
    params, batch = tiny.params(spec), tiny.batch()
    vector = params["transfer"]["ffn"]  # [L, f]
    layers = dict(params["backbone"]["layers"])
    if where == "after":
        layers["output"] = layers["output"] | {"kernel": layers["output"]["kernel"] * vector[:, :, None]}
    else:
        inner = layers["intermediate"]
        layers["intermediate"] = {"kernel": inner["kernel"] * vector[:, None], "bias": inner["bias"] * vector}
    scaled = params | {"backbone": params["backbone"] | {"layers": layers}}
    scaled["transfer"] = params["transfer"] | {"ffn": jnp.ones_like(vector)}
    chex.assert_trees_all_close(logits(spec, params, batch), logits(spec, scaled, batch), **ROUNDING)


def test_trained_masks_of_propetl_pass_their_gradient_straight():
    """By hand, of two entries of which the larger is kept."""
    combiner = combiners.make("propetl", sparsity=0.5, masks="trained")
    one = {"kernel": jnp.array([[2.0, 3.0]]), "bias": jnp.zeros(2)}
    transfer = {
        "adapter": {"down": one, "up": {"kernel": jnp.array([[1.0], [1.0]]), "bias": jnp.zeros(1)}},
        "scores": {"down": jnp.array([[[0.1, -0.4]]]), "up": jnp.array([[[0.3], [0.2]]])},
    }
    bank = banks.zeros(banks.BankShape(1, 0, 1, 2))
    down = lambda transfer: combiner.bind(transfer, bank)["down"]["kernel"]  # noqa: E731
    assert down(transfer).tolist() == [[[0.0, 3.0]]]
    grads = jax.grad(lambda transfer: down(transfer).sum())(transfer)
    assert grads["scores"]["down"].tolist() == [[[2.0, -3.0]]]
    assert grads["adapter"]["down"]["kernel"].tolist() == [[0.0, 1.0]]
