"""Making a folded adapter smaller: fewer sources, or fewer bottleneck units, with the least change on some text.

    h = phi(z D + b)                     activations of W units, u = h U + c the update
    G = sum over tokens [h 1]^T [h 1]    all that the text is needed for

A subset S of the units gives [h_S 1] X. The X of least squared error follows from G alone, and so does what another
unit would take off the error: units are taken one by one, as orthogonal matching pursuit does.

Letters: L layers, T source tasks, d hidden size, W units of a bottleneck, w of them kept, R rows, S row length.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import model, tree
from scalearn_jax.combiners.scalearn import VARIANTS, effective_omega
from scalearn_jax.data.task import Task
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.models.adapter import activations
from scalearn_jax.runs.plain_adapter import PlainAdapter, without_scale
from scalearn_jax.train import sharding
from scalearn_jax.train.compile import compile_predict_step, keep_programs
from scalearn_jax.train.evaluate import Layout, Members
from scalearn_jax.typing import Array, Params

RIDGE = 1e-6  # of each unit's mean square: about the rounding of a float32 sum


def published_form(spec: ModelSpec, params: Params) -> tuple[ModelSpec, Params]:
    """Turns a model that sums its sources into one that evaluates each of them, as the paper writes it.

    Returns:
      (spec, params) of the same function in plain float32; a model of another kind stays as it is.

    Example:
      >>> from scalearn_jax.models.backbones import BackboneSpec
      >>> spec = ModelSpec(BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12), combiner="scalearn")
      >>> published_form(spec, {})[0].combiner_options
      (('compose', 'reference'),)
    """
    options = dict(spec.combiner_options)
    if spec.combiner == "fixed":
        shape = spec.backbone.num_layers, spec.num_sources, 1
        omega = np.asarray(options.pop("coefficients"), np.float32)[None, :, None]
        params = params | {"transfer": {"omega": np.broadcast_to(omega, shape)}}
        spec = dataclasses.replace(spec, combiner="scalearn-uniform")
    if spec.combiner in VARIANTS:
        options["compose"] = "reference"
    return dataclasses.replace(spec, combiner_options=tuple(sorted(options.items())), dtype="strict"), params


def prune(spec: ModelSpec, params: Params, kept: np.ndarray) -> Params:
    """Folds the kept sources Bool[T] of a model in its published form; each has the factor it has among all of them.

    Returns:
      One adapter of k r units, ``down`` kernel Float[L d k*r] and so on.
    """
    normalise = spec.option("normalise", "none")
    omega = effective_omega(params["transfer"]["omega"], spec.backbone.num_layers, normalise)
    bank = jax.tree.map(lambda leaf: leaf[:, kept], params["adapters"])
    return without_scale(banks.widen(bank, omega[:, kept]))


@keep_programs
def _gram_step(spec: ModelSpec, layout: Layout) -> Callable:
    """Compiles the sums of products of activations over the tokens of a layout's batches, Float[1 L W+1 W+1]."""

    def gram(trainable: Params, frozen: Params, batch) -> Array:
        real = (batch.segments > 0)[..., None]

        def look(site: Params, z: Array, out: Array) -> Array:
            h = activations(site["down"], z, spec.non_linearity)
            h = jnp.where(real, jnp.concatenate([h, jnp.ones_like(h[..., :1])], -1), 0)
            return jnp.einsum("rsi,rsj->ij", h, h)

        return model.encode(tree.combine(trainable, frozen), batch, spec=spec, observe=look)[1]

    return compile_predict_step(gram, layout.mesh)


def grams(adapter: PlainAdapter, backbone: Params, encoded: Encoded, batch_size: int) -> np.ndarray:
    """Sums the products of an adapter's activations over all tokens of a text; padding does not count.

    Returns:
      Float64[L W+1 W+1], the last row and column those of the bias, so that the corner counts the tokens.
    """
    spec = dataclasses.replace(adapter.spec, dtype="strict")
    members = only_member(spec, adapter.task, adapter.params(backbone))
    layout = Layout.of([encoded], adapter.task.max_length, batch_size)
    step, stream = _gram_step(spec, layout), layout.batches(encoded)
    return sum(np.asarray(step(members.trainable, members.frozen, batch)[0], np.float64) for batch in stream)


def only_member(spec: ModelSpec, task: Task, params: Params) -> Members:
    """Puts one model on the devices as evaluation takes it: transfer and head [1 ...], backbone and bank apart."""
    small, large = tree.partition(params, lambda path: path.split("/")[0] in ("transfer", "heads"))
    return Members(spec, task, *sharding.replicate((tree.stack([small]), large), sharding.make_mesh()))


def choose_units(gram: np.ndarray, matrix: np.ndarray, width: int) -> np.ndarray:
    """Takes units of one layer one by one, always the one that explains most of the update still missing.

    With R the part of G that the units so far (first of all the bias) leave unexplained, and V the up-projection, unit
    j takes ||(R V)_j||^2 / R_jj off the squared error. Units that merely add much to the update, those of the largest
    ||V_j|| rms(h_j), often add the same: at half the width they left three times the error of these.

    Args:
      gram: Float64[W+1 W+1], see ``grams``.
      matrix: Float64[W+1 d], V, with the bias as last row.
      width: w.

    Returns:
      Int[w], ascending.

    Example:
      >>> choose_units(np.eye(4), np.array([[3.0], [1.0], [2.0], [0.0]]), 2).tolist()
      [0, 2]
    """
    rest, scale = _ridged(gram)
    missing = rest @ (scale[:, None] * matrix)  # R V
    left, newest = np.ones(len(gram), bool), len(gram) - 1
    for _ in range(width):
        left[newest] = False
        column = rest[:, newest] / rest[newest, newest]
        missing = missing - column[:, None] * missing[newest]
        rest = rest - column[:, None] * rest[newest]
        gains = (missing[left] ** 2).sum(-1) / np.diag(rest)[left]
        newest = np.flatnonzero(left)[gains.argmax()]
    left[newest] = False
    return np.flatnonzero(~left[:-1])


def refit(gram: np.ndarray, matrix: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Fits the up-projection of some units of one layer to the update of all, by least squares.

    What is solved for is the change, X_S - V_S = (G_SS + ridge)^-1 G_SD V_D with D the dropped units: keeping all
    changes nothing, and where the text has little to fit on the original stays.

    Args:
      gram: Float64[W+1 W+1], see ``grams``.
      matrix: Float64[W+1 d], V: the up-projection with its bias as last row.
      units: Int[w], S without the bias, which is always kept.

    Returns:
      Float64[w+1 d].

    Example:
      >>> twins = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
      >>> refit(twins, np.array([[1.0], [2.0], [5.0]]), np.array([0])).round(3).tolist()
      [[3.0], [5.0]]
    """
    ridged, scale = _ridged(gram)
    kept = np.append(units, len(gram) - 1)
    dropped = np.setdiff1d(np.arange(len(gram)), kept)
    missing = ridged[np.ix_(kept, dropped)] @ (scale[dropped, None] * matrix[dropped])
    return matrix[kept] + np.linalg.solve(ridged[np.ix_(kept, kept)], missing) / scale[kept, None]


def _ridged(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """G in units of each activation's root mean square, with the ridge on its diagonal, and these units."""
    scale = np.sqrt(np.diag(gram) / gram[-1, -1])
    scale = np.where(scale > 0, scale, 1.0)  # a unit that never fires
    return gram / gram[-1, -1] / np.outer(scale, scale) + RIDGE * np.eye(len(gram)), scale


def compress(adapter: PlainAdapter, gram: np.ndarray, width: int) -> PlainAdapter:
    """Keeps w units of each layer and refits the up-projection; for ``gram`` see ``grams``."""
    down, up = adapter.adapter["down"], adapter.adapter["up"]
    matrices = np.concatenate([up["kernel"], up["bias"][:, None]], axis=1).astype(float)  # [L, W+1, d]
    units = [choose_units(*layer, width) for layer in zip(gram, matrices, strict=True)]
    fitted = np.stack([refit(*layer) for layer in zip(gram, matrices, units, strict=True)]).astype(np.float32)
    taken = np.stack(units)  # [L, w]
    smaller = {
        "down": {
            "kernel": np.take_along_axis(down["kernel"], taken[:, None], axis=2),
            "bias": np.take_along_axis(down["bias"], taken, axis=1),
        },
        "up": {"kernel": fitted[:, :-1], "bias": fitted[:, -1]},
    }
    return dataclasses.replace(adapter, adapter=smaller)
