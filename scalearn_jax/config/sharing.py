"""Configs of what comes from other libraries and machines or the hub, and of what goes there."""

import re
from dataclasses import dataclass
from typing import Literal

from scalearn_jax.config.checks import Config, setting
from scalearn_jax.errors import InputError

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_OWNER_AND_NAME = re.compile(f"{_NAME}/{_NAME}")
_MODEL = re.compile(f"{_NAME}(?:/{_NAME})?")  # the oldest models have no owner
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


@dataclass(frozen=True, kw_only=True)
class FoldConfig(Config):
    """Turn a finished run into one plain AdapterHub adapter with its head."""

    run: str = setting(path="DIR")
    """Run folder, or OWNER/NAME[@REVISION] of the hub."""
    out: str = setting(path="DIR")
    """Folder to write; must not exist yet, or be empty."""
    seed: int | None = None
    """Which seed of the run; by default the one with the best development score."""
    keep: int | None = setting(None, at_least=1)
    """Keep this many sources, those that contribute most on the text (default: all)."""
    width: int | None = setting(None, at_least=1)
    """Keep this many bottleneck units a layer, and refit the up-projection to the update of all of them
    (default: all)."""
    name: str | None = None
    """Name of the adapter; by default the task's, with - for what such a name cannot hold."""
    split: Literal["dev", "train", "test"] = "dev"
    """Text to check the adapter on; --width fits on the training split."""
    texts: str | None = setting(None, path="FILE")
    """Check on this file instead, which needs no labels; --width then fits on every other text of it (default:
    --split)."""
    max_samples: int | None = setting(None, at_least=1)
    """Use this many texts at most; by default as many as in training, and 2000 to fit on."""
    data_dir: str | None = setting(None, path="DIR")
    """Where the data lie now; by default where they lay in training."""
    backbone: str | None = setting(None, path="TEXT")
    """Where the backbone lies now; by default where it lay in training."""
    allow_pickle: bool = False
    """Where the backbone has no safetensors, read its pytorch_model.bin, with a reader that runs nothing."""
    batch_size: int = setting(128, at_least=1)
    """Examples a step; fewer need less memory."""
    json: bool = False
    """Print JSON instead of text."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Config):
    """Make a run folder of what was trained elsewhere."""

    src: str = setting(path="DIR")
    """Folder, or OWNER/NAME[@REVISION] of the hub: an AdapterHub adapter or fusion, ScaLearn layers of the published
    implementation, or a run of this library; or a folder with an AdapterHub setup."""
    out: str = setting(path="DIR")
    """Run folder to write; must not exist yet, or be empty."""
    backbone: str | None = setting(None, path="TEXT")
    """Folder or hub id of the pretrained encoder; by default the base model that SRC names."""
    revision: str | None = None
    """Commit, tag or branch of a hub backbone, by default its main branch."""
    sources: tuple[str, ...] = setting((), path="SOURCE")
    """Fusion and ScaLearn layers: folders of the adapters they combine, in any order; NAME=SOURCE gives one another
    name. (required there)"""
    head: str | None = setting(None, path="DIR")
    """AdapterHub folder with the head; by default SRC, where it holds one. none: do without."""
    task: str | None = None
    """Task that the head was trained on, see `scalearn list tasks`; by default a plain one over --columns."""
    columns: tuple[str, ...] = ("text",)
    """Columns of the texts where no task is known: one, or two for pairs."""
    data_dir: str | None = setting(None, path="DIR")
    """Where the task's files lie, and its task.yaml if it is your own (default: on the hub)."""
    any_base_model: bool = False
    """Import it also where it names another base model than the backbone."""
    allow_pickle: bool = False
    """Where there are no safetensors, read pytorch_*.bin files, with a reader that builds tensors and runs nothing."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Write a finished run for other libraries or machines."""

    run: str = setting(path="DIR")
    """Run folder, or OWNER/NAME[@REVISION] of the hub."""
    out: str = setting(path="DIR")
    """Folder to write; must not exist yet, or be empty."""
    format: Literal["native", "adapterhub"] = "adapterhub"
    """adapterhub: adapter and head, or a setup of fusion and adapters, for the `adapters` library; native: a run folder
    that names no place on this machine."""
    seed: int | None = None
    """Which seed of the run; by default the one with the best development score."""
    name: str | None = None
    """adapterhub: name of the adapter (default: that of the task)."""
    backbone: str | None = setting(None, path="TEXT")
    """Where the backbone lies now; by default where it lay in training."""
    allow_pickle: bool = False
    """Where the backbone has no safetensors, read its pytorch_model.bin, with a reader that runs nothing."""


@dataclass(frozen=True, kw_only=True)
class PushConfig(Config):
    """Upload a folder of `scalearn fold` or `export` to the Hugging Face hub."""

    dir: str = setting(path="DIR")
    """The folder."""
    repo: str = setting(metavar="REPO")
    """Where to on the hub, OWNER/NAME; made if it is not there."""
    dry_run: bool = False
    """Write the card, list what would be sent, and contact nothing."""
    private: bool = False
    """Make a new repository private."""
    create_pr: bool = False
    """Open a pull request instead of writing to the main branch."""
    base_model: str | None = None
    """Hub id of the backbone, for the card (default: the run's; needed where that was a local folder)."""
    license: str | None = None
    """License of what is sent, as the hub names it, for instance apache-2.0 (default: not said)."""
    message: str | None = None
    """Message of the commit (default: one that names the task)."""
    json: bool = False
    """Print JSON instead of text."""

    def __post_init__(self):
        super().__post_init__()
        if not _is_repo(self.repo, _OWNER_AND_NAME):
            raise InputError(f"repo {self.repo!r}: expected OWNER/NAME, each of letters, digits, '-', '_' and '.'.")
        if self.base_model is not None and not _is_repo(self.base_model, _MODEL):
            raise InputError(f"base_model {self.base_model!r}: expected the id of a model on the hub, OWNER/NAME.")
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise InputError(f"license {self.license!r}: expected one of the hub's short names, such as apache-2.0.")
        if self.message is not None and not self.message.strip():
            raise InputError("message is empty; leave it out, or say what is uploaded.")


def _is_repo(text: str, form: re.Pattern) -> bool:
    """Whether the hub takes a name."""
    return bool(form.fullmatch(text)) and "--" not in text and ".." not in text and not text.endswith(".git")


@dataclass(frozen=True, kw_only=True)
class FetchConfig(Config):
    """Fetch backbones, data and adapters from the hub, to work without a network."""

    backbone: tuple[str, ...] = ()
    """Hub ids of backbones or sentence encoders, with tokenizer; each may end in @REVISION (default: none)."""
    tasks: tuple[str, ...] = ()
    """Tasks whose data to fetch, see `scalearn list tasks` (default: none)."""
    suite: Literal["glue", "superglue", "humset", "glue+superglue"] | None = None
    """Fetch the data of all tasks of a benchmark (default: of none)."""
    sources: tuple[str, ...] = setting((), metavar="SOURCE")
    """Hub ids of adapters or runs; each may end in @REVISION (default: none)."""
    allow_pickle: bool = False
    """Fetch pytorch_*.bin files of what has no safetensors."""

    def __post_init__(self):
        super().__post_init__()
        if not (self.backbone or self.tasks or self.suite or self.sources):
            raise InputError("nothing to fetch: give one of backbone, tasks, suite and sources.")
