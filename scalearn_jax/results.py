"""Finished runs as results: one method on one target, with the score of every seed."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scalearn_jax.errors import InputError
from scalearn_jax.files import read_json

ADAPTERS, REPORT, STUDY = "adapters", "report", "study.json"  # what a study's folder holds beside its targets


@dataclass(frozen=True)
class Result:
    """One method on one target.

    Attributes:
      folder: its run folder.
      method: its row in the table.
      target: its task.
      metric: the task's main metric.
      values: the test metric of each seed, as a fraction.
      parameters: number of transfer parameters.
      sources: names of the source tasks, in bank order.
      normalise: how ScaLearn normalises its scales; empty for other methods, which have none.
    """

    folder: Path
    method: str
    target: str
    metric: str
    values: tuple[float, ...]
    parameters: int
    sources: tuple[str, ...]
    normalise: str

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; a single seed has none."""
        return stdev(self.values) if len(self.values) > 1 else None


def read_results(root: Path) -> list[Result]:
    """Reads every finished run below a folder; of a study in its order, without the source adapters.

    Args:
      root: a study's folder, or any folder of runs.

    Returns:
      The results, method by method.

    Raises:
      InputError: there is none, one is damaged, or two are the same method on the same target.
    """
    study = read_study(root) if (root / STUDY).exists() else {}
    folders = sorted(path.parent for path in root.rglob("run.json") if not _apart(path.relative_to(root), bool(study)))
    found = [read_result(folder, label=folder.name if study else None) for folder in folders]
    if not found:
        raise InputError(f"{root}: no finished run (run.json) below it; pass the --out folder of `scalearn run`.")
    _check_distinct(found)
    targets, methods = study.get("targets", []), study.get("methods", [])
    return sorted(found, key=lambda result: (_place(methods, result.method), _place(targets, result.target)))


def _apart(path: Path, is_study: bool) -> bool:
    return any(part.endswith(".partial") for part in path.parts) or is_study and path.parts[0] == ADAPTERS


def _place(order: list[str], name: str) -> tuple[int, str]:
    return (order.index(name), "") if name in order else (len(order), name)


def _check_distinct(found: list[Result]) -> None:
    first: dict[tuple[str, str], Result] = {}
    for result in found:
        other = first.setdefault((result.method, result.target), result)
        if other is not result:
            raise InputError(
                f"{other.folder} and {result.folder} are both {result.method} on {result.target}; a table needs one."
            )


def read_result(folder: Path, *, label: str | None = None) -> Result:
    """Reads one run folder.

    Args:
      folder: the run.
      label: its row in the table; by default its method.

    Returns:
      The result.

    Raises:
      InputError: ``run.json`` or ``results.json`` is missing or damaged.
    """
    info, scores = read_json(folder / "run.json"), read_json(folder / "results.json")
    try:
        return Result(
            folder=folder,
            method=label or info["method"],
            target=info["task"]["name"],
            metric=scores["main_metric"],
            values=tuple(float(seed["test"][scores["main_metric"]]) for seed in _some(scores["seeds"])),
            parameters=int(info["parameters"]["transfer"]),
            sources=tuple(source["name"] for source in info["sources"]),
            normalise=_normalise(info["spec"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder}: run.json or results.json is damaged: {error!r}.") from error


def _some(seeds: dict[str, Any]) -> list[Any]:
    if not seeds:
        raise ValueError("no seeds")
    return list(seeds.values())


def _normalise(spec: dict[str, Any]) -> str:
    if not spec["combiner"].startswith("scalearn"):
        return ""
    return dict(spec["combiner_options"]).get("normalise", "none")


def read_study(root: Path) -> dict[str, Any]:
    """Reads the study that a folder holds.

    Raises:
      InputError: ``study.json`` is damaged.
    """
    study = read_json(root / STUDY).get("study")
    if not isinstance(study, dict):
        raise InputError(f"{root / STUDY} is damaged: it holds no study.")
    return study


def spread(result: Result) -> str:
    """Words a result in percent.

    Example:
      >>> spread(Result(Path("r"), "single", "t", "accuracy", (0.5, 0.6), 0, (), ""))
      '55.00 ± 7.07'
    """
    return percent(result.mean) + ("" if result.sd is None else f" ± {percent(result.sd)}")


def percent(value: float) -> str:
    """Words a fraction in percent."""
    return f"{100 * value:.2f}"
