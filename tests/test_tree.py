"""Parameter trees."""

import chex
import numpy as np

from scalearn_jax import tree

PARAMS = {
    "a": {"kernel": np.arange(6.0).reshape(2, 3), "bias": np.zeros(3)},
    "heads": {"glue/rte": {"out": np.ones(2)}},
}


def test_flatten_and_unflatten_undo_each_other_even_with_slashes_in_keys():
    flat = tree.flatten(PARAMS)
    assert list(flat) == ["a/bias", "a/kernel", "heads/glue:rte/out"]
    chex.assert_trees_all_equal(tree.unflatten(flat), PARAMS)


def test_combine_undoes_partition():
    kept, rest = tree.partition(PARAMS, lambda path: path.startswith("a/"))
    assert tree.paths(kept) == ["a/bias", "a/kernel"] and tree.paths(rest) == ["heads/glue:rte/out"]
    chex.assert_trees_all_equal(tree.combine(kept, rest), PARAMS)
    chex.assert_trees_all_equal(tree.combine(rest, kept), PARAMS)


def test_unstack_undoes_stack():
    for member in tree.unstack(tree.stack([PARAMS, PARAMS])):
        chex.assert_trees_all_equal(member, PARAMS)


def test_content_hash_sees_values_names_and_shapes_but_not_order():
    reordered = dict(reversed(PARAMS.items()))
    assert tree.content_hash(reordered) == tree.content_hash(PARAMS)
    changes = [{"b": PARAMS["a"]}, {"a": {"kernel": PARAMS["a"]["kernel"].T, "bias": np.zeros(3)}}]
    flipped = PARAMS["a"]["kernel"].copy()
    flipped.view(np.uint64)[0, 0] ^= 1
    changes.append({"a": {"kernel": flipped, "bias": np.zeros(3)}})
    assert len({tree.content_hash(change) for change in (*changes, {"a": PARAMS["a"]})}) == 4


def test_count():
    assert tree.num_parameters(PARAMS) == 11
