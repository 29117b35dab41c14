"""Configs of studies and their reports."""

from dataclasses import dataclass, field
from typing import Any

from scalearn_jax.config.checks import Config, check_seeds, parse_shard, setting
from scalearn_jax.errors import InputError, is_printable


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Config):
    """A study file: every target with every method, from one set of source adapters."""

    name: str
    """Title of the table."""
    backbone: str = setting(path="TEXT")
    """Folder or hub id of the pretrained encoder."""
    revision: str | None = None
    """Commit, tag or branch of a hub backbone."""
    data_dir: str | None = setting(None, path="DIR")
    """Folder with one folder a task."""
    sources: tuple[str, ...] = ()
    """Tasks that get a stage-1 adapter (seed 0); NAME=SOURCE names one that is there, as `scalearn transfer` does."""
    targets: tuple[str, ...]
    """Tasks to solve."""
    methods: tuple[str, ...]
    """Methods to solve them with; one without sources learns from the target alone."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of every target cell, trained together; `tasks` may give a task others."""
    stage1: dict[str, Any] = field(default_factory=dict)
    """Fields of AdapterConfig, for the source adapters."""
    stage2: dict[str, Any] = field(default_factory=dict)
    """Fields of TransferConfig, for every method on a target."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Overrides for one task: seeds, and fields of either stage; under `stage1` or `stage2` for that one only."""
    methods_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Overrides for one method; they win over all others. With `joint: true` it trains on all targets at once, as
    `scalearn train-joint` does: then they are fields of JointConfig, which takes of stage2 all but the schedule."""
    adapters: str | None = setting(None, path="DIR")
    """Folder of source adapters, such as another study's; what is missing of them is trained there."""
    shots: tuple[int, ...] = ()
    """Few-shot: solve every target with each of these numbers of training examples, instead of with all."""
    draws: int | None = setting(None, at_least=1)
    """Few-shot: draw the examples at random, this often, instead of taking the first; tables have means over draws."""
    own_source: bool = True
    """Few-shot: whether a target has its own source adapter, trained on the same few examples, among its sources."""
    probe_sources: tuple[tuple[str, ...], ...] = ()
    """Probing: sets of sources, `self` for the target's own, summed with constant coefficients (method fixed)."""
    probe_constants: tuple[float, ...] = ()
    """Probing: the coefficients each source of a set takes, in all combinations."""
    published: str | None = None
    """Table of the paper to set the results beside, for instance glue/roberta-base."""

    def __post_init__(self):
        super().__post_init__()
        if not is_printable(self.name):
            raise InputError(f"name {self.name!r} holds characters that cannot be shown; it is the title of tables.")
        check_seeds(self.seeds)
        for name in ("shots", "probe_constants", "probe_sources"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise InputError(f"{name} names something twice: {list(values)}.")
        if (self.draws or not self.own_source) and not self.shots:
            raise InputError("draws and own_source are for few-shot cells; set shots, too.")
        if min(self.shots, default=1) < 1:
            raise InputError(f"shots must be at least 1, got {list(self.shots)}.")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Run a study: what is missing of its cells, then the table."""

    study: str = setting(path="FILE")
    """Study file (YAML)."""
    out: str = setting(path="DIR")
    """Folder of the results; a rerun with the same study continues in it."""
    backbone: str | None = setting(None, path="TEXT")
    """Folder or hub id of the encoder (default: the study's)."""
    data_dir: str | None = setting(None, path="DIR")
    """Folder with one folder a task (default: the study's)."""
    seeds: tuple[int, ...] | None = None
    """Seeds of every target cell (default: the study's)."""
    only: str | None = None
    """Run only cells whose name contains this (default: all)."""
    shard: str | None = None
    """Run share I of N, written I/N with I from 1 to N: for job arrays that work on one folder
    (default: all)."""
    max_minutes: float | None = setting(None, at_least=0)
    """Start no cell after this many minutes; run again to continue (default: no limit)."""
    dry_run: bool = False
    """List the cells with their steps and an estimate of their time, and stop."""

    def __post_init__(self):
        super().__post_init__()
        if self.shard is not None:
            parse_shard(self.shard)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """Tables and figures of a study's results."""

    dir: str = setting(path="DIR")
    """Results folder of a study."""
    out: str | None = setting(None, path="DIR")
    """Folder for the tables and figures; by default DIR/report."""
