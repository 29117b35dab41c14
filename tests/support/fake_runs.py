"""Run folders as the pipeline writes them, without any training."""

import json
from pathlib import Path

import numpy as np

from scalearn_jax.io.tensors import save_tensors

NUM_LAYERS, HIDDEN = 3, 5


def write_run(
    folder,
    *,
    task,
    method="single",
    values=(0.5,),
    seeds=None,
    sources=(),
    parameters=0,
    metric="accuracy",
    coefficients=None,
    omega=None,
    examples=None,
    se=0.0,
    lost=(),
):
    """Writes a finished run; a ScaLearn one with the scale of source t at layer l equal to 10 t + l, or as given.

    With ``examples``, test examples scored and available, as today; else as before they were recorded.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    seeds = list(range(len(values)) if seeds is None else seeds)
    scores = {
        str(seed): {"dev": {metric: value}, "test": {metric: value}} for seed, value in zip(seeds, values, strict=True)
    }
    results = {"main_metric": metric, "seeds": scores}
    if examples:
        results["examples"] = {"test": dict(zip(("used", "available"), examples, strict=True))}
        for entry in scores.values():
            entry["se"] = {metric: se}
    if lost:
        results["lost"] = {str(seed): "no finite loss" for seed in lost}
    (folder / "results.json").write_text(json.dumps(results))
    options = [] if coefficients is None else [["coefficients", list(coefficients)]]
    info = {
        "format": 1,
        "method": method,
        "config": {},
        "backbone": {"path": "b", "revision": None, "hash": "hash"},
        "data_dir": None,
        "task": {"name": task},
        "spec": {"combiner": method, "combiner_options": options},
        "sources": [{"name": source, "path": "", "hash": ""} for source in sources],
        "seeds": seeds,
        "parameters": {"transfer": parameters, "head": 1, "trainable": parameters + 1},
    }
    if method.startswith("scalearn"):
        scales = _omega(method, len(sources)) if omega is None else omega
        for seed in seeds:
            save_tensors(folder / f"seed-{seed}.safetensors", {"transfer/omega": scales})
    if method == "single":
        for seed in seeds:
            save_tensors(folder / f"seed-{seed}.safetensors", {"adapters/up/bias": np.zeros(HIDDEN, np.float32)})
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def write_study(root, **values):
    """Writes ``study.json``, which makes a folder a study's."""
    study = {"name": "A study", "backbone": "b", "sources": [], "targets": [], "methods": []} | values
    Path(root).mkdir(parents=True, exist_ok=True)
    (Path(root) / "study.json").write_text(json.dumps({"format": 1, "study": study}))


def write_probe(root, task, constants, **values):
    """Writes a probing cell of a study; ``constants`` is source -> coefficient."""
    label = "+".join(f"{'self' if s == task else s.replace('/', '-')}={c:g}" for s, c in constants.items())
    given = {"sources": tuple(constants), "coefficients": tuple(constants.values()), "method": "fixed"}
    return write_run(Path(root) / task / "probe" / label, task=task, **given, **values)


def _omega(method, num_sources):
    width = 1 if "uniform" in method else HIDDEN
    shape = (num_sources, width) if method.endswith("++") else (NUM_LAYERS, num_sources, width)
    source = 10.0 * np.arange(num_sources)[:, None]  # [T, 1]
    layer = 0.0 if method.endswith("++") else np.arange(NUM_LAYERS)[:, None, None]  # [L, 1, 1]
    return np.broadcast_to(np.asarray(source + layer, np.float32), shape)
