"""Executes notebooks from top to bottom and keeps what they print; one that fails stays as it was.

python execute.py [NOTEBOOK ...]    by default all beside this file
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
TIMEOUT = 900  # seconds a cell


def execute(path: Path) -> None:
    """Runs a notebook in its own folder and writes it back without what differs between machines.

    Raises:
      CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    quiet = ["--log-level=ERROR"]  # it warns of its own sockets
    NotebookClient(notebook, timeout=TIMEOUT, resources=place, coalesce_streams=True, extra_arguments=quiet).execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # times of execution
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)


def main(paths: list[Path]) -> int:
    """Executes all of them; returns 1 if one failed."""
    failed = 0
    for path in paths:
        started = time.perf_counter()
        try:
            execute(path)
            word = "done"
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            failed, word = 1, "FAILED"
        print(f"{path.name}: {word} in {time.perf_counter() - started:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb"))))
