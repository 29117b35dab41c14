"""From some runs to their training: what is compiled, the first state, the batches, the evaluation; then the loop.

The runs of a program differ in their learning rate only. Letters: M members (of all runs), n steps.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from scalearn_jax import methods, model
from scalearn_jax.config import JointConfig, TrainConfig
from scalearn_jax.data import batches, mixture, packing
from scalearn_jax.errors import InputError
from scalearn_jax.stages import features
from scalearn_jax.stages.setup import Setup
from scalearn_jax.train import feed, loop, resume
from scalearn_jax.train.checkpoint import Checkpoint
from scalearn_jax.train.compile import compile_dispatches, forward, keep_programs
from scalearn_jax.train.evaluate import Members, over_tasks, score
from scalearn_jax.train.jax_settings import key_of_seed
from scalearn_jax.train.optim import make_optimizer
from scalearn_jax.train.sharding import divisible, replicate
from scalearn_jax.train.state import Position, TrainState, create, own_part
from scalearn_jax.train.step import make_loss, make_train_step, skip_faults
from scalearn_jax.typing import Batch, FeatureBatch, Params

_EVALUATIONS = 50  # of a joint run, as published
_PROGRAM_COST = 100  # rows that train in about the time that compiling one more program takes, on a small machine


class Program(NamedTuple):
    """What trains some runs together."""

    step: Callable  # (state, frozen, batch) -> (state, metrics) of one member, not compiled yet
    state: TrainState  # the first, leading axis M
    frozen: Params
    batches: Iterator[Batch | FeatureBatch]  # one a step, leading axis M, from the start step on
    evaluate: Callable[[Params], list[dict[str, float]]]  # trainable trees of a run -> development metrics of each
    rows: np.ndarray  # Int[steps], those of each step's batch; of features 1


def make_program(setups: Sequence[Setup], schedule: loop.Schedule, start_step: int = 0) -> Program:
    """Builds the program of some runs; computes no step. ``start_step`` steps were done before."""
    setup, config = setups[0], setups[0].config
    settings = dict(
        trainable=setup.method.trainable,
        optimizer=setup.given.optimizer or config.optimizer,
        warmup_steps=warmup_steps(config, schedule.num_steps),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm or None,
        tasks=tuple(setup.spec.tasks) if setup.is_joint else (),
        factors=setup.method.factors,
    )
    rates = [_default(run.config.learning_rate, setup.method.learning_rate) for run in setups]
    optimizers = [make_optimizer(learning_rate=rate, num_steps=schedule.num_steps, **settings) for rate in rates]
    if features.trains_head_only(setup.method, setup.spec):
        mesh, choices, evaluate = None, (), features.evaluator(setup, setup.data.dev)
        rows = np.ones(schedule.num_steps, int)
        stream = features.train_batches(setup, schedule.num_steps, start_step)
    else:
        rows, choices = training_rows(setup, schedule.num_steps)
        rows = np.asarray(choices)[np.searchsorted(choices, rows)]
        mesh, evaluate = setup.mesh, functools.partial(_evaluate, setup)
        stream = member_batches(setup, choices, start_step)
    if len(setups) > 1:  # all learning rates see the same batches
        stream = (batches.concatenate([batch] * len(setups)) for batch in stream)
    shapes = len(setups) * len(config.seeds), config.batch_size, setup.row_length, choices
    kinds = tuple(part.task.kind for part in setup.parts)
    kind = setup.spec.program, *((None, kinds) if setup.is_joint else (setup.task.name, setup.task.kind))
    step = _member_step(*kind, mesh, shapes, num_parts(setup), config.max_faults, **settings)
    state = replicate(first_state(setups, optimizers), setup.mesh)
    return Program(step, state, frozen_of(setups), stream, evaluate, rows)


@keep_programs
def _member_step(
    spec: model.ModelSpec,
    task: str | None,
    kind: str | tuple[str, ...],
    mesh: Mesh | None,
    shapes: tuple,
    num_parts: int,
    max_faults: int,
    **settings,
) -> Callable:
    """Makes the step of a member; equal ones are one function, and so one program for batches of equal ``shapes``.

    Without a mesh it is on cached features. For the settings see ``make_optimizer``.
    """
    apply = features.forward
    if mesh is not None:  # where no transfer parameters learn, devices need no copies of them
        apply = forward(mesh) if "transfer" in settings["trainable"] else model.apply
    loss = make_loss(spec, task, kind, apply)
    optimizer = make_optimizer(learning_rate=0.0, num_steps=1, **settings)  # it keeps both in its state
    return skip_faults(make_train_step(loss, optimizer, num_parts=num_parts), max_faults)


def _evaluate(setup: Setup, trainable: Params) -> list[dict[str, float]]:
    found = [
        score(
            Members(setup.spec.program, part.task, trainable, setup.frozen),
            part.data.dev,
            setup.evaluation_layout,
            diverged=True,
        )
        for part in setup.parts
    ]
    return over_tasks([part.task for part in setup.parts], found) if setup.is_joint else found[0]


def make_schedule(config: TrainConfig, method: methods.Method, num_examples: int) -> loop.Schedule:
    """Resolves steps, evaluations and patience: what the config leaves open is as published for the method."""
    per_epoch = batches.steps_per_epoch(num_examples, config.batch_size)
    num_steps = config.max_steps or _default(config.epochs, method.epochs) * per_epoch
    if warmup_steps(config, num_steps) >= num_steps:
        raise InputError(f"--warmup-steps {config.warmup_steps} leaves nothing of {num_steps} steps; pass fewer.")
    often = -(-num_steps // _EVALUATIONS) if isinstance(config, JointConfig) else per_epoch
    return loop.Schedule(
        num_steps=num_steps,
        eval_every=config.eval_every or often,
        log_every=config.log_every,
        patience=_default(config.patience, method.patience),
        select=config.select,
    )


def warmup_steps(config: TrainConfig, num_steps: int) -> int:
    """Resolves the steps of warm-up; a joint run that leaves them open has a tenth of all."""
    return _default(config.warmup_steps, num_steps // 10)


def _default(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def num_parts(setup: Setup) -> int:
    """Parts that a step is accumulated from; cached features need no memory worth it."""
    return 1 if features.trains_head_only(setup.method, setup.spec) else setup.config.accumulate


def training_rows(setup: Setup, num_steps: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Counts the rows Int[n] of each step of a run, and picks the counts they are rounded up to."""
    config, parts = setup.config, num_parts(setup)
    layout = dict(row_length=setup.row_length, num_steps=num_steps, num_parts=parts)
    if not config.packed:
        most = max(part.data.train.num_choices for part in setup.parts)
        rows = np.full(num_steps, config.batch_size // parts * most)
    elif setup.is_joint:
        splits = [part.data.train for part in setup.parts]
        rows = mixture.train_rows(setup.mixture, splits, seeds=setup.sampler_seeds, **layout)
    else:
        rows = batches.train_rows(setup.data.train, seeds=config.seeds, batch_size=config.batch_size, **layout)
    if config.packed:
        rows = divisible(rows, setup.mesh)
    return rows, packing.row_choices(rows, program_cost=_PROGRAM_COST)


def member_batches(setup: Setup, choices: Sequence[int], start_step: int = 0) -> Iterator[Batch]:
    """Yields training batches without end, with a leading member axis; each seed has its own order."""
    layout = dict(
        start_step=start_step,
        num_parts=num_parts(setup),
        row_length=setup.row_length,
        row_choices=choices,
        packed=setup.config.packed,
    )
    if setup.is_joint:
        splits, layout["num_logits"] = [part.data.train for part in setup.parts], setup.spec.num_logits
        make = functools.partial(mixture.train_batches, setup.mixture, splits, **layout)
    else:
        make = functools.partial(batches.train_batches, setup.data.train, batch_size=setup.config.batch_size, **layout)
    return map(batches.stack, zip(*(make(seed=seed) for seed in setup.sampler_seeds), strict=True))


def train(
    setups: Sequence[Setup],
    schedule: loop.Schedule,
    on_events: Sequence[Callable],
    saved: Checkpoint | None = None,
    saver: resume.CheckpointSaver | None = None,
    on_progress: Callable = lambda event: None,
) -> Position:
    """Trains some runs together; returns where they ended, with the best checkpoint of each member.

    Each run has a function that receives its events; for ``on_progress`` see ``loop.train``. ``saved`` is a checkpoint
    of the same runs, to go on from; one process of several has the ``saver``. Raises ``Preempted`` where the process is
    to stop.
    """
    setup, config, start = setups[0], setups[0].config, saved.step if saved else 0
    program = make_program(setups, schedule, start)
    if saved:
        position = _restore(saved, program.state, setup)
        if saver:
            saver.resumed(position)
    else:
        position = loop.start(program.state, len(setups), len(config.seeds))
    # A CPU is busy with one step; an accelerator would wait for the next one to be sent.
    size = config.steps_per_dispatch or (1 if jax.default_backend() == "cpu" else 8)
    sizes = feed.sizes(schedule.stops(), size, start)
    shapes = {(number, program.rows[done : done + number].max()) for done, number in sizes}
    dispatches = feed.dispatches(program.batches, schedule.stops(), size, start)
    # The first is made here and not in the thread: it computes the cached features, which a signal may end.
    dispatches = itertools.chain(list(itertools.islice(dispatches, 1)), dispatches)
    placed = feed.in_background(dispatches, functools.partial(feed.place, mesh=setup.mesh))
    try:
        loop.train(
            compile_dispatches(program.step, setup.mesh),
            position,
            program.frozen,
            placed,
            schedule,
            loop.Evaluation(program.evaluate, setup.main_metric),
            on_events,
            saver or (lambda position, why: None),
            on_progress=on_progress,
            num_programs=len(shapes) + 1,
        )
    finally:
        placed.close()
    return position


def _restore(saved: Checkpoint, first: TrainState, setup: Setup) -> Position:
    """Puts a checkpoint in the place of the first state, whose memory is freed before."""
    learned = first.trainable, first.opt_state
    trainable, opt_state = jax.eval_shape(lambda leaves: leaves, learned)
    for leaf in jax.tree.leaves(learned):
        leaf.delete()
    position = resume.unpack(saved, first._replace(trainable=trainable, opt_state=opt_state))
    position.state = jax.tree.map(lambda leaf: replicate(jnp.array(leaf), setup.mesh), position.state)
    return position


def run_configs(config: TrainConfig) -> list[TrainConfig]:
    """Makes the config of each run: one a learning rate, with a folder ``lr-RATE`` of its own."""
    if not config.learning_rates:
        return [config]
    return [
        dataclasses.replace(config, learning_rate=rate, learning_rates=(), out=str(Path(config.out, f"lr-{rate:g}")))
        for rate in config.learning_rates
    ]


def runs_of(setup: Setup) -> list[Setup]:
    """Makes the setup of each run: one a learning rate, on the same data and parameters."""
    return [dataclasses.replace(setup, config=config) for config in run_configs(setup.config)]


def first_state(setups: Sequence[Setup], optimizers: Sequence[optax.GradientTransformation]) -> TrainState:
    """Makes the state before the first step, leading axis M: the seeds of each run, one run after the other."""

    def of_run(setup: Setup, optimizer: optax.GradientTransformation) -> TrainState:
        keys = jnp.stack([jax.random.fold_in(key_of_seed(seed), 1) for seed in setup.config.seeds])
        return jax.vmap(lambda trainable, key: create(trainable, optimizer, key))(setup.trainable, keys)

    states = [of_run(*run) for run in zip(setups, optimizers, strict=True)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)


def frozen_of(setups: Sequence[Setup]) -> Params:
    """Joins what is frozen of some runs: what they share, and of each member its own part, one run after the other."""
    own = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(own_part(setup.frozen) for setup in setups))
    return setups[0].frozen | replicate(own, setups[0].mesh)


def compare_rates(setups: Sequence[Setup], results: dict[str, Any]) -> dict[str, Any]:
    """Compares the learning rates of each task by the development score that chose the checkpoints.

    From run folder -> results, of the runs that have some, it makes
    ``{task: {"best": rate, "select": name, "rates": {rate: mean over seeds}}}``, where seeds are lost also ``"lost"``
    with their number by rate. The best rate is one of those that lost fewest.
    """
    found: dict[str, Any] = {}
    for setup in setups:
        name = "loss" if setup.config.select == "loss" else setup.main_metric
        configs = [config for config in run_configs(setup.config) if config.out in results]  # others lost every seed
        runs = {f"{config.learning_rate:g}": results[config.out] for config in configs}
        scores = {
            rate: float(np.mean([seed["dev"][name] for seed in run["seeds"].values()])) for rate, run in runs.items()
        }
        lost = {rate: len(run.get("lost", {})) for rate, run in runs.items()}
        sign = 1 if name == "loss" else -1
        best = min(scores, key=lambda rate: (lost[rate], sign * scores[rate]), default=None)
        found[setup.name] = {"best": best, "select": name, "rates": scores}
        if any(lost.values()):
            found[setup.name]["lost"] = lost
    return found
