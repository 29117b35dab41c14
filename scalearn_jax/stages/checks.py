"""What can be told of a config before anything trains: whether sources, backbone, tokenizer and options fit together.

Letters: d hidden size, r bottleneck.
"""

import os.path
from collections.abc import Sequence
from typing import Any

from scalearn_jax import methods
from scalearn_jax.config import TrainConfig
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io.hub import is_model_id
from scalearn_jax.models.adapter import non_linearity
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.runs import load as runs

_WIDEST = 1000  # times the hidden size: no adapter is meant to be as wide


def check_sources(sources: Sequence[runs.Source], spec: BackboneSpec, backbone_hash: str) -> Sequence[runs.Source]:
    """Checks that source adapters fit the backbone and each other.

    Args:
      sources: the adapters.
      spec: sizes of the backbone.
      backbone_hash: its content hash.

    Returns:
      The sources, unchanged.

    Raises:
      InputError: duplicate names, another backbone, another size, or different non-linearities.
    """
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        double = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"--sources: duplicate source names {double}; pass each source task once.")
    for source in sources:
        layers, hidden = source.adapter["down"]["kernel"].shape[:2]
        if (layers, hidden) != (spec.num_layers, spec.hidden_size):
            raise InputError(
                f"source {source.name} ({source.path}) has {layers} layers of hidden size {hidden}, the backbone has"
                f" {spec.num_layers} of {spec.hidden_size}; use adapters trained on this backbone."
            )
        if source.family not in (None, spec.family):
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
    return sources


def is_hub_id(name: str | None) -> bool:
    """Says whether a name is that of a model on the hub, and of no folder here.

    Example:
      >>> is_hub_id("FacebookAI/roberta-base@main"), is_hub_id("/models/roberta-base")
      (True, False)
    """
    return bool(name and is_model_id(name.partition("@")[0])) and not os.path.isdir(name)


def check_base_model(what: str, base_model: str | None, backbone: str, *, any_base_model: bool) -> None:
    """Checks that the base model that a file names is the backbone, where both are known by their name on the hub.

    Names are compared without their owner, since models move: ``roberta-base`` is ``FacebookAI/roberta-base``.

    Args:
      what: whose base model, for the error.
      base_model: its name in the file, if there is one.
      backbone: folder or hub id.
      any_base_model: whether not to check.

    Raises:
      InputError: another name.

    Example:
      >>> check_base_model("adapter 'rte'", "roberta-base", "FacebookAI/roberta-base", any_base_model=False)
    """
    if any_base_model or not (is_hub_id(base_model) and is_hub_id(backbone)):
        return
    theirs, ours = (name.partition("@")[0].rpartition("/")[2].lower() for name in (base_model, backbone))
    if theirs != ours:
        raise InputError(
            f"{what} was trained on base model {base_model!r}, the backbone is {backbone!r}; pass the right --backbone,"
            " or --any-base-model if the two are the same weights."
        )


def check_base_models(sources: Sequence[runs.Source], backbone: str, *, any_base_model: bool) -> None:
    """``check_base_model`` for source adapters; a known hash of the backbone decides, see ``check_sources``."""
    for source in sources:
        if source.backbone_hash is None:
            what = f"source {source.name} ({source.path})"
            check_base_model(what, source.base_model, backbone, any_base_model=any_base_model)


def check_settings(
    config: TrainConfig, method: methods.Method, task: Task, backbone: BackboneSpec, num_sources: int
) -> None:
    """Checks everything in a config that the backbone and the number of sources decide; needs no weights and no data.

    Raises:
      InputError: the task is longer than the position table, a fresh adapter would have no units, or options do not
        fit the method or the sources.
    """
    if task.max_length > backbone.max_length:
        raise InputError(
            f"--max-length {task.max_length} exceeds the backbone's {backbone.max_length} positions;"
            " pass a smaller one."
        )
    if methods.has_fresh_bottleneck(method):
        fresh_width(config, backbone)
        non_linearity(config.non_linearity or "relu")
    given = given_options(config)
    for name in methods.foreign_flags(method, given):
        raise InputError(f"--{name.replace('_', '-')} does not apply to method {config.method!r}; leave it out.")
    for name in ("weights", "coefficients"):
        required = method.combiner == "fixed" and name == "coefficients"
        check_length(name, given.get(name), num_sources, required=required)


def fresh_width(config: TrainConfig, backbone: BackboneSpec) -> int:
    """Computes the bottleneck of a fresh adapter, r = floor(d / reduction factor).

    Raises:
      InputError: nothing is left of it, or it is far wider than the backbone.
    """
    reduction_factor = config.reduction_factor or 16
    if reduction_factor < 1 / _WIDEST:
        raise InputError(f"--reduction-factor {reduction_factor} is below 1/{_WIDEST}; pass a larger one.")
    width = int(backbone.hidden_size // reduction_factor)
    if width < 1:
        raise InputError(
            f"--reduction-factor {reduction_factor} leaves no bottleneck at hidden size"
            f" {backbone.hidden_size}; pass a smaller one."
        )
    return width


def given_options(config: TrainConfig) -> dict[str, Any]:
    """Lists the options of single methods that a config sets."""
    values = {name: getattr(config, name, None) for name in methods.all_flags()}
    return {name: value for name, value in values.items() if value is not None}


def check_length(name: str, values: Sequence[float] | None, num_sources: int, *, required: bool = False) -> None:
    """Checks an option that takes one value a source.

    Raises:
      InputError: it is required and missing, or has another length.
    """
    if values is None and not required:
        return
    if values is None or len(values) != num_sources:
        raise InputError(
            f"--{name} has {len(values or ())} values for {num_sources} sources; pass one a source, in their order."
        )
