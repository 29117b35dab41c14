"""Conformance of training: penalties, 20-step runs, fresh parameters, parameter counts."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import methods, model, tree
from scalearn_jax.combiners import make
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.models import bank as banks
from scalearn_jax.models import pretrained
from scalearn_jax.models.backbones import BACKBONES, BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.train import optim
from scalearn_jax.train.state import TrainState, count_parameters, create
from scalearn_jax.train.step import make_loss, make_train_step
from scalearn_jax.typing import Batch
from tests.conformance_checks.cases import COMPOSE, VARIANTS, Case, Model, make_batch, to_torch
from tests.conformance_checks.forward import FLOAT64, Result, compare, find_setup

RUN, RUN_FLOAT32 = 1e-7, 1e-5

# ---------------------------------------------------------------- penalties


def penalty_weight(name: str) -> float:
    """Reads a weight off a name: ``..._reg01`` is 0.1, ``..._reg001`` is 0.01."""
    digits = re.search(r"(?:reg|lambda)(\d+)$", name)[1]
    return int(digits) / 10 ** (len(digits) - 1)


def penalties(case: Case) -> Iterator[Result]:
    """The penalties and their gradients at stored parameters."""
    stored = case.arrays("regularization.npz")
    for name in sorted(key.removesuffix(".loss") for key in stored if key.endswith(".loss")):
        if name in VARIANTS:
            combiner, transfer = make("fusion"), case.transfer(name)
        else:
            shared = name.startswith("shared")
            combiner = make("scalearn++" if shared else "scalearn", penalty_weight=penalty_weight(name))
            transfer = {"omega": stored["shared_omega" if shared else "omega"]}
        transfer = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), transfer)
        loss, grads = jax.value_and_grad(combiner.penalty)(transfer)
        ours = {f"grad.{key}": grad for key, grad in to_torch(grads).items()} | {"loss": loss}
        theirs = {key.removeprefix(f"{name}."): x for key, x in stored.items() if key.startswith(f"{name}.")}
        yield compare(f"regularization {name}", ours, theirs, FLOAT64)


# ---------------------------------------------------------------- training runs


class Run(NamedTuple):
    """What distinguishes a training run: the row of ``METHODS``, where it starts, and its options."""

    method: str
    variant: str
    options: dict = {}
    weight_decay: float = 0.0
    dtype: str = "float64"


RUNS = {
    "scalearn": Run("scalearn", "scalearn"),
    "scalearn_uniform": Run("scalearn-uniform", "scalearn_uniform"),
    "scalearn_pp": Run("scalearn++", "scalearn_pp"),
    "scalearn_uniform_pp": Run("scalearn-uniform++", "scalearn_uniform_pp"),
    "scalearn_mean": Run("scalearn-mean", "scalearn_mean"),
    "scalearn_softmax": Run("scalearn-softmax", "scalearn_softmax"),
    "scalearn_wd01": Run("scalearn", "scalearn", weight_decay=0.1),
    "scalearn_reg01": Run("scalearn", "scalearn", {"penalty_weight": 0.1}),
    "scalearn_f32": Run("scalearn", "scalearn", dtype="float32"),
    "fusion_dynamic": Run("fusion", "fusion_dynamic"),
    "fusion_static": Run("fusion-static", "fusion_static"),
}
TRAINED_IN_BOTH = ("scalearn", "scalearn_uniform_pp", "fusion_dynamic")


def training(case: Case, name: str) -> Iterator[Result]:
    """20 optimiser steps: losses, rates, gradient norms, omega after each step, the parameters at the end.

    Of every run in the form that is the default; the other one, whose gradients are compared for every variant, is
    trained for one run of each kind.
    """
    stored = case.arrays(f"train/{name}.npz")
    forms = COMPOSE if name in TRAINED_IN_BOTH else COMPOSE[:1]
    for compose in forms if name in RUNS else (None,):
        model, method, run = build_run(case, name, compose)
        history, trained = train(case, model, method, run, num_steps=len(stored["loss"]))
        ours = history | {f"final.{key}": x for key, x in final_names(model, trained).items()}
        title = f"train/{name}{f' {compose}' if compose else ''}"
        for quantity in ("loss", "lr", "grad_norm", "step.", "final."):
            theirs = {key: array for key, array in stored.items() if key.startswith(quantity)}
            if theirs:
                tolerance = RUN_FLOAT32 if run.dtype == "float32" else RUN
                yield compare(f"{title} {quantity.rstrip('.')}", ours, theirs, tolerance)


def build_run(case: Case, name: str, compose: str | None) -> tuple[Model, methods.Method, Run]:
    """The model at the start of a run."""
    if name in RUNS:
        run = RUNS[name]
        model = case.build_variant(run.variant, compose, dtype=run.dtype, layers="scan", **run.options)
        return model, methods.get(run.method), run
    if name == "full_finetuning":
        run = Run("full", "none")
        return case.build(sources=[], head="static_classification", layers="scan"), methods.get("full"), run
    setup = find_setup(case, name)  # single_<task>, with the head of the target
    return case.build(**setup.build | {"head": "target", "layers": "scan"}), methods.get("single"), Run("single", name)


def train(case: Case, start: Model, method: methods.Method, run: Run, num_steps: int) -> tuple[dict, dict]:
    """Runs the package's own training step; returns what each step reported, and the trained parameters."""
    batches = [train_batch(case, i) for i in range(len(case.inputs["train_input_ids"]))]
    tx = optim.make_optimizer(
        learning_rate=method.learning_rate,
        num_steps=num_steps,
        trainable=method.trainable,
        weight_decay=run.weight_decay,
    )
    step = jax.jit(make_train_step(make_loss(start.spec, "head", start.kind(batches[0])), tx))
    trainable, frozen = tree.partition(start.params, methods.is_trainable(method))
    state: TrainState = create(trainable, tx, jax.random.key(0))
    history: dict[str, list] = {"loss": [], "grad_norm": [], "lr": [], "step.omega": []}
    rate = optim.linear_decay(method.learning_rate, num_steps)
    for i in range(num_steps):
        state, metrics = step(state, frozen, batches[i % len(batches)])
        history["lr"].append(rate(i))
        for key in ("loss", "grad_norm"):
            history[key].append(metrics[key])
        history["step.omega"].append(state.trainable["transfer"].get("omega", np.nan))
    return {key: np.stack(values) for key, values in history.items()}, tree.combine(state.trainable, frozen)


def train_batch(case: Case, i: int) -> Batch:
    """Batch i of the training runs."""
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    arrays = (case.inputs[f"train_{name}"][i] if f"train_{name}" in case.inputs else None for name in names)
    return make_batch(*arrays, case.backbone[1])


def final_names(start: Model, params: dict) -> dict[str, np.ndarray]:
    """Trained parameters under the reference's names."""
    head, spec = params["heads"]["head"], start.spec.backbone
    names = to_torch(params["transfer"]) | to_torch(head, "head.")
    if start.spec.combiner == "single":
        names |= to_torch(banks.select(params["adapters"], 0))
    prefix = BACKBONES[spec.family].prefix
    names |= {f"{prefix}.{key}": x for key, x in pretrained.to_tensors(params["backbone"], spec).items()}
    static = {key.replace("out.", "out_proj.") if "dense" in head else key[4:]: x for key, x in to_torch(head).items()}
    return names | {f"classifier.{key}": x for key, x in static.items()}


# ---------------------------------------------------------------- fresh parameters

NUM_DRAWS, SPREAD = 64, 1e-3


def initialisation(case: Case) -> Iterator[Result]:
    """Shape, mean and standard deviation of fresh omegas; tolerances are five standard errors of one draw."""
    for name, stats in json.loads((case.folder / "init_stats.json").read_text()).items():
        uniform, shared, factor = re.match(r"scalearn(Uniform)?(PP)?(_\d)?_avg", name).groups()
        combiner = "scalearn" + ("-uniform" if uniform else "") + ("++" if shared else "")
        shape = banks.BankShape(case.manifest["layers"], len(case.tasks), case.manifest["hidden"], 1)
        init = make(combiner, init_scale=2.0 if factor else 1.0).init  # "_3_avg" means 2, too
        draw = jax.jit(jax.vmap(lambda key, init=init, shape=shape: init(key, shape)["omega"]))
        omegas = np.asarray(draw(jax.random.split(jax.random.key(0), NUM_DRAWS)))
        count = omegas[0].size
        same_shape = 0.0 if list(omegas.shape[1:]) == stats["shape"] else np.inf
        mean = abs(omegas.mean() - stats["mean"]) + same_shape
        deviation = abs(omegas.std() - stats["std"]) + same_shape
        yield Result(f"init_stats {name} mean", mean, 5 * SPREAD / count**0.5)
        if count > 1:  # one number has no spread
            yield Result(f"init_stats {name} std", deviation, 5 * SPREAD / (2 * count) ** 0.5)


# ---------------------------------------------------------------- what is trained


def trainable(case: Case, head: str) -> Iterator[Result]:
    """What a two-stage run trains with a head: the head, without a pooler it stands on, and the transfer parameters."""
    names = set(json.loads((case.folder / "heads" / head / "trainable.json").read_text()))
    tensors = load_tensors(case.folder / "heads" / head / "head.safetensors")
    transfer = case.transfer("scalearn")
    expected = sum(tensor.size for name, tensor in tensors.items() if name in names) + tree.num_parameters(transfer)
    params = case.build("scalearn", transfer=transfer, head=head, dropout=0.0).params
    kept, _ = tree.partition(params, methods.is_trainable(methods.METHODS["scalearn"]))
    count = tree.num_parameters(kept)
    yield Result(f"trainable with head {head} = {count}", abs(count - expected), 0)


# ---------------------------------------------------------------- parameter counts

_BASE = {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_layers": 24, "num_heads": 16, "intermediate_size": 4096}
_ROBERTA = {"max_positions": 514, "type_vocab_size": 1, "pad_id": 1, "position_offset": 2, "layer_norm_eps": 1e-5}
_BERT = {"max_positions": 512, "type_vocab_size": 2, "pad_id": 0, "position_offset": 0, "layer_norm_eps": 1e-12}
# pattern of the name -> family, vocabulary and constants; BERT's classifier stands on its pooler, the others' do not
FAMILIES = {
    "xlm-roberta": ("xlm-roberta", 250002, _ROBERTA),
    "roberta": ("roberta", 50265, _ROBERTA),
    "bert-.*-uncased": ("bert", 30522, _BERT | {"has_pooler": True}),
    "bert-.*-multilingual-cased": ("bert", 119547, _BERT | {"has_pooler": True}),
    "bert-.*-cased": ("bert", 28996, _BERT | {"has_pooler": True}),
}
# name in the reference -> (method, which of its counts)
COUNTED = {
    "full_finetuning": ("full", "transfer"),  # all but the head
    "full_finetuning_with_head": ("full", "trainable"),
    "classification_head_2_labels": ("head", "trainable"),
    "Adapter": ("single", "transfer"),
    "ScaLearn": ("scalearn", "transfer"),
    "ScaLearnUniform": ("scalearn-uniform", "transfer"),
    "ScaLearn++": ("scalearn++", "transfer"),
    "ScaLearnUniform++": ("scalearn-uniform++", "transfer"),
    "AdapterFusion": ("fusion", "transfer"),
    "AdapterFusion_static": ("fusion-static", "transfer"),
    "Compacter++_rf16": ("compacter++", "transfer"),
    "IA3": ("ia3", "transfer"),
    "ProPETL_shared_adapter": ("propetl", "transfer"),
}


def parameter_counts(folder: Path) -> Iterator[Result]:
    """Trainable parameters of each method at full size, counted without allocating any."""
    for model_name, counts in json.loads((folder / "parameter_counts.json").read_text()).items():
        backbone_name, num_tasks = re.fullmatch(r"(\S+), (\d+) tasks?", model_name).groups()
        backbone = known_backbone(backbone_name)
        for name, expected in counts.items():
            count = float("inf")
            if backbone and name == "ProPETL_mask_scores":
                trained = trained_parameters(backbone, int(num_tasks), "propetl")
                count = tree.num_parameters({"masks": trained["transfer"]["masks"]})
            elif backbone and name in COUNTED:
                method, part = COUNTED[name]
                count = count_parameters(trained_parameters(backbone, int(num_tasks), method))[part]
            yield Result(f"parameter_counts {model_name}: {name} = {count}", abs(count - expected), 0)


def known_backbone(name: str) -> BackboneSpec | None:
    """The sizes of a public backbone; ``None`` for one that is not in the table."""
    for pattern, (family, vocab_size, constants) in FAMILIES.items():
        sizes = re.fullmatch(f"(?=.*{pattern}).*(base|large).*", name)
        if sizes:
            sizes = _LARGE if sizes[1] == "large" else _BASE
            return BackboneSpec(family=family, vocab_size=vocab_size, **sizes, **constants)
    return None


@cache
def trained_parameters(backbone: BackboneSpec, num_tasks: int, name: str) -> dict:
    """What one member of a method trains, as shapes with a leading axis of members."""
    method = methods.get(name)
    released = {"masks": "frozen"} if name == "propetl" else {}
    spec = model.ModelSpec(
        backbone,
        method.combiner,
        tuple((method.options | released).items()),
        heads=(("head", HeadSpec("pooled" if backbone.has_pooler else "two_layer", num_outputs=2)),),
        num_sources=num_tasks if method.uses_sources else int(method.combiner == "single"),
        bottleneck=backbone.hidden_size // 16,
    )
    one = jax.eval_shape(lambda: model.init(jax.random.key(0), spec))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), one)
    return tree.partition(shapes, methods.is_trainable(method))[0]
