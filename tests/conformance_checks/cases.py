"""Cases of the conformance script: a folder of reference arrays, and the models to compare with them.

The reference stores linear maps as [out, in]; ``from_torch`` and ``to_torch`` translate names and axes.
"""

import dataclasses
import json
import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import model, tree
from scalearn_jax.combiners.base import Combiner
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.losses import LOSSES, masked_mean
from scalearn_jax.models import bank as banks
from scalearn_jax.models import encoder, pretrained
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs import adapterhub
from scalearn_jax.typing import Batch, Params


class Variant(NamedTuple):
    """How a transfer variant of the reference is called here."""

    combiner: str
    options: dict = {}


VARIANTS = {
    "scalearn": Variant("scalearn"),
    "scalearn_uniform": Variant("scalearn-uniform"),
    "scalearn_pp": Variant("scalearn++"),
    "scalearn_uniform_pp": Variant("scalearn-uniform++"),
    "scalearn_mean": Variant("scalearn", {"normalise": "mean"}),
    "scalearn_softmax": Variant("scalearn", {"normalise": "softmax"}),
    "fusion_dynamic": Variant("fusion"),
    "fusion_static": Variant("fusion", {"value": False}),
}
COMPOSE = ("folded", "reference")


def from_torch(tensors: dict[str, np.ndarray]) -> Params:
    """Builds a tree from dotted names; weights [.. out in] become kernels [.. in out]."""
    return tree.unflatten(
        {
            re.sub(r"weight$", "kernel", name).replace(".", "/"): array.swapaxes(-1, -2)
            if name.endswith("weight")
            else array
            for name, array in tensors.items()
        }
    )


def to_torch(params: Params, prefix: str = "") -> dict[str, np.ndarray]:
    """Names the leaves of a tree as the reference does; undoes ``from_torch``."""
    return {
        prefix + re.sub(r"kernel$", "weight", path).replace("/", "."): np.asarray(
            leaf.swapaxes(-1, -2) if path.endswith("kernel") else leaf
        )
        for path, leaf in tree.flatten(params).items()
    }


def stack_layers(tensors: dict[str, np.ndarray], suffix: str) -> np.ndarray:
    """Stacks the tensors of one name over the encoder layers."""
    pattern = re.compile(rf".*\.layer\.(\d+)\.{re.escape(suffix)}")
    layers = {int(match[1]): array for name, array in tensors.items() if (match := pattern.fullmatch(name))}
    return np.stack([layers[i] for i in range(len(layers))])


@dataclasses.dataclass(frozen=True)
class Model:
    """A spec with its parameters, ready to run on a batch."""

    spec: model.ModelSpec
    params: Params

    def logits(self, batch: Batch, params: Params | None = None, combiner: Combiner | None = None):
        """The logits of the one head."""
        return model.apply(params or self.params, batch, spec=self.spec, task="head", combiner=combiner)

    def hidden(self, batch: Batch):
        """The embedding output and every layer's output, [L+1 R S d]."""
        embeddings = encoder.Embeddings(self.spec.backbone, self.spec.dtype)
        embedded = embeddings.apply({"params": self.params["backbone"]["embeddings"]}, batch)
        _, outputs = model.encode(self.params, batch, spec=self.spec, observe=lambda site, h, out: out)
        return jnp.concatenate([embedded[None], outputs])

    def loss(self, batch: Batch, logits):
        """The mean loss of some logits."""
        return masked_mean(LOSSES[self.kind(batch)](logits, batch.labels), batch.example_mask)

    def kind(self, batch: Batch) -> str:
        """The loss the reference uses; a single output means regression."""
        head = self.spec.head("head")
        if head.num_choices > 1:
            return "choice"
        if batch.labels.ndim == 2:
            return "multilabel"
        return "regression" if head.num_outputs == 1 else "classification"


@dataclasses.dataclass(frozen=True)
class Case:
    """One folder of the reference."""

    folder: Path

    @cached_property
    def manifest(self) -> dict:
        return json.loads((self.folder / "manifest.json").read_text())

    @cached_property
    def tasks(self) -> list[str]:
        return self.manifest["tasks"]

    @property
    def target(self) -> str:
        return self.manifest["target_task"]

    @cached_property
    def backbone(self):
        return pretrained.load_backbone(self.folder / "backbone")

    @cached_property
    def loaded_adapters(self) -> dict[str, tuple[Params, dict]]:
        return {task: adapterhub.load(self.folder / "adapters" / task) for task in self.tasks}

    @property
    def adapters(self) -> dict[str, Params]:
        return {task: adapter for task, (adapter, _) in self.loaded_adapters.items()}

    @property
    def non_linearity(self) -> str:
        """That of all adapters, which is the same."""
        return self.loaded_adapters[self.target][1]["non_linearity"]

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return self.arrays("inputs.npz")

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Reads one ``.npz`` file."""
        with np.load(self.folder / name) as file:
            return dict(file)

    def names(self, part: str) -> list[str]:
        """The names of the ``.npz`` files in a subfolder."""
        return sorted(path.stem for path in (self.folder / part).glob("*.npz"))

    def transfer(self, variant: str) -> Params:
        """The transfer parameters of a variant."""
        return from_torch(load_tensors(self.folder / "transfer" / variant / "transfer.safetensors"))

    def head(self, name: str) -> tuple[Params, HeadSpec]:
        """A head, from ``heads/`` or from the adapter of a task; no dropout."""
        folder = self.folder / ("adapters" if name in self.tasks else "heads") / name
        if (folder / "head_config.json").exists():
            params, spec = adapterhub.load_head(folder)
        else:
            num_choices = self.inputs["choice_input_ids"].shape[1] if name.endswith("choice") else 1
            params, spec = _static_head(load_tensors(folder / "head.safetensors"), num_choices)
        return params, dataclasses.replace(spec, dropout=0.0)

    def batch(self, labels: str, prefix: str = "") -> Batch:
        """The batch ``<prefix>input_ids`` with ``labels``; a [B K S] input gives K sequences an example."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        arrays = (self.inputs.get(f"{prefix}{name}") for name in names)
        return make_batch(*arrays, self.inputs[labels], self.backbone[1])

    def build(
        self,
        combiner: str = "none",
        *,
        transfer: Params | None = None,
        sources: list[str] | None = None,
        head: str = "target",
        dtype: str = "float64",
        non_linearity: str | None = None,
        layers: str = "loop",
        bottleneck: int = 0,
        **options,
    ) -> Model:
        """Assembles a model.

        Args:
          combiner: a key of ``COMBINERS``; options follow as keywords.
          transfer: its parameters.
          sources: tasks whose adapters make the bank; ``None`` for all.
          head: name of the head.
          dtype: of parameters and arithmetic.
          bottleneck: width of a baseline's adapter, where there is no bank.
        """
        backbone, backbone_spec = self.backbone
        sources = self.tasks if sources is None else sources
        head_params, head_spec = self.head(head)
        bank = banks.stack([self.adapters[task] for task in sources]) if sources else {}
        params = {"backbone": backbone, "adapters": bank, "transfer": transfer or {}, "heads": {"head": head_params}}
        spec = model.ModelSpec(
            backbone_spec,
            combiner,
            tuple(sorted(options.items())),
            heads=(("head", head_spec),),
            num_sources=len(sources),
            bottleneck=banks.shape(bank).bottleneck if bank else bottleneck,
            non_linearity=non_linearity or self.non_linearity,
            backbone_dropout=False,
            dtype=dtype,
            layers=layers,
        )
        return Model(spec, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params))

    def build_variant(self, variant: str, compose: str, *, transfer: Params | None = None, **options) -> Model:
        """Assembles a transfer variant; see ``build``."""
        combiner, fixed = VARIANTS[variant]
        transfer = self.transfer(variant) if transfer is None else transfer
        options = {"dropout": 0.0, "compose": compose} | fixed | options
        return self.build(combiner, transfer=transfer, **options)


def _static_head(tensors: dict[str, np.ndarray], num_choices: int) -> tuple[Params, HeadSpec]:
    renamed = {name.removeprefix("classifier.").replace("out_proj", "out"): array for name, array in tensors.items()}
    two_layer = "dense.weight" in renamed
    params = from_torch(renamed) if two_layer else {"out": from_torch(renamed)}
    kind = "two_layer" if two_layer else "pooled"
    return params, HeadSpec(kind, params["out"]["bias"].shape[0], num_choices)


def make_batch(tokens, attention_mask, token_types, labels, spec) -> Batch:
    """Lays out padded sequences, one a row.

    RoBERTa counts non-padding tokens, and padding tokens get the padding position, one before the first.
    """
    num_sequences, length = int(np.prod(tokens.shape[:-1])), tokens.shape[-1]

    def rows(array):
        return jnp.asarray(array.reshape(num_sequences, length), jnp.int32)

    real = tokens != spec.pad_id
    positions = np.cumsum(real, -1) * real - 1 if spec.position_offset else np.arange(length) + np.zeros_like(tokens)
    first = np.stack([np.arange(num_sequences), np.zeros(num_sequences, int)], -1)
    return Batch(
        tokens=rows(tokens),
        token_types=rows(np.zeros_like(tokens) if token_types is None else token_types),
        segments=rows(attention_mask),
        positions=rows(positions),
        example_at=jnp.asarray(first, jnp.int32),
        example_mask=jnp.ones(len(labels), bool),
        labels=jnp.asarray(labels),
        example_id=jnp.arange(len(labels)),
    )
