"""Finished runs as results: one method on one target, with the score of every seed."""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from scalearn_jax.config import StudyConfig
from scalearn_jax.config.schema import check_values, problems
from scalearn_jax.errors import InputError, is_printable
from scalearn_jax.io.files import read_json

if TYPE_CHECKING:
    from pandas import DataFrame

ADAPTERS, REPORT, STUDY = "adapters", "report", "study.json"  # what a study's folder holds beside its targets
_NEEDED = ("name", "backbone", "targets", "methods", "shots", "draws", "published")  # what tables need of a study
_MOST_PARAMETERS, _LARGEST = 10**15, 1e6  # of a coefficient; what is beyond could not be drawn
_ROUNDING = 1e-6
PROBE = "probe"  # the folder of a target's probing cells, each named by its coefficients


@dataclass(frozen=True)
class Result:
    """One method on one target."""

    folder: Path
    method: str  # its row in the table; of a probing cell its coefficients, self=0.5+glue-mnli=1
    target: str
    metric: str  # the task's main one
    values: tuple[float, ...]  # the test metric of each seed, as a fraction; of a study with draws, of each draw
    seeds: tuple[int, ...]  # in the order of values; or draws
    parameters: int  # number of transfer parameters
    head_parameters: int  # number of the head's own; 0 where it does not learn
    sources: tuple[str, ...]  # names of the source tasks, in bank order
    normalise: str  # how ScaLearn normalises its scales; empty for other methods, which have none
    shots: int | None = None  # number of training examples of a few-shot cell
    draw: int | None = None  # which examples a cell has; ``None`` for all draws together
    unit: str = "seeds"  # what differs from value to value: seeds or draws
    recipe: str = ""  # its method, where ``method`` is a study's name for it with settings of its own
    coefficients: tuple[float, ...] = ()  # of each source in a probing cell
    lost: tuple[int, ...] = ()  # seeds that did not stay finite
    used: int | None = None  # test examples that were scored; ``None`` in runs that did not record it
    available: int | None = None  # test examples that there are
    se: float | None = None  # standard error that so few examples give, mean over seeds; see metrics.standard_errors

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; a single seed has none."""
        return stdev(self.values) if len(self.values) > 1 else None


def read_results(root: Path, *, strict: bool = True) -> list[Result]:
    """Reads every finished run below a folder; of a study in its order, without the source adapters.

    The order is method by method, few-shot cells by their number of examples; probing cells come last. A damaged run
    is an error, or if not ``strict`` named on standard error and left out. Errors are also no run at all, and two of
    the same method on the same target.
    """
    study = read_study(root) if (root / STUDY).exists() else {}
    found: dict[tuple[str, str, int | None, int | None], Result] = {}
    for folder in sorted(path.parent for path in root.rglob("run.json")):
        parts = folder.relative_to(root).parts
        if any(part.endswith(".partial") for part in parts) or (study and parts[:1] == (ADAPTERS,)):
            continue
        try:
            result = _read_cell(folder, study) if study else read_result(folder)
        except InputError as error:
            if strict:
                raise
            print(f"left out: {error}", file=sys.stderr)
            continue
        other = found.setdefault((result.method, result.target, result.shots, result.draw), result)
        if other is not result:
            few = f" with {result.shots} examples" if result.shots else ""
            raise InputError(
                f"{other.folder} and {result.folder} are both {result.method} on {result.target}{few};"
                " a table needs one."
            )
    if not found:
        raise InputError(f"{root}: no finished run (run.json) below it; pass the --out folder of `scalearn run`.")
    return sorted(_join_draws(found.values()), key=lambda result: _rank(result, study))


def _join_draws(results: Iterable[Result]) -> list[Result]:
    """Makes one result of the draws of a few-shot cell, each with the mean of its seeds."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault((result.method, result.target, result.shots, result.draw is None), []).append(result)
    joined = []
    for group in groups.values():
        draws = sorted(group, key=lambda result: result.draw or 0)
        if draws[0].draw is None:
            joined += draws
            continue
        means, errors = tuple(one.mean for one in draws), [one.se for one in draws if one.se is not None]
        se, lost = fmean(errors) if errors else None, sorted({seed for one in draws for seed in one.lost})
        seeds = tuple(one.draw for one in draws)
        joined.append(replace(draws[0], values=means, seeds=seeds, se=se, lost=tuple(lost), draw=None, unit="draws"))
    return joined


def _read_cell(folder: Path, study: dict[str, Any]) -> Result:
    """Reads a cell of a study; its place shows what it is."""
    if folder.parent.name == PROBE and "=" in folder.name:  # no method's name holds one
        return read_result(folder, label=folder.name, probing=True)
    draw, place = None, folder.parent
    if study.get("draws") and (number := re.fullmatch(r"draw-(\d+)", place.name)):
        draw, place = int(number[1]), place.parent
    shots = next((k for k in study.get("shots", ()) if place.name == f"{k}-shot"), None)
    return replace(read_result(folder, label=folder.name, shots=shots), draw=draw)


def _rank(result: Result, study: dict[str, Any]) -> tuple:
    def place(order: list[str], name: str) -> tuple[int, str]:
        return (order.index(name), "") if name in order else (len(order), name)

    target = place(study.get("targets", []), result.target)
    if result.coefficients:
        return True, target, result.sources, result.coefficients
    return False, place(study.get("methods", []), result.method), result.shots or 0, target


def results_frame(folder: str | Path) -> "DataFrame":
    """Reads the results of a study, or of any folder of runs, as a DataFrame of pandas.

    Args:
      folder: the ``--out`` of ``scalearn run``, or a folder with runs below it.

    Returns:
      A row a result, with ``method``, ``target``, ``shots`` (of a few-shot cell), ``metric``, ``num_seeds``,
      ``lost_seeds`` (a text, those that did not stay finite), ``mean`` and ``sd`` over seeds (fractions),
      ``test_examples`` (that were scored), ``test_available`` (that there are), ``standard_error`` (that so few give),
      ``transfer_parameters`` and ``head_parameters``, and as tuples ``sources``, ``coefficients`` (of a probing cell),
      ``seeds`` and ``scores``. What a run did not record is missing.

    Raises:
      InputError: see ``read_results``.

    Example:
      ::

        frame = results_frame("runs/glue")
        frame.pivot(index="method", columns="target", values="mean")
        frame.explode(["seeds", "scores"])  # a row a seed
    """
    return as_frame(read_results(Path(folder)))


def as_frame(results: Iterable[Result]) -> "DataFrame":
    """Lays out results as ``results_frame`` does."""
    import pandas as pd

    rows = [
        {
            "method": result.method,
            "target": result.target,
            "shots": result.shots,
            "metric": result.metric,
            "num_seeds": len(result.values),
            "lost_seeds": " ".join(map(str, result.lost)),
            "mean": result.mean,
            "sd": result.sd,
            "test_examples": result.used,
            "test_available": result.available,
            "standard_error": result.se,
            "transfer_parameters": result.parameters,
            "head_parameters": result.head_parameters,
            "sources": result.sources,
            "coefficients": result.coefficients,
            "seeds": result.seeds,
            "scores": result.values,
        }
        for result in results
    ]
    whole = dict.fromkeys(("shots", "test_examples", "test_available"), "Int64")
    return pd.DataFrame(rows).astype({**whole, "sd": float, "standard_error": float})


def read_result(folder: Path, *, label: str | None = None, shots: int | None = None, probing: bool = False) -> Result:
    """Reads one run folder; ``label`` is its row in the table, by default its method.

    A few-shot cell has a number of ``shots``, a ``probing`` cell constant coefficients.
    """
    info, scores = read_json(folder / "run.json"), read_json(folder / "results.json")
    try:
        metric, seeds = scores["main_metric"], scores["seeds"]
        if not seeds:
            raise ValueError("no seeds")
        label, target = label or info["method"], info["task"]["name"]
        for name in (label, info["method"], target, metric, *(source["name"] for source in info["sources"])):
            if not isinstance(name, str) or not is_printable(name):
                raise TypeError(f"method, task, metric and sources must be texts that can be shown, got {name!r}")
        return Result(
            folder=folder,
            method=label,
            recipe=info["method"],
            target=target,
            metric=metric,
            values=tuple(_number(seed["test"][metric], -1, 1, "a score") for seed in seeds.values()),
            seeds=tuple(int(seed) for seed in seeds),
            parameters=_count(info["parameters"]["transfer"]),
            head_parameters=_count(info["parameters"]["head"]),
            sources=tuple(source["name"] for source in info["sources"]),
            normalise=_normalise(info["spec"]),
            shots=shots,
            coefficients=_coefficients(info) if probing else (),
            lost=tuple(int(seed) for seed in scores.get("lost", {})),
            **_test_examples(scores, metric),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder}: run.json or results.json is damaged: {error!r}.") from error


def _test_examples(scores: dict[str, Any], metric: str) -> dict[str, Any]:
    """What ``results.json`` holds about the test examples, see ``Result``; nothing in those of earlier versions."""
    if "examples" not in scores:
        return {}
    counts = scores["examples"]["test"]
    if not all(type(counts[name]) is int for name in ("used", "available")):
        raise TypeError(f"the numbers of test examples must be whole, got {counts}")
    errors = [_number(seed["se"][metric], 0, _LARGEST, "a standard error") for seed in scores["seeds"].values()]
    return {"used": counts["used"], "available": counts["available"], "se": fmean(errors)}


def _count(value: Any) -> int:
    return int(_number(value, 0, _MOST_PARAMETERS, "the number of parameters"))


def _number(value: Any, low: float, high: float, what: str) -> float:
    if type(value) not in (int, float) or not low - _ROUNDING <= value <= high + _ROUNDING:  # not a number neither
        raise ValueError(f"{what} must be a number from {low} to {high}, got {value!r}")
    return float(value)


def _coefficients(info: dict[str, Any]) -> tuple[float, ...]:
    given = dict(info["spec"]["combiner_options"])["coefficients"]
    coefficients = tuple(_number(value, -_LARGEST, _LARGEST, "a coefficient") for value in given)
    if not coefficients or len(coefficients) != len(info["sources"]):
        raise ValueError(f"{len(coefficients)} coefficients for {len(info['sources'])} sources")
    return coefficients


def _normalise(spec: dict[str, Any]) -> str:
    if not spec["combiner"].startswith("scalearn"):
        return ""
    normalise = dict(spec["combiner_options"]).get("normalise", "none")
    if not isinstance(normalise, str):
        raise TypeError(f"normalise must be a text, got {normalise!r}")
    return normalise


def read_study(root: Path) -> dict[str, Any]:
    """Reads the study that a folder holds, and checks what tables need of it."""
    study = read_json(root / STUDY).get("study")
    if not isinstance(study, dict):
        raise InputError(f"{root / STUDY} is damaged: it holds no study.")
    for key, kind in {"name": str, "backbone": str, "targets": list, "methods": list}.items():
        if not isinstance(study.get(key), kind):
            raise InputError(f"{root / STUDY} is damaged: {key} is {study.get(key)!r}.")
    named = {key: value for key, value in study.items() if key in _NEEDED}
    if found := check_values(StudyConfig, named)[1]:
        raise problems(f"{root / STUDY} is damaged", found)
    for name in (study["name"], *study["targets"], *study["methods"]):
        if not is_printable(name):
            raise InputError(f"{root / STUDY} is damaged: {name!r} cannot be shown.")
    return study


def format_score(result: Result) -> str:
    """Formats a result in percent.

    Example:
      >>> format_score(Result(Path("r"), "single", "t", "accuracy", (0.5, 0.6), (0, 1), 0, 0, (), ""))
      '55.00 ± 7.07'
    """
    return format_percent(result.mean) + ("" if result.sd is None else f" ± {format_percent(result.sd)}")


def format_examples(results: Sequence[Result]) -> str:
    """Formats how many test examples the results of one target are from, and of how many.

    Example:
      >>> known = dict(values=(0.5,), seeds=(0,), parameters=0, head_parameters=0, sources=(), normalise="")
      >>> format_examples([Result(Path("r"), "single", "t", "accuracy", **known, used=300, available=1043)])
      '300 of 1,043'
    """
    counts = sorted({(result.used, result.available) for result in results if result.used})
    texts = [f"all {used:,}" if used == available else f"{used:,} of {available:,}" for used, available in counts]
    return " or ".join([*texts, *(["unknown"] if any(result.used is None for result in results) else [])])


def largest_error(results: Iterable[Result]) -> str:
    """Formats the largest standard error of some results, in percent; ``?`` where none is known."""
    errors = [result.se for result in results if result.se is not None]
    return format_percent(max(errors)) if errors else "?"


def format_percent(value: float) -> str:
    """Formats a fraction in percent."""
    return f"{100 * value:.2f}"
