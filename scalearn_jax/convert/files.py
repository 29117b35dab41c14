"""Finding and reading the files of a checkpoint: local folders, the hub, sharded weights."""

from pathlib import Path

import numpy as np

from scalearn_jax.convert.safetensors_io import load_tensors
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
INDEX = "model.safetensors.index.json"


def folder(path_or_id: str | Path, revision: str | None = None) -> Path:
    """Finds a checkpoint: a local folder as it is, or a snapshot of a hub repository.

    Args:
      path_or_id: folder or hub id.
      revision: branch, tag or commit on the hub.

    Returns:
      A local folder with configuration, weights and tokenizer.

    Raises:
      InputError: no such folder, and no such hub repository within reach.
    """
    local = Path(path_or_id).expanduser()
    if local.is_dir():
        return local
    if local.is_absolute() or local.exists() or str(path_or_id).startswith((".", "~")):
        raise InputError(f"backbone {path_or_id} is not a folder; expected config.json and model.safetensors in it.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path_or_id), revision=revision, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"backbone {path_or_id!r} is no local folder and could not be read from the hub"
            f" (revision {revision or 'main'}): {reason}"
        ) from error


def read_checkpoint(where: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a checkpoint folder, from one file or from the shards of an index.

    Raises:
      InputError: no safetensors file, a damaged one, or an index that points elsewhere.
    """
    if (where / "model.safetensors").exists():
        return load_tensors(where / "model.safetensors")
    if not (where / INDEX).exists():
        raise InputError(
            f"{where} holds neither model.safetensors nor {INDEX}; other formats (pytorch_model.bin is a pickle)"
            " are not read: convert the checkpoint to safetensors."
        )
    files = read_json(where / INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(Path(str(file)).name == file for file in files.values()):
        raise InputError(f"{where / INDEX}: weight_map must map tensor names to files beside it.")
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(files.values())):
        tensors |= load_tensors(where / file)
    return tensors
