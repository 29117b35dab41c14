"""What a folder holds, told by the content of its files: their names serve several libraries."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from scalearn_jax.errors import InputError
from scalearn_jax.io.hub_folder import SETUP as SETUP_FILE
from scalearn_jax.io.model_folder import inside, is_plain_name, read_settings


class Format(NamedTuple):
    """One format.

    Attributes:
      about: what it is, in words.
      settings: its configuration file.
      weights: its files of weights; the first there is counts.
    """

    about: str
    settings: str
    weights: tuple[str, ...] = ()


# The order of the weights is that in which ``convert`` looks for them.
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
    """Says which of ``FORMATS`` a folder holds.

    Raises:
      InputError: none, several, or one under a wrong file name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected one with {', '.join(_names())}.")
    found = {name: _format(read_settings(folder, name)) for name in _names() if (folder / name).exists()}
    if not found:
        raise InputError(f"{folder} holds none of {', '.join(_names())}; expected a folder with one of them.")
    for name, kind in found.items():
        if kind is None:
            raise InputError(f"{folder / name} describes nothing known; expected {_known()}.")
        if name != FORMATS[kind].settings:
            raise InputError(
                f"{folder / name} describes {FORMATS[kind].about}, which {FORMATS[kind].settings} does; rename it."
            )
    if len(found) > 1:
        raise InputError(f"{folder} holds {' and '.join(found)}; keep what you mean to import in a folder of its own.")
    return next(iter(found.values()))


def _names() -> list[str]:
    return [row.settings for row in FORMATS.values()]


def _known() -> str:
    return ", ".join(f"{row.about} ({row.settings})" for row in FORMATS.values())


def _format(content: dict[str, Any]) -> str | None:
    config = content.get("config")
    config = config if isinstance(config, dict) else {}
    marks = {
        "run": {"format", "spec"} <= content.keys(),
        "setup": "adapter_setup" in content,
        "scalearn": "omega_shape" in config,
        "fusion": {"query", "key"} <= config.keys(),
        "adapter": "peft_type" in content or "config" in content,  # its reader tells PEFT's apart
    }
    return next((kind for kind, holds in marks.items() if holds), None)


def setup_members(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Reads which fusion a setup consists of: its folder in ``folder``, and those of its adapters.

    Raises:
      InputError: another composition than one fusion of adapters, or names that are no folders' here.
    """
    path = folder / SETUP_FILE
    setup = read_settings(folder, SETUP_FILE)["adapter_setup"]
    children = setup.get("children") if isinstance(setup, dict) else None
    is_fusion = isinstance(children, list) and setup.get("type") == "Fuse"
    if not is_fusion or not all(isinstance(child, dict) and child.get("type") == "single" for child in children):
        raise InputError(f"{path} is no fusion of single adapters; import its adapters one by one.")
    names = [name for child in children for name in _only(child)]
    if not names or not all(is_plain_name(name) for name in names):
        raise InputError(f"{path}: the adapters' names must be those of folders beside it, got {str(names)[:60]}.")
    for name in (fusion := ",".join(names), *names):
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{folder / name} is a link that leads out of the setup; put the folder itself there.")
    return fusion, tuple(names)


def _only(child: dict[str, Any]) -> list[Any]:
    """The one adapter of a single composition; of anything else nothing that is a name."""
    names = child.get("children")
    return names if isinstance(names, list) and len(names) == 1 else [None]


def hashes(folder: Path, *formats: Format) -> dict[str, str]:
    """Hashes the files of a folder that are read: configuration and weights of each format there is."""
    names = [row.settings for row in formats]
    names += [next((name for name in row.weights if (folder / name).exists()), "") for row in formats]
    return {name: _sha256(inside(folder, name)) for name in names if name and (folder / name).exists()}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
