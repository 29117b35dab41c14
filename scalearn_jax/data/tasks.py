"""The tasks: one row a data set. Users' own data sets use the same row type.

Letters: K sequences per example, C outputs.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from scalearn_jax.errors import InputError, unknown

KINDS = ("classification", "regression", "multilabel", "choice")


@dataclasses.dataclass(frozen=True)
class HubFiles:
    """Where a data set lies on the Hugging Face hub, as explicit files (no loading scripts).

    Attributes:
      repo: data set repository.
      files: (split, file pattern) pairs.
      revision: branch, tag or commit.
    """

    repo: str
    files: tuple[tuple[str, str], ...]
    revision: str | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """One data set: which columns make the text, what is predicted, and how it is scored.

    Attributes:
      name: for instance ``"glue/rte"``.
      kind: ``"classification"``, ``"regression"``, ``"multilabel"`` or ``"choice"``.
      texts: one or two templates over the columns, ``"{premise}"``; a bare column name means ``"{column}"``.
      choices: for kind ``"choice"``, K templates, each the second text of one sequence.
      labels: label names, in the order of their ids.
      label_column: where the label stands; an id, a name, or a list of them (multi-label).
      metrics: names in ``METRICS``; the first is the main one.
      max_length: longest sequence in tokens.
      stratify: whether the development split keeps the label proportions.
      hub: where the hub keeps the files.
    """

    name: str
    kind: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    choices: tuple[str, ...] = ()
    label_column: str = "label"
    max_length: int = 128
    stratify: bool = True
    hub: HubFiles | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise unknown("task kind", self.kind, KINDS, where=self.name)
        if not 1 <= len(self.texts) + bool(self.choices) <= 2:
            raise InputError(f"task {self.name}: texts must be one or two templates, got {len(self.texts)}.")
        if (self.kind == "choice") != bool(self.choices):
            raise InputError(f"task {self.name}: choices belong to kind 'choice' and are required there.")
        if self.kind in ("classification", "multilabel") and len(self.labels) < 2 - (self.kind == "multilabel"):
            raise InputError(f"task {self.name}: labels must list the label names in id order, got {self.labels}.")

    @property
    def num_choices(self) -> int:
        """K, sequences per example."""
        return max(len(self.choices), 1)

    @property
    def num_outputs(self) -> int:
        """C, outputs of the head; a choice task scores each choice with one."""
        return len(self.labels) if self.kind in ("classification", "multilabel") else 1

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns the templates name."""
        fields = [field for template in (*self.texts, *self.choices) for field in template_fields(template)]
        return tuple(dict.fromkeys(fields))

    def sequences(self, row: dict[str, Any]) -> list[tuple[str, ...]]:
        """Fills the templates with a row: K tuples of one or two texts."""
        texts = tuple(fill(template, row) for template in self.texts)
        return [(*texts, fill(choice, row)) for choice in self.choices] or [texts]

    def to_dict(self) -> dict[str, Any]:
        """Turns the row into JSON types; ``from_dict`` undoes it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any], *, where: str = "task") -> "Task":
        """Builds a row from JSON or YAML types.

        Raises:
          InputError: unknown or missing field.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in content:
            if name not in fields:
                raise unknown("field", name, fields, where=where)
        missing = [name for name in ("name", "kind", "texts") if name not in content]
        if missing:
            raise InputError(f"{where}: missing field {missing}; a task needs name, kind and texts.")
        values = {name: _tuple(value) for name, value in content.items()}
        if isinstance(values.get("hub"), dict):
            values["hub"] = HubFiles(**{name: _tuple(value) for name, value in values["hub"].items()})
        return cls(**values)


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in value) if isinstance(value, list | tuple) else value


def template_fields(template: str) -> list[str]:
    """Lists the columns of a template.

    Example:
      >>> template_fields("{word}: {sentence1}"), template_fields("premise")
      (['word', 'sentence1'], ['premise'])
    """
    return re.findall(r"{(\w+)}", template) or [template]


def fill(template: str, row: dict[str, Any]) -> str:
    """Fills a template with a row's columns.

    Example:
      >>> fill("{word}: {text}", {"word": "bank", "text": "by the river"})
      'bank: by the river'
    """
    if "{" not in template:
        return str(row[template])
    return re.sub(r"{(\w+)}", lambda match: str(row[match[1]]), template)


def _glue(name: str, texts: tuple[str, ...], labels: tuple[str, ...], metrics=("accuracy",), **fields) -> Task:
    splits = {"train": "train", "validation": "validation_matched" if name == "mnli" else "validation"}
    files = tuple((split, f"{name}/{file}-*.parquet") for split, file in splits.items())
    fields = {"kind": "classification"} | fields
    return Task(
        f"glue/{name}", texts=texts, labels=labels, metrics=metrics, hub=HubFiles("nyu-mll/glue", files), **fields
    )


_ENTAILS = ("entailment", "not_entailment")
TASKS = {
    task.name: task
    for task in (
        _glue("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews", "accuracy")),
        _glue("sst2", ("sentence",), ("negative", "positive")),
        _glue("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        _glue(
            "stsb", ("sentence1", "sentence2"), (), ("pearson", "spearman", "pearson_spearman"),
            kind="regression", stratify=False,
        ),
        _glue("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
        _glue("qnli", ("question", "sentence"), _ENTAILS),
        _glue("rte", ("sentence1", "sentence2"), _ENTAILS),
    )
}


def get(name: str, *, data_dir: str | None = None) -> Task:
    """Looks up a task: a row of ``TASKS``, a built-in one, or a ``task.yaml`` in the data folder.

    Args:
      name: for instance ``"glue/rte"``, ``"builtin/topic"``, or ``"my/task"`` where
        ``DATA_DIR/my/task/task.yaml`` (or ``DATA_DIR/task.yaml``) describes it.
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
    if name.startswith("builtin/"):
        from scalearn_jax.data.builtin import BUILTIN

        if name in BUILTIN:
            return BUILTIN[name]
        raise unknown("task", name, [*TASKS, *BUILTIN])
    for folder in (Path(data_dir or ".") / name, Path(data_dir or ".")):
        if data_dir and (folder / "task.yaml").exists():
            return dataclasses.replace(from_file(folder / "task.yaml"), name=name)
    raise unknown("task", name, TASKS)


def from_file(path: str | Path) -> Task:
    """Reads a task row from YAML (or JSON).

    Raises:
      InputError: unreadable file, unknown or missing field.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected fields such as name, kind, texts; got {type(content).__name__}.")
    return Task.from_dict(content, where=str(path))
