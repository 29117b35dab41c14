"""Packing: every token once at its place, few rows, few row counts; the stream depends on (seed, step) alone."""

import dataclasses
import itertools
import json

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalearn_jax.data import batches, packing, splits, tokens
from scalearn_jax.data.task import Task
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.typing import Batch
from tests.support import tiny_backbone

ROW = 16
LENGTHS = st.lists(st.integers(1, ROW), min_size=1, max_size=40)


def encoded(num_examples: int = 50, num_choices: int = 1, kind: str = "classification", seed: int = 0) -> Encoded:
    """Random sequences, in which every token is different."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, ROW + 1, num_examples * num_choices)
    shape = {"multilabel": (num_examples, 3)}.get(kind, (num_examples,))
    return Encoded(
        ids=np.arange(1, lengths.sum() + 1, dtype=np.int32),
        token_types=np.arange(lengths.sum(), dtype=np.int32) % 2,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=generator.integers(0, 2, shape).astype(np.int32 if kind == "classification" else np.float32),
        num_choices=num_choices,
        pad_id=-7,
    )


def sequence_at(batch, index: int):
    """Reads the index-th sequence of a batch back: (ids, token types, positions)."""
    row, column = batch.example_at[index]
    slots = batch.segments[row] == batch.segments[row, column]
    return batch.tokens[row, slots], batch.token_types[row, slots], batch.positions[row, slots]


@given(LENGTHS)
def test_packed_sequences_stay_inside_their_row_and_apart(lengths):
    rows, columns = packing.pack(lengths, ROW)
    taken = np.zeros((len(lengths), ROW), int)
    for row, column, length in zip(rows, columns, lengths, strict=True):
        assert column + length <= ROW
        taken[row, column : column + length] += 1
    assert taken.max() == 1 and taken.sum() == sum(lengths)


@given(LENGTHS, st.data())
def test_groups_packed_apart_share_no_row_and_lie_as_if_alone(lengths, data):
    groups = np.array([data.draw(st.integers(0, 2)) for _ in lengths])
    rows, columns = packing.pack_apart(lengths, groups, ROW)
    assert set(rows) == set(range(max(rows) + 1))
    for group in set(groups):
        own = groups == group
        assert not set(rows[own]) & set(rows[~own])
        alone = packing.pack(np.array(lengths)[own], ROW)
        np.testing.assert_array_equal((rows[own] - rows[own].min(), columns[own]), alone)


@given(st.integers(1, 300), st.data())
def test_row_steps_suffice_and_none_is_a_quarter_too_large(most, data):
    steps = packing.row_steps(most)
    assert steps == tuple(sorted(set(steps))) and steps[-1] == most
    count = data.draw(st.integers(1, most))
    assert count <= packing.rounded_up(count, steps) < 1.25 * count


@given(LENGTHS)
def test_first_fit_leaves_at_most_one_row_half_empty(lengths):
    rows, _ = packing.pack(lengths, ROW)
    filled = np.bincount(rows, weights=lengths)
    assert len(filled) == rows.max() + 1 and (filled > 0).all()
    assert (filled <= ROW / 2).sum() <= 1


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="17 tokens does not fit rows of 16"):
        packing.pack([3, 17], ROW)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("num_choices", [1, 3])
def test_a_batch_holds_every_sequence_whole(packed, num_choices):
    data, examples = encoded(num_choices=num_choices), np.array([7, 3, 41, 0, 12])
    batch = batches.make_batch(data, examples, batch_size=6, row_length=ROW, packed=packed)
    for index, sequence in enumerate(data.sequences(examples)):
        ids, types, positions = sequence_at(batch, index)
        slots = slice(data.offsets[sequence], data.offsets[sequence + 1])
        np.testing.assert_array_equal(ids, data.ids[slots])
        np.testing.assert_array_equal(types, data.token_types[slots])
        np.testing.assert_array_equal(positions, np.arange(len(ids)))
        row, column = batch.example_at[index]
        assert batch.positions[row, column] == 0
    empty = batch.segments == 0
    assert (~empty).sum() == data.lengths[data.sequences(examples)].sum()
    assert (batch.tokens[empty] == data.pad_id).all() and not batch.positions[empty].any()


def test_segments_are_numbered_from_left_to_right():
    batch = batches.make_batch(encoded(), np.arange(12), batch_size=12, row_length=ROW)
    for row in batch.segments:
        numbers = row[row > 0]
        assert (np.diff(numbers) >= 0).all() and set(numbers) == set(range(1, numbers.max() + 1))


@pytest.mark.parametrize("kind", ["classification", "regression", "multilabel"])
def test_a_short_batch_is_filled_and_masked(kind):
    data, examples = encoded(kind=kind), np.array([4, 9])
    batch = batches.make_batch(data, examples, batch_size=5, row_length=ROW)
    assert batch.example_mask.tolist() == [True, True, False, False, False]
    assert batch.example_id.tolist() == [4, 9, -1, -1, -1]
    assert not batch.example_at[2:].any() and not batch.labels[2:].any()
    np.testing.assert_array_equal(batch.labels[:2], data.labels[examples])
    assert batch.labels.dtype == data.labels.dtype
    integers = batch._replace(labels=batch.tokens, example_mask=batch.tokens)
    assert all(leaf.dtype == np.int32 for leaf in integers) and batch.example_mask.dtype == bool


def test_an_unpacked_batch_is_one_sequence_a_row():
    batch = batches.make_batch(encoded(), np.arange(4), batch_size=6, row_length=ROW, packed=False)
    assert batch.tokens.shape == (6, ROW) and batch.segments.max() == 1
    np.testing.assert_array_equal(batch.example_at[:4], [[0, 0], [1, 0], [2, 0], [3, 0]])


@given(st.lists(LENGTHS, min_size=1, max_size=5))
def test_rows_are_counted_as_they_are_packed(batch_lengths):
    padded = np.zeros((len(batch_lengths), 40), int)
    for row, lengths in zip(padded, batch_lengths, strict=True):
        row[: len(lengths)] = lengths
    expected = [packing.pack(lengths, ROW)[0].max() + 1 for lengths in batch_lengths]
    assert packing.count_rows(padded, ROW).tolist() == expected


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 3))
def test_row_choices_are_few_ascending_and_always_suffice(counts, max_choices):
    choices = packing.row_choices(counts, max_choices)
    assert 1 <= len(choices) <= max_choices and list(choices) == sorted(set(choices))
    assert choices[-1] == max(counts)


def test_row_choices_waste_the_fewest_rows():
    counts = [2] * 10 + [3] + [6] * 4 + [9]
    spent = {pick: sum(packing.rounded_up(count, (*pick, 9)) for count in counts) for pick in [(2, 6), (3, 6), (2, 3)]}
    assert packing.row_choices(counts) == (2, 6, 9) and min(spent, key=spent.get) == (2, 6)


@pytest.mark.parametrize("cost, expected", [(14, (2, 6, 9)), (16, (2, 9)), (69, (2, 9)), (71, (9,))])
def test_a_program_must_spare_more_rows_than_it_costs(cost, expected):
    counts = [2] * 10 + [3] + [6] * 4 + [9]  # 144 rows with one program, 74 with two, 59 with three
    assert packing.row_choices(counts, program_cost=cost) == expected


@pytest.mark.parametrize("num_examples,num_choices", [(50, 1), (3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("seeds", [(0,), (4, 2, 7)])
def test_the_rows_of_every_step_are_known_ahead(num_examples, num_choices, seeds):
    data, layout = encoded(num_examples, num_choices), dict(batch_size=8, row_length=ROW)
    streams = [batches.train_batches(data, seed=seed, **layout) for seed in seeds]
    rows = [max(next(stream).tokens.shape[0] for stream in streams) for _ in range(17)]
    assert batches.train_rows(data, seeds=seeds, num_steps=17, **layout).tolist() == rows


def test_one_row_count_serves_all_evaluation_batches():
    splits = [encoded(50), encoded(33, seed=1)]
    choices = packing.eval_rows(splits, 8, ROW)
    shapes = {
        batch.tokens.shape
        for data in splits
        for batch in batches.eval_batches(data, batch_size=8, row_length=ROW, row_choices=choices)
    }
    assert shapes == {(*choices, ROW)}


def test_a_batch_beyond_the_choices_is_refused():
    with pytest.raises(ValueError, match="the largest choice is 1"):
        batches.make_batch(encoded(), np.arange(8), batch_size=8, row_length=ROW, row_choices=(1,))


def layout(**changes):
    return {"batch_size": 8, "row_length": ROW, "row_choices": (4, 8), "packed": True} | changes


def test_an_order_is_a_shuffle():
    """Neighbours lie far apart, and places of two seeds or epochs have nothing to do with each other."""
    orders = [batches.order(seed, epoch, 1000) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert (np.abs(np.diff(order)) < 10).mean() < 0.05 and np.abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.15
    assert np.abs(np.corrcoef(orders) - np.eye(3)).max() < 0.15


def test_every_epoch_holds_every_example_once_in_a_new_order():
    data, per_epoch = encoded(50), batches.steps_per_epoch(50, 8)
    stream = batches.train_batches(data, seed=3, **layout())
    epochs = [[next(stream) for _ in range(per_epoch)] for _ in range(2)]
    orders = [np.concatenate([batch.example_id[batch.example_mask] for batch in epoch]) for epoch in epochs]
    assert [sorted(order) for order in orders] == [list(range(50))] * 2
    assert (orders[0] != orders[1]).any()
    assert int(epochs[0][-1].example_mask.sum()) == 50 % 8


@pytest.mark.parametrize("packed, num_choices, num_parts", [(True, 1, 1), (True, 3, 2), (False, 1, 2), (False, 3, 1)])
def test_labels_stay_with_their_texts(packed, num_choices, num_parts):
    """Labels number the examples, tokens all sequences: each label is that of the tokens at its place."""
    data = dataclasses.replace(encoded(num_choices=num_choices), labels=np.arange(50, dtype=np.int32))
    changes = dict(packed=packed, row_choices=None, num_parts=num_parts)
    stream = batches.train_batches(data, seed=3, **layout(**changes))
    seen = []
    for step in itertools.islice(stream, batches.steps_per_epoch(50, 8)):
        for batch in [step] if num_parts == 1 else [Batch(*part) for part in zip(*step, strict=True)]:
            for number in np.flatnonzero(batch.example_mask):
                places = batch.example_at[num_choices * number :][:num_choices]
                first = [int(batch.tokens[row, column]) - 1 for row, column in places]
                sequences = np.searchsorted(data.offsets, first, "right") - 1
                label = int(batch.labels[number])
                assert sequences.tolist() == [num_choices * label + choice for choice in range(num_choices)]
                seen.append(label)
    assert sorted(seen) == list(range(50))


def test_labels_stay_with_their_texts_from_file_to_batch(tmp_path):
    """In a data set whose first word is its label, and whose development set is held out of its training file."""
    words = {"soup": "no", "lovely": "yes"}
    rows = [{"text": f"{word} {'evening ' * count}", "label": words[word]} for count in range(10) for word in words]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = Task("planted", "classification", ("text",), ("no", "yes"))
    tokenizer = tokens.load_tokenizer(tiny_backbone.write(tmp_path / "backbone"))
    named = {tokenizer.convert_tokens_to_ids(word): int(label == "yes") for word, label in words.items()}
    loaded = splits.load_splits(task, data_dir=tmp_path)
    assert [len(table) for table in loaded] == [18, 2, 20]
    for table in loaded:
        data = tokens.encode(tokenizer, task, table, max_length=ROW)
        batch = next(batches.train_batches(data, seed=0, **layout(batch_size=20, row_choices=None)))
        found = [named[batch.tokens[row, column + 1]] for row, column in batch.example_at[batch.example_mask]]
        assert found == batch.labels[batch.example_mask].tolist() and len(found) == len(data)


def test_a_stream_entered_late_is_the_same_stream():
    stream = batches.train_batches(encoded(), seed=1, **layout())
    late = batches.train_batches(encoded(), seed=1, start_step=9, **layout())
    for _ in range(9):
        next(stream)
    for _ in range(9):
        chex.assert_trees_all_equal(next(stream), next(late))


def test_seeds_and_packing_decide_order_and_place_only():
    one, two, loose = (
        next(batches.train_batches(encoded(), seed=seed, **layout(packed=packed)))
        for seed, packed in ((0, True), (1, True), (0, False))
    )
    assert (one.example_id != two.example_id).any()
    np.testing.assert_array_equal(one.example_id, loose.example_id)
    assert one.tokens.shape[0] <= loose.tokens.shape[0]
    for index in range(8):
        chex.assert_trees_all_equal(sequence_at(one, index), sequence_at(loose, index))


def test_evaluation_keeps_the_order_of_the_split():
    stream = list(batches.eval_batches(encoded(21), **layout()))
    ids = np.concatenate([batch.example_id for batch in stream])
    assert ids.tolist() == [*range(21), -1, -1, -1]


def test_members_are_stacked_to_the_rows_of_the_longest():
    data = encoded()
    members = [batches.make_batch(data, np.arange(size), batch_size=8, row_length=ROW) for size in (2, 8)]
    stacked = batches.stack(members)
    assert stacked.tokens.shape == (2, members[1].tokens.shape[0], ROW)
    assert not stacked.segments[0, members[0].tokens.shape[0] :].any()
    first = type(stacked)(*(leaf[0] for leaf in stacked))
    for index in range(2):
        chex.assert_trees_all_equal(sequence_at(first, index), sequence_at(members[0], index))


@pytest.mark.parametrize("name,reduction", [("cola", 10.0), ("mrpc", 2.2), ("rte", 1.7), ("stsb", 4.1)])
def test_real_batches_take_few_token_slots(shared, minilm, name, reduction):
    """Batches of 32 at length 128, row counts rounded to three: as many times fewer slots as one row an example."""
    from scalearn_jax.data import splits, tasks, tokens

    task = tasks.get(f"glue/{name}")
    table = splits.load_splits(task, data_dir=shared / "data").train
    data = tokens.encode(tokens.load_tokenizer(minilm), task, table, max_length=128)
    layout = dict(batch_size=32, row_length=128)
    choices = packing.row_choices(batches.train_rows(data, seeds=[0], num_steps=500, **layout))
    stream = batches.train_batches(data, seed=0, row_choices=choices, **layout)
    rows = [next(stream).tokens.shape[0] for _ in range(500)]
    assert 32 / np.mean(rows) > reduction
    assert len(set(rows)) <= 3
