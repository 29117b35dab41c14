"""Running out of memory is one line that says what to change, and leaves nothing behind."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import psutil
import pytest

from scalearn_jax import cli
from scalearn_jax.cli import commands
from scalearn_jax.config import EvaluateConfig
from scalearn_jax.errors import InputError
from scalearn_jax.stages import pipeline, program
from scalearn_jax.train import loop, memory
from tests.conftest import ROOT
from tests.support import tiny_backbone

PLAIN = dict(num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # compiles fast
ERRORS = [
    ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12884901888 bytes.", "needed 12.0 GiB, available"),
    ("RESOURCE_EXHAUSTED: Out of memory allocating 1048576 bytes", "needed 1.00 MiB, available"),
    ("RESOURCE_EXHAUSTED: Used 20.1G of 15.7G hbm. Exceeded", "needed 20.1 GiB, available 15.7 GiB"),
    ("RESOURCE_EXHAUSTED: something else", "available"),
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_backbone.write(tmp_path_factory.mktemp("backbone"), **PLAIN))


@pytest.mark.parametrize("text, sizes", ERRORS)
def test_training_names_sizes_and_remedies(text, sizes, backbone, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(loop, "train", fail)
    monkeypatch.setattr(commands, "_prepare", lambda: None)
    argv = ["train-adapter", "--task", "builtin/topic", "--backbone", backbone, "--reduction-factor", "4"]
    argv += ["--seeds", "0", "1", "--max-train-samples", "40", "--max-eval-samples", "8", "--max-length", "16"]
    assert cli.main([*argv, "--batch-size", "8", "--no-packed", "--out", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    start = "scalearn: error: out of memory: method 'single', batch size 8 (8 rows of 16 tokens), 2 seeds at once; "
    assert line.startswith(start + sizes)
    assert "a smaller --batch-size" in line and "--remat or fewer --seeds at once" in line
    assert "`scalearn plan train-adapter`" in line
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource
from pathlib import Path
import jax, jax.numpy as jnp
from scalearn_jax.train import memory
from scalearn_jax.config import EvaluateConfig
jnp.ones(4).block_until_ready()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**33, used + 2**33))
assert memory.available() * jax.local_device_count() <= 2**33
with memory.explain_out_of_memory(EvaluateConfig(run="r")):
    jax.jit(lambda x: x @ x.T)(jnp.ones((60_000, 8))).block_until_ready()
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the address space as Linux does")
def test_a_real_error_is_recognised():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LIMITED], env=environment, capture_output=True, text=True, timeout=300)
    assert "OutOfMemory: out of memory: batch size 128; needed 13.4 GiB, available" in done.stderr


def test_other_commands_and_memory_errors_are_translated():
    with pytest.raises(memory.OutOfMemory, match="batch size 128.*smaller --batch-size") as caught:
        with memory.explain_out_of_memory(EvaluateConfig(run="r")):
            raise MemoryError
    assert isinstance(caught.value, InputError) and isinstance(caught.value, MemoryError)
    assert isinstance(caught.value.__cause__, MemoryError)


def test_other_errors_pass():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        with memory.explain_out_of_memory(EvaluateConfig(run="r")):
            raise jax.errors.JaxRuntimeError("INTERNAL: broken")
    inner = memory.OutOfMemory("said already")
    with pytest.raises(memory.OutOfMemory) as caught:
        with memory.explain_out_of_memory(EvaluateConfig(run="r")):
            raise inner
    assert caught.value is inner


def test_rows_are_counted_without_packing_too(backbone):
    from scalearn_jax.config import AdapterConfig

    config = AdapterConfig(task="builtin/topic", backbone=backbone, out="o", packed=False, batch_size=6, max_length=16)
    rows, choices = program.training_rows(pipeline.adapter_setups(config)[0], 3)
    assert rows.tolist() == [6, 6, 6] and choices == (6,)


MIB = 2**20
OF_OTHERS = "1:name=systemd:/user.slice\n3:cpu,cpuacct:/\n"
# (where the process is, limits of version 2, of version 1) -> what they leave; all groups use 50 MiB, 20 of them files.
# A limit is of a folder below the mount; version 1 also counts what a parent that cannot be seen allows.
GROUPS = {
    "none": ("0::/\n", {}, {}, []),
    "of the own group": ("0::/job/task\n", {"job/task": 600}, {}, [570]),
    "of a parent": ("0::/job/task\n", {"job": 600, "job/task": "max"}, {}, [570]),
    "of both": ("0::/job/task\n", {"job": 300, "job/task": 600}, {}, [570, 270]),
    "of the mount, in a container": ("0::/\n", {"": 600}, {}, [570]),
    "of the mount, that hides where it is": ("0::/docker/1f3a\n", {"": 600}, {}, [570]),
    "of the mount, that is not around it": ("0::/../other\n", {"": 600}, {}, [570]),
    "of a neighbour": ("0::/job/task\n", {"job/other": 600}, {}, []),
    "of version 1": (OF_OTHERS + "4:memory:/slurm/job_1\n", {}, {"slurm/job_1": (600, 900)}, [570]),
    "of version 1, of a parent": (OF_OTHERS + "4:memory:/a/b\n", {}, {"a": (600, 600), "a/b": (900, 600)}, [570, 570]),
    "of version 1, out of sight": (OF_OTHERS + "4:hugetlb,memory:/docker/1f3a\n", {}, {"": (900, 600)}, [570]),
    "of both versions": ("4:memory:/\n0::/\n", {"": 500}, {"": (600, 600)}, [470, 570]),
    "where nothing says the group": (None, {}, {"": (600, 600)}, [570]),
}


@pytest.mark.parametrize("name", GROUPS)
def test_every_limit_of_control_groups_counts(name, tmp_path):
    own, second, first, left = GROUPS[name]
    if own is not None:
        (tmp_path / "own").write_text(own)
    kept = f"anon {30 * MIB}\n{{0}}inactive_file {15 * MIB}\n{{0}}active_file {5 * MIB}\n"
    for group, limit in second.items():
        folder = tmp_path / "mount" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit if limit == 'max' else limit * MIB}\n")
        (folder / "memory.current").write_text(f"{50 * MIB}\n")
        (folder / "memory.stat").write_text(kept.format(""))
    for group, (limit, around) in first.items():
        folder = tmp_path / "mount" / "memory" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(f"{limit * MIB}\n")
        (folder / "memory.usage_in_bytes").write_text(f"{50 * MIB}\n")
        (folder / "memory.stat").write_text(f"{kept.format('total_')}hierarchical_memory_limit {around * MIB}\n")
    found = memory.groups_leave(tmp_path / "mount", tmp_path / "own")
    assert sorted(found) == sorted(number * MIB for number in left)


def test_the_smallest_limit_is_what_there_is(monkeypatch):
    monkeypatch.setattr(memory, "groups_leave", lambda mount, own: [7 * MIB, 5 * MIB])
    assert memory.available() == 5 * MIB // jax.local_device_count()


@pytest.mark.parametrize("size, text", [(None, "-"), (0, "0 B"), (1023, "1023 B"), (15.75 * 2**30, "15.8 GiB")])
def test_sizes_are_worded(size, text):
    assert memory.format_bytes(size) == text


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in other ways")
def test_what_was_freed_goes_back_to_the_system():
    process = psutil.Process()
    blocks = [bytes(1000) for _ in range(100_000)]
    last, full = blocks[-1], process.memory_info().rss  # the last block keeps all before it with the allocator
    del blocks
    memory.give_back()
    assert process.memory_info().rss < full - 60 * 2**20 and len(last) == 1000
