import json

import jax
import ml_dtypes
import numpy as np
import pytest

from scalearn_jax import tree
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.models import encoder, pretrained
from scalearn_jax.models.backbones import BACKBONES

CONFIG = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "type_vocab_size": 2,
    "pad_token_id": 1,
}


def checkpoint(folder, family="roberta", *, has_pooler=True, prefix="", change=lambda tensors: tensors):
    """Writes a random checkpoint; returns its tree."""
    folder.mkdir(exist_ok=True)
    config = CONFIG | {"model_type": family}
    (folder / "config.json").write_text(json.dumps(config))
    spec = pretrained.spec_from_config(config, has_pooler=has_pooler)
    generator, shapes = np.random.default_rng(1), jax.eval_shape(lambda: encoder.init(jax.random.key(0), spec))
    params = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    tensors = {f"{prefix}{name}": tensor for name, tensor in pretrained.to_tensors(params, spec).items()}
    save_tensors(folder / "model.safetensors", change(tensors))
    return params


def equal(ours, theirs):
    assert tree.content_hash(ours) == tree.content_hash(theirs)


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("has_pooler", [True, False])
@pytest.mark.parametrize("prefixed", [True, False])
def test_import_undoes_export(tmp_path, family, has_pooler, prefixed):
    prefix = f"{BACKBONES[family].prefix}." if prefixed else ""
    params = checkpoint(tmp_path / "model", family, has_pooler=has_pooler, prefix=prefix)
    found, spec = pretrained.load_backbone(tmp_path / "model")
    equal(found, params)
    assert spec.has_pooler == has_pooler and spec.family == family


def test_buffers_heads_and_the_old_spelling_of_norms_are_understood(tmp_path):
    def old(tensors):
        tensors = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): x for name, x in tensors.items()}
        tensors = {name.replace("LayerNorm.bias", "LayerNorm.beta"): x for name, x in tensors.items()}
        extra = {"bert.embeddings.position_ids": np.arange(10)[None], "cls.predictions.bias": np.zeros(11)}
        return tensors | extra

    params = checkpoint(tmp_path, "bert", prefix="bert.", change=old)
    equal(pretrained.load_backbone(tmp_path)[0], params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened(tmp_path, dtype):
    params = checkpoint(tmp_path, change=lambda tensors: {name: np.asarray(x, dtype) for name, x in tensors.items()})
    expected = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), params)
    equal(pretrained.load_backbone(tmp_path)[0], expected)


def test_shards_are_joined(tmp_path):
    params = checkpoint(tmp_path)
    tensors = pretrained.to_tensors(params, pretrained.load_backbone(tmp_path)[1])
    (tmp_path / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_tensors(tmp_path / file, {name: x for name, x in tensors.items() if files[name] == file})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    equal(pretrained.load_backbone(tmp_path)[0], params)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(InputError, match="beside it"):
        pretrained.load_backbone(tmp_path)


QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors: {k: x for k, x in tensors.items() if k != QUERY}, f"1 tensors missing: {QUERY};"),
        (lambda tensors: tensors | {"encoder.layer.2.rotary": np.zeros(1)}, "unexpected: encoder.layer.2.rotary;"),
        (lambda tensors: tensors | {QUERY: np.zeros((8, 9), np.float32)}, r"self.query.weight float32\[8, 9\]"),
        (lambda tensors: tensors | {QUERY: np.zeros((8, 8), np.int8)}, r"self.query.weight int8\[8, 8\]"),
        (lambda tensors: {"a": np.zeros(1)}, ", ...;"),
    ],
)
def test_wrong_tensors_are_named(tmp_path, change, message):
    checkpoint(tmp_path, change=change)
    with pytest.raises(InputError, match=message):
        pretrained.load_backbone(tmp_path)


def test_wrong_places_are_named(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        pretrained.load_backbone(tmp_path / "absent")
    with pytest.raises(InputError, match="config.json does not exist"):
        pretrained.load_backbone(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": "robeta"}))
    with pytest.raises(InputError, match="'roberta'"):
        pretrained.load_backbone(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": "roberta"}))
    with pytest.raises(InputError, match="pickle"):
        pretrained.load_backbone(tmp_path)
    with pytest.raises(InputError, match="could not be read from the hub"):
        pretrained.load_backbone("nobody/no-such-model")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number from 1 to 1000, got 1000000000"),
        ({"hidden_size": 65_544}, "hidden_size must be a whole number from 1 to 65536"),
        ({"hidden_size": True}, "hidden_size must be a whole number"),
        ({"intermediate_size": 12.5}, "intermediate_size must be a whole number"),
        ({"vocab_size": "11"}, "vocab_size must be a whole number from 1 to 10000000, got '11'"),
        ({"vocab_size": -11}, "vocab_size must be a whole number"),
        ({"max_position_embeddings": float("nan")}, "max_position_embeddings must be a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a whole number"),
        ({"type_vocab_size": "2"}, "type_vocab_size must be a whole number"),
        ({"pad_token_id": -1}, "pad_token_id must be a whole number"),
        ({"pad_token_id": 9}, "pad_token_id must be a whole number from 0 to 8"),
        ({"pad_token_id": [1]}, r"pad_token_id must be a whole number from 0 to 8, got \[1\]"),
        ({"layer_norm_eps": "1e-5"}, "layer_norm_eps must be a number from 0 to below 1"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps must be a number"),
        ({"hidden_dropout_prob": 1}, "hidden_dropout_prob must be a number from 0 to below 1"),
        ({"hidden_dropout_prob": False}, "hidden_dropout_prob must be a number"),
        ({"model_type": ["roberta"]}, "unknown model_type"),
        ({"hidden_act": {}}, "unknown hidden_act"),
    ],
)
def test_sizes_that_no_backbone_has_are_refused(tmp_path, changes, message):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": "roberta"} | changes))
    with pytest.raises(InputError, match=message) as error:
        pretrained.load_backbone(tmp_path)
    assert "\n" not in str(error.value)


# Of heads of transformers' own classes, by family.
HEADS = {
    "electra": ("discriminator_predictions.dense.weight", "generator_lm_head.bias", "classifier.dense.bias"),
    "splinter": ("splinter_qass.start_classifier.weight",),
    "data2vec-text": ("lm_head.dense.weight", "classifier.out_proj.bias"),
    "camembert": ("lm_head.bias",),
    "ernie": ("cls.predictions.bias",),
}


@pytest.mark.parametrize("family", HEADS)
def test_the_heads_of_every_family_are_left_out(tmp_path, family):
    extra = {name: np.zeros(1, np.float32) for name in HEADS[family]}
    prefix = f"{BACKBONES[family].prefix}."
    params = checkpoint(tmp_path, family, prefix=prefix, change=lambda tensors: tensors | extra)
    equal(pretrained.load_backbone(tmp_path)[0], params)


def test_the_task_type_of_ernie_is_that_of_every_token(tmp_path):
    name, table = "ernie.embeddings.task_type_embeddings.weight", np.arange(24, dtype=np.float32).reshape(3, 8)
    params = checkpoint(tmp_path, "ernie", prefix="ernie.", change=lambda tensors: tensors | {name: table})
    equal(pretrained.load_backbone(tmp_path)[0], params)  # use_task_id is false where it is left out
    config = json.loads((tmp_path / "config.json").read_text()) | {"use_task_id": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = pretrained.load_backbone(tmp_path)[0]["embeddings"]["token_type"]["embedding"]
    np.testing.assert_allclose(found - params["embeddings"]["token_type"]["embedding"], [table[0]] * 2, rtol=1e-6)
    checkpoint(tmp_path, "ernie", prefix="ernie.")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="use_task_id is set, but embeddings.task_type_embeddings.weight is missing"):
        pretrained.load_backbone(tmp_path)


@pytest.mark.parametrize(
    "family, changes, message",
    [
        ("electra", {"embedding_size": 4}, "embedding_size is 4; only 8 is supported"),
        ("bert", {"is_decoder": True}, "is_decoder is True; only False is supported"),
        ("bert", {"position_embedding_type": "relative_key"}, "only 'absolute' is supported"),
    ],
)
def test_what_is_computed_otherwise_is_refused(family, changes, message):
    with pytest.raises(InputError, match=message):
        pretrained.spec_from_config(CONFIG | {"model_type": family} | changes)
    assert pretrained.spec_from_config(CONFIG | {"model_type": "bert", "embedding_size": 4})  # BERT has no such key


ANOTHER = ("distilbert", "albert", "ibert", "deberta", "xlm-roberta-xl", "roberta-prelayernorm", "funnel", "modernbert")


@pytest.mark.parametrize("family", ANOTHER)
def test_another_architecture_is_no_misspelling(family):
    with pytest.raises(InputError) as error:
        pretrained.spec_from_config(CONFIG | {"model_type": family})
    assert str(error.value).startswith(f"unknown model_type {family!r} in config.json. Known: bert, camembert, ")


@pytest.mark.parametrize("wrong, right", [("robeta", "roberta"), ("xlm_roberta", "xlm-roberta"), ("Bert", "bert")])
def test_a_misspelled_family_is_told_what_was_meant(wrong, right):
    with pytest.raises(InputError, match=f"did you mean {right!r}"):
        pretrained.spec_from_config(CONFIG | {"model_type": wrong})


@pytest.mark.parametrize("family", BACKBONES)
def test_a_null_counts_as_left_out_and_a_whole_number_may_have_a_point(family):
    config = CONFIG | {"model_type": family}
    left_out = {key: value for key, value in config.items() if key not in ("pad_token_id", "type_vocab_size")}
    optional = ("position_embedding_type", "hidden_act", "layer_norm_eps", "type_vocab_size", "pad_token_id")
    nulls = left_out | dict.fromkeys((*optional, "hidden_dropout_prob", "attention_probs_dropout_prob"))
    assert pretrained.spec_from_config(nulls) == pretrained.spec_from_config(left_out)
    floats = {key: float(value) if isinstance(value, int) else value for key, value in config.items()}
    spec = pretrained.spec_from_config(floats)
    assert spec == pretrained.spec_from_config(config) and type(spec.hidden_size) is type(spec.pad_id) is int
    for value in (8.5, float("inf"), float("nan"), 1e300):
        with pytest.raises(InputError, match="hidden_size must be a whole number from 1 to 65536"):
            pretrained.spec_from_config(config | {"hidden_size": value})
