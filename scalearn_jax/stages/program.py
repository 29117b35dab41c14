"""What the loop runs: the compiled step of some runs, their first state, their batches and their evaluations.

Letters: M members (of all runs), n steps.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import methods
from scalearn_jax.config import TrainConfig
from scalearn_jax.data import batches
from scalearn_jax.errors import InputError
from scalearn_jax.stages import features, together
from scalearn_jax.stages.outcomes import Trained, outcomes
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train import feed, loop, parallel, resume
from scalearn_jax.train import state as states
from scalearn_jax.train.checkpoint import Saved
from scalearn_jax.train.evaluate import Layout, Members, score
from scalearn_jax.train.optim import make_optimizer
from scalearn_jax.train.position import Position
from scalearn_jax.train.step import make_train_step, skip_faults
from scalearn_jax.typing import Batch, FeatureBatch, Params

_PROGRAM_COST = 100  # rows that train in about the time that compiling one more program takes, on a small machine


class Training(NamedTuple):
    """Some runs as one program.

    Attributes:
      step: (state, frozen, batch) -> (state, metrics), not compiled yet: of one member.
      state: the first, leading axis M.
      frozen: the frozen half.
      batches: one a step, leading axis M, from the start step on.
      evaluations: of each run: trainable trees of its members -> development metrics.
      leave: (run, trees of the program) -> trees of the run, see ``together``.
    """

    step: Callable
    state: states.TrainState
    frozen: Params
    batches: Iterator
    evaluations: list[Callable[[Params], list[dict[str, float]]]]
    leave: Callable[[Setup, Params], Params]


def make_training(setups: Sequence[Setup], schedules: Sequence[loop.Schedule], start_step: int = 0) -> Training:
    """Builds the program of some runs; computes no step.

    Args:
      setups: runs that agree in all but seeds, learning rate and target.
      schedules: of each run.
      start_step: steps done before.

    Returns:
      The program.
    """
    first = setups[0]
    constant = features.trains_head_only(first.method, first.spec)
    joint = together.join(setups, features.forward if constant else parallel.forward(first.mesh))
    optimizers = [_optimizer(*run) for run in zip(setups, schedules, strict=True)]
    states_ = [_first_state(setup, joint, tx) for setup, tx in zip(setups, optimizers, strict=True)]
    state = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states_)
    evaluators = _evaluators(setups, constant)
    leaving = lambda setup, evaluate: lambda trainable: evaluate(joint.leave(setup, trainable))  # noqa: E731
    return Training(
        skip_faults(make_train_step(joint.loss, optimizers[0], num_parts=num_parts(first)), first.config.max_faults),
        parallel.replicate(state, first.mesh),
        joint.frozen,
        _joint_batches(setups, schedules, joint, constant, start_step),
        [leaving(*run) for run in zip(setups, evaluators, strict=True)],
        joint.leave,
    )


def num_parts(setup: Setup) -> int:
    """Parts that a step is accumulated from; cached features need no memory worth it."""
    return 1 if features.trains_head_only(setup.method, setup.spec) else setup.config.accumulate


def _dispatch_size(config: TrainConfig) -> int:
    """Steps that are sent off together: a CPU is busy with one, an accelerator would wait for the next."""
    return config.steps_per_dispatch or (1 if jax.default_backend() == "cpu" else 8)


def _optimizer(setup: Setup, schedule: loop.Schedule):
    config = setup.config
    return make_optimizer(
        learning_rate=_default(config.learning_rate, setup.method.learning_rate),
        num_steps=schedule.num_steps,
        trainable=setup.method.trainable,
        optimizer=config.optimizer,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm or None,
    )


def _first_state(setup: Setup, joint: together.Joint, tx) -> states.TrainState:
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 1) for seed in setup.config.seeds])
    trainable = joint.enter(setup, setup.trainable)
    return jax.vmap(lambda trainable, key: states.create(trainable, tx, key))(trainable, keys)


def make_schedule(config: TrainConfig, method: methods.Method, num_examples: int) -> loop.Schedule:
    """Resolves steps, evaluations and patience: what the config leaves open is as published for the method.

    Raises:
      InputError: the warm-up is as long as the run.
    """
    per_epoch = batches.steps_per_epoch(num_examples, config.batch_size)
    num_steps = config.max_steps or _default(config.epochs, method.epochs) * per_epoch
    if config.warmup_steps >= num_steps:
        raise InputError(f"--warmup-steps {config.warmup_steps} leaves nothing of {num_steps} steps; pass fewer.")
    return loop.Schedule(
        num_steps=num_steps,
        eval_every=config.eval_every or per_epoch,
        log_every=config.log_every,
        patience=_default(config.patience, method.patience),
        select=config.select,
    )


def _default(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


# ---------------------------------------------------------------- evaluation


def evaluation_layout(setup: Setup) -> Layout:
    """The layout that both held-out sets share, so that one program serves them."""
    held_out, config = [setup.data.dev, setup.data.test], setup.config
    return Layout.of(
        held_out, setup.task.max_length, config.eval_batch_size, packed=config.packed, mesh=setup.mesh
    )


def _evaluators(setups: Sequence[Setup], constant: bool) -> list[Callable]:
    """One a run; runs on the same data share one, and with it what it keeps."""
    make = (lambda setup: features.evaluator(setup, setup.data.dev)) if constant else _evaluator
    made: dict[int, Callable] = {}
    return [made.get(id(setup.data)) or made.setdefault(id(setup.data), make(setup)) for setup in setups]


def _evaluator(setup: Setup) -> Callable[[Params], list[dict[str, float]]]:
    layout = evaluation_layout(setup)

    def evaluate(trainable: Params) -> list[dict[str, float]]:
        return score(Members(setup.spec, setup.task, trainable, setup.frozen), setup.data.dev, layout)

    return evaluate


# ---------------------------------------------------------------- batches


def training_rows(setups: Sequence[Setup], num_steps: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Counts the rows of each step, and picks the counts they are rounded up to.

    Args:
      setups: the runs, trained together.
      num_steps: of each run; a shorter one repeats its last batch until the others end.

    Returns:
      (Int[n], the choices).
    """
    counts = [_rows(setup, steps) for setup, steps in zip(setups, num_steps, strict=True)]
    longest = max(num_steps)
    rows = np.max([np.pad(count, (0, longest - len(count)), mode="edge") for count in counts], axis=0)
    if setups[0].config.packed:
        rows = parallel.divisible(rows, setups[0].mesh)
    return rows, batches.row_choices(rows, program_cost=_PROGRAM_COST)


def _rows(setup: Setup, num_steps: int) -> np.ndarray:
    config, encoded = setup.config, setup.data.train
    if not config.packed:
        return np.full(num_steps, config.batch_size // num_parts(setup) * encoded.num_choices)
    layout = dict(batch_size=config.batch_size, row_length=setup.task.max_length, num_parts=num_parts(setup))
    return batches.train_rows(encoded, seeds=config.seeds, num_steps=num_steps, **layout)


def member_batches(setup: Setup, choices: Sequence[int], start_step: int = 0) -> Iterator[Batch]:
    """Yields training batches with a leading member axis; each seed has its own order."""
    config = setup.config
    layout = dict(batch_size=config.batch_size, row_length=setup.task.max_length, num_parts=num_parts(setup))
    layout |= dict(row_choices=choices, packed=config.packed, start_step=start_step)
    streams = [batches.train_batches(setup.data.train, seed=seed, **layout) for seed in config.seeds]
    return map(batches.stack, zip(*streams, strict=True))


def _joint_batches(
    setups, schedules, joint: together.Joint, constant: bool, start_step: int
) -> Iterator[Batch | FeatureBatch]:
    steps = [schedule.num_steps for schedule in schedules]
    choices = () if constant else training_rows(setups, steps)[1]

    def stream(setup: Setup, num_steps: int) -> Iterator:
        start = min(start_step, num_steps - 1)
        own = features.train_batches(setup, num_steps, start) if constant else member_batches(setup, choices, start)
        return map(functools.partial(joint.labelled, setup), itertools.islice(own, num_steps - start))

    if len(setups) == 1:
        return stream(setups[0], steps[0])
    streams: dict[int, tuple[Iterator, int]] = {}  # runs that differ in their rate alone have the same batches
    for setup, num_steps in zip(setups, steps, strict=True):
        own, count = streams.get(id(setup.data)) or (_lasting(stream(setup, num_steps)), 0)
        streams[id(setup.data)] = own, count + 1
    repeated = (map(functools.partial(_repeated, count=count), own) for own, count in streams.values())
    return map(batches.concatenate, zip(*repeated, strict=True))


def _repeated(batch: Batch | FeatureBatch, count: int) -> Batch | FeatureBatch:
    return batch if count == 1 else batches.concatenate([batch] * count)


def _lasting(items: Iterator) -> Iterator:
    """Repeats the last item without end: a run that is done goes along with the others and changes nothing."""
    for item in items:
        yield item
    yield from itertools.repeat(item)


def train(
    setups: Sequence[Setup],
    schedules: Sequence[loop.Schedule],
    on_events: Sequence[Callable],
    saved: Saved | None = None,
    keeper: resume.Keeper | None = None,
) -> list[Trained]:
    """Trains some runs together.

    Args:
      setups: the runs.
      schedules: of each.
      on_events: of each, receives its events.
      saved: a checkpoint of the same runs, to go on from.
      keeper: writes checkpoints; one process of several has it.

    Returns:
      What came of each run.

    Raises:
      Preempted: the process was told to stop.
    """
    mesh, start = setups[0].mesh, saved.step if saved else 0
    training = make_training(setups, schedules, start)
    groups = [
        loop.Group(len(setup.config.seeds), schedule, evaluate, setup.task.metrics[0], on_event)
        for setup, schedule, evaluate, on_event in zip(setups, schedules, training.evaluations, on_events, strict=True)
    ]
    lots = feed.lots(training.batches, loop.lookups(groups), _dispatch_size(setups[0].config), start)
    lots = itertools.chain(list(itertools.islice(lots, 1)), lots)  # cached features are computed here, not in a thread
    position = _begin(training.state, groups, saved, keeper, mesh)
    placed = feed.in_background(lots, functools.partial(parallel.place, mesh=mesh))
    save = keeper or (lambda position, why: None)
    try:
        loop.train(parallel.compile_lots(training.step, mesh), position, training.frozen, placed, groups, save)
    finally:
        placed.close()
    return outcomes(setups, position, training.leave)


def _begin(state: states.TrainState, groups, saved: Saved | None, keeper, mesh) -> Position:
    """The position to begin at: the first one, or that of a checkpoint."""
    if saved is None:
        return loop.start(state, groups)
    position = resume.unpack(saved, _without_memory(state))
    position.state = jax.tree.map(lambda leaf: parallel.replicate(jnp.array(leaf), mesh), position.state)
    if keeper:
        keeper.resumed(position)
    return position


def _without_memory(state: states.TrainState) -> states.TrainState:
    """Gives up the memory of a first state that another one takes the place of; keeps its key."""
    big = state.trainable, state.opt_state
    abstract = jax.eval_shape(lambda leaves: leaves, big)
    for leaf in jax.tree.leaves(big):
        leaf.delete()
    return state._replace(trainable=abstract[0], opt_state=abstract[1])
