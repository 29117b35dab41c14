import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax.convert.safetensors_io import load_tensors, load_tree, save_tensors, save_tree
from scalearn_jax.errors import InputError


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
