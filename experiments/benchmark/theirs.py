"""The PyTorch side of the benchmark: AdapterHub's `adapters` as its users run it, and a plain ScaLearn on top of it.

Runs in an environment of its own, see ``environment.sh``:  python -m experiments.benchmark.theirs '<setting as JSON>'

Letters: K batches, B examples, S sequence length, L layers, T source tasks, d hidden size.

ScaLearn here is the published form (arXiv 2310.01217, section 3): every stock adapter of a layer is evaluated, the
outputs are stacked, scaled by omega after its dropout, and summed; residual and layer norm follow once.
"""

import json
import os
import sys
import types
from importlib import metadata
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from adapters import AdapterConfig, AutoAdapterModel
from adapters.composition import Fuse

from experiments.benchmark.measure import SHAPES, matmul_rates, measure

Setting = dict[str, Any]
RATES = {"single": 3e-4, "scalearn": 6e-3, "fusion": 5e-5}  # as published


def make_model(setting: Setting) -> torch.nn.Module:
    """Loads the encoder with T stock adapters, a two-layer head, and what the method trains."""
    model = AutoAdapterModel.from_pretrained(setting["backbone"])
    method = setting["method"]
    names = [f"source{number}" for number in range(1 if method == "single" else setting["sources"])]
    for name in names:
        model.add_adapter(name, config=AdapterConfig.load("seq_bn", reduction_factor=16))
    model.add_classification_head("target", num_labels=setting["outputs"])
    if method == "single":
        model.train_adapter(names)
    elif method == "fusion":
        model.add_adapter_fusion(Fuse(*names))
        model.train_adapter_fusion(Fuse(*names))
    else:
        compose_scalearn(model, names)
    model.active_head = "target"
    return model


def layer_outputs(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The module after each layer's feed-forward part, where the adapters sit."""
    return [layer.output for layer in model.base_model.encoder.layer]


def compose_scalearn(model: torch.nn.Module, names: list[str]) -> None:
    """Freezes encoder and adapters and gives each layer an omega Float[T d], N(2/T, 0.001)."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("heads.target")
    for output in layer_outputs(model):
        start = torch.normal(2 / len(names), 0.001, (len(names), model.config.hidden_size))
        output.omega = torch.nn.Parameter(start)
        output.bottleneck_layer_forward = types.MethodType(scaled_sum, output)


def scaled_sum(output, hidden_states, residual_input, layer_norm):
    """Replaces a layer's adapter composition: LN(sum_t omega_t * up_t + f + a), with omega under dropout of 0.3.

    Args:
      output: the layer's module.
      hidden_states: f Float[B S d].
      residual_input: a Float[B S d].
      layer_norm: LN.

    Returns:
      Float[B S d].
    """
    adapters = list(output.adapters.values())
    h, _, residual = adapters[-1].pre_forward(hidden_states, residual_input, layer_norm)
    ups = torch.stack([adapter(h, residual_input=residual)[2] for adapter in adapters], dim=2)  # [B, S, T, d]
    omega = torch.nn.functional.dropout(output.omega, 0.3, output.training)
    return layer_norm((ups * omega).sum(dim=2) + residual + residual_input)


def make_step(model: torch.nn.Module, setting: Setting, batches: dict[str, torch.Tensor]):
    """One training step on batch i: AdamW, gradients clipped to norm 1, as the library's trainer does.

    With ``cut`` in the setting a batch is as wide as its longest row.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATES[setting["method"]])
    model.train()

    def step(i: int) -> None:
        width = int(batches["mask"][i].sum(-1).max()) if setting.get("cut") else None
        loss = model(
            input_ids=batches["ids"][i][:, :width],
            attention_mask=batches["mask"][i][:, :width],
            token_type_ids=batches["types"][i][:, :width],
            labels=batches["labels"][i],
        ).loss
        loss.backward()
        if setting["method"] == "fusion":
            model.base_model.get_fusion_regularization_loss().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def step(setting: Setting) -> dict[str, Any]:
    """Measures one method's step, see ``measure.measure``."""
    model, batches = make_model(setting), load_batches(setting["file"])
    taken = measure(make_step(model, setting, batches), len(batches["ids"]), setting["repeats"])
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return taken | {"trainable": trainable, "rows": batches["ids"].shape[1], "threads": torch.get_num_threads()}


def load_batches(file: str) -> dict[str, torch.Tensor]:
    """Reads the padded batches that our side wrote."""
    arrays = np.load(file)
    batches = {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in ("ids", "mask", "types")}
    labels = arrays["labels"]
    integral = np.issubdtype(labels.dtype, np.integer)
    return batches | {"labels": torch.from_numpy(labels.astype(np.int64 if integral else np.float32))}


def logits(setting: Setting) -> dict[str, Any]:
    """Gives the ScaLearn model our weights and compares its logits with ours."""
    model, batches, ours = make_model(setting), load_batches(setting["file"]), np.load(setting["logits"])
    with torch.no_grad():
        for number, output in enumerate(layer_outputs(model)):
            output.omega.copy_(torch.from_numpy(ours["transfer/omega"][number]))
            for source, adapter in enumerate(output.adapters.values()):
                for module, name in ((adapter.adapter_down[0], "down"), (adapter.adapter_up, "up")):
                    _fill(module, ours, f"adapters/{name}", (number, source))
        dense, out = (module for module in model.heads["target"] if isinstance(module, torch.nn.Linear))
        _fill(dense, ours, "dense")
        _fill(out, ours, "out")
        model.eval()
        inputs = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}
        inputs = {name: batches[key][0] for name, key in inputs.items()}
        theirs = model(**inputs).logits.numpy()
        for output in layer_outputs(model):
            output.omega.zero_()
        without = model(**inputs).logits.numpy()
    difference = lambda found: float(np.abs(found - ours["logits"]).max())  # noqa: E731
    return {"difference": difference(theirs), "without_sources": difference(without)}


def _fill(module: torch.nn.Linear, leaves, name: str, index: tuple[int, ...] = ()) -> None:
    module.weight.copy_(torch.from_numpy(leaves[f"{name}/kernel"][index].T.copy()))
    module.bias.copy_(torch.from_numpy(leaves[f"{name}/bias"][index]))


def peak(setting: Setting) -> dict[str, Any]:
    """PyTorch's speed at the same matrix products."""

    def prepare(shape):
        a, b = torch.ones(shape[:2]), torch.ones(shape[1:])
        return lambda: torch.mm(a, b)

    return {"float32": matmul_rates(prepare, setting.get("shapes", SHAPES)), "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of what this side's figures depend on."""
    return {name: metadata.version(name) for name in ("torch", "adapters", "transformers")}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps({"step": step, "logits": logits, "peak": peak}[given["worker"]](given)))
