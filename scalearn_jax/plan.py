"""What a study consists of: its cells with their resolved configs, and everything that is wrong with it."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from scalearn_jax import methods
from scalearn_jax.config import AdapterConfig, StudyConfig, TrainConfig, TransferConfig
from scalearn_jax.data import tasks
from scalearn_jax.errors import InputError
from scalearn_jax.results import ADAPTERS, REPORT
from scalearn_jax.schema import check_values, field_types

_SET_BY_STUDY = {"task", "target", "sources", "out", "seeds", "backbone", "revision", "data_dir"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of a study.

    Attributes:
      name: its folder below the study's.
      config: what to run; its type tells the stage.
    """

    name: str
    config: AdapterConfig | TransferConfig

    @property
    def task(self) -> str:
        """The task it trains on."""
        return self.config.task if isinstance(self.config, AdapterConfig) else self.config.target

    @property
    def done(self) -> bool:
        """Whether its folder is there; run folders appear only when they are complete."""
        return (Path(self.config.out) / "run.json").exists()


def cells(study: StudyConfig, out: str) -> list[Cell]:
    """Resolves a study to its cells, the source adapters first.

    Values come, the last winning, from ``stage1`` (source adapters) or ``stage2`` (every method on a target, also one
    without sources, so that all get the same budget), ``tasks`` and ``methods_options``.

    Args:
      study: a study without problems.
      out: its folder.

    Returns:
      The cells, in the order in which they run.

    Example:
      >>> names = {"sources": ("glue/rte",), "targets": ("glue/mrpc",), "methods": ("fusion",)}
      >>> [cell.name for cell in cells(StudyConfig(name="n", backbone="b", **names), "runs")]
      ['adapters/glue/rte', 'glue/mrpc/fusion']
    """
    sources = [_source_cell(study, out, task) for task in study.sources]
    return [*sources, *(_target_cell(study, out, task, label) for task in study.targets for label in study.methods)]


def _source_cell(study: StudyConfig, out: str, task: str) -> Cell:
    name = f"{ADAPTERS}/{task}"
    values = study.stage1 | study.tasks.get(task, {})
    return Cell(name, _config(AdapterConfig, study, Path(out, name), values | {"task": task, "seeds": (0,)}))


def _target_cell(study: StudyConfig, out: str, task: str, label: str) -> Cell:
    name = f"{task}/{label}"
    method = _method(study, label)
    row = methods.get(method)
    common = study.stage2 | study.tasks.get(task, {})
    for flag in methods.foreign_flags(row, list(common)):  # these speak to all methods: each takes what it understands
        del common[flag]
    values = common | study.methods_options.get(label, {}) | {"seeds": study.seeds, "method": method, "target": task}
    if row.uses_sources:
        values["sources"] = tuple(str(Path(out, ADAPTERS, source)) for source in study.sources)
    return Cell(name, _config(TransferConfig, study, Path(out, name), values))


def _method(study: StudyConfig, label: str) -> str:
    """The row of ``METHODS`` behind a label; options may name it, so that a study can hold variants of one method."""
    return study.methods_options.get(label, {}).get("method", label)


def _config(cls: type[TrainConfig], study: StudyConfig, out: Path, values: dict[str, Any]) -> Any:
    where = {"backbone": study.backbone, "revision": study.revision, "data_dir": study.data_dir, "out": str(out)}
    known, _ = check_values(cls, {name: value for name, value in values.items() if name in field_types(cls)})
    return cls(**known | where)


def check(study: StudyConfig) -> list[str]:
    """Lists everything wrong with a study: unknown tasks, methods and fields, bad values, clashing names.

    Args:
      study: the study.

    Returns:
      The problems, each a short phrase; empty if all is well.

    Example:
      >>> names = {"sources": ("glue/rte",), "targets": ("glue/mrpc",), "methods": ("fusion",)}
      >>> check(StudyConfig(name="n", backbone="b", **names))
      []
    """
    found = [*_name_problems(study), *_override_problems(study)]
    if found:
        return list(dict.fromkeys(found))
    rows = [methods.get(_method(study, label)) for label in study.methods]
    if not study.sources and any(row.uses_sources for row in rows):
        return ["sources: empty, but a method of the study needs source adapters"]
    return list(dict.fromkeys([*_clashes(study), *_value_problems(study)]))


def _name_problems(study: StudyConfig) -> Iterator[str]:
    for name in (*study.sources, *study.targets):
        if name.endswith((".yaml", ".yml", ".json")):
            yield f"task {name!r}: a study names tasks, not files; lay the file at DATA_DIR/NAME/task.yaml"
            continue
        yield from _attempt(lambda name=name: tasks.get(name, data_dir=study.data_dir))
    for label in study.methods:
        yield from _attempt(lambda label=label: methods.get(_method(study, label)))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+._-]*", label):
            yield f"method {label!r}: a name starts with a letter or digit and holds letters, digits, + - . _ only"
    for key in ("sources", "targets", "methods"):
        names = getattr(study, key)
        yield from (f"{key}: {name!r} is listed twice" for name in set(names) if names.count(name) > 1)
        if not names and key != "sources":
            yield f"{key}: expected at least one"


def _override_problems(study: StudyConfig) -> Iterator[str]:
    yield from _field_problems("stage1", AdapterConfig, study.stage1)
    yield from _field_problems("stage2", TransferConfig, study.stage2)
    for task, values in study.tasks.items():
        yield from _field_problems(f"tasks: {task}", TransferConfig, values)
        if task not in (*study.sources, *study.targets):
            yield f"tasks: {task!r} is neither a source nor a target of the study"
    for label, values in study.methods_options.items():
        row = methods.METHODS.get(_method(study, label))
        yield from _field_problems(f"methods_options: {label}", TransferConfig, values, allowed=("method",))
        foreign = methods.foreign_flags(row, values) if row else []
        yield from (f"methods_options: {label}: {flag!r} does not apply to this method" for flag in foreign)
        if label not in study.methods:
            yield f"methods_options: {label!r} is not among the study's methods"


def _field_problems(place: str, cls: type, values: dict[str, Any], allowed: tuple[str, ...] = ()) -> Iterator[str]:
    fixed = (_SET_BY_STUDY | {"method"}) - set(allowed)
    yield from (f"{place}: key {name!r} is set by the study itself" for name in values if name in fixed)
    _, found = check_values(cls, {name: value for name, value in values.items() if name not in fixed})
    yield from (f"{place}: {problem}" for problem in found)


def _clashes(study: StudyConfig) -> Iterator[str]:
    """Names of cells whose folders would lie inside one another."""
    names = [*(f"{ADAPTERS}/{task}" for task in study.sources), REPORT]
    names += [f"{task}/{label}" for task in study.targets for label in study.methods]
    for name in names:
        parents = {str(parent) for parent in PurePosixPath(name).parents}
        yield from (f"the folder of {name!r} would lie inside that of {other!r}" for other in names if other in parents)


def _value_problems(study: StudyConfig) -> Iterator[str]:
    for task in study.sources:
        yield from _attempt(lambda task=task: _source_cell(study, "", task), f"{ADAPTERS}/{task}: ")
    for task in study.targets:
        for label in study.methods:
            yield from _attempt(lambda t=task, m=label: _target_cell(study, "", t, m), f"{task}/{label}: ")


def _attempt(function: Callable[[], Any], prefix: str = "") -> Iterator[str]:
    try:
        function()
    except InputError as error:
        yield f"{prefix}{error}"
