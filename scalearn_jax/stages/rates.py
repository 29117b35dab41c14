"""Several learning rates of one run: a folder each, and which did best on development data."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.config import TrainConfig
from scalearn_jax.stages.prepare import Setup


def folders(config: TrainConfig) -> list[tuple[float | None, str]]:
    """Lists the learning rates of a config, each with its run folder.

    Example:
      >>> from scalearn_jax.config import AdapterConfig
      >>> folders(AdapterConfig(task="glue/rte", backbone="b", out="o", learning_rates=(3e-3, 1e-2)))
      [(0.003, 'o/lr-0.003'), (0.01, 'o/lr-0.01')]
    """
    several = [(rate, str(Path(config.out, f"lr-{rate:g}"))) for rate in config.learning_rates]
    return several or [(config.learning_rate, config.out)]


def configs(config: TrainConfig) -> list[TrainConfig]:
    """Makes a config for each learning rate of one."""
    each = (dict(learning_rate=rate, learning_rates=(), out=folder) for rate, folder in folders(config))
    return [dataclasses.replace(config, **changes) for changes in each]


def at_each(setup: Setup) -> list[Setup]:
    """Makes a run for each learning rate of its config."""
    return [dataclasses.replace(setup, config=config) for config in configs(setup.config)]


def best(setups: Sequence[Setup], results: dict[str, Any]) -> dict[str, Any]:
    """Compares the learning rates of each task by the development score that chose the checkpoints.

    Returns:
      ``{task: {"best": rate, "select": name, "rates": {rate: mean over seeds}}}``.
    """
    found: dict[str, Any] = {}
    for setup in setups:
        name = "loss" if setup.config.select == "loss" else setup.task.metrics[0]
        entry = found.setdefault(setup.task.name, {"best": None, "select": name, "rates": {}})
        if setup.config.out in results:  # else it never had a finite score
            seeds = results[setup.config.out]["seeds"].values()
            entry["rates"][f"{setup.config.learning_rate:g}"] = float(np.mean([seed["dev"][name] for seed in seeds]))
    for entry in found.values():
        choose = min if entry["select"] == "loss" else max
        entry["best"] = choose(entry["rates"], key=entry["rates"].get, default=None)
    return found
