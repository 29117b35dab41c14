"""``scalearn fold``: a finished run as one plain adapter, which the `adapters` library loads like any other.

    adapter_config.json, adapter.safetensors     the adapter
    head_config.json, model_head.safetensors     its head
    scalearn.json                                where it comes from, what was checked and what was lost

What is checked are the files: they are read back, and the folder appears only if they give the logits of the run, with
``--keep`` those of the run without the other sources; with ``--width`` the adapter before it is narrowed is checked so.

Letters: T source tasks, n texts, C outputs.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from scalearn_jax.combiners.scalearn import VARIANTS, omega_norms
from scalearn_jax.config import FoldConfig
from scalearn_jax.data.task import Task
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.errors import InputError
from scalearn_jax.io.atomic_folder import atomic_folder, check_out
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.runs import (
    adapterhub,
    provenance,
)
from scalearn_jax.runs import (
    load as runs,
)
from scalearn_jax.runs import (
    plain_adapter as portable,
)
from scalearn_jax.runs.adapterhub.common import check_adapter_name
from scalearn_jax.runs.attribution import contributions, keep_largest
from scalearn_jax.runs.plain_adapter import PlainAdapter
from scalearn_jax.runs.sources import Trust
from scalearn_jax.sharing import adapter_folder
from scalearn_jax.sharing import fold_narrow as folding
from scalearn_jax.sharing.adapter_folder import plain_name
from scalearn_jax.sharing.fold_check import Text, check_difference, compare_logits, read_fold_text
from scalearn_jax.train.evaluate import Layout, member_logits
from scalearn_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Folded:
    """A run as one adapter.

    Attributes:
      exact: the fold of the kept sources.
      written: the same, or what is left of it at a smaller width.
      kept: Bool[T]; ``None`` for all, also where there are none.
      before: Float[n C], logits of the run.
      expected: Float[n C], those of the kept sources, each evaluated by itself.
    """

    exact: PlainAdapter
    written: PlainAdapter
    kept: np.ndarray | None
    before: np.ndarray
    expected: np.ndarray


def fold_run(config: FoldConfig) -> dict[str, Any]:
    """Writes one seed of a run as a plain AdapterHub adapter with its head.

    Args:
      config: see ``FoldConfig``.

    Returns:
      Where it is, what it is of, and what was measured, as ``scalearn.json`` has it under ``"fold"``.

    Raises:
      InputError: a method that does not fold, a damaged run, another backbone, missing data, or more sources or units
        to keep than there are.
      FloatingPointError: the files do not give the run's logits; nothing is left of them.

    Example:
      >>> fold_run(FoldConfig(run="runs/rte", out="folded/rte"))["width"]  # doctest: +SKIP
      384
    """
    check_out(config.out)
    run = load_foldable(config)
    [(seed, params)] = run.members.items()
    name = plain_name(run.task.name) if config.name is None else config.name
    check_adapter_name(name)
    whole, (spec, params) = portable.to_plain_adapter(run, seed), folding.published_form(run.spec, params)
    check_sizes(config, spec, whole.width)
    text = read_fold_text(config, run)
    logits = partial(_logits, run.task, text.encoded, config.batch_size)
    made = make_fold(config, text, whole, spec, params, logits)
    sources = [source["name"] for source in run.info["sources"]]
    origin = {"model_type": spec.backbone.family, "model_name": provenance.base_model(run.info["backbone"])}
    with atomic_folder(config.out) as folder:
        found = adapter_folder.save_adapter_folder(made.written, folder.path, name=name, config=origin)
        measured = {
            "seed": seed,
            "best_of": len(run.info["seeds"]) if config.seed is None else 1,
            "sources": sources if made.kept is None else [sources[t] for t in np.flatnonzero(made.kept)],
            "width_before": whole.width,
            "width": found.width,
            "reduction_factor": adapterhub.reduction_factor(found.backbone.hidden_size, found.width),
            **measure_fold(made, found, params["backbone"], text, logits),
        }
        more = {"fold": measured, **_scales(spec, params)}
        if found.width < whole.width:  # the run's scores are not those of what is written
            more["scores"] = _scores(config, measured)
        provenance.write_provenance(
            folder.path, provenance.describe_run("fold", run.folder, run.info, run.task, seed, **more)
        )
    facts = {"run": config.run, "method": run.info["method"], "task": run.task.name}
    return facts | measured | {"out": config.out, "name": name}


def load_foldable(config: FoldConfig) -> runs.Run:
    """Reads the run with one of its seeds, by default the one with the best development score.

    Raises:
      InputError: it is damaged, has no such seed, or does not fold.
    """
    folder = runs.open_run(config.run)
    portable.check_foldable(config.run, folder.info)
    run = folder.load(backbone=config.backbone, trust=Trust(config.allow_pickle))
    return runs.only_seed(run, best_seed(run) if config.seed is None else config.seed)


def best_seed(run: runs.Run) -> int:
    """Finds the seed with the best development score; the first of equals, and where no scores are kept."""

    def score(seed: int) -> float:
        value = provenance.seed_scores(run.folder, seed).get("dev", {}).get(run.task.metrics[0])
        return value if isinstance(value, float) and math.isfinite(value) else -math.inf

    return max(run.members, key=score)


def _scales(spec: ModelSpec, params: Params) -> dict[str, Any]:
    """The scales of a ScaLearn model, from which a model card draws its figure."""
    if spec.combiner not in VARIANTS:
        return {}
    normalise = spec.option("normalise", "none")
    return {"omega": omega_norms(params["transfer"]["omega"], spec.backbone.num_layers, normalise)[1].tolist()}


def _scores(config: FoldConfig, measured: dict[str, Any]) -> dict[str, Any]:
    """The scores of what was written, where they were measured on a whole split."""
    is_whole = config.texts is None and config.max_samples is None and config.split != "train"
    return {config.split: measured["scores"]} if is_whole else {}


def check_sizes(config: FoldConfig, spec: ModelSpec, width: int) -> None:
    """Checks how much of an adapter is to be kept.

    Raises:
      InputError: more sources or units than there are, or sources of a run that does not sum any.
    """
    if config.keep and spec.combiner not in VARIANTS:
        raise InputError(f"--keep {config.keep}: {config.run} does not scale sources, so none can go; leave it out.")
    if config.keep and config.keep > spec.num_sources:
        raise InputError(f"--keep {config.keep}: {config.run} has {spec.num_sources} sources; keep as many or fewer.")
    width = width * config.keep // spec.num_sources if config.keep else width
    if config.width and config.width > width:
        raise InputError(f"--width {config.width}: the fold of {config.run} has {width} units; keep as many or fewer.")


def _logits(task: Task, encoded: Encoded, batch_size: int, spec: ModelSpec, params: Params) -> np.ndarray:
    """Computes a model's logits Float[n C] in plain float32."""
    spec = dataclasses.replace(spec, dtype="strict")
    members = folding.only_member(spec, task, params)
    return member_logits(members, encoded, Layout.of([encoded], task.max_length, batch_size))[0]


def make_fold(
    config: FoldConfig, text: Text, whole: PlainAdapter, spec: ModelSpec, params: Params, logits: Callable
) -> Folded:
    """Makes the adapter, with fewer sources or units where that is asked for.

    Args:
      config: says how many to keep.
      text: what they are chosen on.
      whole: the fold of all sources.
      spec: the model in its published form.
      params: its parameters.
      logits: (spec, params) -> Float[n C] on the text.

    Returns:
      The adapter, and what it should compute.
    """
    before = expected = logits(spec, params)
    exact, kept = whole, None
    if config.keep:
        members = folding.only_member(spec, whole.task, params)
        norms = contributions(members, text.encoded, config.batch_size)[0]  # [L, T]
        kept = keep_largest(norms.sum(0))[config.keep - 1]
        exact = dataclasses.replace(whole, adapter=folding.prune(spec, params, kept))
        expected = logits(spec, params | {"adapters": banks.mask(params["adapters"], jnp.asarray(kept))})
    written = exact
    if config.width:
        gram = folding.grams(exact, params["backbone"], text.fit, config.batch_size)
        written = folding.compress(exact, gram, config.width)
    return Folded(exact, written, kept, before, expected)


def measure_fold(made: Folded, found: PlainAdapter, backbone: Params, text: Text, logits: Callable) -> dict[str, Any]:
    """Checks the exact fold against what it stands for, and measures what the files lose of the run.

    Raises:
      FloatingPointError: the fold is another function.
    """
    after, exact = logits(found.spec, found.params(backbone)), made.exact
    same = after if found.width == exact.width else logits(exact.spec, exact.params(backbone))
    difference = check_difference(made.expected, same)
    return {"logit_difference": difference, **compare_logits(exact.task, text, made.before, after)}
