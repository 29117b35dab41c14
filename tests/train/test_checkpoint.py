"""CheckpointStore: whole or not at all, no flipped bit goes unnoticed, and the step before is taken instead."""

import itertools
import shutil
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax.errors import InputError
from scalearn_jax.train import checkpoint
from scalearn_jax.train.checkpoint_store import CheckpointStore

ARRAYS = {
    "state/omega": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "state/step": np.array([7], np.int32),
    "state/half": np.arange(4).astype(jnp.bfloat16),
    "state/key": np.array([[1, 2**32 - 1]], np.uint32),
    "state/never": np.array(-np.inf, np.float32),
}
META = {"logs": ["a line\n"], "best": -0.5}


@pytest.fixture
def store(tmp_path):
    with_folder = tmp_path / "run"
    with_folder.mkdir()
    return CheckpointStore(with_folder / "checkpoints", keep=2)


def save(store, *steps):
    for step in steps:
        store.save(step, ARRAYS | {"state/step": np.array([step], np.int32)}, META)
        store.flush()


def names(store):
    return [path.name for path in store.steps()]


def test_what_is_read_is_what_was_written(store):
    save(store, 7)
    saved = store.restore(pytest.fail)
    assert (saved.step, saved.meta) == (7, META)
    chex.assert_trees_all_equal(saved.arrays, ARRAYS)
    assert checkpoint.describe(saved.arrays) == checkpoint.describe(ARRAYS)


def test_a_damaged_step_that_was_cleared_is_not_looked_for(store):
    save(store, 4, 8)
    (store.steps()[0] / "manifest.json").unlink()
    assert store.restore(lambda text: None).step == 4  # 8 is passed over
    store.clear()
    assert store.restore(pytest.fail) is None
    store.begin()
    save(store, 2)
    assert store.restore(pytest.fail).step == 2


def test_any_tree_is_named_and_comes_back():
    values = {"key": jax.random.split(jax.random.key(3), 2), "pair": (jnp.ones(2), {"deep": np.zeros((), np.int32)})}
    arrays = checkpoint.to_host(values)
    assert sorted(arrays) == ["key", "pair/0", "pair/1/deep"]
    back = checkpoint.from_host(values, arrays)
    chex.assert_trees_all_equal(back["pair"], values["pair"])
    assert (jax.random.key_data(back["key"]) == jax.random.key_data(values["key"])).all()
    assert back["key"].dtype == values["key"].dtype


def test_the_last_ones_are_kept(store):
    save(store, 1, 2, 10, 3, 3)
    assert names(store) == ["10.0", "3.1"]
    assert not list(store.folder.glob(".*"))


def test_none_is_none(store):
    assert store.restore(pytest.fail) is None


def test_a_step_that_waits_gives_way_to_a_newer_one(store, monkeypatch):
    written, write, busy = [], checkpoint.write, threading.Event()

    def slow(folder, step, *content):
        written.append(step)
        busy.set()
        time.sleep(0.3)
        write(folder, step, *content)

    monkeypatch.setattr(checkpoint, "write", slow)
    store.save(1, ARRAYS, META)
    busy.wait()
    for step in range(2, 30):
        store.save(step, ARRAYS, META)
    store.flush()
    assert written == [1, 29] and names(store) == ["29.0", "1.0"]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_step_never_takes_the_place_of_a_whole_one(store, keep):
    save(store, 4, 8)
    truncate(store.folder / "8.0" / "meta.json")
    later, said = CheckpointStore(store.folder, keep), []
    assert later.restore(said.append).step == 4 and len(said) == 1
    assert names(later) == ["8.0", "4.0"]  # until it is sure that the run goes on
    later.begin()
    save(later, 5)
    assert names(later) == ["5.0", "4.0"][:keep] and (store.folder / "damaged-8.0").is_dir()
    assert later.restore(pytest.fail).step == 5


def test_what_cannot_be_read_is_damaged(store, monkeypatch):
    save(store, 4, 8)
    verify = checkpoint._verify

    def fails(folder):
        if folder.name == "8.0":
            raise OSError(5, "Input/output error")
        return verify(folder)

    monkeypatch.setattr(checkpoint, "_verify", fails)
    said = []
    assert store.restore(said.append).step == 4 and "Input/output error" in said[0]


def test_a_long_log_is_no_obstacle(store):
    meta = {"logs": ["x" * 70_000_000]}
    store.save(4, ARRAYS, meta)
    store.flush()
    assert store.restore(pytest.fail).meta == meta


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def delete(path):
    path.unlink()


def test_damage_to_any_file_is_noticed_and_the_step_before_is_taken(store, tmp_path):
    save(store, 4, 8)
    files = sorted(path.relative_to(store.folder) for path in (store.folder / "8.0").rglob("*") if path.is_file())
    count = 0
    for name in files:
        for harm in (flip, truncate, delete):
            folder = tmp_path / f"{count}" / "checkpoints"
            shutil.copytree(store.folder, folder)
            harm(folder / name)
            said = []
            assert CheckpointStore(folder).restore(said.append).step == 4, (name, harm.__name__)
            inside = str(name).removeprefix("8.0/")
            assert len(said) == 1 and "going on from step 4" in said[0] and "8.0" in said[0] and inside in said[0]
            count += 1
    print(f"{count} damaged files, each noticed")
    assert count == 3 * len(files) >= 15


@pytest.mark.slow
def test_every_bit_of_a_manifest_counts(store):
    save(store, 4)
    path = store.folder / "4.0" / "manifest.json"
    whole = path.read_bytes()
    for place, bit in itertools.product(range(len(whole)), (1, 2, 4, 8, 16, 32, 64, 128)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        with pytest.raises((checkpoint.Damaged, UnicodeDecodeError)):
            checkpoint._verify(path.parent)


def test_no_new_beginning_on_top_of_steps_that_cannot_be_read(store):
    save(store, 4, 8)
    for path in store.steps():
        truncate(path / "meta.json")
    with pytest.raises(InputError, match=r"none of the checkpoints .*8.0: meta.json .*; 4.0: meta.json .*--restart"):
        store.restore(pytest.fail)
    shutil.rmtree(store.folder / "4.0")
    (store.folder / "4.0").mkdir()  # a step of which nothing is left
    with pytest.raises(InputError, match="manifest.json is missing"):
        store.restore(pytest.fail)


def test_halves_are_no_steps(store):
    save(store, 4)
    shutil.copytree(store.folder / "4.0", store.folder / ".9.0")
    assert store.restore(pytest.fail).step == 4
    store.begin()
    assert not (store.folder / ".9.0").exists()


def test_another_format_is_said(store):
    save(store, 4)
    meta = store.folder / "4.0" / "meta.json"
    meta.write_text(meta.read_text().replace('"format": 1', '"format": 9'))
    checkpoint.seal(meta.parent)
    with pytest.raises(InputError, match="has format 9, this version reads 1"):
        store.restore(pytest.fail)


def test_a_full_disk_leaves_the_step_before(store, monkeypatch):
    save(store, 4)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    store.save(8, ARRAYS, META)
    with pytest.raises(InputError, match="step 8 .*No space left on device; the last whole one is 4.0"):
        store.flush()
    monkeypatch.undo()
    assert names(store) == ["4.0"] and not list(store.folder.glob(".*"))
    assert CheckpointStore(store.folder).restore(pytest.fail).step == 4
    with pytest.raises(InputError, match="step 8"):  # told again, until it is to be forgotten
        store.save(9, ARRAYS, META)
    store.forget()
    save(store, 10)
    assert names(store) == ["10.0", "4.0"]


def test_checkpoints_deleted_under_way_do_not_stop_a_run_but_a_lost_folder_does(store):
    save(store, 4)
    shutil.rmtree(store.folder)
    save(store, 8)
    assert names(store) == ["8.0"]
    shutil.rmtree(store.folder.parent)
    with pytest.raises(InputError, match="run has disappeared while the run went on"):
        store.save(9, ARRAYS, META)
