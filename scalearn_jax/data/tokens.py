"""Texts to token ids, once: encoded splits are cached.

Letters: n examples of a split, C outputs, K sequences per example, N = n * K sequences.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalearn_jax.data.derive import QUESTION
from scalearn_jax.data.labels import labels_of, no_labels
from scalearn_jax.data.rows import Table, as_text, check_columns, num_rows, read_table
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io.cache import cache_folder, mark_used
from scalearn_jax.io.files import whole_file
from scalearn_jax.io.model_folder import SETTINGS, folder, is_plain_name, read_settings, without_marks

if TYPE_CHECKING:  # it takes more than a second to import
    from datasets import Dataset

_VERSION = 5  # of the cached files; another way to encode needs another number
_CHUNK = 10_000  # texts a tokenizer call: enough to use all cores, few enough to stay small in memory
# The files of a tokenizer's words; without one, some classes are made with no words at all, and without an error.
_VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))
_STANDARD_ERROR = 2  # its number, by which such a library writes to it
_TRUNCATION = {"longest_first": "longest_first", "first": "only_first"}


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A tokenised split: all sequences one after another.

    Attributes:
      ids: Int[total], token ids, special tokens included.
      token_types: Int[total], zeros for backbones without types.
      offsets: Int[N+1], where each sequence starts.
      labels: Int[n], Float[n] or Float[n C].
      questions: Float[n 3], the columns ``derive.QUESTION`` of each example; Float[0 3] for tasks that ask none.
      num_choices: K; the sequences of an example are neighbours.
      pad_id: filler for empty slots.
      available: examples of the split in the data, of which these may be the first; ``None`` where it is not known.
      origin: where these come from, see ``splits.Splits``.
      unit: mean and deviation that the labels of a regression were standardised with; (0, 1) where they were not.
    """

    ids: np.ndarray
    token_types: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    questions: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))
    num_choices: int = 1
    pad_id: int = 0
    available: int | None = None
    origin: str = ""
    unit: tuple[float, float] = (0.0, 1.0)

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // self.num_choices

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Int[N], tokens of each sequence."""
        return np.diff(self.offsets)

    def sequences(self, examples: np.ndarray) -> np.ndarray:
        """The sequence numbers of some examples, K neighbours each."""
        return (np.asarray(examples)[:, None] * self.num_choices + np.arange(self.num_choices)[None]).reshape(-1)

    def take(self, examples: np.ndarray) -> "Encoded":
        """Some of the examples, in the given order."""
        sequences = self.sequences(examples)
        lengths = self.lengths[sequences]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tokens = np.repeat(self.offsets[sequences] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return dataclasses.replace(
            self,
            ids=self.ids[tokens],
            token_types=self.token_types[tokens],
            offsets=offsets,
            labels=self.labels[examples],
            questions=self.questions[examples] if len(self.questions) else self.questions,
        )


class Panic(Exception):
    """What a library written in Rust, such as tokenizers, reported when it gave up."""


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raises a panic, which ``except Exception`` would let pass, as ``Panic``, without what the library prints of it.

    What is written to standard error meanwhile comes there afterwards, unless there was a panic; what transformers
    logs, such as a line for every cut pair of a tokenizer in Python, does not.
    """

    def flush() -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
            sys.stderr.flush()

    held, panicked = contextlib.ExitStack(), False
    log = logging.getLogger("transformers")
    held.callback(log.setLevel, log.level)
    log.setLevel(logging.CRITICAL)
    with tempfile.TemporaryFile() as file:
        flush()
        with contextlib.suppress(OSError):  # it is closed
            original = os.dup(_STANDARD_ERROR)
            held.callback(os.close, original)
            held.callback(os.dup2, original, _STANDARD_ERROR)
            held.callback(flush)
            os.dup2(file.fileno(), _STANDARD_ERROR)
        try:
            yield
        except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            panicked = True
            raise Panic(" ".join(str(error).split()) or type(error).__name__) from error
        finally:
            held.close()
            file.seek(0)
            while not panicked and (part := file.read(1 << 16)):
                with contextlib.suppress(OSError):
                    os.write(_STANDARD_ERROR, part)


def load_tokenizer(path_or_id: str, revision: str | None = None) -> Any:
    """Loads the tokenizer of a folder or hub id with ``transformers``; remote code is never run."""
    where = folder(path_or_id, revision)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would miss PyTorch, which nothing here uses
    _check_vocabulary(where)
    settings = read_settings(where, "tokenizer_config.json") if (where / "tokenizer_config.json").exists() else {}
    names = settings.get("fast_tokenizer_files", [])  # transformers opens them
    if not isinstance(names, list) or not all(map(is_plain_name, names)):
        raise InputError(f"{where / 'tokenizer_config.json'}: fast_tokenizer_files must name files beside it.")
    from transformers import AutoTokenizer

    try:
        with without_marks(where) as readable, panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(str(readable), trust_remote_code=False, local_files_only=True)
        tokenizer.name_or_path = str(where)
    except Exception as error:  # transformers raises many types here
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"{where}: no usable tokenizer ({reason}); expected tokenizer.json in it.") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        kind, files = type(tokenizer).__name__, " and ".join(tokenizer.vocab_files_names.values())
        raise InputError(
            f"{where}: no usable tokenizer (a {kind} is read from {files}, and finds no words here); name its class as"
            " tokenizer_class in tokenizer_config.json, or put a tokenizer.json in it."
        )
    if getattr(tokenizer, "normalization", False) and getattr(tokenizer, "demojizer", True) is None:
        raise InputError(f"{where}: its tokenizer spells emoji out, with the package emoji; pip install emoji==0.6.0")
    return tokenizer


def _check_vocabulary(where: Path) -> None:
    """Checks that a folder has a file of words, and that what reads it is installed."""
    if any(all((where / name).is_file() for name in names) for names in _VOCABULARIES):
        return
    models = sorted(path.name for path in where.glob("*.model"))
    if not models:
        raise InputError(f"{where}: no usable tokenizer (no vocabulary file); expected tokenizer.json in it.")
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    found = {"sentencepiece": is_sentencepiece_available(), "protobuf": is_protobuf_available()}
    if missing := [name for name, is_there in found.items() if not is_there]:
        raise InputError(
            f"{where}: to read its tokenizer {models[0]}, pip install {' '.join(missing)}; or put tokenizer.json in it."
        )


def encode(tokenizer: Any, task: Task, table: "Table | Dataset", *, max_length: int, labels: bool = True) -> Encoded:
    """Tokenises a table; more than ``max_length`` tokens, special ones included, are cut by ``task.truncate``.

    ``labels`` is whether the table has any; without, they are zeros.
    """
    table = read_table(table)
    check_columns(table, task.fields, f"the data of task {task.name}")
    columns = [table[name] for name in task.fields]
    rows = (dict(zip(task.fields, row, strict=True)) for row in zip(*columns, strict=True))
    sequences = [sequence for row in rows for sequence in task.sequences(row)]
    check_room(tokenizer, task, max_length)
    has_types = "token_type_ids" in tokenizer.model_input_names
    ids, token_types, lengths = [], [], []
    for start in range(0, len(sequences), _CHUNK):
        texts = [[as_text(text) for text in part] for part in zip(*sequences[start : start + _CHUNK], strict=True)]
        try:
            with panics_as_errors():
                encoded = tokenizer(
                    *texts,
                    truncation=_TRUNCATION[task.truncate] if len(texts) == 2 else True,
                    max_length=max_length,
                    padding=False,
                    return_attention_mask=False,
                    return_token_type_ids=has_types,
                )
        except Exception as error:
            raise _explained(tokenizer, task, max_length, error) from error
        lengths += map(len, encoded["input_ids"])
        _check_lengths(tokenizer, task, max_length, lengths, start)
        ids.append(np.fromiter(itertools.chain.from_iterable(encoded["input_ids"]), np.int32))
        types = itertools.chain.from_iterable(encoded["token_type_ids"]) if has_types else None
        token_types.append(np.fromiter(types, np.int32) if has_types else np.zeros_like(ids[-1]))
    return Encoded(
        ids=np.concatenate(ids),
        token_types=np.concatenate(token_types),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=labels_of(task, table[task.label_column]) if labels else no_labels(task, num_rows(table)),
        questions=np.array([table[name] for name in QUESTION] if task.has_questions else np.zeros((3, 0))).T,
        num_choices=task.num_choices,
        pad_id=tokenizer.pad_token_id or 0,
    )


def check_room(tokenizer: Any, task: Task, max_length: int) -> None:
    """Checks that a length leaves a token or more for each text of a sequence, beside the special ones."""
    num_texts = len(task.texts) + bool(task.choices)
    special = tokenizer.num_special_tokens_to_add(pair=num_texts == 2)
    if max_length < special + num_texts:
        raise InputError(
            f"task {task.name}: a max_length of {max_length} leaves no room for its {num_texts} texts beside {special}"
            f" special tokens; pass --max-length {special + num_texts} or more."
        )


def _check_lengths(tokenizer: Any, task: Task, max_length: int, lengths: list[int], start: int) -> None:
    """Checks that sequences, from one on, have a token and are cut where needed: tokenizers in Python may not cut."""
    if max(lengths[start:]) > max_length:
        raise _explained(tokenizer, task, max_length, Panic("Truncation error"))
    if min(lengths[start:]) == 0:
        row = lengths.index(0, start) // task.num_choices + 1
        raise InputError(
            f"task {task.name}, row {row}: nothing is left of its text, since the tokenizer of {tokenizer.name_or_path}"
            " adds no special tokens; fill in the text, or use a tokenizer that adds them, such as [CLS] and [SEP]."
        )


def _explained(tokenizer: Any, task: Task, max_length: int, error: Exception) -> Exception:
    """Explains a tokenizer's error where the text or its file is the cause; any other is ours and stays as it is."""
    if type(error) is not Exception and not isinstance(error, Panic):  # it has no types of its own
        return error
    if "runcation error" in str(error):
        return InputError(
            f"task {task.name}: truncate {task.truncate!r} cuts the first text only, and some second text alone fills"
            f" {max_length} tokens; pass a larger --max-length, or set truncate to 'longest_first' in the task's row."
        )
    return InputError(
        f"{tokenizer.name_or_path}: its tokenizer fails on the texts of task {task.name} ({error}); restore"
        " tokenizer.json."
    )


def check_ids(encoded: Encoded, backbone: Any, where: str) -> Encoded:
    """Checks that a backbone has an embedding for every token, and returns the split; one it lacks would give NaN."""
    tables = [("token", encoded.ids, backbone.vocab_size)]
    if backbone.type_vocab_size:  # else the types are not looked up
        tables.append(("token type", encoded.token_types, backbone.type_vocab_size))
    for what, ids, size in tables:
        if ids.max(initial=0) >= size:
            raise InputError(
                f"{where}: its tokenizer gives {what} id {ids.max()}, its weights hold {size} ids; the tokenizer is"
                " another model's: restore the folder."
            )
    return encoded


def cached(tokenizer: Any, task: Task, table: "Table | Dataset", *, max_length: int) -> Encoded:
    """``encode``, kept in the user's cache folder under a hash of all it depends on; a damaged file is made again."""
    where, table = cache_folder("tokens"), read_table(table)
    if where is None:
        return encode(tokenizer, task, table, max_length=max_length)
    path = where / f"{_fingerprint(tokenizer, task, table, max_length)}.npz"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        mark_used(path)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return Encoded(**{name: file[name] if file[name].ndim else int(file[name]) for name in file.files})
    encoded = encode(tokenizer, task, table, max_length=max_length)
    with contextlib.suppress(OSError), whole_file(path) as temporary:  # a full disk must not end the run
        names = [
            field.name for field in dataclasses.fields(encoded) if field.name not in ("available", "origin", "unit")
        ]
        np.savez(temporary, **{name: getattr(encoded, name) for name in names})
    return encoded


def _fingerprint(tokenizer: Any, task: Task, table: Table, max_length: int) -> str:
    """Hashes everything the encoding depends on."""
    settings = [_VERSION, max_length, task.to_dict()]
    settings += [tokenizer.pad_token_id, tokenizer.model_input_names, tokenizer.truncation_side]
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(describe_tokenizer(tokenizer).encode())
    for name in (*task.fields, task.label_column, *(QUESTION if task.has_questions else ())):
        digest.update(name.encode())
        for value in table[name]:  # one by one: a long column would double the memory
            digest.update(json.dumps(value, default=str).encode() + b"\n")
    return digest.hexdigest()


def describe_tokenizer(tokenizer: Any) -> str:
    """Everything that a tokenizer's ids of a text depend on; of one in Python its class and files."""
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        # Left over from the file or from the last call, and set anew by the next one.
        backend.no_truncation()
        backend.no_padding()
        return backend.to_str()
    where, content = Path(tokenizer.name_or_path), [type(tokenizer).__name__, metadata.version("transformers")]
    for name in (*sorted(tokenizer.vocab_files_names.values()), *SETTINGS):
        content += [name, hashlib.sha256((where / name).read_bytes()).hexdigest()] if (where / name).exists() else []
    return json.dumps(content)
