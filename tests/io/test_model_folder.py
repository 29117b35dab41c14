"""Folders from strangers: links, names and sizes of their files, and when a pickle is read."""

import json
import os
import shutil

import numpy as np
import pytest

from scalearn_jax import tree
from scalearn_jax.data import tokens
from scalearn_jax.errors import InputError
from scalearn_jax.io import model_folder as files
from scalearn_jax.io.tensors import load_tensors, save_tensors
from scalearn_jax.models import pretrained
from scalearn_jax.runs import adapterhub
from tests.conftest import ROOT
from tests.support import tiny_backbone
from tests.support.bin_files import pickled

GOLDEN = ROOT / "tests/golden/roberta_l3_h32_t4"


READERS = {
    "an adapter": ("adapters/rte", "pytorch_adapter.bin", "adapter.safetensors", adapterhub.load),
    "a head": ("heads/target", "pytorch_model_head.bin", "head.safetensors", adapterhub.load_head),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pickle_is_read_where_it_is_allowed_and_alone(tmp_path, name):
    place, pickle, weights, load = READERS[name]
    folder = shutil.copytree(GOLDEN / place, tmp_path / "a")
    expected, spec = load(folder)
    tensors = load_tensors(folder / weights)
    pickled(folder, pickle, weights)
    with pytest.raises(InputError, match="pickles can run code and are not read.*--allow-pickle"):
        load(folder)
    found, found_spec = load(folder, allow_pickle=True)
    assert tree.content_hash(found) == tree.content_hash(expected) and found_spec == spec
    (folder / pickle).write_bytes(b"not read")
    save_tensors(folder / weights, tensors)
    assert tree.content_hash(load(folder, allow_pickle=True)[0]) == tree.content_hash(expected)


def test_a_backbone_of_a_pickle_is_read_where_it_is_allowed(tmp_path):
    folder = tiny_backbone.write(tmp_path / "backbone")
    expected, spec = pretrained.load_backbone(folder)
    pickled(folder, "pytorch_model.bin", "model.safetensors")
    with pytest.raises(InputError, match="pytorch_model.bin, a pickle, is not read.*--allow-pickle"):
        pretrained.load_backbone(folder)
    found, found_spec = pretrained.load_backbone(folder, allow_pickle=True)
    assert tree.content_hash(found) == tree.content_hash(expected) and found_spec == spec
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="holds none of model.safetensors"):
        pretrained.load_backbone(folder, allow_pickle=True)


@pytest.mark.parametrize("has_safetensors", [True, False])
def test_the_hub_is_asked_for_a_pickle_only_where_it_is_needed(tmp_path, monkeypatch, has_safetensors):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **o: asked.append(o) or str(tmp_path))
    if has_safetensors:
        (tmp_path / "model.safetensors").touch()
    for allow_pickle in (False, True):
        files.folder("org/name", allow_pickle=allow_pickle)
    patterns = [pattern for options in asked for pattern in options["allow_patterns"]]
    assert patterns.count("pytorch_model.bin") == (0 if has_safetensors else 1)
    assert asked[-1]["revision"] == (None if has_safetensors else tmp_path.name)  # the commit that was just read
    assert patterns.count("model.safetensors") == 2


def link_out(folder, name):
    """Moves a file out of its folder and leaves a link."""
    outside = folder.parent / "outside" / name
    outside.parent.mkdir()
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"])
def test_a_link_out_of_an_adapter_is_refused(tmp_path, name):
    folder = shutil.copytree(GOLDEN / "adapters/rte", tmp_path / "a")
    if name.endswith(".bin"):
        pickled(folder, name, "adapter.safetensors")
    link_out(folder, name)
    with pytest.raises(InputError, match=f"{name} is a link that leads out of its folder") as error:
        adapterhub.load(folder, allow_pickle=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_link_out_of_a_backbone_is_refused(tmp_path, name):
    folder = tiny_backbone.write(tmp_path / "backbone")
    link_out(folder, name)
    with pytest.raises(InputError, match=f"{name} is a link that leads out of its folder"):
        files.folder(folder)


def test_links_inside_a_folder_and_to_a_folder_are_followed(tmp_path):
    folder = tiny_backbone.write(tmp_path / "backbone")
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    (folder / "logs").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    assert pretrained.load_backbone(tmp_path / "link")[1].hidden_size == 16


def cached(root, repository="models--x--y"):
    """A snapshot as the hub's cache keeps it: links to the blobs of its repository."""
    made = tiny_backbone.write(root / "made")
    snapshot, blobs = root / repository / "snapshots/0a1b", root / repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(made.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_a_snapshot_in_the_cache_of_the_hub_is_read(tmp_path):
    snapshot = cached(tmp_path)
    assert pretrained.load_backbone(snapshot)[1].hidden_size == 16
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(os.devnull)
    with pytest.raises(InputError, match="leads out of its folder"):
        pretrained.load_backbone(snapshot)


def test_a_repository_of_the_cache_may_lie_on_another_disk(tmp_path):
    snapshot = cached(tmp_path)
    (tmp_path / "models--x--y").rename(tmp_path / "disk")
    (tmp_path / "models--x--y").symlink_to("disk")
    assert pretrained.load_backbone(snapshot)[1].hidden_size == 16


def test_links_into_the_own_cache_are_followed_and_no_others(tmp_path, monkeypatch):
    """As older versions of ``huggingface-cli download --local-dir`` make them."""
    blobs = cached(tmp_path).parent.parent / "blobs"
    folder = tmp_path / "local"
    folder.mkdir()
    for path in (tmp_path / "models--x--y/snapshots/0a1b").iterdir():
        (folder / path.name).symlink_to(path.resolve())
    with pytest.raises(InputError, match="leads out of its folder"):
        pretrained.load_backbone(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert pretrained.load_backbone(folder)[1].hidden_size == 16
    (blobs.parent / "refs").write_text("no blob")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(blobs.parent / "refs")
    with pytest.raises(InputError, match="leads out of its folder"):
        pretrained.load_backbone(folder)


def test_what_is_not_read_may_be_anything(tmp_path):
    folder = tiny_backbone.write(tmp_path / "backbone")
    (folder / "notes.txt").symlink_to("/etc/hostname")
    (folder / "gone").symlink_to("nowhere")
    (folder / "old.model").mkdir()
    os.mkfifo(folder / "pipe")
    assert pretrained.load_backbone(folder)[1].hidden_size == 16


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/a.jinja", "tokenizer.1.0.json"])
def test_what_a_tokenizer_may_open_is_checked(tmp_path, name):
    folder, outside = tiny_backbone.write(tmp_path / "backbone"), tmp_path / "outside"
    outside.mkdir()
    (outside / "a.jinja").touch()
    if "/" in name:
        (folder / "additional_chat_templates").symlink_to(outside)
    else:
        (folder / name).symlink_to(outside / "a.jinja")
    with pytest.raises(InputError, match=f"{name} is a link that leads out"):
        files.folder(folder)
    (folder / name.split("/")[0]).unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=f"{name} is no plain file"):
        files.folder(folder)


def test_a_tokenizer_names_plain_files_only(tmp_path):
    folder = tiny_backbone.write(tmp_path / "backbone")
    for names in (["../tokenizer.4.json"], "tokenizer.4.json", [3]):
        (folder / "tokenizer_config.json").write_text(json.dumps({"fast_tokenizer_files": names}))
        with pytest.raises(InputError, match="fast_tokenizer_files must name files beside it"):
            tokens.load_tokenizer(folder)


def test_what_only_looks_like_a_snapshot_is_no_exception(tmp_path):
    with pytest.raises(InputError, match="leads out of its folder"):
        pretrained.load_backbone(cached(tmp_path, "other--x--y"))
    snapshot = cached(tmp_path / "b")
    other = tmp_path / "b/models--x--other/blobs/0"
    other.parent.mkdir(parents=True)
    other.touch()
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other)
    with pytest.raises(InputError, match="leads out of its folder"):
        pretrained.load_backbone(snapshot)


def test_links_in_a_circle_and_pipes_are_refused(tmp_path):
    (tmp_path / "config.json").symlink_to("config.json")
    with pytest.raises(InputError, match="leads out of its folder|does not exist|Too many levels of symbolic links"):
        pretrained.load_backbone(tmp_path)
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")  # reading it would wait for ever
    with pytest.raises(InputError, match="no plain file"):
        pretrained.load_backbone(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "a" * 256,
        "../x.safetensors",
        "/x.safetensors",
        "a/x.safetensors",
        "..\\x",
        "..",
        ".x",
        "",
        "C:x",
        "a\0b",
        "\x1b",
        3,
    ],
)
def test_an_index_names_plain_files_only(tmp_path, name):
    tiny_backbone.write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match="must map tensor names to files beside it"):
        pretrained.load_backbone(tmp_path)


def test_a_shard_that_is_a_link_out_is_refused(tmp_path):
    folder = tiny_backbone.write(tmp_path / "backbone")
    (folder / "model.safetensors").rename(folder / "part")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "part"}}))
    link_out(folder, "part")
    with pytest.raises(InputError, match="part is a link that leads out"):
        files.read_checkpoint(folder)


def test_an_index_names_no_more_files_than_a_model_has(tmp_path):
    content = {"weight_map": {str(number): f"x{number}" for number in range(1001)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="names 1001 files, expected at most 1000"):
        files.read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "merges.txt", "sentencepiece.bpe.model"])
def test_large_vocabularies_are_refused(tmp_path, name, monkeypatch):
    monkeypatch.setattr(files, "MAX_OTHERS", 9_000)
    (tmp_path / name).write_text(" " * 9_001)
    with pytest.raises(InputError, match=f"{name} has 9001 bytes, expected at most 9000"):
        files.folder(tmp_path)


def test_a_home_of_nobody_is_no_folder():
    with pytest.raises(InputError, match="~nosuchuser/x is not a folder"):
        files.folder("~nosuchuser/x")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_large_settings_are_refused(tmp_path, name, monkeypatch):
    monkeypatch.setattr(files, "MAX_SETTINGS", 9_000)
    tiny_backbone.write(tmp_path)
    assert (tmp_path / "tokenizer.json").stat().st_size > 9_000  # as large as its vocabulary asks for
    files.folder(tmp_path)
    (tmp_path / name).write_text(" " * 9_001)
    with pytest.raises(InputError, match=f"{name} has 9001 bytes, expected at most 9000"):
        files.folder(tmp_path)


def test_large_settings_of_an_adapter_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_SETTINGS", 100)
    with pytest.raises(InputError, match="adapter_config.json has more than 100 bytes"):
        adapterhub.load(GOLDEN / "adapters/rte")


def test_the_types_of_a_pickle_are_checked_as_those_of_safetensors(tmp_path):
    folder = shutil.copytree(GOLDEN / "adapters/rte", tmp_path / "a")
    tensors = {
        name: np.asarray(tensor, np.int32) for name, tensor in load_tensors(folder / "adapter.safetensors").items()
    }
    save_tensors(folder / "adapter.safetensors", tensors)
    with pytest.raises(InputError, match="is int32, expected floating-point numbers"):
        adapterhub.load(pickled(folder, "pytorch_adapter.bin", "adapter.safetensors"), allow_pickle=True)
