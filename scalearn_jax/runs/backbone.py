"""A pretrained encoder, read once and used many times: sizes, weights, tokenizer, and what it makes of texts.

Letters: n texts, N texts of a batch, R rows, S row length, d hidden size.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax.data import batches, tokens
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.errors import InputError, format_value, unknown
from scalearn_jax.models import encoder, pretrained
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.runs.serving import questions
from scalearn_jax.runs.serving.questions import PAIR, PlainTask
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.typing import Array, Batch, Params

_BATCH_SIZE = 32
# What a text's vector is must not depend on the texts beside it, to the last bit: the shapes are the same for all.
_ROW_CHOICES = (4, 8, 16, 32)
_MOST_PROGRAMS = 12  # of some encoders; they go before another one comes
_POOLS = ("mean", "first")


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A pretrained encoder; ``load_backbone`` makes it.

    Attributes:
      path: folder or hub id.
      revision: commit, tag or branch of a hub id.
      params: the backbone tree of ``model.init``, numpy arrays in float32.
      spec: its sizes, for ``ModelSpec``.
      hash: of its content.
    """

    path: str
    revision: str | None
    params: Params
    spec: BackboneSpec
    hash: str

    @functools.cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer, of ``transformers``; read when it is first asked for."""
        return tokens.load_tokenizer(self.path, self.revision)

    def __repr__(self) -> str:
        spec = self.spec
        return f"Backbone({self.path}: {spec.family}, {spec.num_layers} layers, hidden size {spec.hidden_size})"

    def encode(
        self, texts: Any, *, pool: Literal["mean", "first"] | None = None, max_length: int | None = None
    ) -> np.ndarray | list[np.ndarray]:
        """Computes the states of the last layer for texts, without dropout or adapters.

        Args:
          texts: a text, or texts in a list, an array, a column of a table or a generator; pairs of texts as tuples.
          pool: ``"mean"`` averages over the tokens of a text, special ones included; ``"first"`` takes the first token.
          max_length: tokens after which a text is cut; by default as many as the encoder takes.

        Returns:
          Float[n d]; where nothing is pooled, a list of n arrays Float[tokens of the text, d].

        Raises:
          InputError: no texts, another ``pool``, or a length that the encoder does not take.

        Example:
          >>> load_backbone("roberta-base").encode(["A fine day."], pool="mean").shape  # doctest: +SKIP
          (1, 768)
        """
        if pool is not None and pool not in _POOLS:
            raise unknown("pool", pool, _POOLS)
        length = self.spec.max_length if max_length is None else max_length
        if type(length) is not int or not 4 <= length <= self.spec.max_length:
            raise InputError(
                f"max_length: expected a whole number from 4 to {self.spec.max_length}, got {format_value(max_length)}."
            )
        task = PlainTask("texts", "regression", ("text", PAIR))
        asked = questions.of_texts(texts, None, {"texts": task})
        if not asked:
            return np.zeros((0, self.spec.hidden_size), np.float32) if pool else []
        [query] = asked
        encoded = tokens.encode(self.tokenizer, query.task, query.table, max_length=length, labels=False)
        tokens.check_ids(encoded, self.spec, self.path)
        longest = min(length, max(8, 1 << (int(encoded.lengths.max()) - 1).bit_length()))
        with own_settings():
            params = jax.tree.map(jnp.asarray, self.params)
            return embed(params, self.spec, encoded, row_length=longest, pool=pool)


def load_backbone(path_or_id: str, revision: str | None = None, *, allow_pickle: bool = False) -> Backbone:
    """Reads a pretrained encoder: spec, weights and tokenizer.

    Args:
      path_or_id: a folder, or a hub id, with or without ``@REVISION``.
      revision: branch, tag or commit of a hub id.
      allow_pickle: whether to read ``pytorch_model.bin`` where there are no safetensors; nothing in it is run.

    Raises:
      InputError: nothing found there, a damaged file, or a family outside ``BACKBONES``.

    Example:
      >>> load_backbone("roberta-base")  # doctest: +SKIP
      Backbone(roberta-base: roberta, 12 layers, hidden size 768)
    """
    if not isinstance(path_or_id, str | os.PathLike) or not os.fspath(path_or_id):
        raise InputError(f"backbone: expected a folder or a hub id, got {format_value(path_or_id)}.")
    path_or_id = os.fspath(path_or_id)
    found = pretrained.load_hashed_backbone(path_or_id, revision, allow_pickle=allow_pickle)
    return Backbone(path_or_id, revision, *found)


@functools.partial(jax.jit, static_argnames="spec")
def mean_pool(backbone: Params, batch: Batch, *, spec: BackboneSpec) -> Array:
    """Averages the last hidden layer over each sequence's tokens, without dropout or adapters: Float[N d].

    The batch is of rows [R S] of sequences [N], packed or not.
    """
    hidden = _states(backbone, batch, spec)  # [R, S, d]
    num_rows, row_length = batch.segments.shape
    # Each row has a bucket for each of its sequences, at most S, and one for padding.
    bucket = jnp.arange(num_rows)[:, None] * (row_length + 1) + batch.segments  # [R, S]
    add_up = functools.partial(jax.ops.segment_sum, num_segments=num_rows * (row_length + 1))
    sums = add_up(hidden.reshape(-1, spec.hidden_size), bucket.reshape(-1))  # [R*(S+1), d]
    counts = add_up(jnp.ones_like(bucket).reshape(-1), bucket.reshape(-1))
    own = bucket[batch.example_at[:, 0], batch.example_at[:, 1]]  # [N]
    return sums[own] / counts[own][:, None]


@functools.partial(jax.jit, static_argnames="spec")
def token_states(backbone: Params, batch: Batch, *, spec: BackboneSpec) -> Array:
    """Computes the last hidden layer of rows, without dropout or adapters: Float[R S d]."""
    return _states(backbone, batch, spec)


def _states(backbone: Params, batch: Batch, spec: BackboneSpec) -> Array:
    return encoder.encode(encoder.Adapted(backbone), batch, spec, encoder.Compute(layers="scan"))[0]


def embed(
    backbone: Params,
    spec: BackboneSpec,
    encoded: Encoded,
    *,
    row_length: int,
    packed: bool = True,
    pool: str | None = "mean",
) -> np.ndarray | list[np.ndarray]:
    """Encodes n texts, one sequence each: Float[n d], or without ``pool`` a list of Float[tokens d]; not normalised.

    Compiles once for each of at most four shapes. The backbone is best already on the device; a row is at least as
    long as the longest text.
    """
    program = mean_pool if pool == "mean" else token_states
    if program._cache_size() > _MOST_PROGRAMS:
        program.clear_cache()
    layout = dict(batch_size=_BATCH_SIZE, row_length=row_length, row_choices=_ROW_CHOICES, packed=packed)
    found: list[np.ndarray] = []
    for batch in batches.eval_batches(encoded, **layout):
        part = np.asarray(program(backbone, batch, spec=spec))
        if pool != "mean":
            own = encoded.lengths[len(found) :][: batch.example_mask.sum()]
            part = _cut(part, batch.example_at, own if pool is None else np.ones_like(own))
        found += [*(part[batch.example_mask] if pool == "mean" else part)]
    return [*found] if pool is None else np.stack([one.reshape(-1) for one in found])


def _cut(states: np.ndarray, at: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    """Cuts the states Float[length d] of sequences out of rows, from where each begins."""
    places = zip(at, lengths, strict=False)  # fillers come last
    return [states[row, column : column + length] for (row, column), length in places]
