import json
import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalearn_jax.errors import InputError
from scalearn_jax.io.files import write_json
from scalearn_jax.io.tensors import load_tensors, load_tree, save_tensors, save_tree, tensor_names


def test_a_transposed_view_is_read_back_as_it_was(tmp_path):
    kernel = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    save_tensors(tmp_path / "a.safetensors", {"view": kernel.T, "cut": kernel[:, 1:], "scalar": np.float32(3)})
    found = load_tensors(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(found["view"], kernel.T)
    np.testing.assert_array_equal(found["cut"], kernel[:, 1:])
    assert found["scalar"].shape == () and found["scalar"] == 3


def test_a_tree_comes_back_with_its_paths(tmp_path):
    params = {"transfer": {"omega": jnp.ones((2, 3)), "gap": None}, "heads": {"rte": {"out": {"bias": jnp.zeros(2)}}}}
    save_tree(tmp_path / "a.safetensors", params)
    found = load_tree(tmp_path / "a.safetensors")
    assert found.keys() == {"transfer", "heads"} and found["transfer"].keys() == {"omega"}
    np.testing.assert_array_equal(found["heads"]["rte"]["out"]["bias"], np.zeros(2))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


DAMAGES = [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"", lambda data: b"#" * 99]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"omega": np.ones(3, np.float32)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="a.safetensors is not a complete safetensors file"):
        load_tensors(path)
    with pytest.raises(InputError, match="does not exist"):
        load_tensors(tmp_path / "b.safetensors")


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"omega": np.ones(3, np.float32)})
    with pytest.raises(Exception):  # noqa: B017 - whatever the library raises for an array of objects
        save_tensors(path, {"omega": np.array([object()])})
    np.testing.assert_array_equal(load_tensors(path)["omega"], np.ones(3))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_have_the_mode_of_every_other_file(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        save_tensors(tmp_path / "a.safetensors", {"omega": np.ones(3, np.float32)})
        (tmp_path / "a.safetensors").chmod(0o400)  # and not that of one it replaces
        save_tensors(tmp_path / "a.safetensors", {"omega": np.zeros(3, np.float32)})
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "a.safetensors": mode,
        "a.json": mode,
    }


def written(header, data=b"", length=None):
    """A safetensors file by hand."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape, offsets, dtype="U8"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS = {
    "a type that numpy lacks": written({"a": entry([4], [0, 4], "F8_E4M3")}, b"1234"),
    "half a byte an entry": written({"a": entry([4], [0, 2], "F4")}, b"12"),
    "an unknown type": written({"a": entry([4], [0, 4], "X9")}, b"1234"),
    "more than the file holds": written({"a": entry([4], [0, 16], "F32")}, b"1234"),
    "overlapping tensors": written({"a": entry([4], [0, 4]), "b": entry([4], [2, 6])}, b"123456"),
    "a giant header": written(b"{}", length=2**60),
    "a header beyond the file": written(b"{}", length=90_000_000),
    "negative sizes": written({"a": entry([-4], [0, 4])}, b"1234"),
    "sizes that overflow": written({"a": entry([2**63, 4], [0, 4])}, b"1234"),
    "nothing, many times": written({"a": entry([0, 2**63 - 1, 7], [0, 0], "F32")}),
    "too many axes": written({"a": entry([1] * 70, [0, 1])}, b"1"),
    "a list": written(b"[]"),
    "lists in lists": written(b"[" * 100_000),
    "no text": written(b"\xff\xfe"),
    "an escape code": written({"\x1b[2J": entry([4], [0, 9])}, b"1234"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie_are_refused(tmp_path, name):
    (tmp_path / "a.safetensors").write_bytes(HEADERS[name])
    with pytest.raises(InputError, match="a.safetensors is not a complete safetensors file") as error:
        load_tensors(tmp_path / "a.safetensors")
    assert "\n" not in str(error.value) and str(error.value).isprintable()


VALID = written({"a": entry([2, 3], [0, 24], "F32"), "b": entry([2], [24, 28], "BF16")}, bytes(28))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_give_an_input_error_or_arrays(tmp_path_factory, changes):
    changed = bytearray(VALID)
    for place, value in changes:
        changed[place % len(changed)] = value
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(changed)
    for read in (load_tensors, tensor_names):
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error)
