"""Which sources a ScaLearn model uses: how much each one adds to the hidden states, and the score without it.

    c_lt   = mean over tokens of || omega_lt * up_lt(h_l) ||_2     contribution of source t at layer l
    drop_t = score of all sources - score without source t         nothing is trained again

The scaled outputs are those of ScaLearn (arXiv 2310.01217, section 3); h_l is the input of the adapter site in the
composed model, and omega the factor that acts, after any normalisation. A source is left out by zeros in its
up-projection: the factors of the others stay, and one compiled program serves every choice of sources.

Letters: M members (seeds), K choices of sources, R rows, S row length, L layers, T source tasks, d hidden size, w width
of a scale (d or 1).
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from scalearn_jax import model, tree
from scalearn_jax.combiners.scalearn import omega_norms, source_updates
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.models import bank as banks
from scalearn_jax.train import sharding
from scalearn_jax.train.compile import compile_predict_step, keep_programs
from scalearn_jax.train.evaluate import Layout, Members, score
from scalearn_jax.typing import Array, Params


def contribution_norms(site: Params, h: Array, non_linearity: str = "relu") -> Array:
    """Measures what every source adds to every token, || omega_t * up_t(h) ||_2.

    Args:
      site: of one layer, ``bank`` [T d r] and so on and ``omega`` Float[T w]; see ``scaled_sum``.
      h: Float[R S d], the site's input.

    Returns:
      Float[R S T], in float32 or wider.

    Example:
      >>> identity = {"kernel": jnp.eye(2)[None], "bias": jnp.zeros((1, 2))}
      >>> site = {"bank": {"down": identity, "up": identity}, "omega": jnp.array([[2.0]])}
      >>> contribution_norms(site, jnp.array([[[3.0, 4.0]]])).tolist()
      [[[10.0]]]
    """
    updates = source_updates(site["bank"], h, non_linearity)  # [R, S, T, d]
    scaled = updates * site["omega"].astype(updates.dtype)[None, None]
    return jnp.linalg.norm(scaled.astype(jnp.promote_types(scaled.dtype, jnp.float32)), axis=-1)


@keep_programs
def _observe_step(spec: model.ModelSpec, layout: Layout) -> Callable:
    """Compiles the sums of contributions over the tokens of a layout's batches, Float[M L T]."""
    spec = spec.with_options(compose="reference")  # its site carries bank and omega

    def observe(trainable: Params, frozen: Params, batch) -> Array:
        def look(site: Params, h: Array, out: Array) -> Array:
            return contribution_norms(site, h, spec.non_linearity)

        _, norms = model.encode(tree.combine(trainable, frozen), batch, spec=spec, observe=look)  # [L, R, S, T]
        return jnp.where((batch.segments > 0)[None, :, :, None], norms, 0).sum((1, 2))

    return compile_predict_step(observe, layout.mesh)


def contributions(members: Members, encoded: Encoded, batch_size: int, packed: bool = True) -> np.ndarray:
    """Averages contributions over all tokens of a split, Float[M L T]; padding does not count, dropout is off."""
    layout = Layout.of([encoded], members.task.max_length, batch_size, packed=packed)
    observe = _observe_step(members.spec, layout)
    sums = (np.asarray(observe(members.trainable, members.frozen, batch), float) for batch in layout.batches(encoded))
    return sum(sums) / encoded.lengths.sum()


def leave_one_out(num_sources: int) -> np.ndarray:
    """Lists T choices, each without one source; Bool[T T].

    Example:
      >>> leave_one_out(2).tolist()
      [[False, True], [True, False]]
    """
    return ~np.eye(num_sources, dtype=bool)


def keep_largest(totals: np.ndarray) -> np.ndarray:
    """Lists T choices, of the 1, 2, ... T sources with the largest totals Float[T]; Bool[T T].

    Example:
      >>> keep_largest(np.array([1.0, 3.0, 2.0])).astype(int).tolist()
      [[0, 1, 0], [0, 1, 1], [1, 1, 1]]
    """
    rank = np.argsort(np.argsort(-totals, kind="stable"))
    return rank[None] < np.arange(1, len(totals) + 1)[:, None]


def masked_scores(
    members: Members,
    encoded: Encoded,
    batch_size: int,
    choices: np.ndarray,
    on_score: Callable[[int, int], None] = lambda number, total: None,
) -> np.ndarray:
    """Scores a ScaLearn model with only some of its sources, by the first metric of its task.

    The choices run one after another through the program that evaluates the run, so they need its memory and no
    other program; equal choices run once.

    Args:
      members: the model.
      encoded: the split.
      batch_size: examples a step.
      choices: Bool[K T], the sources to keep.
      on_score: called with the number of choices done, and of all.

    Returns:
      Float[K M].
    """
    layout = Layout.of([encoded], members.task.max_length, batch_size)
    scores = dict.fromkeys(map(tuple, choices.tolist()))
    for number, kept in enumerate(scores, 1):
        bank = sharding.replicate(banks.mask(members.frozen["adapters"], jnp.asarray(kept)), layout.mesh)
        pruned = members._replace(frozen=members.frozen | {"adapters": bank})
        scores[kept] = [result[members.task.metrics[0]] for result in score(pruned, encoded, layout)]
        on_score(number, len(scores))
    return np.array([scores[tuple(kept)] for kept in choices.tolist()])


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What the sources of a run contribute."""

    sources: tuple[str, ...]  # T names, in bank order
    seeds: tuple[int, ...]  # M seeds
    omega_rms: np.ndarray  # Float[M L T]; see ``omega_norms``
    omega_mean: np.ndarray  # Float[M L T]
    contributions: np.ndarray  # Float[M L T]
    full: np.ndarray  # Float[M], score with all sources
    without: np.ndarray  # Float[T M], score without one
    kept: np.ndarray  # Bool[T T]; row k - 1 marks the k sources with the largest contribution
    pruned: np.ndarray  # Float[T M], score with those

    @property
    def totals(self) -> np.ndarray:
        """Contribution of each source, mean over seeds and summed over layers; Float[T]."""
        return self.contributions.mean(0).sum(0)

    @property
    def shares(self) -> np.ndarray:
        """Each source's part of all contribution, Float[T]; zeros where nothing contributes."""
        return self.totals / (self.totals.sum() or 1.0)

    @property
    def drops(self) -> np.ndarray:
        """What each seed loses without a source, Float[T M]."""
        return self.full[None] - self.without

    @property
    def order(self) -> list[int]:
        """The sources by contribution, largest first."""
        return np.argsort(-self.kept.sum(0), kind="stable").tolist()


def attribute(
    members: Members,
    encoded: Encoded,
    batch_size: int,
    *,
    sources: tuple[str, ...],
    seeds: tuple[int, ...],
    on_score: Callable[[int, int], None] = lambda number, total: None,
) -> Attribution:
    """Measures scales and contributions, then scores the model without each source and with the largest few.

    ``sources`` are T names, ``seeds`` the M seeds of ``members``; for the others see ``masked_scores``.
    """
    spec, omegas = members.spec, members.trainable["transfer"]["omega"]
    normalise = spec.option("normalise", "none")
    norms = [omega_norms(omega, spec.backbone.num_layers, normalise) for omega in omegas]
    contributed = contributions(members, encoded, batch_size)
    num_sources, kept = len(sources), keep_largest(contributed.mean(0).sum(0))
    choices = np.concatenate([leave_one_out(num_sources), kept])
    scores = masked_scores(members, encoded, batch_size, choices, on_score)
    return Attribution(
        sources=sources,
        seeds=seeds,
        omega_rms=np.stack([rms for rms, _ in norms]),
        omega_mean=np.stack([mean for _, mean in norms]),
        contributions=contributed,
        full=scores[-1],  # the last choice keeps all
        without=scores[:num_sources],
        kept=kept,
        pruned=scores[num_sources:],
    )
