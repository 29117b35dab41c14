"""What a study consists of: its cells, each with its resolved config."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scalearn_jax import methods
from scalearn_jax.config import AdapterConfig, JointConfig, StudyConfig, TransferConfig
from scalearn_jax.config.schema import check_values, field_types
from scalearn_jax.config.stages import SGD, foreign_settings
from scalearn_jax.errors import InputError
from scalearn_jax.io.files import read_json
from scalearn_jax.io.hub_folder import split_alias
from scalearn_jax.io.tensors import tensor_names
from scalearn_jax.methods import Method
from scalearn_jax.studies.results import ADAPTERS, JOINT, PROBE

SELF = "self"  # in probe_sources: the target's own adapter
# Of ``stage2``: what says how long a target trains, which a run on all of them does not share.
_SCHEDULE = ("epochs", "max_steps", "learning_rate", "warmup_steps", "patience", "eval_every")
STAGES = {"stage1": AdapterConfig, "stage2": TransferConfig}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of a study."""

    name: str  # its folder below the study's
    config: AdapterConfig | TransferConfig | JointConfig  # its type gives the stage

    @property
    def task(self) -> str:
        """The only task it trains on."""
        return self.config.task if self.is_source else self.config.target

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks it trains on: one, or all targets of the study."""
        return self.config.tasks if self.is_joint else (self.task,)

    @property
    def is_joint(self) -> bool:
        """Whether it trains on all targets at once."""
        return isinstance(self.config, JointConfig)

    @property
    def method(self) -> Method:
        """The row of its method."""
        return (methods.get_joint if self.is_joint else methods.get)(self.config.method)

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


class Recipe(NamedTuple):
    """A cell before its values are checked: its name, the class of its config, and the values of the fields."""

    name: str
    cls: type[AdapterConfig | TransferConfig | JointConfig]
    values: dict[str, Any]


def cells(study: StudyConfig, out: str) -> list[Cell]:
    """Resolves a study without problems to its cells, in the order in which they run: the source adapters first.

    Values come, the last winning, from ``stage1`` (source adapters) or ``stage2`` (every method on a target, also one
    without sources, so that all get the same budget), ``tasks`` and ``methods_options``. A method whose options say
    ``joint: true`` has one cell, on all targets at once: of ``stage2`` it takes what says which data there are and how
    to compute, its schedule is its own.

    A few-shot study trains a target's own source adapter on the same few examples, with seed 0 and as method
    ``single`` does; the other sources have seen all their data (method.md, "Few-shot"). Without ``own_source`` there is
    no such adapter, and with ``draws`` there are as many cells, each with examples of its own.

    Example:
      >>> names = {"sources": ("glue/rte",), "targets": ("glue/mrpc",), "methods": ("fusion",)}
      >>> [cell.name for cell in cells(StudyConfig(name="n", backbone="b", **names), "runs")]
      ['adapters/glue/rte', 'glue/mrpc/fusion']
    """
    return [Cell(recipe.name, recipe.cls(**recipe.values)) for recipe in recipes(study, out)]


def recipes(study: StudyConfig, out: str) -> list[Recipe]:
    """Lists the cells of a study with the values of their configs, which may be wrong."""
    adapters = Path(study.adapters or Path(out, ADAPTERS))
    return [
        *_source_recipes(study, out, adapters),
        *_target_recipes(study, out, adapters),
        *_probe_recipes(study, out, adapters),
        *_joint_recipes(study, out),
    ]


def given_sources(study: StudyConfig) -> dict[str, str | None]:
    """Returns name -> NAME=SOURCE of each source in bank order; ``None`` for a task, whose adapter is trained."""
    names = [split_alias(text)[0] for text in study.sources]
    return {name or text: text if name else None for name, text in zip(names, study.sources, strict=True)}


def _source_recipes(study: StudyConfig, out: str, adapters: Path) -> Iterator[Recipe]:
    """Source adapters trained on all their data, then those of few-shot targets, trained on a few examples."""
    trained = [task for task, given in given_sources(study).items() if given is None]
    # Nothing uses the whole adapter of a target that is the only one and has few-shot adapters.
    alone = study.targets if study.shots and not study.probe_sources else ()
    few = study.shots if study.own_source else ()
    for task in trained:
        if alone != (task,):
            values = study.stage1 | _task_values(study, task, "stage1") | {"task": task, "seeds": (0,)}
            yield _recipe(study, AdapterConfig, f"{ADAPTERS}/{task}", adapters / task, values)
    shape = {name: study.stage1[name] for name in ("reduction_factor", "non_linearity") if name in study.stage1}
    for task, shots, draw in itertools.product(study.targets, few, _draws(study)):
        if task in trained:
            values = study.stage2 | _task_values(study, task, "stage2") | study.methods_options.get("single", {})
            values |= shape | {"task": task, "seeds": (0,), "max_train_samples": shots}  # one bank holds one kind
            values |= {} if draw is None else {"sample_seed": draw}
            name = "/".join([ADAPTERS, *_few(shots, draw), task])
            yield _recipe(study, AdapterConfig, name, Path(out, name), values)


def _target_recipes(study: StudyConfig, out: str, adapters: Path) -> Iterator[Recipe]:
    single = [label for label in study.methods if not is_joint(study, label)]
    axes = study.targets, study.shots or (None,), _draws(study), single
    for task, shots, draw, label in itertools.product(*axes):
        method, few = method_of(study, label), () if shots is None else _few(shots, draw)
        values = _common_values(study, task, label) | study.methods_options.get(label, {})
        values |= {"method": method, "target": task}
        if few:
            values |= {"max_train_samples": shots} | ({} if draw is None else {"sample_seed": draw})
        if methods.get(method).uses_sources:
            own = Path(out, ADAPTERS, *few) if few else adapters
            values["sources"] = tuple(
                given or str((own if source == task else adapters) / source)
                for source, given in given_sources(study).items()
                if study.own_source or source != task
            )
        name = "/".join([task, *few, label])
        yield _recipe(study, TransferConfig, name, Path(out, name), values)


def _probe_recipes(study: StudyConfig, out: str, adapters: Path) -> Iterator[Recipe]:
    """Every set of sources with every combination of constants (method.md, "Probing")."""
    given = given_sources(study)
    for task in study.targets:
        groups: dict[tuple[str, ...], tuple[str, ...]] = {}
        for group in study.probe_sources:  # a set that `self` makes the same as another counts once
            groups.setdefault(tuple(task if name == SELF else name for name in group), group)
        for sources, group in groups.items():
            for constants in itertools.product(study.probe_constants, repeat=len(group)):
                pairs = zip(group, constants, strict=True)  # self=0.5+glue-mnli=1
                label = "+".join(f"{name.replace('/', '-')}={value:g}" for name, value in pairs)
                values = _common_values(study, task, "fixed") | study.methods_options.get("fixed", {})
                values |= {"method": "fixed", "target": task, "coefficients": constants}
                values["sources"] = tuple(given.get(source) or str(adapters / source) for source in sources)
                name = f"{task}/{PROBE}/{label}"
                yield _recipe(study, TransferConfig, name, Path(out, name), values)


def _joint_recipes(study: StudyConfig, out: str) -> Iterator[Recipe]:
    """One cell a joint method, on all targets."""
    shared = {name: value for name, value in study.stage2.items() if name in field_types(JointConfig)}
    for label in filter(functools.partial(is_joint, study), study.methods):
        own = {name: value for name, value in study.methods_options[label].items() if name != "joint"}
        values = {name: value for name, value in shared.items() if name not in _SCHEDULE}
        values = {"seeds": study.seeds} | values | own | {"method": method_of(study, label), "tasks": study.targets}
        name = f"{JOINT}/{label}"
        yield _recipe(study, JointConfig, name, Path(out, name), values)


def is_joint(study: StudyConfig, label: str) -> bool:
    """Whether a method of a study trains on all targets at once."""
    return study.methods_options.get(label, {}).get("joint") is True


def _draws(study: StudyConfig) -> Iterable[int | None]:
    return range(study.draws) if study.draws else (None,)


def _few(shots: int, draw: int | None) -> tuple[str, ...]:
    """The folders of few-shot cells."""
    return (f"{shots}-shot",) if draw is None else (f"{shots}-shot", f"draw-{draw}")


def _common_values(study: StudyConfig, task: str, label: str) -> dict[str, Any]:
    """What ``stage2`` and ``tasks`` set; they are for all methods, and each takes what it understands."""
    values = {"seeds": study.seeds} | study.stage2 | _task_values(study, task, "stage2")
    is_solved = study.methods_options.get(label, {}).get("fit") == "solve"
    foreign = {*foreign_settings(methods.get(method_of(study, label)), list(values)), *(SGD if is_solved else ())}
    return {name: value for name, value in values.items() if name not in foreign}


def _task_values(study: StudyConfig, task: str, stage: str) -> dict[str, Any]:
    """The overrides of a task in a stage."""
    values = study.tasks.get(task, {})
    return {name: value for name, value in values.items() if name not in STAGES} | values.get(stage, {})


def method_of(study: StudyConfig, label: str) -> str:
    """The row of ``METHODS`` behind a label; options may name it, so that a study can hold variants of one method."""
    name = study.methods_options.get(label, {}).get("method", label)
    return name if isinstance(name, str) else label  # reported by study_problems


def _recipe(study: StudyConfig, cls: type, name: str, folder: Path, values: dict[str, Any]) -> Recipe:
    known, _ = check_values(cls, {name: value for name, value in values.items() if name in field_types(cls)})
    where = {"backbone": study.backbone, "revision": study.revision, "data_dir": study.data_dir, "out": str(folder)}
    return Recipe(name, cls, known | where)
