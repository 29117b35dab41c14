"""How far a run could be enlarged: the largest batch and the most seeds together that fit, and what remat would save.

Memory is affine in the rows of a batch and in the members. A size is extrapolated from what has been compiled, then
compiled itself; at most three programs are compiled in all.

Letters: M members (seeds trained together), R rows.
"""

import dataclasses
import math
from typing import Any

import jax

from scalearn_jax.stages import features
from scalearn_jax.stages.planning.extrapolation import Suggestion, largest
from scalearn_jax.stages.planning.forecast import Forecast, Program
from scalearn_jax.stages.planning.workload import compiled_training, train_batches
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.stages.program import training_rows
from scalearn_jax.train import memory, parallel
from scalearn_jax.train.loop import Schedule
from scalearn_jax.train.state import TrainState
from scalearn_jax.typing import Batch

MAX_COMPILATIONS = 3
_MAX_SEEDS = 64  # more are of no use to anyone
_COUNTED_EXAMPLES, _COUNTED_STEPS = 100_000, 200  # over which the rows of another batch size are counted
_LARGER = 8  # times the batch: where rows an example are counted
_AIM = 0.95  # of the budget
_MULTIPLE = 8  # of which suggested batch sizes are multiples


class Probe:
    """Compiles the training step of a run at other sizes, and counts how often.

    Attributes:
      compiled: number of programs compiled so far.
    """

    def __init__(self, setup: Setup, schedule: Schedule, step: parallel.Compiled, state: TrainState):
        self._setup, self._schedule, self._step, self._state = setup, schedule, step, state
        self.compiled = 0

    def peak(self, batch_size: int, num_seeds: int) -> int:
        """Bytes of a step of this size, on its largest batch."""
        return self._peak(self._step, largest_batch(self._setup, self._schedule, batch_size, num_seeds), num_seeds)

    def peak_with_remat(self) -> int:
        """Bytes of the run's own step with ``--remat``."""
        setup = dataclasses.replace(self._setup, spec=dataclasses.replace(self._setup.spec, remat=True))
        config, (step, _) = setup.config, compiled_training(setup, self._schedule)
        members = len(config.seeds)
        return self._peak(step, largest_batch(setup, self._schedule, config.batch_size, members), members)

    def _peak(self, step: parallel.Compiled, batch: Batch, num_seeds: int) -> int:
        self.compiled += 1
        resize = lambda x: jax.ShapeDtypeStruct((num_seeds, *x.shape[1:]), x.dtype, sharding=x.sharding)  # noqa: E731
        compiled = step.lower(jax.tree.map(resize, self._state), self._setup.frozen, batch).compile()
        return memory.of_program(compiled).peak


def largest_batch(setup: Setup, schedule: Schedule, batch_size: int, num_seeds: int) -> Batch:
    """Lays out a batch of the most rows that a run of another size needs; counted over its first steps."""
    *_, (batch, _) = train_batches(*_resized(setup, schedule, batch_size, num_seeds))
    return batch


def _resized(setup: Setup, schedule: Schedule, batch_size: int, num_seeds: int) -> tuple[Setup, int]:
    """The run with another size, and how many of its steps are looked at."""
    same = num_seeds == len(setup.config.seeds)
    seeds = setup.config.seeds if same else tuple(range(num_seeds))
    config = dataclasses.replace(setup.config, batch_size=batch_size, seeds=seeds)
    num_steps = max(1, min(schedule.num_steps, _COUNTED_STEPS, _COUNTED_EXAMPLES // (batch_size * num_seeds)))
    return dataclasses.replace(setup, config=config), num_steps


def suggest(
    setup: Setup, schedule: Schedule, step: parallel.Compiled, state: TrainState, found: Forecast
) -> dict[str, Any] | None:
    """Looks for the largest batch and the most seeds that fit, each with all else as it is.

    Args:
      setup: the run.
      schedule: its steps and evaluations.
      step: its training step.
      state: its state now.
      found: the forecast of the run.

    Returns:
      ``{"batch_size": fields of a Suggestion, "seeds": the same, "remat": {"peak", "saves"}}``, each ``None`` where
      nothing was found; ``None`` where memory is unknown, or a head alone trains on features.
    """
    known = found.available is not None and all(program.memory for program in found.programs)
    if not known or features.trains_head_only(setup.method, setup.spec):
        return None
    setup = dataclasses.replace(setup, trainable=state.trainable)  # the first ones were given up to the steps
    probe, budget = Probe(setup, schedule, step, state), memory.SHARE * found.available
    remat = None if setup.spec.remat else _remat(probe, found)
    batch = _batch_size(probe, setup, schedule, found, budget)
    seeds = _seeds(probe, setup, found, budget)
    return {"batch_size": batch and batch._asdict(), "seeds": seeds and seeds._asdict(), "remat": remat}


def _remat(probe: Probe, found: Forecast) -> dict[str, int]:
    peak = probe.peak_with_remat()
    return {"peak": peak, "saves": _largest_step(found).memory.peak - peak}


def _largest_step(found: Forecast) -> Program:
    return max((program for program in found.programs if program.name == "train"), key=lambda program: program.rows)


def _batch_size(probe: Probe, setup: Setup, schedule: Schedule, found: Forecast, budget: float) -> Suggestion | None:
    """Counts in examples of a larger batch, which packs better than the run's own."""
    size, members, last = setup.config.batch_size, len(setup.config.seeds), _largest_step(found)
    multiple = _multiple(setup)
    most = max(size, len(setup.data.train) // multiple * multiple)
    larger = min(most, _LARGER * size)
    resized, num_steps = _resized(setup, schedule, larger, members)
    rows_each = training_rows([resized], [num_steps])[1][-1] / larger
    points = [(p.rows / rows_each, p.memory.peak) for p in found.programs if p.name == "train"]
    tries = MAX_COMPILATIONS - probe.compiled - 1  # the seeds need one
    return largest(
        lambda size: probe.peak(size, members),
        points,
        now=size,
        slope=last.memory.temporaries / points[-1][0],
        budget=budget,
        most=most,
        tries=tries,
        multiple=multiple,
        aim=_AIM,
    )


def _multiple(setup: Setup) -> int:
    """What batch sizes must be multiples of: a handy number, the parts of a step, and a mesh that was asked for."""
    config = setup.config
    return math.lcm(_MULTIPLE, config.accumulate, setup.mesh.shape["data"] if config.mesh else 1)


def _seeds(probe: Probe, setup: Setup, found: Forecast, budget: float) -> Suggestion | None:
    size, members, peak = setup.config.batch_size, len(setup.config.seeds), _largest_step(found).memory.peak
    shared = sum(leaf.nbytes for leaf in jax.tree.leaves(setup.frozen))
    evaluation = max(program.memory.peak for program in found.programs if program.name != "train") - shared
    return largest(
        lambda members: probe.peak(size, members),
        [(members, peak)],
        now=members,
        slope=(peak - shared) / members,
        budget=budget,
        most=min(_MAX_SEEDS, int(members * (budget - shared) / max(evaluation, 1))),
        tries=MAX_COMPILATIONS - probe.compiled,
        aim=_AIM,
    )
