"""The metadata of a model card, which the hub searches, with the scores as the hub keeps them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scalearn_jax.data.task import Task
from scalearn_jax.io.hub import is_id, is_model_id
from scalearn_jax.models.backbones import BACKBONES

# A task's kind -> the hub's name of what a model for it does.
_PIPELINES, _CLASSIFIES = {"choice": "multiple-choice"}, "text-classification"
# Our metrics -> the hub's.
_METRICS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "macro_f1": "f1",
    "macro_precision": "precision",
    "macro_recall": "recall",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "exact_match": "exact_match",
}
_WITH_CONFIGS = ("glue", "superglue")  # suites whose tasks are configurations of one data set
_LANGUAGES = {"glue": ["en"], "superglue": ["en"], "builtin": ["en"], "humset": ["en", "es", "fr"]}


def card_metadata(
    content: Mapping[str, Any], repo: str, files: Sequence[str], *, family: str, base: str | None, license: str | None
) -> str:
    """Writes the metadata of a card as YAML, without the lines around it; for the arguments see ``write_card``."""
    from huggingface_hub import ModelCardData

    task: Task = content["task"]
    is_hub_format = "run.json" not in files and BACKBONES[family].model_class is not None
    ours = "adapter-transformers" if is_hub_format else "scalearn-jax"
    tags = [*([ours, f"adapterhub:{task.name}"] if is_hub_format else []), "scalearn", family]
    dataset, results = _dataset(task), eval_results(content)
    return ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        library_name=ours,
        pipeline_tag=_PIPELINES.get(task.kind, _CLASSIFIES),
        tags=tags,
        license=license,
        language=_LANGUAGES.get(task.name.partition("/")[0]),
        datasets=[dataset] if dataset else None,
        metrics=list(dict.fromkeys(_METRICS.get(metric, metric) for metric in task.metrics)),
        eval_results=results or None,
        model_name=repo.partition("/")[2] if results else None,
    ).to_yaml()


def known_base(content: Mapping[str, Any]) -> str | None:
    """The hub id of the backbone; ``None`` where it was a local folder."""
    backbone = content["backbone"]
    name = backbone["name"]
    return name if backbone["revision"] and is_model_id(name) else None


def eval_results(content: Mapping[str, Any]) -> list[Any]:
    """Lists ``huggingface_hub.EvalResult`` of each finite score, under the publishers' name of the split."""
    from huggingface_hub import EvalResult

    task: Task = content["task"]
    dataset, suite = _dataset(task), task.name.partition("/")[0]
    return [
        EvalResult(
            task_type=_PIPELINES.get(task.kind, _CLASSIFIES),
            dataset_type=dataset or task.name,
            dataset_name=task.name,
            dataset_config=task.name.rpartition("/")[2] if dataset and suite in _WITH_CONFIGS else None,
            dataset_split=split,
            metric_type=_METRICS.get(metric, metric),
            metric_name=f"{ours} {metric}",
            metric_value=value,
        )
        for ours, split, metric, value in finite_scores(content)
        if not example_limit(content, ours)  # a part of a split is not the split
        if (ours, split) != ("dev", _split(task, "test"))  # the very examples of the test scores
    ]


def finite_scores(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str, float]]:
    """Lists the scores that are numbers, as (our split, its publishers' name of it, metric, value)."""
    task: Task = content["task"]
    for ours in ("test", "dev"):
        scores = content["scores"].get(ours)
        for metric in task.metrics if isinstance(scores, dict) else ():
            value = scores.get(metric)
            if _is_number(value):
                yield ours, _split(task, ours), metric, float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # no NaN, no number of 400 digits


def standard_error(content: Mapping[str, Any], metric: str) -> float | None:
    """The standard error of a test score, where it is known."""
    errors = content["scores"].get("se")
    error = errors.get(metric) if isinstance(errors, dict) else None
    return float(error) if _is_number(error) else None


def example_counts(content: Mapping[str, Any], split: str) -> tuple[int, int] | None:
    """The numbers of examples that the scores of one of our splits are from, and that there are; where it is known."""
    examples = content.get("examples")
    counts = examples.get(split) if isinstance(examples, dict) else None
    found = [counts.get(name) for name in ("used", "available")] if isinstance(counts, dict) else [None]
    return tuple(found) if all(type(count) is int for count in found) else None


def example_limit(content: Mapping[str, Any], split: str) -> int | None:
    """The most examples that the scores of one of our splits are from; ``None`` for all, or where it is not known."""
    if counts := example_counts(content, split):
        return counts[0] if counts[0] < counts[1] else None
    limits = content.get("most")
    limit = limits.get(split) if isinstance(limits, dict) else None
    return limit if type(limit) is int else None


def _split(task: Task, ours: str) -> str:
    """The publishers' name of our split."""
    if task.split_rule == "validation":
        return "validation"
    if task.hub is None:
        return ours
    has_test = task.split_rule == "files" and "test" in dict(task.hub.files)
    split = {"dev": "validation", "test": "test"}[ours] if has_test else {"dev": "train", "test": "validation"}[ours]
    return "validation_matched" if "validation_matched" in dict(task.hub.files)[split] else split  # MNLI's


def _dataset(task: Task) -> str | None:
    return task.hub.repo if task.hub and is_id(task.hub.repo) else None
