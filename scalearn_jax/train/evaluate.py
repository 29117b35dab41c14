"""Logits and scores of trained members on a split, as training, serving and reports need them.

Letters: M members (seeds trained together), n examples of a split, B examples of a batch, R rows, C outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scalearn_jax import losses, metrics
from scalearn_jax.data import batches, packing
from scalearn_jax.data.mixture import joint_batch
from scalearn_jax.data.task import Task
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.model import ModelSpec
from scalearn_jax.train import agreement, sharding
from scalearn_jax.train.compile import compile_predict_step, keep_programs
from scalearn_jax.train.step import make_predict_step
from scalearn_jax.typing import Batch, JointBatch, Params

MEAN_METRIC = "metric"  # mean over the tasks of a joint run of their main metrics


class Members(NamedTuple):
    """Trained members, on one of their tasks."""

    spec: ModelSpec  # without the constants that are among what is frozen, see ``ModelSpec.program``
    task: Task  # whose head is used
    trainable: Params  # leading axis M
    frozen: Params  # shared, but for ``state.own_part``
    names: Sequence[str] = ()  # what errors call each member


class Layout(NamedTuple):
    """How the batches of a held-out split are laid out; splits of one layout share one compiled program."""

    batch_size: int  # B
    row_length: int  # slots of a row
    num_rows: int  # R, enough for any batch of the splits
    packed: bool  # whether several sequences share a row; the results are the same
    mesh: Mesh

    @classmethod
    def of(
        cls,
        splits: Sequence[Encoded],
        row_length: int,
        batch_size: int,
        *,
        packed: bool = True,
        mesh: Mesh | None = None,
    ) -> "Layout":
        """Finds the rows that any batch of some splits fits in, evenly shared by the devices (by default all)."""
        mesh = mesh or sharding.make_mesh()
        if packed:
            num_rows = sharding.divisible(packing.eval_rows(splits, batch_size, row_length)[0], mesh)
        else:
            num_rows = batch_size * max(split.num_choices for split in splits)
        return cls(batch_size, row_length, num_rows, packed, mesh)

    def batches(self, encoded: Encoded) -> Iterator[Batch]:
        return batches.eval_batches(
            encoded,
            batch_size=self.batch_size,
            row_length=self.row_length,
            row_choices=(self.num_rows,),
            packed=self.packed,
        )


def score(members: Members, encoded: Encoded, layout: Layout, *, diverged: bool = False) -> list[dict[str, float]]:
    """Evaluates members on a split; returns, for each, the task's metrics and ``loss``.

    Logits that are not finite raise ``FloatingPointError``; if members may have ``diverged``, all numbers of such a
    member are NaN.
    """
    return scores(members.task, member_logits(members, encoded, layout, diverged=diverged), encoded, diverged=diverged)


def scores(task: Task, logits: np.ndarray, encoded: Encoded, *, diverged: bool = False) -> list[dict[str, float]]:
    """Computes the metrics of M members from their logits Float[M n C] on a split, and ``loss``; see ``score``.

    Of a regression also ``rmse``, in the unit that labels have in the data: correlations see no scale and no shift.
    """
    loss, labels = losses.LOSSES[task.kind], jnp.asarray(encoded.labels)
    others = ("rmse",) if task.kind == "regression" else ()

    def of_member(one: np.ndarray) -> dict[str, float]:
        try:
            found = metrics.compute(task.metrics, task.kind, one, encoded.labels, encoded.questions)
        except FloatingPointError:
            if not diverged:
                raise
            return dict.fromkeys(("loss", *task.metrics, *others), np.nan)
        predictions = metrics.predict(task.kind, one)
        beside = {name: encoded.unit[1] * metrics.rmse(predictions, encoded.labels) for name in others}
        return {"loss": float(loss(jnp.asarray(one), labels).mean()), **found, **beside}

    return [of_member(one) for one in logits]


def over_tasks(tasks: Sequence[Task], found: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Joins what members scored on several tasks: each score as ``TASK/NAME``, and means over tasks.

    ``loss`` is the mean development loss, without ReCoRD where there are others, as published; ``metric`` the mean of
    the main metrics.

    Args:
      tasks: the tasks.
      found: of each the metrics of each member, as ``score`` returns them.
    """
    counted = [number for number, task in enumerate(tasks) if task.derive != "record"] or range(len(tasks))

    def of_member(each: Sequence[dict[str, float]]) -> dict[str, float]:
        means = {"loss": float(np.mean([each[number]["loss"] for number in counted]))}
        means[MEAN_METRIC] = float(np.mean([one[task.metrics[0]] for task, one in zip(tasks, each, strict=True)]))
        pairs = zip(tasks, each, strict=True)
        return means | {f"{task.name}/{name}": value for task, one in pairs for name, value in one.items()}

    return [of_member(each) for each in zip(*found, strict=True)]


def errors_over_tasks(tasks: Sequence[Task], found: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Joins standard errors as ``over_tasks`` does scores; that of the mean takes tasks as independent."""

    def of_member(each: Sequence[dict[str, float]]) -> dict[str, float]:
        pairs = list(zip(tasks, each, strict=True))
        main = [one[task.metrics[0]] for task, one in pairs if task.metrics[0] in one]
        means = {MEAN_METRIC: float(np.sqrt(np.sum(np.square(main))) / len(pairs))} if len(main) == len(pairs) else {}
        return means | {f"{task.name}/{name}": value for task, one in pairs for name, value in one.items()}

    return [of_member(each) for each in zip(*found, strict=True)]


def of_task(task: Task, found: dict[str, float]) -> dict[str, float]:
    """Takes the scores of one task out of those that ``over_tasks`` has joined.

    Example:
      >>> of_task(Task("a", "regression", ("text",)), {"loss": 0.5, "a/loss": 0.25, "b/loss": 0.75})
      {'loss': 0.25}
    """
    start = f"{task.name}/"
    return {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)}


def standard_errors(task: Task, logits: np.ndarray, encoded: Encoded) -> list[dict[str, float]]:
    """Estimates the standard errors of the metrics of M members, see ``metrics.standard_errors``."""
    known = task.metrics, task.kind
    return [metrics.standard_errors(*known, one, encoded.labels, encoded.questions) for one in logits]


def member_logits(members: Members, encoded: Encoded, layout: Layout, *, diverged: bool = False) -> np.ndarray:
    """Computes the logits of members on a split, Float[M n C], in the order of the split; see ``score``."""
    spec, task = members.spec, members.task.name
    predict = _predict_step(spec, spec.only_task, layout)
    stream = held_out_batches(spec, task, encoded, layout)
    logits = collect_logits(predict, members.trainable, members.frozen, stream)
    logits = logits[..., : spec.head(task).num_logits]
    for number, one in enumerate(() if diverged else logits):
        metrics.check_finite(one, members.names[number] if members.names else f"task {members.task.name}")
    return logits


def held_out_batches(spec: ModelSpec, task: str, encoded: Encoded, layout: Layout) -> Iterator[Batch | JointBatch]:
    """Yields a split of one of a model's tasks, in batches of the one shape that all its tasks have."""
    batches = layout.batches(encoded)
    if spec.only_task:
        return batches
    shape = spec.tasks.index(task), max(head.num_choices for _, head in spec.heads), spec.num_logits
    return (joint_batch(batch, *shape, packed=layout.packed) for batch in batches)


def collect_logits(predict: Callable, trainable: Params, frozen: Params, stream: Iterator[Batch]) -> np.ndarray:
    """Runs a prediction over the batches of a split.

    Args:
      predict: compiled over members, (trainable, frozen, batch) -> Float[M B C].
      trainable: leading axis M.
      frozen: the other half.
      stream: batches without member axis; fillers are dropped, ``example_id`` restores the order.

    Returns:
      Float[M n C].
    """
    logits, ids = [], []
    for batch in stream:
        agreement.boundary()
        real = np.asarray(batch.example_mask)
        logits.append(np.asarray(predict(trainable, frozen, batch))[:, real])
        ids.append(np.asarray(batch.example_id)[real])
    order = np.argsort(np.concatenate(ids), kind="stable")
    return np.concatenate(logits, axis=1)[:, order]


@keep_programs
def _predict_step(spec: ModelSpec, task: str | None, layout: Layout) -> Callable:
    """Compiles the prediction of a spec for the batches of a layout."""
    return compile_predict_step(make_predict_step(spec, task), layout.mesh)
