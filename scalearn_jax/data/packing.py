"""Which sequence goes in which row, and how many rows the programs are compiled for. Numpy only, no state.

Letters: B examples of a step, K sequences per example, N = B * K sequences, S row length, n batches.

The number of rows is rounded up to a short list, so that a run compiles at most four programs: three for
training and one for evaluation. A batch follows from (seed, step), so the rows of every step of a run are known
before it starts, and the list is the best there is.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from scalearn_jax.data.tokens import Encoded

MAX_CHOICES = 3
_AT_ONCE = 4096


def pack(lengths: Sequence[int], row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Places N sequences in rows by first-fit decreasing; equal lengths keep their order.

    Returns:
      (row Int[N], column Int[N]) of each sequence's first token.

    Example:
      >>> rows, columns = pack([3, 5, 4], 8)
      >>> rows.tolist(), columns.tolist()
      ([0, 0, 1], [5, 0, 0])
    """
    lengths = np.asarray(lengths)
    if len(lengths) and lengths.max() > row_length:
        raise ValueError(f"a sequence of {lengths.max()} tokens does not fit rows of {row_length}; encode it shorter.")
    rows, columns = np.zeros(len(lengths), np.int32), np.zeros(len(lengths), np.int32)
    used: list[int] = []
    decreasing = np.argsort(-lengths, kind="stable")
    for i, length in zip(decreasing.tolist(), lengths[decreasing].tolist(), strict=True):
        row = next((r for r, filled in enumerate(used) if filled + length <= row_length), len(used))
        if row == len(used):
            used.append(0)
        rows[i], columns[i] = row, used[row]
        used[row] += length
    return rows, columns


def pack_apart(lengths: Sequence[int], groups: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Places sequences as ``pack`` does, so that those of different groups, Int[N], share no row.

    Example:
      >>> pack_apart([3, 5, 4], np.array([0, 1, 0]), 8)[0].tolist()
      [0, 1, 0]
    """
    lengths, num_rows = np.asarray(lengths), 0
    rows, columns = np.zeros(len(lengths), np.int32), np.zeros(len(lengths), np.int32)
    for group in np.unique(groups):
        own = groups == group
        packed, columns[own] = pack(lengths[own], row_length)
        rows[own] = packed + num_rows
        num_rows += int(packed.max()) + 1
    return rows, columns


def count_rows(lengths: np.ndarray, row_length: int) -> np.ndarray:
    """Counts the rows that ``pack`` takes, Int[n], for Int[n N] lengths of n batches; 0 where there is no sequence.

    Example:
      >>> count_rows(np.array([[3, 5, 4], [8, 8, 0]]), 8).tolist()
      [2, 2]
    """
    counts = []
    for start in range(0, len(lengths), _AT_ONCE):
        decreasing = -np.sort(-lengths[start : start + _AT_ONCE], axis=1)
        used, batch = np.zeros(decreasing.shape, np.int32), np.arange(len(decreasing))
        for i, length in enumerate(decreasing.T):
            row = (used[:, : i + 1] + length[:, None] <= row_length).argmax(1)
            used[batch, row] += length
        counts.append((used > 0).sum(1))
    return np.concatenate(counts)


def row_choices(counts: np.ndarray, max_choices: int = MAX_CHOICES, program_cost: int = 0) -> tuple[int, ...]:
    """Picks the row counts that a run's batches are rounded up to, so that rows and programs cost least.

    Args:
      counts: Int[n], the rows that each step needs.
      max_choices: the most counts to pick; they ascend, and the last is the largest needed.
      program_cost: what compiling one more program costs, in rows; a short run does not repay many.

    Example:
      >>> row_choices([3, 4, 4, 7], max_choices=2)
      (4, 7)
      >>> row_choices([3, 4, 4, 7], program_cost=10)
      (7,)
    """
    seen, weights = np.unique(counts, return_counts=True)
    inner = (picks for k in range(max_choices) for picks in itertools.combinations(seen[:-1].tolist(), k))

    def cost(picks: tuple[int, ...]) -> tuple[int, int]:
        choices = np.array((*picks, seen[-1]))
        rows = int(choices[np.searchsorted(choices, seen)] @ weights)
        return rows + program_cost * len(picks), len(picks)

    return (*min(inner, key=cost), int(seen[-1]))


def row_steps(most: int) -> tuple[int, ...]:
    """Lists row counts to round up to where nothing is known of the batches to come: few, but none a quarter too large.

    Example:
      >>> row_steps(20)
      (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20)
    """
    steps = {factor << i for i in range(most.bit_length()) for factor in (1, 3, 5, 7)}
    return (*sorted(step for step in steps if step < most), most)


def eval_rows(splits: Sequence[Encoded], batch_size: int, row_length: int) -> tuple[int]:
    """Counts the rows (one choice) that hold any evaluation batch of some splits, so that one program serves them."""
    rows = (epoch_rows(encoded, np.arange(len(encoded)), batch_size, row_length) for encoded in splits)
    return (max(int(counts.max()) for counts in rows),)


def epoch_rows(encoded: Encoded, order: np.ndarray, batch_size: int, row_length: int) -> np.ndarray:
    """Counts the rows of every batch of an epoch, Int[n], for an order of the examples."""
    lengths = encoded.lengths[encoded.sequences(order)]
    sequences = batch_size * encoded.num_choices
    return count_rows(np.pad(lengths, (0, -len(lengths) % sequences)).reshape(-1, sequences), row_length)


def rounded_up(count: int, choices: Sequence[int]) -> int:
    """Rounds a row count up to the next choice; ``ValueError`` where none is large enough."""
    if count > choices[-1]:
        raise ValueError(f"{count} rows needed, the largest choice is {choices[-1]}; count the rows of these steps.")
    return int(choices[np.searchsorted(choices, count)])
