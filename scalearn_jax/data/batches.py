"""Batches: (seed, epoch) to an order, examples to packed rows. Numpy only, no state.

Letters: B examples of a step, K sequences per example, N = B * K sequences, R rows, S row length.

The B examples of a step are laid into as few rows of length S as first-fit decreasing finds, so the same
examples train in the same step as without packing.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from scalearn_jax.data.packing import epoch_rows, pack, pack_apart, rounded_up
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.errors import InputError
from scalearn_jax.typing import Array, Batch, FeatureBatch, JointBatch


def order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Draws the order of an epoch; a pure function, so resuming needs no iterator state."""
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def examples_of(seed: int, step: int, num_examples: int, batch_size: int) -> np.ndarray:
    """Lists the examples of a training step, counted from 0; the last step of an epoch may have fewer."""
    epoch, position = divmod(step, steps_per_epoch(num_examples, batch_size))
    return order(seed, epoch, num_examples)[position * batch_size :][:batch_size]


def make_batch(
    encoded: Encoded,
    examples: Sequence[int],
    *,
    batch_size: int,
    row_length: int,
    row_choices: Sequence[int] | None = None,
    packed: bool = True,
    groups: np.ndarray | None = None,
) -> Batch:
    """Lays examples out in rows.

    Args:
      encoded: the split.
      examples: at most ``batch_size`` indices.
      batch_size: B; short batches get masked fillers.
      row_length: S.
      row_choices: allowed row counts, ascending; ``None`` for as many as needed.
      packed: share rows, or give each sequence its own.
      groups: Int[number of sequences]; those of different groups share no row. ``None`` for one group.

    Returns:
      The batch, numpy arrays.
    """
    examples = np.asarray(examples)
    sequences = encoded.sequences(examples)
    lengths = encoded.lengths[sequences]
    if packed:
        rows, columns = pack(lengths, row_length) if groups is None else pack_apart(lengths, groups, row_length)
        needed = int(rows.max(initial=0)) + 1
        num_rows = needed if row_choices is None else rounded_up(needed, row_choices)
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


def padded_batch(
    input_ids: Array,
    attention_mask: Array | None = None,
    token_type_ids: Array | None = None,
    labels: Array | None = None,
    *,
    num_choices: int = 1,
) -> Batch:
    """Makes a batch of padded token arrays, one sequence a row, named as by ``transformers``.

    Args:
      input_ids: Int[N S], token ids.
      attention_mask: Int[N S], 1 where a token is, before or after the padding; by default everywhere.
      token_type_ids: Int[N S]; by default 0.
      labels: Int[B], Float[B] or Float[B C]; by default 0.
      num_choices: K; the sequences of an example are neighbours, so N = B * K.

    Raises:
      InputError: shapes that do not fit each other, or a row without tokens or with a gap between them.

    Example:
      >>> batch = padded_batch([[2, 7, 3], [2, 3, 0]], [[1, 1, 1], [1, 1, 0]])
      >>> batch.segments.tolist(), batch.positions.tolist()
      ([[1, 1, 1], [1, 1, 0]], [[0, 1, 2], [0, 1, 0]])
    """
    try:
        ids = np.asarray(input_ids)
    except ValueError:
        raise InputError("input_ids: expected whole numbers [N S], got rows of different lengths; pad them.") from None
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size:
        raise InputError(f"input_ids: expected whole numbers [N S], got {ids.dtype} {list(ids.shape)}; pad the rows.")
    mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask)
    types = np.zeros_like(ids) if token_type_ids is None else np.asarray(token_type_ids)
    for name, array in (("attention_mask", mask), ("token_type_ids", types)):
        if array.shape != ids.shape:
            raise InputError(f"{name}: expected the shape of input_ids, {list(ids.shape)}, got {list(array.shape)}.")
    is_token = mask > 0
    starts = is_token.argmax(1)
    broken = (np.diff(is_token.astype(int), axis=1, prepend=0) == 1).sum(1) != 1
    if broken.any():
        raise InputError(f"attention_mask, row {broken.argmax()}: expected tokens side by side, got a gap or none.")
    count, rest = divmod(len(ids), num_choices)
    labels = np.zeros(count, np.int32) if labels is None else np.asarray(labels)
    if rest or labels.shape[:1] != (count,):
        raise InputError(
            f"labels: expected one for each of {len(ids)} rows / {num_choices} choices, got {list(labels.shape)}."
        )
    positions = np.where(is_token, np.arange(ids.shape[1]) - starts[:, None], 0)
    return Batch(
        tokens=ids.astype(np.int32),
        token_types=types.astype(np.int32),
        segments=is_token.astype(np.int32),
        positions=positions.astype(np.int32),
        example_at=np.stack([np.arange(len(ids)), starts], 1).astype(np.int32),
        example_mask=np.ones(count, bool),
        labels=labels,
        example_id=np.arange(count, dtype=np.int32),
    )


def _lay_out(encoded: Encoded, sequences, rows, columns, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Writes the sequences' tokens at their places, all at once."""
    lengths = encoded.lengths[sequences]
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    position = np.arange(int(lengths.sum())) - first
    source = np.repeat(encoded.offsets[sequences], lengths) + position
    target = np.repeat(rows.astype(np.int64) * shape[1] + columns, lengths) + position
    # Number the sequences of each row 1, 2, ... from left to right.
    sequence = np.lexsort((columns, rows))
    sorted_rows = rows[sequence]
    number = np.empty(len(rows), np.int32)
    number[sequence] = np.arange(len(rows)) - np.searchsorted(sorted_rows, sorted_rows) + 1
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


def _fill(values: np.ndarray, size: int, filler: int) -> np.ndarray:
    padding = np.full((size - len(values), *values.shape[1:]), filler, values.dtype)
    return np.concatenate([values, padding])


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Counts the steps of an epoch, the short last one included."""
    return -(-num_examples // batch_size)


def train_rows(
    encoded: Encoded, *, seeds: Sequence[int], batch_size: int, row_length: int, num_steps: int, num_parts: int = 1
) -> np.ndarray:
    """Counts the rows that each step of a run needs: those of the seed, and of the part, that needs most.

    About 2 us a step and seed, so the longest run is counted in seconds.

    Args:
      encoded: the split.
      seeds: M orders, trained together.
      batch_size: B.
      row_length: S.
      num_steps: n.
      num_parts: see ``train_batches``.

    Returns:
      Int[n], for ``row_choices``.
    """
    per_epoch, most = steps_per_epoch(len(encoded), batch_size), np.zeros(num_steps, int)
    for seed in seeds:
        for start in range(0, num_steps, per_epoch):
            examples = order(seed, start // per_epoch, len(encoded))
            rows = epoch_rows(encoded, examples, batch_size // num_parts, row_length)
            rows = np.pad(rows, (0, per_epoch * num_parts - len(rows))).reshape(per_epoch, num_parts).max(1)
            steps = slice(start, min(start + per_epoch, num_steps))
            most[steps] = np.maximum(most[steps], rows[: steps.stop - start])
    return most


def train_batches(
    encoded: Encoded,
    *,
    seed: int,
    batch_size: int,
    row_length: int,
    row_choices: Sequence[int] | None = None,
    packed: bool = True,
    start_step: int = 0,
    num_parts: int = 1,
) -> Iterator[Batch]:
    """Yields training batches without end; batch k depends on (seed, k) alone.

    Args:
      encoded: the split.
      seed: of the order.
      batch_size: B.
      row_length, row_choices, packed: see ``make_batch``.
      start_step: the first k.
      num_parts: above 1, a step's examples come in that many parts of B / parts, each with its own rows, along a
        leading axis.

    Yields:
      One batch a step; the last of an epoch may be short.
    """
    per_epoch, current, permutation = steps_per_epoch(len(encoded), batch_size), -1, None
    part_size = batch_size // num_parts
    for step in itertools.count(start_step):
        epoch, position = divmod(step, per_epoch)
        if epoch != current:
            current, permutation = epoch, order(seed, epoch, len(encoded))
        starts = range(position * batch_size, (position + 1) * batch_size, part_size)
        chunks = (permutation[start : start + part_size] for start in starts)
        layout = dict(batch_size=part_size, row_length=row_length, row_choices=row_choices, packed=packed)
        parts = [make_batch(encoded, chunk, **layout) for chunk in chunks]
        yield parts[0] if num_parts == 1 else stack(parts)


def eval_batches(
    encoded: Encoded,
    *,
    batch_size: int,
    row_length: int,
    row_choices: Sequence[int] | None = None,
    packed: bool = True,
) -> Iterator[Batch]:
    """Yields every example once, in order; see ``train_batches``."""
    layout = dict(batch_size=batch_size, row_length=row_length, row_choices=row_choices, packed=packed)
    for start in range(0, len(encoded), batch_size):
        yield make_batch(encoded, np.arange(start, min(start + batch_size, len(encoded))), **layout)


ROW_FIELDS = ("tokens", "token_types", "segments", "positions")


def stack(parts: Sequence[Batch | FeatureBatch]) -> Batch | FeatureBatch:
    """Stacks batches of equal B and S along a new leading axis: of members, of parts of a step, or of steps.

    Those with fewer rows than others are padded.
    """
    return _join(np.stack, parts)


def concatenate(parts: Sequence[Batch | FeatureBatch]) -> Batch | FeatureBatch:
    """Joins batches along their leading axis, as ``stack`` does along a new one."""
    return _join(np.concatenate, parts)


def _join(join: Callable, parts: Sequence[Batch | FeatureBatch]) -> Batch | FeatureBatch:
    if hasattr(parts[0], "tokens"):
        num_rows = max(batch.tokens.shape[-2] for batch in parts)
        parts = [with_rows(batch, num_rows) for batch in parts]
    return type(parts[0])(*(join(leaves) for leaves in zip(*parts, strict=True)))


def with_rows(batch: Batch | JointBatch, num_rows: int) -> Batch | JointBatch:
    """Fills a batch up with empty rows."""
    missing = [(0, 0)] * (batch.tokens.ndim - 2) + [(0, num_rows - batch.tokens.shape[-2]), (0, 0)]
    return batch._replace(**{name: np.pad(getattr(batch, name), missing) for name in ROW_FIELDS})
