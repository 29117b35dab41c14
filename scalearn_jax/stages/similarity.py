"""How alike the training texts of two tasks are, and the weights AdapterSoup makes of that (method.md, "AdapterSoup").

    u_i        = mean over tokens of the last hidden layer, divided by its length      one unit vector a text
    sim(a, b)  = mean_{i,j} cos(u_i, v_j) = mean_i(u_i) . mean_j(v_j)
    w_t        = max(sim_t, 0) for the k largest, else 0, divided by their sum

The middle line turns n^2 cosines into one product, so a task is summed up by one vector.

Letters: n texts, B texts of a batch, R rows, S row length, d hidden size, T source tasks.
"""

import functools
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax.data import batches
from scalearn_jax.data.rows import Table, num_rows
from scalearn_jax.data.task import Task
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.errors import InputError
from scalearn_jax.models import encoder
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.typing import Array, Batch, Params

SEED = 42
_BATCH_SIZE = 32
# What a task's vector is must not depend on the tasks beside it, to the last bit: the shapes are the same for all.
_ROW_CHOICES = (4, 8, 16, 32)
_SMALLEST_LENGTH = 1e-12


def sample_texts(task: Task, table: Table, count: int) -> list[str]:
    """Draws texts of a task without replacement; the draw depends on the task's name and rows alone.

    Args:
      task: says which columns make the text.
      table: the rows.
      count: how many; all of them where there are no more.

    Returns:
      The texts, in the order of the table.

    Example:
      >>> sample_texts(Task("demo", "regression", ("text",)), {"text": ["a", "b"]}, 5)
      ['a', 'b']
    """
    size = num_rows(table)
    generator = np.random.default_rng((SEED, zlib.crc32(task.name.encode())))
    rows = np.sort(generator.permutation(size)[:count]).tolist()
    return [task.similarity_text({name: table[name][row] for name in task.columns}) for row in rows]


@functools.partial(jax.jit, static_argnames="spec")
def mean_pool(backbone: Params, batch: Batch, *, spec: BackboneSpec) -> Array:
    """Averages the last hidden layer over each sequence's tokens, without dropout or adapters.

    Args:
      backbone: the encoder's tree.
      batch: rows [R S] of sequences [N], packed or not.
      spec: sizes of the encoder.

    Returns:
      Float[N d].
    """
    hidden, _ = encoder.encode(encoder.Adapted(backbone), batch, spec, encoder.Compute(layers="scan"))  # [R, S, d]
    num_rows, row_length = batch.segments.shape
    # Each row has a bucket for each of its sequences, at most S, and one for padding.
    bucket = jnp.arange(num_rows)[:, None] * (row_length + 1) + batch.segments  # [R, S]
    add_up = functools.partial(jax.ops.segment_sum, num_segments=num_rows * (row_length + 1))
    sums = add_up(hidden.reshape(-1, spec.hidden_size), bucket.reshape(-1))  # [R*(S+1), d]
    counts = add_up(jnp.ones_like(bucket).reshape(-1), bucket.reshape(-1))
    own = bucket[batch.example_at[:, 0], batch.example_at[:, 1]]  # [N]
    return sums[own] / counts[own][:, None]


def embed(
    backbone: Params, spec: BackboneSpec, encoded: Encoded, *, row_length: int, packed: bool = True
) -> np.ndarray:
    """Embeds texts: the mean over tokens of the last hidden layer; compiles once for each of at most four shapes.

    Args:
      backbone: the encoder's tree, best already on the device.
      spec: its sizes.
      encoded: n texts, one sequence each.
      row_length: S, at least the longest text.
      packed: several texts a row, or one.

    Returns:
      Float[n d], not normalised.

    Example:
      >>> spec = BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12)
      >>> ids = np.array([2, 7, 9, 3, 2, 8, 3])
      >>> texts = Encoded(ids, np.zeros_like(ids), np.array([0, 4, 7]), np.zeros(2))
      >>> embed(encoder.init(jax.random.key(0), spec), spec, texts, row_length=8).shape
      (2, 8)
    """
    layout = dict(batch_size=_BATCH_SIZE, row_length=row_length, row_choices=_ROW_CHOICES, packed=packed)
    stream = batches.eval_batches(encoded, **layout)
    parts = [np.asarray(mean_pool(backbone, batch, spec=spec))[batch.example_mask] for batch in stream]
    return np.concatenate(parts)


def mean_unit_vector(vectors: np.ndarray) -> np.ndarray:
    """Averages vectors after dividing each by its length; the product of two such means is their mean cosine.

    Args:
      vectors: Float[n d].

    Returns:
      Float64[d].

    Example:
      >>> mean_unit_vector(np.array([[2.0, 0.0], [0.0, 5.0]])).tolist()
      [0.5, 0.5]
    """
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, _SMALLEST_LENGTH)).mean(0)


def weights(similarities: Sequence[float], top: int) -> tuple[float, ...]:
    """Turns similarities into AdapterSoup's weights: negatives to 0, all but the largest ``top`` to 0, sum 1.

    Args:
      similarities: of the T sources with the target.
      top: k, how many to keep; all of them where there are no more. Of equal ones, those first in order stay.

    Returns:
      T weights.

    Raises:
      InputError: no similarity is above 0.

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
