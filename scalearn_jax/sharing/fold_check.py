"""The texts that a fold is checked on, what it loses of the run, and the report of both.

Letters: n texts, C outputs.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax import metrics
from scalearn_jax.config import FoldConfig
from scalearn_jax.data.task import Task
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.errors import InputError
from scalearn_jax.io.terminal import format_score
from scalearn_jax.models.backbones import BACKBONES
from scalearn_jax.runs.evaluate import read_split, read_texts
from scalearn_jax.runs.load import Run
from scalearn_jax.train.evaluate import scores

LARGEST_DIFFERENCE = 1e-4  # of logits, relative to the largest, or to 1
FIT_SAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Text:
    """The texts that an adapter is made and checked on."""

    about: str  # where they come from
    encoded: Encoded  # the texts
    labelled: bool  # whether they have labels
    fit: Encoded | None = None  # texts to refit an up-projection on; ``None`` where that is not asked for


def read_fold_text(config: FoldConfig, run: Run) -> Text:
    """Reads the texts to check on, and, for another width, those to fit on."""
    if config.texts:
        encoded = read_texts(run, config.texts, backbone=config.backbone)
        encoded, about = encoded.take(np.arange(len(encoded))[: config.max_samples]), Path(config.texts).name
        if not config.width:
            return Text(about, encoded, labelled=False)
        if len(encoded) < 2:
            raise InputError(
                f"--texts {config.texts}: --width needs two texts or more, to fit on and to check on; got 1."
            )
        return _halved(about, encoded, labelled=False)
    try:
        encoded = read_split(
            run,
            config.split,
            data_dir=config.data_dir,
            backbone=config.backbone,
            max_eval_samples=config.max_samples,
            max_train_samples=config.max_samples,
        )
        if config.width and config.split == "train":
            return _halved(f"{config.split} split", encoded, labelled=True)
        fit, most = None, config.max_samples or FIT_SAMPLES
        if config.width:
            fit = read_split(run, "train", data_dir=config.data_dir, backbone=config.backbone, max_train_samples=most)
    except InputError as error:
        columns = ", ".join(run.task.columns)
        raise InputError(f"{error} Or pass --texts with any file that has the columns {columns}.") from error
    return Text(f"{config.split} split", encoded, labelled=True, fit=fit)


def _halved(about: str, encoded: Encoded, *, labelled: bool) -> Text:
    """Checks on every other text, and fits on the others."""
    examples = np.arange(len(encoded))
    fit, checked = encoded.take(examples[::2]), encoded.take(examples[1::2])
    return Text(f"every other text of {about}", checked, labelled, fit=fit)


def check_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Compares logits Float[n C] of a fold with those of the run.

    Returns:
      The largest difference, relative to the largest logit where that is above 1.

    Raises:
      FloatingPointError: it is above ``LARGEST_DIFFERENCE``.
    """
    difference = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
    if not difference <= LARGEST_DIFFERENCE:  # also where it is not a number
        raise FloatingPointError(
            f"the folded adapter's logits differ from the run's by {difference:.1e} of the largest, expected at most"
            f" {LARGEST_DIFFERENCE:g}; nothing was written."
        )
    return difference


def compare_logits(task: Task, text: Text, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Compares logits before and after: ``agreement``, scores (``None`` without labels), and the texts."""
    both = scores(task, np.stack([before, after]), text.encoded) if text.labelled else (None, None)
    return {
        **agreement(task, before, after),
        "scores_before": both[0],
        "scores": both[1],
        "text": text.about,
        "num_texts": len(text.encoded),
        "num_tokens": int(text.encoded.lengths.sum()),
        "fitted_on": text.fit and {"num_texts": len(text.fit), "num_tokens": int(text.fit.lengths.sum())},
    }


def agreement(task: Task, before: np.ndarray, after: np.ndarray) -> dict[str, float | None]:
    """Measures the share of equal predictions, or the correlation of two regressions: ``None`` if one is constant."""
    predictions = metrics.predict(task.kind, before), metrics.predict(task.kind, after)
    if task.kind == "regression":
        return {"correlation": metrics.pearson(*predictions) if min(map(np.ptp, predictions)) > 0 else None}
    return {"agreement": (metrics.exact_match if task.kind == "multilabel" else metrics.accuracy)(*predictions)}


def as_text(report: dict[str, Any]) -> str:
    """Formats what ``fold_run`` returns for a terminal."""

    def size(of: dict[str, Any]) -> str:
        return f"{of['num_texts']:,} texts, {of['num_tokens']:,} tokens"

    before, after = report["scores_before"] or {}, report["scores"]
    width = f"{report['width_before']} -> {report['width']}"
    width = width if report["width"] < report["width_before"] else report["width"]
    likeness = next(name for name in ("agreement", "correlation") if name in report)
    value = report[likeness]
    facts = {
        "sources": ", ".join(report["sources"]),
        "width": f"{width} units a layer, reduction factor {report['reduction_factor']:g}",
        "fitted on": report["fitted_on"] and size(report["fitted_on"]),
        "checked on": f"{report['text']}: {size(report)}",
        "difference": f"{report['logit_difference']:.1e} in the logits, of the exact fold to the unfolded model",
        likeness: "undefined, the predictions are constant" if value is None else f"{100 * value:.2f} % with the run",
        **{name: f"{format_score(name, before[name])} -> {format_score(name, after[name])}" for name in before},
    }
    best = f", the best of {report['best_of']} on development data" if report["best_of"] > 1 else ""
    title = f"{report['run']}: {report['method']} on {report['task']}, seed {report['seed']}{best}"
    lines = [f"{name.ljust(13)}{text}" for name, text in facts.items() if text]
    use = f'with the adapters library: model.load_adapter("{report["out"]}", use_safetensors=True)'
    if BACKBONES[report["family"]].model_class is None:
        use = f"for scalearn alone: the adapters library has no encoder of family {report['family']!r}"
    return "\n".join([title, "", *lines, "", f"wrote {report['out']}; {use}"])
