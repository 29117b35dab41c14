"""``scalearn plan``: what a run of either stage will need, as JSON types; it trains a few steps and writes nothing."""

import dataclasses
import time
from typing import Any

import jax

from scalearn_jax.config import PlanAdapterConfig, PlanTransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.stages import pipeline
from scalearn_jax.stages.planning.forecast import Forecast, Program, forecast
from scalearn_jax.stages.planning.suggest import suggest
from scalearn_jax.stages.planning.workload import compiled_training
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.stages.program import make_schedule
from scalearn_jax.train import memory


def plan(config: PlanAdapterConfig | PlanTransferConfig) -> dict[str, Any]:
    """Says what a run of this config will need; writes nothing.

    Args:
      config: of either stage; with ``suggest``, other sizes are compiled, too.

    Returns:
      JSON types; ``listing.forecast`` lays them out.

    Raises:
      InputError: anything wrong with the input, as in the run itself.
    """
    available, started = memory.available(), time.perf_counter()
    setup = _one_run(config)
    schedule = make_schedule(config, setup.method, len(setup.data.train))
    step, state = compiled_training(setup, schedule)
    prepared = time.perf_counter() - started
    found, state = forecast(setup, schedule, step, state, prepared, available)
    suggestions = suggest(setup, schedule, step, state, found) if config.suggest else None
    return to_dict(setup, found) | {"suggestions": suggestions}


def _one_run(config: PlanAdapterConfig | PlanTransferConfig) -> Setup:
    """The run of a config; several learning rates need what as many more seeds need.

    Raises:
      InputError: several targets, whose memory is about that of as many seeds on the largest.
    """
    if getattr(config, "targets", ()):
        raise InputError("plan takes one --target; several together need about what as many --seeds on one need.")
    if config.learning_rates:
        members = len(config.seeds) * len(config.learning_rates)
        config = dataclasses.replace(config, seeds=tuple(range(members)), learning_rates=())
    stage = pipeline.transfer_setups if isinstance(config, PlanTransferConfig) else pipeline.adapter_setups
    return stage(config)[0]


def to_dict(setup: Setup, found: Forecast) -> dict[str, Any]:
    """Turns a forecast into JSON types."""
    config = setup.config
    return {
        "task": setup.task.name,
        "method": config.method,
        "seeds": list(config.seeds),
        "batch_size": config.batch_size,
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "parameters": found.parameters,
        "steps": found.schedule.num_steps,
        "evaluations": found.schedule.num_evaluations,
        "programs": [_program(program) for program in found.programs],
        "seconds": found.seconds,
        "memory": {
            "needed": found.needed,
            "available": found.available,
            "fits": memory.fits(found.needed, found.available),
        },
    }


def _program(program: Program) -> dict[str, Any]:
    need = program.memory and program.memory._asdict() | {"peak": program.memory.peak}
    return program._asdict() | {"memory": need}
