"""The commands: a row says a command's config, what runs it and its line of help. Each imports what it needs itself."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from scalearn_jax.cli.exits import reported

_LAUNCHED = {"SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"}  # set where processes are several


class Command(NamedTuple):
    """One subcommand.

    Attributes:
      config: name of its dataclass in ``config``.
      run: config -> exit code.
      about: one line of help.
      positional: the field given without a flag, or several with blanks between.
      stages: commands of its own, which stand after its name; it then has neither config nor run.
      trains: whether it can be stopped and run again to go on.
    """

    config: str | None
    run: Callable[[Any], int] | None
    about: str
    positional: str | None = None
    stages: Mapping[str, "Command"] | None = None
    trains: bool = False


def _train_adapter(config) -> int:
    return _train("train_adapter", config)


def _transfer(config) -> int:
    return _train("transfer", config)


def _train(stage: str, config) -> int:
    """Runs a stage, together with other processes where there are some."""
    _check_method(config.method)
    if config.coordinator or _LAUNCHED & os.environ.keys():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA would log every signal, and a lost process twice
    _prepare()
    from scalearn_jax.stages import pipeline
    from scalearn_jax.train import distributed
    from scalearn_jax.train.agreement import processes

    def work() -> int:
        names = ("coordinator", "num_processes", "process_id", "start_timeout", "heartbeat_timeout")
        distributed.start(**{name: getattr(config, name) for name in names})
        folder = getattr(pipeline, stage)(config)
        return _done(folder) if processes.is_writer else 0

    return distributed.run(work, reported)


def _check_method(name: str) -> None:
    """Fails on an unknown method at once, before JAX is loaded."""
    from scalearn_jax import methods

    methods.get(name)


def _prepare() -> None:
    """Sets up what every command that computes needs."""
    from scalearn_jax.io.cache import keep_compiled_programs

    keep_compiled_programs()


def _done(path) -> int:
    print(f"wrote {path}")
    return 0


def _evaluate(config) -> int:
    _prepare()
    from scalearn_jax.cli import listing
    from scalearn_jax.runs import evaluate as inference

    result = inference.evaluate(config)
    print(listing.as_json(result) if config.json else listing.scores(result))
    return 0


def _predict(config) -> int:
    _prepare()
    from scalearn_jax.runs.serving import predictor

    return _done(predictor.predict(config))


def _explain(config) -> int:
    _prepare()
    from scalearn_jax.runs import explain

    print(explain.explain_run(config))
    return 0


def _import(config) -> int:
    _prepare()
    from scalearn_jax.sharing import importing

    return _done(importing.import_source(config))


def _export(config) -> int:
    _prepare()
    from scalearn_jax.sharing import exporting

    return _done(exporting.export_run(config))


def _fold(config) -> int:
    _prepare()
    from scalearn_jax.cli import listing
    from scalearn_jax.sharing import fold
    from scalearn_jax.sharing import fold_check as fold_report

    report = fold.fold_run(config)
    print(listing.as_json(report) if config.json else fold_report.as_text(report))
    return 0


def _plan(config) -> int:
    _check_method(config.method)
    _prepare()
    from scalearn_jax.cli import listing
    from scalearn_jax.stages.planning import plan as preview

    result = preview.plan(config)
    print(listing.as_json(result) if config.json else listing.forecast(result))
    return 0


def _doctor(config) -> int:
    from scalearn_jax.cli import doctor
    from scalearn_jax.cli import known_problems as problems

    facts = doctor.gather()
    print(doctor.as_json(facts) if config.json else doctor.as_text(facts))
    return 1 if problems.diagnose(facts) else 0


def _run(config) -> int:
    from scalearn_jax.studies import run as study

    if not config.dry_run:
        _prepare()
    return study.run_command(config)


def _report(config) -> int:
    from scalearn_jax.studies import report

    print(report.make_report(config))
    return 0


def _push(config) -> int:
    from scalearn_jax.cli import listing
    from scalearn_jax.sharing import push as publish

    result = publish.push(config)
    print(listing.as_json(result) if config.json else publish.as_text(result))
    return 0


def _fetch(config) -> int:
    from scalearn_jax.sharing import fetch

    print(fetch.fetch(config))
    return 0


def _list(config) -> int:
    from scalearn_jax.cli import listing

    print(listing.listing(config.what))
    return 0


STAGES = {
    "train-adapter": Command("PlanAdapterConfig", _plan, "what `scalearn train-adapter` with these flags needs"),
    "transfer": Command("PlanTransferConfig", _plan, "what `scalearn transfer` with these flags needs"),
}
COMMANDS = {
    "train-adapter": Command("AdapterConfig", _train_adapter, "stage 1: train an adapter on one task", trains=True),
    "transfer": Command("TransferConfig", _transfer, "stage 2: combine source adapters for a target task", trains=True),
    "plan": Command(None, None, "memory and time of a run, before it starts", stages=STAGES),
    "evaluate": Command("EvaluateConfig", _evaluate, "score a finished run on a split", "run"),
    "predict": Command("PredictConfig", _predict, "write labels with probabilities for a file", "run"),
    "explain": Command("ExplainConfig", _explain, "which sources help a finished ScaLearn run", "run"),
    "import": Command("ImportConfig", _import, "make a run of an adapter, fusion or ScaLearn layers, or a run", "src"),
    "export": Command("ExportConfig", _export, "write a finished run for AdapterHub or another machine", "run"),
    "fold": Command("FoldConfig", _fold, "turn a finished run into one plain AdapterHub adapter", "run"),
    "run": Command(
        "RunConfig", _run, "run a study: every target with every method, then the table", "study", trains=True
    ),
    "report": Command("ReportConfig", _report, "tables and figures of a study's results", "dir"),
    "push": Command("PushConfig", _push, "upload an adapter to the hub, with a model card", "dir repo"),
    "fetch": Command("FetchConfig", _fetch, "fetch backbones, data and adapters, to work without a network"),
    "list": Command("ListConfig", _list, "list tasks, methods or backbones", "what"),
    "doctor": Command("DoctorConfig", _doctor, "check this machine: versions, devices, known problems"),
}
