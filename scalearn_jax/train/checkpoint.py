"""A checkpoint: named arrays and a JSON object in a folder, verified when it is read.

    arrays          the arrays, by orbax
    meta.json       the JSON object, and the names, shapes and dtypes of the arrays
    manifest.json   size and SHA-256 of every other file

Orbax does not notice a flipped bit, so nothing is used that does not fit its manifest.
"""

import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.errors import InputError, shortened
from scalearn_jax.io.files import as_json, read_json, sync, write_json

FORMAT = 1


class Checkpoint(NamedTuple):
    """What a checkpoint holds: its step, its arrays by name, and the JSON object."""

    step: int
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class Damaged(Exception):
    """A checkpoint that is not as it was written; the message names what differs."""


def to_host(values: Any) -> dict[str, np.ndarray]:
    """Copies the leaves of any tree to the host, each under its path; PRNG keys as their data.

    Example:
      >>> list(to_host({"a": (np.zeros(2), np.ones(3))}))
      ['a/0', 'a/1']
    """
    return {name: np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for name, leaf in _leaves(values)[0]}


def from_host(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Undoes ``to_host`` for a tree like ``like``, whose PRNG keys are real; KeyError where an array is missing."""
    leaves, structure = _leaves(like)
    return structure.unflatten(
        jax.random.wrap_key_data(arrays[name].copy(), impl=jax.random.key_impl(leaf)) if _is_key(leaf) else arrays[name]
        for name, leaf in leaves
    )


def _leaves(values: Any) -> tuple[list[tuple[str, Any]], Any]:
    leaves, structure = jax.tree_util.tree_flatten_with_path(values)
    return [(tree.path_string(path, slash="/"), leaf) for path, leaf in leaves], structure


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe(values: Any) -> dict[str, str]:
    """Returns the dtype and shape of each array that ``to_host`` gives, or would give for abstract leaves.

    Example:
      >>> describe({"omega": np.ones((2, 3), np.float32)})
      {'omega': 'float32[2, 3]'}
    """
    found = {}
    for name, leaf in _leaves(values)[0]:
        leaf = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        found[name] = f"{leaf.dtype}{list(leaf.shape)}"
    return found


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Lists what two tables differ in.

    Example:
      >>> differences({"seeds": [0], "rate": 1}, {"seeds": [1], "rate": 1})
      ['seeds: there [0], here [1]']
    """
    pairs = [(name, there.get(name), here.get(name)) for name in {**there, **here}]
    return [f"{name}: there {shortened(str(a))}, here {shortened(str(b))}" for name, a, b in pairs if a != b]


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


def read(folder: Path) -> Checkpoint:
    """Reads a step, after verifying every file of it; ``Damaged`` where one is missing, differs or cannot be read."""
    try:
        _verify(folder)
        content = json.loads((folder / "meta.json").read_bytes())  # of any size: it holds the logs
        if content.get("format") != FORMAT:
            raise Damaged(f"has format {content.get('format')}, this version reads {FORMAT}")
        names, arrays = content["arrays"], {}
        if names:
            ocp, reader = _orbax()
            nested = tree.unflatten(dict.fromkeys(names, ocp.RestoreArgs(restore_type=np.ndarray)))
            args = ocp.args.PyTreeRestore(restore_args=nested)
            arrays = tree.flatten(reader.restore(folder / "arrays", args=args))
        if not isinstance(content["meta"], dict) or type(content["step"]) is not int:
            raise Damaged("meta.json holds no step")
        if describe(arrays) != names:
            raise Damaged(f"arrays: {'; '.join(differences(names, describe(arrays)))}")
        return Checkpoint(content["step"], arrays, content["meta"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Damaged(str(error).strip().split("\n")[0] or type(error).__name__) from error


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
