"""``scalearn doctor``: what this machine and its packages offer, and what is known to go wrong with them.

Facts are gathered once, without the network; ``problems`` says what is bad about them.
"""

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from scalearn_jax.cli.known_problems import PLUGINS, Facts, diagnose
from scalearn_jax.io import cache as caches
from scalearn_jax.io import text_table as tables
from scalearn_jax.train import memory

PACKAGES = (
    "scalearn-jax jax jaxlib flax optax transformers datasets orbax-checkpoint safetensors huggingface_hub numpy"
).split()
_OTHERS = ("adapters", *PLUGINS)  # told only where they are installed
_VARIABLES = (
    *("JAX_PLATFORMS", "XLA_FLAGS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_COMPILATION_CACHE_DIR"),
    *("SCALEARN_CACHE", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"),
)
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_HARDWARE = ("dev/nvidia[0-9]*", "dev/accel[0-9]*", "dev/kfd")  # NVIDIA, TPU, AMD


def gather() -> Facts:
    """Collects the facts; makes no network call, writes nothing, and fails for no missing package."""
    found = {name: _version(name) for name in (*PACKAGES, *_OTHERS)}
    packages = {name: version for name, version in found.items() if version or name in PACKAGES}
    return Facts(
        python=platform.python_version(),
        packages=packages,
        hardware=sorted(str(path) for pattern in _HARDWARE for path in Path("/").glob(pattern)),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cache=caches.state(),
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        **_of_jax(),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _of_jax() -> dict[str, Any]:
    """What only JAX can tell; an installation that is broken is a fact, too."""
    try:
        import jax

        devices = jax.devices()
        kinds = {(device.platform, device.device_kind) for device in devices}
        listed = [_kind(*kind, devices) for kind in sorted(kinds)]
        precision = _precision(devices[0].platform, jax.config.jax_default_matmul_precision)
        x64 = bool(jax.config.jax_enable_x64)
        return dict(devices=listed, error=None, memory=memory.available(), precision=precision, x64=x64)
    except Exception as error:  # whatever a broken plugin raises
        told = " ".join(str(error).split()) or type(error).__name__
        return dict(devices=[], error=told, memory=None, precision="unknown", x64=False)


def _kind(platform_: str, kind: str, devices: list[Any]) -> dict[str, Any]:
    count = sum((device.platform, device.device_kind) == (platform_, kind) for device in devices)
    return {"platform": platform_, "kind": kind, "count": count}


def _precision(platform_: str, setting: str | None) -> str:
    if setting:
        return setting
    shortened = {"gpu": "inputs may be shortened to TensorFloat-32", "tpu": "inputs are shortened to bfloat16"}
    return f"float32{f', {shortened[platform_]}' if platform_ in shortened else ''}"


def as_json(facts: Facts) -> str:
    """Writes facts and problems as JSON."""
    problems = [{"name": row.name, "reason": row.reason, "fix": row.fix} for row in diagnose(facts)]
    return json.dumps(facts._asdict() | {"problems": problems}, indent=2)


def as_text(facts: Facts) -> str:
    """Lays out facts, then problems with their fixes."""
    cache = facts.cache
    devices = "; ".join(f"{row['count']} x {row['kind']} ({row['platform']})" for row in facts.devices)
    offline = [name for name in _OFFLINE if facts.variables.get(name, "0").lower() not in ("0", "false", "no", "")]
    private = "private" if cache["private"] else "not private"
    kept = f"{cache['programs']} programs, {memory.format_bytes(cache['bytes'])}, {private}"
    rows = [["python", facts.python], *([name, version or "not installed"] for name, version in facts.packages.items())]
    rows += [
        ["devices", devices or f"none: {facts.error}"],
        ["memory", f"{memory.format_bytes(facts.memory)} available for each device"],
        ["CPU cores", str(facts.cores)],
        ["precision", facts.precision],
        ["cache", f"{cache['folder']}: {kept}"],
        ["hub", f"offline ({', '.join(offline)})" if offline else "online: no variable says otherwise"],
        *([name, value] for name, value in facts.variables.items()),
    ]
    found = [f"problem: {row.reason}\n    fix: {row.fix}" for row in diagnose(facts)] or ["no known problem"]
    return "\n".join([tables.plain(["what", "found"], rows), "", *found])
