"""Texts to token ids, once: encoded splits are cached.

Letters: n examples of a split, K sequences per example, N = n * K sequences.
"""

import dataclasses
import hashlib
import json
import zipfile

import numpy as np

from scalearn_jax.caches import cache_folder
from scalearn_jax.convert.files import folder
from scalearn_jax.data.splits import Table, check_columns, labels_of, num_rows
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A tokenised split: all sequences one after another.

    Attributes:
      ids: Int[total], token ids, special tokens included.
      token_types: Int[total].
      offsets: Int[N+1], where each sequence starts.
      labels: Int[n], Float[n] or Float[n C].
      num_choices: K; the sequences of an example are neighbours.
      pad_id: filler for empty slots.
    """

    ids: np.ndarray
    token_types: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    num_choices: int = 1
    pad_id: int = 0

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // self.num_choices

    @property
    def lengths(self) -> np.ndarray:
        """Int[N], tokens of each sequence."""
        return np.diff(self.offsets)

    def sequences(self, examples: np.ndarray) -> np.ndarray:
        """The sequence numbers of some examples, K neighbours each."""
        return (np.asarray(examples)[:, None] * self.num_choices + np.arange(self.num_choices)[None]).reshape(-1)


def load_tokenizer(path_or_id: str, revision: str | None = None):
    """Loads a backbone's tokenizer with ``transformers``; remote code is never run.

    Raises:
      InputError: no tokenizer there.
    """
    where = folder(path_or_id, revision)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(where), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises many types here
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"{where}: no usable tokenizer ({reason}); the folder needs tokenizer.json.") from error


def encode(tokenizer, task: Task, table: Table, *, max_length: int, labels: bool = True) -> Encoded:
    """Tokenises a table; longer inputs are cut, longest text first, as published.

    Args:
      tokenizer: from ``load_tokenizer``.
      task: says which columns make the text.
      table: the rows.
      max_length: in tokens, special ones included.
      labels: whether the table has labels; without, they are zeros.

    Returns:
      The encoded split.

    Raises:
      InputError: a missing column, or a label outside the task's list.
    """
    check_columns(task, table, task.columns, "input")
    count = num_rows(table)
    rows = ({name: table[name][i] for name in task.columns} for i in range(count))
    texts = [sequence for row in rows for sequence in task.sequences(row)]
    ids, types = _tokenise(tokenizer, texts, max_length)
    return Encoded(
        ids=np.concatenate(ids).astype(np.int32),
        token_types=np.concatenate(types).astype(np.int32),
        offsets=np.cumsum([0, *map(len, ids)]),
        labels=labels_of(task, table[task.label_column]) if labels else _no_labels(task, count),
        num_choices=task.num_choices,
        pad_id=tokenizer.pad_token_id or 0,
    )


def _tokenise(tokenizer, texts: list[tuple[str, ...]], max_length: int):
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(*columns, truncation="longest_first", max_length=max_length)
    ids = encoded["input_ids"]
    return ids, encoded.get("token_type_ids") or [[0] * len(sequence) for sequence in ids]


def _no_labels(task: Task, count: int) -> np.ndarray:
    if task.kind == "multilabel":
        return np.zeros((count, len(task.labels)), np.float32)
    return np.zeros(count, np.float32 if task.kind == "regression" else np.int32)


def cached(tokenizer, task: Task, table: Table, *, max_length: int) -> Encoded:
    """``encode``, kept in the user's cache folder; a damaged cache file is made again."""
    where = cache_folder("tokens")
    if where is None:
        return encode(tokenizer, task, table, max_length=max_length)
    path = where / f"{_fingerprint(tokenizer, task, table, max_length)}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return Encoded(**{name: file[name] if file[name].ndim else int(file[name]) for name in file.files})
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    encoded = encode(tokenizer, task, table, max_length=max_length)
    _save(path, encoded)
    return encoded


def _save(path, encoded: Encoded) -> None:
    import os

    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        np.savez(temporary, **dataclasses.asdict(encoded))
        temporary.replace(path)
    except OSError:  # the cache is a convenience: a full disk must not end the run
        temporary.unlink(missing_ok=True)


def _fingerprint(tokenizer, task: Task, table: Table, max_length: int) -> str:
    """Hashes everything the encoding depends on."""
    digest = hashlib.sha256(f"{_VERSION} {max_length} {json.dumps(task.to_dict())}\n".encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    digest.update(json.dumps([tokenizer.pad_token_id, tokenizer.model_input_names]).encode())
    for name in (*task.columns, task.label_column):
        digest.update(json.dumps([name, table[name]], default=str).encode())
    return digest.hexdigest()
