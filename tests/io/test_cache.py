"""What is kept between runs goes where it is more than the limit, what was used longest ago first."""

import os
from pathlib import Path

import jax
import pytest

from scalearn_jax.errors import InputError
from scalearn_jax.io import cache

FILES = ("tokens/a.npz", "xla/m/b-cache", "similarity/c.npy", "tokens/d.npz")  # the first was used longest ago


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEARN_CACHE", str(tmp_path))
    for age, name in enumerate(reversed(FILES)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(b"x" * 2**20)
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "tokens/notes.txt").write_bytes(b"x" * 2**21)  # not ours
    os.utime(tmp_path / "tokens/notes.txt", (1, 1))
    return tmp_path


def left(root):
    assert (root / "tokens/notes.txt").exists()
    return [name for name in FILES if (root / name).exists()]


@pytest.mark.parametrize("megabytes, kept", [(4, 4), (3.5, 3), (2, 2), (0, 0)])
def test_the_oldest_go_until_the_rest_fits(root, monkeypatch, megabytes, kept):
    monkeypatch.setenv("SCALEARN_CACHE_GB", str(megabytes / 1024))
    cache.trim()
    assert left(root) == list(FILES[4 - kept :])


def test_what_was_used_stays(root, monkeypatch):
    monkeypatch.setenv("SCALEARN_CACHE_GB", str(1 / 1024))
    cache.mark_used(root / FILES[0])
    cache.trim()
    assert left(root) == [FILES[0]]


def test_asking_for_a_folder_looks_at_the_size_now_and_then(root, monkeypatch):
    monkeypatch.setenv("SCALEARN_CACHE_GB", "0")
    monkeypatch.setattr(cache, "_looked", [0.0 - cache._SECONDS])
    monkeypatch.setattr(cache.time, "monotonic", lambda: 1.0)
    assert cache.cache_folder("tokens") == root / "tokens" and left(root) == []
    (root / FILES[0]).write_bytes(b"x")
    cache.cache_folder("tokens")
    assert left(root) == [FILES[0]]  # within the same minute


def test_by_default_nothing_small_goes(root, monkeypatch):
    monkeypatch.delenv("SCALEARN_CACHE_GB", raising=False)
    cache.trim()
    assert left(root) == list(FILES) and cache.limit() == 20 * 2**30


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", "10GB"])
def test_a_limit_that_is_none_is_told(root, monkeypatch, text):
    monkeypatch.setenv("SCALEARN_CACHE_GB", text)
    with pytest.raises(InputError, match=f"SCALEARN_CACHE_GB is '{text}', expected gigabytes from 0 on"):
        cache.trim()
    assert left(root) == list(FILES)


def test_commands_keep_compiled_programs_in_a_folder_of_ones_own(root, monkeypatch):
    settings = {}
    monkeypatch.setattr(type(jax.config), "update", lambda self, name, value: settings.update({name: value}))
    cache.keep_compiled_programs()
    assert settings == {}  # as every test asks for
    monkeypatch.delenv("SCALEARN_KEEP_PROGRAMS")
    cache.keep_compiled_programs()
    folder = Path(settings["jax_compilation_cache_dir"])
    assert folder.parent == root / "xla" and folder.is_dir() and not folder.stat().st_mode & 0o077
