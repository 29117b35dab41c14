"""AdapterSoup's weights for a run: reads the training texts of target and sources and compares them.

Letters: T source tasks, d hidden size.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax.config import TransferConfig
from scalearn_jax.data import splits, tokens
from scalearn_jax.data.rows import Table
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io.cache import cache_folder
from scalearn_jax.io.files import whole_file
from scalearn_jax.models import pretrained
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.runs.sources import Source
from scalearn_jax.stages import similarity
from scalearn_jax.typing import Params

SAMPLES = 1000
_VERSION = 1  # of the cached vectors; another way to embed needs another number


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A sentence encoder.

    Attributes:
      path: folder or hub id.
      revision: commit, tag or branch of a hub id.
      params: its tree.
      spec: its sizes.
      hash: its content hash.
    """

    path: str
    revision: str | None
    params: Params
    spec: BackboneSpec
    hash: str


@dataclasses.dataclass(frozen=True)
class Soup:
    """What the weights are and where they come from.

    Attributes:
      weights: T weights in bank order, sum 1.
      similarities: of each source with the target, by name.
      embedder: path, revision and hash of the sentence encoder.
      samples: largest number of training texts a task.
    """

    weights: tuple[float, ...]
    similarities: dict[str, float]
    embedder: dict[str, str | None]
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the provenance, for ``run.json``; the spec holds the weights."""
        return {"similarities": self.similarities, "embedder": self.embedder, "samples": self.samples}


def load_embedder(path: str, revision: str | None = None, *, allow_pickle: bool = False) -> Embedder:
    """Reads a sentence encoder of any family that backbones may have.

    Raises:
      InputError: nothing found there, or weights the encoder cannot read.
    """
    try:
        return Embedder(path, revision, *pretrained.load_hashed_backbone(path, revision, allow_pickle=allow_pickle))
    except InputError as error:
        raise InputError(f"--embedder: {error}") from error


def measure(config: TransferConfig, target: Task, train: Table, sources: Sequence[Source], backbone: Embedder) -> Soup:
    """Weighs sources by how alike their training texts and the target's are; see ``similarity``.

    The draw of texts depends on the tasks alone, so all seeds and runs get the same weights.

    Args:
      config: with ``top_sources``.
      target: the target task.
      train: its training split, as trained on.
      sources: T source adapters, in bank order; the target's own may be among them.
      backbone: makes the sentence embeddings where the config names no other encoder.

    Returns:
      The weights, with the similarities they come from.

    Raises:
      InputError: a source without data, or no source that is like the target.
    """
    samples = config.similarity_samples or SAMPLES
    for source in sources:
        if source.info is None:
            raise InputError(
                f"source {source.name} ({source.path}) is an AdapterHub folder, which does not name its training"
                " data; --top-sources needs the texts of every source: pass --weights instead."
            )
    other = config.embedder
    embedder = load_embedder(other, allow_pickle=config.allow_pickle) if other else backbone
    embedder = dataclasses.replace(embedder, params=jax.tree.map(jnp.asarray, embedder.params))
    tokenizer = tokens.load_tokenizer(embedder.path, embedder.revision)

    def mean_vector(task: Task, table: Table) -> np.ndarray:
        return _mean_vector(embedder, tokenizer, task, similarity.sample_texts(task, table, samples))

    own = mean_vector(target, train)
    alike = [float(own @ mean_vector(*_training_data(source, config.data_dir))) for source in sources]
    names = [source.name for source in sources]
    labels = [name if names.count(name) == 1 else f"{name} ({s.path})" for name, s in zip(names, sources, strict=True)]
    return Soup(
        weights=similarity.weights(alike, config.top_sources),
        similarities=dict(zip(labels, alike, strict=True)),
        embedder=pretrained.locate_backbone(embedder.path, embedder.revision) | {"hash": embedder.hash},
        samples=samples,
    )


def _training_data(source: Source, data_dir: str | None) -> tuple[Task, Table]:
    """Reads a source's training split: from the place it had in training, or else from the target's data folder."""
    info, recorded = source.info, source.info["data_dir"]
    try:
        task = Task.from_dict(info["task"])
        return task, splits.load_splits(
            task,
            data_dir=recorded if data_dir is None or (recorded and Path(recorded).is_dir()) else data_dir,
            max_train_samples=info["config"].get("max_train_samples"),
        ).train
    except InputError as error:
        raise InputError(f"--top-sources, source {source.name} ({source.path}): {error}") from error


def _mean_vector(embedder: Embedder, tokenizer: Any, task: Task, texts: list[str]) -> np.ndarray:
    """Embeds a task's texts to one vector Float64[d], kept in the user's cache under a hash of all it depends on."""
    length = min(task.max_length, embedder.spec.max_length)
    path = _cached(embedder, tokenizer, texts, length)
    vector = path and _load(path, embedder.spec.hidden_size)
    if vector is None:
        plain = Task(task.name, "regression", ("text",))
        encoded = tokens.encode(tokenizer, plain, {"text": texts}, max_length=length, labels=False)
        tokens.check_ids(encoded, embedder.spec, embedder.path)
        vectors = similarity.embed(embedder.params, embedder.spec, encoded, row_length=length)
        vector = similarity.mean_unit_vector(vectors)
        if path:
            _save(path, vector)
    return vector


def _cached(embedder: Embedder, tokenizer: Any, texts: list[str], length: int) -> Path | None:
    where = cache_folder("similarity")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # left over from the last call, and set anew by the next one
    backend.no_padding()
    settings = [_VERSION, jax.default_backend(), dataclasses.asdict(embedder.spec), embedder.hash, backend.to_str()]
    content = json.dumps([*settings, length, texts])
    return where and where / f"{hashlib.sha256(content.encode()).hexdigest()}.npy"


def _load(path: Path, size: int) -> np.ndarray | None:
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vector if vector.shape == (size,) and np.isfinite(vector).all() else None


def _save(path: Path, vector: np.ndarray) -> None:
    with contextlib.suppress(OSError), whole_file(path) as temporary:  # a full disk must not end the run
        np.save(temporary, vector)
