"""The reference outputs of the official implementation, on the case that comes with the repository."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import FAST, ROOT

GOLDEN = ROOT / "tests/golden"


def conformance(*arguments) -> subprocess.CompletedProcess:
    """Runs the script in a process of its own, since double precision is a setting of the whole process."""
    command = [sys.executable, str(ROOT / "tests/conformance.py"), *map(str, arguments)]
    environment = os.environ | {"XLA_FLAGS": FAST}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_every_reference_array_is_reproduced():
    result = conformance(GOLDEN)
    failures = [line for line in result.stdout.splitlines() if not line.startswith("PASS")]
    assert result.returncode == 0, "\n".join(failures) + result.stderr


@pytest.fixture
def small(tmp_path):
    """A copy with one forward pass left, and without what the other checks need."""
    case = "roberta_l3_h32_t4"
    shutil.copytree(GOLDEN, tmp_path / "reference", ignore=shutil.ignore_patterns("grads", "train", "dropout"))
    folder = tmp_path / "reference" / case
    for path in (folder / "forward").glob("*.npz"):
        if path.stem != "none":
            path.unlink()
    return tmp_path / "reference"


def test_one_changed_number_fails(small):
    path = small / "roberta_l3_h32_t4/forward/none.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["logits_f64"][0, 0] += 1e-8
    np.savez(path, **arrays)
    result = conformance(small, "forward")
    assert result.returncode == 1
    assert [line for line in result.stdout.splitlines() if line.startswith("FAIL")][0].endswith("float64 logits")


def test_a_missing_file_an_unknown_setup_and_an_empty_case_fail(small):
    folder = small / "roberta_l3_h32_t4"
    shutil.copy(folder / "forward/none.npz", folder / "forward/unheard_of.npz")
    result = conformance(small, "manifest|unheard_of")
    assert result.returncode == 1
    assert "manifest files missing" in result.stdout and "no check knows the setup" in result.stdout
    for part in ("forward", "internals"):
        shutil.rmtree(folder / part)
    for name in ("init_stats.json", "regularization.npz"):
        (folder / name).unlink()
    result = conformance(small, "any")
    assert result.returncode == 1 and "any reference arrays: nothing to compare" in result.stdout
