"""Dropout masks, GELU, layer norm and attention against their plain forms, in value and derivative."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax.models import dropout as dropouts
from scalearn_jax.models import encoder
from scalearn_jax.models.adapter import gelu
from scalearn_jax.models.layers import LayerNorm

KEY = jax.random.key(3)
X = jax.random.normal(KEY, (3, 5, 16))


def test_a_mask_has_its_rate_and_mean():
    mask = np.asarray(dropouts.mask(KEY, (64, 32, 64), 0.3))
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.7)}
    share, sd = (mask == 0).mean(), (0.3 * 0.7 / mask.size) ** 0.5
    assert abs(share - 0.3) < 5 * sd


def test_the_bits_of_places_and_keys_are_independent():
    """Every bit is fair, and neither neighbours nor equal places under other keys say anything of one another."""
    shape, keys = (64, 64, 32), jax.random.split(KEY, 4)
    bits = np.asarray(jax.vmap(lambda key: dropouts._bits(key, shape))(keys))
    fair = (bits[..., None] >> np.arange(32, dtype=np.uint32) & 1).mean((1, 2, 3))  # [keys, 32]
    assert np.abs(fair - 0.5).max() < 5 * 0.5 / np.sqrt(np.prod(shape))
    uniform = bits / 2.0**32 - 0.5
    pairs = [(uniform[0], uniform[1]), (uniform[2], uniform[3])]
    pairs += [(uniform.take(range(1, n), axis), uniform.take(range(n - 1), axis)) for axis, n in enumerate(shape, 1)]
    for a, b in pairs:
        assert abs(12 * (a * b).mean()) < 5 / np.sqrt(a.size)


def test_more_rows_leave_the_mask_of_the_first_alone():
    chex.assert_trees_all_equal(dropouts.mask(KEY, (7, 4, 8), 0.5)[:3], dropouts.mask(KEY, (3, 4, 8), 0.5))


def test_the_backward_pass_sees_the_mask_of_the_forward_pass():
    value, pull = jax.vjp(lambda x: dropouts.dropout(KEY, x, 0.4), X)
    mask = dropouts.mask(KEY, X.shape, 0.4)
    chex.assert_trees_all_equal(value, X * mask)
    chex.assert_trees_all_equal(pull(jnp.ones_like(X))[0], mask)


@pytest.mark.slow
def test_gelu_is_the_exact_one():
    x = jnp.linspace(-6.0, 6.0, 101)
    plain = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    for derive in (lambda f: f, lambda f: jax.vmap(jax.grad(f)), lambda f: jax.vmap(jax.hessian(f))):
        chex.assert_trees_all_close(derive(gelu)(x), derive(plain)(x), atol=2e-6)  # 1 + erf cancels where GELU is tiny


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layer_norm_is_flax_s(dtype):
    ours, plain = LayerNorm(1e-5, dtype), nn.LayerNorm(epsilon=1e-5, dtype=dtype, use_fast_variance=False)
    params = {"params": {"scale": 1 + 0.1 * X[0, 0], "bias": X[0, 1]}}
    weights = jax.random.normal(jax.random.key(4), X.shape)

    def value_and_gradients(module):
        return jax.value_and_grad(lambda params, x: (module.apply(params, x) * weights).sum(), (0, 1))(params, X)

    tolerance = 1e-5 if dtype == jnp.float32 else 0.05  # one rounding to bfloat16 an entry, of sums over 15
    chex.assert_trees_all_close(value_and_gradients(ours), value_and_gradients(plain), atol=tolerance, rtol=tolerance)
    _, tangent = jax.jvp(lambda x: ours.apply(params, x), (X,), (weights,))
    _, expected = jax.jvp(lambda x: plain.apply(params, x), (X,), (weights,))
    chex.assert_trees_all_close(tangent, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_attention_is_its_equation(rate):
    query, keys, values = jax.random.normal(KEY, (3, 2, 6, 4, 8))  # rows, positions, heads, head size
    visible = encoder.visibility(jnp.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]]))

    def plain(query, keys, values):
        scores = jnp.einsum("rqhd,rkhd->rhqk", query, keys) / 8**0.5
        weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -1e30))
        return jnp.einsum("rhqk,rkhd->rqhd", weights * dropouts.mask(KEY, scores.shape, rate), values)

    def ours(query, keys, values):
        return encoder.attention(query, keys, values, visible, key=KEY, dropout_rate=rate)

    loss = lambda function: lambda *given: jnp.sin(function(*given)[:, :5]).sum()  # noqa: E731
    for function in (lambda f: f, lambda f: jax.grad(loss(f), (0, 1, 2))):
        chex.assert_trees_all_close(
            function(ours)(query, keys, values), function(plain)(query, keys, values), atol=1e-5
        )
