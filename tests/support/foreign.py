"""Adapters and heads as other programs write them."""

import json

import numpy as np

from scalearn_jax.io.tensors import load_tensors, save_tensors
from scalearn_jax.runs import adapterhub


def adapter(num_layers=2, hidden_size=8, width=4):
    """A random adapter."""
    draw = np.random.default_rng(0).standard_normal
    part = lambda a, b: {  # noqa: E731
        "kernel": draw((num_layers, a, b)).astype(np.float32),
        "bias": draw((num_layers, b)).astype(np.float32),
    }
    return {"down": part(hidden_size, width), "up": part(width, hidden_size)}


def change_config(folder, **changes):
    """Sets keys of an adapter's configuration."""
    content = json.loads((folder / "adapter_config.json").read_text())
    content["config"] |= changes
    (folder / "adapter_config.json").write_text(json.dumps(content))


def uneven(folder, widths, **settings):
    """Writes an adapter with other widths by layer, and no adapter where that is ``None``; returns its layers."""
    whole = adapter(num_layers=len(widths))
    adapterhub.save(whole, folder, name="a", config={"model_type": "bert"})
    tensors = {}
    for key, tensor in load_tensors(folder / "adapter.safetensors").items():
        width = widths[int(key.split(".")[3])]
        if width is not None:
            units = {"weight": (..., slice(width)), "bias": ...}[key.split(".")[-1]] if "_up" in key else slice(width)
            tensors[key] = np.ascontiguousarray(tensor[units])
    save_tensors(folder / "adapter.safetensors", tensors)
    change_config(folder, **settings)
    return whole


def static_head(folder, owner, tensors, **changes):
    """Writes a head as `adapters` does of a class of transformers."""
    folder.mkdir(exist_ok=True)
    content = {"config": None, "hidden_size": 4, "label2id": {"bad": 0, "good": 1}, "model_class": owner}
    content |= {"model_name": None, "model_type": "bert", "name": None, "num_labels": 2} | changes
    (folder / "head_config.json").write_text(json.dumps(content))
    save_tensors(folder / "model_head.safetensors", tensors)
    return folder


def layer(name, out, into=4):
    """The tensors of a linear map."""
    draw = np.random.default_rng(out).standard_normal
    return {f"{name}.weight": np.float32(draw((out, into))), f"{name}.bias": np.float32(draw(out))}
