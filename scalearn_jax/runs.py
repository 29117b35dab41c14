"""Run folders: what a finished run leaves behind, and how to read it back.

    run.json           resolved config, task row, backbone and sources with hashes, versions, counts
    results.json       metrics of every seed, mean and sd
    metrics.jsonl      one line an event, appended during training; the same run gives the same file
    timing.jsonl       how fast it went, and where it was taken up again
    seed-S.safetensors the trainable parameters of seed S, by path name
    frozen.safetensors what is frozen but not the backbone's: the source bank, and the pooler of a pooled head

With the backbone (kept by reference and hash) a folder is enough to evaluate, predict or reuse the adapter.
"""

import dataclasses
import math
import os.path
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from scalearn_jax import methods, model, tree
from scalearn_jax.convert import adapterhub, hf
from scalearn_jax.convert.files import read_settings
from scalearn_jax.convert.safetensors_io import load_tensors
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError, is_plain, masked, unknown
from scalearn_jax.files import read_json
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.models.backbones import BACKBONES, BackboneSpec, spec_from_config
from scalearn_jax.models.bottleneck import NON_LINEARITIES
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.schema import check_values, field_types, problems, required_fields
from scalearn_jax.typing import Params

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class _Info:
    """What ``run.json`` must hold, beside what only tells where a run came from."""

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


def versions() -> dict[str, str]:
    """Lists the versions a result depends on."""
    names = ("scalearn-jax", "jax", "jaxlib", "flax", "optax", "transformers", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return {"python": platform.python_version(), **found}


def command() -> str:
    """The command line of this process, as recorded in ``run.json``; tokens and passwords are masked."""
    return masked(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))


def spec_to_dict(spec: ModelSpec) -> dict[str, Any]:
    """Turns a spec into JSON types; ``spec_from_dict`` undoes it."""
    return dataclasses.asdict(spec)


def spec_from_dict(content: dict[str, Any]) -> ModelSpec:
    """Builds a spec from what ``spec_to_dict`` wrote."""
    tuples = {
        "backbone": BackboneSpec(**content["backbone"]),
        "heads": tuple((task, HeadSpec(**head)) for task, head in content["heads"]),
        "combiner_options": tuple((name, _hashable(value)) for name, value in content["combiner_options"]),
    }
    return ModelSpec(**content | tuples)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Source:
    """One source adapter and where it came from.

    Attributes:
      name: its task.
      path: its folder.
      adapter: the tree, [L d r] and so on.
      non_linearity: its phi.
      backbone_hash: content hash of the backbone it was trained on; ``None`` where the format keeps none.
      family: the backbone's model family; ``None`` where the format keeps none.
      info: the content of ``run.json``; ``None`` where there is none.
    """

    name: str
    path: str
    adapter: Params
    non_linearity: str
    backbone_hash: str | None
    family: str | None = None
    info: dict[str, Any] | None = None

    @property
    def hash(self) -> str:
        """Content hash of the adapter."""
        return tree.content_hash(self.adapter)


def load_source(path: str, *, allow_pickle: bool = False) -> Source:
    """Reads a source adapter from a stage-1 run folder or an AdapterHub folder, told apart by content.

    Args:
      path: the folder.
      allow_pickle: whether to read an AdapterHub folder without safetensors.

    Raises:
      InputError: the folder is neither, or is damaged.
    """
    folder = Path(path)
    if (folder / "adapter_config.json").exists():
        adapter, config = adapterhub.load(folder, allow_pickle=allow_pickle)
        return Source(config["name"], path, adapter, config["non_linearity"], None, config["model_type"])
    if not (folder / "run.json").exists():
        raise InputError(
            f"--sources {path}: neither a run folder (run.json) nor an AdapterHub folder (adapter_config.json);"
            " pass a folder written by `scalearn train-adapter`."
        )
    info = read_info(folder)
    if info["method"] != "single":
        raise InputError(f"--sources {path}: holds a {info['method']!r} run, expected a single adapter.")
    spec, task = read_spec(folder, info)
    weights = load_tensors(folder / f"seed-{info['seeds'][0]}.safetensors")
    check_leaves(
        folder, {name: leaf for name, leaf in weights.items() if name.startswith("adapters/")}, spec, "adapters"
    )
    adapter = banks.select(tree.unflatten(weights)["adapters"], 0)
    return Source(task.name, path, adapter, spec.non_linearity, info["backbone"]["hash"], info=info)


def read_info(folder: Path) -> dict[str, Any]:
    """Reads ``run.json`` and checks its format number and the types of its parts.

    Raises:
      InputError: missing, damaged, or written by another version of the format.
    """
    info = read_json(folder / "run.json")
    if info.get("format") != FORMAT:
        raise InputError(f"{folder}/run.json has format {info.get('format')!r}, expected {FORMAT}.")
    missing = [name for name in required_fields(_Info) if name not in info]
    if missing:
        raise InputError(f"{folder}/run.json lacks {missing}; the file is damaged.")
    found = [*_problems(_Info, info, ""), *_problems(_Backbone, info["backbone"], "backbone: ")]
    for source in info["sources"] if isinstance(info["sources"], list) else ():
        found += _problems(_Source, source, "sources: ")
        if not found and not is_plain(source["name"]):
            found = [f"sources: the name {source['name']!r} cannot be shown"]
    if not found and not _good_seeds(info["seeds"]):
        found = [f"seeds: expected one or more different whole numbers, which name files, got {info['seeds']}"]
    if found:
        raise problems(f"{folder}/run.json is damaged", found)
    return info


def _good_seeds(seeds: Any) -> bool:
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    return whole and 0 < len(seeds) == len(set(seeds))


def _problems(cls: type, content: Any, place: str) -> list[str]:
    """What is wrong with a part of ``run.json``; what a run may leave out need not be there, nor be known."""
    if not isinstance(content, dict):
        return [f"{place}expected keys and values, got {type(content).__name__}"]
    _, found = check_values(cls, {name: value for name, value in content.items() if name in field_types(cls)})
    found += [f"missing key {name!r}" for name in required_fields(cls) if name not in content]
    return [f"{place}{problem}" for problem in found]


def read_spec(folder: Path, info: dict[str, Any]) -> tuple[ModelSpec, Task]:
    """Builds the model and task that ``run.json`` describes.

    Raises:
      InputError: they do not describe any.
    """
    try:
        spec, task = spec_from_dict(info["spec"]), Task.from_dict(info["task"])
        _check_spec(spec, task, info)
        hash(spec)
        jax.eval_shape(lambda key: _bound(model.init(key, spec), spec), jax.random.key(0))
    except (*_DAMAGES, FlaxError) as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        raise InputError(f"{folder}/run.json describes no model ({kind}{error}); restore it.") from error
    return spec, task


def _bound(params: Params, spec: ModelSpec) -> Params:
    """What the combiner makes of a bank, and of one layer's hidden states; its options are used nowhere before."""
    combiner = spec.make_combiner
    site = combiner.bind(params["transfer"], params["adapters"])
    if combiner.apply is None:
        return site
    return combiner.apply(jax.tree.map(lambda leaf: leaf[0], site), jnp.zeros((1, 1, spec.backbone.hidden_size)))


def _check_spec(spec: ModelSpec, task: Task, info: dict[str, Any]) -> None:
    """Checks that a model's parts are of their types, known, and fit each other and the task.

    Raises:
      InputError: they do not.
    """
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
    if spec.combiner != method.combiner:
        raise InputError(f"method {info['method']!r} has combiner {method.combiner!r}, not {spec.combiner!r}")
    if spec.num_sources != num_sources and not methods.has_fresh_bottleneck(method):
        raise InputError(f"it names {num_sources} sources, the model has {spec.num_sources}")
    if spec.backbone.hidden_size % spec.backbone.num_heads:
        raise InputError(f"hidden_size {spec.backbone.hidden_size} is no multiple of num_heads")
    if task.max_length > spec.backbone.max_length:
        raise InputError(f"a max_length of {task.max_length} exceeds {spec.backbone.max_length} positions")
    sizes = {name: (head.num_outputs, head.num_choices) for name, head in heads.items()}
    if sizes != {task.name: (task.num_outputs, task.num_choices)}:
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


def _expected(spec: ModelSpec) -> dict[str, jax.ShapeDtypeStruct]:
    return tree.flatten(jax.eval_shape(lambda: model.init(jax.random.key(0), spec)))


def check_leaves(folder: Path, leaves: dict[str, Any], spec: ModelSpec, *groups: str) -> None:
    """Checks that parameters read from a folder have the names and shapes that its spec asks for.

    Raises:
      InputError: names the first that are missing, unknown or of another shape.
    """
    expected = {name: leaf.shape for name, leaf in _expected(spec).items() if name.split("/")[0] in groups}
    found = {name: _shape(leaf) for name, leaf in leaves.items()}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        listed = ", ".join(
            f"{name}: {found.get(name, 'missing')}, not {expected.get(name, 'there')}" for name in wrong[:3]
        )
        raise InputError(
            f"{folder}: the weights do not fit run.json ({len(wrong)} differ: {listed}); restore the folder."
        )


def _shape(leaf: Any) -> Any:
    """The shape of a leaf; of whole numbers their type instead, which fits none."""
    return leaf.shape if jnp.issubdtype(leaf.dtype, jnp.floating) else str(leaf.dtype)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, ready for use.

    Attributes:
      folder: where it lies.
      info: the content of ``run.json``.
      spec: the model.
      task: the task row.
      members: all parameters of each seed, backbone included.
    """

    folder: Path
    info: dict[str, Any]
    spec: ModelSpec
    task: Task
    members: dict[int, Params]


def load_run(path: str, *, backbone: str | None = None, allow_pickle: bool = False) -> Run:
    """Reads a run folder and its backbone.

    Args:
      path: the folder.
      backbone: where the backbone lies now, if not where it lay in training.
      allow_pickle: whether to read a backbone without safetensors; what the run's own files say of it does not count.

    Returns:
      The run.

    Raises:
      InputError: damaged folder, or a backbone with other weights.
    """
    folder = Path(path)
    info = read_info(folder)
    spec, task = read_spec(folder, info)
    if found := _problems(_Settings, info["config"], "config: "):
        raise problems(f"{folder}/run.json is damaged", found)
    trained = {seed: load_tensors(folder / f"seed-{seed}.safetensors") for seed in info["seeds"]}
    kept = load_tensors(folder / "frozen.safetensors") if (folder / "frozen.safetensors").exists() else {}
    own = [name for name in next(iter(trained.values())) if name.startswith("backbone/")]
    shared = {} if own else tree.flatten({"backbone": _checked_backbone(path, info, backbone, allow_pickle)})
    groups, pooled = ("adapters", "transfer", "heads"), spec.backbone.has_pooler
    for leaves in trained.values():
        whole = {name: x for name, x in (shared | kept | leaves).items() if pooled or "backbone/pooler/" not in name}
        check_leaves(folder, whole, spec, "backbone", *groups)
    empty: Params = {group: {} for group in groups}
    members = {seed: empty | tree.unflatten(shared | kept | leaves) for seed, leaves in trained.items()}
    return Run(folder, info, spec, task, members)


def _checked_backbone(path: str, info: dict[str, Any], override: str | None, allow_pickle: bool) -> Params:
    recorded = info["backbone"]
    where = override or recorded["path"]
    weights, _, found = load_backbone(where, None if override else recorded["revision"], allow_pickle=allow_pickle)
    if found != recorded["hash"]:
        raise InputError(
            f"backbone {where} has content {found[:12]}, the run {path} was trained on {recorded['hash'][:12]};"
            " pass the right one with --backbone."
        )
    return weights


def locate_backbone(path: str, revision: str | None) -> dict[str, str | None]:
    """Pins where a backbone lies: an absolute folder, or a hub id with the commit that was read."""
    where = hf.folder(path, revision)
    local = os.path.isdir(os.path.expanduser(path))
    return {"path": str(where.resolve()) if local else path, "revision": None if local else where.name}


def load_backbone(
    path: str, revision: str | None = None, *, allow_pickle: bool = False
) -> tuple[Params, BackboneSpec, str]:
    """Reads a backbone with its content hash; the pooler does not count, since many copies lack it."""
    weights, spec = hf.load_backbone(path, revision=revision, allow_pickle=allow_pickle)
    return weights, spec, tree.content_hash({name: leaf for name, leaf in weights.items() if name != "pooler"})


def backbone_spec(path: str, revision: str | None = None) -> BackboneSpec:
    """Reads the sizes of a backbone without its weights.

    Raises:
      InputError: no folder, or a ``config.json`` that describes no known encoder.
    """
    where = hf.folder(path, revision)
    return spec_from_config(read_settings(where, "config.json"), where=str(where / "config.json"))
