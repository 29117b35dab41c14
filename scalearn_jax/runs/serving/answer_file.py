"""``scalearn predict``: the rows of a file, or of standard input, to a file of answers or to standard output."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.config import PredictConfig, takes
from scalearn_jax.data import rows
from scalearn_jax.data.labels import labels_of
from scalearn_jax.data.rows import Table, check_columns
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError, unknown
from scalearn_jax.io.files import as_json, whole_file
from scalearn_jax.io.terminal import format_score, note
from scalearn_jax.metrics import METRICS
from scalearn_jax.runs.evaluate import read_tables
from scalearn_jax.runs.load import open_run
from scalearn_jax.runs.provenance import report_choice
from scalearn_jax.runs.serving.predictor import Predictor

_OUTPUTS = (".jsonl", ".csv", ".tsv", ".parquet")
_STREAM = "-"  # standard input or output
_DEFAULT = 0.5  # threshold
_THRESHOLDS = tuple(round(0.05 * number, 2) for number in range(1, 20))  # that are tried

Answers = list[dict[str, Any]]


@takes(PredictConfig, "run", "input", "output")
def predict(config: PredictConfig) -> Path | None:
    """Writes labels and probabilities for every row of a file, in the same order.

    Each is one result of ``Predictor.predict``, behind the columns of the input that are kept: a line of a ``.jsonl``
    file, a row of a table by another ending.

    Returns:
      The output file; ``None`` of standard output.

    Raises:
      InputError: damaged folder, unreadable input, missing column, unknown task, output that exists or of another type.

    Example:
      >>> predict("runs/rte", input="new.csv", output="labels.csv", keep_all=True)  # doctest: +SKIP
      PosixPath('labels.csv')
    """
    suffix = _check_output(config.output)
    if config.keep and config.keep_all or config.threshold is not None and config.tune_threshold:
        flags = "--keep and --keep-all" if config.keep and config.keep_all else "--threshold and --tune-threshold"
        raise InputError(f"{flags} exclude each other; leave one out.")
    predictor = Predictor.load(
        config.run,
        *config.also,
        backbone=config.backbone,
        seed=config.seed,
        batch_size=config.batch_size,
        allow_pickle=config.allow_pickle,
        any_base_model=config.any_base_model,
    )
    folders = dict(zip(predictor.tasks, (config.run, *config.also), strict=True))
    thresholds, reports = _thresholds(config, predictor, folders)
    is_stream = config.input == _STREAM
    where = "standard input" if is_stream else config.input
    table = rows.read_standard_input() if is_stream else rows.read_table(Path(config.input))
    kept = _kept(table, table if config.keep_all else config.keep, where)
    if config.also:
        check_columns(table, ["task"], where)
    answers = predictor.predict_table(table, where, table["task"] if config.also else None)
    names = table["task"] if config.also else [next(iter(folders))] * len(answers)
    answers = [_pass(answer, thresholds.get(name)) for name, answer in zip(names, answers, strict=True)]
    if config.output == _STREAM:
        sys.stdout.writelines(_json_lines(kept, answers))
        sys.stdout.flush()
    else:
        with whole_file(Path(config.output)) as temporary:
            _write(temporary, kept, answers, suffix)
    for report in (*predictor.choices, *reports):
        report_choice(report)
    _report_unlabelled(answers, names, thresholds)
    return None if config.output == _STREAM else Path(config.output)


def _check_output(name: str) -> str:
    """Checks where answers are to go, before anything is computed; returns the kind of file."""
    output = Path(name)
    if name == _STREAM:
        return ".jsonl"
    if output.is_symlink() or output.exists():
        raise InputError(f"--output {output} already exists; choose another name or remove it.")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}; make it first.")
    suffix = output.suffix.lower() or ("" if output.name.startswith(".") else ".jsonl")
    if suffix not in _OUTPUTS:
        raise InputError(f"--output {output}: unknown file type; end its name in one of {', '.join(_OUTPUTS)}.")
    return suffix


def _thresholds(
    config: PredictConfig, predictor: Predictor, folders: dict[str, str]
) -> tuple[dict[str, float], list[str]]:
    """Finds the threshold of each multi-label task; returns also a line for each that was tuned."""
    tasks = {name: task for name, task in predictor.tasks.items() if task.kind == "multilabel"}
    flag = "--tune-threshold" if config.tune_threshold else "--threshold"
    if not tasks and (config.tune_threshold or config.threshold is not None):
        kinds = ", ".join(f"{name} is {task.kind}" for name, task in predictor.tasks.items())
        raise InputError(f"{flag} is for tasks of kind multilabel; {kinds}: leave it out.")
    threshold = _DEFAULT if config.threshold is None else config.threshold
    if not 0 <= threshold < 1:
        raise InputError(f"--threshold must be at least 0 and below 1, got {threshold}.")
    if not config.tune_threshold:
        return dict.fromkeys(tasks, threshold), []
    found = {name: _tuned(predictor, task, folders[name], config.data_dir) for name, task in tasks.items()}
    return {name: best for name, (best, _) in found.items()}, [report for _, report in found.values()]


def _tuned(predictor: Predictor, task: Task, folder: str, data_dir: str | None) -> tuple[float, str]:
    """Finds the threshold with the best main metric on a run's development data, of equals that nearest to 0.5."""
    try:
        run = open_run(folder)
        table = read_tables(task, run.info, data_dir=data_dir).dev[:]
    except InputError as error:
        raise InputError(f"--tune-threshold needs a run and its development data: {error}") from error
    answers = predictor.predict_table(table, f"{folder}, development data", [task.name] * rows.num_rows(table))
    probabilities = np.array([list(answer["probabilities"].values()) for answer in answers])
    labels, metric = labels_of(task, table[task.label_column]), task.metrics[0]
    scores = {t: METRICS[metric]((probabilities > t).astype(np.float32), labels) for t in _THRESHOLDS}
    best = max(scores, key=lambda t: (scores[t], -abs(t - _DEFAULT)))
    before, after = (format_score(metric, scores[t]) for t in (_DEFAULT, best))
    report = f"{folder}: threshold {best}, by {metric} on {len(answers)} development examples: {after}, at 0.5 {before}"
    return best, report


def _pass(answer: dict[str, Any], threshold: float | None) -> dict[str, Any]:
    """The answer with the labels whose probability is above a threshold, where its task has one."""
    if threshold in (None, _DEFAULT):
        return answer
    return answer | {"labels": [name for name, p in answer["probabilities"].items() if p > threshold]}


def _report_unlabelled(answers: Answers, names: Sequence[str], thresholds: dict[str, float]) -> None:
    """Says in a line a task how many rows got no label, and what would change that."""
    for task, threshold in thresholds.items():
        own = [answer for answer, name in zip(answers, names, strict=True) if name == task]
        if without := [answer for answer in own if not answer["labels"]]:
            highest = max(max(answer["probabilities"].values()) for answer in without)
            note(
                f"{len(without)} of {len(own)} rows get no label of {task}: none has a probability above {threshold:g},"
                f" the highest has {highest:.2f}; pass a lower --threshold, or --tune-threshold."
            )


def _kept(table: Table, names: Sequence[str], where: str) -> Table:
    """Picks the columns of the input that stand in the output; those called as answers are get another name."""
    for name in names:
        if name not in table:
            raise unknown("column", name, table, where=f"{where}, for --keep")
    renamed = {name: f"input_{name}" if _is_of_answers(name) else name for name in names}
    if twice := [name for name, new in renamed.items() if new != name and new in renamed]:
        raise InputError(f"--keep: {twice[0]} would be written as input_{twice[0]}, a kept column, too; keep one.")
    return {new: [_plain(value) for value in table[name]] for name, new in renamed.items()}


def _is_of_answers(name: str) -> bool:
    return name in ("label", "labels", "value", "probabilities") or name.startswith("probability of ")


def _plain(value: Any) -> Any:
    """A value of a column, as JSON has it: what it lacks, such as a date, is its text."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, str | int | float) else rows.as_text(value)


def _json_lines(kept: Table, answers: Answers) -> list[str]:
    own = [dict(zip(kept, values, strict=True)) for values in zip(*kept.values(), strict=True)] or [{}] * len(answers)
    return [as_json(row | answer, indent=None) for row, answer in zip(own, answers, strict=True)]


def _write(path: Path, kept: Table, answers: Answers, suffix: str) -> None:
    """Writes answers as JSON lines or, by the ending, as a table, with a column for each label if all have the same."""
    if suffix == ".jsonl":
        path.write_text("".join(_json_lines(kept, answers)), encoding="utf-8")
        return
    if len({tuple(answer.get("probabilities", ())) for answer in answers}) == 1:
        answers = [
            {name: value for name, value in answer.items() if name != "probabilities"}
            | {f"probability of {label}": p for label, p in answer.get("probabilities", {}).items()}
            for answer in answers
        ]
    table = {
        name: [as_json(value, indent=None).strip() if isinstance(value, dict | list) else value for value in values]
        for name, values in (kept | rows.columns(answers)).items()
    }
    if suffix == ".parquet":
        from pyarrow import parquet

        parquet.write_table(rows.to_arrow(table).data.table, path)
        return
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerows([table, *zip(*table.values(), strict=True)])
