"""Configs of joint training, on several tasks at once, and of what it would need."""

import functools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from scalearn_jax.config.checks import setting
from scalearn_jax.config.stages import Plan, TrainConfig
from scalearn_jax.errors import InputError
from scalearn_jax.methods import get_joint

_result = functools.partial(setting, result=True)


@dataclass(frozen=True, kw_only=True)
class JointConfig(TrainConfig):
    """Train on several tasks at once, each with its own head: the joint baselines."""

    tasks: tuple[str, ...] = _result(by_study=True)
    """Names of the tasks, for instance glue/rte glue/mrpc; see `scalearn list tasks`."""
    method: str = _result("adapter", by_study=True)
    """adapter: one adapter for all tasks; propetl: with a mask for each; hyperformer, hyperformer++: adapters that are
    generated from an embedding of each; full: fine-tune everything."""
    temperature: float = _result(1.0)
    """A step's task, of n examples, is drawn with a probability ~ n^(1 / temperature) (published: 1)."""
    sampler_seed: int | None = _result(None, at_least=0)
    """Seed of the order of tasks and examples, the same for all seeds (published: 0; default: that of each)."""
    epochs: int | None = _result(None, at_least=1)
    """Steps of the schedule, in passes over the data of all tasks together, as published for GLUE."""
    warmup_steps: int | None = _result(None, at_least=0)
    """Steps of linear warm-up before the decay (default: a tenth of all, as published)."""
    eval_every: int | None = _result(None, at_least=1)
    """Steps between evaluations (default: a fiftieth of all, as published)."""
    select: Literal["loss", "metric"] = _result("loss")
    """What the best checkpoint is chosen by: mean over tasks of the development loss, as published, or main metric."""

    def problems(self) -> list[str]:
        """Lists what is wrong with what is joint; checked along with the tasks' data, so that all comes at once."""
        found = []
        if not self.tasks:
            found.append("tasks: expected one or more names, see `scalearn list tasks`")
        if twice := [name for name, count in Counter(self.tasks).items() if count > 1]:
            found.append(f"tasks: {', '.join(twice)} stands there twice; name each task once")
        if not self.temperature > 0 or math.isinf(self.temperature):
            found.append(f"temperature must be above 0, got {self.temperature:g}; the published one is 1")
        try:
            get_joint(self.method)
        except InputError as error:
            found.append(str(error).rstrip("."))
        return found


@dataclass(frozen=True, kw_only=True)
class PlanJointConfig(Plan, JointConfig):
    """Memory, operations and time of `scalearn train-joint` with these settings."""
