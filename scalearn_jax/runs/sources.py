"""Source adapters: read from a folder or the hub, and checked against a backbone and each other."""

import dataclasses
import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scalearn_jax import tree
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.io.hub import is_model_id
from scalearn_jax.io.model_folder import inside
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.models import bank as banks
from scalearn_jax.models.backbones import BackboneSpec, same_adapters
from scalearn_jax.runs import adapterhub, run_json
from scalearn_jax.runs.provenance import choose_seed, read_provenance
from scalearn_jax.typing import Params


class Trust(NamedTuple):
    """What a user vouches for in folders that may come from anyone; the folders themselves cannot set it."""

    allow_pickle: bool = False  # weights without safetensors may be read; nothing in them is run
    any_base_model: bool = False  # an adapter may name another base model than the backbone
    combiner: Any = None  # the user's own, of a run that was made with one


NO_TRUST = Trust()


@dataclasses.dataclass(frozen=True)
class Source:
    """One source adapter and where it came from."""

    name: str  # its task, or what the user calls it
    path: str  # its folder, or ``OWNER/NAME@COMMIT`` of the hub
    adapter: Params  # the tree, [L d r] and so on
    non_linearity: str  # its phi
    backbone_hash: str | None  # content hash of the backbone it was trained on; ``None`` where the format keeps none
    family: str | None = None  # the backbone's model family; ``None`` where the format keeps none
    info: dict[str, Any] | None = None  # the content of ``run.json``; ``None`` where there is none
    base_model: str | None = None  # the name that the file gives the backbone; ``None`` where it gives none
    leaves_out: bool = False  # whether it has no adapter in some layers; here that is one whose update is zero
    why: str = ""  # why its seed was chosen, see ``provenance.choose_seed``

    @property
    def hash(self) -> str:
        """Content hash of the adapter."""
        return tree.content_hash(self.adapter)


def load_source(path: str, *, allow_pickle: bool = False) -> Source:
    """Reads a source adapter from a stage-1 run folder, of several seeds its best, or an AdapterHub folder.

    Args:
      path: the folder, or ``OWNER/NAME[@REVISION]`` of the hub; ``NAME=`` before it gives the source that name. Where
        nothing of the kind is in the folder, it is the only one below, as in a checkpoint of AdapterHub's trainer.
      allow_pickle: whether to read an AdapterHub folder without safetensors.

    Raises:
      InputError: the folder is neither, or is damaged; or the hub cannot give it.

    Example:
      >>> load_source("nowhere")
      Traceback (most recent call last):
      scalearn_jax.errors.InputError: --sources nowhere: neither a run folder (run.json) nor an AdapterHub folder ...
    """
    alias, path = hub.split_alias(hub.check_name(path, "source"))
    folder, path = hub.source_folder(path, flag="--sources", allow_pickle=allow_pickle)
    source = read_source(folder, path, allow_pickle=allow_pickle)
    return dataclasses.replace(source, name=alias) if alias else source


def read_source(folder: Path, path: str, *, allow_pickle: bool = False) -> Source:
    """Reads a source adapter from a folder that was found; ``path`` is where it is said to be."""
    if (folder / "adapter_config.json").exists():
        adapter, config = adapterhub.load(folder, allow_pickle=allow_pickle)
        noted = read_provenance(folder)
        return Source(
            name=noted["task"].name if noted else config["name"],
            path=path,
            adapter=adapter,
            non_linearity=config["non_linearity"],
            backbone_hash=noted["backbone"]["hash"] if noted else None,
            family=config["model_type"],
            base_model=config["model_name"],
            leaves_out=bool(config["leave_out"]),
        )
    if not (folder / "run.json").exists():
        instead = "pass a folder written by `scalearn train-adapter`"
        if any((folder / name).exists() for name in ("adapter_fusion_config.json", "adapter_setup.json")):
            instead = "it holds what joins adapters, a layer or a setup; pass those, or `scalearn import` it"
        raise InputError(
            f"--sources {path}: neither a run folder (run.json) nor an AdapterHub folder (adapter_config.json);"
            f" {instead}."
        )
    info = run_json.read_info(folder)
    run_json.refuse_joint(folder, info)
    if info["method"] != "single":
        raise InputError(
            f"--sources {path}: holds a {info['method']!r} run, expected a single adapter, which `scalearn fold` makes"
            " of most runs."
        )
    spec, task = run_json.read_spec(folder, info)
    seed, why = choose_seed(folder, info)
    weights = load_tensors(inside(folder, f"seed-{seed}.safetensors"))
    bank = {name: leaf for name, leaf in weights.items() if name.startswith("adapters/")}
    run_json.check_leaves(folder, bank, run_json.expected_shapes(spec, "adapters"))
    adapter = banks.select(tree.unflatten(bank)["adapters"], 0)
    return Source(task.name, path, adapter, spec.non_linearity, info["backbone"]["hash"], info=info, why=why)


def check_sources(sources: Sequence[Source], spec: BackboneSpec, backbone_hash: str) -> None:
    """Checks that source adapters fit the backbone and each other."""
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(source.name, source)
        if other is not source:
            raise InputError(
                f"--sources: duplicate source names, {other.path} and {source.path} are both {source.name!r}; pass each"
                f" once, and two that differ as NAME=SOURCE: --sources a={other.path} b={source.path}."
            )
    for source in sources:
        layers, hidden = source.adapter["down"]["kernel"].shape[:2]
        if (layers, hidden) != (spec.num_layers, spec.hidden_size):
            raise InputError(
                f"source {source.name} ({source.path}) has {layers} layers of hidden size {hidden}, the backbone has"
                f" {spec.num_layers} of {spec.hidden_size}; use adapters trained on this backbone."
            )
        if not same_adapters(source.family or spec.family, spec.family):
            raise InputError(
                f"source {source.name} ({source.path}) is for a {source.family!r} backbone, this one is"
                f" {spec.family!r}; use adapters trained on this backbone."
            )
        if source.backbone_hash not in (None, backbone_hash):
            raise InputError(
                f"source {source.name} ({source.path}) was trained on backbone {source.backbone_hash[:12]}, this one is"
                f" {backbone_hash[:12]}; use adapters trained on this backbone."
            )
    phis = {source.name: source.non_linearity for source in sources}
    if len(set(phis.values())) > 1:
        raise InputError(f"--sources mix non-linearities {phis}; one bank holds one kind.")
    normed = [source.name for source in sources if "norm" in source.adapter]
    if 0 < len(normed) < len(sources):
        others = ", ".join(source.name for source in sources if source.name not in normed)
        raise InputError(
            f"--sources mix adapters with a layer norm after their up-projection ({', '.join(normed)}) and without one"
            f" ({others}); one bank holds one kind."
        )


def is_hub_id(name: str | None) -> bool:
    """Whether a name is that of a model on the hub, and of no folder here."""
    return bool(name and is_model_id(name.partition("@")[0])) and not os.path.isdir(name)


def check_base_model(what: str, base_model: str | None, backbone: str) -> None:
    """Checks that the base model that a file names is the backbone, where both are known by their name on the hub.

    Names are compared without their owner, since models move: ``roberta-base`` is ``FacebookAI/roberta-base``.
    """
    if not (is_hub_id(base_model) and is_hub_id(backbone)):
        return
    theirs, ours = (name.partition("@")[0].rpartition("/")[2].lower() for name in (base_model, backbone))
    if theirs != ours:
        raise InputError(
            f"{what} was trained on base model {base_model!r}, the backbone is {backbone!r}; pass the right --backbone,"
            " or --any-base-model if the two are the same weights."
        )


def check_base_models(sources: Sequence[Source], backbone: str) -> None:
    """``check_base_model`` for source adapters; a known hash of the backbone decides, see ``check_sources``."""
    for source in sources:
        if source.backbone_hash is None:
            check_base_model(f"source {source.name} ({source.path})", source.base_model, backbone)
