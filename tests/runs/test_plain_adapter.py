"""What a run folds to: one adapter and a head that compute what the run does."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from scalearn_jax import methods, model
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.models.adapter import bottleneck
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs.load import Run
from scalearn_jax.runs.plain_adapter import check_foldable, foldable, to_plain_adapter
from tests.support import tiny

TASK = Task("demo", "classification", ("text",), ("a", "b", "c"))
BACKBONE = dataclasses.replace(tiny.BACKBONE, has_pooler=True)
OTHERS = ("fusion", "fusion-static", "ia3", "full", "head")
SUMS = [name for name in methods.METHODS if name.startswith("scalearn")]
COEFFICIENTS = (0.5, -1.0, 2.0, 0.25, 1.5, -0.5, 3.0, 0.125)


def make_run(method, num_sources=3, head="two_layer", seed=0):
    """A run of random parameters, as ``load_run`` would give it."""
    row = methods.get(method)
    options = row.options | {"fixed": {"coefficients": COEFFICIENTS[:num_sources]}}.get(method, {})
    sizes = {"num_sources": num_sources} if row.uses_sources else {}
    heads = (("demo", HeadSpec(kind=head, num_outputs=3, dropout=0.0)),)
    spec = tiny.spec(row.combiner, options=options, heads=heads, backbone=BACKBONE, layers="scan", **sizes)
    if method == "soup":
        spec = dataclasses.replace(spec, combiner_options=())
    info = {"method": method, "backbone": {"path": "b", "revision": None, "hash": "h"}}
    return Run(Path("run"), info, spec, TASK, {0: tiny.params(spec, seed)})


@pytest.mark.parametrize("method", methods.METHODS)
def test_foldable_methods_are_those_that_bind_to_an_adapter(method):
    run = make_run(method)
    site = model.adapt(run.members[0], spec=run.spec).site
    assert (method in foldable()) == ({"down", "up"} <= site.keys()) == (method not in OTHERS)


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_are_refused(method):
    with pytest.raises(InputError, match=f"run is a {method!r} run, .* expected one of scalearn, "):
        to_plain_adapter(make_run(method), 0)
    with pytest.raises(InputError, match=f"folder is a {method!r} run"):
        check_foldable("folder", {"method": method})


@pytest.mark.parametrize(
    "method, head",
    [
        *((method, "two_layer") for method in ("scalearn", "scalearn-uniform++", "soup", "single")),
        *((method, "two_layer") for method in ("compacter++", "propetl")),
        ("scalearn-uniform++", "pooled"),
    ],
)
def test_logits_are_those_of_the_run(method, head):
    run = make_run(method, head=head)
    folded, params, batch = to_plain_adapter(run, 0), run.members[0], tiny.batch()
    backbone = {name: leaf for name, leaf in params["backbone"].items() if name != "pooler"}
    apply = jax.jit(model.apply, static_argnames=("spec", "task"))
    expected = apply(params, batch, spec=run.spec, task="demo")
    found = apply(folded.params(backbone), batch, spec=folded.spec, task="demo")
    assert np.abs(expected).max() > 0.1 and folded.head_spec.kind == "two_layer"
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("num_sources", [1, 2, 8])
@pytest.mark.parametrize("method", [*SUMS, "fixed"])
def test_a_fold_is_the_scaled_sum_of_its_sources(method, num_sources):
    """In float64, source by source and layer by layer, from the factors alone."""
    run = make_run(method, num_sources)
    folded, z = to_plain_adapter(run, 0), np.random.default_rng(1).normal(size=(5, 16))
    bank = jax.tree.map(lambda leaf: np.asarray(leaf, float), run.members[0]["adapters"])
    omega = run.members[0]["transfer"].get("omega", np.array(COEFFICIENTS[:num_sources])[:, None])
    omega = np.broadcast_to(np.asarray(omega, float), (2, num_sources, np.shape(omega)[-1]))
    if method == "scalearn-softmax":
        omega = np.exp(omega) / np.exp(omega).sum(1, keepdims=True)
    if method == "scalearn-mean":
        omega = omega / omega.sum(1, keepdims=True)
    assert folded.width == 4 * num_sources
    for layer in range(2):
        update = bottleneck(jax.tree.map(lambda leaf, at=layer: leaf[at], folded.adapter), z.astype(np.float32))
        expected = 0.0
        for t in range(num_sources):
            down, up = (
                {name: leaf[layer, t] for name, leaf in leaves.items()} for leaves in (bank["down"], bank["up"])
            )
            hidden = np.maximum(z @ down["kernel"] + down["bias"][None], 0)
            expected = expected + omega[layer, t][None] * (hidden @ up["kernel"] + up["bias"][None])
        np.testing.assert_allclose(update, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))
