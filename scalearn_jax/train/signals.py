"""SIGTERM and SIGINT, from the moment a command knows its settings: no library is loaded here.

After a signal, training ends at its next boundary (``agreement.boundary``). Elsewhere, where there is nothing to save,
the process ends at once, as if killed: libraries, such as those that are being imported, do not survive an exception at
any moment. A second signal ends it whatever it is doing, unless JAX has taken SIGTERM over.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from scalearn_jax.errors import STOPPED, Preempted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PATIENCE = 3.0  # seconds in which a process with nothing to save may end in an orderly way


class Signals:
    """The signals that this process has received, and whether it may end at once. There is one, ``signals``."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._signum: int | None = None
        self._training = False
        self.unsaved = False  # whether this process has learned something that is not on the disk
        self._joined = False
        self._errors = 2  # where to write: standard error may be held back, see ``data.tokens``

    @property
    def received(self) -> bool:
        return self._signum is not None

    def mark_unsaved(self) -> None:
        """Notes that there is something to lose: the process must not end before it is saved."""
        self.unsaved = True

    def mark_saved(self) -> None:
        """Notes that all is on the disk: until the next step the process may end at any moment."""
        self.unsaved = False

    def preempted(self) -> Preempted:
        """Returns the exception that ends this process."""
        name = signal.Signals(self._signum).name if self._signum else "a signal to one of its processes"
        return Preempted(f"stopped by {name}; run the same command again.")

    def leave_sigterm_to_jax(self) -> None:
        """Notes that JAX's preemption service has replaced the handler of SIGTERM; SIGINT is passed on to it."""
        self._joined = True

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Catches the signals while a command runs; only in the main thread, elsewhere it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._errors = os.dup(2)
        read, write = os.pipe()
        os.set_blocking(write, False)
        before = {signum: signal.signal(signum, self._note) for signum in _SIGNALS}
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(read, over), name="scalearn-signals", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for signum, handler in before.items():
                signal.signal(signum, handler)
            os.close(write)
            watcher.join()  # which may be ending the process
            over.set()
            os.close(self._errors)
            self._reset()

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Lets the process end at boundaries only; raises ``Preempted`` where a signal came after the last one."""
        self._training = True
        try:
            yield
        finally:
            self._training = self.unsaved = False
        if self.received and not self._joined:
            raise self.preempted()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        """Runs in the main thread, when that next runs Python."""
        self._signum = self._signum or signum

    def _watch(self, read: int, over: threading.Event) -> None:
        """Receives signals also while the main thread is not in Python, such as when it compiles."""
        with os.fdopen(read, "rb", buffering=0) as pipe:
            asked = False
            while signum := pipe.read(1):
                if signum[0] not in _SIGNALS:
                    continue
                if asked:
                    os._exit(128 + signum[0])
                asked, self._signum = True, self._signum or signum[0]
                if self._joined:
                    os.kill(os.getpid(), signal.SIGTERM)
                elif self._training:
                    threading.Thread(target=self._end_if_idle, args=(over,), daemon=True).start()
                else:
                    self._end()

    def _end_if_idle(self, over: threading.Event) -> None:
        """Ends the process, after a while, if it has nothing to save and has not come to an end by itself."""
        if not over.wait(_PATIENCE) and not self.unsaved:
            self._end()

    def _end(self) -> None:
        name = signal.Signals(self._signum).name
        line = f"scalearn: stopped by {name}; nothing was lost; run the same command again.\n"
        os.write(self._errors, line.encode())
        os._exit(STOPPED)


signals = Signals()
