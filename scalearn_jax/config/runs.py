"""Configs of what is done with finished runs, and with this installation."""

from dataclasses import dataclass
from typing import Literal

from scalearn_jax.config import checks
from scalearn_jax.config.checks import Config


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Config):
    """Say what this machine and its packages offer, and what is known to go wrong with them."""

    json: bool = False
    """Print JSON instead of text."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Score a finished run on a split."""

    run: str
    """Run folder, or OWNER/NAME[@REVISION] of the hub."""
    split: Literal["train", "dev", "test"] = "test"
    """Which split."""
    data_dir: str | None = None
    """Where the data lie now; by default where they lay in training."""
    backbone: str | None = None
    """Where the backbone lies now; by default where it lay in training."""
    allow_pickle: bool = False
    """Where the backbone has no safetensors, read its pytorch_model.bin, with a reader that runs nothing."""
    batch_size: int = 128
    """Examples a step."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        super().__post_init__()
        checks.expand_home(self, "run", "data_dir", "backbone")
        checks.at_least(self, 1, "batch_size")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Write labels with probabilities for the rows of a file."""

    run: str
    """Run folder, or one of AdapterHub with a head, as `scalearn fold` writes it; or OWNER/NAME[@REVISION]."""
    also: tuple[str, ...] = ()
    """More such folders over the same backbone; the input then has a column `task` that names each row's."""
    input: str
    """File with the task's text columns: .jsonl, .jsonl.gz, .csv or .parquet."""
    output: str
    """JSON-lines file to write; must not exist yet."""
    seed: int | None = None
    """Which seed of a run predicts; by default the first."""
    backbone: str | None = None
    """Where the backbone lies now; by default where the folder says."""
    any_base_model: bool = False
    """Serve adapters also where they name another base model than the backbone."""
    allow_pickle: bool = False
    """Where the backbone has no safetensors, read its pytorch_model.bin, with a reader that runs nothing."""
    batch_size: int = 128
    """Texts a step."""

    def __post_init__(self):
        super().__post_init__()
        checks.expand_home(self, "run", "also", "input", "output", "backbone")
        checks.at_least(self, 1, "batch_size")


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Config):
    """Say which sources help a finished ScaLearn run."""

    run: str
    """Run folder, or OWNER/NAME[@REVISION] of the hub."""
    out: str | None = None
    """Folder for the tables and figures; by default RUN/explain."""
    split: Literal["dev", "test"] = "dev"
    """Which split; a choice of sources made on test makes its scores too good."""
    seed: int | None = None
    """Which seed of the run; by default all."""
    max_samples: int | None = None
    """Use this many examples at most; by default as many as in training."""
    data_dir: str | None = None
    """Where the data lie now; by default where they lay in training."""
    backbone: str | None = None
    """Where the backbone lies now; by default where it lay in training."""
    allow_pickle: bool = False
    """Where the backbone has no safetensors, read its pytorch_model.bin, with a reader that runs nothing."""
    batch_size: int = 128
    """Examples a step; fewer need less memory."""

    def __post_init__(self):
        super().__post_init__()
        checks.expand_home(self, "run", "out", "data_dir", "backbone")
        checks.at_least(self, 1, "batch_size", "max_samples")


@dataclass(frozen=True, kw_only=True)
class ListConfig(Config):
    """List what there is to choose from."""

    what: Literal["tasks", "methods", "backbones"]
    """Which table."""
