"""Types every module shares.

Letters used throughout the package: B examples of a step, K sequences per example (1, or the number of
choices), N = B * K sequences, R rows, S row length, L layers, T source tasks, d hidden size, r bottleneck,
f feed-forward width, C outputs.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
Key = jax.Array
Params = dict[str, Any]


class Batch(NamedTuple):
    """The examples of one step, laid out in rows that hold one or more sequences each.

    A padded batch is the special case of one sequence per row, so packing needs no second code path.

    Attributes:
      tokens: Int[R S], token ids.
      token_types: Int[R S], segment-type ids (0 first text, 1 second text).
      segments: Int[R S], which sequence of its row a slot belongs to: 1, 2, ...; 0 is padding. Attention
        stays inside equal segments.
      positions: Int[R S], position inside the sequence, from 0.
      example_at: Int[N 2], (row, column) of each sequence's first token; the K sequences of an example are
        neighbours.
      example_mask: Bool[B], False for the filler of a short last batch.
      labels: Int[B], Float[B] (regression) or Float[B C] (multi-label).
      example_id: Int[B], index in the split; -1 for filler.
    """

    tokens: Array
    token_types: Array
    segments: Array
    positions: Array
    example_at: Array
    example_mask: Array
    labels: Array
    example_id: Array


class JointBatch(NamedTuple):
    """A ``Batch`` of one of the tasks of a joint run, whose batches share one shape.

    Attributes:
      tokens, token_types, segments, positions, example_mask, example_id: see ``Batch``.
      example_at: Int[N 2], with N that of the task with most choices; filled with 0.
      labels: Float[B W], with W the most outputs or choices of any task; filled with 0.
      task: Int[], the number of the task.
    """

    tokens: Array
    token_types: Array
    segments: Array
    positions: Array
    example_at: Array
    example_mask: Array
    labels: Array
    example_id: Array
    task: Array


class FeatureBatch(NamedTuple):
    """The examples of one step with what a frozen encoder makes of them.

    Attributes:
      features: Float[N d], final state of each sequence's first token.
      example_mask: Bool[B], False for the filler of a short last batch.
      labels: Int[B], Float[B] or Float[B C].
    """

    features: Array
    example_mask: Array
    labels: Array
