"""Tiny models and batches the tests share."""

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import model, tree
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.typing import Batch

# without dropout of its own: each dropout adds a generator to every compiled program
BACKBONE = BackboneSpec("roberta", 50, 16, 2, 2, 32, 40, 1, 1, 2, 1e-5, hidden_dropout=0.0, attention_dropout=0.0)
# these make their own weights and need no bank
GENERATED = ("compacter", "ia3", "propetl", "propetl-m", "hyperformer", "hyperformer++")
HYPER = {"embedding_size": 6, "projector_size": 5, "projected_size": 4}
NUM_SOURCES = 3
OPTIONS = {
    "fixed": {"coefficients": (0.5, -1.0, 2.0)},
    "average": {"weights": (0.2, 0.3, 0.5)},
    "ia3": {"intermediate_size": 32},
    "hyperformer": HYPER,
    "hyperformer++": HYPER,
}


def spec(combiner: str = "scalearn", **changes) -> model.ModelSpec:
    """A two-layer model over three sources, head ``"demo"`` with three classes."""
    options = OPTIONS.get(combiner, {}) | changes.pop("options", {})
    settings = dict(
        backbone=BACKBONE,
        combiner=combiner,
        combiner_options=tuple(sorted(options.items())),
        heads=(("demo", HeadSpec(num_outputs=3, dropout=0.0)),),
        num_sources={"single": 1, "none": 0}.get(combiner, 0 if combiner in GENERATED else NUM_SOURCES),
        bottleneck=4,
    )
    return model.ModelSpec(**settings | changes)


def params(spec: model.ModelSpec, seed: int = 0):
    """Random parameters N(0, 0.3), layer-norm scales around 1, so that a missing term shows."""
    generator = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), spec))

    def draw(path, leaf):
        return jnp.asarray(generator.normal(float(path.endswith("scale")), 0.3, leaf.shape), leaf.dtype)

    return tree.map_with_path(draw, shapes)


def batch(lengths=(5, 3, 7, 4), row_length: int = 8, seed: int = 0) -> Batch:
    """One sequence a row, padded, with labels in three classes."""
    generator = np.random.default_rng(seed)
    size = len(lengths)
    real = np.arange(row_length)[None] < np.array(lengths)[:, None]
    return Batch(
        tokens=np.where(real, generator.integers(3, 50, (size, row_length)), 1).astype(np.int32),
        token_types=np.zeros((size, row_length), np.int32),
        segments=real.astype(np.int32),
        positions=np.where(real, np.arange(row_length)[None], 0).astype(np.int32),
        example_at=np.stack([np.arange(size), np.zeros(size, int)], 1).astype(np.int32),
        example_mask=np.ones(size, bool),
        labels=generator.integers(0, 3, size).astype(np.int32),
        example_id=np.arange(size, dtype=np.int32),
    )


def pack(padded: Batch, rows: list[list[int]], row_length: int) -> Batch:
    """Lays the sequences of a padded batch out in shared rows; ``rows`` lists who goes where."""
    shape = (len(rows), row_length)
    fields = {name: np.zeros(shape, np.int32) for name in ("token_types", "segments", "positions")}
    tokens, at = np.ones(shape, np.int32), np.zeros_like(padded.example_at)
    for row, members in enumerate(rows):
        column = 0
        for number, member in enumerate(members, 1):
            length = int(padded.segments[member].sum())
            slots = slice(column, column + length)
            tokens[row, slots] = padded.tokens[member, :length]
            fields["segments"][row, slots] = number
            fields["positions"][row, slots] = np.arange(length)
            at[member] = row, column
            column += length
    return padded._replace(tokens=tokens, example_at=at, **fields)


def zeros_like(params):
    """A tree of zeros, for tests that need the shape only."""
    return jax.tree.map(jnp.zeros_like, params)


def largest(a, b) -> float:
    """The largest absolute difference between two trees."""
    a, b = tree.flatten(a), tree.flatten(b)
    assert list(a) == list(b)
    return max(float(np.max(np.abs(np.asarray(a[path]) - np.asarray(b[path])))) for path in a)
