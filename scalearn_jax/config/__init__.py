"""The settings of every command: frozen dataclasses, shared by the command line, YAML files and the library.

The text under a field is its help on the command line. ``None`` means "as published for the method or task".
"""

from scalearn_jax.config.joint import JointConfig, PlanJointConfig
from scalearn_jax.config.runs import DoctorConfig, EvaluateConfig, ExplainConfig, ListConfig, PredictConfig
from scalearn_jax.config.schema import check_arguments, explain_fields, from_dict, takes, to_dict
from scalearn_jax.config.sharing import ExportConfig, FetchConfig, FoldConfig, ImportConfig, PushConfig
from scalearn_jax.config.stages import (
    AdapterConfig,
    PlanAdapterConfig,
    PlanTransferConfig,
    ScreenConfig,
    TrainConfig,
    TransferConfig,
)
from scalearn_jax.config.studies import ReportConfig, RunConfig, StudyConfig
from scalearn_jax.io.yaml_file import read_yaml

__all__ = [
    "AdapterConfig", "TransferConfig", "TrainConfig", "PlanAdapterConfig", "PlanTransferConfig", "ScreenConfig",
    "JointConfig", "PlanJointConfig",
    "DoctorConfig", "EvaluateConfig", "ExplainConfig", "ListConfig", "PredictConfig",
    "ExportConfig", "FetchConfig", "FoldConfig", "ImportConfig", "PushConfig",
    "ReportConfig", "RunConfig", "StudyConfig", "from_dict", "read_yaml", "takes", "to_dict",
]  # fmt: skip

for _name in __all__:
    if _name.endswith("Config"):
        explain_fields(globals()[_name])
        check_arguments(globals()[_name])
