"""The command line: ``scalearn COMMAND ...``. Nothing heavy is imported before a command needs it.

Exit codes: 0 done; 1 something failed while running; 2 wrong input, in one line; 75 told to stop, what was learned is
saved: run it again to go on; 130 interrupted.
"""

import contextlib
import difflib
import errno
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from scalearn_jax import __version__, out_of_memory, signals
from scalearn_jax.errors import STOPPED, InputError, Preempted

# Faults of disks and paths that the user can mend; all others are ours and keep their traceback.
_USER_FAULTS = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS ENOENT ENOTDIR EISDIR ENAMETOOLONG EMFILE EEXIST".split()
    if hasattr(errno, name)
}

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


def run() -> None:
    """Entry point of the ``scalearn`` command."""
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is done: while Python clears up, it ends the process, no more
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: arguments after ``scalearn``; by default those of the process.

    Returns:
      The exit code; wrong input is reported on standard error, without a traceback.

    Example:
      >>> main(["--version"])
      scalearn 0.1.0
      0
    """
    return _reported(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


def _reported(work: Callable[[], int]) -> int:
    """Calls what returns an exit code, and words the errors that are the user's."""
    try:
        return work()
    except InputError as error:
        return _fail(str(error), 2)
    except FloatingPointError as error:
        return _fail(str(error), 1)
    except Preempted as error:
        print(f"scalearn: {error}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader, such as head, has gone; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in _USER_FAULTS:
            raise
        return _fail(str(InputError(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)), 2)


def _fail(message: str, code: int) -> int:
    print(f"scalearn: error: {message}", file=sys.stderr)
    return code


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] == "--version":
        print(f"scalearn {__version__}")
        return 0
    return _choose(argv, COMMANDS, "scalearn", "command")


def _choose(argv: list[str], commands: Mapping[str, Command], prog: str, kind: str) -> int:
    """Runs the command that the first argument names."""
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(_usage(commands, prog, kind))
        return 0
    if name not in commands:
        nearest = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(commands)}"
        raise InputError(f"unknown {kind} {name!r}; {hint}")
    command = commands[name]
    if command.stages:
        return _choose(rest, command.stages, f"{prog} {name}", "stage")
    config = _parse(command, f"{prog} {name}", rest)
    if isinstance(config, int):
        return config
    with signals.watching() if command.trains else contextlib.nullcontext(), out_of_memory.explained(config):
        return command.run(config)


def _parse(command: Command, prog: str, argv: list[str]) -> Any:
    """Reads the command's config, or returns an exit code where the parser has already said all."""
    from scalearn_jax import config, flags

    try:
        return flags.parse(getattr(config, command.config), argv, prog=prog, positional=command.positional)
    except SystemExit as stop:
        return int(stop.code or 0)


def _usage(commands: Mapping[str, Command], prog: str, kind: str) -> str:
    width, top = max(map(len, commands)), commands is COMMANDS
    lines = [f"  {name.ljust(width)}  {command.about}" for name, command in commands.items()]
    about = "Learn to scale adapters: two-stage transfer for text encoders." if top else COMMANDS["plan"].about
    more = f"`{prog} {kind.upper()} --help` says more{'; `scalearn --version` prints the version' if top else ''}."
    return "\n".join([f"usage: {prog} {kind.upper()} ...", "", about, "", f"{kind}s:", *lines, "", more])


def _train_adapter(config) -> int:
    return _train("train_adapter", config)


def _transfer(config) -> int:
    return _train("transfer", config)


def _train(stage: str, config) -> int:
    """Runs a stage, together with other processes where there are some."""
    _check_method(config.method)
    if config.coordinator or _LAUNCHED & os.environ.keys():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA would tell the loss of a process at length
    _prepare()
    from scalearn_jax import pipeline
    from scalearn_jax.train import agreement, distributed

    def work() -> int:
        names = ("coordinator", "num_processes", "process_id", "start_timeout", "heartbeat_timeout")
        distributed.start(**{name: getattr(config, name) for name in names})
        folder = getattr(pipeline, stage)(config)
        return _done(folder) if agreement.is_writer() else 0

    return distributed.run(work, _reported)


def _check_method(name: str) -> None:
    """Fails on an unknown method at once, before JAX is loaded."""
    from scalearn_jax import methods

    methods.get(name)


def _prepare() -> None:
    """Sets up what every command that computes needs."""
    from scalearn_jax.caches import keep_compiled_programs

    keep_compiled_programs()


def _done(path) -> int:
    print(f"wrote {path}")
    return 0


def _evaluate(config) -> int:
    _prepare()
    from scalearn_jax import inference, listing

    result = inference.evaluate(config)
    print(listing.as_json(result) if config.json else listing.scores(result))
    return 0


def _predict(config) -> int:
    _prepare()
    from scalearn_jax import inference

    return _done(inference.predict(config))


def _explain(config) -> int:
    _prepare()
    from scalearn_jax import explain

    print(explain.explain_run(config))
    return 0


def _import(config) -> int:
    _prepare()
    from scalearn_jax import exchange

    return _done(exchange.import_source(config))


def _export(config) -> int:
    _prepare()
    from scalearn_jax import exchange

    return _done(exchange.export_run(config))


def _fold(config) -> int:
    _prepare()
    from scalearn_jax import fold, fold_report, listing

    report = fold.fold_run(config)
    print(listing.as_json(report) if config.json else fold_report.as_text(report))
    return 0


def _plan(config) -> int:
    _check_method(config.method)
    _prepare()
    from scalearn_jax import listing, preview

    result = preview.plan(config)
    print(listing.as_json(result) if config.json else listing.forecast(result))
    return 0


def _doctor(config) -> int:
    from scalearn_jax import doctor, problems

    facts = doctor.gather()
    print(doctor.as_json(facts) if config.json else doctor.as_text(facts))
    return 1 if problems.diagnose(facts) else 0


def _run(config) -> int:
    from scalearn_jax import study

    if not config.dry_run:
        _prepare()
    return study.run_command(config)


def _report(config) -> int:
    from scalearn_jax import report

    print(report.make_report(config))
    return 0


def _push(config) -> int:
    from scalearn_jax import listing, publish

    result = publish.push(config)
    print(listing.as_json(result) if config.json else publish.as_text(result))
    return 0


def _fetch(config) -> int:
    from scalearn_jax import offline

    print(offline.check(config) if config.check else offline.fetch(config))
    return 0


def _list(config) -> int:
    from scalearn_jax import listing

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
