"""Combinations of packages, devices and settings that are known to go wrong: each of ``PROBLEMS`` tests the facts."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "jax-rocm7-plugin", "jax-rocm60-plugin", "libtpu")


class Facts(NamedTuple):
    """What was found."""

    python: str
    packages: dict[str, str | None]  # name -> version, ``None`` where it is not installed; plugins only where they are
    devices: list[dict[str, Any]]  # platform, kind and count of each kind; empty where JAX gives none
    error: str | None  # why JAX gives no device
    hardware: list[str]  # accelerators' device files
    cores: int  # of the CPU, that this process may use
    memory: int | None  # bytes available on each device
    precision: str  # what products of ``--dtype float32`` are computed in
    cache: dict[str, Any]  # see ``cache.state``
    variables: dict[str, str]  # of the environment, those that are set and matter


class Problem(NamedTuple):
    """A combination that is known to go wrong."""

    name: str  # short, for machines
    found: Callable[[Facts], bool]
    reason: str
    fix: str


def _older(version: str | None, bound: tuple[int, ...]) -> bool:
    return version is not None and _numbers(version) < bound


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.match(r"\d+(?:\.\d+)*", version)[0].split(".")))


def _differ(facts: Facts) -> bool:
    jax, jaxlib = facts.packages.get("jax"), facts.packages.get("jaxlib")
    return bool(jax and jaxlib) and _numbers(jax)[:3] != _numbers(jaxlib)[:3]


def _idle_plugin(facts: Facts) -> bool:
    only_cpu = facts.error is None and all(device["platform"] == "cpu" for device in facts.devices)
    return only_cpu and not _forced_to_cpu(facts) and any(facts.packages.get(name) for name in PLUGINS)


def _platforms(facts: Facts) -> str | None:
    return facts.variables.get("JAX_PLATFORMS") or facts.variables.get("JAX_PLATFORM_NAME") or None


def _forced_to_cpu(facts: Facts) -> bool:
    return _platforms(facts) == "cpu"


def _simulated(facts: Facts) -> bool:
    found = re.search(r"xla_force_host_platform_device_count=(\d+)", facts.variables.get("XLA_FLAGS", ""))
    return bool(found) and int(found[1]) > 1


def _old_adapters(facts: Facts) -> bool:
    transformers = facts.packages.get("transformers")
    return bool(facts.packages.get("adapters") and transformers) and not _older(transformers, (5,))


PROBLEMS = [
    Problem("old-python", lambda facts: _older(facts.python, (3, 11)),
            "Python below 3.11 is not supported.",
            "Use Python 3.11 or newer."),
    Problem("no-devices", lambda facts: facts.error is not None and _platforms(facts) in (None, "cpu"),
            "JAX is missing or finds no device.",
            "Install jax and jaxlib for this machine."),
    Problem("missing-platform", lambda facts: facts.error is not None and _platforms(facts) not in (None, "cpu"),
            "JAX_PLATFORMS or JAX_PLATFORM_NAME asks for a device that JAX does not find here.",
            "unset or correct it, or install JAX's plugin and the driver of that device."),
    Problem("unsafe-transformers", lambda facts: _older(facts.packages.get("transformers"), (5, 5)),
            "transformers below 5.5 runs code from a model folder (CVE-2026-4372, CVE-2026-5241).",
            "pip install --upgrade 'transformers>=5.5'"),
    Problem("adapters-beside-transformers-5", _old_adapters,
            "The `adapters` package is written for transformers 4 and breaks beside 5.",
            "Keep `adapters` in an environment of its own; scalearn_jax reads its folders without it."),
    Problem("jax-jaxlib-differ", _differ,
            "jax and jaxlib have different versions.",
            "pip install --upgrade jax jaxlib, and the plugin of the accelerator with them."),
    Problem("jax-0.11.0", lambda facts: (facts.packages.get("jax") or "").split("+")[0] == "0.11.0",
            "jax 0.11.0 is excluded by other libraries (Tunix) for its faults.",
            "pip install 'jax!=0.11.0'"),
    Problem("idle-plugin", _idle_plugin,
            "A plugin for an accelerator is installed, but JAX finds only the CPU.",
            "Check the driver (nvidia-smi) and that the plugin's version is jaxlib's; or remove the plugin."),
    Problem("forced-to-cpu", lambda facts: _forced_to_cpu(facts) and bool(facts.hardware),
            "JAX_PLATFORMS=cpu hides this machine's accelerator.",
            "unset JAX_PLATFORMS"),
    Problem("simulated-devices", _simulated,
            "XLA_FLAGS simulates several devices on one CPU, which makes training slower.",
            "Remove --xla_force_host_platform_device_count from XLA_FLAGS."),
    Problem("public-cache", lambda facts: not facts.cache["private"],
            "Others can write to the cache folder, so it is not used: programs are compiled and texts tokenised anew.",
            "chmod -R go-w the folder, or set SCALEARN_CACHE to one of your own."),
]  # fmt: skip


def diagnose(facts: Facts) -> list[Problem]:
    """Returns the known problems that the facts show."""
    return [problem for problem in PROBLEMS if problem.found(facts)]
