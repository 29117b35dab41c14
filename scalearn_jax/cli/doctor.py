"""``scalearn doctor``: what this machine and its packages offer, and what is known to go wrong with them.

Facts are gathered once, without the network; ``known_problems`` finds what is bad about them.
"""

import os
import platform
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from scalearn_jax.cli.known_problems import PLUGINS, Facts, diagnose
from scalearn_jax.config import DoctorConfig
from scalearn_jax.io import cache, files, terminal
from scalearn_jax.train.memory import available, format_bytes

PACKAGES = (
    "scalearn-jax jax jaxlib flax optax transformers datasets orbax-checkpoint safetensors huggingface_hub numpy"
).split()
_OTHERS = ("adapters", *PLUGINS)  # listed only where they are installed
_VARIABLES = (
    *("XLA_FLAGS", "SCALEARN_CACHE", "SCALEARN_CACHE_GB", "SCALEARN_KEEP_PROGRAMS", "HF_HOME", "HF_ENDPOINT"),
    *("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"),
)
_SHORTENED = {"gpu": "inputs may be shortened to TensorFloat-32", "tpu": "inputs are shortened to bfloat16"}
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_HARDWARE = ("dev/nvidia[0-9]*", "dev/accel[0-9]*", "dev/kfd")  # NVIDIA, TPU, AMD


def examine(config: DoctorConfig) -> int:
    """Prints what there is and what is wrong with it; returns 1 where something is, else 0."""
    facts = gather()
    print(as_json(facts) if config.json else as_text(facts))
    return 1 if diagnose(facts) else 0


def gather() -> Facts:
    """Collects the facts; makes no network call, writes nothing, and fails for no missing package."""
    found = {name: _version(name) for name in (*PACKAGES, *_OTHERS)}
    of_jax = sorted(name for name in os.environ if name.startswith("JAX_"))
    packages = {name: version for name, version in found.items() if version or name in PACKAGES}
    return Facts(
        python=platform.python_version(),
        packages=packages,
        hardware=sorted(str(path) for pattern in _HARDWARE for path in Path("/").glob(pattern)),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cache=cache.state(),
        variables={name: os.environ[name] for name in (*of_jax, *_VARIABLES) if name in os.environ},
        **_of_jax(),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _of_jax() -> dict[str, Any]:
    """What only JAX knows; a broken installation is a fact, too."""
    try:
        import jax

        devices = jax.devices()
        kinds = sorted(Counter((device.platform, device.device_kind) for device in devices).items())
        listed = [{"platform": name, "kind": kind, "count": count} for (name, kind), count in kinds]
        shortened = _SHORTENED.get(devices[0].platform)
        precision = f"float32, {shortened}" if shortened else "float32"
        return dict(devices=listed, error=None, memory=available(), precision=precision)
    except Exception as error:  # whatever a broken plugin raises
        reason = " ".join(str(error).split()) or type(error).__name__
        return dict(devices=[], error=reason, memory=None, precision="unknown")


def as_json(facts: Facts) -> str:
    """Formats the facts and the problems found in them as JSON."""
    problems = [{"name": row.name, "reason": row.reason, "fix": row.fix} for row in diagnose(facts)]
    return files.as_json(facts._asdict() | {"problems": problems}).rstrip()


def as_text(facts: Facts) -> str:
    """Formats the facts and the problems found in them for a terminal."""
    devices = "; ".join(f"{row['count']} x {row['kind']} ({row['platform']})" for row in facts.devices)
    offline = [name for name in _OFFLINE if facts.variables.get(name, "0").lower() not in ("0", "false", "no", "")]
    private = "private" if facts.cache["private"] else "not private"
    size = f"{format_bytes(facts.cache['bytes'])} of at most {format_bytes(cache.limit())}"
    kept = f"{facts.cache['programs']} programs, {size}, {private}"
    rows = [["python", facts.python], *([name, version or "not installed"] for name, version in facts.packages.items())]
    rows += [
        ["devices", devices or f"none: {facts.error}"],
        ["memory", f"{format_bytes(facts.memory)} available for each device"],
        ["CPU cores", str(facts.cores)],
        ["precision", facts.precision],
        ["cache", f"{facts.cache['folder']}: {kept}"],
        ["hub", f"offline ({', '.join(offline)})" if offline else "online: no variable says otherwise"],
        *([name, value] for name, value in facts.variables.items()),
    ]
    found = [f"problem: {row.reason}\n    fix: {row.fix}" for row in diagnose(facts)] or ["no known problem"]
    return "\n".join([terminal.plain(["what", "found"], rows), "", *found])
