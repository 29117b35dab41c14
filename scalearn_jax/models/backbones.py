"""The backbones: one row a model family, and the dimensions read from a Hugging Face ``config.json``.

A family with the BERT block needs one row here. A new architecture also needs a block in ``encoder.py``.
"""

from dataclasses import dataclass
from typing import Any

from scalearn_jax.errors import InputError, unknown
from scalearn_jax.models.bottleneck import NON_LINEARITIES


@dataclass(frozen=True)
class BackboneSpec:
    """The sizes and constants of one pretrained encoder.

    ``position_offset`` is the position id of a sequence's first token: 0 for BERT; the padding id plus one for
    RoBERTa and XLM-R, whose position table starts with unused rows.
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


@dataclass(frozen=True)
class Family:
    """What distinguishes a model family: where positions start, and how its files are named.

    Attributes:
      prefix: prefix of the encoder's weight names in a checkpoint with a head, and in AdapterHub files.
      model_class: AdapterHub's class, written into exported files.
      positions_after_pad: whether position ids start at ``pad_id + 1``.
      about: one line for ``scalearn list backbones``.
    """

    prefix: str
    model_class: str
    positions_after_pad: bool
    about: str


BACKBONES = {
    "bert": Family("bert", "BertAdapterModel", False, "BERT, MiniLM and sentence encoders of BERT shape"),
    "roberta": Family("roberta", "RobertaAdapterModel", True, "RoBERTa base, large and distilled"),
    "xlm-roberta": Family("roberta", "XLMRobertaAdapterModel", True, "XLM-R base and large"),
}

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
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
      InputError: unknown ``model_type``, or a size that is missing, not a positive integer, or inconsistent.

    Example:
      >>> sizes = dict(vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
      ...              intermediate_size=16, max_position_embeddings=64)
      >>> spec_from_config({"model_type": "roberta", "pad_token_id": 1, **sizes}).max_length
      62
    """
    family = config.get("model_type")
    if family not in BACKBONES:
        raise unknown("model_type", family, BACKBONES, where=where)
    sizes = {ours: _positive(config, theirs, where) for ours, theirs in _SIZES.items()}
    if sizes["hidden_size"] % sizes["num_heads"]:
        raise InputError(
            f"{where}: hidden_size {sizes['hidden_size']} is not a multiple of num_attention_heads"
            f" {sizes['num_heads']}."
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(
            f"{where}: position_embedding_type is {config['position_embedding_type']!r}; only 'absolute' is supported."
        )
    activation = config.get("hidden_act", "gelu")
    if activation not in NON_LINEARITIES:
        raise unknown("hidden_act", activation, NON_LINEARITIES, where=where)
    pad_id = config.get("pad_token_id")
    pad_id = (1 if BACKBONES[family].positions_after_pad else 0) if pad_id is None else pad_id
    return BackboneSpec(
        family=family,
        type_vocab_size=config.get("type_vocab_size", 2),
        pad_id=pad_id,
        position_offset=pad_id + 1 if BACKBONES[family].positions_after_pad else 0,
        layer_norm_eps=config.get("layer_norm_eps", 1e-12),
        activation=activation,
        hidden_dropout=config.get("hidden_dropout_prob", 0.1),
        attention_dropout=config.get("attention_probs_dropout_prob", 0.1),
        has_pooler=has_pooler,
        **sizes,
    )


def _positive(config: dict[str, Any], name: str, where: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{where}: {name} must be a positive integer, got {value!r}.")
    return value
