"""What makes two runs the same: to resume, settings, backbone, sources and data; to count as finished, the settings."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.config import AdapterConfig, JointConfig, TrainConfig, TransferConfig
from scalearn_jax.config.checks import fields_where
from scalearn_jax.errors import InputError
from scalearn_jax.io.atomic_folder import SCRATCH, tidy
from scalearn_jax.io.files import read_json
from scalearn_jax.runs import provenance, run_json
from scalearn_jax.stages.setup import Setup
from scalearn_jax.train.checkpoint import differences

_SHOWN = 16  # digits of a hash
# Fields that runs of before did not have, and what they did.
_LATER = {"fit": "sgd", "solve_samples": 2000, "sample_seed": None, "masks": None, "ffn_scale": None}
_OF_METHODS = {"propetl": {"masks": "frozen"}, "ia3": {"ffn_scale": "before"}}


def flag(name: str) -> str:
    """Formats a field's name as on the command line."""
    return f"--{name.replace('_', '-')}"


def _before(method: str) -> dict[str, Any]:
    """Later fields, and what runs of a method did before there were such."""
    return _LATER | _OF_METHODS.get(method, {})


def fingerprint(setups: Sequence[Setup]) -> dict[str, Any]:
    """Lists what must be the same in every process of some runs: configs, backbone, sources and data; JSON types."""
    if len(setups) == 1:
        return _fingerprint(setups[0])
    every = {"the number of runs": len(setups)}
    for number, setup in enumerate(setups, 1):
        every |= {f"{name} of run {number}": value for name, value in _fingerprint(setup).items()}
    return every


def _fingerprint(setup: Setup) -> dict[str, Any]:
    config = dataclasses.asdict(setup.config)
    places = fields_where(type(setup.config), "per_host")  # what lies there is compared instead
    later = _before(setup.config.method)
    known = {name: value for name, value in config.items() if later.get(name) != value or name not in later}
    settings = {flag(name): value for name, value in known.items() if name not in places}
    model = {f"the model's {name}": value for name, value in run_json.spec_to_dict(setup.spec).items()}
    data: dict[str, Any] = {}
    for part in setup.parts:
        of = f" of {part.task.name}" if setup.is_joint else ""
        data |= {f"the task's {name}{of}": value for name, value in part.task.to_dict().items()}
        data |= {f"the number of {name} examples{of}": len(split) for name, split in vars(part.data).items()}
        for name, split in vars(part.data).items():
            arrays = {field: x for field, x in vars(split).items() if isinstance(x, np.ndarray)}
            data[f"the {name} data{of}"] = tree.content_hash(arrays)[:_SHOWN]
    sources = {f"source {number}": f"{s.name} {s.hash[:_SHOWN]}" for number, s in enumerate(setup.sources, 1)}
    return settings | model | data | sources | {"the backbone": setup.backbone_hash[:_SHOWN]}


def fingerprint_of_results(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Selects the facts that the results follow from: those that must stay the same to resume a run."""
    free = {
        flag(name)
        for cls in (AdapterConfig, TransferConfig, JointConfig)
        for name in fields_where(cls, "result", False)
    }
    return {name: value for name, value in fingerprint.items() if name.split(" of run ")[0] not in free}


def machine(setup: Setup) -> dict[str, Any]:
    """Lists what the last bits of the results depend on: software, devices and how the work is shared out."""
    mesh, config = setup.mesh, setup.config
    devices = {"devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}", "mesh": dict(mesh.shape)}
    return provenance.versions() | devices | {"processes": jax.process_count(), "dispatch": config.steps_per_dispatch}


def finished(kind: str, config: TrainConfig) -> dict[str, Any] | None:
    """Reads the results of a run that an earlier call with the same config has finished; ``None`` without one.

    A finished run with another config is an error.
    """
    folder = Path(config.out)
    try:
        info, results = run_json.read_info(folder), read_json(folder / "results.json")
    except InputError:
        return None
    # Only settings that the run knows: those of a newer version are compared with none.
    here = {name: getattr(config, name) for name in fields_where(type(config), "result")}
    here = {"kind": kind, **json.loads(json.dumps(here))}
    there = {"kind": info.get("kind"), **_before(info["method"]), **info["config"]}
    names = [name for name in here if name in there]
    found = differences({name: there[name] for name in names}, {name: here[name] for name in names})
    if found:
        raise InputError(
            f"--out {config.out} already exists and is not empty, it holds a run with other settings"
            f" ({'; '.join(found)}); choose another folder or remove it."
        )
    tidy(folder, SCRATCH)
    return results
