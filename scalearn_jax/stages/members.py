"""Seeds and learning rates as members of one program: one state for all, a folder for each rate, which did best."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scalearn_jax.config import TrainConfig
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train.state import TrainState, create


def run_configs(config: TrainConfig) -> list[TrainConfig]:
    """Makes the config of each run: one a learning rate, with a folder ``lr-RATE`` of its own."""
    if not config.learning_rates:
        return [config]
    return [
        dataclasses.replace(config, learning_rate=rate, learning_rates=(), out=str(Path(config.out, f"lr-{rate:g}")))
        for rate in config.learning_rates
    ]


def runs_of(setup: Setup) -> list[Setup]:
    """Makes the setup of each run: one a learning rate, on the same data and parameters."""
    return [dataclasses.replace(setup, config=config) for config in run_configs(setup.config)]


def first_state(setups: Sequence[Setup], optimizers: Sequence[optax.GradientTransformation]) -> TrainState:
    """Makes the state before the first step, leading axis M: the seeds of each run, one run after the other."""

    def of_run(setup: Setup, optimizer: optax.GradientTransformation) -> TrainState:
        keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 1) for seed in setup.config.seeds])
        return jax.vmap(lambda trainable, key: create(trainable, optimizer, key))(setup.trainable, keys)

    states = [of_run(*run) for run in zip(setups, optimizers, strict=True)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)


def compare_rates(setups: Sequence[Setup], results: dict[str, Any]) -> dict[str, Any]:
    """Compares the learning rates of each task by the development score that chose the checkpoints.

    From run folder -> results, of the runs that have some, it makes
    ``{task: {"best": rate, "select": name, "rates": {rate: mean over seeds}}}``.
    """
    found: dict[str, Any] = {}
    for setup in setups:
        name = "loss" if setup.config.select == "loss" else setup.task.metrics[0]
        scores = {
            f"{config.learning_rate:g}": float(
                np.mean([seed["dev"][name] for seed in results[config.out]["seeds"].values()])
            )
            for config in run_configs(setup.config)
            if config.out in results  # else it never had a finite score
        }
        best = (min if name == "loss" else max)(scores, key=scores.get, default=None)
        found[setup.task.name] = {"best": best, "select": name, "rates": scores}
    return found
