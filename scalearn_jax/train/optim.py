"""The optimiser: published AdamW, linear decay, clipping; what is frozen stays."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from scalearn_jax import tree
from scalearn_jax.errors import unknown
from scalearn_jax.methods import label, task_of
from scalearn_jax.typing import Array, Params


def linear_decay(learning_rate: Array | float, num_steps: Array | int, warmup_steps: int = 0) -> optax.Schedule:
    """Linear decay to 0 after an optional linear warm-up: step k of K uses lr * (K - k) / (K - warm-up).

    Args:
      learning_rate: peak rate.
      num_steps: K, the length of the full schedule (also when early stopping ends the run before).
      warmup_steps: steps from 0 to the peak.

    Example:
      >>> [float(linear_decay(1.0, 4)(k)) for k in range(4)]
      [1.0, 0.75, 0.5, 0.25]
    """
    length = jnp.asarray(num_steps, jnp.result_type(learning_rate, 0.0))

    def schedule(step):
        step = jnp.asarray(step, length.dtype)
        decay = (length - step) / jnp.maximum(length - warmup_steps, 1.0)
        return learning_rate * jnp.clip(jnp.minimum(step / float(warmup_steps) if warmup_steps else 1.0, decay), 0, 1)

    return schedule


class Scheduled(NamedTuple):
    """An optimiser's state with its schedule: as data, so that members trained together may differ in it.

    Checkpoints hold these fields. That is why this is no ``optax.inject_hyperparams``, whose state has others.
    """

    step: Array
    learning_rate: Array
    num_steps: Array
    inner: Any


def scheduled(
    make: Callable[[Array], optax.GradientTransformation],
    learning_rate: Array | float,
    num_steps: Array | int,
    warmup_steps: int = 0,
) -> optax.GradientTransformation:
    """Runs an optimiser at the rate of a ``linear_decay`` that is kept in its state.

    Args:
      make: rate of one step -> transformation; its state must not depend on the rate.
      learning_rate: peak rate, written into the first state; updates read it from there.
      num_steps: length of the schedule, likewise.
      warmup_steps: length of the warm-up, the same for all members.
    """

    def init(params):
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))  # of the parameters, at least
        peak, length = jnp.asarray(learning_rate, dtype), jnp.asarray(num_steps, dtype)
        return Scheduled(jnp.zeros((), jnp.int32), peak, length, make(peak).init(params))

    def update(grads, state, params, **extra):
        rate = linear_decay(state.learning_rate, state.num_steps, warmup_steps)(state.step)
        transform = optax.with_extra_args_support(make(rate))
        updates, inner = transform.update(grads, state.inner, params, **extra)
        return updates, state._replace(step=state.step + 1, inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


class AdamState(NamedTuple):
    """Step count and the two moment trees."""

    count: Array
    mu: Params
    nu: Params


def published_adamw(
    rate: Array | float, *, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, decays: Callable[[str], bool]
) -> optax.GradientTransformation:
    """AdamW in the older Hugging Face form (method.md, "Optimiser and schedule").

        step = lr * sqrt(1 - b2^t) / (1 - b1^t);  p <- p - step * m / (sqrt(v) + eps);  p <- p - lr * decay * p

    Unlike ``optax.adamw``, eps is added to the uncorrected sqrt(v) and the decay acts on the updated value, of the
    leaves on whose paths ``decays`` is true.
    """

    def init(params):
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return AdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(grads, state, params):
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        count = state.count + 1
        step = jnp.asarray(rate * jnp.sqrt(1 - b2**count) / (1 - b1**count))

        def change(path, p, m, v):
            adam = -step.astype(p.dtype) * m / (jnp.sqrt(v) + eps)
            return adam - rate * weight_decay * (p + adam) if weight_decay and decays(path) else adam

        return tree.map_with_path(change, params, mu, nu), AdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def decays(path: str) -> bool:
    """Whether weight decay applies to a leaf: to all but biases, layer norms and scores of masks."""
    return not path.endswith(("bias", "norm/scale")) and "/scores/" not in path


def by_task(inner: optax.GradientTransformation, tasks: Sequence[str]) -> optax.GradientTransformationExtraArgs:
    """Lets a step change of the leaves that belong to one task only those of its own ``task``, Int[].

    All else of the others stays, too, to the bit: their moments, and the count of their steps, from which the bias
    correction follows (method.md, "Joint training"). So does PyTorch, where such a leaf has no gradient.

    Args:
      inner: the optimiser of each task's leaves, and of those that all tasks share.
      tasks: the names, by number; see ``methods.task_of`` for which leaves are whose.

    Example:
      >>> tx, params = by_task(optax.sgd(1.0), ("a", "b")), {"heads": {"a": jnp.ones(()), "b": jnp.ones(())}}
      >>> updates, _ = tx.update(params, tx.init(params), params, task=1)
      >>> {name: float(update) for name, update in updates["heads"].items()}
      {'a': -0.0, 'b': -1.0}
    """

    def only_in(number: int) -> optax.GradientTransformationExtraArgs:
        def update(grads, state, params=None, *, task):
            updates, changed = inner.update(grads, state, params)
            own = task == number
            updates = jax.tree.map(lambda update: jnp.where(own, update, -0.0), updates)  # x + -0.0 is x, for -0.0 too
            return updates, jax.tree.map(lambda new, old: jnp.where(own, new, old), changed, state)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    def labels(params):
        return tree.map_with_path(lambda path, _: task_of(path) or "", params)

    return optax.multi_transform({"": inner} | {task: only_in(number) for number, task in enumerate(tasks)}, labels)


def faster(inner: optax.GradientTransformation, factors: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Lets leaves whose path holds a text learn at a factor times the rate, which must not decay."""

    def update(grads, state, params=None):
        updates, state = inner.update(grads, state, params)

        def scale(path, leaf):
            return leaf * next((factor for text, factor in factors if text in path), 1.0)

        return tree.map_with_path(scale, updates), state

    return optax.GradientTransformation(inner.init, update)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients to a global norm of at most ``max_norm``, g * min(1, max / (norm + 1e-6)).

    The 1e-6 is in the published form; ``optax.clip_by_global_norm`` has none.
    """

    def update(grads, state, params=None):
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(grads) + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _optax_adamw(rate, *, weight_decay, decays):
    mask = functools.partial(tree.map_with_path, lambda path, _: decays(path))
    return optax.adamw(rate, weight_decay=weight_decay, mask=mask)


OPTIMIZERS = {"published": published_adamw, "optax": _optax_adamw}


def make_optimizer(
    *,
    learning_rate: Array | float,
    num_steps: Array | int,
    trainable: tuple[str, ...],
    optimizer: str | optax.GradientTransformation = "published",
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    tasks: Sequence[str] = (),
    factors: Sequence[tuple[str, float]] = (),
) -> optax.GradientTransformation:
    """Builds the optimiser of a run: clipping, then AdamW for each trainable group, zero for the rest.

    It takes trees whose top-level names are those of ``model.init``.

    Args:
      learning_rate: peak rate; this and ``num_steps`` count when the first state is made, which keeps them.
      num_steps: length of the schedule.
      trainable: the groups that learn; see ``methods.label``.
      optimizer: ``"published"`` or ``"optax"``, an InputError for another name; or a transformation of one's own, which
        is taken as it is, over all trainable groups together: without clipping, decay, or a rate but its own.
      warmup_steps: length of the linear warm-up.
      weight_decay: decay factor; acts on all but biases and layer norms.
      clip_norm: largest global gradient norm; ``None`` for no clipping.
      tasks: those of a joint run, whose own leaves only their steps change; see ``by_task``.
      factors: (text in a path, factor) of the leaves that learn at another rate than all others; see ``faster``.

    Example:
      >>> tx = make_optimizer(learning_rate=0.1, num_steps=10, trainable=("transfer",))
      >>> params = {"transfer": {"omega": jnp.ones(2)}}
      >>> updates, _ = tx.update({"transfer": {"omega": jnp.ones(2)}}, tx.init(params), params)
      >>> updates["transfer"]["omega"].round(3).tolist()
      [-0.10000000149011612, -0.10000000149011612]
    """
    if isinstance(optimizer, optax.GradientTransformation):
        transforms = {"trained": optimizer, "frozen": optax.set_to_zero()}

        def halves(params):
            return tree.map_with_path(
                lambda path, _: "trained" if label(path, trainable) != "frozen" else "frozen", params
            )

        return optax.multi_transform(transforms, halves)
    if optimizer not in OPTIMIZERS:
        raise unknown("optimizer", optimizer, OPTIMIZERS)

    def make(rate):
        made = OPTIMIZERS[optimizer](rate, weight_decay=weight_decay, decays=decays)
        made = faster(made, factors) if factors else made
        return by_task(made, tasks) if tasks else made

    transforms = {group: scheduled(make, learning_rate, num_steps, warmup_steps) for group in trainable}

    def labels(params):
        return tree.map_with_path(lambda path, _: label(path, trainable), params)

    grouped = optax.multi_transform(transforms | {"frozen": optax.set_to_zero()}, labels)
    return grouped if clip_norm is None else optax.chain(clip_by_global_norm(clip_norm), grouped)
