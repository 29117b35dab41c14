"""Where a run that is told to stop ends: at a boundary, the end of a step or of a batch that is evaluated.

With several processes, one that is told tells the others, and all end at the same boundary: each says how many it has
passed and waits at its next one; the farthest of these is where all end.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import jax

from scalearn_jax.errors import Preempted
from scalearn_jax.train import agreement, signals

_POLL_MS = 500
_LINGER = 2.0
_NEVER = 2**62


@dataclass
class State:
    """How far this process is, beside others.

    Attributes:
      boundaries: how many it has passed.
      held: whether it must wait at the next one for ``last``.
      last: the boundary where all processes end.
      agreed: set once ``last`` is known.
      lock: held to change the first two.
    """

    boundaries: int = 0
    held: bool = False
    last: int = _NEVER
    agreed: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


state = State()


def boundary() -> None:
    """Counts a boundary; every process of a run passes the same ones.

    Raises:
      Preempted: this is where the run ends.
    """
    with state.lock:
        state.boundaries += 1
        held = state.held
    if agreement.state.num_processes == 1:
        ends = signals.state.signum is not None
    else:
        ends = held and state.agreed.wait() and state.boundaries >= state.last
    if ends:
        raise signals.stopped()


@contextlib.contextmanager
def training() -> Iterator[None]:
    """Lets the process end at boundaries only."""
    before, signals.state.defers = signals.state.defers, lambda: True
    unsaved = False
    try:
        yield
    except Preempted:  # of several processes only one has saved: the others must not end before it has
        unsaved = signals.state.unsaved
        raise
    finally:
        signals.state.defers, signals.state.unsaved = before, unsaved
    if signals.state.signum and not before():  # it came after the last boundary
        raise signals.stopped()


def was_told() -> bool:
    """Whether this process, or another one of the run, was told to stop."""
    return signals.state.signum is not None or state.held


def listen() -> threading.Thread:
    """Learns from the other processes that one was told to stop, until this one leaves; returns the thread.

    From now on this process ends alone only while it prepares, when the others can still be told why.
    """
    signals.state.tell_others, signals.state.defers = _tell_others, lambda: agreement.state.settled
    signals.state.raises = True
    signals.state.lingers = 0.0 if agreement.state.process_id else _LINGER  # without the coordinator others fail
    thread = threading.Thread(target=_listen, name="scalearn-stop", daemon=True)
    thread.start()
    return thread


def _tell_others() -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        agreement.post("stop", "now")


def _listen() -> None:
    try:
        while agreement.look("stop", _POLL_MS) is None:
            if agreement.state.leaving:
                return
        signals.end_if_idle()
        with state.lock:
            state.held, passed = True, state.boundaries
        state.last = 1 + max((int(other) for _, other in agreement.exchange("stop-at", str(passed))), default=passed)
    except jax.errors.JaxRuntimeError:  # they are gone, which ends this process, too
        pass
    finally:
        state.agreed.set()
