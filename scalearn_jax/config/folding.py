"""Config of `scalearn fold`."""

from dataclasses import dataclass
from typing import Literal

from scalearn_jax.config import checks as limits
from scalearn_jax.config.base import Config


@dataclass(frozen=True, kw_only=True)
class FoldConfig(Config):
    """Turn a finished run into one plain AdapterHub adapter with its head, checked before it is written."""

    run: str
    """Run folder, or OWNER/NAME[@REVISION] of the hub."""
    out: str
    """Folder to write; must not exist yet, or be empty."""
    seed: int | None = None
    """Which seed of the run; by default the one with the best development score."""
    keep: int | None = None
    """Keep this many sources, those that contribute most on the text."""
    width: int | None = None
    """Keep this many bottleneck units a layer, and refit the up-projection to the update of all of them."""
    name: str | None = None
    """Name of the adapter; by default the task's, with - for what such a name cannot hold."""
    split: Literal["dev", "train", "test"] = "dev"
    """Text to check the adapter on; --width fits on the training split."""
    texts: str | None = None
    """Check on this file instead, which needs no labels; --width then fits on every other text of it."""
    max_samples: int | None = None
    """Use this many texts at most; by default as many as in training, and 2000 to fit on."""
    data_dir: str | None = None
    """Where the data lie now; by default where they lay in training."""
    backbone: str | None = None
    """Where the backbone lies now; by default where it lay in training."""
    allow_pickle: bool = False
    """Where the backbone has no safetensors, read its pytorch_model.bin, with a reader that runs nothing."""
    batch_size: int = 128
    """Examples a step; fewer need less memory."""
    json: bool = False
    """Print JSON instead of text."""

    def __post_init__(self):
        super().__post_init__()
        limits.expand_home(self, "run", "out", "texts", "data_dir", "backbone")
        limits.at_least(self, 1, "keep", "width", "max_samples", "batch_size")
