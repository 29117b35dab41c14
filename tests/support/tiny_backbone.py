"""A backbone folder as the hub would give it, tiny and random, with a tokenizer over the built-in suite's words."""

import json
from functools import cache
from pathlib import Path

import jax
import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from scalearn_jax import tree
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.models import bank as banks
from scalearn_jax.models import pretrained
from scalearn_jax.models.backbones import spec_from_config
from scalearn_jax.runs import adapterhub

CONFIG = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 80,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MPNET = {"model_type": "mpnet", "pad_token_id": 1}  # for ``write``; its tokenizer stays that of BERT


@cache
def _words() -> tuple[str, ...]:
    from scalearn_jax.data import builtin

    texts = (str(row) for name in builtin.BUILTIN for row in builtin.rows(name, "train")[:200])
    return tuple(sorted({word.strip("'\",.:{}[]()").lower() for text in texts for word in text.split()}))


def write(folder: Path, seed: int = 0, **changes) -> Path:
    """Writes config.json, model.safetensors and tokenizer files.

    Args:
      folder: where.
      seed: of the weights.
      **changes: entries of ``config.json`` that differ from ``CONFIG``.

    Returns:
      The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *_words()))}
    config = CONFIG | {"vocab_size": len(vocabulary)} | changes
    (folder / "config.json").write_text(json.dumps(config))
    spec = spec_from_config(config, has_pooler=True)
    generator = np.random.default_rng(seed)
    tensors = {
        name.format(layer): generator.normal(float("LayerNorm.weight" in name), 0.3, shape).astype(np.float32)
        for _, name, shape in pretrained.weights(spec)
        for layer in range(spec.num_layers if "{}" in name else 1)
    }
    save_tensors(folder / "model.safetensors", tensors)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


# Programs compile faster without: each dropout draws its own masks.
SILENT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def write_with_sources(root: Path, count: int = 2, **changes) -> Path:
    """Writes ``backbone``, of one layer, and random adapters ``source0``, ``source1`` and so on; returns the folder."""
    write(root / "backbone", num_hidden_layers=1, **changes)
    for number in range(count):
        adapter = banks.select(banks.init(jax.random.key(number), banks.BankShape(1, 1, CONFIG["hidden_size"], 4)), 0)
        adapterhub.save(adapter, root / f"source{number}", name=f"s{number}", config={"model_type": "bert"})
    return root


def weights_differ(a, b) -> bool:
    """Whether any leaf of two equal-shaped trees differs in any bit."""
    a, b = tree.flatten(a), tree.flatten(b)
    return any(np.asarray(a[path]).tobytes() != np.asarray(b[path]).tobytes() for path in a)
