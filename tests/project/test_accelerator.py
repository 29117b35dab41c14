"""The accelerator script: within its time, from local folders, with few packages, and again where it stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import FAST
from tests.support import tiny_backbone

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments/accelerator/run.py"
STUDY = """
name: tiny
backbone: MODEL
sources: [builtin/sentiment, builtin/complaints]
targets: [builtin/topic]
methods: [scalearn, soup]
seeds: [0, 1]
stage1: {max_steps: 2, batch_size: 4, max_train_samples: 16, max_eval_samples: 8, reduction_factor: 4}
stage2: {max_steps: 2, batch_size: 4, max_train_samples: 16, max_eval_samples: 8, reduction_factor: 4}
"""
# Packages that a machine with an accelerator need not have.
ABSENT = ("tyro", "matplotlib", "adjustText")


def call(*arguments, absent=()):
    """Runs the script in a process of its own, some packages missing."""
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in absent)
    start = f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    code = f"import sys; {blocked}sys.argv[0] = 'accelerator'; {start}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, cwd=ROOT)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    (root / "tiny.yaml").write_text(STUDY)
    (root / "data").mkdir()
    return tiny_backbone.write(root / "model", num_hidden_layers=1), root / "data", root / "tiny.yaml"


@pytest.mark.slow
def test_it_runs_with_few_packages_and_keeps_little(inputs, tmp_path):
    model, data, file = inputs
    done = call("run", tmp_path / "r", model, data, "--studies", file, "--processes", 2, absent=ABSENT)
    assert done.returncode == 0, done.stderr
    assert "| scalearn" in done.stdout
    cells = tmp_path / "r/tiny/builtin/topic"
    assert {path.name for path in cells.iterdir()} == {"scalearn", "soup"}
    assert json.loads((cells / "soup/results.json").read_text())["main_metric"] == "accuracy"
    kept = sorted(str(path.relative_to(cells)) for path in cells.rglob("*.safetensors"))
    assert kept == ["scalearn/seed-0.safetensors", "scalearn/seed-1.safetensors"]
    assert list(load_file(cells / kept[0])) == ["transfer/omega"]
    assert (tmp_path / "r/adapters/builtin/sentiment/seed-0.safetensors").exists()

    again = call("run", tmp_path / "r", model, data, "--studies", file, absent=ABSENT)
    assert again.returncode == 0 and "was there" in again.stdout and "] builtin/topic/soup  done" not in again.stdout
    assert again.stdout.split("\n\n")[-3:] == done.stdout.split("\n\n")[-3:]  # the table is made anew, and the same


def test_no_cell_starts_when_the_time_is_up(inputs, tmp_path):
    model, data, file = inputs
    done = call("run", tmp_path / "r", model, data, "--minutes", "0", "--studies", file)
    assert done.returncode == 75 and not (tmp_path / "r").exists()


@pytest.mark.slow
def test_wrong_input_is_one_line(inputs, tmp_path):
    _, data, file = inputs
    done = call("run", tmp_path / "r", tmp_path / "none", data, "--studies", file)
    assert done.returncode == 2 and done.stderr.startswith("accelerator: error: ") and done.stderr.count("\n") == 1


def test_the_shell_script_says_how_to_call_it():
    done = subprocess.run(["bash", ROOT / "experiments/accelerator.sh"], capture_output=True, text=True)
    assert done.returncode == 2 and "accelerator.sh RESULTS MODEL DATA" in done.stderr


def test_a_halved_encoder_is_half_as_large_and_close(inputs, tmp_path):
    model, _, _ = inputs
    assert call("halve", model, tmp_path / "half").returncode == 0
    ours, theirs = load_file(model / "model.safetensors"), load_file(tmp_path / "half/model.safetensors")
    assert set(ours) == set(theirs) and all(tensor.dtype == np.float16 for tensor in theirs.values())
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], atol=2e-3, err_msg=name)
