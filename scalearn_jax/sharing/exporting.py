"""``scalearn export``: finished runs for the ``adapters`` library, or for other machines.

Letters: L layers, d hidden size, r bottleneck.
"""

import dataclasses
import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalearn_jax import methods
from scalearn_jax.config import ExportConfig, takes
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.io.atomic_folder import atomic_folder, check_out
from scalearn_jax.io.files import read_json, write_json
from scalearn_jax.models import bank as banks
from scalearn_jax.models.backbones import BACKBONES
from scalearn_jax.runs import adapterhub, provenance
from scalearn_jax.runs.adapterhub.common import VERSION
from scalearn_jax.runs.load import Run, open_run
from scalearn_jax.runs.plain_adapter import foldable, phi, to_plain_adapter, two_layers
from scalearn_jax.runs.sources import Trust
from scalearn_jax.sharing.folders import (
    Contents,
    check_same,
    plain_name,
    read_run_folder,
    save_adapter_folder,
    save_task_head,
    write_run_folder,
)
from scalearn_jax.sharing.recognise import SETUP_FILE
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.typing import Params

# Those whose adapter is the run's own, or an average; of others the adapter is folded from several.
ADAPTERS = ("single", "compacter++", "propetl", "soup")


@takes(ExportConfig, "run", "out")
@own_settings()
def export_run(config: ExportConfig) -> Path:
    """Writes one seed of a finished run for others.

    Returns:
      The folder: an adapter with its head, a setup of a fusion and its adapters, or a run folder.

    Raises:
      InputError: a damaged run, another backbone, or a method that the format has no place for; nothing is written.

    Example:
      >>> export_run(ExportConfig(run="runs/rte", out="adapters/rte"))  # doctest: +SKIP
      PosixPath('adapters/rte')
    """
    check_out(config.out)
    if config.format == "native":
        if config.name:
            raise InputError(f"--name {config.name}: a native run has the name of its task; leave it out.")
        contents, why = native_contents(hub.source_folder(config.run, flag="RUN")[0], config.seed)
        with atomic_folder(config.out) as folder:
            write_run_folder(folder.path, contents)
        provenance.report_choice(why)
        return Path(config.out)
    found = open_run(config.run)
    _check_library(config.run, found.info["spec"].get("backbone"))
    kind = _kind(config, found.info["method"])
    seed, why = provenance.choose_seed(found.folder, found.info, config.seed)
    run = found.load(backbone=config.backbone, seed=seed, trust=Trust(config.allow_pickle), headless=True)
    if kind == "fusion" and config.name:
        raise InputError(f"--name {config.name}: a fusion is named after its sources; leave it out.")
    with atomic_folder(config.out) as folder:
        if kind == "fusion":
            write_setup(run, seed, folder.path)
        else:
            write_adapter(run, seed, folder.path, config.name)
        provenance.write_provenance(folder.path, provenance.describe_run(kind, run.folder, run.info, run.task, seed))
    provenance.report_choice(why)
    return Path(config.out)


def _check_library(run: str, backbone: Any) -> None:
    """Checks that the other library has an encoder, as ``run.json`` has it; the rest of it is checked on loading."""
    family = backbone.get("family") if isinstance(backbone, dict) else None
    if family in [name for name, row in BACKBONES.items() if row.model_class is None]:
        raise InputError(
            f"{run} is over an encoder of family {family!r}, which the adapters library does not have"
            f" ({VERSION}); pass --format native."
        )


def _kind(config: ExportConfig, method: str) -> str:
    """Returns what a run of a method is written as, if AdapterHub has anything for it."""
    if method in ADAPTERS:
        return "adapter"
    if methods.get(method).combiner == "fusion":
        return "fusion"
    if method in foldable():
        raise InputError(
            f"{config.run} is a {method!r} run, and AdapterHub has no such layer; `scalearn fold {config.run} --out"
            f" {config.out}` makes one adapter of it, exactly."
        )
    raise InputError(
        f"{config.run} is a {method!r} run, which cannot be exported to AdapterHub yet; pass --format native."
    )


def imported(info: dict[str, Any]) -> dict[str, Any]:
    """The settings of an imported run where it came from; empty for other runs, and for what has a wrong type."""
    part = info.get("imported")
    kinds = {"name": str, "model_name": str | None, "reduction_factor": int | float}
    content = part if isinstance(part, dict) else {}
    return {key: content[key] for key, kind in kinds.items() if key in content and isinstance(content[key], kind)}


def _settings(run: Run) -> dict[str, Any]:
    """The settings for AdapterHub's files beside sizes: those of where the run was imported from, or what fits best."""
    own = {"model_name": provenance.base_model(run.info["backbone"])}
    return own | imported(run.info) | {"model_type": run.spec.backbone.family, "non_linearity": phi(run.spec)}


def write_adapter(run: Run, seed: int, folder: Path, name: str | None = None) -> None:
    """Writes the adapter of a run and its head, by default named after its task, and reads them back."""
    name = name or plain_name(imported(run.info).get("name", run.task.name))
    save_adapter_folder(to_plain_adapter(run, seed), folder, name=name, config=_settings(run))


def write_setup(run: Run, seed: int, folder: Path) -> None:
    """Writes the adapters of a fusion, the fusion with its head, and the file that joins them.

    The head has the fusion's name: the other library looks for it in the folder of that name.
    """
    params, settings = run.members[seed], _settings(run) | {"reduction_factor": None}
    names = [plain_name(source["name"]) for source in run.info["sources"]]
    if len(set(names)) < len(names):
        raise InputError(f"{run.folder}: the sources cannot be told apart in AdapterHub's format, as {names}.")
    for number, name in enumerate(names):
        adapter = trimmed(banks.select(params["adapters"], number))
        adapterhub.save(adapter, folder / name, name=name, config=settings)
        check_same(folder, adapter, adapterhub.load(folder / name)[0])
    fusion = ",".join(names)
    adapterhub.save_fusion(params["transfer"], folder / fusion, names=names, config=settings)
    check_same(folder, params["transfer"], adapterhub.load_fusion(folder / fusion)[0])
    for task, spec in run.spec.heads:
        head = two_layers(params["heads"][task], params["backbone"])
        save_task_head(head, spec, run.task, folder / fusion, name=fusion, config=settings)
    write_json(folder / SETUP_FILE, setup(names, fusion if run.spec.heads else None))


def setup(names: Sequence[str], head: str | None) -> dict[str, Any]:
    """Builds ``adapter_setup.json``, from which ``load_adapter_setup`` loads a fusion, its adapters and its head."""
    children = [{"type": "single", "children": [name]} for name in names]
    return {"adapter_setup": {"type": "Fuse", "children": children}, "head_setup": head, "version": VERSION}


def trimmed(adapter: Params) -> Params:
    """Drops the dead units at the end of a bottleneck, which ``bank.stack`` adds to those narrower than the widest.

    Returns:
      The same adapter, ``down`` kernel Float[L d r] and so on, as float32 numpy arrays, of at least one unit.

    Example:
      >>> part = lambda *shape: {"kernel": np.ones(shape), "bias": np.ones(shape[::2])}
      >>> narrow, wide = ({"down": part(1, 8, r), "up": part(1, r, 8)} for r in (2, 4))
      >>> trimmed(banks.select(banks.stack([narrow, wide]), 0))["down"]["kernel"].shape
      (1, 8, 2)
    """
    adapter = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), adapter)
    down, up = adapter["down"], adapter["up"]
    alive = down["kernel"].any((0, 1)) | down["bias"].any(0) | up["kernel"].any((0, 2))
    width = max(int(np.flatnonzero(alive).max(initial=0)) + 1, 1)
    return {
        "down": {"kernel": down["kernel"][:, :, :width], "bias": down["bias"][:, :width]},
        "up": {"kernel": up["kernel"][:, :width], "bias": up["bias"]},
        **({"norm": adapter["norm"]} if "norm" in adapter else {}),
    }


def native_contents(folder: Path, seed: int | None) -> tuple[Contents, str]:
    """Reads one seed of a run, by default the best, without any place on this machine in its ``run.json``.

    Returns it, and why that seed, see ``provenance.choose_seed``.
    """
    whole, *_ = read_run_folder(folder)
    (seed, why), path = provenance.choose_seed(folder, whole.info, seed), folder / "results.json"
    results = one_seed(read_json(path), seed) if path.exists() else None
    info, trained = without_places(whole.info, seed), {seed: whole.trained[seed]}
    return dataclasses.replace(whole, info=info, trained=trained, results=results), why


def without_places(info: dict[str, Any], seed: int) -> dict[str, Any]:
    """``run.json`` of one seed, without what leads to places on this machine."""
    backbone = provenance.public_backbone(info["backbone"])
    sources = [one | {"path": provenance.public_place(one) or one["name"]} for one in info["sources"]]
    config = {name: _last_part(value) for name, value in info["config"].items()}
    changes = {"backbone": backbone["name"], "revision": backbone["revision"], "data_dir": None, "coordinator": None}
    changes |= {"sources": [one["path"] for one in sources], "seeds": [seed]}
    public = {
        "backbone": {"path": backbone["name"], "revision": backbone["revision"], "hash": backbone["hash"]},
        "config": config | {name: value for name, value in changes.items() if name in config},
        "data_dir": None,
        "sources": sources,
        "seeds": [seed],
        "command": provenance.without_places(str(info.get("command", ""))),
    }
    if "joint" in info:  # of its tasks a run of its own, with the backbone that they share
        public["joint"] = {name: info["joint"][name] for name in ("method", "tasks") if name in info["joint"]}
    return info | public | {name: _last_part(info[name]) for name in ("soup", "imported") if name in info}


def _last_part(value: Any) -> Any:
    """Cuts every text in a value that is a path from the root, from home or from here down to its last part."""
    if isinstance(value, dict):
        return {name: _last_part(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_last_part(one) for one in value]
    is_place = isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", "./", "../")))
    return os.path.basename(os.path.normpath(value)) if is_place else value


def one_seed(results: dict[str, Any], seed: int) -> dict[str, Any]:
    """``results.json`` of one seed: its test scores are the means."""
    seeds = results.get("seeds")
    entry = seeds.get(str(seed)) if isinstance(seeds, dict) else None
    scores = entry.get("test") if isinstance(entry, dict) else None
    if not isinstance(scores, dict):
        raise InputError(f"results.json holds no scores of seed {seed}; restore the file.")
    errors = {"se": entry["se"]} if "se" in entry else {}
    shared = {name: part for name, part in results.items() if name != "lost"}  # other seeds are no part of it
    return shared | {"seeds": {str(seed): entry}, "mean": scores, "sd": dict.fromkeys(scores), **errors}
