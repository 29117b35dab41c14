"""The stream of a joint run: (seed, step) to a task and some of its examples, and those to a batch. Numpy, no state.

A task is drawn with p_t ~ n_t^(1 / temperature), its examples evenly and with replacement (method.md, "Joint
training").

Letters: T tasks, n examples of a task, B examples of a step, K the most sequences per example of any task, N = B * K,
W the most logits of any task, S row length.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from scalearn_jax.data.batches import make_batch, stack, with_rows
from scalearn_jax.data.packing import count_rows
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.typing import Batch, JointBatch

_BLOCK = 4096  # steps that are drawn at once


class Mixture(NamedTuple):
    """Which task a step is of, and which examples it takes: a pure function of (seed, step)."""

    sizes: tuple[int, ...]  # examples of each task
    batch_size: int
    temperature: float = 1.0

    @property
    def shares(self) -> np.ndarray:
        """The probability of each task, Float[T].

        Example:
          >>> [Mixture((9, 1), 2, temperature).shares.round(2).tolist() for temperature in (1.0, 2.0)]
          [[0.9, 0.1], [0.75, 0.25]]
        """
        weights = np.asarray(self.sizes, float) / max(self.sizes)
        weights = weights ** (1 / self.temperature)
        return weights / weights.sum()

    def step(self, seed: int, step: int) -> tuple[int, np.ndarray]:
        """Returns the task of a step, counted from 0, and its examples Int[B]."""
        tasks, examples = _draw(self, seed, step // _BLOCK)
        return int(tasks[step % _BLOCK]), examples[step % _BLOCK]

    def blocks(self, seed: int, num_steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the tasks Int[m] and examples Int[m B] of many steps at once, in order."""
        for start in range(0, num_steps, _BLOCK):
            tasks, examples = _draw(self, seed, start // _BLOCK)
            yield tasks[: num_steps - start], examples[: num_steps - start]


@functools.lru_cache(maxsize=64)
def _draw(mixture: Mixture, seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng((seed, block, 1))  # the order of an epoch takes (seed, epoch)
    tasks = generator.choice(len(mixture.sizes), size=_BLOCK, p=mixture.shares).astype(np.int32)
    sizes = np.asarray(mixture.sizes)[tasks][:, None]
    return tasks, (generator.random((_BLOCK, mixture.batch_size)) * sizes).astype(np.int32)


def train_rows(
    mixture: Mixture,
    splits: Sequence[Encoded],
    *,
    seeds: Sequence[int],
    row_length: int,
    num_steps: int,
    num_parts: int = 1,
) -> np.ndarray:
    """Counts the rows Int[num_steps] that each step needs, as ``batches.train_rows`` does."""
    most = np.zeros(num_steps, int)
    for seed in sorted(set(seeds)):
        start = 0
        for tasks, examples in mixture.blocks(seed, num_steps):
            for number, encoded in enumerate(splits):
                steps = np.flatnonzero(tasks == number)
                if len(steps):
                    lengths = encoded.lengths[encoded.sequences(examples[steps].ravel())]
                    rows = count_rows(lengths.reshape(len(steps) * num_parts, -1), row_length)
                    rows = rows.reshape(len(steps), num_parts).max(1)
                    most[start + steps] = np.maximum(most[start + steps], rows)
            start += len(tasks)
    return most


def train_batches(
    mixture: Mixture,
    splits: Sequence[Encoded],
    *,
    seed: int,
    row_length: int,
    num_logits: int,
    row_choices: Sequence[int] | None = None,
    packed: bool = True,
    start_step: int = 0,
    num_parts: int = 1,
) -> Iterator[JointBatch]:
    """Yields joint batches without end, all of one shape but for their rows; see ``batches.train_batches``."""
    num_choices = max(encoded.num_choices for encoded in splits)
    size = mixture.batch_size // num_parts
    layout = dict(batch_size=size, row_length=row_length, row_choices=row_choices, packed=packed)
    for step in itertools.count(start_step):
        task, examples = mixture.step(seed, step)
        parts = [make_batch(splits[task], chunk, **layout) for chunk in examples.reshape(num_parts, size)]
        parts = [joint_batch(part, task, num_choices, num_logits, packed=packed) for part in parts]
        yield parts[0] if num_parts == 1 else stack(parts)


def joint_batch(batch: Batch, task: int, num_choices: int, num_logits: int, *, packed: bool = True) -> JointBatch:
    """Gives a batch of a task the shape that those of all tasks have.

    Args:
      batch: of B examples.
      task: its number.
      num_choices: K; places of first tokens are filled up to B * K.
      num_logits: W; labels become Float[B W], filled with 0.
      packed: whether its rows are counted; else there is one for each of the N sequences.

    Example:
      >>> from scalearn_jax.data.batches import padded_batch
      >>> joint_batch(padded_batch([[2, 7, 3]], labels=[1]), 3, 1, 2).labels.tolist()
      [[1.0, 0.0]]
    """
    labels = np.asarray(batch.labels, np.float32).reshape(len(batch.labels), -1)
    num_sequences = len(labels) * num_choices
    batch = batch if packed else with_rows(batch, num_sequences)
    changes = dict(
        example_at=np.pad(batch.example_at, ((0, num_sequences - len(batch.example_at)), (0, 0))),
        labels=np.pad(labels, ((0, 0), (0, num_logits - labels.shape[1]))),
    )
    return JointBatch(*batch._replace(**changes), task=np.int32(task))
