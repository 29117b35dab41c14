import json

import numpy as np
import pytest

from scalearn_jax import tree
from scalearn_jax.convert import adapterhub
from scalearn_jax.convert.safetensors_io import load_tensors, save_tensors
from scalearn_jax.errors import InputError
from tests.conftest import ROOT

GOLDEN = ROOT / "tests/golden/roberta_l3_h32_t4"


def adapter(num_layers=2, hidden_size=8, width=4):
    """A random adapter."""
    draw = np.random.default_rng(0).standard_normal
    part = lambda a, b: {  # noqa: E731
        "kernel": draw((num_layers, a, b)).astype(np.float32),
        "bias": draw((num_layers, b)).astype(np.float32),
    }
    return {"down": part(hidden_size, width), "up": part(width, hidden_size)}


def change_config(folder, **changes):
    content = json.loads((folder / "adapter_config.json").read_text())
    content["config"] |= changes
    (folder / "adapter_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_load_undoes_save(tmp_path, family):
    config = {"model_type": family, "non_linearity": "gelu", "model_name": "some-base"}
    adapterhub.save(adapter(), tmp_path, name="a,b", config=config)
    found, described = adapterhub.load(tmp_path)
    assert tree.content_hash(found) == tree.content_hash(adapter())
    assert described == config | {"name": "a,b", "hidden_size": 8, "reduction_factor": 2}


def test_files_of_the_official_code_survive_a_round_trip(tmp_path):
    found, described = adapterhub.load(GOLDEN / "adapters/rte")
    adapterhub.save(found, tmp_path, name="rte", config=described)
    ours, theirs = (load_tensors(path / "adapter.safetensors") for path in (tmp_path, GOLDEN / "adapters/rte"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)
    assert adapterhub.load(tmp_path)[1] == described


@pytest.mark.parametrize("hidden_size", [384, 768, 1024])
def test_every_width_is_recovered_from_its_reduction_factor(hidden_size):
    for width in range(1, 2 * hidden_size):
        assert int(hidden_size // adapterhub.reduction_factor(hidden_size, width)) == width


@pytest.mark.parametrize("name, num_choices", [("target", 1), ("multilabel", 1), ("choice", 2)])
def test_heads_are_read(name, num_choices):
    head, spec = adapterhub.load_head(GOLDEN / "heads" / name)
    tensors = load_tensors(GOLDEN / "heads" / name / "head.safetensors")
    np.testing.assert_array_equal(head["out"]["kernel"].T, tensors[f"heads.{name}.4.weight"])
    assert (spec.num_outputs, spec.num_choices) == (len(head["out"]["bias"]), num_choices)


def test_other_formats_and_layouts_are_refused(tmp_path):
    save = lambda: adapterhub.save(adapter(), tmp_path, name="a", config={"model_type": "bert"})  # noqa: E731
    save()
    change_config(tmp_path, ln_before=True)
    with pytest.raises(InputError, match="ln_before is True, expected False"):
        adapterhub.load(tmp_path)
    save()
    change_config(tmp_path, non_linearity="gleu")
    with pytest.raises(InputError, match="did you mean 'gelu'"):
        adapterhub.load(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    with pytest.raises(InputError, match="PEFT adapter .LORA."):
        adapterhub.load(tmp_path)
    save()
    (tmp_path / "adapter.safetensors").rename(tmp_path / "pytorch_adapter.bin")
    with pytest.raises(InputError, match="pickles can run code"):
        adapterhub.load(tmp_path)


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    adapterhub.save(adapter(), tmp_path, name="a", config={"model_type": "bert"})
    tensors = load_tensors(tmp_path / "adapter.safetensors")
    lost = "bert.encoder.layer.1.output.adapters.a.adapter_up.bias"
    save_tensors(tmp_path / "adapter.safetensors", {k: x for k, x in tensors.items() if k != lost} | {"b": np.zeros(1)})
    with pytest.raises(InputError, match=r"missing: \['1.adapter_up.bias'\], unexpected: \['b'\]"):
        adapterhub.load(tmp_path)
    save_tensors(tmp_path / "adapter.safetensors", tensors | {lost: np.zeros(9, np.float32)})
    with pytest.raises(InputError, match=r"adapter_up.bias of layer 1 has shape \(9,\), expected \(8,\)"):
        adapterhub.load(tmp_path)


def test_a_name_with_a_dot_is_refused(tmp_path):
    with pytest.raises(InputError, match="dot"):
        adapterhub.save(adapter(), tmp_path, name="a.b", config={"model_type": "bert"})
    with pytest.raises(InputError, match="did you mean 'bert'"):
        adapterhub.save(adapter(), tmp_path, name="a", config={"model_type": "brt"})
