"""Our side of the benchmark: the library's own training step on given batches, compiled before it is measured.

Letters: M members (seeds trained together), L layers, T source tasks, d hidden size, r bottleneck.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.flops import needed_flops
from experiments.benchmark.measure import measure
from scalearn_jax import methods, model
from scalearn_jax.config import TransferConfig
from scalearn_jax.data import batches
from scalearn_jax.data.tasks import Task
from scalearn_jax.models import bank as banks
from scalearn_jax.models import pretrained
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.runs.sources import Source
from scalearn_jax.stages import prepare
from scalearn_jax.stages import program as training
from scalearn_jax.train import optim, sharding, state, step
from scalearn_jax.train.compile import compile_train_step, forward
from scalearn_jax.train.state import count_parameters
from scalearn_jax.typing import Batch, Params

Setting = dict[str, Any]


class Workload(NamedTuple):
    """What a step needs.

    Attributes:
      spec: the static model.
      task: its row.
      method: says what is trained and how fast.
      trainable: trainable half, leading axis M.
      frozen: frozen half.
      batches: batches with a leading member axis.
    """

    spec: model.ModelSpec
    task: Task
    method: methods.Method
    trainable: Params
    frozen: Params
    batches: list[Batch]


class Program(NamedTuple):
    """A training step as the library makes it.

    Attributes:
      step: jitted, (state, frozen, batch) -> (state, metrics).
      state: the first one.
      place: puts a batch from the host on the devices.
    """

    step: Callable
    state: Any
    place: Callable[[Batch], Batch]


def make_program(load: Workload) -> Program:
    """Builds the step as a run does; the only place that knows how the library assembles it."""
    mesh = sharding.make_mesh()
    tx = optim.make_optimizer(
        learning_rate=load.method.learning_rate, num_steps=10_000, trainable=load.method.trainable, clip_norm=1.0
    )
    loss = step.make_loss(load.spec, load.task.name, load.task.kind, forward(mesh))
    members = len(jax.tree.leaves(load.trainable)[0])
    keys = jnp.stack([jax.random.key(seed) for seed in range(members)])
    first = jax.vmap(lambda trainable, key: state.create(trainable, tx, key))(load.trainable, keys)
    compiled = compile_train_step(step.skip_faults(step.make_train_step(loss, tx)), mesh)
    return Program(compiled.jitted, sharding.replicate(first, mesh), compiled.place)


def compile_programs(program: Program, load: Workload) -> list:
    """Compiles the step for each batch; batches of one shape share a program."""
    programs: dict[tuple[int, ...], Any] = {}
    for batch in load.batches:
        if batch.tokens.shape not in programs:
            lowered = program.step.lower(program.state, load.frozen, program.place(batch))
            programs[batch.tokens.shape] = lowered.compile()
    return [programs[batch.tokens.shape] for batch in load.batches]


def measure_steps(load: Workload, repeats: int, steps_at_once: int = 1) -> dict[str, Any]:
    """Measures the step on each batch.

    Args:
      load: what to run.
      repeats: timed runs of each batch.
      steps_at_once: steps between two waits; an accelerator hides the host's work behind its own, as in training.

    Returns:
      See ``measure.measure``, with the programs' sizes and operations.
    """
    program = make_program(load)
    programs, current = compile_programs(program, load), program.state
    program = program._replace(state=None)  # the first step takes its memory

    def run(i: int) -> None:
        nonlocal current
        for _ in range(steps_at_once):
            current, metrics = programs[i](current, load.frozen, program.place(load.batches[i]))
        jax.block_until_ready(metrics)

    found = describe(load, programs)
    taken = measure(run, len(load.batches), repeats)
    return found | taken | {name: taken[name] / steps_at_once for name in ("seconds", "median")}


def describe(load: Workload, programs: Sequence) -> dict[str, Any]:
    """Tells what was compiled: operations (mean over batches, all members), temporary memory, sizes."""
    members, rows, row_length = np.mean([batch.tokens.shape for batch in load.batches], axis=0)
    examples, outputs = load.batches[0].example_mask.shape[1], load.task.num_outputs
    return {
        "flops": float(np.mean([program.cost_analysis().get("flops", np.nan) for program in programs])),
        "needed_flops": members * needed_flops(load.spec, rows, int(row_length), examples, outputs),
        "temp": max(program.memory_analysis().temp_size_in_bytes for program in programs),
        "programs": len(set(map(id, programs))),
        "rows": float(rows),
        "trainable": count_parameters(load.trainable)["trainable"],
    }


def make_workload(setting: Setting) -> Workload:
    """Prepares a run as ``scalearn transfer`` does, with sources drawn at random, and takes its first batches."""
    config, method = make_config(setting), methods.get(setting["method"])
    sizes = pretrained.backbone_spec(config.backbone)
    sources = random_sources(sizes, setting["sources"]) if method.uses_sources else []
    setup = prepare.prepare(config, setting["task"], sources)
    if setting["rows"] == "full":
        found = full_batches(setup.spec.backbone, setting, setup.task.num_outputs)
    else:
        num_steps = training.make_schedule(config, method, len(setup.data.train)).num_steps
        choices = training.training_rows(setup, num_steps)[1]
        found = list(itertools.islice(training.member_batches(setup, choices), setting["batches"]))
    return Workload(setup.spec, setup.task, method, setup.trainable, setup.frozen, found)


def make_config(setting: Setting) -> TransferConfig:
    """The run's config; what a setting leaves out is as published."""
    return TransferConfig(
        backbone=setting["backbone"],
        data_dir=setting["data_dir"],
        out="unused",
        target=setting["task"],
        method=setting["method"],
        seeds=tuple(range(setting["seeds"])),
        batch_size=setting["batch_size"],
        max_length=setting["length"],
        packed=setting["rows"] != "padded",
        dtype=setting["dtype"],
    )


def random_sources(sizes: BackboneSpec, num_sources: int) -> list[Source]:
    """Draws T source adapters of bottleneck d/16; weights do not change the speed."""
    shape = banks.BankShape(sizes.num_layers, num_sources, sizes.hidden_size, max(sizes.hidden_size // 16, 1))
    bank = jax.tree.map(np.asarray, banks.init(jax.random.key(0), shape))
    return [
        Source(f"source-{number}", "random", banks.select(bank, number), "relu", None) for number in range(num_sources)
    ]


def full_batches(sizes: BackboneSpec, setting: Setting, num_outputs: int) -> list[Batch]:
    """Draws batches of rows without any padding, one for each member."""
    batch_size, length = setting["batch_size"], setting["length"]

    def draw(seed: int) -> Batch:
        generator, shape = np.random.default_rng(seed), (batch_size, length)
        return Batch(
            tokens=generator.integers(5, sizes.vocab_size, shape, np.int32),
            token_types=np.zeros(shape, np.int32),
            segments=np.ones(shape, np.int32),
            positions=np.broadcast_to(np.arange(length, dtype=np.int32), shape).copy(),
            example_at=np.stack([np.arange(batch_size), np.zeros(batch_size)], 1).astype(np.int32),
            example_mask=np.ones(batch_size, bool),
            labels=generator.integers(0, max(num_outputs, 2), batch_size, np.int32),
            example_id=np.arange(batch_size, dtype=np.int32),
        )

    return [batches.stack([draw(seed) for seed in range(setting["seeds"])])]
