"""The reference outputs of the official implementation, on the case that comes with the repository."""

import json
import os
import re
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


@pytest.mark.slow
def test_joint_training_is_reproduced():
    result = conformance(GOLDEN / "joint")
    failures = [line for line in result.stdout.splitlines() if not line.startswith("PASS")]
    assert result.returncode == 0, "\n".join(failures) + result.stderr
    assert result.stdout.count("train after.12") == 2  # after as many steps, of both methods


@pytest.mark.slow
def test_a_changed_number_a_missing_file_an_unknown_setup_and_an_empty_case_fail(tmp_path):
    """In two copies of the case: one with a single forward pass left, and one with nothing to compare."""
    names = ("changed", "empty")
    for name in names:
        shutil.copytree(GOLDEN / "roberta_l3_h32_t4", tmp_path / name, ignore=shutil.ignore_patterns("grads", "train"))
    (tmp_path / "index.json").write_text(json.dumps({"cases": names}))
    forward, empty = tmp_path / "changed/forward", tmp_path / "empty"
    shutil.copy(forward / "none.npz", forward / "unheard_of.npz")
    with np.load(forward / "none.npz") as file:
        arrays = dict(file)
    arrays["logits_f64"][0, 0] += 1e-8
    np.savez(forward / "none.npz", **arrays)
    for part in ("forward", "internals", "dropout"):
        shutil.rmtree(empty / part)
    for name in ("init_stats.json", "regularization.npz"):
        (empty / name).unlink()

    result = conformance(tmp_path, "manifest|forward/none|unheard_of|any")
    failed = re.findall(r"^FAIL .*<= +\S+  (\w+)  (.*)$", result.stdout, re.MULTILINE)
    assert result.returncode == 1 and len(failed) == 5, result.stdout
    assert [case for case, _ in failed] == ["changed"] * 3 + ["empty"] * 2
    missing, number, unknown, also_missing, nothing = (name for _, name in failed)
    assert missing.startswith("manifest files missing") and also_missing.startswith("manifest files missing")
    assert number == "forward/none float64 logits" and "no check knows the setup" in unknown
    assert nothing == "any reference arrays: nothing to compare"
