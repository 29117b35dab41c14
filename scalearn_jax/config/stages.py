"""Configs of the two stages, and of what they would need.

Of every setting it is written down whether the result of a run follows from it, see ``checks.setting``.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

from scalearn_jax.config.checks import Config, check_seeds, setting
from scalearn_jax.errors import InputError
from scalearn_jax.methods import METHODS, Method

_result = functools.partial(setting, result=True)
_means = functools.partial(setting, result=False)  # changes how a run is made, not what comes of it
# What ``fit="solve"`` has no use for.
SGD = ("epochs", "max_steps", "learning_rate", "learning_rates", "warmup_steps", "weight_decay", "patience")
SGD += ("eval_every", "omega_dropout", "penalty", "normalise")
_SCALEARN = ("scalearn", "scalearn-uniform", "scalearn++", "scalearn-uniform++")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """What both stages share."""

    backbone: str = _result(per_host=True, by_study=True, path="TEXT")
    """Folder or hub id, with or without @REVISION, of the pretrained encoder."""
    revision: str | None = _result(None, by_study=True)
    """Commit, tag or branch of a hub backbone, by default its main branch; pin it for exact repeats."""
    allow_pickle: bool = _means(False)
    """Where there are no safetensors, read pytorch_*.bin files of backbone, source adapters and sentence encoder, with
    a reader that builds tensors and runs nothing."""
    data_dir: str | None = _result(None, per_host=True, by_study=True, path="DIR")
    """Folder with the task's files, or with one folder a task; without it data come from the hub."""
    out: str = _means(per_host=True, by_study=True, path="DIR")
    """Folder to write; must not exist yet, or be empty. Where the same command was stopped, it goes on."""
    seeds: tuple[int, ...] = _result((0,), by_study=True)
    """Seeds of init, order and dropout; several (0 1 2, or 0-9) train together in one program."""
    epochs: int | None = _result(None, at_least=1)
    """Passes over the training data."""
    max_steps: int | None = _result(None, at_least=1)
    """Steps of the whole schedule; wins over epochs, which say it by default."""
    batch_size: int = _result(32, at_least=1)
    """Examples a step."""
    learning_rate: float | None = _result(None, at_least=0)
    """Peak rate of the linear decay."""
    learning_rates: tuple[float, ...] = _result((), by_study=True)
    """Several peak rates instead, trained together in one program; each gets a folder OUT/lr-RATE (default: one)."""
    warmup_steps: int = _result(0, at_least=0)
    """Steps of linear warm-up before the decay."""
    weight_decay: float = _result(0.0, at_least=0)
    """Weight decay of AdamW."""
    clip_norm: float = _result(1.0, at_least=0)
    """Largest gradient norm, over trainable parameters; 0 turns clipping off."""
    optimizer: Literal["published", "optax"] = _result("published")
    """AdamW as the paper's code computes it, or optax's."""
    patience: int | None = _result(None, at_least=1)
    """Evaluations without improvement before a seed stops."""
    eval_every: int | None = _result(None, at_least=1)
    """Steps between evaluations; by default one epoch."""
    select: Literal["loss", "metric"] = _result("loss")
    """What the best checkpoint is chosen by, on development data."""
    max_length: int | None = _result(None, at_least=4)
    """Longest sequence, in tokens; longer ones are cut (default: the task's)."""
    max_train_samples: int | None = _result(None, at_least=1)
    """Use this many training examples at most, the first ones (default: all)."""
    sample_seed: int | None = _result(None, at_least=0)
    """Draw these max_train_samples examples at random, with this seed (default: take the first)."""
    max_eval_samples: int | None = _result(None, at_least=1)
    """Use this many development and test examples at most (default: all)."""
    max_dev_samples: int | None = _result(None, at_least=1)
    """Use this many development examples at most, whatever the test set has (default: all)."""
    packed: bool = _result(True)
    """Pack several examples into a row: same steps and losses, less padding."""
    backbone_dropout: bool = _result(True)
    """Dropout inside the frozen backbone, as published."""
    dtype: Literal["float32", "strict", "mixed", "bfloat16"] | None = _result(None)
    """Type of the forward pass (default: bfloat16 on accelerators, else float32); mixed: only matrix products take
    bfloat16; strict: float32 without the short cuts that accelerators take in it. What learns stays float32."""
    frozen_dtype: Literal["float32", "bfloat16"] = _result("float32")
    """Type in which what is frozen is kept; bfloat16 halves its memory and needs dtype mixed or bfloat16."""
    layers: Literal["loop", "scan"] = _result("loop")
    """Unroll the layers, or scan over them (compiles faster on deep backbones)."""
    remat: bool = _result(False)
    """Recompute activations in the backward pass to save memory."""
    accumulate: int = _result(1, at_least=1)
    """Parts that a step is computed in, one after the other, to save memory; must divide batch_size."""
    steps_per_dispatch: int | None = _means(None, at_least=1)
    """Steps sent to the devices at once (default: 1 on CPUs, 8 on accelerators)."""
    reduction_factor: float | None = _result(None, at_least=0, combiners=("single", "compacter", "propetl"))
    """single, compacter++, propetl: hidden size divided by the adapter's bottleneck (published: 16)."""
    non_linearity: str | None = _result(None, combiners=("single",))
    """single: between the adapter's down- and up-projection (published: relu)."""
    eval_batch_size: int = _result(128, at_least=1)
    """Examples a step in evaluation."""
    log_every: int = _result(50, at_least=1)
    """Steps between training records."""
    max_faults: int = _result(10, at_least=0)
    """Steps in a row without a finite loss and gradient (their updates are skipped) that end a seed; 0: never."""
    checkpoint_every: int | None = _means(None, at_least=1)
    """Steps between checkpoints; by default only those at every evaluation and after checkpoint_minutes."""
    checkpoint_minutes: float = _means(10.0, at_least=0)
    """Minutes after which a checkpoint is written in any case."""
    keep_checkpoints: int = _means(2, at_least=1)
    """How many of the last checkpoints to keep while a run goes on; each holds the best parameters so far, too."""
    restart: bool = _means(False, by_study=True)
    """Begin anew, whatever checkpoints an unfinished run has left. A run so begun goes on as any other."""
    mesh: str | None = _means(None)
    """How devices share the work, for instance data=4,model=2; by default all share out the examples."""
    coordinator: str | None = _means(None, by_study=True)
    """Many processes: HOST:PORT of process 0 (default: as Cloud TPU, Slurm or Open MPI say, else one process)."""
    num_processes: int | None = _means(None, by_study=True, at_least=1)
    """Many processes: how many there are (default: as for coordinator)."""
    process_id: int | None = _means(None, per_host=True, by_study=True)
    """Many processes: which this is, from 0 (default: as for coordinator)."""
    start_timeout: int = _means(300, at_least=1)
    """Many processes: seconds within which all must have come."""
    heartbeat_timeout: int = _means(30, at_least=1)
    """Many processes: seconds of silence after which one counts as lost, and the others end."""

    def __post_init__(self):
        super().__post_init__()
        check_seeds(self.seeds)
        if self.batch_size % self.accumulate:
            raise InputError(f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}.")
        rates = self.learning_rates
        if self.learning_rate is not None and rates:
            raise InputError("learning_rate and learning_rates both say how fast to learn; give one of them.")
        if min(rates, default=0) < 0 or len({f"{rate:g}" for rate in rates}) < len(rates):
            raise InputError(f"learning_rates must be different numbers from 0 on, got {list(rates)}.")
        if self.sample_seed is not None and self.max_train_samples is None:
            raise InputError("sample_seed draws max_train_samples examples; set that too.")
        if self.reduction_factor == 0:
            raise InputError("reduction_factor must be larger than 0.")
        cluster = [self.coordinator, self.num_processes, self.process_id]
        if cluster == [None, None, None]:
            return
        if None in cluster:
            raise InputError("coordinator, num_processes and process_id belong together; give all three or none.")
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise InputError(f"coordinator must be HOST:PORT, for instance host0:1234, got {self.coordinator!r}.")
        if not 0 <= self.process_id < self.num_processes:
            last = self.num_processes - 1
            raise InputError(f"process_id must be from 0 to {last} for {last + 1} processes, got {self.process_id}.")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(TrainConfig):
    """Stage 1: train an adapter, or everything, on one task."""

    task: str = _result(by_study=True)
    """Name of the task, for instance glue/rte; see `scalearn list tasks`."""
    method: str = _result("single", by_study=True)
    """single: one adapter; full: fine-tune everything; head: only the head."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig(TrainConfig):
    """Stage 2: learn how to combine frozen source adapters for a target task."""

    target: str | None = _result(None, by_study=True)
    """Name of the target task, for instance glue/rte; see `scalearn list tasks`. (required, or targets)"""
    targets: tuple[str, ...] = _result((), by_study=True)
    """Several target tasks instead, one after the other over one backbone; each gets a folder OUT/TARGET (default:
    one)."""
    sources: tuple[str, ...] = _result((), per_host=True, by_study=True, path="SOURCE")
    """Source adapters, as folders or as OWNER/NAME[@REVISION] of the hub: stage-1 runs (their best seed) or
    AdapterHub's; NAME=SOURCE gives one another name. (required, but for methods without sources)"""
    any_base_model: bool = _means(False)
    """Use sources that say they were trained on a base model of another name than the backbone."""
    method: str = _result("scalearn", by_study=True)
    """How sources are combined; see `scalearn list methods`."""
    fit: Literal["sgd", "solve"] = _result("sgd")
    """sgd: train as published; solve: scales by the leave-one-out error of a head in closed form, for few examples. It
    draws nothing, so that all seeds give the same, and takes no rate, steps or dropout."""
    solve_samples: int = _result(2000, at_least=2)
    """solve: training examples that the scales follow from, at most; the head follows from all."""
    omega_dropout: float | None = _result(None, at_least=0, combiners=_SCALEARN, option="dropout")
    """ScaLearn: dropout on the scaling factors (published: 0.3)."""
    omega_init: float | None = _result(None, combiners=_SCALEARN, option="init_scale")
    """ScaLearn: factors start around this over the number of sources (published: 2.0)."""
    normalise: Literal["none", "mean", "softmax"] | None = _result(None, combiners=_SCALEARN, option="normalise")
    """ScaLearn: whether factors are normalised over sources (published: none)."""
    penalty: float | None = _result(None, at_least=0, combiners=_SCALEARN, option="penalty_weight")
    """ScaLearn: weight of the penalty on factors far from one (published: 0)."""
    weights: tuple[float, ...] | None = _result(None, combiners=("average",), option="weights")
    """soup: weight of each source, in the order of --sources (default: equal)."""
    top_sources: int | None = _result(None, at_least=1, combiners=("average",))
    """soup: keep this many sources, weighted by how alike their training texts and the target's are (published: 5);
    without it all count equally. ScaLearn with --fit solve: keep those of least leave-one-out error, each alone."""
    embedder: str | None = _result(None, path="TEXT", combiners=("average",))
    """soup: folder or hub id of a sentence encoder for the similarities (default: the backbone)."""
    similarity_samples: int | None = _result(None, at_least=1, combiners=("average",))
    """soup: training texts a task, for the similarities (default: 1000)."""
    coefficients: tuple[float, ...] | None = _result(None, combiners=("fixed",), option="coefficients")
    """fixed: constant coefficient of each source, in the order of --sources. (required there)"""
    masks: Literal["trained", "frozen"] | None = _result(None, combiners=("propetl",), option="masks")
    """propetl: learn the masks, as its paper does (the default), or freeze them as drawn, as the release does."""
    ffn_scale: Literal["after", "before"] | None = _result(None, combiners=("ia3",), option="ffn_scale")
    """ia3: scale after the GELU, as its paper does (the default), or before it, as the release does."""
    compose: Literal["folded", "reference"] | None = _result(None, combiners=(*_SCALEARN, "fusion"), option="compose")
    """Fold sources into one adapter (fast, exact; the default), or compute as published (slow)."""

    def __post_init__(self):
        super().__post_init__()
        if bool(self.target) == bool(self.targets):
            raise InputError("target or targets: expected one of them, see `scalearn list tasks`.")
        if len(set(self.targets)) < len(self.targets):
            raise InputError(f"targets names something twice: {list(self.targets)}.")
        given = [name for name in SGD if getattr(self, name) not in (None, (), 0)] if self.fit == "solve" else ()
        for name in given:
            raise InputError(f"{name} is a setting of training; leave it out with fit solve, which has none like it.")
        row = METHODS.get(self.method)  # an unknown one is refused where it is looked up
        if row and self.fit == "solve" and not row.solves:
            solvable = ", ".join(name for name, row in METHODS.items() if row.solves)
            raise InputError(f"fit solve: expected a method of {solvable}, got {self.method!r}.")
        if row and row.coefficients and self.coefficients:
            raise InputError(f"coefficients do not apply to method {self.method!r}, which has its own; leave them out.")
        if self.fit != "solve" and self.solve_samples != 2000:
            raise InputError("solve_samples is for fit solve; set that too.")
        if self.omega_dropout is not None and self.omega_dropout >= 1:
            raise InputError(f"omega_dropout must be below 1, got {self.omega_dropout}.")
        if self.weights and sum(self.weights) == 0:
            raise InputError(f"weights are divided by their sum, which must not be 0, got {list(self.weights)}.")
        if self.weights is not None and self.top_sources is not None:
            raise InputError("weights and top_sources both say how much each source counts; give one of them.")
        for name in ("embedder", "similarity_samples"):
            if getattr(self, name) is not None and self.top_sources is None:
                raise InputError(f"{name} is for the similarities that top_sources asks for; set that too.")


@dataclass(frozen=True, kw_only=True)
class ScreenConfig(Config):
    """Rank source adapters by what each does for a target task; trains nothing."""

    backbone: str = setting(path="TEXT")
    """Folder or hub id, with or without @REVISION, of the pretrained encoder."""
    revision: str | None = None
    """Commit, tag or branch of a hub backbone, by default its main branch."""
    allow_pickle: bool = False
    """Where there are no safetensors, read pytorch_*.bin files of backbone and sources, with a reader that runs
    nothing."""
    data_dir: str | None = setting(None, path="DIR")
    """Folder with the task's files, or with one folder a task; without it data come from the hub."""
    target: str
    """Name of the target task, for instance glue/rte; see `scalearn list tasks`."""
    sources: tuple[str, ...] = setting(path="SOURCE")
    """Source adapters, as folders or as OWNER/NAME[@REVISION] of the hub; NAME=SOURCE gives one another name."""
    any_base_model: bool = False
    """Use sources that say they were trained on a base model of another name than the backbone."""
    max_length: int | None = setting(None, at_least=4)
    """Longest sequence, in tokens; longer ones are cut (default: the task's)."""
    max_train_samples: int | None = setting(None, at_least=1)
    """Use this many training examples at most (default: all)."""
    solve_samples: int = setting(2000, at_least=2)
    """Of these, score sources on this many at most."""
    batch_size: int = setting(32, at_least=1)
    """Examples a step; fewer need less memory."""
    json: bool = False
    """Print JSON instead of a table."""


@functools.cache
def combiner_settings(combiner: str | None = None) -> dict[str, str | None]:
    """Returns the settings that only some combiners understand, this one among them: name -> the combiner's option."""
    found = {field.name: field.metadata for field in fields(TransferConfig) if field.metadata["combiners"]}
    return {name: marks["option"] for name, marks in found.items() if combiner in (None, *marks["combiners"])}


def foreign_settings(method: Method, names: Iterable[str]) -> list[str]:
    """Returns those of some names of settings that belong to other combiners than the method's."""
    foreign = combiner_settings().keys() - combiner_settings(method.combiner).keys()
    foreign -= {"reduction_factor"} if method.trains_adapter else set()  # also of one's own rows
    return [name for name in names if name in foreign]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a plan has besides the settings of its stage."""

    out: str = _means("", per_host=True, by_study=True, path="DIR")
    """Not needed: nothing is written."""
    suggest: bool = True
    """Estimate the largest batch that fits; compiles one more program."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class PlanAdapterConfig(Plan, AdapterConfig):
    """Memory, operations and time of `scalearn train-adapter` with these settings."""


@dataclass(frozen=True, kw_only=True)
class PlanTransferConfig(Plan, TransferConfig):
    """Memory, operations and time of `scalearn transfer` with these settings."""
