"""What both sides of the interop tests agree on: encoders, setups, inputs, and where files lie. Imports neither side.

A *setup* is what turns hidden states into logits: an adapter with its head, or a fusion with its. Files of one encoder:

    ENCODER/backbone/       config.json, model.safetensors
    ENCODER/inputs.npz      input_ids, attention_mask, token_type_ids, each [N S]
    ENCODER/setups/SETUP/   the other library's files, and logits.npy as the side that wrote them computes them
    ENCODER/pickles/SETUP/  the same with pickles, written by PyTorch only
    mpnet/expected.npz      what transformers computes, see ``torch_side.write_mpnet``

And of a bare encoder of each family, as transformers' own class for pretraining saves it:

    families/ENCODER/       config.json, model.safetensors, inputs.npz, and states.npy, its last states [N S d]

Letters: N sequences, S sequence length, d hidden size, r bottleneck, T source tasks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

VOCABULARY, CHOICES = 50, 2
LENGTHS = (9, 4, 7, 2, 9, 5)  # tokens of each sequence
OUTPUTS = {"classification": 3, "regression": 1, "multilabel": 4, "choice": 1}  # of a head of each kind
_GELUS = ("gelu", "gelu_new", "gelu_pytorch_tanh")  # heads of whose names the first begins the others, too
NON_LINEARITIES = ("relu", *_GELUS, "tanh", "swish", "silu", "leakyrelu", "sigmoid", "linear")


@dataclass(frozen=True)
class Encoder:
    """The sizes of a backbone with random weights, and the lengths of the texts it is tried on."""

    family: str
    hidden_size: int
    num_heads: int
    num_layers: int
    max_positions: int = 20
    lengths: tuple[int, ...] = LENGTHS

    @property
    def name(self) -> str:
        """Its folder, for instance ``bert-32``."""
        return f"{self.family}-{self.hidden_size}"

    @property
    def counts_from_zero(self) -> bool:
        """Whether its positions do, and it has two token types, as BERT."""
        return self.family in ("bert", "electra", "ernie", "splinter")

    @property
    def config(self) -> dict[str, Any]:
        """Its ``config.json``, as transformers reads it."""
        is_bert = self.counts_from_zero
        more = {"electra": {"embedding_size": self.hidden_size}, "ernie": {"use_task_id": True}}.get(self.family, {})
        return more | {
            "model_type": self.family,
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "intermediate_size": 2 * self.hidden_size,
            "max_position_embeddings": self.max_positions,
            "type_vocab_size": 2 if is_bert else 1,
            "pad_token_id": 0 if is_bert else 1,
            "layer_norm_eps": 1e-12 if is_bert else 1e-5,
        }

    def inputs(self) -> dict[str, np.ndarray]:
        """Padded sequences; where there are token types, the second half of each belongs to a second text."""
        generator, length = np.random.default_rng(0), max(self.lengths)
        mask = np.arange(length)[None] < np.array(self.lengths)[:, None]
        second = np.arange(length)[None] >= np.array(self.lengths)[:, None] / 2
        tokens = generator.integers(3, VOCABULARY, mask.shape)
        return {
            "input_ids": np.where(mask, tokens, self.config["pad_token_id"]),
            "attention_mask": mask.astype(np.int64),
            "token_type_ids": (mask & second & self.counts_from_zero).astype(np.int64),
        }


def spread(is_norm: bool, into: tuple[int, ...]) -> tuple[float, float]:
    """Mean and deviation of a random weight, such that no term is too small to be seen and no sum is large.

    Args:
      is_norm: whether it is the scale of a layer norm.
      into: the sizes it sums over; none for a vector.
    """
    return float(is_norm), into[0] ** -0.5 if into else 0.3


@dataclass(frozen=True)
class Adapter:
    """One adapter that PyTorch writes, with a head of its own."""

    name: str
    kind: str = "classification"
    non_linearity: str = "relu"
    ln_after: bool = False


@dataclass(frozen=True)
class Written:
    """What PyTorch writes over one encoder: adapters, and fusions of the first ``num_sources`` of them."""

    encoder: Encoder
    factor: float
    adapters: tuple[Adapter, ...]
    num_sources: int = 0


def _each_kind(non_linearity: str) -> tuple[Adapter, ...]:
    return tuple(Adapter(kind, kind, non_linearity) for kind in OUTPUTS)


FUSIONS = {"fused": "dynamic", "fused-static": "static"}  # the one name begins the other
WRITTEN = (
    Written(Encoder("bert", 32, 4, 2), 8, _each_kind("relu"), 3),
    Written(Encoder("roberta", 40, 5, 1), 16, _each_kind("gelu"), 2),  # r = 40 // 16 = 2
    Written(Encoder("xlm-roberta", 48, 6, 3), 0.7, _each_kind("swish"), 3),  # r = 48 // 0.7 = 68, above d
    Written(Encoder("roberta", 96, 4, 2), 4.5, _each_kind("gelu_new"), 2),  # r = 21
    Written(Encoder("bert", 16, 2, 1), 2, tuple(Adapter(name, non_linearity=name) for name in NON_LINEARITIES)),
    Written(Encoder("electra", 32, 4, 2), 8, (Adapter("classification"),)),
    Written(Encoder("roberta", 20, 2, 2), 4, (Adapter("normed", non_linearity="gelu_new", ln_after=True),)),
)
# Adapters with another width in each layer and none in one, trained with dropout, over transformers' own classes, whose
# heads are static.
STATIC = tuple(Encoder(family, 24, 3, 3) for family in ("bert", "roberta"))
_OTHERS = ("camembert", "data2vec-text", "electra", "ernie", "splinter")
FAMILIES = tuple(Encoder(family, 24, 3, 2) for family in ("bert", "roberta", "xlm-roberta", *_OTHERS))
# `adapters` lacks it, so it is compared with transformers; some tokens are further apart than any bucket tells.
MPNET = Encoder("mpnet", 32, 4, 3, max_positions=202, lengths=(9, 200, 4, 37, 150, 1))
