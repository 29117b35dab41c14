"""A study that is killed again and again, in processes of its own, ends with the table of one that never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny_backbone
from tests.conftest import FAST, ROOT

STUDY = """
name: killed
backbone: {backbone}
sources: [builtin/sentiment, builtin/complaints]
targets: [builtin/topic]
methods: [single, scalearn, soup]
seeds: [0, 1]
shots: [4]
stage1: &short {{max_steps: 3, batch_size: 4, max_eval_samples: 8, reduction_factor: 4, eval_every: 1, log_every: 1}}
stage2: *short
"""
COMMAND = "import sys; sys.argv[0] = 'scalearn'; from scalearn_jax.cli import run; run()"


@pytest.fixture
def study(tmp_path):
    backbone = tiny_backbone.write(tmp_path / "backbone")
    (tmp_path / "study.yaml").write_text(STUDY.format(backbone=backbone))
    return tmp_path / "study.yaml"


def start(study: Path, out: Path) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SCALEARN_CACHE": str(study.parent / "cache"),
        "XLA_FLAGS": FAST,
    }
    command = [sys.executable, "-c", COMMAND, "run", str(study), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


def num_cells(out: Path) -> int:
    return len([path for path in out.rglob("run.json") if ".partial" not in str(path)])


@pytest.mark.slow
def test_a_killed_study_ends_with_the_same_table(study, tmp_path):
    whole = start(study, tmp_path / "whole")
    said, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, said.decode()
    total, kills = num_cells(tmp_path / "whole"), random.Random(0)
    while True:
        process, began_with = start(study, tmp_path / "killed"), num_cells(tmp_path / "killed")
        stop_at, signum = (
            began_with + kills.randint(1, 3),
            kills.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]),
        )
        while process.poll() is None and num_cells(tmp_path / "killed") < stop_at:
            time.sleep(0.05)
        time.sleep(kills.uniform(0, 0.3))  # somewhere inside the next cell
        stopped = process.poll() is None
        if stopped:
            process.send_signal(signum)
        said, _ = process.communicate(timeout=600)
        if process.returncode == 0:
            break
        assert stopped, said.decode()
    for name in ("few-shot.md", "few-shot.csv", "significance.csv"):
        ours, theirs = (tmp_path / run / "report" / name for run in ("killed", "whole"))
        assert ours.read_text() == theirs.read_text()
    results = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("results.json"))
    assert len(results) == total
    for path in results:
        assert (tmp_path / "killed" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
