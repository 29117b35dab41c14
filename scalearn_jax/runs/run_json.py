"""The description of a finished run in ``run.json``, checked before it is used: it may come from anyone."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError

from scalearn_jax import combiners, methods, model, tree
from scalearn_jax.combiners.baselines import masks_of
from scalearn_jax.config.schema import check_values, field_types, problems, required_fields
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError, is_printable, unknown
from scalearn_jax.io.model_folder import inside, read_settings
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.model import ModelSpec
from scalearn_jax.models.adapter import NON_LINEARITIES
from scalearn_jax.models.backbones import BACKBONES, BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.typing import Params

FORMAT, JOINT = 1, "joint"  # the kind of a run of several tasks, each of which has a folder of its own in it
_OTHERS = ("adapter_config.json", "adapter_fusion_config.json", "adapter_setup.json", "scalearn_config.json")


@dataclasses.dataclass(frozen=True)
class _Info:
    """What ``run.json`` must hold, beside where a run came from."""

    method: str
    config: dict[str, Any]
    task: dict[str, Any]
    backbone: dict[str, Any]
    data_dir: str | None
    spec: dict[str, Any]
    sources: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    parameters: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Backbone:
    path: str
    revision: str | None
    hash: str


@dataclasses.dataclass(frozen=True)
class _Source:
    name: str
    path: str
    hash: str


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What of a run's config is needed to read its data again."""

    max_train_samples: int | None
    max_eval_samples: int | None
    max_dev_samples: int | None = None
    sample_seed: int | None = None
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"


# What building and tracing a model of wrong values may raise.
_DAMAGES = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, NotImplementedError, RecursionError, TypeError),
    ValueError,
)
_KNOWN = {
    "backbone.family": BACKBONES,
    "backbone.activation": NON_LINEARITIES,
    "non_linearity": NON_LINEARITIES,
    "dtype": ("float32", "strict", "mixed", "bfloat16", "float64"),
    "layers": ("loop", "scan"),
}


def spec_to_dict(spec: ModelSpec) -> dict[str, Any]:
    """Turns a spec into JSON types; ``spec_from_dict`` undoes it."""
    return dataclasses.asdict(dataclasses.replace(spec, combiner=str(spec.combiner)))


def spec_from_dict(content: dict[str, Any]) -> ModelSpec:
    """Builds a spec from what ``spec_to_dict`` wrote."""
    tuples = {
        "backbone": BackboneSpec(**content["backbone"]),
        "heads": tuple((task, HeadSpec(**head)) for task, head in content["heads"]),
        "combiner_options": tuple(
            (name, tuple(value) if isinstance(value, list) else value) for name, value in content["combiner_options"]
        ),
    }
    return ModelSpec(**content | tuples)


def read_info(folder: Path) -> dict[str, Any]:
    """Reads ``run.json`` and checks its format number and the types of its parts."""
    others = [name for name in _OTHERS if (folder / name).exists()]
    if others and not (folder / "run.json").exists():
        raise InputError(f"{folder} is no run folder but holds {others[0]}; `scalearn import` makes a run of it.")
    info = read_settings(folder, "run.json")
    if info.get("format") != FORMAT:
        raise InputError(f"{folder}/run.json has format {info.get('format')!r}, expected {FORMAT}.")
    missing = [name for name in required_fields(_Info) if name not in info]
    if missing:
        raise InputError(f"{folder}/run.json lacks {missing}; the file is damaged.")
    found = [*_problems(_Info, info, ""), *_problems(_Backbone, info["backbone"], "backbone: ")]
    for source in info["sources"] if isinstance(info["sources"], list) else ():
        found += _problems(_Source, source, "sources: ")
        if not found and not is_printable(source["name"]):
            found = [f"sources: the name {source['name']!r} cannot be shown"]
    seeds = info["seeds"]
    are_seeds = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not found and not (are_seeds and 0 < len(seeds) == len(set(seeds))):
        found = [f"seeds: expected one or more different whole numbers, which name files, got {seeds}"]
    if found:
        raise problems(f"{folder}/run.json is damaged", found)
    return info


def refuse_joint(folder: Path, info: dict[str, Any]) -> None:
    """Checks that a run is of one task; each task of a joint run has a folder of its own."""
    if info.get("kind") == JOINT:
        tasks = info.get("tasks") if isinstance(info.get("tasks"), list) else []
        names = [task.get("name") for task in tasks if isinstance(task, dict)]
        names = [name for name in names if isinstance(name, str) and is_printable(name)]
        listed = " or ".join(f"{folder}/{name}" for name in names[:2]) + (" ..." if len(names) > 2 else "")
        raise InputError(f"{folder} is a joint run of {len(names)} tasks; pass the folder of one, such as {listed}.")


def check_settings(folder: Path, info: dict[str, Any]) -> None:
    """Checks what of a run's config is needed to use it on its data again."""
    if found := _problems(_Settings, info["config"], "config: "):
        raise problems(f"{folder}/run.json is damaged", found)


def _problems(cls: type, content: Any, place: str) -> list[str]:
    """What is wrong with a part of ``run.json``; what a run may leave out need not be there, nor be known."""
    if not isinstance(content, dict):
        return [f"{place}expected keys and values, got {type(content).__name__}"]
    _, found = check_values(cls, {name: value for name, value in content.items() if name in field_types(cls)})
    found += [f"missing key {name!r}" for name in required_fields(cls) if name not in content]
    return [f"{place}{problem}" for problem in found]


def load_leaves(folder: Path, info: dict[str, Any]) -> tuple[dict[int, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Reads a run's own parameters by path name: those of each seed, and those frozen for all.

    Raises:
      InputError: a damaged file; or, where the backbone was not trained, parameters that would take the place of its.
    """
    trained = {seed: load_tensors(inside(folder, f"seed-{seed}.safetensors")) for seed in info["seeds"]}
    frozen = load_tensors(inside(folder, "frozen.safetensors")) if (folder / "frozen.safetensors").exists() else {}
    place = info["joint"].get("backbone_in") if isinstance(info.get("joint"), dict) else None
    if isinstance(place, str) and re.fullmatch(r"\.\.(/\.\.)*", place):  # what its tasks share, of a joint run
        for seed, leaves in trained.items():
            whole = load_tensors(inside(folder / place, f"seed-{seed}.safetensors"))
            leaves |= {name: leaf for name, leaf in whole.items() if name.startswith("backbone/")}
    options = dict(info["spec"]["combiner_options"])
    if info["spec"]["combiner"] == "propetl" and "masks" not in options:
        fraction = options.get("sparsity", 0.5)
        trained = {seed: _with_masks(leaves, fraction) for seed, leaves in trained.items()}
    if "backbone" not in methods.get(info["method"]).trainable:
        names = sorted(name for leaves in (*trained.values(), frozen) for name in leaves)
        own = [name for name in names if name.startswith("backbone") and not name.startswith("backbone/pooler/")]
        if own:
            raise InputError(
                f"{folder} holds {own[0]}, but a {info['method']!r} run leaves the backbone as it is; restore the"
                " folder."
            )
    return trained, frozen


def _with_masks(leaves: dict[str, np.ndarray], fraction: float) -> dict[str, np.ndarray]:
    """Widens ProPETL's masks; runs of before hold the scores that these mark the largest of."""
    found = {}
    for name, leaf in leaves.items():
        if name.startswith("transfer/scores/") and leaf.ndim == 3:
            name, leaf = name.replace("scores", "masks"), np.asarray(masks_of(leaf, fraction))
        found[name] = leaf.astype(np.float32) if name.startswith("transfer/masks/") and leaf.dtype == bool else leaf
    return found


@own_settings()
def read_spec(folder: Path, info: dict[str, Any], combiner: Any = None) -> tuple[ModelSpec, Task]:
    """Builds the model and task that ``run.json`` describes, and traces the model once to check it.

    ``combiner`` is the user's own, of a run that was made with one: nothing that a file names is imported.
    """
    refuse_joint(folder, info)
    given = _own_combiner(folder, info, combiner)
    try:
        spec, task = spec_from_dict(info["spec"] | given), Task.from_dict(info["task"])
        _check_spec(spec, task, info)
        hash(spec)
        jax.eval_shape(lambda: bound(model.init(jax.random.key(0), spec), spec))
    except (*_DAMAGES, FlaxError) as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        raise InputError(f"{folder}/run.json describes no model ({kind}{error}); restore it.") from error
    return spec, task


def _own_combiner(folder: Path, info: dict[str, Any], combiner: Any) -> dict[str, combiners.OwnCombiner]:
    """What stands in the spec for the name of the user's own combiner; nothing for other runs."""
    if info["method"] != methods.OWN:
        if combiner is not None:
            raise InputError(f"{folder} is a {info['method']!r} run, which has its combiner; leave combiner out.")
        return {}
    if combiner is None:
        raise InputError(
            f"{folder} was made with a combiner of one's own, {info['spec'].get('combiner')}, which is not imported by"
            ' itself; pass it in Python, for instance Predictor("runs/x", combiner=it) or evaluate("runs/x",'
            " combiner=it)."
        )
    return {"combiner": combiners.own(combiner)}


def bound(params: Params, spec: ModelSpec) -> Params:
    """What the combiner makes of a bank, and of one layer's hidden states; its options are used nowhere before."""
    site, update = model.adapt(params, spec=spec)[1:3]
    if update is None:
        return site
    return update(jax.tree.map(lambda leaf: leaf[0], site), jnp.zeros((1, 1, spec.backbone.hidden_size), jnp.float32))


def _check_spec(spec: ModelSpec, task: Task, info: dict[str, Any]) -> None:
    """Checks that a model's parts are of their types, known, and fit each other and the task."""
    heads = dict(spec.heads)
    found = [*_scalar_problems(spec, ""), *_scalar_problems(spec.backbone, "backbone: ")]
    found += [problem for head in heads.values() for problem in _scalar_problems(head, "heads: ")]
    if found:
        raise InputError("; ".join(found))
    for name, table in _KNOWN.items():
        value = getattr(spec.backbone if "." in name else spec, name.split(".")[-1])
        if value not in table:
            raise unknown(name, value, table)
    for name, value in spec.combiner_options:
        if any(isinstance(x, float) and not math.isfinite(x) for x in (value if isinstance(value, tuple) else [value])):
            raise InputError(f"the combiner's {name} must be finite, got {value}")
    method, num_sources = methods.get(info["method"]), len(info["sources"])
    if spec.combiner != method.combiner and info["method"] != methods.OWN:
        raise InputError(f"method {info['method']!r} has combiner {method.combiner!r}, not {spec.combiner!r}")
    if spec.num_sources != num_sources and not method.trains_adapter:
        raise InputError(f"it names {num_sources} sources, the model has {spec.num_sources}")
    if spec.backbone.hidden_size % spec.backbone.num_heads:
        raise InputError(f"hidden_size {spec.backbone.hidden_size} is no multiple of num_heads")
    if task.max_length > spec.backbone.max_length:
        raise InputError(f"a max_length of {task.max_length} exceeds {spec.backbone.max_length} positions")
    sizes = {name: (head.num_outputs, head.num_choices) for name, head in heads.items()}
    if heads and sizes != {task.name: (task.num_outputs, task.num_choices)}:
        raise InputError(
            f"it has heads {sizes}, the task {task.name!r} with {len(task.labels)} labels needs one of"
            f" {task.num_outputs} outputs and {task.num_choices} choices"
        )


def _scalar_problems(part: Any, place: str) -> list[str]:
    """Numbers and texts of another type than declared, and sizes below zero."""
    values = {name: getattr(part, name) for name, kind in field_types(type(part)).items() if isinstance(kind, type)}
    values = {name: value for name, value in values.items() if not dataclasses.is_dataclass(value)}
    _, found = check_values(type(part), values)
    found += [f"{name} is {value}" for name, value in values.items() if isinstance(value, int) and value < 0]
    return [f"{place}{problem}" for problem in found]


@own_settings()
def expected_shapes(spec: ModelSpec, *groups: str) -> dict[str, tuple[int, ...]]:
    """Lists the parameters of a model's groups by path, with their shapes; traces the model once."""
    leaves = tree.flatten(jax.eval_shape(lambda: model.init(jax.random.key(0), spec)))
    return {name: leaf.shape for name, leaf in leaves.items() if name.split("/")[0] in groups}


def check_leaves(folder: Path, leaves: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> None:
    """Checks that parameters read from a folder have the names and shapes that its spec expects."""
    found = {  # of whole numbers their type, which fits no shape
        name: leaf.shape if jnp.issubdtype(leaf.dtype, jnp.floating) else str(leaf.dtype)
        for name, leaf in leaves.items()
    }
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        listed = ", ".join(
            f"{name}: {found.get(name, 'missing')}, not {expected.get(name, 'there')}" for name in wrong[:3]
        )
        raise InputError(
            f"{folder}: the weights do not fit run.json ({len(wrong)} differ: {listed}); restore the folder."
        )
