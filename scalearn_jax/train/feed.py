"""The input side of the loop: batches are packed and placed in a thread of their own, several steps to a dispatch.

Letters: M members, K steps of a dispatch.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from scalearn_jax.data import batches as batching

_END = object()


class Lot(NamedTuple):
    """The batches of one dispatch.

    Attributes:
      num_steps: K.
      num_examples: real examples in them, over all members.
      batch: leading axes [M ...] for K = 1, else [K M ...].
    """

    num_steps: int
    num_examples: int
    batch: Any


def lots(batches: Iterator, stops: Iterable[int], size: int, start: int = 0) -> Iterator[Lot]:
    """Groups batches into lots of ``size``, or of 1 where the next stop is nearer than that.

    Two sizes only, so that a dispatch of several steps costs one more program and not many.

    Args:
      batches: one a step from ``start`` on, with leading member axis.
      stops: ascending steps after which the loop must look at the state; the last ends the run.
      size: K.
      start: steps done before.

    Yields:
      The lots, on the host.

    Raises:
      ValueError: the batches end before the last stop.

    Example:
      >>> from scalearn_jax.typing import FeatureBatch
      >>> numbered = [FeatureBatch(np.array([number]), np.ones(1, bool), np.zeros(1)) for number in range(7)]
      >>> [lot.batch.features.ravel().tolist() for lot in lots(iter(numbered), [5, 7], 2)]
      [[0, 1], [2, 3], [4], [5, 6]]
    """
    done = start
    for stop in stops:
        while done < stop:
            number = size if done + size <= stop else 1
            chunk = list(itertools.islice(batches, number))
            if len(chunk) < number:
                raise ValueError(f"the batches end after {done + len(chunk)} steps, before the stop at {stop}.")
            joined = chunk[0] if number == 1 else batching.stack(chunk)
            yield Lot(number, int(joined.example_mask.sum()), joined)
            done += number


def in_background(items: Iterator, place: Callable[[Any], Any], ahead: int = 2) -> Iterator:
    """Makes items in a thread, so that they are ready when they are needed.

    Args:
      items: what to make; errors come up where the item is asked for.
      place: last step of making one, such as putting it on a device.
      ahead: items that may wait.

    Yields:
      The placed items, in order. Closing the generator ends the thread.
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


def stops(ends: Iterable[tuple[int, int, int]]) -> list[int]:
    """Lists the steps at which a loop must look up.

    Args:
      ends: (number of steps, steps between evaluations, steps between records) of everything it trains.

    Returns:
      Ascending steps; step 1 is among them, since compiling it says nothing about speed.

    Example:
      >>> stops([(10, 4, 5)])
      [1, 4, 5, 8, 10]
    """
    found = {1}
    for last, *periods in ends:
        found |= {last, *np.concatenate([np.arange(period, last, period) for period in periods]).tolist()}
    return sorted(map(int, found))
