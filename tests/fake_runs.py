"""Run folders as the pipeline writes them, without any training."""

import json
from pathlib import Path

import numpy as np

from scalearn_jax.convert.safetensors_io import save_tensors

NUM_LAYERS, HIDDEN = 3, 5


def write_run(folder, *, task, method="single", values=(0.5,), sources=(), parameters=0, metric="accuracy"):
    """Writes a finished run; a ScaLearn one with the scale of source t at layer l equal to 10 t + l."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    seeds = {str(seed): {"dev": {metric: value}, "test": {metric: value}} for seed, value in enumerate(values)}
    (folder / "results.json").write_text(json.dumps({"main_metric": metric, "seeds": seeds}))
    info = {
        "format": 1,
        "method": method,
        "task": {"name": task},
        "spec": {"combiner": method, "combiner_options": []},
        "sources": [{"name": source, "path": "", "hash": ""} for source in sources],
        "seeds": list(range(len(values))),
        "parameters": {"transfer": parameters, "head": 1, "trainable": parameters + 1},
    }
    if method.startswith("scalearn"):
        for seed in range(len(values)):
            save_tensors(folder / f"seed-{seed}.safetensors", {"transfer/omega": _omega(method, len(sources))})
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def _omega(method, num_sources):
    width = 1 if "uniform" in method else HIDDEN
    shape = (num_sources, width) if method.endswith("++") else (NUM_LAYERS, num_sources, width)
    source = 10.0 * np.arange(num_sources)[:, None]  # [T, 1]
    layer = 0.0 if method.endswith("++") else np.arange(NUM_LAYERS)[:, None, None]  # [L, 1, 1]
    return np.broadcast_to(np.asarray(source + layer, np.float32), shape)
