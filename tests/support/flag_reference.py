"""The flags of every command as the guide to the command line lists them: made from the configs, as the help is.

python -m tests.support.flag_reference    writes them into the guide again
"""

import dataclasses

from scalearn_jax import config as configs
from scalearn_jax.cli import flags
from scalearn_jax.cli.commands import COMMANDS, Command
from scalearn_jax.config.schema import field_texts
from scalearn_jax.methods import JOINT, METHODS
from tests.conftest import ROOT

GUIDE = ROOT / "experiments/guides/command_line.md"
BEGIN, END = "<!-- flags: begin -->\n", "<!-- flags: end -->\n"


def reference() -> str:
    """A section a command: what it does, an example, and a line a flag; of transfer those that train-adapter lacks."""
    lines: list[str] = []
    for name, row in COMMANDS.items():
        if not isinstance(row, Command):
            continue
        beside = configs.AdapterConfig if name == "transfer" else None
        lines += ["", f"### {name}", "", f"{row.about.capitalize()}: `scalearn {name} {row.example}`", ""]
        lines += ["The flags of `train-adapter`, but for `--task`, and", ""] if beside else []
        lines += _flags(getattr(configs, row.config), (row.positional or "").split(), beside)
    return "\n".join(lines[1:]) + "\n"


def _flags(cls: type, places: list[str], beside: type | None) -> list[str]:
    texts, known = field_texts(cls), {field.name for field in dataclasses.fields(beside)} if beside else set()
    lines = []
    for field in dataclasses.fields(cls):
        if field.name in known - {"method"}:
            continue
        hint = flags._hint(field.default)
        if field.name in ("learning_rate", "epochs", "patience"):
            method = METHODS.get(cls.method) or JOINT[cls.method]
            hint = f"(default: {getattr(method, field.name):g}, by the method)"
        called = flags._called(cls, field.name, places)
        called += f", --no-{called.removeprefix('--')}" if field.default is True else ""
        lines.append(f"- `{called}`: " + f"{texts[field.name]} {hint}".strip())
    return lines


if __name__ == "__main__":
    before, rest = GUIDE.read_text().split(BEGIN)
    GUIDE.write_text(f"{before}{BEGIN}{reference()}{END}{rest.split(END)[1]}")
