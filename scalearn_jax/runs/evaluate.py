"""Using what was trained: logits, metrics and predictions of finished runs.

Letters: M members (seeds trained together), n examples of a split, B examples of a batch, C outputs.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scalearn_jax import losses, methods, metrics, model, tree
from scalearn_jax.config import EvaluateConfig, PredictConfig
from scalearn_jax.data import batches, packing, splits, tokens
from scalearn_jax.data.rows import Table, check_columns
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io.files import write_text
from scalearn_jax.runs import load as runs
from scalearn_jax.runs.serving.predictor import Predictor
from scalearn_jax.stages.prepare import kept_frozen
from scalearn_jax.train import loop, parallel
from scalearn_jax.train.step import make_predict_step
from scalearn_jax.typing import Params


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Computes the metrics of every seed of a finished run on a split.

    Args:
      config: see ``EvaluateConfig``.

    Returns:
      ``{"run", "task", "split", "seeds": {seed: {metric: value}}}``.

    Raises:
      InputError: damaged run folder, other backbone, missing data.
    """
    run = runs.load_run(config.run, backbone=config.backbone, allow_pickle=config.allow_pickle)
    encoded = read_split(run, config.split, data_dir=config.data_dir, backbone=config.backbone)
    trainable, frozen = stacked(run)
    results = score(run.spec, run.task, trainable, frozen, encoded, config.batch_size)
    return {
        "run": config.run,
        "task": run.task.name,
        "split": config.split,
        "seeds": {str(seed): result for seed, result in zip(run.members, results, strict=True)},
    }


def read_split(
    run: runs.Run,
    split: str,
    *,
    data_dir: str | None = None,
    backbone: str | None = None,
    max_eval_samples: int | None = None,
    max_train_samples: int | None = None,
) -> tokens.Encoded:
    """Reads and tokenises a split of a run's task as in training.

    Args:
      run: the run.
      split: ``"train"``, ``"dev"`` or ``"test"``.
      data_dir: where the data lie now; ``None`` for where they lay in training.
      backbone: where the backbone, and with it the tokenizer, lies now; ``None`` likewise.
      max_eval_samples: rows of development and test set; ``None`` for as many as in training.
      max_train_samples: rows of the training set; ``None`` likewise.

    Returns:
      The encoded split.

    Raises:
      InputError: missing data, or a tokenizer that does not fit the backbone.
    """
    settings = run.info["config"]
    tables = splits.load_splits(
        run.task,
        data_dir=data_dir or run.info["data_dir"],
        max_train_samples=max_train_samples or settings["max_train_samples"],
        max_eval_samples=max_eval_samples or settings["max_eval_samples"],
        max_dev_samples=None if max_eval_samples else settings.get("max_dev_samples"),
    )
    tokenizer = _tokenizer(run, backbone)
    encoded = tokens.cached(tokenizer, run.task, tables._asdict()[split], max_length=run.task.max_length)
    return tokens.check_ids(encoded, run.spec.backbone, backbone or run.info["backbone"]["path"])


def read_texts(run: runs.Run, path: str, *, backbone: str | None = None) -> tuple[Table, tokens.Encoded]:
    """Reads and tokenises any file of a run's task, which needs no labels.

    Args:
      run: the run.
      path: file with the task's text columns.
      backbone: where the backbone, and with it the tokenizer, lies now; ``None`` for where it lay in training.

    Returns:
      The examples, and these encoded, with zeros for labels.

    Raises:
      InputError: unreadable file, missing column, or a tokenizer that does not fit the backbone.
    """
    table = splits.examples(run.task, splits.read_table(Path(path)), path, labels=False)
    encoded = tokens.encode(_tokenizer(run, backbone), run.task, table, max_length=run.task.max_length, labels=False)
    return table, tokens.check_ids(encoded, run.spec.backbone, backbone or run.info["backbone"]["path"])


def predict(config: PredictConfig) -> Path:
    """Writes labels and probabilities for every row of a file, as JSON lines in the same order.

    Each line is what ``Predictor.predict`` says of a text.

    Args:
      config: see ``PredictConfig``.

    Returns:
      The output file.

    Raises:
      InputError: damaged folder, unreadable input, missing column, unknown task, output that exists.
    """
    output = Path(config.output)
    if output.is_symlink() or output.exists():
        raise InputError(f"--output {output} already exists; choose another name or remove it.")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}; make it first.")
    predictor = Predictor.load(
        config.run,
        *config.also,
        backbone=config.backbone,
        seed=config.seed,
        batch_size=config.batch_size,
        allow_pickle=config.allow_pickle,
        any_base_model=config.any_base_model,
    )
    table = splits.read_table(Path(config.input))
    if config.also:
        check_columns(table, ["task"], config.input)
    lines = predictor.predict_table(table, config.input, table["task"] if config.also else None)
    write_text(output, "".join(json.dumps(line) + "\n" for line in lines))
    return output


def stacked(run: runs.Run) -> tuple[Params, Params]:
    """Splits a run's members into trainable trees [M ...] and one frozen tree."""
    keep = methods.is_trainable(methods.get(run.info["method"]))
    halves = [tree.partition(params, keep) for params in run.members.values()]
    members, frozen = tree.stack([trainable for trainable, _ in halves]), jax.tree.map(jnp.asarray, halves[0][1])
    frozen = kept_frozen(frozen, run.info["config"].get("frozen_dtype", "float32"))
    return parallel.replicate((members, frozen), parallel.make_mesh())


def _tokenizer(run: runs.Run, override: str | None):
    backbone = run.info["backbone"]
    return tokens.load_tokenizer(override or backbone["path"], None if override else backbone["revision"])


def score(
    spec: model.ModelSpec,
    task: Task,
    trainable: Params,
    frozen: Params,
    encoded: tokens.Encoded,
    batch_size: int,
    row_choices: Sequence[int] | None = None,
    packed: bool = True,
    mesh: Mesh | None = None,
) -> list[dict[str, float]]:
    """Evaluates M members on a split, on a mesh (by default one of all devices).

    Returns:
      One dict a member: the task's metrics and ``loss``.
    """
    layout = batch_size, row_choices, packed, mesh
    return scores(task, member_logits(spec, task, trainable, frozen, encoded, *layout), encoded)


def scores(task: Task, logits: np.ndarray, encoded: tokens.Encoded) -> list[dict[str, float]]:
    """Computes the metrics of M members from their logits Float[M n C] on a split, and ``loss``."""
    kind, labels = losses.LOSSES[task.kind], jnp.asarray(encoded.labels)
    return [
        {
            "loss": float(kind(jnp.asarray(one), labels).mean()),
            **metrics.compute(task.metrics, task.kind, one, encoded.labels, encoded.questions),
        }
        for one in logits
    ]


def member_logits(
    spec,
    task,
    trainable,
    frozen,
    encoded,
    batch_size: int,
    row_choices=None,
    packed: bool = True,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Computes the logits of M members on a split, Float[M n C], in the order of the split."""
    mesh = mesh or parallel.make_mesh()
    stream = batches.eval_batches(
        encoded,
        batch_size=batch_size,
        row_length=task.max_length,
        row_choices=row_choices or eval_rows([encoded], batch_size, task.max_length, mesh),
        packed=packed,
    )
    return loop.collect_logits(_predict_step(spec, task.name, mesh), trainable, frozen, stream)


def eval_rows(
    splits: Sequence[tokens.Encoded], batch_size: int, row_length: int, mesh: Mesh | None = None
) -> tuple[int]:
    """Counts the rows that hold any evaluation batch of some splits, evenly shared by the devices of a mesh."""
    [num_rows] = packing.eval_rows(splits, batch_size, row_length)
    return (parallel.divisible(num_rows, mesh or parallel.make_mesh()),)


@cache
def _predict_step(spec: model.ModelSpec, task: str, mesh: Mesh) -> Callable:
    """Compiles the prediction of a spec once a process and mesh."""
    return parallel.compile_predict_step(make_predict_step(spec, task), mesh)
