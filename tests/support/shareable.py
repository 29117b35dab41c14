"""Folders that can be shared, with random weights: one as `scalearn fold` makes it, and a run."""

import dataclasses
from pathlib import Path

import numpy as np

from scalearn_jax import tree
from scalearn_jax.data import tasks
from scalearn_jax.data.tasks import Task
from scalearn_jax.io.files import write_json
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.models import pretrained
from scalearn_jax.runs import adapterhub, provenance, run_json
from tests.support import tiny

HIDDEN, WIDTH = 16, 8


def content(**changes):
    """What ``scalearn.json`` says of a fold of two sources."""
    return {
        "format": 1,
        "kind": "fold",
        "method": "scalearn++",
        "seed": 3,
        "task": tasks.get("glue/rte").to_dict(),
        "backbone": {"name": "FacebookAI/roberta-base", "revision": "0f" * 20, "hash": "ab" * 32},
        "sources": [
            {"name": "glue/mnli", "place": "me/mnli@" + "1" * 40, "hash": "cd" * 32},
            {"name": "glue/rte", "place": None, "hash": "ef" * 32},
        ],
        "parameters": {"transfer": 32, "head": 290, "trainable": 322},
        "scores": {"dev": {"accuracy": 0.75}, "test": {"accuracy": 0.6875}},
        "fold": {"kept": ["glue/mnli", "glue/rte"], "width": 8, "check": {"largest_difference": 4.8e-07}},
        "versions": {"jax": "0.10.2"},
        "command": "scalearn fold rte --out rte-fold",
        **changes,
    }


def _linear(*shape: int):
    draw = np.random.default_rng(sum(shape)).normal
    return {
        "kernel": draw(size=shape).astype(np.float32),
        "bias": draw(size=(*shape[:-2], shape[-1])).astype(np.float32),
    }


def write(folder: Path, **changes) -> Path:
    """Writes an AdapterHub folder with a head and ``scalearn.json``; returns it."""
    adapter = {"down": _linear(1, HIDDEN, WIDTH), "up": _linear(1, WIDTH, HIDDEN)}
    head = {"dense": _linear(HIDDEN, HIDDEN), "out": _linear(HIDDEN, 2)}
    adapterhub.save(adapter, folder, name="rte", config={"model_type": "bert"})
    adapterhub.save_head(head, folder, name="rte", kind="classification", config={"model_type": "bert"})
    provenance.write_provenance(folder, content(**changes))
    return folder


def write_run(folder: Path, backbone: Path, **places) -> Path:
    """Writes a finished ScaLearn run over two random sources, its backbone named by ``places``; returns it."""
    _, sizes, content_hash = pretrained.load_hashed_backbone(str(backbone))
    task = Task("demo", "classification", ("sentence",), ("a", "b", "c"), max_length=16)
    spec = tiny.spec("scalearn", backbone=dataclasses.replace(sizes, has_pooler=False), num_sources=2)
    leaves = tree.flatten(tiny.params(spec))
    folder.mkdir(parents=True)
    save_tensors(folder / "frozen.safetensors", {name: x for name, x in leaves.items() if name.startswith("adapters/")})
    trained = {name: x for name, x in leaves.items() if name.startswith(("transfer/", "heads/"))}
    save_tensors(folder / "seed-0.safetensors", trained)
    info = {
        "format": 1,
        "method": "scalearn",
        "config": {"max_train_samples": None, "max_eval_samples": None, "out": str(folder)},
        "task": task.to_dict(),
        "backbone": {"path": "org/tiny", "revision": "0f" * 20, "hash": content_hash},
        "data_dir": None,
        "spec": run_json.spec_to_dict(spec),
        "sources": [{"name": name, "path": f"me/{name}@{'1' * 40}", "hash": "cd" * 32} for name in ("x", "y")],
        "seeds": [0],
        "parameters": {"transfer": 32, "head": 1, "trainable": 33},
    }
    write_json(folder / "run.json", info | places)
    write_json(folder / "results.json", {"seeds": {"0": {"dev": {"accuracy": 0.5}, "test": {"accuracy": 0.625}}}})
    return folder
