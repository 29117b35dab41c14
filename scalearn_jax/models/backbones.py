"""The backbones: one row a model family, and the dimensions read from a Hugging Face ``config.json``.

A family with the BERT block needs one row here. A new architecture also needs a block in ``encoder.py``.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from scalearn_jax.errors import InputError, unknown
from scalearn_jax.io.files import fraction, whole
from scalearn_jax.models.adapter import NON_LINEARITIES

MAX_HIDDEN_SIZE, MAX_LAYERS = 65_536, 1000


@dataclass(frozen=True)
class BackboneSpec:
    """The sizes and constants of one pretrained encoder.

    ``position_offset`` is the position id of a sequence's first token: 0 for BERT; the padding id plus one for
    RoBERTa, XLM-R and MPNet, whose position table starts with unused rows. A ``type_vocab_size`` of 0 means no token
    types.
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int
    pad_id: int
    position_offset: int
    layer_norm_eps: float
    activation: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    has_pooler: bool = False

    @property
    def max_length(self) -> int:
        """The longest sequence the position table covers, in tokens."""
        return self.max_positions - self.position_offset

    @property
    def relative_buckets(self) -> int:
        """Rows of the table of relative positions; 0 for none."""
        return BACKBONES[self.family].relative_buckets


@dataclass(frozen=True)
class Family:
    """What distinguishes a model family: its tables, where positions start, and how its files are named.

    Attributes:
      prefix: prefix of the encoder's weight names in a checkpoint with a head, and in AdapterHub files.
      model_class: AdapterHub's class, written into exported files; ``None`` where its library cannot load the family.
      positions_after_pad: whether position ids start at ``pad_id + 1``.
      about: one line for ``scalearn list backbones``.
      has_token_types: whether there is a table of token types.
      relative_buckets: rows of the table of relative positions, see ``attention.relative_bias``; 0 for none.
      modules: BERT's name of a module in a layer -> this family's, where they differ.
      fixed: key of ``config.json`` -> the one value that the published code computes with.
    """

    prefix: str
    model_class: str | None
    positions_after_pad: bool
    about: str
    has_token_types: bool = True
    relative_buckets: int = 0
    modules: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


# All with BERT's block, and with its weights' names behind the prefix.
BACKBONES = {
    "bert": Family("bert", "BertAdapterModel", False, "BERT, MiniLM and sentence encoders of BERT shape"),
    "roberta": Family("roberta", "RobertaAdapterModel", True, "RoBERTa base, large and distilled; BERTweet, PhoBERT"),
    "xlm-roberta": Family("roberta", "XLMRobertaAdapterModel", True, "XLM-R base and large"),
    "camembert": Family("roberta", "RobertaAdapterModel", True, "CamemBERT base and large"),
    "data2vec-text": Family("data2vec_text", None, True, "data2vec for text"),
    "electra": Family("electra", "ElectraAdapterModel", False, "ELECTRA base and large, not small"),
    "ernie": Family("ernie", None, False, "ERNIE 1.0 to 3.0"),
    "splinter": Family("splinter", None, False, "Splinter"),
    "mpnet": Family(
        "mpnet",
        None,
        True,
        "MPNet base and its sentence encoders",
        has_token_types=False,
        relative_buckets=32,
        modules={
            "attention.self.query": "attention.attn.q",
            "attention.self.key": "attention.attn.k",
            "attention.self.value": "attention.attn.v",
            "attention.output.dense": "attention.attn.o",
            "attention.output.LayerNorm": "attention.LayerNorm",
        },
        fixed={"relative_attention_num_buckets": 32, "pad_token_id": 1},
    ),
}


def unknown_family(name: Any, where: str) -> InputError:
    """Returns the error for a ``model_type`` outside the table; only a misspelled one is told what was meant."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would miss PyTorch
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    cutoff = 1.0 if isinstance(name, str) and name in CONFIG_MAPPING_NAMES else 0.75  # 1: it is another architecture
    return unknown("model_type", name, BACKBONES, where=where, cutoff=cutoff)


def same_adapters(one: str, other: str) -> bool:
    """Whether AdapterHub has two families as one, so that its files are for both: CamemBERT is its RoBERTa."""
    classes = [BACKBONES[name].model_class if name in BACKBONES else None for name in (one, other)]
    return one == other or classes[0] == classes[1] is not None


# our name -> (theirs, what it is where the file leaves it out)
_FRACTIONS = {
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
    "hidden_dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
}
# our name -> (theirs, the largest that is believed: a file may come from anyone)
_SIZES = {
    "vocab_size": ("vocab_size", 10_000_000),
    "hidden_size": ("hidden_size", MAX_HIDDEN_SIZE),
    "num_layers": ("num_hidden_layers", MAX_LAYERS),
    "num_heads": ("num_attention_heads", MAX_HIDDEN_SIZE),
    "intermediate_size": ("intermediate_size", 1_000_000),
    "max_positions": ("max_position_embeddings", 1_000_000),
}


def spec_from_config(config: dict[str, Any], *, where: str = "config.json", has_pooler: bool = False) -> BackboneSpec:
    """Reads the dimensions of a backbone from a Hugging Face configuration.

    Args:
      config: the parsed ``config.json``.
      where: the file's name, for error messages.
      has_pooler: whether the checkpoint holds a pooler.

    Returns:
      The spec.

    Raises:
      InputError: unknown ``model_type``, or a number that is missing, out of bounds or inconsistent. A key that is
        null counts as one that is left out.

    Example:
      >>> sizes = dict(vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
      ...              intermediate_size=16, max_position_embeddings=64)
      >>> spec_from_config({"model_type": "roberta", "pad_token_id": 1, **sizes}).max_length
      62
    """
    config = {key: value for key, value in config.items() if value is not None}  # null: as if left out
    # Some programs write 768 as 768.0.
    config |= {key: int(x) for key, x in config.items() if isinstance(x, float) and x.is_integer()}
    if "model_type" not in config:
        raise InputError(f'{where} has no model_type; add "model_type": one of {", ".join(BACKBONES)}.')
    family = config["model_type"]
    if not isinstance(family, str) or family not in BACKBONES:
        raise unknown_family(family, where)
    sizes = {ours: whole(config.get(theirs), 1, most, f"{where}: {theirs}") for ours, (theirs, most) in _SIZES.items()}
    if sizes["hidden_size"] % sizes["num_heads"]:
        raise InputError(
            f"{where}: hidden_size {sizes['hidden_size']} is not a multiple of num_attention_heads"
            f" {sizes['num_heads']}."
        )
    row = BACKBONES[family]
    required = {"position_embedding_type": "absolute", "is_decoder": False, **row.fixed}
    required |= {"embedding_size": sizes["hidden_size"]} if family == "electra" else {}  # of a map that ours lacks
    for key, value in required.items():
        if config.get(key, value) != value:
            raise InputError(f"{where}: {key} is {config[key]!r}; only {value!r} is supported for {family}.")
    after_pad = row.positions_after_pad
    most = min(sizes["vocab_size"], sizes["max_positions"] - 1 if after_pad else sizes["vocab_size"]) - 1
    pad_id = whole(config.get("pad_token_id", int(after_pad)), 0, most, f"{where}: pad_token_id")
    fractions = {
        ours: fraction(config.get(theirs, default), f"{where}: {theirs}")
        for ours, (theirs, default) in _FRACTIONS.items()
    }
    type_vocab_size = whole(config.get("type_vocab_size", 2), 1, 10_000, f"{where}: type_vocab_size")
    return BackboneSpec(
        family=family,
        type_vocab_size=type_vocab_size if row.has_token_types else 0,
        pad_id=pad_id,
        position_offset=pad_id + 1 if after_pad else 0,
        activation=_known("hidden_act", config.get("hidden_act", "gelu"), NON_LINEARITIES, where),
        has_pooler=has_pooler,
        **sizes,
        **fractions,
    )


def _known(key: str, name: Any, table: Collection[str], where: str) -> str:
    if not isinstance(name, str) or name not in table:
        raise unknown(key, name, table, where=where)
    return name
