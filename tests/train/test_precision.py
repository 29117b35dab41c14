"""Types of computation and storage: what each flag does to products, to what is frozen, and to results."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import methods, model, tree
from scalearn_jax.config import AdapterConfig, EvaluateConfig, TransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tree
from scalearn_jax.runs import evaluate as inference
from scalearn_jax.stages import pipeline, prepare
from scalearn_jax.train.step import make_loss
from tests.support import tiny, tiny_backbone

SHORT = dict(max_steps=2, batch_size=8, max_train_samples=16, max_eval_samples=8, max_length=16, reduction_factor=4)
PLAIN = dict(num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # compiles fast


def products(jaxpr):
    """All matrix products of a program, in functions it calls, too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def step_products(dtype, method="scalearn"):
    spec = tiny.spec(methods.get(method).combiner, dtype=dtype)
    trainable, frozen = tree.partition(tiny.params(spec), methods.is_trainable(methods.get(method)))
    loss = make_loss(spec, "demo", "classification")
    step = jax.grad(lambda *given: loss(*given, jax.random.key(0), jnp.int32(0))[0])
    return list(products(jax.make_jaxpr(step)(trainable, frozen, tiny.batch()).jaxpr))


@pytest.mark.parametrize("method", ["scalearn", "fusion", "compacter++"])
def test_strict_products_take_no_short_cuts_forward_and_backward(method):
    highest = (jax.lax.Precision.HIGHEST,) * 2
    strict, plain = step_products("strict", method), step_products("float32", method)
    assert len(strict) == len(plain) > 20
    assert {product.params["precision"] for product in strict} == {highest}
    assert {product.params["precision"] for product in plain} == {None}


@pytest.mark.parametrize("dtype, kinds", [("float32", {"float32"}), ("bfloat16", {"bfloat16", "float32"})])
def test_activations_have_the_type_asked_for(dtype, kinds):
    found = {variable.aval.dtype.name for product in step_products(dtype) for variable in product.invars}
    assert found == kinds  # the head stays in float32


@pytest.mark.slow
def test_strict_equals_float32_here():
    params, batch = tiny.params(tiny.spec()), tiny.batch()
    strict, plain = (model.apply(params, batch, spec=tiny.spec(dtype=d), task="demo") for d in ("strict", "float32"))
    np.testing.assert_array_equal(strict, plain)  # a CPU takes no short cuts


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_backbone.write(tmp_path_factory.mktemp("backbone"), **PLAIN))


def adapter(backbone, **changes):
    return AdapterConfig(task="builtin/topic", backbone=backbone, **SHORT | changes)


def test_the_default_is_what_the_machine_is_fast_in(backbone, monkeypatch):
    config = adapter(backbone, out="out")
    assert prepare.compute_dtype(config) == "float32"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert prepare.compute_dtype(config) == "bfloat16"
    assert prepare.compute_dtype(adapter(backbone, out="out", dtype="strict")) == "strict"


@pytest.mark.slow
def test_frozen_parameters_kept_in_half_give_the_same_results_again(backbone, tmp_path):
    source = pipeline.train_adapter(adapter(backbone, out=str(tmp_path / "source")))
    half = dict(dtype="mixed", frozen_dtype="bfloat16", **{k: v for k, v in SHORT.items() if k != "reduction_factor"})
    config = TransferConfig(
        target="builtin/topic", sources=(str(source),), backbone=backbone, out=str(tmp_path / "run"), **half
    )
    setup = pipeline.transfer_setups(config)[0]
    kept = {path: leaf.dtype.name for path, leaf in tree.flatten(setup.frozen).items()}
    assert {kind for path, kind in kept.items() if path.endswith(("kernel", "embedding"))} == {"bfloat16"}
    assert {kind for path, kind in kept.items() if path.endswith(("bias", "scale"))} == {"float32"}
    run = pipeline.transfer(config)
    assert {leaf.dtype.name for leaf in tree.flatten(load_tree(Path(run) / "frozen.safetensors")).values()} == {
        "float32"
    }
    found = inference.evaluate(EvaluateConfig(run=str(run)))["seeds"]["0"]
    assert found == pytest.approx(json.loads((run / "results.json").read_text())["seeds"]["0"]["test"], rel=1e-6)


@pytest.mark.parametrize("dtype", [None, "float32", "strict"])
def test_half_storage_under_full_products_is_refused(dtype, backbone):
    with pytest.raises(InputError, match="--frozen-dtype bfloat16 needs --dtype mixed or bfloat16"):
        prepare.compute_dtype(adapter(backbone, out="out", dtype=dtype, frozen_dtype="bfloat16"))
