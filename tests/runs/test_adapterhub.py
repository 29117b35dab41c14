import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalearn_jax import tree
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tensors, save_tensors
from scalearn_jax.runs import adapterhub
from tests.conftest import ROOT
from tests.support.bin_files import pickled
from tests.support.foreign import adapter, change_config, layer, static_head, uneven

GOLDEN = ROOT / "tests/golden/roberta_l3_h32_t4"


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_load_undoes_save(tmp_path, family):
    config = {"model_type": family, "non_linearity": "gelu", "model_name": "some-base"}
    adapterhub.save(adapter(), tmp_path, name="a,b", config=config)
    found, described = adapterhub.load(tmp_path)
    assert tree.content_hash(found) == tree.content_hash(adapter())
    assert described == config | {"name": "a,b", "hidden_size": 8, "reduction_factor": 2, "leave_out": []}


def test_files_of_the_official_code_survive_a_round_trip(tmp_path):
    found, described = adapterhub.load(GOLDEN / "adapters/rte")
    adapterhub.save(found, tmp_path, name="rte", config=described)
    ours, theirs = (load_tensors(path / "adapter.safetensors") for path in (tmp_path, GOLDEN / "adapters/rte"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)
    assert adapterhub.load(tmp_path)[1] == described


def of_version_1(folder, **changes):
    """Writes the adapter of a folder as adapter-transformers 1.x did."""
    layout = {"LN_after": False, "LN_before": False, "MH_Adapter": False, "Output_Adapter": True}
    layout |= {"adapter_residual_before_ln": False, "attention_type": "sent-lvl-dynamic", "new_attention_norm": False}
    layout |= {"original_LN_after": True, "original_LN_before": True, "residual_before_ln": True}
    layout |= {"invertible_adapter": None, "non_linearity": "relu", "reduction_factor": 16} | changes
    content = json.loads((folder / "adapter_config.json").read_text())
    content = {key: content[key] for key in ("hidden_size", "model_name", "model_type", "name")}
    content |= {"config": layout, "type": "text_task"}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    tensors = load_tensors(folder / "adapter.safetensors")
    old = {name.replace(".adapters.", ".layer_text_task_adapters."): tensor for name, tensor in tensors.items()}
    save_tensors(folder / "adapter.safetensors", old)
    return pickled(folder, "pytorch_adapter.bin", "adapter.safetensors")


def test_files_of_the_first_version_are_read(tmp_path):
    expected, _ = adapterhub.load(GOLDEN / "adapters/rte")
    folder = of_version_1(shutil.copytree(GOLDEN / "adapters/rte", tmp_path / "a"))
    found, described = adapterhub.load(folder, allow_pickle=True)
    assert tree.content_hash(found) == tree.content_hash(expected)
    assert (described["name"], described["non_linearity"]) == ("rte", "relu")


@pytest.mark.parametrize("key, value", [("LN_before", True), ("MH_Adapter", True), ("Output_Adapter", False)])
def test_other_layouts_of_the_first_version_are_refused(tmp_path, key, value):
    folder = of_version_1(shutil.copytree(GOLDEN / "adapters/rte", tmp_path / "a"), **{key: value})
    with pytest.raises(InputError, match=f"{key} is {value}, expected {not value}"):
        adapterhub.load(folder, allow_pickle=True)


@pytest.mark.parametrize("hidden_size", [32, 40, 128, 312, 384, 768, 1024])
def test_every_width_is_recovered_from_its_reduction_factor(hidden_size):
    """Also those above the hidden size, which 16 sources of half of it come to."""
    for width in range(1, 8 * hidden_size + 1):
        written = json.loads(json.dumps(adapterhub.reduction_factor(hidden_size, width)))
        assert int(hidden_size // written) == width


@pytest.mark.parametrize("hidden_size, width", [(40, 47), (768, 5 * 48), (768, 13 * 48), (312, 10 * 48)])
def test_the_written_config_gives_the_width(tmp_path, hidden_size, width):
    """As the other library computes it, where the plain quotient gives one unit less."""
    assert int(hidden_size // (hidden_size / width)) == width - 1
    folded = adapter(num_layers=1, hidden_size=hidden_size, width=width)
    adapterhub.save(folded, tmp_path, name="a", config={"model_type": "bert", "reduction_factor": 16})
    factor = json.loads((tmp_path / "adapter_config.json").read_text())["config"]["reduction_factor"]
    assert int(hidden_size // factor) == width
    assert adapterhub.reduction_factor(hidden_size, width, preferred=1e-320) == factor  # of a file from anyone
    assert tree.content_hash(adapterhub.load(tmp_path)[0]) == tree.content_hash(folded)


@pytest.mark.parametrize("name, num_choices", [("target", 1), ("multilabel", 1), ("choice", 2)])
def test_heads_are_read(name, num_choices):
    head, spec = adapterhub.load_head(GOLDEN / "heads" / name)
    tensors = load_tensors(GOLDEN / "heads" / name / "head.safetensors")
    np.testing.assert_array_equal(head["out"]["kernel"].T, tensors[f"heads.{name}.4.weight"])
    assert (spec.num_outputs, spec.num_choices) == (len(head["out"]["bias"]), num_choices)


def add_tensors(path, old, new):
    """Adds copies of a file's tensors under another name."""
    tensors = load_tensors(path)
    save_tensors(path, tensors | {key.replace(old, new): tensor for key, tensor in tensors.items()})


def test_a_head_of_which_the_name_begins_so_is_left_out(tmp_path):
    folder = shutil.copytree(GOLDEN / "heads/target", tmp_path / "a")
    add_tensors(folder / "head.safetensors", "heads.target.", "heads.target2.")
    expected, spec = adapterhub.load_head(GOLDEN / "heads/target")
    found, also = adapterhub.load_head(folder)
    assert tree.content_hash(found) == tree.content_hash(expected) and also == spec
    add_tensors(folder / "head.safetensors", "heads.target.", "heads.other.")
    with pytest.raises(InputError, match="the head holds .'heads.other.1.bias'"):
        adapterhub.load_head(folder)


def test_a_fusion_of_which_the_name_begins_so_is_left_out(tmp_path):
    draw = np.random.default_rng(0).standard_normal
    square = {
        name: {"kernel": np.float32(draw((2, 4, 4))), "bias": np.float32(draw((2, 4)))} for name in ("query", "key")
    }
    adapterhub.save_fusion(square, tmp_path, names=["a", "b"], config={"model_type": "bert"})
    add_tensors(tmp_path / "model_adapter_fusion.safetensors", ".a,b.", ".a,b,c.")
    assert tree.content_hash(adapterhub.load_fusion(tmp_path)[0]) == tree.content_hash(square)


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


@pytest.mark.parametrize(
    "settings, kind",
    [
        ({"architecture": "lora", "composition_mode": "add"}, "is a LoRA adapter"),
        ({"architecture": "lora", "use_dora": True}, "is a DoRA adapter"),
        ({"architecture": "lora", "vera_d": 0.1}, "is a VeRA adapter"),
        ({"architecture": "lora", "composition_mode": "scale"}, r"is an \(IA\)\^3 adapter"),
        ({"architecture": "mtl_lora"}, "is an MTL-LoRA adapter"),
        ({"architecture": "prefix_tuning"}, "is a prefix tuning adapter"),
        ({"architecture": "prompt_tuning"}, "is a prompt tuning adapter"),
        ({"architecture": "reft"}, "is a ReFT adapter"),
        ({"architecture": "union", "configs": []}, "is a ConfigUnion adapter"),
        ({"architecture": "newest\x1b"}, r"is a 'newest.*' adapter"),
        ({"is_parallel": True}, "is a parallel adapter"),
        ({"mh_adapter": True}, r"mh_adapter is True, expected False .it is a Houlsby \(double_seq_bn\) adapter"),
        ({"phm_layer": True, "mh_adapter": True}, "it is a Compacter adapter"),
        ({"inv_adapter": "nice"}, "it is an invertible .MAD-X. adapter"),
    ],
)
def test_another_kind_of_adapter_is_named(tmp_path, settings, kind):
    adapterhub.save(adapter(), tmp_path, name="a", config={"model_type": "bert"})
    change_config(tmp_path, **settings)
    with pytest.raises(InputError, match=kind) as error:
        adapterhub.load(tmp_path)
    assert "Pfeiffer layout (seq_bn" in str(error.value) and "\n" not in str(error.value)


def test_dropout_of_training_changes_nothing(tmp_path):
    adapterhub.save(adapter(), tmp_path, name="a", config={"model_type": "bert"})
    change_config(tmp_path, dropout=0.1, stochastic_depth=0.2)
    assert tree.content_hash(adapterhub.load(tmp_path)[0]) == tree.content_hash(adapter())
    change_config(tmp_path, dropout=1.5)
    with pytest.raises(InputError, match="dropout must be a number from 0 to below 1"):
        adapterhub.load(tmp_path)


def update(adapter, number, width, z):
    """What one layer of an adapter adds to a state, from its first units alone."""
    down, up = ({name: leaf[number] for name, leaf in adapter[part].items()} for part in ("down", "up"))
    h = np.maximum(z @ down["kernel"] + down["bias"], 0)[:width]
    return h @ up["kernel"][:width] + up["bias"]


def test_layers_may_have_other_widths_and_none(tmp_path):
    widths, z = (4, None, 2, 1, None), np.linspace(-1, 1, 8, dtype=np.float32)
    whole = uneven(tmp_path, widths, reduction_factor={"0": 2, "2": 4, "default": 8}, leave_out=[1, 4])
    found, described = adapterhub.load(tmp_path)
    assert found["down"]["kernel"].shape == (5, 8, 4) and described["leave_out"] == [1, 4]
    for number, width in enumerate(widths):
        expected = np.zeros(8) if width is None else update(whole, number, width, z)
        np.testing.assert_allclose(update(found, number, 4, z), expected, rtol=1e-6)
    adapterhub.save(found, tmp_path / "again", name="a", config=described | {"model_type": "bert"})
    assert tree.content_hash(adapterhub.load(tmp_path / "again")[0]) == tree.content_hash(found)


@pytest.mark.parametrize(
    "widths, settings, message",
    [
        ((4, 2), {}, r"adapter_down.0.bias of layer 1 has shape \(2,\), expected \(4,\)"),
        ((4, None, 4), {}, "missing: .'1.adapter_down.0.bias'"),
        ((4, 4), {"leave_out": [1]}, r"in every layer but \[1\]; .* unexpected: .'bert.encoder.layer.1."),
        ((4, 4), {"leave_out": [3]}, r"missing: .'2.adapter_down.0.bias'"),
        ((4, 4), {"leave_out": [10**9]}, "a layer of leave_out must be a whole number from 0 to 999"),
        ((4, 4), {"leave_out": [True]}, "a layer of leave_out must be"),
        ((4, 4), {"leave_out": [1, 1]}, "leave_out must list different layers"),
        ((4, 4), {"leave_out": "1"}, "leave_out must list different layers"),
    ],
)
def test_layers_that_do_not_fit_the_config_are_named(tmp_path, widths, settings, message):
    uneven(tmp_path, widths, **settings)
    with pytest.raises(InputError, match=message) as error:
        adapterhub.load(tmp_path)
    assert "\n" not in str(error.value)


def test_one_layer_must_have_one_width(tmp_path):
    uneven(tmp_path, (4, 2), reduction_factor={"0": 2, "default": 4})
    tensors = load_tensors(tmp_path / "adapter.safetensors")
    key = "bert.encoder.layer.1.output.adapters.a.adapter_up.weight"
    save_tensors(tmp_path / "adapter.safetensors", tensors | {key: np.zeros((8, 1), np.float32)})
    with pytest.raises(InputError, match=r"adapter_up.weight of layer 1 has shape \(8, 1\), expected \(8, 2\)"):
        adapterhub.load(tmp_path)


def test_static_heads_are_read(tmp_path):
    pooled = layer("classifier", 2)
    head, spec = adapterhub.load_head(static_head(tmp_path / "b", "BertForSequenceClassification", pooled))
    assert (spec.kind, spec.num_outputs, list(head)) == ("pooled", 2, ["out"])
    np.testing.assert_array_equal(head["out"]["kernel"], pooled["classifier.weight"].T)
    described = adapterhub.describe_head(tmp_path / "b")
    assert described == adapterhub.HeadFile(None, "classification", ("bad", "good"))
    whole = layer("classifier.dense", 4) | layer("classifier.out_proj", 1)
    folder = static_head(tmp_path / "r", "RobertaForSequenceClassification", whole, num_labels=1, label2id={"a": 0})
    head, spec = adapterhub.load_head(folder)
    assert (spec.kind, spec.num_outputs) == ("two_layer", 1) and adapterhub.describe_head(folder).kind == "regression"
    np.testing.assert_array_equal(head["dense"]["bias"], whole["classifier.dense.bias"])


@pytest.mark.parametrize(
    "owner, tensors, message",
    [
        ("BertForTokenClassification", layer("classifier", 2), "the static head of BertForTokenClassification"),
        ("ElectraForSequenceClassification", {}, "the static head of ElectraForSequenceClassification"),
        ("BertForMultipleChoice", layer("classifier", 1), "the static head of BertForMultipleChoice"),
        ("BertForSequenceClassification", layer("other", 2), r"expected .'classifier.bias', 'classifier.weight'."),
        ("BertForSequenceClassification", layer("classifier", 2) | layer("other", 2), "the head holds"),
        ("RobertaForSequenceClassification", layer("classifier", 2), "'classifier.dense.bias'"),
        ("BertAdapterModel", layer("classifier", 2), "config must be names and values"),
    ],
)
def test_other_static_heads_are_refused(tmp_path, owner, tensors, message):
    with pytest.raises(InputError, match=message) as error:
        adapterhub.load_head(static_head(tmp_path, owner, tensors))
    assert "\n" not in str(error.value)


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


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_size": 10**12}, "hidden_size must be a whole number from 1 to 65536"),
        ({"hidden_size": True}, "hidden_size must be a whole number"),
        ({"hidden_size": 32.0}, "hidden_size must be a whole number"),
        ({"hidden_size": float("nan")}, "hidden_size must be a whole number from 1 to 65536, got nan"),
        ({"hidden_size": "32"}, "hidden_size must be a whole number from 1 to 65536, got '32'"),
        ({"hidden_size": [[]]}, r"got \[\[\]\]; restore the file"),
        ({"name": 3}, "name must be 1 to 200 printable characters, got '3'"),
        ({"name": ""}, "name must be"),
        ({"name": "\x1b[2J"}, r"printable characters, got '.x1b"),
        ({"name": "a" * 201}, "name must be"),
        ({"model_type": ["bert"]}, "model_type must be text, got a list"),
        ({"config": []}, "lacks 'config'"),
        ({"config": {"reduction_factor": float("nan")}}, "reduction_factor must be above 0"),
        ({"config": {"reduction_factor": -1}}, "reduction_factor must be above 0"),
        ({"config": {"reduction_factor": True}}, "reduction_factor must be above 0"),
        ({"config": {"non_linearity": ["relu"]}}, "unknown non_linearity"),
    ],
)
def test_values_that_no_adapter_has_are_refused(tmp_path, changes, message):
    folder = shutil.copytree(GOLDEN / "adapters/rte", tmp_path / "a")
    content = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(content | changes))
    with pytest.raises(InputError, match=message) as error:
        adapterhub.load(folder)
    assert "\n" not in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"config": []}, "config must be names and values"),
        ({"name": None}, "name must be"),
        ({"config": {"dropout_prob": 7}}, "dropout_prob must be a number from 0 to below 1"),
        ({"config": {"dropout_prob": "0.1"}}, "dropout_prob must be"),
        ({"config": {"head_type": "multiple_choice", "num_choices": 10**9}}, "num_choices must be a whole number"),
    ],
)
def test_values_that_no_head_has_are_refused(tmp_path, changes, message):
    folder = shutil.copytree(GOLDEN / "heads/target", tmp_path / "a")
    content = json.loads((folder / "head_config.json").read_text())
    (folder / "head_config.json").write_text(json.dumps(content | changes))
    with pytest.raises(InputError, match=message):
        adapterhub.load_head(folder)


@pytest.mark.parametrize("shape", [(), (3, 1), (0,)])
def test_a_head_of_other_shapes_is_refused(tmp_path, shape):
    folder = shutil.copytree(GOLDEN / "heads/target", tmp_path / "a")
    tensors = load_tensors(folder / "head.safetensors")
    save_tensors(folder / "head.safetensors", tensors | {"heads.target.4.bias": np.zeros(shape, np.float32)})
    with pytest.raises(InputError, match="of the head has shape"):
        adapterhub.load_head(folder)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_give_an_input_error_or_an_adapter(tmp_path_factory, changes):
    folder = tmp_path_factory.getbasetemp() / "changed-adapter"
    if not folder.exists():
        shutil.copytree(GOLDEN / "adapters/rte", folder)
    changed = bytearray((GOLDEN / "adapters/rte/adapter_config.json").read_bytes())
    for place, value in changes:
        changed[place % len(changed)] = value
    (folder / "adapter_config.json").write_bytes(changed)
    try:
        assert adapterhub.load(folder)[0]["up"]["kernel"].shape[0] == 3
    except InputError as error:
        assert "\n" not in str(error) and str(error).isprintable()
