"""``scalearn plan``: what a run of either stage will need, as JSON types; it trains a few steps and writes nothing."""

import dataclasses
import math
import time
from typing import Any

import jax

from scalearn_jax.config import PlanAdapterConfig, PlanJointConfig, PlanTransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.stages import features, pipeline
from scalearn_jax.stages.joint import joint_setups
from scalearn_jax.stages.planning.forecast import Forecast, compiled_training, forecast, train_batches
from scalearn_jax.stages.prepare import is_solved
from scalearn_jax.stages.program import make_schedule
from scalearn_jax.stages.setup import Setup
from scalearn_jax.train import memory
from scalearn_jax.train.compile import Compiled
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.train.state import TrainState

_LARGER = 8  # times the run's own batch: the second size that is compiled
_COUNTED_STEPS = 200  # over which the rows of another batch size are counted
_MULTIPLE = 8  # of which suggested batch sizes are multiples


@own_settings()
def plan(config: PlanAdapterConfig | PlanTransferConfig | PlanJointConfig) -> dict[str, Any]:
    """Measures what a run of this config will need; writes nothing. ``cli.listing.format_plan`` formats the result.

    With ``suggest``, its step is also compiled with a larger batch.
    """
    available, started = memory.available(), time.perf_counter()
    setup = _one_run(config)
    schedule = make_schedule(config, setup.method, setup.num_examples)
    step, state = compiled_training(setup, schedule)
    prepared = time.perf_counter() - started
    found, state = forecast(setup, schedule, step, state, prepared, available)
    largest = largest_batch(setup, step, state, found) if config.suggest else None
    return to_dict(setup, found) | {"suggestions": largest and {"batch_size": largest}}


def _one_run(config: PlanAdapterConfig | PlanTransferConfig | PlanJointConfig) -> Setup:
    """The run of a config for one target; several learning rates need what as many more seeds need."""
    if getattr(config, "targets", ()):
        raise InputError("plan takes one --target; several are trained one after the other.")
    if is_solved(config):
        raise InputError("plan measures steps of training, which fit solve has none of; leave fit out.")
    if config.learning_rates:
        members = len(config.seeds) * len(config.learning_rates)
        config = dataclasses.replace(config, seeds=tuple(range(members)), learning_rates=())
    stages = {PlanTransferConfig: pipeline.transfer_setups, PlanJointConfig: joint_setups}
    return stages.get(type(config), pipeline.adapter_setups)(config)[0]


def largest_batch(setup: Setup, step: Compiled, state: TrainState, found: Forecast) -> dict[str, int] | None:
    """Estimates the largest batch that fits, all else as it is: memory is linear in the batch.

    The line goes through the run's own batch and a larger one, whose step is compiled here but not called. Returns
    ``{"value": examples, "peak": bytes}``, or ``None`` where memory is unknown, nothing fits, the data set has one
    batch at most, or a head alone trains on features.
    """
    config, parts = setup.config, setup.mesh.shape["data"] if setup.config.mesh else 1
    trained = [program.memory for program in found.programs if program.name == "train"]
    smallest = math.lcm(config.accumulate, parts)  # a batch is a multiple of this
    multiple = math.lcm(_MULTIPLE, smallest)
    most = setup.num_examples // multiple * multiple
    larger = min(most, _LARGER * config.batch_size // multiple * multiple)
    unknown = found.available is None or None in trained or features.trains_head_only(setup.method, setup.spec)
    if unknown or larger <= config.batch_size:
        return None
    resized = dataclasses.replace(setup, config=dataclasses.replace(config, batch_size=larger))
    *_, (batch, _) = train_batches(resized, min(found.schedule.num_steps, _COUNTED_STEPS))
    peak, compiled = max(need.peak for need in trained), step.lower(state, setup.frozen, batch).compile()
    slope = max(memory.of_program(compiled).peak - peak, 1) / (larger - config.batch_size)
    value = min(most, int(config.batch_size + (memory.SHARE * found.available - peak) / slope))
    unit = multiple if value >= multiple else smallest
    value = value // unit * unit
    return {"value": value, "peak": round(peak + slope * (value - config.batch_size))} if value > 0 else None


def to_dict(setup: Setup, found: Forecast) -> dict[str, Any]:
    """Turns a forecast into JSON types."""
    config = setup.config
    return {
        "task": setup.name,
        "method": config.method,
        "seeds": list(config.seeds),
        "batch_size": config.batch_size,
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "parameters": found.parameters,
        "steps": found.schedule.num_steps,
        "evaluations": found.schedule.num_evaluations,
        "programs": [
            program._asdict() | {"memory": program.memory and program.memory._asdict() | {"peak": program.memory.peak}}
            for program in found.programs
        ],
        "seconds": found.seconds,
        "memory": {
            "needed": found.needed,
            "available": found.available,
            "fits": memory.fits(found.needed, found.available),
        },
    }
