"""What a folder of another library holds: an adapter, or layers with the adapters they combine.

Letters: T source tasks.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalearn_jax.config import ImportConfig
from scalearn_jax.errors import InputError
from scalearn_jax.runs import adapterhub, provenance
from scalearn_jax.runs.sources import Source, load_source
from scalearn_jax.sharing import recognise as formats
from scalearn_jax.sharing import release as published
from scalearn_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Found:
    """What a folder of another library holds.

    Attributes:
      folder: where it lies.
      kind: a key of ``formats.FORMATS``.
      method: a key of ``METHODS``.
      described: what its configuration says; ``name``, ``model_type`` and ``model_name`` at least.
      transfer: of a combining layer.
      bank: the adapters in bank order; one of method ``"single"``.
      noted: content of ``scalearn.json``, which our own exports hold.
    """

    folder: Path
    kind: str
    method: str
    described: dict[str, Any]
    transfer: Params
    bank: tuple[Source, ...]
    noted: dict[str, Any] | None


def find(config: ImportConfig, source: Path, kind: str) -> Found:
    """Reads what a folder holds, with the adapters it combines.

    Args:
      config: see ``ImportConfig``.
      source: the folder.
      kind: what ``formats.recognise`` says of it, but ``"run"``.

    Raises:
      InputError: damaged files, or sources that are missing or others than the layers combine.
    """
    paths, noted = config.sources, provenance.read(source)
    if kind == "setup":
        fusion, members = formats.setup_members(source)
        paths = paths or tuple(str(source / name) for name in members)
        source, kind = source / fusion, "fusion"
    if kind == "adapter":
        if paths:
            raise InputError(f"--sources: {source} is an adapter, which combines none; leave them out.")
        adapter, described = adapterhub.load(source, allow_pickle=config.allow_pickle)
        family, phi = described["model_type"], described["non_linearity"]
        only = Source(described["name"], str(source), adapter, phi, None, family)
        return Found(source, kind, "single", described, {}, (only,), noted)
    load = adapterhub.load_fusion if kind == "fusion" else published.load_scalearn
    transfer, described = load(source, allow_pickle=config.allow_pickle)
    method = described.get("method") or ("fusion" if "value" in transfer else "fusion-static")
    bank = in_layer_order(source, described["adapter_names"], _load_sources(source, paths, config.allow_pickle))
    return Found(source, kind, method, described, transfer, bank, noted)


def _load_sources(source: Path, paths: Sequence[str], allow_pickle: bool) -> list[Source]:
    if not paths:
        raise InputError(f"{source} combines adapters that it does not hold; name their folders with --sources.")
    return [load_source(path, allow_pickle=allow_pickle) for path in paths]


def in_layer_order(source: Path, names: Sequence[str], given: Sequence[Source]) -> tuple[Source, ...]:
    """Puts adapters into the order in which a layer names them; a name may lack its task's suite.

    Raises:
      InputError: they are not those that the layer names.
    """
    of_name = {name: [one for one in given if name in _names(one.name)] for name in names}
    missing = [name for name, found in of_name.items() if not found]
    double = [name for name, found in of_name.items() if len(found) > 1]
    unexpected = [one.name for one in given if not _names(one.name) & set(names)]
    if missing or double or unexpected or len(given) != len(names):
        raise InputError(
            f"--sources do not fit {source}, whose layers combine {', '.join(names)}; missing: {missing or 'none'},"
            f" unexpected: {unexpected or 'none'}, twice: {double or 'none'}."
        )
    return tuple(found for (found,) in of_name.values())


def _names(name: str) -> set[str]:
    """What a layer may call an adapter of ours: AdapterHub names have no slash."""
    return {name, name.rsplit("/", 1)[-1], name.replace("/", "-")}
