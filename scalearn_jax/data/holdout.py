"""The published development split: which rows of a training set are held out.

``datasets.train_test_split(test_size=0.1, seed=42)`` step by step, so that the rows are the published ones to the
last index; there it takes minutes on large sets, since it reads labels one at a time.

Letters: n rows.
"""

import math

import numpy as np

from scalearn_jax.errors import InputError

SEED = 42
FRACTION = 0.1


def split_rows(num_rows: int, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Splits row numbers into training and development rows, both shuffled.

    Args:
      num_rows: n.
      labels: Int[n], whose proportions both halves keep; ``None`` for a plain shuffle.

    Returns:
      (training, development) row numbers, a tenth of n (rounded up) in the second.

    Raises:
      InputError: too few rows, or too few of some label.

    Example:
      >>> train, dev = split_rows(20, np.arange(20) % 2)
      >>> len(train), sorted((dev % 2).tolist())
      (18, [0, 1])
    """
    generator = np.random.default_rng(SEED)
    num_dev = math.ceil(FRACTION * num_rows)
    if num_dev >= num_rows:
        raise InputError(f"needs two rows or more, got {num_rows}.")
    if labels is None:
        rows = generator.permutation(num_rows)
        return rows[num_dev:], rows[:num_dev]
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2 or num_dev < len(classes):
        raise InputError(
            f"{num_dev} held-out rows must hold each of {len(classes)} labels, and each label must occur twice;"
            f" label {classes[counts.argmin()]} occurs {counts.min()} times."
        )
    shares = _shares(counts, num_rows - num_dev, generator)
    shuffled = [
        np.flatnonzero(labels == label)[generator.permutation(n)] for label, n in zip(classes, counts, strict=True)
    ]
    halves = [(rows[:share], rows[share:]) for rows, share in zip(shuffled, shares, strict=True)]
    train, dev = (generator.permutation(np.concatenate(half)) for half in zip(*halves, strict=True))
    return train, dev


def _shares(counts: np.ndarray, num_drawn: int, generator: np.random.Generator) -> np.ndarray:
    """Deals ``num_drawn`` rows out in proportion to the counts; largest remainders first, ties at random."""
    exact = num_drawn * counts / counts.sum()
    shares = np.floor(exact)
    missing, remainders = int(num_drawn - shares.sum()), exact - shares
    for remainder in np.unique(remainders)[::-1]:
        if missing == 0:
            break
        tied = np.flatnonzero(remainders == remainder)
        lucky = generator.choice(tied, min(len(tied), missing), replace=False)
        shares[lucky] += 1
        missing -= len(lucky)
    return shares.astype(int)
