"""Our side of the interop tests: setups over random encoders, written for and read from the other library.

Letters: L layers, T source tasks, d hidden size, r bottleneck.
"""

import dataclasses
import functools
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from scalearn_jax import model, tree
from scalearn_jax.data.task import Task
from scalearn_jax.io.tensors import load_tensors, save_tensors
from scalearn_jax.methods import JOINT, METHODS
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.models import encoder as encoders
from scalearn_jax.models import pretrained
from scalearn_jax.models.backbones import BackboneSpec, spec_from_config
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs import adapterhub
from scalearn_jax.runs import load as runs
from scalearn_jax.runs.foreign_head import read_head
from scalearn_jax.sharing import exporting as outgoing
from scalearn_jax.typing import Batch, Params
from tests.interop.cases import CHOICES, OUTPUTS, Encoder, spread

VARIANTS = ("scalearn", "scalearn-uniform", "scalearn++", "scalearn-uniform++")
NUM_SOURCES = (5, 8, 10, 13)
REFERENCE = (("compose", "reference"),)  # the published form, every source by itself
HYPER = (("embedding_size", 6), ("projected_size", 4), ("projector_size", 5))
BERT, ROBERTA, XLMR = Encoder("bert", 32, 4, 2), Encoder("roberta", 40, 5, 1), Encoder("xlm-roberta", 96, 4, 3)
WIDE = Encoder("roberta", 768, 12, 1)
OTHERS = Encoder("electra", 32, 4, 2), Encoder("camembert", 32, 4, 2)
ENCODERS = {BERT: 3, ROBERTA: 6, XLMR: 12}  # -> r of the folded sources, such that T*r lies below and above d


@dataclasses.dataclass(frozen=True)
class Setup:
    """A finished run of ours with random parameters, as ``portable.to_plain_adapter`` takes it."""

    encoder: Encoder
    name: str
    combiner: str = "single"
    num_sources: int = 1
    bottleneck: int = 4
    kind: str = "classification"
    non_linearity: str = "relu"
    options: tuple[tuple[str, object], ...] = ()
    head: str = "two_layer"

    @property
    def task(self) -> Task:
        """The task its head answers."""
        labels = tuple(f"label {number}" for number in range(OUTPUTS[self.kind]))
        choices = tuple(f"choice {number}" for number in range(CHOICES)) if self.kind == "choice" else ()
        named = choices or (() if self.kind == "regression" else labels)
        return Task(self.name, self.kind, ("text",), named, choices=choices)

    @property
    def spec(self) -> ModelSpec:
        """It as a model in its published form, without short cuts."""
        head = HeadSpec(self.head, self.task.num_outputs, self.task.num_choices)
        return ModelSpec(
            backbone=backbone_spec(self.encoder),
            combiner=self.combiner,
            combiner_options=tuple(sorted(self.options)),
            heads=((self.task.name, head),),
            num_sources=self.num_sources,
            bottleneck=self.bottleneck,
            non_linearity=self.non_linearity,
            dtype="strict",
            layers="scan",  # cheaper to trace; equal to the loop by a law of its own
        )


def _fold(encoder: Encoder, bottleneck: int, variant: str, num_sources: int) -> Setup:
    name = f"{variant}-t{num_sources}-r{bottleneck}"
    return Setup(encoder, name, variant, num_sources, bottleneck, options=REFERENCE)


def _folds() -> list[Setup]:
    """Every variant at every T; each encoder meets each of them.

    At d = 768 and r = 48 the width T*r is 240, 384, 480 or 624, of which ``768 // (768 / width)`` gives 384 alone.
    """
    pairs = list(itertools.product(enumerate(VARIANTS), enumerate(NUM_SOURCES)))
    small = [(*list(ENCODERS.items())[(i + j) % 3], variant, num) for (i, variant), (j, num) in pairs]
    wide = [(WIDE, 48, *pair) for pair in zip(VARIANTS, NUM_SOURCES, strict=True)]
    above = [(WIDE, 96, "scalearn", num) for num in (10, 13)]
    return [_fold(*case) for case in (*small, *wide, *above)]


def _over(encoder: Encoder, non_linearity: str) -> list[Setup]:
    """An adapter with each kind of head, and both fusions of the first of them."""
    change = functools.partial(Setup, encoder, non_linearity=non_linearity)
    static = change("static", "fusion", 2, options=(*REFERENCE, ("value", False)))
    return [*(change(kind, kind=kind) for kind in OUTPUTS), change("dynamic", "fusion", 3, options=REFERENCE), static]


SETUPS = [
    *(
        setup
        for encoder, name in zip(ENCODERS, ("gelu", "swish", "tanh"), strict=True)
        for setup in _over(encoder, name)
    ),
    Setup(BERT, "softmax", "scalearn", 5, options=(*REFERENCE, ("normalise", "softmax"))),
    Setup(BERT, "mean", "scalearn-uniform++", 5, options=(*REFERENCE, ("normalise", "mean"))),
    Setup(ROBERTA, "average", "average", 3),
    Setup(ROBERTA, "fixed", "fixed", 3, options=(("coefficients", (0.5, -1.0, 2.0)),)),
    Setup(ROBERTA, "compacter", "compacter", 0, 8),
    Setup(ROBERTA, "propetl", "propetl", 0, 8),
    Setup(ROBERTA, "hyperformer", "hyperformer", 0, 8, options=HYPER),
    Setup(ROBERTA, "hyperformer-choice", "hyperformer++", 0, 8, kind="choice", options=HYPER, head="own_pooled"),
    Setup(ROBERTA, "propetl-m", "propetl-m", 0, 8),
    Setup(ROBERTA, "pooled", head="pooled"),
    Setup(ROBERTA, "pooled-choice", kind="choice", head="pooled"),
    *(Setup(encoder, "single") for encoder in OTHERS),
    *_folds(),
]


@functools.cache
def backbone_spec(encoder: Encoder) -> BackboneSpec:
    """The sizes of an encoder."""
    return spec_from_config(encoder.config, has_pooler=encoder.family != "electra")  # which knows none


@functools.cache
def backbone(encoder: Encoder) -> Params:
    """Random weights of an encoder."""
    shapes = jax.eval_shape(lambda: encoders.init(jax.random.key(0), backbone_spec(encoder)))
    return draw(shapes, seed=[0])


def draw(shapes: Params, seed: Sequence[int]) -> Params:
    """Draws every leaf of a tree."""
    generator = np.random.default_rng(seed)

    def leaf(path: str, shape) -> np.ndarray:
        into = shape.shape[-2:-1] if path.endswith(("kernel", "embedding")) else ()
        return generator.normal(*spread(path.endswith("scale"), into), shape.shape).astype(np.float32)

    return tree.map_with_path(leaf, shapes)


def params_of(setup: Setup) -> Params:
    """Random parameters of a setup, other ones for each name."""
    spec, key = setup.spec, jax.random.key(0)
    bank = jax.eval_shape(lambda: banks.init(key, spec.bank_shape)) if spec.num_sources else {}
    target = jax.eval_shape(lambda: model.init_target(key, key, spec))
    drawn = draw({"adapters": bank, **target}, list(setup.name.encode()))
    if setup.combiner == "fusion":
        drawn["adapters"] = banks.stack([banks.select(params_of(one)["adapters"], 0) for one in sources_of(setup)])
    return {"backbone": backbone(setup.encoder), **drawn}


def sources_of(fusion: Setup) -> list[Setup]:
    """The setups whose adapters a fusion joins."""
    return [one for one in SETUPS if one.encoder == fusion.encoder][: fusion.num_sources]


def batch_of(inputs: dict[str, np.ndarray]) -> Batch:
    """Lays padded sequences out as the package does."""
    mask = inputs["attention_mask"]
    size, zeros = len(mask), np.zeros(len(mask), np.int32)
    return Batch(
        tokens=np.int32(inputs["input_ids"]),
        token_types=np.int32(inputs["token_type_ids"]),
        segments=np.int32(mask),
        positions=np.int32(np.maximum(np.cumsum(mask, 1) - 1, 0) * mask),
        example_at=np.stack([np.arange(size), zeros], 1).astype(np.int32),
        example_mask=np.ones(size, bool),
        labels=zeros,
        example_id=np.arange(size, dtype=np.int32),
    )


def write(root: Path) -> None:
    """Writes every encoder and every setup, with the logits of the published form."""
    for encoder in (*ENCODERS, WIDE, *OTHERS):
        folder, tensors = root / encoder.name, pretrained.to_tensors(backbone(encoder), backbone_spec(encoder))
        (folder / "backbone").mkdir(parents=True)
        (folder / "backbone" / "config.json").write_text(json.dumps(encoder.config))
        save_tensors(folder / "backbone" / "model.safetensors", tensors)
        np.savez(folder / "inputs.npz", **encoder.inputs())
    for setup in SETUPS:
        write_setup(root / setup.encoder.name / "setups" / setup.name, setup, params_of(setup))


def write_setup(folder: Path, setup: Setup, params: Params) -> None:
    """Writes one setup as the commands do: a fusion with its adapters, any other as the adapter that it folds to."""
    task, batch = setup.task, batch_of(setup.encoder.inputs())
    names = [one.task.name for one in sources_of(setup)] if setup.combiner == "fusion" else []
    rows = [*METHODS.items(), *JOINT.items()]
    method = next(name for name, row in rows if row.combiner == setup.combiner)
    info = {"method": method, "sources": [{"name": name} for name in names]}
    info["backbone"] = {"path": "base", "revision": None, "hash": ""}
    run = runs.Run(folder, info, setup.spec, task, {0: params})
    if names:
        outgoing.write_setup(run, 0, folder / "whole")
        shutil.copytree(folder / "whole" / ",".join(names), folder, dirs_exist_ok=True)
    else:
        outgoing.write_adapter(run, 0, folder, task.name)
    np.save(folder / "logits.npy", model.apply(params, batch, spec=setup.spec, task=task.name))


def theirs(folder: Path, name: str) -> tuple[Params, ModelSpec]:
    """Reads a setup of the other library over its encoder.

    Args:
      folder: of the encoder.
      name: of the setup.

    Returns:
      The parameters, and the model of them; its head is named after the setup.
    """
    setup, backbone, sizes = folder / "setups" / name, *pretrained.load_backbone(folder / "backbone")
    head = read_head(setup, sizes, backbone.get("pooler"))
    sources, transfer, combiner, options = [setup], {}, "single", ()
    if (setup / "adapter_fusion_config.json").exists():
        transfer, described = adapterhub.load_fusion(setup)
        sources = [folder / "setups" / source for source in described["adapter_names"]]
        combiner, options = "fusion", (*REFERENCE, ("value", "value" in transfer))
    adapters, configs = zip(*map(adapterhub.load, sources), strict=True)
    bank = banks.stack(adapters)
    options = (*options, ("norm_after", True)) if "norm" in bank else options
    spec = ModelSpec(
        backbone=sizes,
        combiner=combiner,
        combiner_options=options,
        heads=((name, head.spec),),
        num_sources=len(sources),
        bottleneck=banks.shape(bank).bottleneck,
        non_linearity=configs[0]["non_linearity"],
        dtype="strict",
        layers="scan",
    )
    return {"backbone": backbone, "adapters": bank, "transfer": transfer, "heads": {name: head.params}}, spec


def classifier(folder: Path) -> tuple[Params, ModelSpec]:
    """Reads an encoder with the classification head of transformers, in task ``"demo"``; see ``theirs``."""
    backbone, sizes = pretrained.load_backbone(folder / "backbone")
    tensors, head = load_tensors(folder / "backbone/model.safetensors"), {}
    for ours, name in (("dense", "classifier.dense"), ("out", "classifier.out_proj")):
        head[ours] = {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}
    spec = ModelSpec(sizes, heads=(("demo", HeadSpec(num_outputs=OUTPUTS["classification"])),), dtype="strict")
    return {"backbone": backbone, "adapters": {}, "transfer": {}, "heads": {"demo": head}}, spec
