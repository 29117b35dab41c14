"""Being told to stop: SIGTERM and SIGINT end a run between two steps, once what it has learned is saved.

The first signal asks. A run in training ends at the next boundary: the end of a step, or of a batch that is evaluated.
Where there is nothing to save, because nothing has been learned yet or all of it is on the disk, the process ends at
once. A second signal ends it whatever it is doing.

With several processes, one that is told tells the others, and all end at the same boundary: each says how many it has
passed and waits at its next one; the farthest of these is where all end.
"""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import jax

from scalearn_jax.errors import STOPPED, Preempted
from scalearn_jax.train import agreement

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PATIENCE = 3.0  # seconds in which a process with nothing to save may end in an orderly way
_POLL_MS = 500


@dataclass
class State:
    """What this process was told, and how far it is.

    Attributes:
      signum: the signal that came, if any.
      training: whether the process ends at boundaries only.
      unsaved: whether it has learned something that is not on the disk.
      boundaries: how many it has passed.
      held: whether it must wait at the next one for ``last``.
      last: the boundary where all processes end.
      over: whether nobody watches any more.
    """

    signum: int | None = None
    training: bool = False
    unsaved: bool = False
    boundaries: int = 0
    held: bool = False
    last: int | None = None
    over: bool = False
    agreed: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """What the signal is called."""
        return signal.Signals(self.signum).name if self.signum else "another process"


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
        ends = state.signum is not None
    else:
        ends = held and state.agreed.wait() and state.boundaries >= state.last
    if ends:
        raise Preempted(f"stopped by {state.name}; run the same command again.")


@contextlib.contextmanager
def training() -> Iterator[None]:
    """Lets the process end at boundaries only."""
    state.training = True
    try:
        yield
    finally:
        state.training = state.unsaved = False
    if state.signum and agreement.state.num_processes == 1:  # it came after the last boundary
        raise Preempted(f"stopped by {state.name}; run the same command again.")


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Catches the signals while a command runs; only in the main thread, elsewhere it does nothing."""
    global state
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = {signum: signal.signal(signum, _on_signal) for signum in _SIGNALS}
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=functools.partial(_watch, read), name="scalearn-signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(write)
        state.over, state = True, State()


def _on_signal(signum: int, frame) -> None:
    """Runs in the main thread, when that next runs Python."""
    state.signum = state.signum or signum
    told_by_itself = agreement.state.num_processes == 1 or not agreement.state.settled
    if told_by_itself and not state.training:
        raise Preempted(f"stopped by {state.name}; run the same command again.")


def _watch(read: int) -> None:
    """Learns of signals also while the main thread is not in Python, such as when it compiles."""
    with os.fdopen(read, "rb", buffering=0) as pipe:
        asked = False
        while signums := pipe.read(1):
            if signums[0] not in _SIGNALS:
                continue
            if asked:
                os._exit(128 + signums[0])
            asked = True
            state.signum = state.signum or signums[0]
            _tell_others(signums[0])
            threading.Thread(target=_end_if_idle, args=(state,), daemon=True).start()


def _end_if_idle(state: State) -> None:
    """Ends a process that has nothing to save and does not come to an end by itself."""
    time.sleep(_PATIENCE)
    if not state.unsaved and not state.over:
        os.write(2, f"scalearn: stopped by {state.name}; nothing was lost; run the same command again.\n".encode())
        os._exit(STOPPED)


# ---------------------------------------------------------------- several processes


def _tell_others(signum: int) -> None:
    if agreement.state.num_processes > 1:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            agreement.post("stop", str(signum))


def listen() -> threading.Thread:
    """Learns from the other processes that one was told to stop, until this one leaves; returns the thread."""
    thread = threading.Thread(target=_listen, name="scalearn-stop", daemon=True)
    thread.start()
    return thread


def _listen() -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # they are gone
        while agreement.look("stop", _POLL_MS) is None:
            if agreement.state.leaving:
                return
        with state.lock:
            state.held, passed = True, state.boundaries
        threading.Thread(target=_end_if_idle, args=(state,), daemon=True).start()
        state.last = 1 + max(int(other) for _, other in agreement.exchange("stop-at", str(passed)))
        state.agreed.set()
