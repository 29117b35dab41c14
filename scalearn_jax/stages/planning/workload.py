"""What a run computes: its programs, each with a batch of the run and how often it is called.

Letters: M members (seeds trained together), B examples, K sequences an example, R rows, S row length, d hidden size.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from scalearn_jax.stages import features
from scalearn_jax.stages import program as training
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train import parallel
from scalearn_jax.train.loop import Schedule
from scalearn_jax.train.state import TrainState
from scalearn_jax.train.step import make_predict_step
from scalearn_jax.typing import Batch, FeatureBatch


class Work(NamedTuple):
    """One program of a run.

    Attributes:
      name: ``"train"``, ``"evaluate"`` or ``"encode"`` (features for a head alone).
      step: compiled on demand.
      batch: one of the run's.
      calls: how often a run calls it, if no seed stops early.
    """

    name: str
    step: parallel.Compiled
    batch: Batch | FeatureBatch
    calls: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and length; of features examples, and 1."""
        if isinstance(self.batch, FeatureBatch):
            return self.batch.features.shape[-2], 1
        return self.batch.tokens.shape[-2:]


def compiled_training(setup: Setup, schedule: Schedule) -> tuple[parallel.Compiled, TrainState]:
    """The training step of a run, compiled on demand, and its first state."""
    made = training.make_training([setup], [schedule])
    return parallel.compile_train_step(made.step, setup.mesh), made.state


def workload(setup: Setup, schedule: Schedule, step: parallel.Compiled) -> list[Work]:
    """Lists the programs of a run, training first; needs no device.

    Args:
      setup: the run.
      schedule: its steps and evaluations.
      step: its training step, see ``compiled_training``.

    Returns:
      One entry for each program that the run compiles; those that only read features off a table are left out, and
      of several steps in one dispatch one is looked at.
    """
    if features.trains_head_only(setup.method, setup.spec):
        return [_train_on_features(setup, schedule, step), *_encode(setup, schedule), _evaluate(setup, 0)]
    trained = [Work("train", step, batch, calls) for batch, calls in train_batches(setup, schedule.num_steps)]
    return [*trained, _evaluate(setup, schedule.num_evaluations)]


def train_batches(setup: Setup, num_steps: int) -> Iterator[tuple[Batch, int]]:
    """Yields a real batch of each row count that training uses, ascending, and how many steps have that count."""
    rows, choices = training.training_rows([setup], [num_steps])
    rounded = np.asarray(choices)[np.searchsorted(choices, rows)]
    for choice in choices:
        steps = np.flatnonzero(rounded == choice)
        yield next(training.member_batches(setup, choices, start_step=int(steps[0]))), len(steps)


def _evaluate(setup: Setup, num_evaluations: int) -> Work:
    """The one program of development and test set."""
    config, data, task = setup.config, setup.data, setup.task
    size = config.eval_batch_size
    batch = next(training.evaluation_layout(setup).batches(data.dev))
    calls = num_evaluations * -(-len(data.dev) // size) + -(-len(data.test) // size)
    step = parallel.compile_predict_step(make_predict_step(setup.spec, task.name), setup.mesh)
    return Work("evaluate", step, batch, calls)


def _encode(setup: Setup, schedule: Schedule) -> list[Work]:
    """The programs that encode each example once: of the training set, and of the development set."""
    used = features.used_examples(setup, schedule.num_steps)
    size, step, data = setup.config.eval_batch_size, features.encode_step(setup.spec, setup.mesh), setup.data
    splits = (data.train, used), (data.dev, np.arange(len(data.dev)))
    return [
        Work("encode", step, next(features.encode_batches(setup, *split)), -(-len(split[1]) // size))
        for split in splits
    ]


def _train_on_features(setup: Setup, schedule: Schedule, step: parallel.Compiled) -> Work:
    """Training of a head alone, on features that are zero: they take as long as any."""
    config, encoded = setup.config, setup.data.train
    members, size = len(config.seeds), config.batch_size
    table = np.zeros((members, size * encoded.num_choices, setup.spec.backbone.hidden_size), np.float32)
    labels = np.zeros((members, size, *encoded.labels.shape[1:]), encoded.labels.dtype)
    return Work("train", step, FeatureBatch(table, np.ones((members, size), bool), labels), schedule.num_steps)
