"""The input side of the loop: batches are packed and placed in a thread of their own, several steps to a dispatch.

Letters: M members, K steps of a dispatch.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from jax.sharding import Mesh

from scalearn_jax.data.batches import stack
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.train.sharding import shard_batch

_END = object()


class Dispatch(NamedTuple):
    """The batches of steps that are sent to the devices at once."""

    num_steps: int  # K
    num_examples: int  # real examples in them, over all members
    batch: Any  # leading axes [M ...] for K = 1, else [K M ...]


def sizes(stops: Iterable[int], size: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yields the first step of each dispatch and how many it has; see ``dispatches``.

    Example:
      >>> list(sizes([5, 7], 2))
      [(0, 2), (2, 2), (4, 1), (5, 2)]
    """
    done = start
    for stop in stops:
        while done < stop:
            number = size if done + size <= stop else 1
            yield done, number
            done += number


def dispatches(batches: Iterator, stops: Iterable[int], size: int, start: int = 0) -> Iterator[Dispatch]:
    """Groups batches by ``size``, or takes one alone where the next stop is nearer than that.

    Two sizes only, so that a dispatch of several steps costs one more program and not many. The batches have a leading
    member axis, one a step from ``start`` on; ``stops`` are ascending steps after which the loop must look at the
    state, the last one ends the run. Raises ValueError where the batches end before it.

    Example:
      >>> import numpy as np
      >>> from scalearn_jax.typing import FeatureBatch
      >>> numbered = [FeatureBatch(np.array([number]), np.ones(1, bool), np.zeros(1)) for number in range(7)]
      >>> [dispatch.batch.features.ravel().tolist() for dispatch in dispatches(iter(numbered), [5, 7], 2)]
      [[0, 1], [2, 3], [4], [5, 6]]
    """
    for done, number in sizes(stops, size, start):
        chunk = list(itertools.islice(batches, number))
        if len(chunk) < number:
            raise ValueError(f"the batches end after {done + len(chunk)} steps, before the schedule does.")
        joined = chunk[0] if number == 1 else stack(chunk)
        yield Dispatch(number, int(joined.example_mask.sum()), joined)


def place(dispatch: Dispatch, mesh: Mesh) -> Dispatch:
    """Puts the batches of a dispatch on a mesh; see ``shard_batch``."""
    return dispatch._replace(batch=shard_batch(dispatch.batch, mesh))


def in_background(items: Iterator, place: Callable[[Any], Any], ahead: int = 2) -> Iterator:
    """Makes items in a thread and yields them in order; ``ahead`` of them may wait. Closing the generator ends it.

    ``place`` is the last step of making one, such as putting it on a device. Errors come up where the item is awaited.
    """
    ready: queue.Queue = queue.Queue(ahead)
    stopped = threading.Event()

    def put(entry) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work():
        try:
            with own_settings():
                for item in items:
                    if not put((place(item), None)):
                        return
            put((_END, None))
        except BaseException as error:  # handed over, not lost with the thread
            put((_END, error))

    thread = threading.Thread(target=work, name="scalearn-feed", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
