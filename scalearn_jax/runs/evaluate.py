"""``scalearn evaluate``: the scores of a finished run, and its data, read again.

Letters: M members (seeds trained together).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from scalearn_jax import methods, tree
from scalearn_jax.config import EvaluateConfig, takes
from scalearn_jax.data import memory, rows, splits, tokens
from scalearn_jax.data.task import Task
from scalearn_jax.models import encoder
from scalearn_jax.models.layers import cast_frozen
from scalearn_jax.runs.load import Run, load_run
from scalearn_jax.train import sharding
from scalearn_jax.train.evaluate import Layout, Members, member_logits, scores, standard_errors
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.train.state import own_part, with_constants


@takes(EvaluateConfig, "run")
def evaluate(config: EvaluateConfig, *, data: Any = None, combiner: Any = None) -> dict[str, Any]:
    """Computes the metrics of every seed of a finished run on a split, or on other examples.

    Args:
      config: see ``EvaluateConfig``.
      data: one set of labelled examples to score instead of a split, see ``data.memory.as_table``.
      combiner: the user's own, of a run that was made with one; see ``combiners.own``.

    Returns:
      ``{"run", "task", "split", "examples": {"used", "available"}, "seeds": {seed: {metric: value}}, "se": {seed:
      {metric: standard error}}}``; for the last see ``metrics.standard_errors``.

    Raises:
      InputError: damaged run folder, other backbone, missing data.
      FloatingPointError: the logits of a seed are not finite.

    Example:
      >>> evaluate("runs/rte", split="dev")["seeds"]["0"]["accuracy"]  # doctest: +SKIP
      0.7256
    """
    run = load_run(config.run, backbone=config.backbone, allow_pickle=config.allow_pickle, combiner=combiner)
    if data is not None:
        table = splits.examples(run.task, memory.as_table(data), "data")
        encoded = _encode(run, table, config.backbone)
    else:
        encoded = read_split(run, config.split, data_dir=config.data_dir, backbone=config.backbone)
    with own_settings(run.spec.dtype):
        logits = member_logits(members_of(run), encoded, Layout.of([encoded], run.task.max_length, config.batch_size))
        found, errors = [function(run.task, logits, encoded) for function in (scores, standard_errors)]
    return {
        "run": config.run,
        "task": run.task.name,
        "split": config.split if data is None else "data",
        "examples": {"used": len(encoded), "available": encoded.available or len(encoded)},
        "seeds": {str(seed): result for seed, result in zip(run.members, found, strict=True)},
        "se": {str(seed): result for seed, result in zip(run.members, errors, strict=True)},
    }


def read_split(
    run: Run,
    split: str,
    *,
    data_dir: str | None = None,
    backbone: str | None = None,
    max_eval_samples: int | None = None,
    max_train_samples: int | None = None,
) -> tokens.Encoded:
    """Reads and tokenises a split of a run's task as in training, but for what is given.

    Args:
      run: the run.
      split: ``"train"``, ``"dev"`` or ``"test"``.
      data_dir: where the data lie now.
      backbone: where the backbone, and with it the tokenizer, lies now.
      max_eval_samples: rows of development and test set.
      max_train_samples: rows of the training set.
    """
    tables = read_tables(run.task, run.info, data_dir, max_eval_samples, max_train_samples)
    tokenizer, where = _tokenizer(run, backbone)
    encoded = tokens.cached(tokenizer, run.task, getattr(tables, split), max_length=run.task.max_length)
    available = dict(zip(("train", "dev", "test"), tables.available, strict=True))[split]
    return dataclasses.replace(tokens.check_ids(encoded, run.spec.backbone, where), available=available)


def read_tables(
    task: Task,
    info: dict[str, Any],
    data_dir: str | None = None,
    max_eval_samples: int | None = None,
    max_train_samples: int | None = None,
) -> splits.Splits:
    """Reads the splits of a run's task, of which ``info`` is the ``run.json``; as ``read_split`` does."""
    settings = info["config"]
    return splits.load_splits(
        task,
        data_dir=data_dir or info["data_dir"],
        max_train_samples=max_train_samples or settings["max_train_samples"],
        sample_seed=None if max_train_samples else settings.get("sample_seed"),
        max_eval_samples=max_eval_samples or settings["max_eval_samples"],
        max_dev_samples=None if max_eval_samples else settings.get("max_dev_samples"),
    )


def read_texts(run: Run, path: str, *, backbone: str | None = None) -> tokens.Encoded:
    """Reads and tokenises any file with the text columns of a run's task; its labels are zeros."""
    table = splits.examples(run.task, rows.read_table(Path(path)), path, labels=False)
    return _encode(run, table, backbone, labels=False)


def _encode(run: Run, table: rows.Table, backbone: str | None, *, labels: bool = True) -> tokens.Encoded:
    tokenizer, where = _tokenizer(run, backbone)
    encoded = tokens.encode(tokenizer, run.task, table, max_length=run.task.max_length, labels=labels)
    return tokens.check_ids(encoded, run.spec.backbone, where)


def members_of(run: Run) -> Members:
    """Splits the parameters of a run's seeds into trainable trees [M ...] and one frozen tree, on all devices."""
    method, members = methods.get(run.info["method"]), list(run.members.values())
    if "backbone" in method.trainable and run.spec.layers == "loop":
        members = [params | {"backbone": encoder.unstack(params["backbone"])} for params in members]
    keep = methods.is_trainable(method)
    halves = [tree.partition(params, keep) for params in members]
    trainable, frozen = tree.stack([half for half, _ in halves]), jax.tree.map(jnp.asarray, halves[0][1])
    frozen |= tree.stack([own_part(half) for _, half in halves])
    trainable, frozen = with_constants(trainable, frozen, run.spec)
    frozen = cast_frozen(frozen, run.info["config"].get("frozen_dtype", "float32"))
    names = [f"{run.folder}, seed {seed}" for seed in run.members]
    placed = sharding.replicate((trainable, frozen), sharding.make_mesh())
    return Members(run.spec.program, run.task, *placed, names)


def _tokenizer(run: Run, backbone: str | None) -> tuple[Any, str]:
    """Loads the tokenizer of a run's backbone, and returns it with where it lies."""
    recorded = run.info["backbone"]
    where, revision = (backbone, None) if backbone else (recorded["path"], recorded["revision"])
    return tokens.load_tokenizer(where, revision), where
