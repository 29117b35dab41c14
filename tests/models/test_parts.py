"""Bank, bottleneck, heads, linear maps and visibility."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import model
from scalearn_jax.models import bank as banks
from scalearn_jax.models import encoder, heads
from scalearn_jax.models import layers as linear
from scalearn_jax.models.adapter import Adapter, bottleneck, non_linearity
from scalearn_jax.models.dropout import mask
from scalearn_jax.typing import Batch
from tests.support import tiny


def numpy_bank(num_sources=3, width=4, seed=0):
    generator = np.random.default_rng(seed)

    def draw(*size):
        return jnp.asarray(generator.normal(size=size), jnp.float32)

    return {
        "down": {"kernel": draw(2, num_sources, 6, width), "bias": draw(2, num_sources, width)},
        "up": {"kernel": draw(2, num_sources, width, 6), "bias": draw(2, num_sources, 6)},
    }


@pytest.mark.parametrize("omega_width", [1, 6])
def test_widened_bank_is_the_scaled_sum(omega_width):
    bank = numpy_bank()
    generator = np.random.default_rng(1)
    omega = jnp.asarray(generator.normal(size=(2, 3, omega_width)), jnp.float32)
    z = jnp.asarray(generator.normal(size=(5, 7, 6)), jnp.float32)
    site = banks.widen(bank, omega)
    for layer in range(2):
        take = lambda tree, layer=layer: jax.tree.map(lambda leaf: leaf[layer], tree)  # noqa: E731
        one = take(bank)
        parts = [
            omega[layer, t][None, None] * bottleneck(jax.tree.map(lambda leaf, t=t: leaf[t], one), z) for t in range(3)
        ]
        chex.assert_trees_all_close(bottleneck(take(site), z), sum(parts), atol=1e-4)
    assert ("scale" in site) == (omega_width == 1)


def test_omega_of_another_size_is_named():
    with pytest.raises(ValueError, match="omega has shape .* 3 sources"):
        banks.widen(numpy_bank(), jnp.ones((2, 4, 6)))


def test_a_masked_source_is_one_scaled_by_zero():
    omega = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 6)), jnp.float32)
    kept = jnp.array([True, False, True])
    masked, zeroed = (
        banks.widen(banks.mask(numpy_bank(), kept), omega),
        banks.widen(numpy_bank(), omega * kept[None, :, None]),
    )
    chex.assert_trees_all_equal(masked, zeroed)


@pytest.mark.parametrize("layers", ["loop", "scan"])
def test_observing_changes_nothing_and_sees_every_site(layers):
    spec = tiny.spec(layers=layers)
    params, batch = tiny.params(spec), tiny.batch()
    plain, nothing = model.encode(params, batch, spec=spec)
    hidden, seen = model.encode(
        params, batch, spec=spec, observe=lambda site, h, out: {"h": h, "out": out, "bias": site["up"]["bias"]}
    )
    assert nothing is None
    chex.assert_trees_all_close(hidden, plain, rtol=1e-6)
    assert seen["h"].shape == (2, *hidden.shape)
    chex.assert_trees_all_equal(seen["out"][-1], hidden)
    chex.assert_trees_all_close(
        seen["bias"], spec.combiner_functions.bind(params["transfer"], params["adapters"])["up"]["bias"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["loop", "scan"])
def test_first_tokens_alone_have_the_states_they_have_among_all(layers):
    spec = tiny.spec("fusion", layers=layers)
    params = tiny.params(spec)

    @jax.jit
    def states(params, batch):
        adapted = model.adapt(params, spec=spec)
        hidden, _ = encoder.encode(adapted, batch, spec.backbone, spec.compute)
        return hidden, encoder.encode_first(adapted, batch, spec.backbone, spec.compute)

    for batch in (tiny.batch(), tiny.batch((1, 1), row_length=1), tiny.pack(tiny.batch(), [[0, 1], [3, 2]], 12)):
        hidden, first = states(params, batch)
        chex.assert_trees_all_close(first, hidden[batch.example_at[:, 0], batch.example_at[:, 1]], rtol=1e-5, atol=1e-5)


def test_rows_of_unequal_shape_stop_at_the_door():
    spec = tiny.spec("none")
    batch = tiny.batch()
    with pytest.raises(AssertionError, match="shape"):
        model.features(tiny.params(spec), batch._replace(segments=batch.segments[:, :1]), spec=spec)


def test_select_undoes_stack_and_padding_is_dead():
    narrow, wide = banks.select(numpy_bank(width=2), 0), banks.select(numpy_bank(width=5), 1)
    bank = banks.stack([narrow, wide])
    assert banks.shape(bank) == (2, 2, 6, 5)
    chex.assert_trees_all_equal(banks.select(bank, 1), wide)
    assert not np.asarray(bank["up"]["kernel"])[:, 0, 2:].any()
    with pytest.raises(ValueError, match="hidden size"):
        banks.stack([narrow, jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), wide)])


def test_a_fresh_adapter_starts_as_published_and_computes_its_equation():
    params = Adapter(60, 30).init(jax.random.key(0))["params"]
    kernels, z = (params["down"]["kernel"], params["up"]["kernel"]), jnp.ones((2, 60))
    assert all(abs(float(kernel.std()) / 0.02 - 1) < 0.1 for kernel in kernels)  # 1800 draws: 6 standard errors
    assert not params["down"]["bias"].any() and not params["up"]["bias"].any()
    expected = np.maximum(np.asarray(z) @ np.asarray(kernels[0]), 0) @ np.asarray(kernels[1])
    np.testing.assert_allclose(bottleneck(params, z), expected, atol=1e-6)


def test_unknown_non_linearity_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        non_linearity("rleu")


@pytest.mark.slow
def test_choice_heads_score_each_choice_alone():
    spec = heads.HeadSpec(num_outputs=1, num_choices=3, dropout=0.0)
    params = heads.init(jax.random.key(0), spec, 6)
    features = jnp.asarray(np.random.default_rng(0).normal(size=(12, 6)), jnp.float32)
    head = heads.Head(spec, 6)
    logits = head.apply({"params": params}, features)
    assert logits.shape == (4, 3)
    swapped = head.apply({"params": params}, features.reshape(4, 3, 6)[:, ::-1].reshape(12, 6))
    chex.assert_trees_all_close(swapped, logits[:, ::-1], atol=1e-6)


def test_pooled_head_trains_only_its_output():
    params = heads.init(jax.random.key(0), heads.HeadSpec("pooled", 1, 2), 6)
    assert list(params) == ["out"]


def test_mixed_products_differentiate_like_full_ones():
    generator = np.random.default_rng(0)
    x, kernel = (jnp.asarray(generator.normal(size=size), jnp.float32) for size in ((3, 5, 8), (8, 4)))
    half = kernel.astype(jnp.bfloat16)
    full = lambda x, kernel: (linear.matmul(x, kernel) ** 2).sum()  # noqa: E731
    assert linear.matmul(x, half).dtype == jnp.float32
    exact, mixed = (jax.grad(full, (0, 1))(x, k) for k in (kernel, half))
    assert mixed[0].dtype == jnp.float32 and mixed[1].dtype == jnp.bfloat16
    for a, b in zip(exact, mixed, strict=True):  # bfloat16 keeps 8 bits
        chex.assert_trees_all_close(a, b.astype(jnp.float32), atol=0.03 * float(jnp.abs(a).max()))


@pytest.mark.slow
def test_a_head_computes_in_float32_behind_a_bfloat16_encoder():
    """Scores near 4 would be rounded to steps of 0.03 otherwise."""
    spec = tiny.spec("scalearn", dtype="bfloat16")
    logits = model.apply(tiny.params(spec), tiny.batch(), spec=spec, task="demo")
    assert logits.dtype == jnp.float32
    assert (logits != logits.astype(jnp.bfloat16).astype(jnp.float32)).any()


def test_dropout_keeps_the_mean():
    values = np.asarray(mask(jax.random.key(0), (400, 400), 0.3))
    assert set(np.unique(values)) == {0.0, values.max()} and values.max() == pytest.approx(1 / 0.7, rel=1e-4)
    assert values.mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
def test_positions_of_the_family_reach_the_embedding():
    spec = tiny.BACKBONE  # RoBERTa: the first token has position 2
    params = tiny.params(tiny.spec("none"))["backbone"]["embeddings"]
    row = jnp.zeros((1, 3), jnp.int32)
    batch = Batch(row, row, row + 1, jnp.arange(3)[None], None, None, None, None)
    moved = dict(params, position={"embedding": jnp.roll(params["position"]["embedding"], -2, axis=0)})
    bert = spec.__class__(**spec.__dict__ | {"position_offset": 0})
    chex.assert_trees_all_equal(
        encoder.Embeddings(spec).apply({"params": params}, batch),
        encoder.Embeddings(bert).apply({"params": moved}, batch),
    )
