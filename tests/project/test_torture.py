"""Runs that are killed again and again, in processes of their own, end as ones that never were."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import FAST, ROOT
from tests.support import tiny_backbone


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path):
    backbone = tiny_backbone.write(tmp_path / "backbone", num_hidden_layers=1)
    command = [sys.executable, ROOT / "experiments" / "torture.py", "--backbone", backbone]
    command += ["--kills", "10", "--kinds", "several seeds", "--json", tmp_path / "figures.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": FAST}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "programs")  # the killed may leave halves of some
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["kills survived"] == 10 and figures["runs equal to the last bit"]["several seeds"] >= 1
    assert figures["of them"]["lives that went on"] >= 1
    assert figures["slowest end after SIGTERM or SIGINT, seconds"] < 60  # on a machine that is busy with other tests
    assert figures["damaged checkpoint files noticed, the step before taken"] >= 15
