"""The commands: a row names a command's config, the function that it runs and how the result is printed.

Nothing is imported before its command runs.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from scalearn_jax.cli.exits import exit_code
from scalearn_jax.errors import InputError

_LAUNCHED = {"SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"}  # set where processes are several
_format_path = "wrote {}".format


class Command(NamedTuple):
    """One command; functions are named ``"package.module:function"``."""

    config: str  # name of its dataclass in ``config``
    target: str  # the function that takes the config
    printer: Callable[[Any], str] | str | None  # of its result; ``None``: it prints and returns the exit code
    about: str  # one line of help
    example: str  # of its arguments
    positional: str | None = None  # the field given without a flag, or several with blanks between
    computes: bool = True  # whether compiled programs are kept for its next run
    stops: bool = False  # whether it can be stopped, and run again to go on
    processes: bool = False  # whether several processes can run it together


class Group(NamedTuple):
    """Commands that share their first words."""

    about: str  # one line of help
    kind: str  # what a command of it is called
    commands: "Mapping[str, Command | Group]"  # by their next word


_PLANS = {
    "train-adapter": Command("PlanAdapterConfig", "stages.planning.plan:plan", "cli.listing:format_plan",
                             "what `scalearn train-adapter` with these flags needs",
                             "--task glue/rte --backbone roberta-base"),
    "transfer": Command("PlanTransferConfig", "stages.planning.plan:plan", "cli.listing:format_plan",
                        "what `scalearn transfer` with these flags needs",
                        "--target glue/rte --sources runs/mnli runs/qnli --backbone roberta-base"),
    "train-joint": Command("PlanJointConfig", "stages.planning.plan:plan", "cli.listing:format_plan",
                           "what `scalearn train-joint` with these flags needs",
                           "--tasks glue/rte glue/mrpc --backbone roberta-base"),
}  # fmt: skip
COMMANDS = {
    "train-adapter": Command("AdapterConfig", "stages.pipeline:train_adapter", _format_path,
                             "stage 1: train an adapter on one task",
                             "--task glue/rte --backbone roberta-base --out runs/rte", stops=True, processes=True),
    "transfer": Command("TransferConfig", "stages.pipeline:transfer", _format_path,
                        "stage 2: combine source adapters for a target task",
                        "--target glue/rte --sources runs/mnli runs/qnli --backbone roberta-base --out runs/rte",
                        stops=True, processes=True),
    "train-joint": Command("JointConfig", "stages.pipeline:train_joint", _format_path,
                           "train on several tasks at once: the joint baselines",
                           "--tasks glue/rte glue/mrpc --method hyperformer++ --backbone roberta-base --out runs/joint",
                           stops=True, processes=True),
    "screen": Command("ScreenConfig", "stages.screen:screen", "stages.screen:as_text",
                      "rank source adapters by what each does for a target",
                      "--target glue/rte --sources runs/mnli runs/qnli --backbone roberta-base"),
    "plan": Group("memory and time of a run, before it starts", "stage", _PLANS),
    "evaluate": Command("EvaluateConfig", "runs.evaluate:evaluate", "cli.listing:format_scores",
                        "score a finished run on a split",
                        "runs/rte --split dev", "run"),
    "predict": Command("PredictConfig", "runs.serving.answer_file:predict", _format_path,
                       "write labels with probabilities for a file",
                       "runs/rte --input new.csv --output labels.csv", "run"),
    "explain": Command("ExplainConfig", "runs.explain:explain_run", str,
                       "which sources help a finished ScaLearn run",
                       "runs/rte --out explained", "run"),
    "import": Command("ImportConfig", "sharing.importing:import_source", _format_path,
                      "make a run of an adapter, fusion or ScaLearn layers, or a run",
                      "OWNER/NAME --out runs/theirs", "src"),
    "export": Command("ExportConfig", "sharing.exporting:export_run", _format_path,
                      "write a finished run for AdapterHub or another machine",
                      "runs/rte --out exported", "run"),
    "fold": Command("FoldConfig", "sharing.fold:fold_run", "sharing.fold_check:as_text",
                    "turn a finished run into one plain AdapterHub adapter",
                    "runs/rte --out folded", "run"),
    "run": Command("RunConfig", "studies.run:run_command", None,
                   "run a study: every target with every method, then the table",
                   "study.yaml --out runs/study", "study", stops=True),
    "report": Command("ReportConfig", "studies.report:make_report", str,
                      "tables and figures of a study's results",
                      "runs/study", "dir", computes=False),
    "push": Command("PushConfig", "sharing.push:push", "sharing.push:as_text",
                    "upload an adapter to the hub, with a model card",
                    "folded OWNER/NAME --dry-run", "dir repo", computes=False),
    "fetch": Command("FetchConfig", "sharing.fetch:fetch", str,
                     "fetch backbones, data and adapters, to work without a network",
                     "--backbone roberta-base --suite glue", computes=False),
    "list": Command("ListConfig", "cli.listing:list_names", str,
                    "list tasks, methods or backbones",
                    "methods", "what", computes=False),
    "doctor": Command("DoctorConfig", "cli.doctor:examine", None,
                      "check this machine: versions, devices, known problems",
                      "--json", computes=False),
}  # fmt: skip
SCALEARN = Group("Learn to scale adapters: two-stage transfer for text encoders.", "command", COMMANDS)


def execute(command: Command, config: Any) -> int:
    """Runs a command and prints its result, as JSON where its config asks for that; returns the exit code."""
    if hasattr(config, "method") and not hasattr(config, "tasks"):  # a joint one is checked with all else
        from scalearn_jax import methods

        methods.get(config.method)  # an unknown one fails before JAX is loaded
    if command.processes and (config.coordinator or _LAUNCHED & os.environ.keys()):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA would log every signal, and a lost process twice
    work = _load(command.target)
    if command.computes and not getattr(config, "dry_run", False):
        _prepare()
    if command.processes:
        return _execute_together(work, command.printer, config)
    result = work(config)
    if command.printer is None:
        return result
    if getattr(config, "json", False):
        from scalearn_jax.io.files import as_json

        print(as_json(result), end="")
        return 0
    printer = _load(command.printer) if isinstance(command.printer, str) else command.printer
    if result is not None:  # what a command wrote to standard output stays all that stands there
        print(printer(result))
    return 0


def _prepare() -> None:
    """Sets up what every command that computes needs."""
    from scalearn_jax.io.cache import keep_compiled_programs

    keep_compiled_programs()


def _execute_together(command: Callable[[Any], Any], printer: Callable[[Any], str], config: Any) -> int:
    """Runs a command together with other processes, where there are some; one of them prints."""
    from scalearn_jax.train import distributed
    from scalearn_jax.train.agreement import processes

    def work() -> int:
        distributed.start(
            config.coordinator,
            config.num_processes,
            config.process_id,
            start_timeout=config.start_timeout,
            heartbeat_timeout=config.heartbeat_timeout,
        )
        result = command(config)
        if processes.is_writer:
            print(printer(result))
        return 0

    return distributed.run(work, exit_code)


def _load(target: str) -> Callable[[Any], Any]:
    """Imports a function of the package, named ``"package.module:function"``, and with it most often JAX."""
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(f"scalearn_jax.{module}"), name)
    except ValueError as error:
        given = sorted(name for name in os.environ if name.startswith("JAX_"))
        if not given:
            raise
        raise InputError(f"JAX cannot start: {error}; correct or unset {' or '.join(given)}.") from error
