"""``scalearn --print-completion SHELL``: the script that completes commands, flags and their values."""

import dataclasses
import typing

from scalearn_jax.cli.commands import SCALEARN, Command, Group
from scalearn_jax.errors import InputError

SHELLS = ("bash", "zsh")
_SCRIPT = """\
_scalearn() {
    local current="${COMP_WORDS[COMP_CWORD]}" words=""
    COMPREPLY=()
    case "${COMP_WORDS[1]} ${COMP_WORDS[2]} ${COMP_WORDS[COMP_CWORD-1]}" in
%(values)s
    esac
    if [[ -z $words ]]; then
        if (( COMP_CWORD == 1 )); then
            words="%(commands)s --help --version --print-completion"
        elif [[ $current == -* ]]; then
            case "${COMP_WORDS[1]} ${COMP_WORDS[2]}" in
%(flags)s
            esac
        else
            return  # file names, by default
        fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _scalearn scalearn
"""


def script(shell: str) -> str:
    """Writes the completion script of a shell: source it, for instance in ``~/.bashrc``.

    Raises:
      InputError: another shell.
    """
    if shell not in SHELLS:
        raise InputError(f"--print-completion: expected {' or '.join(SHELLS)}, got {shell!r}.")
    values, flags = [], []
    for name, row in SCALEARN.commands.items():
        if isinstance(row, Group):
            values.append(_case(f'"{name} "*" {name}"', row.commands, 8))
            rows = {f"{name} {inner}": command for inner, command in row.commands.items()}
        else:
            rows = {f"{name} ": row}
        for words, command in rows.items():
            own_flags, own_values = _of_command(command)
            values += [_case(f'"{words}"*" {flag}"', choices, 8) for flag, choices in own_values.items()]
            flags.append(_case(f'"{words}"*', own_flags, 16))
    parts = {"values": "\n".join(values), "flags": "\n".join(flags), "commands": " ".join(SCALEARN.commands)}
    head = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return head + _SCRIPT % parts


def _case(pattern: str, words: typing.Iterable[str], indent: int) -> str:
    return f'{" " * indent}{pattern}) words="{" ".join(words)}" ;;'


def _of_command(command: Command) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Lists the flags of a command, and what takes one of few values, a flag or ``list``, with these."""
    from scalearn_jax import config, methods
    from scalearn_jax.config.schema import field_types

    cls, places = getattr(config, command.config), (command.positional or "").split()
    flags, values = ["--help", *([] if places else ["--config"])], {}
    for field in dataclasses.fields(cls):
        declared, flag = field_types(cls)[field.name], f"--{field.name.replace('_', '-')}"
        kinds = [kind for kind in (declared, *typing.get_args(declared)) if typing.get_origin(kind) is typing.Literal]
        if field.name in places:
            flag = "list"  # the one command that takes one of few words
        else:
            flags += [flag, *([f"--no-{flag.removeprefix('--')}"] if field.default is True else [])]
        if field.name == "method":
            values[flag] = tuple(methods.METHODS)
        elif kinds:
            values[flag] = typing.get_args(kinds[0])
    return flags, values
