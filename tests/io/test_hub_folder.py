"""Sources by name: an alias, and the one adapter below a folder."""

import os

import pytest

from scalearn_jax.errors import InputError
from scalearn_jax.io.hub_folder import source_folder, split_alias


@pytest.mark.parametrize(
    "text, expected",
    [
        ("runs/rte", (None, "runs/rte")),
        ("me/rte@v1", (None, "me/rte@v1")),
        ("me/rte@a=b", (None, "me/rte@a=b")),
        ("rte=runs/rte", ("rte", "runs/rte")),
        ("glue/rte=me/rte@a=b", ("glue/rte", "me/rte@a=b")),
        ("rte-2.1=/x", ("rte-2.1", "/x")),
        ("./lr=0.1", (None, "./lr=0.1")),
        ("/runs/lr=0.1", (None, "/runs/lr=0.1")),
        ("~/lr=0.1", (None, "~/lr=0.1")),
        ("../lr=0.1", (None, "../lr=0.1")),
        ("=x", (None, "=x")),
        ("x=", (None, "x=")),
    ],
)
def test_a_name_may_stand_before_a_source(text, expected):
    assert split_alias(text) == expected


def test_the_home_folder_is_meant_behind_a_name_too():
    assert split_alias("rte=~/rte") == ("rte", os.path.expanduser("~/rte"))


def test_a_path_that_exists_as_it_stands_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    assert split_alias("lr=0.1") == (None, "lr=0.1")
    (tmp_path / "0.1").mkdir()
    with pytest.raises(InputError, match=r"both lr=0.1 and 0.1 exist; write ./lr=0.1 for the first, .*") as error:
        split_alias("lr=0.1")
    assert split_alias("./lr=0.1") == (None, "./lr=0.1")
    suggested = str(error.value).split("'lr' ")[1].rstrip(".")
    assert split_alias(suggested) == ("lr", str(tmp_path / "0.1"))


def made(folder, *names):
    """Makes empty files below a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_the_one_adapter_below_a_folder_is_taken(tmp_path):
    outer, path = tmp_path / "out", str(tmp_path / "out")
    made(outer, "checkpoint-500/trainer_state.json", "checkpoint-500/rte/adapter_config.json")
    made(outer, "checkpoint-500/head/head_config.json")
    inner = outer / "checkpoint-500/rte"
    for given in (path, f"{path}/", f"{path}/checkpoint-500", str(inner)):
        found, named = source_folder(given, flag="--sources")
        assert found == inner and named in (given, str(inner))
    made(outer, "checkpoint-900/rte/adapter_config.json")
    with pytest.raises(InputError, match="2 adapters or runs lie below it .checkpoint-500/rte, checkpoint-900/rte."):
        source_folder(path, flag="--sources")
    made(outer, "adapter_config.json")  # what is in the folder itself wins
    assert source_folder(path, flag="--sources") == (outer, path)


@pytest.mark.parametrize("name", ["run.json", "head_config.json", "adapter_fusion_config.json", "adapter_setup.json"])
def test_a_folder_that_holds_something_known_is_meant_itself(tmp_path, name):
    made(tmp_path, name, "a/adapter_config.json")
    assert source_folder(str(tmp_path), flag="RUN")[0] == tmp_path


def test_links_are_not_followed_down(tmp_path):
    made(tmp_path, "elsewhere/rte/adapter_config.json", "out/x")
    (tmp_path / "out/rte").symlink_to(tmp_path / "elsewhere/rte")
    assert source_folder(str(tmp_path / "out"), flag="RUN")[0] == tmp_path / "out"
