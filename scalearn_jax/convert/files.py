"""Finding and reading the files of a checkpoint or an adapter: local folders, the hub, sharded weights.

Such a folder may come from a stranger: a file in it that is a link must not lead out of it, and settings are small.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.convert.safetensors_io import load_tensors
from scalearn_jax.convert.torch_pickle import load_bin
from scalearn_jax.errors import InputError
from scalearn_jax.files import read_json

FILES = (
    "config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)
WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
MAX_SETTINGS = 16_000_000  # bytes of a JSON file; only tokenizer.json, which holds a vocabulary, may have more


def folder(path_or_id: str | Path, revision: str | None = None, *, allow_pickle: bool = False) -> Path:
    """Finds a checkpoint: a local folder as it is, or a snapshot of a hub repository.

    Args:
      path_or_id: folder or hub id.
      revision: branch, tag or commit on the hub.
      allow_pickle: whether to fetch ``pytorch_model.bin`` where the hub has no safetensors.

    Returns:
      A local folder with configuration, weights and tokenizer.

    Raises:
      InputError: no such folder, and no such hub repository within reach; or a file in it that leads out of it.
    """
    local = Path(path_or_id).expanduser()
    if local.is_dir():
        return checked(local)
    if local.is_absolute() or local.exists() or str(path_or_id).startswith((".", "~")):
        raise InputError(f"backbone {path_or_id} is not a folder; expected config.json and model.safetensors in it.")
    where = _snapshot(path_or_id, revision, FILES)
    if allow_pickle and not any((where / name).exists() for name in (WEIGHTS, INDEX)):
        where = _snapshot(path_or_id, revision, (PICKLE,))
    return checked(where)


def _snapshot(path_or_id: str | Path, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path_or_id), revision=revision, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"backbone {path_or_id!r} is no local folder and could not be read from the hub"
            f" (revision {revision or 'main'}): {reason}"
        ) from error


def checked(where: Path) -> Path:
    """Checks every file of a folder as ``inside`` does; for readers that open files themselves.

    Raises:
      InputError: a file leads out of the folder, or its settings are too large.
    """
    for path in sorted(where.iterdir()):
        if path.name in FILES or path.is_symlink() and path.is_file():
            inside(where, path.name)
    for path in (where / name for name in FILES if name.endswith(".json") and name != "tokenizer.json"):
        if path.exists() and (size := path.stat().st_size) > MAX_SETTINGS:
            raise InputError(f"{path} has {size} bytes, expected at most {MAX_SETTINGS}; is it the right file?")
    return where


def inside(folder: Path, name: str) -> Path:
    """Names a file of a folder, and checks that it lies there.

    In a snapshot of the hub's cache, files are links to the blobs of the same repository; those lie there too.

    Args:
      folder: the folder.
      name: the file's name; need not exist.

    Returns:
      Its path.

    Raises:
      InputError: it is a link that leads out of the folder, or neither a file nor a link to one.
    """
    path = folder / name
    try:
        leads_out = not path.resolve().is_relative_to(_root(folder.resolve()))
    except (OSError, RuntimeError):  # links in a circle
        leads_out = True
    if leads_out:
        raise InputError(f"{path} is a link that leads out of its folder; put the file itself there.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no plain file; expected one.")
    return path


def _root(folder: Path) -> Path:
    """What links in a folder may lead to: the folder, or the repository in the hub's cache that it is a snapshot of."""
    for snapshot in (folder, *folder.parents):
        snapshots = snapshot.parent
        if snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--"):
            return snapshots.parent
    return folder


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """Reads a JSON file of a folder.

    Raises:
      InputError: see ``inside`` and ``read_json``.
    """
    return read_json(inside(folder, name), MAX_SETTINGS)


def read_checkpoint(where: Path, *, allow_pickle: bool = False) -> dict[str, np.ndarray]:
    """Reads all tensors of a checkpoint folder, from one file or from the shards of an index.

    Args:
      where: the folder.
      allow_pickle: whether to read ``pytorch_model.bin`` where there are no safetensors.

    Raises:
      InputError: no safetensors file, a damaged one, or an index that points elsewhere.
    """
    if (where / WEIGHTS).exists():
        return load_tensors(inside(where, WEIGHTS))
    if (where / INDEX).exists():
        return _read_shards(where)
    if not allow_pickle:
        raise InputError(
            f"{where} holds neither {WEIGHTS} nor {INDEX}; {PICKLE}, a pickle, is not read: convert the checkpoint to"
            " safetensors, or pass --allow-pickle, which builds its tensors and runs nothing."
        )
    if not (where / PICKLE).exists():
        raise InputError(f"{where} holds none of {WEIGHTS}, {INDEX} and {PICKLE}; expected the weights of a backbone.")
    return load_bin(inside(where, PICKLE))


def _read_shards(where: Path) -> dict[str, np.ndarray]:
    files = read_settings(where, INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(_is_plain(file) for file in files.values()):
        raise InputError(f"{where / INDEX}: weight_map must map tensor names to files beside it.")
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(files.values())):
        tensors |= load_tensors(inside(where, file))
    return tensors


def _is_plain(file: Any) -> bool:
    """Whether a name can only be that of a file in the folder."""
    return isinstance(file, str) and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", file))
