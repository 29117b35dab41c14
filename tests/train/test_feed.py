"""The input side: no batch is lost or repeated, errors come up where they matter, and threads end."""

import itertools
import threading

import numpy as np
import pytest

from scalearn_jax.train import feed
from scalearn_jax.typing import FeatureBatch


def numbered(count):
    return [FeatureBatch(np.array([float(n)]), np.array([True, n % 2 == 0]), np.zeros(1)) for n in range(count)]


@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("stops", [[7], [1, 2, 7], [3, 6, 7]])
def test_every_batch_comes_once_and_no_dispatch_passes_a_stop(size, stops):
    done, seen = 0, []
    for dispatch in feed.dispatches(iter(numbered(7)), stops, size):
        assert dispatch.num_steps in (1, size) and dispatch.num_examples == dispatch.batch.example_mask.sum()
        assert not any(done < stop < done + dispatch.num_steps for stop in stops)
        done += dispatch.num_steps
        seen += dispatch.batch.features.ravel().tolist()
    assert seen == list(range(7))


def test_dispatches_end_with_the_schedule_and_not_before():
    with pytest.raises(ValueError, match="end after 3 steps, before the schedule does"):
        list(feed.dispatches(iter(numbered(3)), [9], 2))
    assert sum(dispatch.num_steps for dispatch in feed.dispatches(itertools.cycle(numbered(3)), [5], 2)) == 5


def test_the_background_keeps_order_and_places():
    assert list(feed.in_background(iter(range(20)), lambda item: 2 * item)) == list(range(0, 40, 2))


@pytest.mark.parametrize("broken", ["items", "place"])
def test_errors_come_up_where_the_item_is_asked_for(broken):
    def items():
        yield 1
        if broken == "items":
            raise ValueError("no second")
        yield 2

    def place(item):
        if broken == "place" and item == 2:
            raise ValueError("no second")
        return item

    stream = feed.in_background(items(), place)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="no second"):
        next(stream)


def test_closing_ends_the_thread():
    stream = feed.in_background(itertools.count(), lambda item: item)
    assert next(stream) == 0
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "scalearn-feed"]
