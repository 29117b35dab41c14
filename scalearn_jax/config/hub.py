"""Configs of what is sent to the Hugging Face hub and fetched from it."""

import re
from dataclasses import dataclass
from typing import Literal

from scalearn_jax.config import checks as limits
from scalearn_jax.config.base import Config
from scalearn_jax.errors import InputError

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_OWNER_AND_NAME = re.compile(f"{_NAME}/{_NAME}")
_MODEL = re.compile(f"{_NAME}(?:/{_NAME})?")  # the oldest models have no owner
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


@dataclass(frozen=True, kw_only=True)
class PushConfig(Config):
    """Upload a folder made by `scalearn fold` or `scalearn export` to the Hugging Face hub, with a model card."""

    dir: str
    """The folder."""
    repo: str
    """Where to on the hub, OWNER/NAME; made if it is not there."""
    dry_run: bool = False
    """Write the card, list what would be sent, and contact nothing."""
    private: bool = False
    """Make a new repository private."""
    create_pr: bool = False
    """Open a pull request instead of writing to the main branch."""
    base_model: str | None = None
    """Hub id of the backbone, for the card; needed where the backbone was a local folder."""
    license: str | None = None
    """License of what is sent, as the hub names it, for instance apache-2.0."""
    message: str | None = None
    """Message of the commit."""
    json: bool = False
    """Print JSON instead of text."""

    def __post_init__(self):
        super().__post_init__()
        limits.expand_home(self, "dir")
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
    """Fetch backbones, data and adapters from the Hugging Face hub, for machines or jobs without a network."""

    backbone: tuple[str, ...] = ()
    """Hub ids of backbones or sentence encoders, with tokenizer; each may end in @REVISION."""
    tasks: tuple[str, ...] = ()
    """Tasks whose data to fetch, see `scalearn list tasks`."""
    suite: Literal["glue", "superglue", "humset", "glue+superglue"] | None = None
    """Fetch the data of all tasks of a benchmark."""
    sources: tuple[str, ...] = ()
    """Hub ids of adapters or runs; each may end in @REVISION."""
    allow_pickle: bool = False
    """Fetch pytorch_*.bin files of what has no safetensors."""

    def __post_init__(self):
        super().__post_init__()
        if not (self.backbone or self.tasks or self.suite or self.sources):
            raise InputError("nothing to fetch: give one of backbone, tasks, suite and sources.")
