"""Configs of what is done with finished runs, and with this installation."""

from dataclasses import dataclass
from typing import Literal

from scalearn_jax.config.checks import Config, setting


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Config):
    """Say what this machine and its packages offer, and what goes wrong with them."""

    json: bool = False
    """Print JSON instead of text."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Score a finished run on a split."""

    run: str = setting(path="DIR")
    """Run folder, or OWNER/NAME[@REVISION] of the hub."""
    split: Literal["train", "dev", "test"] = "test"
    """Which split."""
    data_dir: str | None = setting(None, path="DIR")
    """Where the data lie now; by default where they lay in training."""
    backbone: str | None = setting(None, path="TEXT")
    """Where the backbone lies now; by default where it lay in training."""
    allow_pickle: bool = False
    """Where the backbone has no safetensors, read its pytorch_model.bin, with a reader that runs nothing."""
    batch_size: int = setting(128, at_least=1)
    """Examples a step."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Write labels with probabilities for the rows of a file."""

    run: str = setting(path="DIR")
    """Run folder, or one of AdapterHub with a head, as `scalearn fold` writes it; or OWNER/NAME[@REVISION]."""
    also: tuple[str, ...] = setting((), path="DIR")
    """More such folders over the same backbone; the input then has a column `task` that names each row's
    (default: RUN alone)."""
    input: str = setting(path="FILE")
    """File with the task's text columns: .jsonl, .json, .csv, .tsv, each also with .gz, or .parquet; or - for JSON
    lines on standard input."""
    output: str = setting(path="FILE")
    """File to write: .jsonl, .csv, .tsv or .parquet, by its ending; must not exist yet; or - for JSON lines on standard
    output."""
    keep: tuple[str, ...] = setting((), metavar="COLUMN")
    """Columns of the input to write before the answers; one called as answers are (label) becomes
    input_label (default: none)."""
    keep_all: bool = False
    """Keep all columns of the input."""
    threshold: float | None = None
    """Of a multi-label task: the probability above which a label is given; by default 0.5."""
    tune_threshold: bool = False
    """Of a multi-label task: the threshold, of 0.05 to 0.95, that the main metric is best with on development data."""
    data_dir: str | None = setting(None, path="DIR")
    """Where the data for --tune-threshold lie now; by default where they lay in training."""
    seed: int | None = None
    """Which seed of a run predicts; by default the one with the best development score."""
    backbone: str | None = setting(None, path="TEXT")
    """Where the backbone lies now; by default where the folder says."""
    any_base_model: bool = False
    """Serve adapters also where they name another base model than the backbone."""
    allow_pickle: bool = False
    """Where the backbone has no safetensors, read its pytorch_model.bin, with a reader that runs nothing."""
    batch_size: int = setting(128, at_least=1)
    """Texts a step."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Config):
    """Say which sources help a finished ScaLearn run."""

    run: str = setting(path="DIR")
    """Run folder, or OWNER/NAME[@REVISION] of the hub."""
    out: str | None = setting(None, path="DIR")
    """Folder for the tables and figures; by default RUN/explain."""
    split: Literal["dev", "test"] = "dev"
    """Which split; a choice of sources made on test makes its scores too good."""
    seed: int | None = None
    """Which seed of the run; by default all."""
    max_samples: int | None = setting(None, at_least=1)
    """Use this many examples at most; by default as many as in training."""
    data_dir: str | None = setting(None, path="DIR")
    """Where the data lie now; by default where they lay in training."""
    backbone: str | None = setting(None, path="TEXT")
    """Where the backbone lies now; by default where it lay in training."""
    allow_pickle: bool = False
    """Where the backbone has no safetensors, read its pytorch_model.bin, with a reader that runs nothing."""
    batch_size: int = setting(128, at_least=1)
    """Examples a step; fewer need less memory."""


@dataclass(frozen=True, kw_only=True)
class ListConfig(Config):
    """List what there is to choose from."""

    what: Literal["tasks", "methods", "backbones"]
    """Which table."""
    data_dir: str | None = setting(None, path="DIR")
    """List the tasks whose data lie in this folder, with how many rows each split has (default:
    those of the package)."""
