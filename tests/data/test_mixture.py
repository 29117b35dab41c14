"""The stream of a joint run: which task and which examples a step takes, and how many rows that needs."""

import numpy as np
import pytest

from scalearn_jax.data import mixture
from scalearn_jax.data.mixture import Mixture
from scalearn_jax.data.tokens import Encoded


def split(lengths, num_choices=1, labels=None):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    count = len(lengths) // num_choices
    ids = np.arange(3, 3 + offsets[-1]) % 40 + 3
    labels = np.arange(count) % 2 if labels is None else labels
    return Encoded(ids, np.zeros_like(ids), offsets, labels, num_choices=num_choices)


@pytest.mark.parametrize("temperature, expected", [(1.0, (0.5, 0.3, 0.2)), (2.0, (0.415, 0.322, 0.263))])
def test_tasks_come_with_their_shares_and_examples_evenly(temperature, expected):
    stream = Mixture((50, 30, 20), 8, temperature)
    np.testing.assert_allclose(stream.shares, expected, atol=1e-3)
    tasks, examples = (np.concatenate(parts) for parts in zip(*stream.blocks(3, 20_000), strict=True))
    assert abs(np.bincount(tasks) / len(tasks) - stream.shares).max() < 0.015  # four standard errors
    for task, size in enumerate(stream.sizes):
        counts = np.bincount(examples[tasks == task].ravel(), minlength=size)
        assert len(counts) == size and abs(counts / counts.mean() - 1).max() < 0.2


def test_a_step_follows_from_seed_and_number_alone():
    stream = Mixture((50, 30), 4)
    whole = [np.concatenate(parts) for parts in zip(*stream.blocks(0, 9000), strict=True)]
    mixture._draw.cache_clear()
    for step in (8999, 0, 4096, 4095):
        task, examples = stream.step(0, step)
        assert task == whole[0][step] and (examples == whole[1][step]).all()
    assert any(stream.step(0, step)[0] != stream.step(1, step)[0] for step in range(20))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("num_parts", [1, 2])
def test_batches_of_all_tasks_have_one_shape_and_hold_their_examples(packed, num_parts):
    generator = np.random.default_rng(0)
    splits = [split(generator.integers(3, 9, 20)), split(generator.integers(3, 9, 24), num_choices=2)]
    splits.append(split(generator.integers(3, 9, 6), labels=np.arange(6) / 4))
    stream = Mixture(tuple(map(len, splits)), 4)
    rows = mixture.train_rows(stream, splits, seeds=(5,), row_length=10, num_steps=30, num_parts=num_parts)
    choices = (max(rows),) if packed else None
    layout = dict(seed=5, row_length=10, num_logits=3, row_choices=choices, packed=packed, num_parts=num_parts)
    batches, seen = mixture.train_batches(stream, splits, **layout), set()
    for step in range(30):
        batch, (task, examples) = next(batches), stream.step(5, step)
        lead = () if num_parts == 1 else (2,)
        size = 4 // num_parts
        num_rows = int(max(rows)) if packed else 2 * size
        assert batch.tokens.shape == (*lead, num_rows, 10) and batch.example_at.shape == (*lead, 2 * size, 2)
        assert batch.labels.shape == (*lead, size, 3) and batch.labels.dtype == np.float32
        assert set(np.ravel(batch.task)) == {task} and batch.example_mask.all()
        assert batch.example_id.ravel().tolist() == examples.tolist()
        np.testing.assert_array_equal(batch.labels.reshape(4, 3)[:, 0], splits[task].labels[examples])
        for part in range(num_parts):
            own = batch if num_parts == 1 else type(batch)(*(leaf[part] for leaf in batch))
            used = np.count_nonzero(own.segments.any(1))
            assert used <= (rows[step] if packed else num_rows)
            sequences = splits[task].sequences(own.example_id)
            for number, sequence in enumerate(sequences):
                row, column = own.example_at[number]
                ids = splits[task].ids[slice(*splits[task].offsets[sequence : sequence + 2])]
                assert own.tokens[row, column : column + len(ids)].tolist() == ids.tolist()
        seen.add(task)
    assert seen == {0, 1, 2}
    again = mixture.train_batches(stream, splits, **layout, start_step=7)
    np.testing.assert_array_equal(next(again).example_id.ravel(), stream.step(5, 7)[1])
