"""Checkpoints: named arrays and a JSON object of one step, written in the background and verified when read.

    FOLDER/STEP.NUMBER/arrays          the arrays, by orbax
    FOLDER/STEP.NUMBER/meta.json       the JSON object, and the names, shapes and dtypes of the arrays
    FOLDER/STEP.NUMBER/manifest.json   size and SHA-256 of every file of the step

A step is written to a hidden folder, then flushed to the disk, then renamed: it is there whole or not at all. Orbax
does not notice a flipped bit, so nothing is used that does not fit its manifest. The number tells steps apart that
were written twice, such as before and after an evaluation.
"""

import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.errors import InputError
from scalearn_jax.files import as_json, disk_fault, read_json, sync, write_json

FORMAT = 1
_OVERHEAD = 256_000  # bytes of a step beside its arrays, in blocks of the disk, rounded up
_STEP = re.compile(r"(\d+)\.(\d+)")


class Saved(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      step: its step.
      arrays: name -> array.
      meta: the JSON object.
    """

    step: int
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class Damaged(Exception):
    """A checkpoint that is not as it was written; the text says what of it."""


# ---------------------------------------------------------------- names for the leaves of any tree


def to_host(values: Any) -> dict[str, np.ndarray]:
    """Copies the leaves of any tree to the host, each under its path; PRNG keys as their data.

    Example:
      >>> list(to_host({"a": (np.zeros(2), np.ones(3))}))
      ['a/0', 'a/1']
    """
    return {name: np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for name, leaf in _named(values)[0]}


def from_host(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Undoes ``to_host``.

    Args:
      like: a tree of the same structure, its PRNG keys real ones.
      arrays: what ``to_host`` gave.

    Raises:
      KeyError: an array is missing.
    """
    leaves, structure = _named(like)
    return structure.unflatten([_leaf(leaf, arrays[name]) for name, leaf in leaves])


def _named(values: Any) -> tuple[list[tuple[str, Any]], Any]:
    leaves, structure = jax.tree_util.tree_flatten_with_path(values)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves], structure


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaf(like: Any, array: np.ndarray) -> Any:
    return jax.random.wrap_key_data(array.copy(), impl=jax.random.key_impl(like)) if _is_key(like) else array


def describe(values: Any) -> dict[str, str]:
    """Says the dtype and shape of each array that ``to_host`` gives, or would give for abstract leaves.

    Example:
      >>> describe({"omega": np.ones((2, 3), np.float32)})
      {'omega': 'float32[2, 3]'}
    """
    data = lambda leaf: jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf  # noqa: E731
    named = ((name, data(leaf)) for name, leaf in _named(values)[0])
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Lists what two tables differ in.

    Example:
      >>> differences({"seeds": [0], "rate": 1}, {"seeds": [1], "rate": 1})
      ['seeds: there [0], here [1]']
    """
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return [f"{name}: there {_short(there.get(name))}, here {_short(here.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------- the folder


class Checkpoints:
    """The checkpoints of a run; the methods are for one thread.

    A step that was damaged, once the run has gone on from an earlier one, is renamed to ``damaged-STEP``.

    Args:
      folder: where they lie.
      keep: how many of the last to keep.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self._keep = Path(folder), keep
        self._next: tuple | None = None  # the newest that waits to be written
        self._writer: threading.Thread | None = None
        self._lock, self._failure = threading.Lock(), None

    def steps(self) -> list[Path]:
        """The folders of the steps, the last one first."""
        found = [path for path in self.folder.iterdir() if _STEP.fullmatch(path.name)] if self.exists() else []
        return sorted(found, key=_number, reverse=True)

    def exists(self) -> bool:
        """Whether there is a folder for them."""
        return self.folder.is_dir()

    def save(self, step: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Has a step written in the background; one that still waits to be written gives way to it.

        Args:
          step: the step.
          arrays: name -> array; they must not change any more.
          meta: JSON types.

        Raises:
          InputError: writing an earlier one failed.
        """
        self.check()
        with self._lock:
            self._next = step, arrays, meta
            if self._writer is None:
                writer = threading.Thread(target=self._write_all, name="scalearn-checkpoints")
                writer.start()
                self._writer = writer

    def flush(self) -> None:
        """Waits until all is on the disk.

        Raises:
          InputError: it could not be written.
        """
        self.close()
        self.check()

    def check(self) -> None:
        """Checks that all is well so far.

        Raises:
          InputError: one could not be written, or the folder of the run has gone.
        """
        if self._failure:
            raise self._failure
        if not self.folder.parent.is_dir():
            raise InputError(f"{self.folder.parent} has disappeared while the run went on; begin it anew.")

    def forget(self) -> None:
        """Forgets that one could not be written, to try once more."""
        self.close()
        self._failure = None

    def restore(self, warn: Callable[[str], None]) -> Saved | None:
        """Reads the last step that is whole.

        Args:
          warn: is told of each step that is not, and why.

        Returns:
          The step; ``None`` where none was ever written.

        Raises:
          InputError: there are steps, and none of them is whole.
        """
        self._remove_halves()
        damaged: dict[Path, Damaged] = {}
        for path in self.steps():
            try:
                saved = read(path)
            except Damaged as error:
                damaged[path] = error
                continue
            for wrong, error in damaged.items():
                warn(f"cannot use checkpoint {wrong}: {error}; going on from step {saved.step}.")
                _set_aside(wrong)
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

    def clear(self) -> None:
        """Removes them all."""
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
            except Exception as error:  # told at the next call
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
            f"cannot write the checkpoint of step {step} to {self.folder}: {reason}; {left}. Mend it and run the same"
            " command again to go on from there."
        )

    def _write(self, step: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        if not self.folder.parent.is_dir():  # with it the log has gone
            raise FileNotFoundError(f"{self.folder.parent} has disappeared")
        if not self.exists():
            self.folder.mkdir()
            sync(self.folder.parent, whole=False)
        _check_space(self.folder, arrays)
        taken = [number for at, number in map(_number, self.steps()) if at == step]
        final = self.folder / f"{step}.{max(taken, default=-1) + 1}"
        partial = self.folder / f".{final.name}"
        try:
            write(partial, step, arrays, meta)
            partial.rename(final)
            sync(self.folder, whole=False)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self.steps()[self._keep :]:
            shutil.rmtree(old, ignore_errors=True)

    def _remove_halves(self) -> None:
        for path in self.folder.glob(".*") if self.exists() else ():
            shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _check_space(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Fails before orbax would, whose threads then go on and print stack traces."""
    needed = int(1.1 * sum(array.nbytes for array in arrays.values())) + _OVERHEAD
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({free} bytes are free, {needed} are needed)")


def _number(path: Path) -> tuple[int, int]:
    step, number = _STEP.fullmatch(path.name).groups()
    return int(step), int(number)


# ---------------------------------------------------------------- one step


@functools.cache
def _orbax():
    """Imports orbax when it is first needed, and makes its writer for one process, whatever others there are."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)  # what it logs, it raises, too
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="scalearn"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp, ocp.Checkpointer(handler, multiprocessing_options=alone)


def write(folder: Path, step: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Writes a step to a new folder, and flushes it to the disk; see ``read``."""
    ocp, writer = _orbax()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    nested = tree.unflatten(dict(arrays))
    writer.save(folder / "arrays", args=ocp.args.PyTreeSave(nested))
    head = {"format": FORMAT, "step": step, "arrays": describe(arrays)}
    write_json(folder / "meta.json", head | {"meta": dict(meta)})
    seal(folder)
    sync(folder)


def seal(folder: Path) -> None:
    """Writes the manifest of all files of a step; the last of the files to be written."""
    files = {str(path.relative_to(folder)): _digest(path) for path in _files(folder) if path.name != "manifest.json"}
    write_json(folder / "manifest.json", {"files": files, "sha256": _of_json(files)})


def read(folder: Path) -> Saved:
    """Reads a step, after verifying every file of it.

    Raises:
      Damaged: some file is missing, differs from the manifest, or cannot be read.
    """
    try:
        _verify(folder)
        return _read(folder)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Damaged(str(error).strip().split("\n")[0] or type(error).__name__) from error


def _read(folder: Path) -> Saved:
    content = json.loads((folder / "meta.json").read_bytes())  # of any size: it holds the logs
    if content.get("format") != FORMAT:
        raise Damaged(f"has format {content.get('format')}, this version reads {FORMAT}")
    names = content["arrays"]
    ocp, reader = _orbax()
    host = ocp.RestoreArgs(restore_type=np.ndarray)
    nested = tree.unflatten(dict.fromkeys(names, host))
    args = ocp.args.PyTreeRestore(restore_args=nested) if names else None
    arrays = tree.flatten(reader.restore(folder / "arrays", args=args)) if names else {}
    if describe(arrays) != names:
        raise Damaged(f"arrays: {'; '.join(differences(names, describe(arrays)))}")
    return Saved(content["step"], arrays, content["meta"])


def _verify(folder: Path) -> None:
    path = folder / "manifest.json"
    try:
        manifest = read_json(path)
    except InputError as error:
        raise Damaged("manifest.json is missing" if not path.exists() else str(error)) from error
    files = manifest.get("files")
    whole = {"files": files, "sha256": _of_json(files)}
    if not isinstance(files, dict) or path.read_text(encoding="utf-8") != as_json(whole):
        raise Damaged("manifest.json is not as it was written")
    found = {str(path.relative_to(folder)) for path in _files(folder)} - {"manifest.json"}
    for name in sorted(files.keys() | found):
        if name not in found:
            raise Damaged(f"{name} is missing")
        if name in files and files[name] != _digest(folder / name):
            raise Damaged(f"{name} is not as it was written")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _of_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
