"""Checks of a config before anything trains: whether sources, backbone, tokenizer and options fit together.

Letters: d hidden size, r bottleneck.
"""

from typing import Any

from scalearn_jax import methods
from scalearn_jax.config import TrainConfig
from scalearn_jax.config.stages import combiner_settings, foreign_settings
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.models.adapter import non_linearity
from scalearn_jax.models.backbones import BackboneSpec

_WIDEST = 1000  # times the hidden size: no adapter is meant to be as wide


def check_settings(
    config: TrainConfig, method: methods.Method, task: Task, backbone: BackboneSpec, num_sources: int
) -> None:
    """Checks all in a config that the backbone and the number of sources decide; needs no weights and no data."""
    if task.max_length > backbone.max_length:
        raise InputError(
            f"--max-length {task.max_length} exceeds the backbone's {backbone.max_length} positions;"
            " pass a smaller one."
        )
    if method.trains_adapter:
        bottleneck_width(config, backbone)
        non_linearity(config.non_linearity or "relu")
    given = given_options(config)
    for name in foreign_settings(method, given):
        raise InputError(f"--{name.replace('_', '-')} does not apply to method {config.method!r}; leave it out.")
    for name in ("weights", "coefficients"):
        values, required = given.get(name), method.combiner == "fixed" and name == "coefficients"
        if required if values is None else len(values) != num_sources:
            raise InputError(
                f"--{name} has {len(values or ())} values for {num_sources} sources; pass one a source, in their order."
            )


def bottleneck_width(config: TrainConfig, backbone: BackboneSpec) -> int:
    """Computes the bottleneck of a fresh adapter, r = floor(d / reduction factor)."""
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
    values = {name: getattr(config, name, None) for name in combiner_settings()}
    return {name: value for name, value in values.items() if value is not None}
