"""``scalearn fold``: a finished run as one plain adapter, which the `adapters` library loads like any other.

    adapter_config.json, adapter.safetensors     the adapter
    head_config.json, model_head.safetensors     its head
    scalearn.json                                where it comes from, what was checked and what was lost

What is checked are the files: they are read back, and the folder appears only if they give the logits of the run, with
``--keep`` those of the run without the other sources; with ``--width`` the adapter before it is narrowed is checked so.

Letters: T source tasks, n texts, C outputs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from scalearn_jax.combiners.scalearn import VARIANTS, omega_norms
from scalearn_jax.config import FoldConfig, takes
from scalearn_jax.errors import InputError
from scalearn_jax.io.atomic_folder import atomic_folder, check_out
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.runs import adapterhub, provenance
from scalearn_jax.runs.adapterhub.common import check_adapter_name
from scalearn_jax.runs.attribution import contributions, keep_largest
from scalearn_jax.runs.load import open_run
from scalearn_jax.runs.plain_adapter import PlainAdapter, check_foldable, to_plain_adapter
from scalearn_jax.runs.sources import Trust
from scalearn_jax.sharing.fold_check import Text, check_difference, compare_logits, read_fold_text
from scalearn_jax.sharing.fold_narrow import compress, grams, only_member, prune, published_form
from scalearn_jax.sharing.folders import plain_name, save_adapter_folder
from scalearn_jax.train.evaluate import Layout, member_logits
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Folded:
    """A run as one adapter."""

    exact: PlainAdapter  # the fold of the kept sources
    written: PlainAdapter  # the same, or what is left of it at a smaller width
    kept: np.ndarray | None  # Bool[T]; ``None`` for all, also where there are none
    before: np.ndarray  # Float[n C], logits of the run
    expected: np.ndarray  # Float[n C], those of the kept sources, each evaluated by itself


@takes(FoldConfig, "run", "out")
@own_settings()
def fold_run(config: FoldConfig) -> dict[str, Any]:
    """Writes one seed of a run, by default that with the best development score, as a plain AdapterHub adapter.

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
    found = open_run(config.run)
    check_foldable(config.run, found.info)
    seed, _ = provenance.choose_seed(found.folder, found.info, config.seed)  # which the report names
    run = found.load(backbone=config.backbone, seed=seed, trust=Trust(config.allow_pickle))
    sources = [source["name"] for source in run.info["sources"]]
    name = plain_name(run.task.name) if config.name is None else config.name
    check_adapter_name(name)
    whole, (spec, params) = to_plain_adapter(run, seed), published_form(run.spec, run.members[seed])
    check_sizes(config, spec, whole.width)
    text = read_fold_text(config, run)

    def logits(spec: ModelSpec, params: Params) -> np.ndarray:  # Float[n C], in plain float32
        members = only_member(dataclasses.replace(spec, dtype="strict"), run.task, params)
        members = members._replace(names=[f"{config.run}, seed {seed}"])
        layout = Layout.of([text.encoded], run.task.max_length, config.batch_size)
        return member_logits(members, text.encoded, layout)[0]

    made = make_fold(config, text, whole, spec, params, logits)
    origin = {"model_type": spec.backbone.family, "model_name": provenance.base_model(run.info["backbone"])}
    with atomic_folder(config.out) as folder:
        written = save_adapter_folder(made.written, folder.path, name=name, config=origin)
        measured = {
            "seed": seed,
            "best_of": len(run.info["seeds"]) if config.seed is None else 1,
            "sources": sources if made.kept is None else [sources[t] for t in np.flatnonzero(made.kept)],
            "width_before": whole.width,
            "width": written.width,
            "reduction_factor": adapterhub.reduction_factor(written.backbone.hidden_size, written.width),
            **measure_fold(made, written, params["backbone"], text, logits),
        }
        more = {"fold": measured}
        if spec.combiner in VARIANTS:  # from which a model card draws its figure
            normalise = spec.option("normalise", "none")
            _, means = omega_norms(params["transfer"]["omega"], spec.backbone.num_layers, normalise)
            more["omega"] = means.tolist()
        if written.width < whole.width:  # the run's scores are not those of what is written
            is_whole_split = config.texts is None and config.max_samples is None and config.split != "train"
            more["scores"] = {config.split: measured["scores"]} if is_whole_split else {}
        content = provenance.describe_run("fold", run.folder, run.info, run.task, seed, **more)
        provenance.write_provenance(folder.path, content)
    facts = {"run": config.run, "method": run.info["method"], "task": run.task.name}
    return facts | measured | {"out": config.out, "name": name, "family": spec.backbone.family}


def check_sizes(config: FoldConfig, spec: ModelSpec, width: int) -> None:
    """Checks that no more sources or units are to be kept than there are."""
    if config.keep and spec.combiner not in VARIANTS:
        raise InputError(f"--keep {config.keep}: {config.run} does not scale sources, so none can go; leave it out.")
    if config.width and spec.norm_after:
        raise InputError(
            f"--width {config.width}: the adapter of {config.run} has a layer norm after its up-projection, through"
            " which a narrower one is not fitted; leave it out."
        )
    if config.keep and config.keep > spec.num_sources:
        raise InputError(f"--keep {config.keep}: {config.run} has {spec.num_sources} sources; keep as many or fewer.")
    width = width * config.keep // spec.num_sources if config.keep else width
    if config.width and config.width > width:
        raise InputError(f"--width {config.width}: the fold of {config.run} has {width} units; keep as many or fewer.")


def make_fold(
    config: FoldConfig, text: Text, whole: PlainAdapter, spec: ModelSpec, params: Params, logits: Callable
) -> Folded:
    """Makes the adapter, with fewer sources or units where that is asked for.

    Args:
      config: how many to keep.
      text: what they are chosen on.
      whole: the fold of all sources.
      spec: the model in its published form.
      params: its parameters.
      logits: (spec, params) -> Float[n C] on the text.
    """
    before = expected = logits(spec, params)
    exact, kept = whole, None
    if config.keep:
        members = only_member(spec, whole.task, params)
        norms = contributions(members, text.encoded, config.batch_size)[0]  # [L, T]
        kept = keep_largest(norms.sum(0))[config.keep - 1]
        exact = dataclasses.replace(whole, adapter=prune(spec, params, kept))
        expected = logits(spec, params | {"adapters": banks.mask(params["adapters"], jnp.asarray(kept))})
    written = exact
    if config.width:
        written = compress(exact, grams(exact, params["backbone"], text.fit, config.batch_size), config.width)
    return Folded(exact, written, kept, before, expected)


def measure_fold(made: Folded, found: PlainAdapter, backbone: Params, text: Text, logits: Callable) -> dict[str, Any]:
    """Checks that the exact fold computes what it should, and measures what the files lose of the run."""
    after, exact = logits(found.spec, found.params(backbone)), made.exact
    same = after if found.width == exact.width else logits(exact.spec, exact.params(backbone))
    difference = check_difference(made.expected, same)
    return {"logit_difference": difference, **compare_logits(exact.task, text, made.before, after)}
