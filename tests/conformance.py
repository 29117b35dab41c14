"""Compares the package with reference outputs of the official implementation.

    python tests/conformance.py DIR [PATTERN]

DIR holds ``index.json`` with the names of its cases, one folder each (weights, inputs and the arrays to
reproduce), and optionally ``parameter_counts.json``. Every check prints a line with the largest absolute
difference and the tolerance; PATTERN, a regular expression on CASE/FILE such as ``forward/fusion``, selects
some. The exit code is 1 if a check fails or breaks, or if a case leaves nothing to compare.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on accelerators, too
jax.config.update("jax_disable_most_optimizations", True)  # compiling takes nearly all the time here
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone need not be installed

from tests.conformance_checks import forward as one_pass  # noqa: E402
from tests.conformance_checks import joint as joint_training  # noqa: E402
from tests.conformance_checks import training  # noqa: E402
from tests.conformance_checks.cases import Case  # noqa: E402
from tests.conformance_checks.forward import Result  # noqa: E402

# subfolder of a case -> the check for each of its files; the files beside them
FOLDERS = {
    "forward": one_pass.forward,
    "internals": one_pass.internals,
    "grads": one_pass.gradients,
    "dropout": one_pass.dropout,
    "train": training.training,
}
FILES = {"regularization.npz": training.penalties, "init_stats.json": training.initialisation}


def guarded(name: str, results: Iterator[Result]) -> Iterator[Result]:
    """Turns an exception into a failed check, and a check that compares nothing too."""
    compared = False
    try:
        for result in results:
            compared = True
            yield result
    except Exception as error:  # whatever breaks is a finding, and the other checks still run
        yield failure(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    else:
        if not compared:
            yield failure(f"{name}: nothing to compare")


def failure(name: str) -> Result:
    """A check that fails without a number."""
    return Result(name, float("inf"), 0)


def listed_files(case: Case) -> Iterator[Result]:
    """Counts the files that the manifest lists and the folder lacks."""
    missing = [name for name in case.manifest.get("files", ()) if not (case.folder / name).exists()]
    yield Result(f"manifest files missing {missing[:3] if missing else ''}".rstrip(), len(missing), 0)


def checks(case: Case) -> Iterator[tuple[str, Iterator[Result]]]:
    """Every check of a case with the name of its file; a case without reference arrays fails."""
    files = [(f"{part}/{name}", check(case, name)) for part, check in FOLDERS.items() for name in case.names(part)]
    files += [(name, check(case)) for name, check in FILES.items() if (case.folder / name).exists()]
    yield "manifest", listed_files(case)
    joint = sorted(path.name for path in (case.folder / "joint").glob("*"))
    files += [(f"joint/{name}", joint_training.joint(case, name)) for name in joint]
    yield from files or [("any reference arrays", iter(()))]
    for path in sorted((case.folder / "heads").glob("*/trainable.json")):
        yield f"heads/{path.parent.name}/trainable.json", training.trainable(case, path.parent.name)


def all_results(folder: Path, pattern: str) -> Iterator[tuple[str, Result]]:
    """Every result of a reference folder with the name of its case."""
    selected = lambda name: re.search(pattern, name)  # noqa: E731
    if not (folder / "index.json").exists():
        raise SystemExit(f"{folder / 'index.json'} does not exist; pass the folder that lists its cases there.")
    for name in json.loads((folder / "index.json").read_text())["cases"]:
        for file, results in checks(Case(folder / name)):
            if selected(f"{name}/{file}"):
                yield from ((name, result) for result in guarded(file, results))
    if (folder / "parameter_counts.json").exists() and selected("parameter_counts"):
        results = training.parameter_counts(folder)
        yield from ((folder.name, result) for result in guarded("parameter_counts", results))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="reference folder")
    parser.add_argument("pattern", nargs="?", default="", help="regular expression on CASE/FILE")
    arguments = parser.parse_args()
    start, results = time.time(), []
    for case, result in all_results(arguments.folder, arguments.pattern):
        verdict = "PASS" if result.passed else "FAIL"
        print(f"{verdict}  {result.difference:8.1e} <= {result.tolerance:7.1e}  {case}  {result.name}", flush=True)
        results.append(result)
    failed = sum(not result.passed for result in results)
    print(f"{len(results)} checks, {failed} failed, {time.time() - start:.0f} s")
    return int(failed > 0 or not results)


if __name__ == "__main__":
    sys.exit(main())
