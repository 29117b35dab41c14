"""One data set as a row: its text, its label, its metrics, its files.

Letters: K sequences per example, C outputs.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, Literal

from scalearn_jax.config import schema
from scalearn_jax.data.derive import RULES
from scalearn_jax.errors import InputError, format_value, is_printable, unknown
from scalearn_jax.io.files import escapes_folder
from scalearn_jax.metrics import METRICS

Kind = Literal["classification", "regression", "multilabel", "choice"]
# what may score each kind of label; the first is the default
_ONE_CLASS = ("accuracy", "f1", "macro_f1", "macro_precision", "macro_recall", "matthews")
QUESTION_METRICS = ("answer_f1", "answer_match", "question_match")  # of several examples a question
METRICS_OF = {
    "classification": (*_ONE_CLASS, *QUESTION_METRICS),
    "choice": _ONE_CLASS,
    "regression": ("pearson", "spearman", "pearson_spearman"),
    "multilabel": ("macro_f1", "macro_precision", "macro_recall", "exact_match"),
}


@dataclasses.dataclass(frozen=True)
class HubFiles:
    """Where a data set lies on the Hugging Face hub, as explicit files (no loading scripts).

    Attributes:
      repo: data set repository.
      files: (split, file pattern) pairs, with the splits ``"train"``, ``"validation"`` and, optionally, ``"test"``.
      revision: branch, tag or commit.
    """

    repo: str
    files: tuple[tuple[str, ...], ...]
    revision: str | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """One data set: which columns make the text, what is predicted, and how it is scored.

    Attributes:
      name: for instance ``"glue/rte"``.
      kind: what is predicted; ``"choice"`` picks one of K second texts.
      texts: one or two templates over the columns, ``"{premise}"``; a bare column name means ``"{column}"``.
      labels: label names, in the order of their ids.
      metrics: names in ``metrics.METRICS``; the first is the main one.
      choices: for kind ``"choice"``, K templates, each the second text of one sequence.
      label_column: where the label stands; an id, a name, or a list of them (multi-label).
      max_length: longest sequence in tokens.
      truncate: which text of a long pair is cut, the longer one or always the first.
      split_rule: ``"published"`` holds out a tenth of train for development and tests on validation; ``"files"``
        does so only where no test file is given; ``"validation"`` develops and tests on validation.
      stratify: whether a held-out development set keeps the label proportions.
      hub: where the hub keeps the files.
      derive: a rule of ``derive.RULES`` that makes the templates' columns; ``None`` where the file has them.
      folder: where the files lie below a data folder, for data sets that hold several tasks; by default the name.
    """

    name: str
    kind: Kind
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    label_column: str = "label"
    max_length: int = 128
    truncate: Literal["longest_first", "first"] = "longest_first"
    split_rule: Literal["files", "published", "validation"] = "files"
    stratify: bool = True
    hub: HubFiles | None = None
    derive: Literal["copa", "multirc", "record", "wsc"] | None = None
    folder: str | None = None

    def __post_init__(self):
        for name in ("texts", "labels", "metrics", "choices"):
            values = getattr(self, name)
            if isinstance(values, str | bytes) or not isinstance(values, Iterable):
                raise InputError(f"task {self.name}: {name}: expected a list of names, got {format_value(values)}.")
            object.__setattr__(self, name, tuple(map(str, values)) if name == "labels" else tuple(values))
        if self.kind not in METRICS_OF:
            raise unknown("kind", self.kind, METRICS_OF, where=f"task {self.name}")
        if type(self.max_length) is not int:
            raise InputError(f"task {self.name}: max_length: expected a whole number, got {self.max_length!r}.")
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w+-][\w.+-]*(/[\w+-][\w.+-]*)*", self.name):
            raise InputError(f"task name {self.name!r}: expected letters, digits, '-', '_' and '/'; it names folders.")
        for metric in self.metrics:
            if metric not in METRICS:
                raise unknown("metric", metric, METRICS, where=f"task {self.name}")
        if not self.metrics:
            object.__setattr__(self, "metrics", METRICS_OF[self.kind][:1])
        problem = _problem(self)
        if problem:
            raise InputError(f"task {self.name}: {problem}")

    @property
    def num_choices(self) -> int:
        """K, sequences per example."""
        return max(len(self.choices), 1)

    @property
    def num_outputs(self) -> int:
        """C, outputs of the head; a choice task scores each choice with one."""
        return len(self.labels) if self.kind in ("classification", "multilabel") else 1

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns the templates name."""
        fields = [field for template in (*self.texts, *self.choices) for field in template_fields(template)]
        return tuple(dict.fromkeys(fields))

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns a file must have."""
        return RULES[self.derive].columns if self.derive else self.fields

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Those of ``columns`` that hold one text a row."""
        lists = RULES[self.derive].lists if self.derive else ()
        return tuple(name for name in self.columns if name not in lists)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of a file that hold the label."""
        return (RULES[self.derive].labels if self.derive else ()) or (self.label_column,)

    @property
    def has_questions(self) -> bool:
        """Whether several examples answer one question."""
        return bool(self.derive) and RULES[self.derive].question is not None

    def sequences(self, row: dict[str, Any]) -> list[tuple[str, ...]]:
        """Fills the templates with a row: K tuples of one or two texts.

        Example:
          >>> Task("demo", "regression", ("{word}: {first}", "second")).sequences(
          ...     {"word": "bank", "first": "by the river", "second": "in the city"})
          [('bank: by the river', 'in the city')]
        """
        texts = tuple(fill(template, row) for template in self.texts)
        return [(*texts, fill(choice, row)) for choice in self.choices] or [texts]

    def similarity_text(self, row: dict[str, Any]) -> str:
        """The text that stands for a row when data sets are compared, its segments joined by a blank.

        Example:
          >>> Task("demo", "regression", ("first", "second")).similarity_text({"first": "a b", "second": "c"})
          'a b c'
        """
        chosen = RULES[self.derive].similarity if self.derive else ()
        return " ".join([str(row[name]) for name in chosen] or self.sequences(row)[0])

    def to_dict(self) -> dict[str, Any]:
        """Turns the row into JSON types; ``from_dict`` undoes it."""
        return schema.to_dict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any], *, where: str = "task") -> "Task":
        """Builds a row from JSON or YAML types; ``hub.files`` may also map splits to patterns.

        Raises:
          InputError: unknown or missing field, wrong type, or a row that makes no sense.
        """
        content = dict(content)
        hub = _hub(content.pop("hub", None), where)
        if isinstance(labels := content.get("labels"), list | tuple):
            for label in labels:
                if isinstance(label, bool) or not isinstance(label, str | int | float):
                    kind = "true/false" if isinstance(label, bool) else type(label).__name__
                    raise InputError(f"{where}: the label {format_value(label)} is {kind} to YAML; quote them all.")
            # Numbers are names, too.
            content["labels"] = [label if isinstance(label, str) else format_value(label) for label in labels]
        return dataclasses.replace(schema.from_dict(cls, content, where=where), hub=hub)


schema.check_arguments(Task)


def _problem(task: Task) -> str:
    """Describes what is inconsistent about a row, if anything."""
    if hidden := [label for label in task.labels if not is_printable(label)]:
        return f"the label {hidden[0]!r} holds characters that cannot be shown; replace them, also in the data."
    if task.folder is not None and escapes_folder(task.folder):
        return f"folder {task.folder!r} leads out of the data folder; name one below it, or pass another --data-dir."
    if task.hub and (out := [pattern for _, pattern in task.hub.files if escapes_folder(pattern)]):
        return f"the pattern {out[0]!r} of hub.files leads out of the data set; name files in it."
    num_texts = len(task.texts) + bool(task.choices)
    if not task.texts or num_texts > 2:
        return f"a sequence has one or two texts, got {num_texts} ({task.texts} and {len(task.choices)} choices)."
    if (task.kind == "choice") != (len(task.choices) > 1):
        return f"kind 'choice' needs two or more choices, other kinds none; got {task.kind!r} with {task.choices}."
    if task.kind == "choice" and task.labels and len(task.labels) != len(task.choices):
        return f"{len(task.labels)} labels for {len(task.choices)} choices; name each choice or none."
    least = {"classification": 2, "multilabel": 1}.get(task.kind, 0)
    if len(task.labels) < least or len(set(task.labels)) < len(task.labels):
        return f"kind {task.kind!r} needs {least} or more different label names in id order, got {task.labels}."
    if "f1" in task.metrics and len(task.labels or task.choices) != 2:
        return f"metric 'f1' is that of label 1 of two, got {len(task.labels or task.choices)}; choose 'macro_f1'."
    unfit = [metric for metric in task.metrics if metric not in METRICS_OF[task.kind]]
    if unfit:
        return f"metrics {unfit} do not fit kind {task.kind!r}; choose from {', '.join(METRICS_OF[task.kind])}."
    unasked = [metric for metric in task.metrics if metric in QUESTION_METRICS and not task.has_questions]
    if unasked:
        return f"metrics {unasked} are of questions with several examples each, as derive 'multirc' or 'record' makes."
    if task.max_length < 4:
        return f"needs a max_length of 4 or more, got {task.max_length}."
    return ""


def _hub(content: dict[str, Any] | None, where: str) -> HubFiles | None:
    if content is None:
        return None
    if isinstance(content, dict) and isinstance(content.get("files"), dict):
        content = content | {"files": list(content["files"].items())}
    hub = schema.from_dict(HubFiles, content, where=f"{where}, hub")
    if not all(len(pair) == 2 for pair in hub.files) or not {"train", "validation"} <= {pair[0] for pair in hub.files}:
        raise InputError(f"{where}, hub: files must map train and validation (and test) to patterns, got {hub.files}.")
    return hub


_FIELD = r"{([^{}]+)}"  # column names may hold blanks and hyphens


def template_fields(template: str) -> list[str]:
    """Lists the columns of a template.

    Example:
      >>> template_fields("{word}: {sentence1}"), template_fields("premise")
      (['word', 'sentence1'], ['premise'])
    """
    return re.findall(_FIELD, template) or [template]


def fill(template: str, row: dict[str, Any]) -> str:
    """Fills a template with a row's columns.

    Example:
      >>> fill("{word}: {text}", {"word": "bank", "text": "by the river"})
      'bank: by the river'
    """
    if "{" not in template:
        return str(row[template])
    return re.sub(_FIELD, lambda match: str(row[match[1]]), template)
