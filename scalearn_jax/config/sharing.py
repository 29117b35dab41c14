"""Configs of what comes from other libraries and machines, and goes there."""

from dataclasses import dataclass
from typing import Literal

from scalearn_jax.config import checks as limits
from scalearn_jax.config.base import Config


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Config):
    """Make a run folder of what was trained elsewhere."""

    src: str
    """Folder, or OWNER/NAME[@REVISION] of the hub: an AdapterHub adapter or fusion, ScaLearn layers of the published
    implementation, or a run of this library; or a folder with an AdapterHub setup."""
    out: str
    """Run folder to write; must not exist yet, or be empty."""
    backbone: str | None = None
    """Folder or hub id of the pretrained encoder; by default the base model that SRC names."""
    revision: str | None = None
    """Commit, tag or branch of a hub backbone."""
    sources: tuple[str, ...] = ()
    """Fusion and ScaLearn layers: folders of the adapters they combine, in any order."""
    head: str | None = None
    """AdapterHub folder with the head; by default SRC, where it holds one. none: do without."""
    task: str | None = None
    """Task that the head was trained on, see `scalearn list tasks`; by default a plain one over --columns."""
    columns: tuple[str, ...] = ("text",)
    """Columns of the texts where no task is known: one, or two for pairs."""
    data_dir: str | None = None
    """Where the task's files lie, and its task.yaml if it is your own."""
    any_base_model: bool = False
    """Import it also where it names another base model than the backbone."""
    allow_pickle: bool = False
    """Where there are no safetensors, read pytorch_*.bin files, with a reader that builds tensors and runs nothing."""

    def __post_init__(self):
        super().__post_init__()
        limits.expand_home(self, "src", "out", "backbone", "sources", "head", "data_dir")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Write a finished run for other libraries or machines."""

    run: str
    """Run folder, or OWNER/NAME[@REVISION] of the hub."""
    out: str
    """Folder to write; must not exist yet, or be empty."""
    format: Literal["native", "adapterhub"] = "adapterhub"
    """adapterhub: adapter and head, or a setup of fusion and adapters, for the `adapters` library; native: a run folder
    that names no place on this machine."""
    seed: int | None = None
    """Which seed of the run; by default the first."""
    name: str | None = None
    """adapterhub: name of the adapter (default: that of the task)."""
    backbone: str | None = None
    """Where the backbone lies now; by default where it lay in training."""
    allow_pickle: bool = False
    """Where the backbone has no safetensors, read its pytorch_model.bin, with a reader that runs nothing."""

    def __post_init__(self):
        super().__post_init__()
        limits.expand_home(self, "run", "out", "backbone")
