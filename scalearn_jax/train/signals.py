"""SIGTERM and SIGINT, from the moment a command knows its settings: no library is loaded here.

The first signal asks. Training ends at its next boundary, see ``train.preemption``; elsewhere, where there is nothing
to save, the process ends at once, as if killed: an exception at any moment is more than libraries stand, such as those
that are being imported. A second signal ends it whatever it is doing.
"""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from scalearn_jax.errors import STOPPED, Preempted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SWALLOW = ("__del__", "_xla_gc_callback")  # the latter is JAX's
_PATIENCE = 3.0  # seconds in which a process with nothing to save may end in an orderly way


@dataclass
class State:
    """What this process was told, and whether it may end.

    Attributes:
      signum: the signal that came, if any.
      defers: whether it ends at boundaries only.
      raises: whether it ends by an exception, since others are to be told.
      unsaved: whether it has learned something that is not on the disk.
      tell_others: called when a signal comes, in a thread of its own.
      over: whether nobody watches any more.
      lingers: seconds that others are given to end first.
      errors: where to write, since standard error may be held back, see ``data.tokens``.
    """

    signum: int | None = None
    defers: Callable[[], bool] = lambda: False
    raises: bool = False
    unsaved: bool = False
    tell_others: Callable[[], None] = lambda: None
    over: bool = False
    lingers: float = 0.0
    errors: int = 2

    @property
    def name(self) -> str:
        """What the signal is called."""
        return signal.Signals(self.signum).name if self.signum else "another process"


state = State()


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Catches the signals while a command runs; only in the main thread, elsewhere it does nothing."""
    global state
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    state.errors = os.dup(2)
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
        state.over = True
        os.close(state.errors)
        state = State()


def stopped() -> Preempted:
    """The exception that ends this process."""
    return Preempted(f"stopped by {state.name}; run the same command again.")


def _on_signal(signum: int, frame: FrameType | None) -> None:
    """Runs in the main thread, when that next runs Python."""
    state.signum = state.signum or signum
    if state.raises and not state.defers() and not _is_swallowed(frame):
        raise stopped()


def _is_swallowed(frame: FrameType | None) -> bool:
    """Whether Python would print an exception and go on: in destructors, and in what the garbage collector calls."""
    while frame and frame.f_code.co_name not in _SWALLOW:
        frame = frame.f_back
    return frame is not None


def _watch(read: int) -> None:
    """Learns of signals also while the main thread is not in Python, such as when it compiles."""
    with os.fdopen(read, "rb", buffering=0) as pipe:
        asked = False
        while signum := pipe.read(1):
            if signum[0] not in _SIGNALS:
                continue
            if asked:
                os._exit(128 + signum[0])
            asked, state.signum = True, state.signum or signum[0]
            if not state.raises and not state.defers():
                _end(state)
            end_if_idle()
            threading.Thread(target=state.tell_others, daemon=True).start()


def end_if_idle() -> None:
    """Ends the process, after a while, if it has nothing to save and has not come to an end by itself."""
    threading.Thread(target=_end_if_idle, args=(state,), daemon=True).start()


def _end_if_idle(state: State) -> None:
    time.sleep(_PATIENCE + state.lingers)
    if not state.unsaved and not state.over:
        _end(state)


def _end(state: State) -> None:
    line = f"scalearn: stopped by {state.name}; nothing was lost; run the same command again.\n"
    os.write(state.errors, line.encode())
    os._exit(STOPPED)
