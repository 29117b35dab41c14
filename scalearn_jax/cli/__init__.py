"""The command line: ``scalearn COMMAND ...``. Nothing heavy is imported before a command needs it."""

import contextlib
import difflib
import signal
import sys
import textwrap
from collections.abc import Sequence

from scalearn_jax import __version__
from scalearn_jax.cli.commands import SCALEARN, Group, execute
from scalearn_jax.cli.exits import exit_code
from scalearn_jax.errors import InputError
from scalearn_jax.io.terminal import accept_any_text
from scalearn_jax.train import memory
from scalearn_jax.train.signals import signals


def run() -> None:
    """Entry point of the ``scalearn`` command."""
    accept_any_text(sys.stdout, sys.stderr)
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is done: while Python clears up, it ends the process, no more
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, by default of the process; returns its exit code, see ``exits``.

    Wrong input is reported on standard error, without a traceback.

    Example:
      >>> main(["--version"])
      scalearn 0.1.0
      0
    """
    return exit_code(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


def _dispatch(argv: list[str]) -> int:
    """Finds the command that the first arguments name, reads its config, and runs it; returns an exit code."""
    if argv and argv[0] == "--version":
        print(f"scalearn {__version__}")
        return 0
    if argv and argv[0] == "--print-completion":
        from scalearn_jax.cli import completion

        print(completion.script(argv[1] if len(argv) > 1 else "nothing"), end="")
        return 0
    prog, command = "scalearn", SCALEARN
    while isinstance(command, Group):
        name, *argv = argv or ["--help"]
        if name in ("-h", "--help", "help"):
            print(_usage(prog, command))
            return 0
        if name not in command.commands:
            nearest = difflib.get_close_matches(name, command.commands, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(command.commands)}"
            raise InputError(f"unknown {command.kind} {name!r}; {hint}")
        prog, command = f"{prog} {name}", command.commands[name]

    from scalearn_jax import config as configs
    from scalearn_jax.cli import flags

    try:
        config = flags.parse(
            getattr(configs, command.config), argv, prog=prog, positional=command.positional, example=command.example
        )
    except SystemExit as stop:  # the parser has printed help
        lines = textwrap.wrap(f"{prog} {command.example}", 72, subsequent_indent="    ", break_on_hyphens=False)
        print("\nexample:\n  " + " \\\n  ".join(lines))
        return int(stop.code or 0)
    with signals.watching() if command.stops else contextlib.nullcontext(), memory.explain_out_of_memory(config):
        return execute(command, config)


def _usage(prog: str, group: Group) -> str:
    width, kind = max(map(len, group.commands)), group.kind
    lines = [f"  {name.ljust(width)}  {command.about}" for name, command in group.commands.items()]
    more = [f"`{prog} {kind.upper()} --help` says more."]
    if group is SCALEARN:
        more = [
            f"`{prog} {kind.upper()} --help` says more; `scalearn --version` prints the version,",
            "`scalearn --print-completion bash` (or zsh) what completes commands and flags.",
        ]
    return "\n".join([f"usage: {prog} {kind.upper()} ...", "", group.about, "", f"{kind}s:", *lines, "", *more])
