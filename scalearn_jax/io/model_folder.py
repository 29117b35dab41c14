"""Finding and reading the files of a checkpoint or an adapter: local folders, the hub, sharded weights.

Such a folder may come from a stranger: a file of it that is read must not be a link that leads out of it, but for the
hub's own cache, and settings are small. What is not read may be anything.
"""

import contextlib
import os.path
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.errors import InputError
from scalearn_jax.io.files import encoding_of, read_json
from scalearn_jax.io.hub import download, pinned
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.io.torch_pickle import load_bin

FILES = (
    *("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "bpe.codes", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model"),
)
WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
TEMPLATES = "additional_chat_templates"
# What transformers may open besides, where it loads a tokenizer of any class.
OTHERS = (
    *("adapter_config.json", "chat_template.jinja", "chat_template.json", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json", f"{TEMPLATES}/*.jinja", "emoji.json", "unigram.json"),
    *("tokenizer*.json", "vocab*.txt", "vocab*.json", "merges*.txt", "tekken.json", "*.codes", "*.model", "*.spm"),
)
# Files without a vocabulary, and how large they may be in bytes; the largest vocabulary has a tenth of its bound.
SETTINGS = (
    *("config.json", "model.safetensors.index.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "chat_template.json"),
)
_TEXTS = (".json", ".txt", ".jinja")
MAX_SETTINGS, MAX_OTHERS = 16_000_000, 256_000_000
MAX_SHARDS, _LONGEST_NAME = 1000, 255


def folder(path_or_id: str | Path, revision: str | None = None, *, allow_pickle: bool = False) -> Path:
    """Finds a backbone, given as a folder or hub id that may end in ``@REVISION``: a local folder, or a hub's snapshot.

    With ``allow_pickle``, ``pytorch_model.bin`` is fetched where the hub has no safetensors. All is ``checked``.
    """
    local = Path(os.path.expanduser(path_or_id))
    if local.is_dir():
        return checked(local)
    if local.is_absolute() or local.exists() or str(path_or_id).startswith((".", "~")):
        raise InputError(f"backbone {path_or_id} is not a folder; expected config.json and model.safetensors in it.")
    repo, revision = pinned(str(path_or_id), revision)
    what = f"backbone {repo!r} is no local folder and"
    where = download(repo, revision, FILES, what=what)
    if allow_pickle and not any((where / name).exists() for name in (WEIGHTS, INDEX)):
        where = download(repo, where.name, (PICKLE,), what=what)  # of the same commit, whatever the branch is now
    return checked(where)


def checked(where: Path) -> Path:
    """Checks all files that a library may read in a folder, as ``inside`` does, and their sizes; returns the folder."""
    for path in _readable(where):
        inside(where, str(path.relative_to(where)))
        most = MAX_SETTINGS if path.name in SETTINGS else MAX_OTHERS
        if path.suffix != ".safetensors" and path.exists() and (size := path.stat().st_size) > most:
            raise InputError(f"{path} has {size} bytes, expected at most {most}; is it the right file?")
    return where


def _readable(where: Path) -> list[Path]:
    known = {where / name for name in FILES if "*" not in name}.union(*map(where.glob, FILES))
    others = {path for pattern in OTHERS for path in where.glob(pattern) if not path.is_dir()}
    return sorted(known | others)


@contextlib.contextmanager
def without_marks(where: Path) -> Iterator[Path]:
    """Yields a ``checked`` folder as other libraries read it: a copy without weights where byte-order marks are."""
    files = [path for path in _readable(where) if path.is_file() and path.suffix != ".safetensors"]
    contents = {path: path.read_bytes() for path in files}
    marked = {path for path in files if path.suffix in _TEXTS and encoding_of(contents[path]) != "utf-8"}
    if not marked:
        yield where
        return
    with tempfile.TemporaryDirectory() as copy:
        for path, content in contents.items():
            target = Path(copy, path.relative_to(where))
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content.decode(encoding_of(content)).encode() if path in marked else content)
        yield Path(copy)


def inside(folder: Path, name: str) -> Path:
    """Returns the path of a file in a folder, which need not exist, and checks that it does not lead out of it.

    Allowed are links from a snapshot of the hub's cache to the blobs of the same repository, and links to the blobs in
    the user's own cache, which older versions of the hub's library make in any folder. A folder or a pipe is refused.
    """
    path = folder / name
    try:
        target = path.resolve()
        escapes = not any(target.is_relative_to(root) for root in _roots(folder))
    except (OSError, RuntimeError):  # links in a circle
        escapes = True
    if escapes:
        raise InputError(f"{path} is a link that leads out of its folder; put the file itself there.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no plain file; expected one.")
    return path


def _roots(folder: Path) -> Iterator[Path]:
    """What links in a folder may lead to: the folder, the repository in a hub's cache that it is of, the own cache."""
    yield folder.resolve()
    for place in (folder.absolute(), folder.resolve()):
        for snapshot in (place, *place.parents):  # absolute as well: a repository may be a link to another disk
            snapshots = snapshot.parent
            if snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--"):
                yield snapshots.parent.resolve()
    from huggingface_hub.constants import HF_HUB_CACHE

    yield from (blobs.resolve() for blobs in Path(HF_HUB_CACHE).glob("models--*/blobs"))


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """Reads a JSON file of a model folder, with bounds; a link may not lead out of it."""
    return read_json(inside(folder, name), MAX_SETTINGS)


def read_checkpoint(where: Path, *, allow_pickle: bool = False) -> dict[str, np.ndarray]:
    """Reads all tensors of a checkpoint folder, in the files' dtypes, from one file or from the shards of an index.

    ``pytorch_model.bin`` is read only with ``allow_pickle``, and where there are no safetensors.
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
    if not isinstance(files, dict) or not all(is_plain_name(file) for file in files.values()):
        raise InputError(f"{where / INDEX}: weight_map must map tensor names to files beside it.")
    if len(set(files.values())) > MAX_SHARDS:
        raise InputError(f"{where / INDEX} names {len(set(files.values()))} files, expected at most {MAX_SHARDS}.")
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(files.values())):
        tensors |= load_tensors(inside(where, file))
    return tensors


def is_plain_name(file: Any) -> bool:
    """Whether a value from a file is a short name without anything that a path could mean."""
    is_short = isinstance(file, str) and len(file) <= _LONGEST_NAME
    return is_short and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", file))
