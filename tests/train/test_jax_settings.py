"""No setting of JAX's own changes what is computed, and a device that is not there is named in one line."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import model
from scalearn_jax.combiners import COMBINERS
from scalearn_jax.config import (
    AdapterConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    FoldConfig,
    ImportConfig,
    PlanAdapterConfig,
    TransferConfig,
)
from scalearn_jax.errors import InputError, Preempted
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.runs.evaluate import evaluate
from scalearn_jax.runs.explain import explain_run
from scalearn_jax.runs.serving.predictor import Predictor
from scalearn_jax.sharing.exporting import export_run
from scalearn_jax.sharing.fold import fold_run
from scalearn_jax.sharing.importing import import_source
from scalearn_jax.stages import pipeline
from scalearn_jax.stages.planning.plan import plan
from scalearn_jax.train import agreement, feed, jax_settings, sharding
from scalearn_jax.train.jax_settings import key_of_seed, own_settings
from scalearn_jax.train.optim import make_optimizer
from tests.conftest import ROOT
from tests.support import tiny, tiny_backbone

# Each of them stops a run, or changes its bits or types, where it gets through.
FOREIGN = {
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_default_matmul_precision": "BF16_BF16_F32",
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 7,
    "jax_transfer_guard": "disallow_explicit",
    "jax_debug_nans": True,
    "jax_disable_jit": True,
}
TEXTS = ["a fine film", "a dull one"]


BEFORE = {name: getattr(jax.config, name) for name in FOREIGN}


@pytest.fixture
def foreign():
    """Sets JAX as another project may need it."""

    def put(settings):
        for name, value in settings.items():
            jax.config.update(name, value)

    yield put
    put(BEFORE)


@pytest.fixture
def one_device(monkeypatch):
    """Leaves one of the devices, for which programs compile faster."""
    make = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda text=None: make(text, jax.devices()[:1]))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A backbone and two source adapters."""
    return tiny_backbone.write_with_sources(tmp_path_factory.mktemp("inputs"))


def transfer(inputs, out):
    sources = tuple(str(inputs / f"source{number}") for number in range(2))
    few = dict(max_steps=3, eval_every=2, log_every=1, batch_size=8, max_train_samples=16, max_eval_samples=8)
    place = dict(backbone=str(inputs / "backbone"), sources=sources, out=str(out))
    return pipeline.transfer(TransferConfig(target="builtin/sentiment", **place, **few))


def uses(run):
    """What a finished run is used for."""
    logits = Predictor.load(str(run)).logits(TEXTS)
    return evaluate(EvaluateConfig(run=str(run)))["seeds"], [(one.dtype, one.tobytes()) for one in logits]


def test_settings_of_our_own_are_those_of_jax_where_nothing_is_set():
    own = jax_settings._DEFAULTS
    code = f"import jax; print(*(getattr(jax.config, 'jax_' + name) for name in {[*own]}))"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    out = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True).stdout
    defaults = dict(zip(own, out.split(), strict=True))
    assert defaults["transfer_guard"] == "None"  # which allows
    assert defaults == {name: str(value) for name, value in own.items()} | {"transfer_guard": "None"}


@pytest.mark.slow
def test_foreign_settings_change_no_bit_of_a_run(inputs, tmp_path, foreign, one_device, monkeypatch):
    transfer(inputs, tmp_path / "alone")
    used = uses(tmp_path / "alone")

    def stop():
        raise Preempted("stopped")

    with monkeypatch.context() as stopping:  # each of three steps in a process of other settings
        stopping.setattr(agreement, "boundary", stop)
        foreign(FOREIGN)
        with pytest.raises(Preempted):
            transfer(inputs, tmp_path / "among others")
        foreign(BEFORE)
        with pytest.raises(Preempted), jax.enable_x64(True):  # as code around it may have entered
            transfer(inputs, tmp_path / "among others")
    foreign(FOREIGN)
    transfer(inputs, tmp_path / "among others")
    for name in ("results.json", "metrics.jsonl", "seed-0.safetensors"):  # the optimiser's hash is among the results
        assert (tmp_path / "among others" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    weights = load_tensors(tmp_path / "among others" / "seed-0.safetensors")
    assert {str(leaf.dtype) for leaf in weights.values()} == {"float32"}
    assert uses(tmp_path / "among others") == used
    assert {name: getattr(jax.config, name) for name in FOREIGN} == FOREIGN  # found again as they were


DOORS = {
    "train-adapter": lambda: pipeline.train_adapter(AdapterConfig(task="t", backbone="b", out="o")),
    "transfer": lambda: pipeline.transfer(TransferConfig(target="t", backbone="b", out="o")),
    "plan": lambda: plan(PlanAdapterConfig(task="t", backbone="b")),
    "explain": lambda: explain_run(ExplainConfig(run="r")),
    "fold": lambda: fold_run(FoldConfig(run="r", out="o")),
    "export": lambda: export_run(ExportConfig(run="r", out="o")),
    "import": lambda: import_source(ImportConfig(src="s", out="o")),
    "predict": lambda: Predictor.load("r"),
}


@pytest.mark.parametrize("name", DOORS)
def test_the_settings_are_put_aside_before_anything_else(name, monkeypatch):
    def seen():
        raise InputError("at the door")

    monkeypatch.setattr(jax_settings, "check_devices", seen)
    with pytest.raises(InputError, match="at the door"):
        DOORS[name]()


@pytest.mark.slow
def test_a_prediction_in_float64_needs_no_setting(inputs, tmp_path):
    run = transfer(inputs, tmp_path / "run")
    exact, usual = (Predictor.load(str(run), dtype=dtype).logits(TEXTS)[0] for dtype in ("float64", None))
    assert (exact.dtype, usual.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(usual, exact, atol=1e-5)


def test_threads_place_batches_without_foreign_settings(foreign):
    foreign(FOREIGN)
    [placed] = feed.in_background(iter([np.arange(3)]), jnp.asarray)  # int64 of the host
    assert placed.dtype == "int32"


@pytest.mark.parametrize("combiner", COMBINERS)
def test_what_is_drawn_has_types_of_its_own(combiner):
    tx = make_optimizer(learning_rate=0.1, num_steps=3, trainable=("head",))
    with jax.enable_x64(True):
        drawn = jax.eval_shape(lambda: model.init(jax.random.key(0), tiny.spec(combiner)))
        heads = {"heads": drawn["heads"]}
        state = jax.eval_shape(tx.init, heads)
        exact = jax.eval_shape(tx.init, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "float64"), heads))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(drawn)} == {"float32"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"float32", "int32"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(exact)} == {"float64", "int32"}


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_a_seed_is_a_threefry_key_of_its_two_words(seed, foreign):
    assert jax.random.key_data(key_of_seed(seed)).tolist() == [0, seed]
    foreign({"jax_random_seed_offset": 7, "jax_enable_x64": True, "jax_default_prng_impl": "rbg"})
    assert jax.random.key_data(key_of_seed(seed)).tolist() == [0, seed]


def test_checks_that_cannot_be_put_aside_are_named(monkeypatch):
    monkeypatch.setattr(jax_settings, "_CHECKS", ["jax_platforms"])  # set in every test
    with pytest.raises(InputError, match="JAX_PLATFORMS asks for checks .* unset it"), own_settings():
        pass


TRAIN = ["train-adapter", "--task", "builtin/sentiment", "--backbone", "nowhere", "--out", "o"]


def command(argv, **variables):
    code = "import sys; from scalearn_jax.cli import run; sys.argv[0] = 'scalearn'; run()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run([sys.executable, "-c", code, *argv], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.mark.parametrize("name, value", [("JAX_PLATFORMS", "cuda"), ("JAX_PLATFORMS", "cpu,nonsense")])
def test_a_platform_that_is_not_there_is_one_line(name, value, tmp_path):
    if value == "cuda" and jax.devices()[0].platform != "cpu":
        pytest.skip("it is there")
    code, shown, errors = command(TRAIN, **{name: value})
    assert code == 2 and len(errors) == 1 and shown == "", errors
    assert f"{name}={value}: JAX finds no such device" in errors[0] and "`scalearn doctor`" in errors[0]


def test_a_value_that_jax_does_not_know_is_one_line():
    code, _, errors = command(TRAIN, JAX_ENABLE_X64="banana")
    assert code == 2 and len(errors) == 1, errors
    assert "'banana'" in errors[0] and "correct or unset JAX_ENABLE_X64" in errors[0]


@pytest.mark.parametrize("platforms, name, who", [
    ("", "", "JAX finds no device (broken); unset or correct JAX_PLATFORMS"),
    ("tpu", "", "JAX_PLATFORMS=tpu: JAX finds no such device (broken)"),
    ("", "gpu", "JAX_PLATFORM_NAME=gpu: JAX finds no such device (broken); unset or correct JAX_PLATFORM_NAME"),
])  # fmt: skip
def test_who_asks_for_a_device_is_named(platforms, name, who, monkeypatch):
    def broken():
        raise RuntimeError("broken")

    monkeypatch.setattr(jax, "devices", broken)
    monkeypatch.setenv("JAX_PLATFORM_NAME", name)
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", platforms)
        with pytest.raises(InputError) as caught, own_settings():
            pass
    finally:
        jax.config.update("jax_platforms", before)
    assert who in str(caught.value)
