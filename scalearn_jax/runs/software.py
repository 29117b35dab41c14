"""What a result was made with: versions, and the command line."""

import platform
import sys
from importlib import metadata
from pathlib import Path

from scalearn_jax.errors import masked


def versions() -> dict[str, str]:
    """Lists the versions a result depends on."""
    names = ("scalearn-jax", "jax", "jaxlib", "flax", "optax", "transformers", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return {"python": platform.python_version(), **found}


def command() -> str:
    """The command line of this process, as recorded in ``run.json``; tokens and passwords are masked.

    Empty in a notebook, where it is that of the kernel and says nothing of the work.
    """
    program = Path(sys.argv[0]).name
    return "" if program.endswith("kernel_launcher.py") else masked(" ".join([program, *sys.argv[1:]]))
