"""``scalearn explain``: which sources help a finished run, as tables and a figure.

    omega.csv          seed, layer, source, rms, mean: the learned scales as they act
    contributions.csv  seed, layer, source, norm, share: the addition of each source to a token; share of its layer
    sources.csv        source, contribution, share, score without it, drop; standard deviations over seeds
    pruning.csv        k, the k sources with the largest contribution, score with only those
    explain.json       what all this was measured on
    explain.png, .svg  contributions, drops and pruning in one figure

Letters: M seeds, L layers, T source tasks.
"""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scalearn_jax import methods
from scalearn_jax.combiners.scalearn import VARIANTS
from scalearn_jax.config import ExplainConfig, takes
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.io import terminal
from scalearn_jax.io.atomic_folder import check_folder
from scalearn_jax.io.files import write_json, write_text
from scalearn_jax.runs import attribution, provenance
from scalearn_jax.runs.attribution import Attribution
from scalearn_jax.runs.evaluate import members_of, read_split
from scalearn_jax.runs.load import open_run
from scalearn_jax.runs.sources import Trust
from scalearn_jax.train.jax_settings import own_settings


@takes(ExplainConfig, "run")
@own_settings()
def explain_run(config: ExplainConfig) -> str:
    """Measures which sources help a ScaLearn run, and writes tables and a figure.

    Returns:
      A table of the sources, the largest contribution first, and where the files are.

    Raises:
      InputError: a run of another method, a damaged one, another backbone, or missing data; nothing is written.

    Example:
      >>> print(explain_run("runs/rte", out="explained"))  # doctest: +SKIP
    """
    if not config.out and hub.is_remote(config.run):
        raise InputError(f"RUN {config.run} is no folder here; pass --out for what is written about a run of the hub.")
    out = Path(config.out) if config.out else Path(config.run) / "explain"
    check_folder(out)
    folder = open_run(config.run)
    covered = [name for name, row in methods.METHODS.items() if row.combiner in VARIANTS]
    if folder.info["method"] not in covered:
        name = folder.info["method"]
        kind = f"a {name!r} run" if name != methods.OWN else "a run with a combiner of one's own, without known scales"
        raise InputError(f"{config.run} is {kind}; explain covers {', '.join(covered)}.")
    run = folder.load(backbone=config.backbone, seed=config.seed, trust=Trust(config.allow_pickle))
    encoded = read_split(
        run,
        config.split,
        data_dir=config.data_dir,
        backbone=config.backbone,
        max_eval_samples=config.max_samples,
    )
    found = attribution.attribute(
        members_of(run),
        encoded,
        config.batch_size,
        sources=tuple(source["name"] for source in run.info["sources"]),
        seeds=tuple(run.members),
        on_score=_report_progress,
    )
    facts = {
        "run": str(run.folder),
        "method": run.info["method"],
        "task": run.task.name,
        "split": config.split,
        "examples": len(encoded),
        "available": encoded.available,
        "tokens": int(encoded.lengths.sum()),
        "metric": run.task.metrics[0],
        "seeds": list(found.seeds),
        "scores": found.full.tolist(),
        "versions": provenance.versions(),
    }
    write_explanation(out, found, facts)
    return f"{format_sources(found, facts)}\n\nwrote {out}"


def _report_progress(number: int, total: int) -> None:
    print(f"scored {number} of {total} choices of sources", file=sys.stderr, flush=True)


def write_explanation(out: Path, found: Attribution, facts: dict) -> None:
    """Writes all files, each whole or not at all; earlier ones are replaced."""
    totals = found.contributions.sum(-1, keepdims=True)
    shares = found.contributions / np.where(totals > 0, totals, 1.0)
    texts = {
        "omega.csv": by_layer_csv(found, {"rms": found.omega_rms, "mean": found.omega_mean}),
        "contributions.csv": by_layer_csv(found, {"norm": found.contributions, "share": shares}),
        "sources.csv": sources_csv(found),
        "pruning.csv": pruning_csv(found),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(out / name, text)
    write_json(out / "explain.json", facts)
    if importlib.util.find_spec("matplotlib") is None:
        print("no figures: matplotlib is not installed; pip install 'scalearn-jax[plots]'", file=sys.stderr)
        return
    from scalearn_jax.runs import figures

    figures.draw_attribution(found, describe_subject(facts), facts["metric"], out)


def describe_subject(facts: dict) -> str:
    """Returns what an explanation is about, for titles."""
    counts = f"{facts['examples']:,} of {facts['available']:,} examples"
    return f"{facts['method']} on {facts['task']}, {facts['split']} split, {counts}"


def by_layer_csv(found: Attribution, values: Mapping[str, np.ndarray]) -> str:
    """Lays out named arrays Float[M L T] by seed, layer (from 1) and source, and their means over seeds."""
    arrays = [np.concatenate([value, value.mean(0, keepdims=True)]) for value in values.values()]
    rows = [
        [seed, layer + 1, source, *(float(array[m, layer, t]) for array in arrays)]
        for m, seed in enumerate((*found.seeds, "mean"))
        for layer in range(arrays[0].shape[1])
        for t, source in enumerate(found.sources)
    ]
    return terminal.comma_separated(["seed", "layer", "source", *values], rows)


def sources_csv(found: Attribution) -> str:
    """Lays out the contribution of each source and the score without it, in bank order."""
    header = ["source", "contribution", "share", "score_without", "sd_without", "drop", "sd_drop"]
    columns = zip(found.sources, found.totals.tolist(), found.shares.tolist(), found.without, found.drops, strict=True)
    return terminal.comma_separated(
        header, ([*first, *mean_sd(without), *mean_sd(drop)] for *first, without, drop in columns)
    )


def pruning_csv(found: Attribution) -> str:
    """Lays out the scores with only the k sources of the largest contribution."""
    names = [found.sources[source] for source in found.order]
    rows = ([k, " ".join(names[:k]), *mean_sd(scores)] for k, scores in enumerate(found.pruned, 1))
    return terminal.comma_separated(["k", "kept", "score", "sd"], rows)


def mean_sd(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and sample standard deviation over seeds; a single seed has none.

    Example:
      >>> mean_sd(np.array([1.0, 3.0])), mean_sd(np.array([1.0]))
      ((2.0, 1.4142135623730951), (1.0, None))
    """
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def format_sources(found: Attribution, facts: dict) -> str:
    """Formats the sources for a terminal, the largest contribution first."""
    metric, several = facts["metric"], "" if len(found.seeds) == 1 else "s"
    header = ["source", "share of contribution", f"{metric} without it", "drop"]
    rows = [
        [found.sources[t], f"{100 * found.shares[t]:.1f}", *map(format_percent, (found.without[t], found.drops[t]))]
        for t in found.order
    ]
    title = f"{facts['run']}: {describe_subject(facts)}"
    full = f"{metric} with all sources: {format_percent(found.full)}, {len(found.seeds)} seed{several}; all in percent"
    return f"{title}\n{full}\n\n{terminal.plain(header, rows)}"


def format_percent(values: np.ndarray) -> str:
    """Formats the scores of several seeds in percent, with their spread.

    Example:
      >>> format_percent(np.array([0.5, 0.6]))
      '55.00 ± 7.07'
    """
    mean, sd = mean_sd(values)
    return f"{100 * mean:.2f}" + ("" if sd is None else f" ± {100 * sd:.2f}")
