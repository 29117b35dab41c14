"""Our side of the interop tests: setups over random encoders, written for and read from the other library.

Letters: L layers, T source tasks, d hidden size, r bottleneck.
"""

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import jax
import numpy as np

from scalearn_jax import model, portable, runs, tree
from scalearn_jax.convert import adapterhub, hf
from scalearn_jax.convert.safetensors_io import save_tensors
from scalearn_jax.data.task import Task
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.models.backbones import spec_from_config
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.typing import Batch, Params
from tests.interop.cases import CHOICES, NON_LINEARITIES, OUTPUTS, Encoder, spread

VARIANTS = ("scalearn", "scalearn-uniform", "scalearn++", "scalearn-uniform++")
NUM_SOURCES = (5, 8, 10, 13)
REFERENCE = (("compose", "reference"),)  # the published form, every source by itself
BERT, ROBERTA, XLMR = Encoder("bert", 32, 4, 2), Encoder("roberta", 40, 5, 1), Encoder("xlm-roberta", 96, 4, 3)
WIDE = Encoder("roberta", 768, 12, 1)
ENCODERS = {BERT: 3, ROBERTA: 6, XLMR: 12}  # -> r of the folded sources, such that T*r lies below and above d


@dataclasses.dataclass(frozen=True)
class Setup:
    """A finished run of ours with random parameters, as ``portable.of_run`` takes it."""

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
        named = self.kind in ("classification", "multilabel")
        choices = ("{text}",) * CHOICES if self.kind == "choice" else ()
        return Task(self.name, self.kind, ("text",), labels if named else (), choices=choices)

    @property
    def spec(self) -> ModelSpec:
        """It as a model in its published form, without short cuts."""
        task = self.task
        head = HeadSpec(self.head, task.num_outputs, task.num_choices)
        return ModelSpec(
            backbone=backbone_spec(self.encoder),
            combiner=self.combiner,
            combiner_options=tuple(sorted(self.options)),
            heads=((task.name, head),),
            num_sources=self.num_sources,
            bottleneck=self.bottleneck,
            non_linearity=self.non_linearity,
            dtype="strict",
        )


def _fold(encoder: Encoder, bottleneck: int, variant: str, num_sources: int) -> Setup:
    name = f"{variant}-t{num_sources}-r{bottleneck}"
    return Setup(encoder, name, variant, num_sources, bottleneck, options=REFERENCE)


def _folds() -> list[Setup]:
    """Every variant at every T; each small encoder meets each of them, and the wide one all pairs.

    At d = 768 and r = 48 the width T*r is 240, 384, 480 or 624, of which ``768 // (768 / width)`` gives 384 alone.
    """
    pairs = list(itertools.product(enumerate(VARIANTS), enumerate(NUM_SOURCES)))
    small = [(*list(ENCODERS.items())[(i + j) % 3], variant, num) for (i, variant), (j, num) in pairs]
    wide = [(WIDE, 48, variant, num) for (_, variant), (_, num) in pairs]
    above = [(WIDE, 96, "scalearn", num) for num in (10, 13)]
    return [_fold(*case) for case in (*small, *wide, *above)]


def _normalised() -> list[Setup]:
    return [
        Setup(BERT, f"{variant}-{rule}", variant, 5, 3, options=(*REFERENCE, ("normalise", rule)))
        for variant in VARIANTS
        for rule in ("mean", "softmax")
    ]


SETUPS = [
    *(Setup(encoder, kind, kind=kind, non_linearity="gelu") for encoder in ENCODERS for kind in OUTPUTS),
    *(Setup(ROBERTA, f"phi-{name}", non_linearity=name) for name in NON_LINEARITIES),
    Setup(ROBERTA, "pooled", head="pooled"),
    Setup(ROBERTA, "pooled-choice", kind="choice", head="pooled"),
    Setup(ROBERTA, "average", "average", 3),
    Setup(ROBERTA, "fixed", "fixed", 3, options=(("coefficients", (0.5, -1.0, 2.0)),)),
    Setup(ROBERTA, "compacter", "compacter", 0, 8),
    Setup(ROBERTA, "propetl", "propetl", 0, 8),
    *_normalised(),
    *_folds(),
]


@functools.cache
def backbone_spec(encoder: Encoder):
    """The sizes of an encoder."""
    return spec_from_config(encoder.config, has_pooler=True)


@functools.cache
def backbone(encoder: Encoder) -> Params:
    """Random weights of an encoder."""
    return draw(jax.eval_shape(lambda: model.encoder.init(jax.random.key(0), backbone_spec(encoder))), seed=0)


def draw(shapes: Params, seed: int) -> Params:
    """Draws every leaf of a tree."""
    generator = np.random.default_rng(seed)

    def leaf(path: str, shape) -> np.ndarray:
        into = shape.shape[-2:-1] if path.endswith(("kernel", "embedding")) else ()
        return generator.normal(*spread(path.endswith("scale"), into), shape.shape).astype(np.float32)

    return tree.map_with_path(leaf, shapes)


def params_of(setup: Setup, seed: int) -> Params:
    """Random parameters of a setup over its encoder."""
    spec, key = setup.spec, jax.random.key(0)
    bank = jax.eval_shape(lambda: banks.init(key, spec.bank_shape)) if spec.num_sources else {}
    target = jax.eval_shape(lambda: model.init_target(key, key, spec))
    return {"backbone": backbone(setup.encoder), **draw({"adapters": bank, **target}, seed)}


def batch_of(inputs: dict[str, np.ndarray]) -> Batch:
    """Lays padded sequences out as the package does."""
    mask = inputs["attention_mask"]
    (size, _), zeros = mask.shape, np.zeros(len(mask), np.int32)
    ids = {ours: np.int32(inputs[theirs]) for ours, theirs in (("tokens", "input_ids"), ("token_types", "token_type_ids"))}
    return Batch(
        **ids,
        segments=np.int32(mask),
        positions=np.int32(np.maximum(np.cumsum(mask, 1) - 1, 0) * mask),
        example_at=np.stack([np.arange(size), zeros], 1).astype(np.int32),
        example_mask=np.ones(size, bool),
        labels=zeros,
        example_id=np.arange(size, dtype=np.int32),
    )


def write(root: Path) -> None:
    """Writes every encoder and every setup, with the logits of the published form."""
    for encoder in (*ENCODERS, WIDE):
        folder = root / encoder.name
        (folder / "backbone").mkdir(parents=True)
        (folder / "backbone" / "config.json").write_text(json.dumps(encoder.config))
        save_tensors(folder / "backbone" / "model.safetensors", hf.to_tensors(backbone(encoder), backbone_spec(encoder)))
        np.savez(folder / "inputs.npz", **encoder.inputs())
    for seed, setup in enumerate(SETUPS):
        write_setup(root / setup.encoder.name / "setups" / setup.name, setup, params_of(setup, seed))


def write_setup(folder: Path, setup: Setup, params: Params) -> None:
    """Writes what a run folds to."""
    run = runs.Run(folder, {"method": setup.combiner, "backbone": {}}, setup.spec, setup.task, {0: params})
    folded, task = portable.of_run(run, 0), setup.task
    config = {"model_type": setup.encoder.family, "non_linearity": folded.non_linearity}
    adapterhub.save(folded.adapter, folder, name=task.name, config=config)
    described = {"kind": task.kind, "labels": task.labels, "num_choices": task.num_choices}
    adapterhub.save_head(folded.head, folder, name=task.name, config=config, **described)
    logits = model.apply(params, batch_of(setup.encoder.inputs()), spec=setup.spec, task=task.name)
    np.save(folder / "logits.npy", logits)
