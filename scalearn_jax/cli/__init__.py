"""The command line: ``scalearn COMMAND ...``. Nothing heavy is imported before a command needs it.

Exit codes: see ``exits``.
"""

import contextlib
import difflib
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from scalearn_jax import __version__
from scalearn_jax.cli.commands import COMMANDS, Command
from scalearn_jax.cli.exits import reported
from scalearn_jax.errors import InputError
from scalearn_jax.train import memory
from scalearn_jax.train.signals import signals


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
    return reported(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


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
    with signals.watching() if command.trains else contextlib.nullcontext(), memory.explain_out_of_memory(config):
        return command.run(config)


def _parse(command: Command, prog: str, argv: list[str]) -> Any:
    """Reads the command's config, or returns an exit code where the parser has already said all."""
    from scalearn_jax import config
    from scalearn_jax.cli import flags

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
