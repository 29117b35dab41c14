"""What came of trained runs: their best checkpoints, or why there are none."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.data import batches
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train.checkpoint import to_host
from scalearn_jax.train.position import Looks, Member, Position
from scalearn_jax.train.state import Faults


class Trained(NamedTuple):
    """What came of a run.

    Attributes:
      members: the best checkpoint of each; ``None`` where one has none.
      failure: why there are none, in words.
      state_hash: fingerprint of the last training state, optimiser included.
    """

    members: list[Member] | None
    failure: str
    state_hash: str


def outcomes(setups: Sequence[Setup], position: Position) -> list[Trained]:
    """Takes the results of some runs out of the program that trained them.

    Args:
      setups: the runs.
      position: where the program ended.

    Returns:
      What came of each.
    """
    ends, found = list(itertools.accumulate(len(setup.config.seeds) for setup in setups)), []
    for setup, looks, end in zip(setups, position.groups, ends, strict=True):
        own = jax.tree.map(lambda leaf: leaf[end - len(setup.config.seeds) : end], position.state)  # noqa: B023
        failure = _failure(setup, looks, own.faults)
        found.append(Trained(None if failure else looks.members, failure, tree.content_hash(to_host(own))))
    return found


def _failure(setup: Setup, looks: Looks, faults: Faults) -> str:
    """Says why a run has no best checkpoint, if it has none."""
    select = setup.config.select if setup.config.select == "loss" else "metric"
    if any(looks.gave_up):
        return _diagnosis(setup, looks.gave_up.index(True), jax.tree.map(np.asarray, faults))
    never = [seed for seed, member in zip(setup.config.seeds, looks.members, strict=True) if member.trainable is None]
    return f"no evaluation of seed {never[0]} gave a finite {select}" if never else ""


def _diagnosis(setup: Setup, index: int, faults: Faults) -> str:
    """Says where a member stood when its loss or gradient was not finite too often."""
    config, fault = setup.config, tree.index(faults, index)
    seed = config.seeds[index]
    examples = batches.examples_of(seed, int(fault.step), len(setup.data.train), config.batch_size)
    gradients, parameters = (
        ", ".join(f"{name} {float(norm):.3g}" for name, norm in norms.items())
        for norms in (fault.gradient_norms, fault.parameter_norms)
    )
    return (
        f"seed {seed}: no finite loss and gradient in {int(fault.in_a_row)} steps in a row, up to step"
        f" {int(fault.step) + 1} (training examples {', '.join(map(str, examples))}); norms of gradients: {gradients};"
        f" norms of parameters: {parameters}"
    )
