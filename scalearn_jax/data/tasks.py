"""TASKS: one row a data set. A user's own data set is a row in a ``task.yaml``."""

import dataclasses
from pathlib import Path

from scalearn_jax import schema
from scalearn_jax.data.task import HubFiles, Task
from scalearn_jax.errors import InputError, unknown


def _glue(name: str, texts: tuple[str, ...], labels: tuple[str, ...], metrics=("accuracy",), **fields) -> Task:
    validation = "validation_matched" if name == "mnli" else "validation"
    files = (("train", f"{name}/train-*.parquet"), ("validation", f"{name}/{validation}-*.parquet"))
    fields = {"kind": "classification", "split_rule": "published", "hub": HubFiles("nyu-mll/glue", files)} | fields
    return Task(f"glue/{name}", texts=texts, labels=labels, metrics=metrics, **fields)


_SENTENCES = ("sentence1", "sentence2")
_ENTAILS = ("entailment", "not_entailment")
_CORRELATIONS = ("pearson", "spearman", "pearson_spearman")
# The order of the labels is that of the published ids.
TASKS = {
    task.name: task
    for task in (
        _glue("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews", "accuracy")),
        _glue("sst2", ("sentence",), ("negative", "positive")),
        _glue("mrpc", _SENTENCES, ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        _glue("stsb", _SENTENCES, (), _CORRELATIONS, kind="regression", stratify=False),
        _glue("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
        _glue("qnli", ("question", "sentence"), _ENTAILS),
        _glue("rte", _SENTENCES, _ENTAILS),
    )
}


def known() -> dict[str, Task]:
    """Lists every row that comes with the package: ``TASKS`` and the generated suite."""
    from scalearn_jax.data.builtin import BUILTIN

    return {**TASKS, **BUILTIN}


def get(name: str, *, data_dir: str | Path | None = None) -> Task:
    """Looks up a task: a row that comes with the package, a user's ``task.yaml``, or the path of such a file.

    Args:
      name: ``"glue/rte"``, ``"builtin/topic"``, ``"my/task"`` where ``DATA_DIR/my/task/task.yaml`` (or
        ``DATA_DIR/task.yaml``) describes it, or ``"path/to/task.yaml"``.
      data_dir: where to look for ``task.yaml``.

    Returns:
      The row.

    Raises:
      InputError: unknown name; the nearest is named.

    Example:
      >>> get("glue/rte").labels
      ('entailment', 'not_entailment')
    """
    if name in TASKS:
        return TASKS[name]
    if name.endswith((".yaml", ".yml", ".json")):
        return from_file(name)
    root = Path(data_dir).expanduser() if data_dir else None
    folders = (root / name, root) if root else ()
    for path in (folder / f"task{suffix}" for folder in folders for suffix in (".yaml", ".json")):
        if path.is_file():
            return _called(name, path)
    rows = known()
    if name not in rows:
        raise unknown("task", name, rows, where="; your own needs DATA_DIR/NAME/task.yaml" if data_dir is None else "")
    return rows[name]


def _called(name: str, path: Path) -> Task:
    """Reads the row of a folder; a file beside the data of several tasks must not answer to any name."""
    task = from_file(path)
    if task.name not in (name, name.rsplit("/", 1)[-1]):
        raise InputError(f"{path} describes task {task.name!r}, not {name!r}; pass its name or mend the file.")
    return dataclasses.replace(task, name=name)


def from_file(path: str | Path) -> Task:
    """Reads a task row from YAML or JSON.

    Args:
      path: a file with the fields of ``Task``; ``name``, ``kind`` and ``texts`` are required::

        name: reviews
        kind: classification
        texts: [title, body]
        labels: [bad, good]

    Returns:
      The row.

    Raises:
      InputError: unreadable file, unknown or missing field, wrong type.
    """
    return Task.from_dict(schema.read_yaml(path), where=str(path))
