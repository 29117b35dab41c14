"""What training runs will cost, before they start: steps, floating-point operations, seconds on this machine.

Letters: R rows, S row length, L layers, T source tasks, d hidden size, f feed-forward width, r bottleneck.
"""

import dataclasses
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from scalearn_jax import methods
from scalearn_jax.config import TrainConfig
from scalearn_jax.data import batches
from scalearn_jax.data.task import Task
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.stages.prepare import bottleneck_width, is_solved
from scalearn_jax.stages.program import make_schedule
from scalearn_jax.stages.setup import Data
from scalearn_jax.train.evaluate import Layout
from scalearn_jax.train.jax_settings import own_settings

_SHARE_OF_PEAK = 0.6  # of a large matrix product's speed that a whole step reaches
_COMPILE_SECONDS = 15.0  # programs of a run, on a small machine
_SAMPLED_STEPS = 200  # whose rows are counted; the others are like them
_EVALUATIONS = 20  # that solving for a number a source takes, beside one for each source alone


class Cost(NamedTuple):
    """What a run will cost, evaluation included, if no seed stops early."""

    steps: int
    flops: float

    @property
    def seconds(self) -> float:
        """A rough duration on this machine, compilation included; half or double is possible."""
        return _COMPILE_SECONDS + self.flops / (_SHARE_OF_PEAK * matmul_rate())


def cost(config: TrainConfig, task: Task, backbone: BackboneSpec, data: Data, num_sources: int) -> Cost:
    """Estimates a run of T sources, all its seeds together; the task has the config's length."""
    method = methods.get(config.method)
    if is_solved(config):
        return _solving_cost(config, method, task, backbone, data, num_sources)
    schedule = make_schedule(config, method, len(data.train))
    fresh = method.trains_adapter
    width = bottleneck_width(config, backbone) if fresh else num_sources * backbone.hidden_size // 16
    row = forward_flops(backbone, task.max_length, width)
    steps = min(schedule.num_steps, _SAMPLED_STEPS)
    rows, num_seeds = config.batch_size * data.train.num_choices, len(config.seeds)
    if config.packed:
        rows = batches.train_rows(
            data.train,
            seeds=config.seeds[:1],
            batch_size=config.batch_size,
            row_length=task.max_length,
            num_steps=steps,
        ).mean()
    dev, test = _eval_rows(config, task, data.dev), _eval_rows(config, task, data.test)
    trained = schedule.num_steps * rows * _passes(method)
    if method.trainable == ("head",) and not config.backbone_dropout:  # each example is encoded once
        share = min(1.0, len(data.train) / (schedule.num_steps * config.batch_size * num_seeds))
        return Cost(schedule.num_steps, (share * trained * num_seeds + dev + num_seeds * test) * row)
    return Cost(schedule.num_steps, num_seeds * (trained + schedule.num_evaluations * dev + test) * row)


def _solving_cost(
    config: TrainConfig, method: methods.Method, task: Task, backbone: BackboneSpec, data: Data, num_sources: int
) -> Cost:
    """Estimates a solve, which all seeds share; a step is an evaluation, which is worth three passes with gradient."""
    count = min(len(data.train), config.solve_samples) * data.train.num_choices
    row = forward_flops(backbone, task.max_length, num_sources * backbone.hidden_size // 16)
    alone = num_sources if method.solves == "scales" or method.coefficients == "best" else 0
    steps = alone + (_EVALUATIONS + num_sources if method.solves == "scales" else 0)
    passes = alone + 3 * (steps - alone) + 1
    split = dataclasses.replace(config, eval_batch_size=config.batch_size)
    share = _eval_rows(split, task, data.train) / (len(data.train) * data.train.num_choices)  # rows of a text
    rows = passes * count * share + _eval_rows(config, task, data.dev) + _eval_rows(config, task, data.test)
    return Cost(steps, rows * row)


def _passes(method: methods.Method) -> int:
    """Forward passes that a step is worth: with gradients of activations two, also of all weights three."""
    if "backbone" in method.trainable:
        return 3
    return 1 if method.trainable == ("head",) else 2


def _eval_rows(config: TrainConfig, task: Task, split) -> int:
    size = config.eval_batch_size
    return Layout.of([split], task.max_length, size, packed=config.packed).num_rows * -(-len(split) // size)


def forward_flops(backbone: BackboneSpec, row_length: int, width: int) -> float:
    """Counts the operations of a row's forward pass, L S (2 (4 d^2 + 2 d f) + 4 S d + 4 d w).

    The width w is that of all adapters of a layer together; a multiplication and an addition count as two.

    Example:
      >>> forward_flops(BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12), 4, 0)
      9216.0
    """
    size, inner = backbone.hidden_size, backbone.intermediate_size
    a_token = 2 * (4 * size**2 + 2 * size * inner) + 4 * row_length * size + 4 * size * width
    return float(backbone.num_layers * row_length * a_token)


@functools.cache
@own_settings()
def matmul_rate() -> float:
    """Measures the speed of a float32 matrix product on all devices, in operations a second; takes a moment."""
    rows, size, inner = 4096, 768, 3072
    product = jax.jit(lambda a, b: a @ b)
    a, b = jnp.ones((rows, size)), jnp.ones((size, inner))
    product(a, b).block_until_ready()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < 0.3:
        product(a, b).block_until_ready()
        count += 1
    return jax.device_count() * count * 2.0 * rows * size * inner / (time.perf_counter() - started)
