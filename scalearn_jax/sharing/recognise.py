"""The content of a foreign folder, recognised by its files (several libraries share their names), and read."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scalearn_jax.config import ImportConfig
from scalearn_jax.errors import InputError, format_value
from scalearn_jax.io.hub_folder import SETUP as SETUP_FILE
from scalearn_jax.io.model_folder import inside, is_plain_name, read_settings
from scalearn_jax.runs import adapterhub, provenance
from scalearn_jax.runs.sources import Source, load_source, read_source
from scalearn_jax.sharing import release
from scalearn_jax.typing import Params


class Format(NamedTuple):
    """One format."""

    about: str  # its name in plain English
    settings: str  # its configuration file
    weights: tuple[str, ...] = ()  # its files of weights; the first there is counts


# The order of the weights is that in which their readers look for them.
FORMATS = {
    "run": Format("a run folder", "run.json"),
    "adapter": Format("an AdapterHub adapter", "adapter_config.json", ("adapter.safetensors", "pytorch_adapter.bin")),
    "fusion": Format(
        "an AdapterHub fusion",
        "adapter_fusion_config.json",
        ("model_adapter_fusion.safetensors", "transfer.safetensors", "pytorch_model_adapter_fusion.bin"),
    ),
    "scalearn": Format(
        "ScaLearn layers of the published implementation",
        "scalearn_config.json",
        ("transfer.safetensors", "pytorch_model_scalearn.bin"),
    ),
    "setup": Format("an AdapterHub setup", SETUP_FILE),
}
HEAD = Format("a head", "head_config.json", ("model_head.safetensors", "head.safetensors", "pytorch_model_head.bin"))


def recognise(folder: Path) -> str:
    """Returns which of ``FORMATS`` a folder holds: one, and under its own file name."""
    names = [row.settings for row in FORMATS.values()]
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected one with {', '.join(names)}.")
    found = {name: _format(read_settings(folder, name)) for name in names if (folder / name).exists()}
    if not found:
        raise InputError(f"{folder} holds none of {', '.join(names)}; expected a folder with one of them.")
    for name, kind in found.items():
        if kind is None:
            known = ", ".join(f"{row.about} ({row.settings})" for row in FORMATS.values())
            raise InputError(f"{folder / name} describes nothing known; expected {known}.")
        if name != FORMATS[kind].settings:
            raise InputError(
                f"{folder / name} describes {FORMATS[kind].about}, which {FORMATS[kind].settings} does; rename it."
            )
    if len(found) > 1:
        raise InputError(f"{folder} holds {' and '.join(found)}; keep what you mean to import in a folder of its own.")
    return next(iter(found.values()))


def _format(content: dict[str, Any]) -> str | None:
    config = content.get("config")
    config = config if isinstance(config, dict) else {}
    marks = {
        "run": {"format", "spec"} <= content.keys(),
        "setup": "adapter_setup" in content,
        "scalearn": "omega_shape" in config,
        "fusion": {"query", "key"} <= config.keys(),
        "adapter": "peft_type" in content or "config" in content,  # its reader refuses PEFT's
    }
    return next((kind for kind, holds in marks.items() if holds), None)


def setup_members(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Reads which fusion a setup consists of: its folder in ``folder``, and those of its adapters."""
    path = folder / SETUP_FILE
    setup = read_settings(folder, SETUP_FILE)["adapter_setup"]
    children = setup.get("children") if isinstance(setup, dict) else None
    kind = setup.get("type") if isinstance(setup, dict) else None
    is_fusion = isinstance(children, list) and kind == "Fuse"
    if not is_fusion or not all(isinstance(child, dict) and child.get("type") == "single" for child in children):
        raise InputError(
            f"{path} is no fusion of single adapters (type {format_value(kind)}); import its adapters one by one."
        )
    parts = [child.get("children") for child in children]
    names = [part[0] if isinstance(part, list) and len(part) == 1 else None for part in parts]
    if not names or not all(is_plain_name(name) for name in names):
        raise InputError(f"{path}: the adapters' names must be those of folders beside it, got {str(names)[:60]}.")
    for name in (fusion := ",".join(names), *names):
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{folder / name} is a link that leads out of the setup; put the folder itself there.")
    return fusion, tuple(names)


def file_hashes(folder: Path, row: Format) -> dict[str, str]:
    """Hashes the files of a folder that are read: the configuration and weights of a format, where they exist."""
    weights = [name for name in row.weights if (folder / name).exists()][:1]
    names = [name for name in (row.settings, *weights) if (folder / name).exists()]
    return {name: hashlib.sha256(inside(folder, name).read_bytes()).hexdigest() for name in names}


@dataclasses.dataclass(frozen=True)
class Found:
    """The content of a folder of another library."""

    folder: Path  # where it is
    kind: str  # a key of ``FORMATS``
    method: str  # a key of ``METHODS``
    described: dict[str, Any]  # its configuration; ``name``, ``model_type`` and ``model_name`` at least
    transfer: Params  # of a combining layer
    bank: tuple[Source, ...]  # the adapters in bank order; one of method ``"single"``
    noted: dict[str, Any] | None  # content of ``scalearn.json``, which our own exports hold


def read_foreign(config: ImportConfig, source: Path, kind: str) -> Found:
    """Reads the content of a folder of any ``kind`` but ``"run"``, with the adapters it combines."""
    noted, beside = provenance.read_provenance(source), ()
    if kind == "setup":
        fusion, members = setup_members(source)
        beside = tuple(source / name for name in members)
        source, kind = source / fusion, "fusion"
    if kind == "adapter":
        if config.sources:
            raise InputError(f"--sources: {source} is an adapter, which combines none; leave them out.")
        adapter, described = adapterhub.load(source, allow_pickle=config.allow_pickle)
        family, phi = described["model_type"], described["non_linearity"]
        only = Source(described["name"], str(source), adapter, phi, None, family)
        return Found(source, kind, "single", described, {}, (only,), noted)
    load = adapterhub.load_fusion if kind == "fusion" else release.load_scalearn
    transfer, described = load(source, allow_pickle=config.allow_pickle)
    method = described.get("method") or ("fusion" if "value" in transfer else "fusion-static")
    if not (config.sources or beside):
        raise InputError(f"{source} combines adapters that it does not hold; name their folders with --sources.")
    given = [load_source(path, allow_pickle=config.allow_pickle) for path in config.sources]
    given = given or [read_source(path, str(path), allow_pickle=config.allow_pickle) for path in beside]
    for one in given:
        if one.leaves_out:
            raise InputError(
                f"source {one.name} ({one.path}) has no adapter in some layers (leave_out), where {source} joins the"
                " others alone, which cannot be read; pass adapters of every layer."
            )
    bank = in_layer_order(source, described["adapter_names"], given)
    return Found(source, kind, method, described, transfer, bank, noted)


def in_layer_order(source: Path, names: Sequence[str], given: Sequence[Source]) -> tuple[Source, ...]:
    """Puts adapters into the order in which a layer names them; a name may lack its task's suite."""
    of_name = {name: [one for one in given if name in _layer_names(one.name)] for name in names}
    missing = [name for name, found in of_name.items() if not found]
    double = [name for name, found in of_name.items() if len(found) > 1]
    unexpected = [one.name for one in given if not _layer_names(one.name) & set(names)]
    if missing or double or unexpected or len(given) != len(names):
        raise InputError(
            f"--sources do not fit {source}, whose layers combine {', '.join(names)}; missing: {missing or 'none'},"
            f" unexpected: {unexpected or 'none'}, twice: {double or 'none'}."
        )
    return tuple(found for (found,) in of_name.values())


def _layer_names(name: str) -> set[str]:
    """The names that a layer may have for an adapter of ours: those of AdapterHub have no slash."""
    return {name, name.rsplit("/", 1)[-1], name.replace("/", "-")}
