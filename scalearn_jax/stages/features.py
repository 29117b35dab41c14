"""Features without dropout: computed once for a head alone, or as a function of the scales.

AdapterSoup, probing and a head on the bare backbone change nothing below their head: in every epoch the features are
the same.

Letters: M members (seeds trained together), B examples, K sequences an example, N sequences, d hidden size.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from scalearn_jax import methods, model, tree
from scalearn_jax.data import batches
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.errors import InputError
from scalearn_jax.models.dropout import DropoutKeys
from scalearn_jax.stages.setup import Setup
from scalearn_jax.train import agreement
from scalearn_jax.train.compile import (
    Compiled,
    compile_forward,
    compile_predict_step,
    jit_over,
    keep_programs,
    over_members,
)
from scalearn_jax.train.evaluate import Layout, scores
from scalearn_jax.train.sharding import whole
from scalearn_jax.train.state import own_part
from scalearn_jax.typing import Array, Batch, FeatureBatch, Params

_KEPT = 2  # chunks whose states wait for a gradient; those of all chunks could take more memory than a training step


def trains_head_only(method: methods.Method, spec: model.ModelSpec) -> bool:
    """Whether nothing below the head changes or is random in training."""
    return method.trainable == ("head",) and not spec.backbone_dropout


def forward(params: Params, batch: FeatureBatch, *, spec: model.ModelSpec, task: str, keys: DropoutKeys) -> Array:
    """``model.apply`` from the features on, with the dropout masks that it would draw."""
    return model.predict(params, batch.features, spec=spec, task=task, key=keys.head)


def compute(setup: Setup, encoded: Encoded, examples: np.ndarray) -> np.ndarray:
    """Computes the features Float[n K d] of the examples Int[n] of a split, each at most once, in their order."""
    # The encoder uses nothing that trains, and the setup's own parameters may be donated to the first step by now.
    unused = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape[1:]), leaf.dtype), setup.trainable)
    frozen, size, found = frozen_of_first(setup), setup.config.eval_batch_size, []
    step, stream = encoding(setup, encoded, examples)
    for batch in stream:
        agreement.boundary()
        encoded_rows = np.asarray(step(unused, frozen, batch))[0]
        found.append(encoded_rows.reshape(size, encoded.num_choices, -1)[batch.example_mask])
    return np.concatenate(found)


def frozen_of_first(setup: Setup) -> Params:
    """What is frozen of a setup's first member, with a leading axis of 1; below the head all members are alike."""
    return setup.frozen | jax.tree.map(lambda leaf: leaf[:1], own_part(setup.frozen))


def encoding(setup: Setup, encoded: Encoded, examples: np.ndarray) -> tuple[Compiled, Iterator[Batch]]:
    """Returns the encoder that ``compute`` calls, compiled on demand, and its batches, all of one shape."""
    chosen, config = encoded.take(examples), setup.config
    layout = Layout.of([chosen], setup.task.max_length, config.eval_batch_size, packed=config.packed, mesh=setup.mesh)
    return _encode_step(setup.spec.program, layout), layout.batches(chosen)


@keep_programs
def _encode_step(spec: model.ModelSpec, layout: Layout) -> Compiled:
    """Compiles the encoder of a spec for the batches of a layout: (trainable, frozen, batch) -> Float[1 N d]."""

    def encode(trainable: Params, frozen: Params, batch) -> Array:
        return model.features(tree.combine(trainable, frozen), batch, spec=spec)

    return compile_predict_step(encode, layout.mesh)


def train_batches(setup: Setup, num_steps: int, start_step: int = 0) -> Iterator[FeatureBatch]:
    """Yields the batches of ``program.member_batches`` as features, with a leading member axis.

    Only examples that some step uses are encoded.
    """
    encoded, size, used = setup.data.train, setup.config.batch_size, used_examples(setup, num_steps)
    table, place = compute(setup, encoded, used), np.zeros(len(encoded), int)
    place[used] = np.arange(len(used))

    def batch(examples: np.ndarray) -> FeatureBatch:
        missing = size - len(examples)  # of a short last batch; features [n K d] become [B*K d]
        chosen = table[place[examples]], encoded.labels[examples]
        features, labels = (np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in chosen)
        return FeatureBatch(features.reshape(-1, features.shape[-1]), np.arange(size) < len(examples), labels)

    for members in itertools.islice(zip(*_examples(setup, num_steps), strict=True), start_step, None):
        yield batches.stack([batch(examples) for examples in members])


def used_examples(setup: Setup, num_steps: int) -> np.ndarray:
    """The training examples that some step of some seed uses, each once."""
    return np.unique(np.concatenate([examples for steps in _examples(setup, num_steps) for examples in steps]))


def _examples(setup: Setup, num_steps: int) -> list[list[np.ndarray]]:
    """The examples of each step, for each seed."""
    count, size = len(setup.data.train), setup.config.batch_size
    epochs = range(-(-num_steps // batches.steps_per_epoch(count, size)))

    def of_seed(seed: int) -> list[np.ndarray]:
        orders = (batches.order(seed, epoch, count) for epoch in epochs)
        return [order[start : start + size] for order in orders for start in range(0, count, size)][:num_steps]

    return [of_seed(seed) for seed in setup.config.seeds]


def evaluator(setup: Setup, encoded: Encoded) -> Callable[[Params], list[dict[str, float]]]:
    """Returns trainable trees [M ...] -> metrics of each member on a split, whose features are computed once."""
    tables: list[np.ndarray] = []  # filled when it is first needed
    frozen, task = setup.frozen, setup.task

    def evaluate(trainable: Params) -> list[dict[str, float]]:
        if not tables:
            table = compute(setup, encoded, np.arange(len(encoded)))
            tables.append(table.reshape(-1, table.shape[-1]))  # [N, d]
        logits = _logits_step(setup.spec.program, task.name, len(tables[0]))
        return scores(task, np.asarray(logits(trainable, frozen, tables[0])), encoded, diverged=True)

    return evaluate


@keep_programs
def _logits_step(spec: model.ModelSpec, task: str, num_sequences: int) -> Callable:
    """Compiles the head of a task: (trainable, frozen, features Float[N d]) -> logits Float[M B C], for one N."""

    def logits(trainable: Params, frozen: Params, first: Array) -> Array:
        return model.predict(tree.combine(trainable, frozen), first, spec=spec, task=task)

    return jax.jit(over_members(logits, None))


class Features:
    """The features of some examples as a function of the transfer parameters."""

    def __init__(self, setup: Setup, encoded: Encoded, layout: Layout):
        self._shape = (len(encoded), encoded.num_choices, setup.spec.backbone.hidden_size)
        self._chunks, self._frozen = list(layout.batches(encoded)), setup.frozen
        self._programs = _programs(setup.spec.program, setup.mesh)

    def __call__(self, transfer: Params) -> np.ndarray:
        """Computes Float[n d], or Float[n K d] for multiple choice."""
        return self.linearize(transfer)[0]  # costs no more, and needs no program of its own

    def linearize(self, transfer: Params) -> tuple[np.ndarray, Callable[[np.ndarray], Params]]:
        """Computes the features, beside what multiplies a gradient in them, shaped as they are, by their Jacobian."""
        carried, kept = (transfer, self._frozen), []

        def features(chunk: Batch) -> Array:
            first, pullback = self._programs.linearize(carried, chunk)
            kept.append(pullback if len(kept) < _KEPT else None)
            return first

        def pull(cotangent: np.ndarray) -> Params:
            cotangent, parts, start = cotangent.reshape(self._shape).astype(np.float32), [], 0
            for chunk, pullback in zip(self._chunks, kept, strict=True):
                agreement.boundary()
                count, size = int(chunk.example_mask.sum()), len(chunk.example_mask)
                own = np.zeros((size, *self._shape[1:]), np.float32)
                own[:count] = cotangent[start : start + count]
                pullback = pullback or self._programs.linearize(carried, chunk)[1]
                part = self._programs.pull(carried, pullback, own.reshape(-1, self._shape[2]))
                parts.append(jax.tree.map(lambda leaf: np.asarray(leaf, float), part))
                start += count
            return jax.tree.map(lambda *leaves: sum(leaves), *parts)

        return self._joined(map(features, self._chunks)), pull

    def _joined(self, found: Iterable[Array]) -> np.ndarray:
        """Collects the features of the chunks, without those of fillers."""
        rows = []
        for chunk, first in zip(self._chunks, found, strict=True):
            agreement.boundary()
            rows.append(np.asarray(first).reshape(len(chunk.example_mask), *self._shape[1:])[chunk.example_mask])
        features = np.concatenate(rows)
        if not np.isfinite(features).all():
            raise InputError("--fit solve: the features are not finite; check the source adapters, or take --fit sgd.")
        return features if self._shape[1] > 1 else features[:, 0]


@partial(jax.tree_util.register_dataclass, data_fields=("computed",), meta_fields=("places", "form"))
@dataclasses.dataclass
class _Pullback:
    """What ``jax.vjp`` returns, without the parameters that it holds: a program would give back copies of them."""

    computed: list[Array]
    places: tuple[int | None, ...]  # of each leaf among the parameters, or none
    form: Any

    @classmethod
    def of(cls, pullback: Callable, carried: Any) -> "_Pullback":
        leaves, form = jax.tree.flatten(pullback)
        known = {id(leaf): place for place, leaf in enumerate(jax.tree.leaves(carried))}
        places = tuple(known.get(id(leaf)) for leaf in leaves)
        return cls([leaf for leaf, place in zip(leaves, places, strict=True) if place is None], places, form)

    def __call__(self, carried: Any, cotangent: Array) -> Params:
        known, computed = jax.tree.leaves(carried), iter(self.computed)
        leaves = [next(computed) if place is None else known[place] for place in self.places]
        return jax.tree.unflatten(self.form, leaves)(cotangent)[0]


class _Programs(NamedTuple):
    """Compiled over a mesh, for (transfer, frozen) and a batch."""

    linearize: Callable  # the features Float[N d], and their pullback
    pull: Callable  # the parameters, a pullback, a gradient in the features -> the gradient in the transfer parameters


@keep_programs
def _programs(spec: model.ModelSpec, mesh: Mesh) -> _Programs:
    def linearize(carried: tuple[Params, Params], batch: Batch) -> tuple[Array, _Pullback]:
        transfer, frozen = carried
        features = partial(model.features, batch=batch, spec=spec)
        first, pullback = jax.vjp(lambda transfer: features(frozen | {"transfer": transfer}), transfer)
        return first, _Pullback.of(pullback, carried)

    return _Programs(
        compile_forward(linearize, mesh, out_shardings=(whole(mesh), None)),  # a pullback lies as it comes
        jit_over(lambda carried, pullback, cotangent: pullback(carried, cotangent), mesh),
    )
