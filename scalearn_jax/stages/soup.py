"""AdapterSoup's weights: how alike the training texts of the target and of the sources are (method.md, "AdapterSoup").

    u_i        = mean over tokens of the last hidden layer, divided by its length      one unit vector a text
    sim(a, b)  = mean_{i,j} cos(u_i, v_j) = mean_i(u_i) . mean_j(v_j)
    w_t        = max(sim_t, 0) for the k largest, else 0, divided by their sum

The middle line turns n^2 cosines into one product, so a task is summed up by one vector.

Letters: n texts, d hidden size, T source tasks.
"""

import contextlib
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax.config import TransferConfig
from scalearn_jax.data import splits, tokens
from scalearn_jax.data.rows import Table, num_rows
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io.cache import cache_folder, mark_used
from scalearn_jax.io.files import whole_file
from scalearn_jax.models import pretrained
from scalearn_jax.runs.backbone import Backbone, embed, load_backbone
from scalearn_jax.runs.sources import Source

SAMPLES = 1000
_VERSION = 1  # of the cached vectors; another way to embed needs another number
SEED = 42
_SMALLEST_LENGTH = 1e-12


@dataclasses.dataclass(frozen=True)
class Soup:
    """What the weights are and where they come from."""

    weights: tuple[float, ...]  # in bank order, sum 1
    similarities: dict[str, float]  # of each source with the target, by name
    embedder: dict[str, str | None]  # path, revision and hash of the sentence encoder
    samples: int  # largest number of training texts a task

    def to_dict(self) -> dict[str, Any]:
        """Returns the provenance, for ``run.json``; the spec holds the weights."""
        return {"similarities": self.similarities, "embedder": self.embedder, "samples": self.samples}


def load_embedder(path: str, revision: str | None = None, *, allow_pickle: bool = False) -> Backbone:
    """Reads a sentence encoder of any family that backbones may have."""
    try:
        return load_backbone(path, revision, allow_pickle=allow_pickle)
    except InputError as error:
        raise InputError(f"--embedder: {error}") from error


def measure(config: TransferConfig, target: Task, train: Table, sources: Sequence[Source], backbone: Backbone) -> Soup:
    """Weighs T sources, in bank order, by how alike their training texts and the target's are.

    The draw of texts depends on the tasks alone, so all seeds and runs get the same weights. The target's own adapter
    may be among the sources. The backbone embeds where the config names no other encoder. A source without data is an
    error.
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

    def mean_vector(task: Task, table: Table) -> np.ndarray:
        return _mean_vector(embedder, embedder.tokenizer, task, sample_texts(task, table, samples))

    own = mean_vector(target, train)
    alike = [float(own @ mean_vector(*_training_data(source, config.data_dir))) for source in sources]
    names = [source.name for source in sources]
    labels = [name if names.count(name) == 1 else f"{name} ({s.path})" for name, s in zip(names, sources, strict=True)]
    return Soup(
        weights=weights(alike, config.top_sources),
        similarities=dict(zip(labels, alike, strict=True)),
        embedder=pretrained.locate_backbone(embedder.path, embedder.revision) | {"hash": embedder.hash},
        samples=samples,
    )


def _training_data(source: Source, data_dir: str | None) -> tuple[Task, Table]:
    """Reads a source's training split: from the place it had in training, or else from the target's data folder."""
    info, recorded = source.info, source.info["data_dir"]  # of a result in memory, its sets
    is_there = isinstance(recorded, Mapping) or (recorded and Path(recorded).is_dir())
    try:
        task = Task.from_dict(info["task"])
        return task, splits.load_splits(
            task,
            data_dir=recorded if data_dir is None or is_there else data_dir,
            max_train_samples=info["config"].get("max_train_samples"),
            sample_seed=info["config"].get("sample_seed"),
        ).train
    except InputError as error:
        raise InputError(f"--top-sources, source {source.name} ({source.path}): {error}") from error


def _mean_vector(embedder: Backbone, tokenizer: Any, task: Task, texts: list[str]) -> np.ndarray:
    """Embeds a task's texts to one vector Float64[d], kept in the user's cache under a hash of all it depends on."""
    length = min(task.max_length, embedder.spec.max_length)
    path = _cached(embedder, tokenizer, texts, length)
    vector = path and _load(path, embedder.spec.hidden_size)
    if vector is None:
        plain = Task(task.name, "regression", ("text",))
        encoded = tokens.encode(tokenizer, plain, {"text": texts}, max_length=length, labels=False)
        tokens.check_ids(encoded, embedder.spec, embedder.path)
        vectors = embed(embedder.params, embedder.spec, encoded, row_length=length)
        vector = mean_unit_vector(vectors)
        if path:
            _save(path, vector)
    return vector


def _cached(embedder: Backbone, tokenizer: Any, texts: list[str], length: int) -> Path | None:
    where = cache_folder("similarity")
    settings = [_VERSION, jax.default_backend(), dataclasses.asdict(embedder.spec), embedder.hash]
    content = json.dumps([*settings, tokens.describe_tokenizer(tokenizer), length, texts])
    return where and where / f"{hashlib.sha256(content.encode()).hexdigest()}.npy"


def _load(path: Path, size: int) -> np.ndarray | None:
    mark_used(path)
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vector if vector.shape == (size,) and np.isfinite(vector).all() else None


def _save(path: Path, vector: np.ndarray) -> None:
    with contextlib.suppress(OSError), whole_file(path) as temporary:  # a full disk must not end the run
        np.save(temporary, vector)


def sample_texts(task: Task, table: Table, count: int) -> list[str]:
    """Draws texts of a task, in the order of the table; the draw depends on the task's name and rows alone."""
    size = num_rows(table)
    generator = np.random.default_rng((SEED, zlib.crc32(task.name.encode())))
    rows = np.sort(generator.permutation(size)[:count]).tolist()
    return [task.similarity_text({name: table[name][row] for name in task.columns}) for row in rows]


def mean_unit_vector(vectors: np.ndarray) -> np.ndarray:
    """Averages vectors Float[n d] after dividing each by its length: Float64[d].

    The product of two such means is their mean cosine.

    Example:
      >>> mean_unit_vector(np.array([[2.0, 0.0], [0.0, 5.0]])).tolist()
      [0.5, 0.5]
    """
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, _SMALLEST_LENGTH)).mean(0)


def weights(similarities: Sequence[float], top: int) -> tuple[float, ...]:
    """Turns similarities into AdapterSoup's weights: negatives to 0, all but the largest ``top`` to 0, sum 1.

    Of equal ones, those first in order stay. It is an error if none is above 0.

    Example:
      >>> weights([0.75, -0.5, 0.25, 0.25], top=2)
      (0.75, 0.0, 0.25, 0.0)
    """
    clipped = np.maximum(np.asarray(similarities, np.float64), 0)
    kept = np.argsort(-clipped, kind="stable")[:top]
    chosen = np.zeros_like(clipped)
    chosen[kept] = clipped[kept]
    if not chosen.sum() > 0:  # also refuses NaN
        listed = ", ".join(f"{value:.3f}" for value in similarities)
        raise InputError(
            f"--top-sources: no source's training texts are like the target's (similarities {listed}); pass --weights,"
            " or another --embedder."
        )
    return tuple((chosen / chosen.sum()).tolist())
