"""Files of AdapterHub, proved in its own library: stock ``adapters`` in an environment of its own, both ways.

The PyTorch side runs twice, once to write and once to read; every setup is then a test. Largest difference of a logit
allowed: 1e-5, some ten times what float32 leaves on logits of about 1.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from scalearn_jax import model, tree
from scalearn_jax.models import encoder as encoders
from scalearn_jax.models import pretrained
from scalearn_jax.models.attention import relative_bucket
from scalearn_jax.models.backbones import BACKBONES
from scalearn_jax.runs import adapterhub
from scalearn_jax.runs.backbone import mean_pool
from tests.conftest import ROOT
from tests.interop import our_side
from tests.interop.cases import CHOICES, FAMILIES, FUSIONS, MPNET, OUTPUTS, STATIC, WRITTEN
from tests.support import tiny

pytestmark = [pytest.mark.torch, pytest.mark.slow]
PYTHON = ROOT / ".venv-torch/bin/python"
FOUND = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('torch', 'adapters'))))"
TOLERANCE = 1e-5
VISIBLE = 1e-2  # what leaving out the adapters changes at least
ADAPTERS = [(case.encoder.name, adapter) for case in WRITTEN for adapter in case.adapters]
NAMES = [(encoder, adapter.name) for encoder, adapter in ADAPTERS]
NAMES += [(case.encoder.name, name) for case in WRITTEN if case.num_sources for name in FUSIONS]
NAMES += [(encoder.name, "static") for encoder in STATIC]


@pytest.fixture(scope="module")
def torch_side() -> Callable[[str, Path], str]:
    """Calls the other side with a command and a folder; gives what it printed."""
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", FOUND]).returncode:
        pytest.skip("no PyTorch with `adapters` in .venv-torch; `bash experiments/benchmark/environment.sh` makes it")

    def call(command: str, folder: Path) -> str:
        script = Path(__file__).with_name("torch_side.py")
        done = subprocess.run([PYTHON, script, command, folder], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills, made once for all processes of a test run."""
    folder = Path(os.environ["SCALEARN_CACHE"]) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            make(folder)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="module")
def theirs(torch_side) -> Path:
    """What they wrote."""
    return once("interop-theirs", lambda folder: torch_side("write", folder))


@pytest.fixture(scope="module")
def read(torch_side) -> dict[str, dict]:
    """What they found in what we wrote, under ``ENCODER`` and ``ENCODER/SETUP``."""

    def make(folder: Path) -> None:
        our_side.write(folder)
        (folder / "found.json").write_text(torch_side("read", folder))

    return json.loads((once("interop-ours", make) / "found.json").read_text())


def logits(folder: Path, name: str, **changes) -> np.ndarray:
    """Ours, of a setup of theirs."""
    params, spec = our_side.theirs(folder, name)
    batch = our_side.batch_of(dict(np.load(folder / "inputs.npz")))
    return np.asarray(model.apply(params | changes, batch, spec=spec, task=name))


@pytest.mark.parametrize("encoder, name", NAMES)
def test_their_logits_are_ours(theirs, encoder, name):
    expected = np.load(theirs / encoder / "setups" / name / "logits.npy")
    found = logits(theirs / encoder, name)
    assert found.shape == expected.shape and np.ptp(expected) > VISIBLE
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("encoder, name", NAMES)
def test_their_pickles_hold_what_their_safetensors_do(theirs, encoder, name):
    load = adapterhub.load_fusion if name in FUSIONS else adapterhub.load
    for read in (load, adapterhub.load_head):
        safe, described = read(theirs / encoder / "setups" / name)
        pickled, also_described = read(theirs / encoder / "pickles" / name, allow_pickle=True)
        assert tree.content_hash(pickled) == tree.content_hash(safe) and also_described == described


@pytest.mark.parametrize("encoder, adapter", ADAPTERS, ids=lambda value: getattr(value, "name", value))
def test_their_heads_say_what_they_predict(theirs, encoder, adapter):
    described = adapterhub.describe_head(theirs / encoder / "setups" / adapter.name)
    count = CHOICES if adapter.kind == "choice" else OUTPUTS[adapter.kind]
    assert (described.name, described.kind) == (adapter.name, adapter.kind)
    assert len(described.labels) in ({0, count} if adapter.kind == "choice" else {count})


@pytest.mark.parametrize("family", sorted(BACKBONES.keys() - {"mpnet"}))  # which has a test of its own
def test_every_family_is_that_of_transformers(theirs, family):
    [encoder] = [encoder for encoder in FAMILIES if encoder.family == family]
    folder = theirs / "families" / encoder.name
    expected, inputs = np.load(folder / "states.npy"), dict(np.load(folder / "inputs.npz"))
    backbone, spec = pretrained.load_backbone(folder)
    adapted, batch = encoders.Adapted(backbone), our_side.batch_of(inputs)
    found, _ = encoders.encode(adapted, batch, spec, encoders.Compute(layers="scan"))
    real = inputs["attention_mask"] > 0
    assert np.abs(found - expected)[real].max() <= TOLERANCE and np.ptp(expected[real]) > 1


@pytest.mark.parametrize("rows", [None, [[1], [4, 3, 0], [5, 2]]], ids=["padded", "packed"])
def test_their_mpnet_is_ours(theirs, rows):
    """With its states the vectors of texts, by which AdapterSoup weighs sources."""
    params, spec = our_side.classifier(theirs / "mpnet")
    batch, expected = our_side.batch_of(MPNET.inputs()), np.load(theirs / "mpnet/expected.npz")
    batch = tiny.pack(batch, rows, max(MPNET.lengths)) if rows else batch
    found = np.asarray(model.encode(params, batch, spec=spec)[0])
    for text, (row, column) in enumerate(batch.example_at):
        length = MPNET.lengths[text]
        difference = found[row, column : column + length] - expected["states"][text, :length]
        assert np.abs(difference).max() <= TOLERANCE
    logits = model.apply(params, batch, spec=spec, task="demo")
    assert np.ptp(expected["logits"]) > VISIBLE and np.abs(logits - expected["logits"]).max() <= TOLERANCE
    vectors = np.asarray(mean_pool(params["backbone"], batch, spec=spec.backbone))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.abs(vectors - expected["vectors"]).max() <= TOLERANCE


def test_their_buckets_are_ours(theirs):
    expected = np.load(theirs / "mpnet/expected.npz")["buckets"]
    np.testing.assert_array_equal(relative_bucket(np.arange(-600, 601), 32), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder", [*our_side.ENCODERS, our_side.WIDE, *our_side.OTHERS], ids=lambda encoder: encoder.name
)
def test_our_backbones_are_whole_in_theirs(read, encoder):
    assert read[encoder.name] == {"missing": [], "unexpected": []}


@pytest.mark.parametrize("setup", our_side.SETUPS, ids=lambda setup: f"{setup.encoder.name}-{setup.name}")
def test_our_logits_are_theirs(read, setup):
    found = read[f"{setup.encoder.name}/{setup.name}"]
    assert "error" not in found, found["error"]
    assert found["missing"] == found["unexpected"] == []
    assert found["difference"] <= TOLERANCE and found["without"] > VISIBLE
    assert ("whole" in found) == (setup.combiner == "fusion") and found.get("whole", 0.0) <= TOLERANCE
    assert not setup.task.labels or found["labels"] == list(setup.task.labels)
