"""Fusion layers in AdapterHub's format, and ScaLearn layers as the published implementation saves them."""

import json
import shutil

import numpy as np
import pytest

from scalearn_jax import tree
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tensors, save_tensors
from scalearn_jax.methods import METHODS
from scalearn_jax.runs import adapterhub
from scalearn_jax.sharing import release
from tests.conftest import ROOT
from tests.support.bin_files import pickled, state
from tests.support.released import LAYERS as VARIANTS

TRANSFER = ROOT / "tests/golden/roberta_l3_h32_t4/transfer"
NAMES = ("mnli", "qqp", "stsb", "rte")


def fusion(value=True, num_layers=2, size=4):
    """Random fusion layers."""
    draw = lambda *shape: np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)  # noqa: E731
    maps = {name: {"kernel": draw(num_layers, size, size), "bias": draw(num_layers, size)} for name in ("query", "key")}
    return maps | ({"value": {"kernel": draw(num_layers, size, size) + 1}} if value else {})


def transposed(params):
    """The same numbers in arrays whose memory lies the other way round."""
    return tree.map_with_path(lambda _, leaf: np.asarray(leaf.T, order="C").T, params)


def copied(name, to):
    return shutil.copytree(TRANSFER / name, to)


def change(path, **changes):
    content = json.loads(path.read_text())
    for key, value in changes.items():
        (content if key in content else content["config"])[key] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("family, prefix", [("bert", "bert"), ("xlm-roberta", "roberta")])
def test_load_undoes_save(tmp_path, family, prefix, value):
    adapterhub.save_fusion(fusion(value), tmp_path, names=("b", "a"), config={"model_type": family, "model_name": "m"})
    found, described = adapterhub.load_fusion(tmp_path)
    assert tree.content_hash(found) == tree.content_hash(fusion(value))
    assert described == {
        "name": "b,a",
        "adapter_names": ("b", "a"),
        "hidden_size": 4,
        "model_type": family,
        "model_name": "m",
    }
    names = load_tensors(tmp_path / "model_adapter_fusion.safetensors")
    assert f"{prefix}.encoder.layer.1.output.adapter_fusion_layer.b,a.query.weight" in names


def test_the_configuration_is_that_of_the_other_library(tmp_path):
    """Word for word what ``adapters`` 1.3.0 writes for a dynamic fusion."""
    adapterhub.save_fusion(fusion(), tmp_path, names=("mnli", "rte"), config={"model_type": "roberta"})
    config = {"dropout_prob": None, "key": True, "query": True, "query_before_ln": False, "regularization": True}
    config |= {"residual_before": False, "temperature": False, "value": True, "value_before_softmax": True}
    assert json.loads((tmp_path / "adapter_fusion_config.json").read_text()) == {
        "adapter_names": ["mnli", "rte"],
        "config": config | {"value_initialized": True},
        "hidden_size": 4,
        "model_class": "RobertaAdapterModel",
        "model_name": None,
        "model_type": "roberta",
        "name": "mnli,rte",
        "version": "adapters.1.3.0",
    }


@pytest.mark.parametrize("variant", ["fusion_dynamic", "fusion_static"])
def test_files_of_the_official_code_survive_a_round_trip(tmp_path, variant):
    transfer, described = adapterhub.load_fusion(TRANSFER / variant)
    assert described["adapter_names"] == NAMES  # which older files have in the name only
    adapterhub.save_fusion(transfer, tmp_path, names=NAMES, config=described)
    found = load_tensors(tmp_path / "model_adapter_fusion.safetensors")
    theirs = load_tensors(TRANSFER / variant / "transfer.safetensors")
    assert len(found) == 3 * len(theirs)
    for name, stack in theirs.items():
        for layer, tensor in enumerate(stack):
            key = f"roberta.encoder.layer.{layer}.output.adapter_fusion_layer.mnli,qqp,stsb,rte.{name}"
            np.testing.assert_array_equal(found[key], tensor)
    again, config = adapterhub.load_fusion(tmp_path)
    assert tree.content_hash(again) == tree.content_hash(transfer) and config == described


def test_a_pickle_is_read_on_request(tmp_path):
    adapterhub.save_fusion(fusion(), tmp_path, names=("a", "b"), config={"model_type": "bert"})
    pickled(tmp_path, "pytorch_model_adapter_fusion.bin", "model_adapter_fusion.safetensors")
    with pytest.raises(InputError, match="--allow-pickle"):
        adapterhub.load_fusion(tmp_path)
    found, _ = adapterhub.load_fusion(tmp_path, allow_pickle=True)
    assert tree.content_hash(found) == tree.content_hash(fusion())


def test_transposed_arrays_are_written_as_they_are(tmp_path):
    """The library behind the files writes the memory of a transposed view; ours makes arrays contiguous first."""
    square = lambda *shape: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)  # noqa: E731
    part = {"kernel": square(2, 4, 4), "bias": square(2, 4)}
    config = {"model_type": "bert"}
    adapter = {"down": part, "up": part}
    head = {"dense": {"kernel": square(4, 4), "bias": square(4)}, "out": {"kernel": square(4, 3), "bias": square(3)}}
    for params in (adapter, transposed(adapter)):
        adapterhub.save(params, tmp_path / "a", name="a", config=config)
        assert tree.content_hash(adapterhub.load(tmp_path / "a")[0]) == tree.content_hash(adapter)
    for params in (head, transposed(head)):
        adapterhub.save_head(params, tmp_path / "h", name="a", kind="classification", config=config)
        assert tree.content_hash(adapterhub.load_head(tmp_path / "h")[0]) == tree.content_hash(head)
    for params in (fusion(), transposed(fusion())):
        adapterhub.save_fusion(params, tmp_path / "f", names=("a",), config=config)
        assert tree.content_hash(adapterhub.load_fusion(tmp_path / "f")[0]) == tree.content_hash(fusion())
    assert not any(leaf.flags.c_contiguous for leaf in tree.flatten(transposed(fusion())).values() if leaf.ndim > 1)


def rename(folder, old, new):
    path = folder / "model_adapter_fusion.safetensors"
    save_tensors(path, {name.replace(old, new): tensor for name, tensor in load_tensors(path).items()})


def replace(folder, leaf, make):
    path = folder / "model_adapter_fusion.safetensors"
    save_tensors(path, {n: make(t) if n.endswith(leaf) else t for n, t in load_tensors(path).items()})


BAD = {
    "a longer fusion's name": (lambda f: rename(f, ".a,b.", ".a,b,c."), "not those of one fusion 'a,b' in every layer"),
    "a missing layer": (lambda f: rename(f, "layer.1", "layer.5"), "missing: ['1.key.bias'"),
    "another size": (lambda f: replace(f, "key.bias", lambda x: x[:3]), "shape (3,), expected (4,)"),
    "whole numbers": (lambda f: replace(f, "key.bias", lambda x: x.astype(int)), "expected floating-point"),
    "no value": (lambda f: change(f / "adapter_fusion_config.json", value=False), "not those of one fusion"),
    "names that are no list": (lambda f: change(f / "adapter_fusion_config.json", adapter_names="a"), "adapter_names"),
    "a name twice": (lambda f: change(f / "adapter_fusion_config.json", adapter_names=["a", "a"]), "different names"),
    "no size": (lambda f: change(f / "adapter_fusion_config.json", hidden_size="4"), "hidden_size must be"),
    "another query": (lambda f: change(f / "adapter_fusion_config.json", query_before_ln=True), "query_before_ln"),
    "a residual": (lambda f: change(f / "adapter_fusion_config.json", residual_before=True), "residual_before"),
    "a temperature": (lambda f: change(f / "adapter_fusion_config.json", temperature=True), "temperature"),
    "values later": (lambda f: change(f / "adapter_fusion_config.json", value_before_softmax=False), "value_before"),
    "no key": (lambda f: change(f / "adapter_fusion_config.json", key=False), "key is 'False', expected True"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_fusion_is_refused_in_one_line(tmp_path, what):
    spoil, message = BAD[what]
    adapterhub.save_fusion(fusion(), tmp_path, names=("a", "b"), config={"model_type": "bert"})
    spoil(tmp_path)
    with pytest.raises(InputError) as error:
        adapterhub.load_fusion(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name, reason", [("a,b", "a comma"), ("a.b", "no dot")])
def test_names_that_the_format_cannot_hold_are_refused(tmp_path, name, reason):
    with pytest.raises(InputError, match=reason):
        adapterhub.save_fusion(fusion(), tmp_path / "f", names=(name, "c"), config={"model_type": "bert"})
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_layers_are_told_apart_and_read(variant):
    transfer, described = release.load_scalearn(TRANSFER / variant)
    stored = load_tensors(TRANSFER / variant / "transfer.safetensors")["omega"]
    np.testing.assert_array_equal(transfer["omega"], stored)
    assert described["method"] == VARIANTS[variant] and described["method"] in METHODS
    assert described["adapter_names"] == NAMES


def published_bin(folder, tensors):
    """Puts what the published implementation writes in the place of the copy."""
    (folder / "transfer.safetensors").unlink()
    (folder / "pytorch_model_scalearn.bin").write_bytes(state(tensors))
    return folder


def test_published_pickles_are_read_on_request(tmp_path):
    omega = load_tensors(TRANSFER / "scalearn/transfer.safetensors")["omega"]
    name = "roberta.encoder.layer.{}.output.scalearn_layer.mnli,qqp,stsb,rte.omega"
    folder = published_bin(copied("scalearn", tmp_path / "a"), {name.format(i): x for i, x in enumerate(omega)})
    with pytest.raises(InputError, match="--allow-pickle"):
        release.load_scalearn(folder)
    np.testing.assert_array_equal(release.load_scalearn(folder, allow_pickle=True)[0]["omega"], omega)


@pytest.mark.parametrize("variant", ["scalearn_pp", "scalearn_uniform_pp"])
def test_an_empty_published_file_is_named(tmp_path, variant):
    folder = published_bin(copied(variant, tmp_path / "a"), {})
    with pytest.raises(InputError, match=r"scalearn.bin is empty, as the published .* put transfer.safetensors"):
        release.load_scalearn(folder, allow_pickle=True)


@pytest.mark.parametrize(
    "variant, changes, message",
    [
        ("scalearn", {"omega_shape": "scalar"}, "shape (4, 32), expected (4, 1)"),
        ("scalearn", {"per_layer": True}, "omega has shape (3, 4, 32), expected (4, 32)"),
        ("scalearn_pp", {"per_layer": False}, "shape (32,), expected (4, 32)"),
        ("scalearn", {"name": "mnli,qqp"}, "expected (2, 32)"),
        ("scalearn", {"omega_shape": "matrix"}, "omega_shape 'matrix'"),
        ("scalearn_uniform", {"take_mean": True}, "none of the published variants"),
        ("scalearn_mean", {"take_softmax": True}, "none of the published variants"),
        ("scalearn", {"learn_omega": False}, "learn_omega"),
        ("scalearn", {"residual": False}, "residual"),
    ],
)
def test_published_layers_that_contradict_their_configuration_are_refused(tmp_path, variant, changes, message):
    folder = copied(variant, tmp_path / "a")
    change(folder / "scalearn_config.json", **changes)
    with pytest.raises(InputError) as error:
        release.load_scalearn(folder)
    assert message in str(error.value)
