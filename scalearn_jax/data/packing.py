"""Which sequence goes in which row, and how many rows the programs are compiled for. Numpy only, no state.

Letters: B examples of a step, K sequences per example, N = B * K sequences, S row length.

The number of rows is rounded up to a short list, so that a run compiles at most four programs: three for
training, the last of them for a batch of long texts such as hardly any run meets, and one for evaluation.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from scalearn_jax.data.tokens import Encoded

MAX_CHOICES = 3
_NUM_SAMPLES = 500


def pack(lengths: Sequence[int], row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Places sequences in rows by first-fit decreasing.

    Args:
      lengths: of the N sequences, each at most ``row_length``.
      row_length: S.

    Returns:
      (row Int[N], column Int[N]) of each sequence's first token. Equal lengths keep their order.

    Raises:
      ValueError: a sequence is longer than a row.

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


def num_rows(encoded: Encoded, examples: np.ndarray, row_length: int) -> int:
    """Counts the rows that some examples pack into."""
    return int(pack(encoded.lengths[encoded.sequences(examples)], row_length)[0].max()) + 1


def row_choices(
    encoded: Encoded, batch_size: int, row_length: int, *, num_members: int = 1, max_choices: int = MAX_CHOICES
) -> tuple[int, ...]:
    """Picks the row counts that training batches are rounded up to.

    Rows are counted on sampled batches (fixed seed); the choices minimise the expected number of rows. The
    last one always fits: one sequence a row. The one before leaves a row to spare over the sample, so that
    the last is next to never compiled.

    Args:
      encoded: the split.
      batch_size: B.
      row_length: S.
      num_members: batches stacked by ``batches.stack_members``, where all have the rows of the longest.
      max_choices: length of the list, at least 2; a short run does not repay many programs.

    Returns:
      At most ``max_choices`` ascending counts.
    """
    generator = np.random.default_rng(0)
    size, worst = min(batch_size, len(encoded)), batch_size * encoded.num_choices
    samples = (generator.choice(len(encoded), size, replace=False) for _ in range(_NUM_SAMPLES))
    counts = [num_rows(encoded, sample, row_length) for sample in samples]
    spare = min(max(counts) + 1, worst)
    seen, weights = np.unique(generator.choice(counts, (_NUM_SAMPLES, num_members)).max(1), return_counts=True)
    inner = (picks for k in range(max_choices - 1) for picks in itertools.combinations(seen.tolist(), k))
    best = min(inner, key=lambda picks: (int(_rounded_up(seen, (*picks, spare)) @ weights), len(picks)))
    return tuple(sorted({*best, spare, worst}))


def eval_rows(splits: Sequence[Encoded], batch_size: int, row_length: int) -> tuple[int]:
    """Counts the rows that hold any evaluation batch of some splits, so that one program serves them all.

    Args:
      splits: the splits, evaluated in their own order.
      batch_size: B.
      row_length: S.

    Returns:
      The one row count, as ``row_choices`` would give it.
    """
    counts = (
        num_rows(encoded, examples, row_length) for encoded in splits for examples in in_order(len(encoded), batch_size)
    )
    return (max(counts),)


def in_order(num_examples: int, batch_size: int) -> Iterable[np.ndarray]:
    """Yields the examples of each batch of a split in its own order; the last may be short."""
    for start in range(0, num_examples, batch_size):
        yield np.arange(start, min(start + batch_size, num_examples))


def rounded_up(count: int, choices: Sequence[int]) -> int:
    """Rounds a row count up to the next choice.

    Raises:
      ValueError: no choice is large enough.

    Example:
      >>> rounded_up(5, (4, 6, 32))
      6
    """
    if count > choices[-1]:
        raise ValueError(f"{count} rows needed, the largest choice is {choices[-1]}; count the choices on this split.")
    return int(_rounded_up(count, choices))


def _rounded_up(counts, choices: Sequence[int]) -> np.ndarray:
    return np.asarray(choices)[np.searchsorted(choices, counts)]
