"""Training a head alone: a frozen encoder without dropout gives an example the same features in every epoch.

AdapterSoup, probing and a head on the bare backbone change nothing below their head, so each example's features are
computed once and the steps run on them.

Letters: M members (seeds trained together), B examples, N sequences, d hidden size.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from scalearn_jax import methods, model, tree
from scalearn_jax.data import batches
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.models.dropout import DropoutKeys
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train import parallel, preemption
from scalearn_jax.train.evaluate import scores
from scalearn_jax.typing import Array, Batch, FeatureBatch, Params


def trains_head_only(method: methods.Method, spec: model.ModelSpec) -> bool:
    """Whether nothing below the head changes or is random in training.

    Example:
      >>> trains_head_only(methods.get("soup"), model.ModelSpec(None, backbone_dropout=False))
      True
    """
    return method.trainable == ("head",) and not spec.backbone_dropout


def forward(params: Params, batch: FeatureBatch, *, spec: model.ModelSpec, task: str, keys: DropoutKeys) -> Array:
    """``model.apply`` from features on, with the dropout masks that it would draw."""
    return model.predict(params, batch.features, spec=spec, task=task, key=keys.head)


def compute(setup: Setup, encoded: Encoded, examples: np.ndarray) -> np.ndarray:
    """Computes the features of some examples.

    Args:
      setup: the model and its frozen half.
      encoded: the split.
      examples: Int[n], which; each once.

    Returns:
      Float[n K d], in the order of ``examples``.
    """
    nothing = jax.tree.map(lambda leaf: leaf[:1], setup.trainable)  # the encoder needs none of it
    size, step = setup.config.eval_batch_size, encode_step(setup.spec, setup.mesh)
    found = []
    for batch in encode_batches(setup, encoded, examples):
        preemption.boundary()
        encoded_rows = np.asarray(step(nothing, setup.frozen, batch))[0]
        found.append(encoded_rows.reshape(size, encoded.num_choices, -1)[batch.example_mask])
    return np.concatenate(found)


def encode_batches(setup: Setup, encoded: Encoded, examples: np.ndarray) -> Iterator[Batch]:
    """Yields the batches that ``compute`` encodes, all of one shape."""
    size, length = setup.config.eval_batch_size, setup.task.max_length
    rows = parallel.divisible(int(batches.epoch_rows(encoded, examples, size, length).max()), setup.mesh)
    layout = {"batch_size": size, "row_length": length, "row_choices": (rows,), "packed": setup.config.packed}
    chunks = (examples[start : start + size] for start in range(0, len(examples), size))
    return (batches.make_batch(encoded, chunk, **layout) for chunk in chunks)


@functools.cache
def encode_step(spec: model.ModelSpec, mesh: Mesh) -> parallel.Compiled:
    """Compiles the encoder of a spec once a process and mesh: (trainable, frozen, batch) -> Float[1 N d]."""

    def encode(trainable: Params, frozen: Params, batch) -> Array:
        return model.features(tree.combine(trainable, frozen), batch, spec=spec)

    return parallel.compile_predict_step(encode, mesh)


def train_batches(setup: Setup, num_steps: int, start_step: int = 0) -> Iterator[FeatureBatch]:
    """Yields the batches of ``training.member_batches`` as features, with a leading member axis.

    Only examples that some step uses are encoded.
    """
    config, encoded = setup.config, setup.data.train
    orders = [_examples(encoded, seed, config.batch_size, num_steps) for seed in config.seeds]
    used = used_examples(setup, num_steps)
    table, place = compute(setup, encoded, used), np.zeros(len(encoded), int)
    place[used] = np.arange(len(used))
    for members in itertools.islice(zip(*orders, strict=True), start_step, None):
        lots = [_batch(table[place[examples]], encoded.labels[examples], config.batch_size) for examples in members]
        yield FeatureBatch(*(np.stack(leaves) for leaves in zip(*lots, strict=True)))


def used_examples(setup: Setup, num_steps: int) -> np.ndarray:
    """The training examples that some step of some seed uses, each once."""
    encoded, size = setup.data.train, setup.config.batch_size
    orders = (_examples(encoded, seed, size, num_steps) for seed in setup.config.seeds)
    return np.unique(np.concatenate([examples for order in orders for examples in order]))


def _examples(encoded: Encoded, seed: int, batch_size: int, num_steps: int) -> list[np.ndarray]:
    """The examples of each step of a seed."""
    per_epoch = batches.steps_per_epoch(len(encoded), batch_size)
    orders = (batches.order(seed, epoch, len(encoded)) for epoch in range(-(-num_steps // per_epoch)))
    steps = [order[start : start + batch_size] for order in orders for start in range(0, len(order), batch_size)]
    return steps[:num_steps]


def _batch(features: np.ndarray, labels: np.ndarray, size: int) -> FeatureBatch:
    """Fills a short last batch up; features [n K d] become [B*K d]."""
    missing = size - len(labels)
    features, padded = (np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in (features, labels))
    return FeatureBatch(features.reshape(-1, features.shape[-1]), np.arange(size) < len(labels), padded)


def evaluator(setup: Setup, encoded: Encoded) -> Callable[[Params], list[dict[str, float]]]:
    """Returns trainable trees [M ...] -> metrics of each member on a split, whose features are computed once."""
    tables: list[np.ndarray] = []  # filled when it is first needed
    frozen, spec, task = setup.frozen, setup.spec, setup.task

    @jax.jit
    def logits(trainable: Params, frozen: Params, first: Array) -> Array:
        one = lambda member: model.predict(tree.combine(member, frozen), first, spec=spec, task=task.name)  # noqa: E731
        return jax.vmap(one)(trainable)

    def evaluate(trainable: Params) -> list[dict[str, float]]:
        if not tables:  # training has given up the setup's own parameters by now
            table = compute(dataclasses.replace(setup, trainable=trainable), encoded, np.arange(len(encoded)))
            tables.append(table.reshape(-1, table.shape[-1]))  # [N, d]
        return scores(task, np.asarray(logits(trainable, frozen, tables[0])), encoded)

    return evaluate
