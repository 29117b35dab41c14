"""What a study consists of: its cells with their resolved configs, and everything that is wrong with it."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from scalearn_jax import methods
from scalearn_jax.config import AdapterConfig, StudyConfig, TrainConfig, TransferConfig
from scalearn_jax.config.schema import check_values, field_types
from scalearn_jax.data import tasks
from scalearn_jax.errors import InputError
from scalearn_jax.io.files import read_json
from scalearn_jax.io.tensors import tensor_names
from scalearn_jax.studies import published
from scalearn_jax.studies.results import ADAPTERS, PROBE, REPORT

SELF = "self"  # in probe_sources: the target's own adapter
_STAGES = {"stage1": AdapterConfig, "stage2": TransferConfig}
_SET_BY_STUDY = {"task", "target", "targets", "sources", "out", "seeds", "backbone", "revision", "data_dir"}
_SET_BY_STUDY |= {"learning_rates", "coordinator", "num_processes", "process_id"}  # a cell is one run in one process
_SET_BY_STUDY |= {"restart"}  # else it would never end


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
        return self.config.task if self.is_source else self.config.target

    @property
    def is_source(self) -> bool:
        """Whether it trains a source adapter."""
        return isinstance(self.config, AdapterConfig)

    @property
    def done(self) -> bool:
        """Whether its folder holds a whole run, of a source with weights; it appears only when complete."""
        folder = Path(self.config.out)
        try:
            whole = all(read_json(folder / name) for name in ("run.json", "results.json"))
            return whole and bool(not self.is_source or tensor_names(folder / "seed-0.safetensors"))
        except InputError:  # damaged later
            return False


def cells(study: StudyConfig, out: str) -> list[Cell]:
    """Resolves a study to its cells, the source adapters first.

    Values come, the last winning, from ``stage1`` (source adapters) or ``stage2`` (every method on a target, also one
    without sources, so that all get the same budget), ``tasks`` and ``methods_options``.

    A few-shot study trains a target's own source adapter on the same few examples, with seed 0 and as method
    ``single`` does; the other sources have seen all their data (method.md, "Few-shot").

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
    return [Cell(recipe.name, recipe.config()) for recipe in _recipes(study, out)]


class _Recipe(NamedTuple):
    """A cell before its values are checked."""

    name: str
    config: Callable[[], AdapterConfig | TransferConfig]


def _recipes(study: StudyConfig, out: str) -> list[_Recipe]:
    shots = study.shots or (None,)
    few_only = study.targets if study.shots and not study.probe_sources else ()  # no target needs a lone one's whole
    whole = [task for task in study.sources if few_only != (task,)]
    own = [task for task in study.targets if study.shots and task in study.sources]
    return [
        *(_source(study, out, task) for task in whole),
        *(_few_shot_source(study, out, task, k) for task in own for k in shots),
        *(_target(study, out, task, label, k) for task in study.targets for k in shots for label in study.methods),
        *(recipe for task in study.targets for recipe in _probes(study, out, task)),
    ]


def _source_folder(study: StudyConfig, out: str, task: str) -> Path:
    """Where a source adapter lies; ``adapters`` of the study may say another place than its own folder."""
    return Path(study.adapters or Path(out, ADAPTERS), task)


def _few_shot(shots: int | None) -> tuple[str, ...]:
    """The part of a folder's path that says how few examples were used, if any does."""
    return () if shots is None else (f"{shots}-shot",)


def _source(study: StudyConfig, out: str, task: str) -> _Recipe:
    values = study.stage1 | _task_values(study, task, "stage1") | {"task": task, "seeds": (0,)}
    return _recipe(study, AdapterConfig, f"{ADAPTERS}/{task}", _source_folder(study, out, task), values)


def _few_shot_source(study: StudyConfig, out: str, task: str, shots: int) -> _Recipe:
    values = study.stage2 | _task_values(study, task, "stage2") | study.methods_options.get("single", {})
    shape = {name: study.stage1[name] for name in ("reduction_factor", "non_linearity") if name in study.stage1}
    values |= shape | {"task": task, "seeds": (0,), "max_train_samples": shots}  # one bank holds one kind
    name = "/".join([ADAPTERS, *_few_shot(shots), task])
    return _recipe(study, AdapterConfig, name, Path(out, name), values)


def _target(study: StudyConfig, out: str, task: str, label: str, shots: int | None) -> _Recipe:
    name, method = "/".join([task, *_few_shot(shots), label]), _method(study, label)
    values = _common(study, task, method) | study.methods_options.get(label, {})
    values |= {"method": method, "target": task}
    if shots is not None:
        values["max_train_samples"] = shots
    if methods.get(method).uses_sources:
        values["sources"] = tuple(_source_path(study, out, source, task, shots) for source in study.sources)
    return _recipe(study, TransferConfig, name, Path(out, name), values)


def _common(study: StudyConfig, task: str, method: str) -> dict[str, Any]:
    """What ``stage2`` and ``tasks`` say; they speak to all methods, and each takes what it understands."""
    values = {"seeds": study.seeds} | study.stage2 | _task_values(study, task, "stage2")
    foreign = methods.foreign_flags(methods.get(method), list(values))
    return {name: value for name, value in values.items() if name not in foreign}


def _task_values(study: StudyConfig, task: str, stage: str) -> dict[str, Any]:
    """The overrides of a task in a stage."""
    values = study.tasks.get(task, {})
    return {name: value for name, value in values.items() if name not in _STAGES} | values.get(stage, {})


def _source_path(study: StudyConfig, out: str, source: str, target: str, shots: int | None) -> str:
    few = shots if source == target else None
    return str(Path(out, ADAPTERS, *_few_shot(few), source) if few else _source_folder(study, out, source))


def _probes(study: StudyConfig, out: str, task: str) -> Iterator[_Recipe]:
    """Every set of sources with every combination of constants (method.md, "Probing")."""
    groups = {tuple(task if name == SELF else name for name in group): group for group in reversed(study.probe_sources)}
    for sources, group in reversed(groups.items()):  # a set that `self` makes the same as another counts once
        for constants in itertools.product(study.probe_constants, repeat=len(group)):
            name = f"{task}/{PROBE}/{_probe_label(group, constants)}"
            values = _common(study, task, "fixed") | study.methods_options.get("fixed", {})
            values |= {"method": "fixed", "target": task, "coefficients": constants}
            values["sources"] = tuple(str(_source_folder(study, out, source)) for source in sources)
            yield _recipe(study, TransferConfig, name, Path(out, name), values)


def _probe_label(group: Sequence[str], constants: Sequence[float]) -> str:
    """Names a combination, for instance ``self=0.5+glue-mnli=1``."""
    return "+".join(f"{name.replace('/', '-')}={value:g}" for name, value in zip(group, constants, strict=True))


def _method(study: StudyConfig, label: str) -> str:
    """The row of ``METHODS`` behind a label; options may name it, so that a study can hold variants of one method."""
    name = study.methods_options.get(label, {}).get("method", label)
    return name if isinstance(name, str) else label  # told by _override_problems


def _recipe(study: StudyConfig, cls: type[TrainConfig], name: str, out: Path, values: dict[str, Any]) -> _Recipe:
    where = {"backbone": study.backbone, "revision": study.revision, "data_dir": study.data_dir, "out": str(out)}
    known, _ = check_values(cls, {name: value for name, value in values.items() if name in field_types(cls)})
    return _Recipe(name, lambda: cls(**known | where))


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
        if not names and key != "sources" and not (key == "methods" and study.probe_sources):
            yield f"{key}: expected at least one"
    if study.published is not None:
        yield from _attempt(lambda: published.get(study.published), "published: ")
    yield from _probe_problems(study)


def _probe_problems(study: StudyConfig) -> Iterator[str]:
    if bool(study.probe_sources) != bool(study.probe_constants):
        yield "probe_sources and probe_constants: expected both or neither"
    for group in study.probe_sources:
        for task in study.targets:
            names = [task if name == SELF else name for name in group]
            yield from (
                f"probe_sources: {name!r} is not among the sources" for name in names if name not in study.sources
            )
            if not names or len(set(names)) < len(names):
                yield f"probe_sources: {list(group)} names no source, or one twice, for target {task!r}"


def _override_problems(study: StudyConfig) -> Iterator[str]:
    yield from _field_problems("stage1", AdapterConfig, study.stage1)
    yield from _field_problems("stage2", TransferConfig, study.stage2)
    for task, values in study.tasks.items():
        both = {name: value for name, value in values.items() if name not in _STAGES}
        odd = [stage for stage in _STAGES if not isinstance(values.get(stage, {}), dict)]
        yield from (f"tasks: {task}: {stage}: expected keys and values, got {values[stage]!r}" for stage in odd)
        yield from _field_problems(f"tasks: {task}", TransferConfig, both, allowed=("seeds",))
        for stage in (stage for stage in _STAGES if stage not in odd):
            yield from _field_problems(f"tasks: {task}: {stage}", _STAGES[stage], values.get(stage, {}))
        if task not in (*study.sources, *study.targets):
            yield f"tasks: {task!r} is neither a source nor a target of the study"
    for label, values in study.methods_options.items():
        row = methods.METHODS.get(_method(study, label))
        yield from _field_problems(f"methods_options: {label}", TransferConfig, values, allowed=("method", "seeds"))
        foreign = methods.foreign_flags(row, values) if row else []
        yield from (f"methods_options: {label}: {flag!r} does not apply to this method" for flag in foreign)
        implied = [name for name, used in (("fixed", study.probe_sources), ("single", study.shots)) if used]
        if label not in (*study.methods, *implied):
            yield f"methods_options: {label!r} is not among the study's methods"


def _field_problems(place: str, cls: type, values: dict[str, Any], allowed: tuple[str, ...] = ()) -> Iterator[str]:
    fixed = (_SET_BY_STUDY | {"method"}) - set(allowed)
    yield from (f"{place}: key {name!r} is set by the study itself" for name in values if name in fixed)
    _, found = check_values(cls, {name: value for name, value in values.items() if name not in fixed})
    yield from (f"{place}: {problem}" for problem in found)


def _clashes(study: StudyConfig) -> Iterator[str]:
    """Names of cells whose folders would lie inside one another."""
    names = [REPORT, *(recipe.name for recipe in _recipes(study, ""))]
    yield from (f"two cells would be called {name!r}" for name in dict.fromkeys(names) if names.count(name) > 1)
    for name in names:
        parents = {str(parent) for parent in PurePosixPath(name).parents}
        yield from (f"the folder of {name!r} would lie inside that of {other!r}" for other in parents & set(names))


def _value_problems(study: StudyConfig) -> Iterator[str]:
    for recipe in _recipes(study, ""):
        yield from _attempt(recipe.config, f"{recipe.name}: ")


def _attempt(function: Callable[[], Any], prefix: str = "") -> Iterator[str]:
    try:
        function()
    except InputError as error:
        yield f"{prefix}{error}"
