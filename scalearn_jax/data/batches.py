"""Packed batches: (seed, epoch) to an order, examples to rows. Numpy only, no state.

Letters: B examples of a step, K sequences per example, N = B * K sequences, R rows, S row length.

The B examples of a step are laid into as few rows of length S as first-fit decreasing finds, so the same
examples train in the same step as without packing. The number of rows is rounded up to a short list: at most
three training programs compile, and one for evaluation.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from scalearn_jax.data.tokens import Encoded
from scalearn_jax.typing import Batch

MAX_CHOICES = 3
_SAMPLED_BATCHES = 200


def order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Draws the order of an epoch; a pure function, so resuming needs no iterator state.

    Example:
      >>> sorted(order(0, 1, 3).tolist())
      [0, 1, 2]
    """
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def pack(lengths: Sequence[int], row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Places sequences in rows by first-fit decreasing.

    Args:
      lengths: of the N sequences, each at most ``row_length``.
      row_length: S.

    Returns:
      (row Int[N], column Int[N]) of each sequence's first token. Equal lengths keep their order.

    Example:
      >>> rows, columns = pack([3, 5, 4], 8)
      >>> rows.tolist(), columns.tolist()
      ([0, 0, 1], [5, 0, 0])
    """
    rows, columns = np.zeros(len(lengths), np.int32), np.zeros(len(lengths), np.int32)
    used: list[int] = []
    for i in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = int(lengths[i])
        row = next((r for r, filled in enumerate(used) if filled + length <= row_length), len(used))
        if row == len(used):
            used.append(0)
        rows[i], columns[i] = row, used[row]
        used[row] += length
    return rows, columns


def row_choices(encoded: Encoded, batch_size: int, row_length: int) -> tuple[int, ...]:
    """Picks the row counts that batches are rounded up to.

    Rows are counted on sampled batches (fixed seed); the choices minimise the expected number of rows. The
    last one always fits: one sequence a row.

    Args:
      encoded: the split.
      batch_size: B.
      row_length: S.

    Returns:
      At most ``MAX_CHOICES`` ascending counts.
    """
    generator = np.random.default_rng(0)
    lengths, worst = encoded.lengths, batch_size * encoded.num_choices
    counts = []
    for _ in range(_SAMPLED_BATCHES):
        examples = generator.choice(len(encoded), min(batch_size, len(encoded)), replace=False)
        counts.append(int(pack(lengths[encoded.sequences(examples)], row_length)[0].max()) + 1)
    seen, weights = np.unique(counts, return_counts=True)
    last = int(seen[-1])
    best = min(
        (sorted({*inner, last}) for k in range(MAX_CHOICES - 1) for inner in itertools.combinations(seen.tolist(), k)),
        key=lambda choices: (int((_round_up(seen, choices) * weights).sum()), len(choices)),
    )
    return tuple(int(count) for count in sorted({*best, worst}))


def eval_rows(splits: Sequence[Encoded], batch_size: int, row_length: int) -> tuple[int]:
    """Counts the rows that hold any evaluation batch of some splits, so that one program serves them all.

    Args:
      splits: the splits, evaluated in their own order.
      batch_size: B.
      row_length: S.

    Returns:
      The one row count, as ``row_choices`` would give it.
    """
    most = 1
    for encoded in splits:
        for start in range(0, len(encoded), batch_size):
            examples = np.arange(start, min(start + batch_size, len(encoded)))
            most = max(most, int(pack(encoded.lengths[encoded.sequences(examples)], row_length)[0].max()) + 1)
    return (most,)


def _round_up(counts, choices: Sequence[int]) -> np.ndarray:
    return np.asarray(choices)[np.searchsorted(choices, counts)]


def make_batch(
    encoded: Encoded,
    examples: Sequence[int],
    *,
    batch_size: int,
    row_length: int,
    row_choices: Sequence[int] | None = None,
    packed: bool = True,
) -> Batch:
    """Lays examples out in rows.

    Args:
      encoded: the split.
      examples: at most ``batch_size`` indices.
      batch_size: B; short batches get masked fillers.
      row_length: S.
      row_choices: allowed row counts, ascending; ``None`` for as many as needed.
      packed: share rows, or give each sequence its own.

    Returns:
      The batch, numpy arrays.
    """
    examples = np.asarray(examples)
    sequences = encoded.sequences(examples)
    lengths = encoded.lengths[sequences]
    if packed:
        rows, columns = pack(lengths, row_length)
        needed = int(rows.max()) + 1
        num_rows = needed if row_choices is None else int(_round_up(needed, row_choices))
    else:
        rows, columns = np.arange(len(sequences), dtype=np.int32), np.zeros(len(sequences), np.int32)
        num_rows = batch_size * encoded.num_choices
    fields = _lay_out(encoded, sequences, rows, columns, (num_rows, row_length))
    at = np.zeros((batch_size * encoded.num_choices, 2), np.int32)
    at[: len(sequences)] = np.stack([rows, columns], 1)
    return Batch(
        **fields,
        example_at=at,
        example_mask=np.arange(batch_size) < len(examples),
        labels=_fill(encoded.labels[examples], batch_size, 0),
        example_id=_fill(examples.astype(np.int32), batch_size, -1),
    )


def _lay_out(encoded: Encoded, sequences, rows, columns, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Writes the sequences' tokens at their places, all at once."""
    lengths = encoded.lengths[sequences]
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    position = np.arange(int(lengths.sum())) - first
    source = np.repeat(encoded.offsets[sequences], lengths) + position
    target = np.repeat(rows.astype(np.int64) * shape[1] + columns, lengths) + position
    number = _number_in_row(rows, columns)
    values = {
        "tokens": encoded.ids[source],
        "token_types": encoded.token_types[source],
        "segments": np.repeat(number, lengths),
        "positions": position,
    }
    fields = {name: np.full(shape, encoded.pad_id if name == "tokens" else 0, np.int32) for name in values}
    for name, value in values.items():
        fields[name].reshape(-1)[target] = value
    return fields


def _number_in_row(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Numbers the sequences of each row 1, 2, ... from left to right."""
    sequence = np.lexsort((columns, rows))
    sorted_rows = rows[sequence]
    first = np.searchsorted(sorted_rows, sorted_rows)
    number = np.empty(len(rows), np.int32)
    number[sequence] = np.arange(len(rows)) - first + 1
    return number


def _fill(values: np.ndarray, size: int, filler: int) -> np.ndarray:
    padding = np.full((size - len(values), *values.shape[1:]), filler, values.dtype)
    return np.concatenate([values, padding])


def num_steps(num_examples: int, batch_size: int) -> int:
    """Counts the steps of an epoch, the short last one included.

    Example:
      >>> num_steps(65, 32)
      3
    """
    return -(-num_examples // batch_size)


def train_batches(
    encoded: Encoded, *, seed: int, batch_size: int, start_step: int = 0, **layout
) -> Iterator[Batch]:
    """Yields training batches without end; batch k depends on (seed, k) alone.

    Args:
      encoded: the split.
      seed: of the order.
      batch_size: B.
      start_step: the first k.
      **layout: ``row_length``, ``row_choices`` and ``packed`` of ``make_batch``.

    Yields:
      One batch a step; the last of an epoch may be short.
    """
    per_epoch, current, permutation = num_steps(len(encoded), batch_size), -1, None
    for step in itertools.count(start_step):
        epoch, position = divmod(step, per_epoch)
        if epoch != current:
            current, permutation = epoch, order(seed, epoch, len(encoded))
        examples = permutation[position * batch_size : (position + 1) * batch_size]
        yield make_batch(encoded, examples, batch_size=batch_size, **layout)


def eval_batches(encoded: Encoded, *, batch_size: int, **layout) -> Iterator[Batch]:
    """Yields every example once, in order; see ``train_batches``."""
    for start in range(0, len(encoded), batch_size):
        examples = np.arange(start, min(start + batch_size, len(encoded)))
        yield make_batch(encoded, examples, batch_size=batch_size, **layout)


def stack_members(members: Sequence[Batch]) -> Batch:
    """Stacks the batches of M members along a leading axis; rows are padded to the longest.

    Args:
      members: batches of equal B and S; numbers of rows may differ.

    Returns:
      A batch with leading axis M.
    """
    num_rows = max(batch.tokens.shape[0] for batch in members)

    def padded(batch: Batch) -> Batch:
        missing = ((0, num_rows - batch.tokens.shape[0]), (0, 0))
        row_fields = ("tokens", "token_types", "segments", "positions")
        return batch._replace(**{name: np.pad(getattr(batch, name), missing) for name in row_fields})

    return Batch(*(np.stack(leaves) for leaves in zip(*map(padded, members), strict=True)))
