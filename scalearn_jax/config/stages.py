"""Configs of the two stages, and of what they would need."""

from dataclasses import dataclass
from typing import Literal

from scalearn_jax.config import checks
from scalearn_jax.config.checks import Config
from scalearn_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """What both stages share."""

    backbone: str
    """Folder or hub id, with or without @REVISION, of the pretrained encoder."""
    revision: str | None = None
    """Commit, tag or branch of a hub backbone; pin it for exact repeats."""
    allow_pickle: bool = False
    """Where there are no safetensors, read pytorch_*.bin files of backbone, source adapters and sentence encoder, with
    a reader that builds tensors and runs nothing."""
    data_dir: str | None = None
    """Folder with the task's files, or with one folder a task; without it data come from the hub."""
    out: str
    """Folder to write; must not exist yet, or be empty. Where the same command was stopped, it goes on."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of init, order and dropout; several (0 1 2, or 0-9) train together in one program."""
    epochs: int | None = None
    """Passes over the training data."""
    max_steps: int | None = None
    """Steps of the whole schedule; wins over epochs."""
    batch_size: int = 32
    """Examples a step."""
    learning_rate: float | None = None
    """Peak rate of the linear decay."""
    learning_rates: tuple[float, ...] = ()
    """Several peak rates, trained together in one program; each gets a folder OUT/lr-RATE."""
    warmup_steps: int = 0
    """Steps of linear warm-up before the decay."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    clip_norm: float = 1.0
    """Largest gradient norm, over trainable parameters; 0 turns clipping off."""
    optimizer: Literal["published", "optax"] = "published"
    """AdamW as the paper's code computes it, or optax's."""
    patience: int | None = None
    """Evaluations without improvement before a seed stops."""
    eval_every: int | None = None
    """Steps between evaluations; by default one epoch."""
    select: Literal["loss", "metric"] = "loss"
    """What the best checkpoint is chosen by, on development data."""
    max_length: int | None = None
    """Longest sequence, in tokens; longer ones are cut."""
    max_train_samples: int | None = None
    """Use this many training examples at most."""
    max_eval_samples: int | None = None
    """Use this many development and test examples at most."""
    max_dev_samples: int | None = None
    """Use this many development examples at most, whatever the test set has."""
    packed: bool = True
    """Pack several examples into a row: same steps and losses, less padding."""
    backbone_dropout: bool = True
    """Dropout inside the frozen backbone, as published."""
    dtype: Literal["float32", "strict", "mixed", "bfloat16"] | None = None
    """Type of the forward pass (default: bfloat16 on accelerators, else float32); mixed: only matrix products take
    bfloat16; strict: float32 without the short cuts that accelerators take in it. What learns stays float32."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which what is frozen is kept; bfloat16 halves its memory and needs dtype mixed or bfloat16."""
    layers: Literal["loop", "scan"] = "loop"
    """Unroll the layers, or scan over them (compiles faster on deep backbones)."""
    remat: bool = False
    """Recompute activations in the backward pass to save memory."""
    accumulate: int = 1
    """Parts that a step is computed in, one after the other, to save memory; must divide batch_size."""
    steps_per_dispatch: int | None = None
    """Steps sent to the devices at once (default: 1 on CPUs, 8 on accelerators)."""
    reduction_factor: float | None = None
    """single, compacter++, propetl: hidden size divided by the adapter's bottleneck (published: 16)."""
    non_linearity: str | None = None
    """single: between the adapter's down- and up-projection (published: relu)."""
    eval_batch_size: int = 128
    """Examples a step in evaluation."""
    log_every: int = 50
    """Steps between training records."""
    max_faults: int = 10
    """Steps in a row without a finite loss and gradient (their updates are skipped) that end a run; 0: never."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, besides those at every evaluation and after checkpoint_minutes."""
    checkpoint_minutes: float = 10.0
    """Minutes after which a checkpoint is written in any case."""
    keep_checkpoints: int = 2
    """How many of the last checkpoints to keep while a run goes on; each holds the best parameters so far, too."""
    restart: bool = False
    """Begin anew, whatever checkpoints an unfinished run has left. A run so begun goes on as any other."""
    mesh: str | None = None
    """How devices share the work, for instance data=4,model=2; by default all share out the examples."""
    coordinator: str | None = None
    """Many processes: HOST:PORT of process 0; Cloud TPU, Slurm and Open MPI need none of these."""
    num_processes: int | None = None
    """Many processes: how many there are."""
    process_id: int | None = None
    """Many processes: which this is, from 0."""
    start_timeout: int = 300
    """Many processes: seconds within which all must have come."""
    heartbeat_timeout: int = 30
    """Many processes: seconds of silence after which one counts as lost, and the others end."""

    def __post_init__(self):
        super().__post_init__()
        checks.expand_home(self, "backbone", "data_dir", "out")
        checks.at_least(self, 1, "batch_size", "eval_batch_size", "log_every", "eval_every", "max_steps", "patience")
        checks.at_least(self, 1, "epochs", "max_train_samples", "max_eval_samples", "max_dev_samples")
        checks.at_least(self, 1, "accumulate", "steps_per_dispatch", "checkpoint_every", "keep_checkpoints")
        if self.batch_size % self.accumulate:
            raise InputError(f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}.")
        checks.rates(self.learning_rate, self.learning_rates)
        checks.at_least(self, 4, "max_length")  # start token, a word piece of each of two texts, end token
        checks.at_least(self, 0, "warmup_steps", "weight_decay", "clip_norm", "learning_rate", "reduction_factor")
        checks.at_least(self, 0, "max_faults", "checkpoint_minutes")
        if self.reduction_factor == 0:
            raise InputError("reduction_factor must be larger than 0.")
        checks.seeds(self.seeds)
        checks.at_least(self, 1, "start_timeout", "heartbeat_timeout", "num_processes")
        checks.processes(self.coordinator, self.num_processes, self.process_id)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(TrainConfig):
    """Stage 1: train an adapter, or everything, on one task."""

    task: str
    """Name of the task, for instance glue/rte; see `scalearn list tasks`."""
    method: str = "single"
    """single: one adapter; full: fine-tune everything; head: only the head."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig(TrainConfig):
    """Stage 2: learn how to combine frozen source adapters for a target task."""

    target: str | None = None
    """Name of the target task, for instance glue/rte; see `scalearn list tasks`."""
    targets: tuple[str, ...] = ()
    """Several target tasks instead, trained one after the other over one backbone; each gets a folder OUT/TARGET."""
    sources: tuple[str, ...] = ()
    """Source adapters, as folders or as OWNER/NAME[@REVISION] of the hub: stage-1 runs (their first seed) or
    AdapterHub's; method single needs none."""
    any_base_model: bool = False
    """Use sources that say they were trained on a base model of another name than the backbone."""
    method: str = "scalearn"
    """How sources are combined; see `scalearn list methods`."""
    omega_dropout: float | None = None
    """ScaLearn: dropout on the scaling factors (published: 0.3)."""
    omega_init: float | None = None
    """ScaLearn: factors start around this over the number of sources (published: 2.0)."""
    normalise: Literal["none", "mean", "softmax"] | None = None
    """ScaLearn: whether factors are normalised over sources (published: none)."""
    penalty: float | None = None
    """ScaLearn: weight of the penalty on factors far from one (published: 0)."""
    weights: tuple[float, ...] | None = None
    """soup: weight of each source, in the order of --sources (default: equal)."""
    top_sources: int | None = None
    """soup: keep this many sources, weighted by how alike their training texts and the target's are (published: 5);
    without it all count equally."""
    embedder: str | None = None
    """soup: folder or hub id of a sentence encoder for the similarities (default: the backbone)."""
    similarity_samples: int | None = None
    """soup: training texts a task, for the similarities (default: 1000)."""
    coefficients: tuple[float, ...] | None = None
    """fixed: constant coefficient of each source, in the order of --sources."""
    compose: Literal["folded", "reference"] | None = None
    """Fold sources into one adapter (fast, exact), or compute as published (slow)."""

    def __post_init__(self):
        super().__post_init__()
        if bool(self.target) == bool(self.targets):
            raise InputError("target or targets: expected one of them, see `scalearn list tasks`.")
        if len(set(self.targets)) < len(self.targets):
            raise InputError(f"targets names something twice: {list(self.targets)}.")
        checks.expand_home(self, "sources", "embedder")
        checks.at_least(self, 0, "omega_dropout", "penalty")
        checks.at_least(self, 1, "top_sources", "similarity_samples")
        if self.omega_dropout is not None and self.omega_dropout >= 1:
            raise InputError(f"omega_dropout must be below 1, got {self.omega_dropout}.")
        checks.finite(self, "omega_init", "weights", "coefficients")
        if self.weights and sum(self.weights) == 0:
            raise InputError(f"weights are divided by their sum, which must not be 0, got {list(self.weights)}.")
        if self.weights is not None and self.top_sources is not None:
            raise InputError("weights and top_sources both say how much each source counts; give one of them.")
        for name in ("embedder", "similarity_samples"):
            if getattr(self, name) is not None and self.top_sources is None:
                raise InputError(f"{name} is for the similarities that top_sources asks for; set that too.")


@dataclass(frozen=True, kw_only=True)
class PlanAdapterConfig(AdapterConfig):
    """What `scalearn train-adapter` with these settings would need: memory, operations, time. Writes nothing."""

    out: str = ""
    """Not needed: nothing is written."""
    suggest: bool = True
    """Estimate the largest batch that fits; compiles one more program."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class PlanTransferConfig(TransferConfig):
    """What `scalearn transfer` with these settings would need: memory, operations, time. Writes nothing."""

    out: str = ""
    """Not needed: nothing is written."""
    suggest: bool = True
    """Estimate the largest batch that fits; compiles one more program."""
    json: bool = False
    """Print JSON instead of a table."""
