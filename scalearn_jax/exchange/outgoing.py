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

from scalearn_jax import methods, portable, provenance, runs
from scalearn_jax.config import ExportConfig
from scalearn_jax.convert import adapterhub
from scalearn_jax.convert.adapterhub.common import VERSION
from scalearn_jax.errors import InputError
from scalearn_jax.exchange import folder as run_folder
from scalearn_jax.exchange.formats import SETUP_FILE
from scalearn_jax.files import read_json, safe_name, write_json
from scalearn_jax.folders import check_out, new_folder
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.typing import Params

# Those whose adapter is the run's own, or an average; of others the adapter is folded from several.
ADAPTERS = ("single", "compacter++", "propetl", "soup")


def export_run(config: ExportConfig) -> Path:
    """Writes one seed of a finished run for others.

    Args:
      config: see ``ExportConfig``.

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
        contents = native(config)
        with new_folder(config.out) as partial:
            run_folder.write(partial, contents)
        return Path(config.out)
    run = runs.load_run(config.run, backbone=config.backbone, allow_pickle=config.allow_pickle, headless=True)
    seed = _seed(config, run.members)
    write = _writer(config, run)
    with new_folder(config.out) as partial:
        write(config, run, seed, partial)
        provenance.write(partial, provenance.describe("adapter" if write is _write_adapter else "fusion", run, seed))
    return Path(config.out)


def _seed(config: ExportConfig, seeds) -> int:
    seed = next(iter(seeds)) if config.seed is None else config.seed
    if seed not in seeds:
        raise InputError(f"--seed {seed}: the run {config.run} holds seeds {sorted(seeds)}.")
    return seed


def _writer(config: ExportConfig, run: runs.Run):
    """Chooses what a run is written as.

    Raises:
      InputError: AdapterHub has nothing for it.
    """
    method = run.info["method"]
    if method in ADAPTERS:
        return _write_adapter
    if methods.get(method).combiner == "fusion":
        return _write_setup
    if method in portable.foldable():
        raise InputError(
            f"{config.run} is a {method!r} run, and AdapterHub has no such layer; `scalearn fold {config.run} --out"
            f" {config.out}` makes one adapter of it, exactly."
        )
    raise InputError(f"{config.run} is a {method!r} run, which cannot be exported to AdapterHub yet; use native.")


def imported(info: dict[str, Any]) -> dict[str, Any]:
    """What an imported run was called where it came from; empty for other runs, and for what has a wrong type.

    Example:
      >>> imported({"imported": {"name": "rte", "model_name": None, "reduction_factor": "many"}})
      {'name': 'rte', 'model_name': None}
    """
    part = info.get("imported")
    kinds = {"name": str, "model_name": str | None, "reduction_factor": int | float}
    content = part if isinstance(part, dict) else {}
    return {key: content[key] for key, kind in kinds.items() if key in content and isinstance(content[key], kind)}


def _settings(run: runs.Run, spec: ModelSpec) -> dict[str, Any]:
    """What AdapterHub's files say beside sizes: what they said where the run was imported from, or what fits best."""
    own = {"model_name": provenance.public_backbone(run.info["backbone"])["name"]}
    return own | imported(run.info) | {"model_type": run.spec.backbone.family, "non_linearity": portable.phi(spec)}


def _write_adapter(config: ExportConfig, run: runs.Run, seed: int, folder: Path) -> None:
    """Writes an adapter and its head, and reads them back."""
    one, settings = portable.of_run(run, seed), _settings(run, run.spec)
    name = config.name or plain_name(imported(run.info).get("name", run.task.name))
    adapterhub.save(one.adapter, folder, name=name, config=settings)
    run_folder.check_same(folder, one.adapter, adapterhub.load(folder)[0])
    if one.head:
        _write_head(run, one.head, one.head_spec, folder, name)


def plain_name(name: str) -> str:
    """A name that can be an adapter's and a folder's: without slashes, dots and commas.

    Example:
      >>> plain_name("glue/rte")
      'glue-rte'
    """
    return safe_name(name).replace(".", "-")


def _write_head(run: runs.Run, head: Params, spec: HeadSpec, folder: Path, name: str) -> None:
    task, settings = run.task, _settings(run, run.spec) | {"dropout": spec.dropout}
    labels = () if task.kind == "regression" else task.labels
    adapterhub.save_head(
        head, folder, name=name, kind=task.kind, labels=labels, num_choices=spec.num_choices, config=settings
    )
    run_folder.check_same(folder, head, adapterhub.load_head(folder)[0])


def _write_setup(config: ExportConfig, run: runs.Run, seed: int, folder: Path) -> None:
    """Writes the adapters of a fusion, the fusion with its head, and the file that says how they belong together.

    The head has the fusion's name: the other library looks for it in the folder of that name.
    """
    if config.name:
        raise InputError(f"--name {config.name}: a fusion is named after its sources; leave it out.")
    params, settings = run.members[seed], _settings(run, run.spec) | {"reduction_factor": None}
    names = source_names(run)
    for number, name in enumerate(names):
        adapter = trimmed(banks.select(params["adapters"], number))
        adapterhub.save(adapter, folder / name, name=name, config=settings)
        run_folder.check_same(folder, adapter, adapterhub.load(folder / name)[0])
    fusion = ",".join(names)
    adapterhub.save_fusion(params["transfer"], folder / fusion, names=names, config=settings)
    run_folder.check_same(folder, params["transfer"], adapterhub.load_fusion(folder / fusion)[0])
    for task, spec in run.spec.heads:
        head = portable.two_layers(params["heads"][task], params["backbone"])
        _write_head(run, head, spec, folder / fusion, fusion)
    write_json(folder / SETUP_FILE, setup(names, fusion if run.spec.heads else None))


def source_names(run: runs.Run) -> list[str]:
    """Names a run's sources as AdapterHub can.

    Raises:
      InputError: two have the same name there.
    """
    names = [plain_name(source["name"]) for source in run.info["sources"]]
    if len(set(names)) < len(names):
        raise InputError(f"{run.folder}: the sources cannot be told apart in AdapterHub's format, as {names}.")
    return names


def setup(names: Sequence[str], head: str | None) -> dict[str, Any]:
    """Builds ``adapter_setup.json``, from which ``load_adapter_setup`` loads a fusion, its adapters and its head.

    Example:
      >>> setup(["mnli", "rte"], None)["adapter_setup"]["children"][0]
      {'type': 'single', 'children': ['mnli']}
    """
    children = [{"type": "single", "children": [name]} for name in names]
    return {"adapter_setup": {"type": "Fuse", "children": children}, "head_setup": head, "version": VERSION}


def trimmed(adapter: Params) -> Params:
    """Drops the dead units at the end of a bottleneck, which ``bank.stack`` adds to those narrower than the widest.

    Args:
      adapter: ``down`` kernel Float[L d r] and so on.

    Returns:
      The same adapter as float32 numpy arrays, of at least one unit.

    Example:
      >>> narrow, wide = (banks.select(banks.init(jax.random.key(0), banks.BankShape(1, 1, 8, r)), 0) for r in (2, 4))
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
    }


def native(config: ExportConfig) -> run_folder.Contents:
    """Takes one seed out of a run folder, and every place on this machine out of ``run.json``.

    Raises:
      InputError: a damaged run, or no such seed.
    """
    if config.name:
        raise InputError(f"--name {config.name}: a native run has the name of its task; leave it out.")
    folder = Path(config.run)
    contents, *_ = run_folder.read(folder)
    seed, path = _seed(config, contents.trained), folder / "results.json"
    results = one_seed(read_json(path), seed) if path.exists() else None
    return dataclasses.replace(
        contents, info=without_places(contents.info, seed), trained={seed: contents.trained[seed]}, results=results
    )


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
    return info | public | ({"soup": _last_part(info["soup"])} if "soup" in info else {})


def _last_part(value: Any) -> Any:
    """Cuts every text in a value that is a path from the root, from home or from here down to its last part."""
    if isinstance(value, dict):
        return {name: _last_part(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_last_part(one) for one in value]
    is_place = isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", "./", "../")))
    return os.path.basename(os.path.normpath(value)) if is_place else value


def one_seed(results: dict[str, Any], seed: int) -> dict[str, Any]:
    """``results.json`` of one seed: its test scores are the means.

    Example:
      >>> entry = {"dev": {"accuracy": 0.6}, "test": {"accuracy": 0.5}}
      >>> one_seed({"seeds": {"3": entry, "4": {}}}, 3)["sd"]
      {'accuracy': 0.0}
    """
    seeds = results.get("seeds")
    entry = seeds.get(str(seed)) if isinstance(seeds, dict) else None
    scores = entry.get("test") if isinstance(entry, dict) else None
    if not isinstance(scores, dict):
        raise InputError(f"results.json holds no scores of seed {seed}; restore the file.")
    return results | {"seeds": {str(seed): entry}, "mean": scores, "sd": dict.fromkeys(scores, 0.0)}
