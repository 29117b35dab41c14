"""TASKS: one row a data set. A user's own data set is a row in a ``task.yaml``."""

import dataclasses
import os.path
from pathlib import Path

from scalearn_jax.config.checks import check_no_secrets
from scalearn_jax.data.task import HubFiles, Task
from scalearn_jax.errors import InputError, unknown
from scalearn_jax.io.yaml_file import read_yaml

# Label names from the data card of nlp-thedeep/humset, version 1.0.0.
HUMSET = {
    "sectors": (
        "Agriculture", "Cross", "Education", "Food Security", "Health", "Livelihoods", "Logistics", "Nutrition",
        "Protection", "Shelter", "WASH",
    ),
    "pillars_1d": (
        "Casualties", "Context", "Covid-19", "Displacement", "Humanitarian Access", "Information And Communication",
        "Shock/Event",
    ),
    "subpillars_1d": (
        "Casualties->Dead", "Casualties->Injured", "Casualties->Missing", "Context->Demography", "Context->Economy",
        "Context->Environment", "Context->Legal & Policy", "Context->Politics", "Context->Security & Stability",
        "Context->Socio Cultural", "Covid-19->Cases", "Covid-19->Contact Tracing", "Covid-19->Deaths",
        "Covid-19->Hospitalization & Care", "Covid-19->Restriction Measures", "Covid-19->Testing",
        "Covid-19->Vaccination", "Displacement->Intentions", "Displacement->Local Integration",
        "Displacement->Pull Factors", "Displacement->Push Factors", "Displacement->Type/Numbers/Movements",
        "Humanitarian Access->Number Of People Facing Humanitarian Access Constraints/Humanitarian Access Gaps",
        "Humanitarian Access->Physical Constraints", "Humanitarian Access->Population To Relief",
        "Humanitarian Access->Relief To Population",
        "Information And Communication->Communication Means And Preferences",
        "Information And Communication->Information Challenges And Barriers",
        "Information And Communication->Knowledge And Info Gaps (Hum)",
        "Information And Communication->Knowledge And Info Gaps (Pop)", "Shock/Event->Hazard & Threats",
        "Shock/Event->Type And Characteristics", "Shock/Event->Underlying/Aggravating Factors",
    ),
    "pillars_2d": (
        "At Risk", "Capacities & Response", "Humanitarian Conditions", "Impact", "Priority Interventions",
        "Priority Needs",
    ),
    "subpillars_2d": (
        "At Risk->Number Of People At Risk", "At Risk->Risk And Vulnerabilities",
        "Capacities & Response->International Response", "Capacities & Response->Local Response",
        "Capacities & Response->National Response", "Capacities & Response->Number Of People Reached/Response Gaps",
        "Humanitarian Conditions->Coping Mechanisms", "Humanitarian Conditions->Living Standards",
        "Humanitarian Conditions->Number Of People In Need", "Humanitarian Conditions->Physical And Mental Well Being",
        "Impact->Driver/Aggravating Factors", "Impact->Impact On People",
        "Impact->Impact On Systems, Services And Networks", "Impact->Number Of People Affected",
        "Priority Interventions->Expressed By Humanitarian Staff", "Priority Interventions->Expressed By Population",
        "Priority Needs->Expressed By Humanitarian Staff", "Priority Needs->Expressed By Population",
    ),
}  # fmt: skip
# Disaster response messages (Figure Eight), 36 categories grouped by their parents into five families.
DISASTER_RESPONSE = {
    "message_type": ("related", "request", "offer", "direct_report"),
    "pillars": ("aid_related", "infrastructure_related", "weather_related"),
    "aid": (
        "medical_help", "medical_products", "search_and_rescue", "security", "military", "water", "food", "shelter",
        "clothing", "money", "missing_people", "refugees", "death", "other_aid",
    ),
    "infrastructure": (
        "transport", "buildings", "electricity", "tools", "hospitals", "shops", "aid_centers", "other_infrastructure",
    ),
    "weather": ("floods", "storm", "fire", "earthquake", "cold", "other_weather"),
}  # fmt: skip


def _glue(name: str, texts: tuple[str, ...], labels: tuple[str, ...], metrics=("accuracy",), **fields) -> Task:
    validation = "validation_matched" if name == "mnli" else "validation"
    files = (("train", f"{name}/train-*.parquet"), ("validation", f"{name}/{validation}-*.parquet"))
    fields = {"kind": "classification", "split_rule": "published", "hub": HubFiles("nyu-mll/glue", files)} | fields
    return Task(f"glue/{name}", texts=texts, labels=labels, metrics=metrics, **fields)


def _superglue(name: str, texts: tuple[str, ...], labels: tuple[str, ...], metrics=("accuracy",), **fields) -> Task:
    files = tuple((split, f"{name}/{split}/*.parquet") for split in ("train", "validation"))
    hub = HubFiles("aps/super_glue", files, revision="refs/convert/parquet")  # the hub's own conversion
    fields = {"kind": "classification", "split_rule": "published", "hub": hub} | fields
    return Task(f"superglue/{name}", texts=texts, labels=labels, metrics=metrics, **fields)


def _multilabel(folder: str, name: str, labels: tuple[str, ...], **fields) -> Task:
    """One of several label families over the same excerpts."""
    metrics = ("macro_f1", "macro_precision", "macro_recall", "exact_match")
    fields = {"label_column": name, "folder": folder} | fields
    return Task(f"{folder}/{name}", "multilabel", ("excerpt",), labels, metrics, **fields)


_HUMSET = HubFiles(
    "nlp-thedeep/humset", tuple((split, f"data/{split}.jsonl") for split in ("train", "validation", "test"))
)
_SENTENCES = ("sentence1", "sentence2")
_ENTAILS = ("entailment", "not_entailment")
_FALSE_TRUE = ("False", "True")
_CHOICES = ("choice1", "choice2")
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
        _superglue("boolq", ("question", "passage"), _FALSE_TRUE),
        _superglue("cb", ("premise", "hypothesis"), ("entailment", "contradiction", "neutral"),
                   ("accuracy", "macro_f1"), stratify=False),
        _superglue("copa", ("prompt",), _CHOICES, kind="choice", choices=_CHOICES, derive="copa"),
        _superglue("multirc", ("paragraph", "{question} {answer}"), _FALSE_TRUE,
                   ("f1", "question_match", "accuracy"), derive="multirc", max_length=324),
        _superglue("record", ("bulleted", "filled"), _FALSE_TRUE, ("answer_f1", "answer_match"),
                   derive="record", max_length=256, truncate="first", split_rule="validation"),
        _superglue("rte", ("premise", "hypothesis"), _ENTAILS),
        _superglue("wic", ("{word}: {sentence1}", "{word}: {sentence2}"), _FALSE_TRUE),
        _superglue("wsc", ("marked", "span1_text"), _FALSE_TRUE, derive="wsc"),
        *(_multilabel("humset", name, labels, hub=_HUMSET) for name, labels in HUMSET.items()),
        *(_multilabel("disaster_response", name, labels) for name, labels in DISASTER_RESPONSE.items()),
    )
}  # fmt: skip
_PLACES = "the tables (one of your own is a --data-dir with NAME/task.yaml)"
# The benchmarks of the paper; RTE is GLUE's in all of them, as published.
SUITES = {
    "glue": tuple(f"glue/{name}" for name in ("rte", "mrpc", "cola", "mnli", "qnli", "qqp", "sst2", "stsb")),
    "superglue": (
        "glue/rte",
        *(f"superglue/{name}" for name in ("cb", "copa", "wsc", "wic", "boolq", "multirc", "record")),
    ),
    "humset": tuple(f"humset/{name}" for name in HUMSET),
}
SUITES["glue+superglue"] = tuple(dict.fromkeys((*SUITES["glue"], *SUITES["superglue"])))


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
    root = Path(os.path.expanduser(data_dir)) if data_dir else None
    folders = (root / name, root) if root else ()
    for folder in folders:
        found = [path for suffix in ("yaml", "yml", "json") if (path := folder / f"task.{suffix}").is_file()]
        if len(found) > 1:
            raise InputError(
                f"{found[0]} and {found[1].name} beside it both describe the task; keep one of them there."
            )
        if found:
            return _called(name, found[0])
    rows = known()
    if name not in rows:
        described = [path for depth in ("*", "*/*") for path in root.glob(f"{depth}/task.y*ml")] if root else []
        own = {path.parent.relative_to(root).as_posix() for path in described}
        missing = f"{root / name}/task.yaml does not exist" if root and root.is_dir() else f"{root} is no folder"
        raise unknown("task", name, {*rows, *own}, where=f"the tables, and {missing}" if root else _PLACES)
    return rows[name]


def _called(name: str, path: Path) -> Task:
    """Reads the row of a folder; a file beside the data of several tasks must not answer to any name."""
    task = from_file(path)
    if task.name not in (name, name.rsplit("/", 1)[-1]):
        raise InputError(f"{path} describes task {task.name!r}, not {name!r}; pass its name or correct the file.")
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
      InputError: unreadable file, unknown or missing field, wrong type, or a token or password in one.
    """
    task = Task.from_dict(read_yaml(path, pipes=False), where=str(path))
    check_no_secrets({str(path): task.to_dict()})
    return task
