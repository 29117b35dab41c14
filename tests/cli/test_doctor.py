"""``scalearn doctor``: every known-bad combination is found, alone, and nothing it meets makes it fail."""

import json
import re
from importlib import metadata

import pytest

from scalearn_jax import cli
from scalearn_jax.cli import doctor
from scalearn_jax.cli.known_problems import PROBLEMS, Facts, diagnose

CPU = {"platform": "cpu", "kind": "cpu", "count": 1}
GOOD = Facts(
    python="3.12.1",
    packages={"jax": "0.12.0.1", "jaxlib": "0.12.0.1", "transformers": "5.24.0", "datasets": None},
    devices=[CPU],
    error=None,
    hardware=[],
    cores=2,
    memory=2**30,
    precision="float32",
    cache={"folder": "c", "private": True, "bytes": 0, "programs": 0},
    variables={},
)


def packages(**changes):
    return {"packages": GOOD.packages | {name.replace("_", "-"): version for name, version in changes.items()}}


BAD = {
    "old-python": {"python": "3.10.14"},
    "no-devices": {"devices": [], "error": "no backend"},
    "missing-platform": {"devices": [], "error": "no backend", "variables": {"JAX_PLATFORMS": "cuda"}},
    "unsafe-transformers": packages(transformers="5.4.9"),
    "adapters-beside-transformers-5": packages(adapters="1.3.0"),
    "jax-jaxlib-differ": packages(jaxlib="0.12.1"),
    "jax-0.11.0": packages(jax="0.11.0", jaxlib="0.11.0"),
    "idle-plugin": packages(jax_cuda13_plugin="0.12.0"),
    "forced-to-cpu": {"variables": {"JAX_PLATFORMS": "cpu"}, "hardware": ["/dev/nvidia0"]},
    "simulated-devices": {"variables": {"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=8"}},
    "public-cache": {"cache": GOOD.cache | {"private": False}},
}
FINE = [
    {"python": "3.11.0"},
    packages(transformers="5.5.0"),
    packages(transformers=None),
    packages(jax="0.11.1", jaxlib="0.11.1"),
    packages(jax="0.10.2", jaxlib="0.10.2.dev1+cuda"),
    packages(jax_cuda13_plugin="0.12.0") | {"devices": [{"platform": "gpu", "kind": "H100", "count": 1}]},
    packages(jax_cuda13_plugin="0.12.0") | {"variables": {"JAX_PLATFORMS": "cpu"}},  # as asked for
    {"variables": {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}},
]


def test_every_problem_has_a_case():
    assert [row.name for row in PROBLEMS] == list(BAD)
    assert all(row.reason.endswith(".") and row.fix for row in PROBLEMS)


@pytest.mark.parametrize("name", BAD)
def test_each_combination_is_found_alone(name):
    assert [row.name for row in diagnose(GOOD._replace(**BAD[name]))] == [name]


@pytest.mark.parametrize("changes", FINE)
def test_what_is_fine_is_not_blamed(changes):
    assert diagnose(GOOD._replace(**changes)) == []


@pytest.mark.parametrize("changes, code", [({}, 0), (BAD["forced-to-cpu"], 1)])
def test_the_exit_code_says_whether_something_is_bad(changes, code, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "gather", lambda: GOOD._replace(**changes))
    assert cli.main(["doctor"]) == code
    shown = capsys.readouterr().out
    assert re.search(r"datasets +not installed", shown) and ("fix: unset JAX_PLATFORMS" in shown) == bool(code)
    assert cli.main(["doctor", "--json"]) == code
    assert len(json.loads(capsys.readouterr().out)["problems"]) == code


def test_facts_of_this_machine_are_gathered(monkeypatch):
    facts = doctor.gather()
    assert facts.packages["jax"] == metadata.version("jax") and "adapters" in doctor._OTHERS
    assert facts.devices[0]["platform"] and facts.cores >= 1 and facts.memory > 0
    assert "simulated-devices" in [row.name for row in diagnose(facts)]  # the tests simulate eight
    assert facts.variables["HF_HUB_OFFLINE"] == "1" and "hub" in doctor.as_text(facts)
    assert set(json.loads(doctor.as_json(facts))) == {*Facts._fields, "problems"}


def test_a_broken_installation_is_a_fact(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    def broken():
        raise RuntimeError("Unable to initialize\nbackend 'cuda'")

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr("jax.devices", broken)
    facts = doctor.gather()
    assert set(facts.packages.values()) == {None} and facts.error == "Unable to initialize backend 'cuda'"
    assert "no-devices" in [row.name for row in diagnose(facts)] and "not installed" in doctor.as_text(facts)


def test_a_cache_others_can_write_to_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEARN_CACHE", str(tmp_path / "cache"))
    assert doctor.gather().cache == {"folder": str(tmp_path / "cache"), "private": True, "bytes": 0, "programs": 0}
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache" / "xla" / "machine").mkdir(parents=True, mode=0o700)
    (tmp_path / "cache" / "xla" / "machine" / "a-cache").write_bytes(b"12345")
    (tmp_path / "cache" / "xla").chmod(0o777)
    found = doctor.gather().cache
    assert (found["private"], found["bytes"], found["programs"]) == (False, 5, 1)
