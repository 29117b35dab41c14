"""ScaLearn in JAX: knowledge of several source tasks, moved to a target task by learned scaling of adapters.

Names load on first use, so that ``import scalearn_jax`` costs nothing::

    import scalearn_jax as sj
    result = sj.fit_adapter("glue/rte", backbone="roberta-base")                                  # in memory
    sj.train_adapter(sj.AdapterConfig(task="glue/rte", backbone="roberta-base", out="runs/rte"))  # a run folder
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "config": (
        "AdapterConfig",
        "TransferConfig",
        "JointConfig",
        "EvaluateConfig",
        "ExplainConfig",
        "ExportConfig",
        "ImportConfig",
        "FoldConfig",
        "PredictConfig",
        "StudyConfig",
        "RunConfig",
        "ReportConfig",
        "PushConfig",
        "FetchConfig",
    ),
    "errors": ("InputError",),
    "data.tasks": ("TASKS", "Task"),
    "models.backbones": ("BACKBONES", "BackboneSpec"),
    "combiners": ("COMBINERS",),
    "combiners.base": ("Combiner", "of_module"),
    "methods": ("METHODS", "Method"),
    "model": ("ModelSpec",),
    "models.heads": ("HeadSpec",),
    "data.batches": ("padded_batch",),
    "runs.backbone": ("Backbone", "load_backbone"),
    "runs.load": ("load_run",),
    "runs.sources": ("load_source",),
    "stages.fit": ("fit_adapter", "fit_transfer"),
    "stages.result": ("Result",),
    "stages.logs": ("scalars",),
    "stages.pipeline": ("train_adapter", "train_joint", "transfer"),
    "runs.evaluate": ("evaluate",),
    "runs.serving.answer_file": ("predict",),
    "runs.serving.predictor": ("Predictor",),
    "runs.explain": ("explain_run",),
    "sharing.exporting": ("export_run",),
    "sharing.importing": ("import_source",),
    "sharing.fold": ("fold_run",),
    "studies.run": ("run_study",),
    "studies.report": ("make_report",),
    "sharing.push": ("push",),
    "sharing.fetch": ("fetch",),
    "typing": ("Batch",),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
