"""The checkpoints of a run: written in the background, the last ones kept, damaged ones passed over.

    FOLDER/STEP.NUMBER   see ``checkpoint``

A step is written to a hidden folder, then flushed to the disk, then renamed: it is there whole or not at all. The
number tells steps apart that were written twice, such as before and after an evaluation.
"""

import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.errors import InputError
from scalearn_jax.io.files import disk_fault, sync
from scalearn_jax.train import checkpoint
from scalearn_jax.train.checkpoint import Checkpoint, Damaged

_OVERHEAD = 256_000  # bytes of a step beside its arrays, in blocks of the disk, rounded up
_STEP = re.compile(r"(\d+)\.(\d+)")


class CheckpointStore:
    """The last ``keep`` checkpoints of a run; the methods are for one thread.

    A step that was damaged, once the run has gone on from an earlier one, is renamed to ``damaged-STEP``.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self._keep = Path(folder), keep
        self._next: tuple | None = None  # the newest that waits to be written
        self._writer: threading.Thread | None = None
        self._lock, self._failure = threading.Lock(), None
        self._passed_over: list[Path] = []

    def steps(self) -> list[Path]:
        """The folders of the steps, the last one first."""
        found = [path for path in self.folder.iterdir() if _STEP.fullmatch(path.name)] if self.exists() else []
        return sorted(found, key=_number, reverse=True)

    def exists(self) -> bool:
        """Whether there is a folder for them."""
        return self.folder.is_dir()

    def save(self, step: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Has a step written in the background; one that still waits to be written gives way to it.

        The arrays must not change any more; ``meta`` is JSON. Fails where writing an earlier one failed.
        """
        self.check()
        with self._lock:
            self._next = step, arrays, meta
            if self._writer is None:
                writer = threading.Thread(target=self._write_all, name="scalearn-checkpoints")
                writer.start()
                self._writer = writer

    def flush(self) -> None:
        """Waits until all is on the disk; fails where it could not be written."""
        self.close()
        self.check()

    def check(self) -> None:
        """Checks that every step so far could be written, and that the folder of the run is still there."""
        if self._failure:
            raise self._failure
        if not self.folder.parent.is_dir():
            raise InputError(f"{self.folder.parent} has disappeared while the run went on; begin it anew.")

    def forget(self) -> None:
        """Forgets that one could not be written, to try once more."""
        self.close()
        self._failure = None

    def restore(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """Reads the last step that is whole, warning of each that is not; ``None`` where none was ever written.

        Fails where there are steps, and none of them is whole.
        """
        self._passed_over, damaged = [], {}
        for path in self.steps():
            try:
                saved = checkpoint.read(path)
            except Damaged as error:
                damaged[path] = error
                continue
            for wrong, error in damaged.items():
                warn(f"cannot use checkpoint {wrong}: {error}; going on from step {saved.step}.")
            self._passed_over = list(damaged)
            return saved
        if damaged:
            reasons = "; ".join(f"{path.name}: {error}" for path, error in damaged.items())
            raise InputError(
                f"none of the checkpoints in {self.folder} can be used ({reasons}); bring them back, or"
                " remove the folder (or pass --restart) to begin anew."
            )
        return None

    def close(self) -> None:
        """Waits for what is being written, whatever comes of it."""
        while writer := self._writer:
            writer.join()

    def begin(self) -> None:
        """Prepares for new steps: renames those that ``restore`` has passed over, and removes half-written ones."""
        for path in self._passed_over:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        self._passed_over = []
        for path in self.folder.glob(".*") if self.exists() else ():
            shutil.rmtree(path, ignore_errors=True)

    def clear(self) -> None:
        """Removes them all."""
        self._passed_over = []
        if self.exists():
            shutil.rmtree(self.folder)

    def _write_all(self) -> None:
        """Writes what waits until nothing does; the work of the thread."""
        while True:
            with self._lock:
                entry, self._next = self._next, None
                if entry is None or self._failure:
                    self._writer = None
                    return
            try:
                self._write(*entry)
            except Exception as error:  # raised at the next call
                self._failure = self._explained(entry[0], error)

    def _explained(self, step: int, error: Exception) -> InputError:
        try:
            kept = [path.name for path in self.steps()]
        except OSError:
            kept = []
        left = f"the last whole one is {kept[0]}" if kept else "there is no other"
        number = disk_fault(error)
        reason = getattr(error, "strerror", None) or (number and os.strerror(number)) or str(error).strip()
        reason = reason.split("\n")[0] or type(error).__name__
        return InputError(
            f"cannot write the checkpoint of step {step} to {self.folder}: {reason}; {left}. Fix it and run the same"
            " command again to go on from there."
        )

    def _write(self, step: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        if not self.folder.parent.is_dir():  # with it the log has gone
            raise FileNotFoundError(f"{self.folder.parent} has disappeared")
        if not self.exists():
            self.folder.mkdir()
            sync(self.folder.parent, whole=False)
        needed = int(1.1 * sum(array.nbytes for array in arrays.values())) + _OVERHEAD
        free = shutil.disk_usage(self.folder).free
        if free < needed:  # fail before orbax would, whose threads then go on and print stack traces
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({free} bytes are free, {needed} are needed)")
        taken = [number for at, number in map(_number, self.steps()) if at == step]
        final = self.folder / f"{step}.{max(taken, default=-1) + 1}"
        partial = self.folder / f".{final.name}"
        try:
            checkpoint.write(partial, step, arrays, meta)
            partial.rename(final)
            sync(self.folder, whole=False)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self.steps()[self._keep :]:
            shutil.rmtree(old, ignore_errors=True)


def _number(path: Path) -> tuple[int, int]:
    step, number = _STEP.fullmatch(path.name).groups()
    return int(step), int(number)
