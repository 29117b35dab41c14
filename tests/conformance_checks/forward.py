"""Conformance of one pass: logits, losses, hidden states, the inside of the transfer layer, gradients, dropout.

Every check takes a case and the name of a reference file, and yields results.
"""

import importlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np

from scalearn_jax.combiners.base import Combiner
from scalearn_jax.combiners.baselines import masks_of
from scalearn_jax.combiners.scalearn import effective_omega, scale, source_updates
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.models import encoder
from scalearn_jax.typing import Batch, Params
from tests.conformance_checks.cases import COMPOSE, VARIANTS, Case, Model, from_torch, stack_layers, to_torch

FUSION = importlib.import_module("scalearn_jax.combiners.fusion")  # the package also exports a function of that name
FLOAT64, FLOAT32, GRADIENT, STORED_AS_FLOAT32 = 1e-9, 5e-5, 1e-8, 1e-6


class Result(NamedTuple):
    """One check: the largest difference found and the largest one allowed."""

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


def largest_difference(pairs: Iterable[tuple]) -> float:
    """The largest absolute difference over pairs of arrays; infinite for unequal shapes or NaN."""
    differences = [np.inf]  # no pairs: nothing was compared
    for i, (ours, theirs) in enumerate(pairs):
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        equal_shape = ours.shape == theirs.shape
        difference = np.abs(ours - theirs).max(initial=0.0) if equal_shape else np.inf
        differences = [*(differences if i else []), np.nan_to_num(difference, nan=np.inf)]
    return float(max(differences))


def compare(name: str, ours: dict, theirs: dict, tolerance: float) -> Result:
    """Compares every array of ``theirs`` with the one of the same name in ``ours``."""
    return Result(name, largest_difference((ours.get(key, np.nan), array) for key, array in theirs.items()), tolerance)


# ---------------------------------------------------------------- forward passes


class Setup(NamedTuple):
    """A model of the reference: how to build it, and what it is fed."""

    build: dict
    variant: str | None = None
    labels: str = "labels_target"
    inputs: str = ""


def find_setup(case: Case, name: str) -> Setup:
    """Reads off a file name of ``forward/`` which model it shows."""
    variant, _, head = name.partition("__")
    if variant in VARIANTS:
        if not head:
            return Setup({}, variant)
        plain = head.removeprefix("static_")
        labels = "labels_target" if plain == "classification" else f"labels_{plain}"
        return Setup({"head": head}, variant, labels, "choice_" if plain == "choice" else "")
    if name == "none":
        return Setup({"sources": []})
    if name.removeprefix("single_") in case.tasks:
        task = name.removeprefix("single_")
        return Setup({"combiner": "single", "sources": [task], "head": task}, labels=f"labels_{task}")
    if name == "probe_pair":
        pair = [case.tasks[0], case.tasks[-1]]
        return Setup({"combiner": "fixed", "sources": pair, "coefficients": (0.7, 0.1)})
    if match := re.fullmatch(r"probe_(.+)_([\d.]+)", name):
        coefficient = float(np.float32(match[2]))  # the release keeps a single constant in float32, a pair exact
        return Setup({"combiner": "fixed", "sources": [match[1]], "coefficients": (coefficient,)})
    if name.startswith("baseline_"):
        path = case.folder / f"baselines/{name.removeprefix('baseline_')}.safetensors"
        return Setup(BASELINES[name](load_tensors(path)))
    raise KeyError(f"no check knows the setup {name!r}")


def forward(case: Case, name: str) -> Iterator[Result]:
    """Logits, losses and hidden states of a setup, in both precisions."""
    special = {"soup": soup, "fusion_temperature": temperature}
    if name in special:
        yield from special[name](case)
        return
    setup = find_setup(case, name)
    forms = COMPOSE[:1] if "head" in setup.build else COMPOSE  # a head knows nothing of what is below
    for compose in forms if setup.variant else (None,):
        for dtype in ("float64", "float32"):
            yield from forward_pass(case, name, setup, compose, dtype)


def forward_pass(case: Case, name: str, setup: Setup, compose: str | None, dtype: str) -> Iterator[Result]:
    """One setup in one precision."""
    build = setup.build | {"dtype": dtype}
    model = case.build_variant(setup.variant, compose, **build) if setup.variant else case.build(**build)
    batch, stored = case.batch(setup.labels, setup.inputs), case.arrays(f"forward/{name}.npz")
    title = f"forward/{name} {dtype}{f' {compose}' if compose else ''}"
    tolerance, suffix = (FLOAT64, "f64") if dtype == "float64" else (FLOAT32, "f32")
    logits, loss = model.logits(batch), stored[f"loss_{suffix}"]
    yield Result(f"{title} logits", largest_difference([(logits, stored[f"logits_{suffix}"])]), tolerance)
    # The reference casts multi-label labels to float32, so its float64 loss is only as good.
    loss_tolerance = tolerance if dtype == "float32" or loss.dtype == np.float64 else STORED_AS_FLOAT32
    yield Result(f"{title} loss", largest_difference([(model.loss(batch, logits), loss)]), loss_tolerance)
    if "hidden_states" in stored:
        ours, theirs = (real_positions(x, batch) for x in (model.hidden(batch), stored["hidden_states"]))
        yield Result(f"{title} hidden states", largest_difference([(ours, theirs)]), tolerance)


def real_positions(array, batch: Batch) -> np.ndarray:
    """Drops padding from [L R S ...]: a padded query attends to nothing here, to the real keys there."""
    return np.asarray(array)[:, np.asarray(batch.segments) > 0]


def temperature(case: Case) -> Iterator[Result]:
    """AdapterFusion with the temperatures of three successive passes."""
    stored, batch = case.arrays("forward/fusion_temperature.npz"), case.batch("labels_target")
    for compose in COMPOSE:
        pairs = [
            (case.build_variant("fusion_dynamic", compose, temperature=float(divisor)).logits(batch), logits)
            for divisor, logits in zip(stored["temperature"], stored["logits_f64"], strict=True)
        ]
        yield Result(f"forward/fusion_temperature {compose} logits", largest_difference(pairs), FLOAT64)


def soup(case: Case) -> Iterator[Result]:
    """The averaged adapter and its logits; the reference averages in float32."""
    path = next(path for path in (case.folder / "soup.json", case.folder / "forward/soup.json") if path.exists())
    described, stored = json.loads(path.read_text()), case.arrays("forward/soup.npz")
    for part in ("include_target", "exclude_target"):
        weights = described[part]["weights"]
        model = case.build("average", weights=tuple(weights.get(task, 0.0) for task in case.tasks))
        site = model.spec.combiner_functions.bind({}, model.params["adapters"])
        ours = to_torch(site) | {"logits_f64": model.logits(case.batch("labels_target"))}
        theirs = {key.removeprefix(f"{part}."): array for key, array in stored.items() if key.startswith(part)}
        yield compare(f"forward/soup {part}", ours, theirs, STORED_AS_FLOAT32)


def _compacter(tensors: dict[str, np.ndarray]) -> dict:
    parts = {"down": "output.adapters.base.adapter_down.0", "up": "output.adapters.base.adapter_up"}
    names = {"left": "W_left", "right": "W_right", "bias": "b"}
    transfer = {
        part: {ours: stack_layers(tensors, f"{module}.{theirs}") for ours, theirs in names.items()}
        for part, module in parts.items()
    }
    transfer["rule"] = next(array for name, array in tensors.items() if name.endswith("phm_rule"))
    width = transfer["down"]["bias"].shape[-1]
    return {"combiner": "compacter", "transfer": transfer, "sources": [], "bottleneck": width, "non_linearity": "gelu"}


def _ia3(tensors: dict[str, np.ndarray]) -> dict:
    modules = {"key": "attention.self.key", "value": "attention.self.value", "ffn": "intermediate.dense"}
    transfer = {
        ours: stack_layers(tensors, f"{theirs}.loras.base.lora_B").squeeze(-1) for ours, theirs in modules.items()
    }
    return {"combiner": "ia3", "transfer": transfer, "sources": [], "intermediate_size": transfer["ffn"].shape[-1]}


def _propetl(tensors: dict[str, np.ndarray]) -> dict:
    leaves = {
        f"{ours}.{leaf}": stack_layers(tensors, f"output.adapters.base.{theirs}.{leaf}")[0]  # one for all layers
        for ours, theirs in (("down", "adapter_down.0"), ("up", "adapter_up"))
        for leaf in ("weight", "bias")
    }
    scores = {part: stack_layers(tensors, f"output.adapters_mask.base.{part}_mask") for part in ("down", "up")}
    masks = {part: masks_of(scores[part], 0.5) for part in scores}
    adapter, width = from_torch(leaves), leaves["down.bias"].shape[-1]
    return {
        "combiner": "propetl",
        "transfer": {"adapter": adapter, "masks": masks},
        "sources": [],
        "bottleneck": width,
    }


BASELINES = {"baseline_compacterpp": _compacter, "baseline_ia3": _ia3, "baseline_propetl": _propetl}


# ---------------------------------------------------------------- inside the transfer layer


def internals(case: Case, variant: str) -> Iterator[Result]:
    """What enters and leaves the transfer layer of every encoder layer."""
    batch = case.batch("labels_target")
    stored = {key: real_positions(x, batch) for key, x in case.arrays(f"internals/{variant}.npz").items()}
    for compose in COMPOSE:
        recorded = record(case.build_variant(variant, compose), batch)
        recorded = {key: real_positions(x, batch) for key, x in recorded.items()}
        recorded["combined"] = recorded["update"] + stored["residual"]
        for key in sorted(stored.keys() - {"residual"}):
            yield compare(f"internals/{variant} {compose} {key}", recorded, {key: stored[key]}, FLOAT64)


def record(model: Model, batch: Batch) -> dict[str, np.ndarray]:
    """Runs the encoder and keeps each layer's input, source outputs, update and attention over the sources."""
    seen: dict[str, list] = {"query_input": [], "up": [], "update": [], "attention": []}
    combiner, bank = model.spec.combiner_functions, model.params["adapters"]

    def update(site: Params, h):
        layer = jax.tree.map(lambda leaf: leaf[len(seen["up"])], bank)
        seen["query_input"].append(h)
        seen["up"].append(source_updates(layer, h, model.spec.non_linearity))
        seen["update"].append(combiner.apply(site, h))
        return seen["update"][-1]

    def attend(*arguments):
        seen["attention"].append(original(*arguments))
        return seen["attention"][-1]

    original = FUSION.attend
    site = combiner.bind(model.params["transfer"], bank)
    with mock.patch.object(FUSION, "attend", attend):
        encoder.encode(
            encoder.Adapted(model.params["backbone"], site, update), batch, model.spec.backbone, encoder.Compute()
        )
    return {key: np.stack(values) for key, values in seen.items() if values}


# ---------------------------------------------------------------- gradients and dropout


def gradients(case: Case, name: str) -> Iterator[Result]:
    """Gradients of the loss for every transfer parameter and the head, or for one adapter."""
    setup, stored = find_setup(case, name), case.arrays(f"grads/{name}.npz")
    for compose in COMPOSE if setup.variant else (None,):
        model = case.build_variant(name, compose) if compose else case.build(**setup.build)
        loss, grads = loss_and_gradients(model, case.batch(setup.labels))
        yield compare(f"grads/{name}{f' {compose}' if compose else ''}", grads | {"loss": loss}, stored, GRADIENT)


def loss_and_gradients(model: Model, batch: Batch, combiner: Combiner | None = None) -> tuple:
    """The loss, and its gradients under the reference's names."""
    single = model.spec.combiner == "single"
    trainable = {group: model.params[group] for group in ("adapters" if single else "transfer", "heads")}

    def loss(trainable):
        return model.loss(batch, model.logits(batch, model.params | trainable, combiner))

    value, grads = jax.value_and_grad(loss)(trainable)
    named = to_torch(banks.select(grads["adapters"], 0) if single else grads["transfer"])
    return value, named | to_torch(grads["heads"]["head"], "head.")


def dropout(case: Case, name: str) -> Iterator[Result]:
    """A training pass with the sampled mask of the transfer layer replayed."""
    variant = re.fullmatch(r"(.+)_d\d+", name)[1]
    stored, batch = case.arrays(f"dropout/{name}.npz"), case.batch("labels_target")
    mask, rate = stored.pop("mask"), float(stored.pop("rate"))
    for compose in COMPOSE:
        model = case.build_variant(variant, compose, dropout=rate)
        combiner = replayed(model.spec, mask)
        loss, grads = loss_and_gradients(model, batch, combiner)
        ours = {f"grad.{key}": grad for key, grad in grads.items()}
        ours |= {"logits": model.logits(batch, combiner=combiner), "loss": loss}
        yield compare(f"dropout/{name} {compose}", ours, stored, FLOAT64)


def replayed(spec: ModelSpec, mask: np.ndarray) -> Combiner:
    """The combiner of a spec with a mask in place of its own dropout: on omega, or on the scores of AdapterFusion."""
    combiner, compose = spec.combiner_functions, spec.option("compose")

    def bind_scaled(transfer: Params, bank: Params, *, keys) -> Params:
        omega = effective_omega(transfer["omega"], spec.backbone.num_layers, spec.option("normalise", "none"))
        return scale(bank, omega * mask, compose)

    def bind_masked(transfer: Params, bank: Params, *, keys) -> Params:
        return {"inner": combiner.bind(transfer, bank, keys=keys), "mask": mask}

    def fuse(site: Params, z):
        own = site["mask"][:, : z.shape[1]]  # in the last layer first tokens alone: one sequence a row
        with mock.patch.object(FUSION, "apply_dropout", lambda key, scores, rate: scores * own):
            return combiner.apply(site["inner"], z)

    return (
        combiner._replace(bind=bind_masked, apply=fuse)
        if spec.combiner == "fusion"
        else combiner._replace(bind=bind_scaled)
    )
