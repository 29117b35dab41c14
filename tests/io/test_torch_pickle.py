"""``.bin`` files: what torch wrote is read bit for bit, and what anyone else wrote is refused and never run."""

import re
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalearn_jax.errors import InputError
from scalearn_jax.io import torch_pickle
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.io.torch_pickle import load_bin
from tests.support import bin_files as bins
from tests.support.bin_files import (
    ORDERED,
    REBUILD,
    counts,
    legacy,
    mapping,
    pickle,
    row,
    saved,
    storage,
    tensor,
    text,
    whole,
)

LAYOUTS = pytest.mark.parametrize("layout", [saved, legacy])
TYPES = [*map(np.dtype, "f2 f4 f8 i1 i2 i4 i8 u1 ?".split()), np.dtype(ml_dtypes.bfloat16)]
COPIES = {"pytorch_adapter.bin": "adapter", "pytorch_model_head.bin": "head"}


def read(tmp_path, data):
    (tmp_path / "a.bin").write_bytes(data)
    return load_bin(tmp_path / "a.bin")


def copies(path):
    """The tensors of the safetensors file beside a ``.bin`` file; one of a combiner holds all layers in one tensor."""
    if path.name in COPIES:
        return load_tensors(path.with_name(f"{COPIES[path.name]}.safetensors"))
    return LayerByLayer(load_tensors(path.with_name("transfer.safetensors")))


class LayerByLayer(dict):
    def __missing__(self, name):
        layer, leaf = re.fullmatch(r".*\.layer\.(\d+)\..*?((?:query|key|value)\.\w+|omega)", name).groups()
        return self[leaf][int(layer)]


def test_files_of_torch_equal_their_safetensors_copies(shared):
    paths = sorted((shared / "reference").rglob("pytorch_*.bin"))
    assert paths
    for path in paths:
        found, copy = load_bin(path), copies(path)
        assert path.name not in COPIES or found.keys() == copy.keys()
        for name, array in found.items():
            assert (array.dtype, array.shape) == (copy[name].dtype, copy[name].shape), path
            assert array.tobytes() == copy[name].tobytes(), path


@LAYOUTS
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_read(tmp_path, layout, dtype):
    arrays = {"a": np.arange(6).reshape(2, 3).astype(dtype), "b": np.ones((), dtype), "c": np.zeros((0, 4), dtype)}
    found = read(tmp_path, bins.state(arrays, layout))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == dtype and found[name].tobytes() == array.tobytes()
        assert found[name].shape == array.shape and found[name].flags.c_contiguous and found[name].flags.owndata


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}], ids=str)
def test_what_torch_saves_is_read(tmp_path, options):
    torch = pytest.importorskip("torch")
    types = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool".split()
    state = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in types}
    state |= {"cut": torch.randn(9, 9)[2:5, ::3].T, "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    state |= {"tied": state["float32"], "parameter": torch.nn.Parameter(torch.randn(3))}
    state |= torch.nn.BatchNorm1d(4).state_dict()
    torch.save(state, tmp_path / "a.bin", **options)
    found = load_bin(tmp_path / "a.bin")
    assert list(found) == list(state)
    for name, array in found.items():
        theirs = state[name].detach()
        assert array.shape == tuple(theirs.shape) and str(theirs.dtype) == f"torch.{array.dtype}"
        np.testing.assert_array_equal(np.float64(array), theirs.double().numpy())


@LAYOUTS
def test_views_are_copied_out(tmp_path, layout):
    views = {"t": tensor(sizes=(3, 2), strides=(1, 3)), "cut": tensor(sizes=(2,), strides=(2,), offset=1)}
    found = read(tmp_path, layout(mapping(**views, tied=views["t"])))
    np.testing.assert_array_equal(found["t"], np.arange(6, dtype=np.float32).reshape(2, 3).T)
    np.testing.assert_array_equal(found["cut"], np.float32([1, 3]))
    assert found["tied"] is found["t"]  # tied weights take no more memory than in the file


@LAYOUTS
def test_tied_weights_may_be_other_views_of_one_storage(tmp_path, layout):
    data, size = np.arange(2000, dtype=np.float32).tobytes(), {"size": 2000}
    views = {
        "a": tensor(sizes=(50, 40), strides=(40, 1), **size),
        "b": tensor(sizes=(40, 50), strides=(1, 40), **size),
        "c": tensor(sizes=(1990,), strides=(1,), **size),
    }
    found = read(tmp_path, layout(mapping(**views), data=data, **size if layout is legacy else {}))
    np.testing.assert_array_equal(found["b"], found["a"].T)
    np.testing.assert_array_equal(found["c"], found["a"].ravel()[:1990])


def test_folders_in_an_archive_count_for_nothing(tmp_path):
    data = np.arange(6, dtype=np.float32).tobytes()
    members = {"": b"", "data/": b"", "data.pkl": pickle(mapping(a=tensor())), "data/0": data}
    assert read(tmp_path, bins.archive(members))["a"][1, 2] == 5


def test_parameters_and_newer_pickles_are_read(tmp_path):
    parameter = b"ctorch._utils\n_rebuild_parameter\n" + row(tensor(), b"\x88", ORDERED + b")R") + b"R"
    np.testing.assert_array_equal(read(tmp_path, saved(mapping(a=parameter)))["a"].ravel(), np.arange(6))
    named = b"\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93\x94"
    body = b"}" + text("a") + named + tensor()[len(REBUILD) :] + b"s"
    assert read(tmp_path, saved(body))["a"].shape == (2, 3)


def test_the_other_byte_order_is_turned(tmp_path):
    data = saved(mapping(a=tensor()), np.arange(6, dtype=">f4").tobytes(), byteorder=b"big")
    np.testing.assert_array_equal(read(tmp_path, data)["a"].ravel(), np.arange(6))


CANARY = b"X\x05\x00\x00\x00touch"  # replaced by a command that makes a file
GETATTR = b"c__builtin__\ngetattr\n" + row(b"cos\nsystem\n", text("__call__")) + b"R"
DEEP = b")" + b"\x85" * 100_000  # ((((...)))): hashing it would overflow the C stack
WIDE = b")q\x01" + b"h\x01\x86q\x01" * 60  # 2^60 entries, were it walked through
STUB = REBUILD + mapping(__code__=whole(1)) + b"b"

PICKLES = {
    "a command": (b"cos\nsystem\n" + CANARY + b"\x85R", "asks for 'os.system'"),
    "a command of posix": (b"cposix\nsystem\n" + CANARY + b"\x85R", "'posix.system'"),
    "a command among tensors": (mapping(a=tensor(), b=b"cos\nsystem\n" + CANARY + b"\x85R"), "'os.system'"),
    "a stacked name": (b"\x8c\x02os\x8c\x06system\x93" + CANARY + b"\x85R", "'os.system'"),
    "eval": (b"cbuiltins\neval\n" + text("1") + b"\x85R", "'builtins.eval'"),
    "exec": (b"c__builtin__\nexec\n" + text("1") + b"\x85R", "'__builtin__.exec'"),
    "a chain of getattr": (GETATTR + CANARY + b"\x85R", "'__builtin__.getattr'"),
    "a dotted name": (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n", "_rebuild_tensor_v2.__globals__"),
    "a module of ours": (b"cscalearn_jax.io.torch_pickle\nos.system\n" + CANARY + b"\x85R", "torch_pickle"),
    "torch's own loader": (b"ctorch.storage\n_load_from_bytes\n" + text("x") + b"\x85R", "_load_from_bytes"),
    "a name of escape codes": (b"c\x1b[2J\n\x07\n", r"\\x1b"),
    "INST": (b"(" + CANARY + b"ios\nsystem\n", "instruction INST"),
    "OBJ": (b"(cos\nsystem\n" + CANARY + b"o", "'os.system'"),
    "OBJ of what is known": (b"(" + ORDERED + b"o", "instruction OBJ"),
    "NEWOBJ": (ORDERED + b")\x81", "instruction NEWOBJ"),
    "NEWOBJ_EX": (ORDERED + b")}\x92", "instruction NEWOBJ_EX"),
    "EXT1": (b"\x82\x01", "instruction EXT1"),
    "a text persistent id": (b"P0\n", "instruction PERSID"),
    "bytes": (b"B\xff\xff\xff\x7f", "instruction BINBYTES"),
    "a byte array": (b"\x96" + b"\xff" * 7 + b"\x7f", "instruction BYTEARRAY8"),
    "a long text": (b"X\xff\xff\xff\x7f", "damaged"),
    "a far memo slot": (b"}r\xff\xff\xff\xff0", "instruction POP"),
    "a memo slot that is empty": (b"j\xff\xff\xff\xff", "damaged .UnpicklingError"),
    "BUILD on a function": (STUB, "adds to a function as if it were a dict"),
    "BUILD on a type": (b"ctorch\nFloatStorage\n" + mapping(a=b"N") + b"b", "as if it were a dict"),
    "BUILD on a tensor": (tensor() + row(b"N", mapping(storage=b"N")) + b"b", "adds to a tensor"),
    "items of a function": (REBUILD + b"(" + text("__code__") + b"Nu", "as if it were a dict"),
    "items appended to a dict": (b"}Na", "damaged .AttributeError"),
    "a call of a type": (b"ctorch\nFloatStorage\n" + counts(9) + b"R", "not callable"),
    "a call of a text": (text("os.system") + CANARY + b"\x85R", "not callable"),
    "a call with a list": (ORDERED + b"]" + whole(1) + b"aR", "takes 0 positional"),
    "an OrderedDict of arguments": (ORDERED + row(row(row(text("a"), b"N"))) + b"R", "takes 0 positional"),
    "an OrderedDict in an OrderedDict": (ORDERED + row(ORDERED + row(whole(1)) + b"R") + b"R", "takes 0 positional"),
    "a tensor of nothing": (REBUILD + b")R", "damaged"),
    "a tensor of texts": (REBUILD + row(*[text("x")] * 6) + b"R", "makes a tensor of a str"),
    "a tensor of too much": (REBUILD + row(storage(), *[whole(0)] * 9) + b"R", "damaged"),
    "a parameter of a text": (
        mapping(a=b"ctorch._utils\n_rebuild_parameter\n" + row(*[text("a")] * 3) + b"R"),
        "entry 'a' is a str where a tensor is expected",
    ),
    "a huge storage": (mapping(a=tensor(size=2**62)), "is not in the file"),
    "a storage of less than nothing": (mapping(a=tensor(size=-1)), "not described"),
    "a larger storage": (mapping(a=tensor(size=7)), "asks for 28 bytes, the file has 24"),
    "a storage that is not there": (mapping(a=tensor("../0")), "the file has no bytes"),
    "a storage of two sizes": (mapping(a=tensor(), b=tensor(size=5, sizes=(5,), strides=(1,))), "or is two things"),
    "a storage of two types": (mapping(a=tensor(), b=tensor(kind="Int")), "or is two things"),
    "huge sizes": (mapping(a=tensor(sizes=(2**40, 2**40))), "beyond its storage"),
    "sizes that overflow": (mapping(a=tensor(sizes=(2**63, 3))), "no counts"),
    "sizes that overflow to nothing": (mapping(a=tensor(sizes=(0, 2**62))), "damaged"),
    "sizes beyond the storage": (mapping(a=tensor(sizes=(7,), strides=(1,))), "beyond its storage of 6 entries"),
    "negative sizes": (mapping(a=tensor(sizes=(-2, -3))), "no counts"),
    "a negative offset": (mapping(a=tensor(offset=-1)), "no counts"),
    "an offset beyond the storage": (mapping(a=tensor(offset=1)), "beyond its storage"),
    "an empty tensor far away": (mapping(a=tensor(sizes=(0,), strides=(1,), offset=7)), "beyond its storage"),
    "negative strides": (mapping(a=tensor(strides=(-3, 1), offset=3)), "no counts"),
    "strides beyond the storage": (mapping(a=tensor(strides=(2**62, 1))), "beyond its storage"),
    "strides of another number": (mapping(a=tensor(strides=(1,))), "no counts"),
    "true as a size": (REBUILD + row(storage(), whole(0), row(b"\x88"), counts(1), b"\x89", b"N") + b"R", "no counts"),
    "a storage spread out": (mapping(a=tensor(sizes=(2**40, 6), strides=(0, 1))), "its tensors have"),
    "many views of a storage": (
        mapping(**{f"n{i}": tensor(sizes=(400 + i, 1), strides=(0, 1)) for i in range(200)}),
        "its tensors have",
    ),
    "many axes": (mapping(a=tensor(sizes=[1] * 33, strides=[1] * 33)), "no counts"),
    "a conjugate view": (mapping(a=tensor(*("0", 6, (2, 3), (3, 1), 0, "Float"), mapping(conj=b"\x88"))), "conjugate"),
    "a persistent id that is a text": (text("storage") + b"Q", "its storage is a str"),
    "a persistent id that is short": (row(text("storage")) + b"Q", "five entries"),
    "a persistent id of a view": (storage("0", 6, "Float", row(text("1"), whole(0), whole(6))), "five entries"),
    "a persistent id of numbers": (counts(1, 2, 3, 4, 5) + b"Q", "not described"),
    "a list": (b"]", "holds a list where a dict is expected"),
    "a tensor alone": (tensor(), "holds a tensor"),
    "nothing": (b"N", "holds a nonetype"),
    "a dict in the dict": (mapping(state_dict=mapping(a=tensor())), "entry 'state_dict' is a dict"),
    "a number": (mapping(epoch=whole(3)), "entry 'epoch' is a int"),
    "a number as a key": (b"}" + whole(1) + tensor() + b"s", "a int is a key"),
    "a tuple without end as a key": (b"}" + DEEP + b"Ns", "a tuple is a key"),
    "a tuple without bound as a key": (b"}" + WIDE + b"Ns", "a tuple is a key"),
    "a key without a value": (b"}(" + text("a") + b"u", "damaged"),
    "a list in itself": (b"]q\x01(h\x01e0", "instruction POP"),
    "a dict in itself": (b"}q\x01(" + text("a") + b"h\x01u", "entry 'a' is a dict"),
    "an empty stack": (b"R", "IndexError"),
    "items from below a mark": (b"}(s", "IndexError"),
    "no mark": (b"t", "IndexError"),
    "two results": (b"}}", "damaged"),
}


NO_VIEWS = "its storages are not those that its tensors view"
IN_LEGACY = {  # which finds some things in another order
    "a larger storage": "asks for 28 bytes, the file has fewer",
    **dict.fromkeys(
        ("a storage that is not there", "a parameter of a text", "a list", "nothing", "a number", "a dict in itself"),
        NO_VIEWS,
    ),
}


@pytest.mark.parametrize("name", PICKLES)
@LAYOUTS
def test_what_is_no_state_dict_is_refused_and_not_run(tmp_path, name, layout):
    body, message = PICKLES[name]
    canary = tmp_path / "canary"
    body = body.replace(CANARY, text(f"touch {canary}"))
    if layout is legacy:
        message = IN_LEGACY.get(name, message)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, layout(body))
    assert "\n" not in str(error.value) and str(error.value).isprintable() and "a.bin is" in str(error.value)
    assert len(str(error.value)) < 1000 and not canary.exists()
    assert read(tmp_path, layout(mapping(a=tensor())))["a"][1, 2] == 5  # nothing is left of it


GOOD = saved(mapping(a=tensor()))
PKL = pickle(mapping(a=tensor()))
DATA = np.arange(6, dtype=np.float32).tobytes()
LEGACY = legacy(mapping(a=tensor()))

FILES = {
    "nothing": (b"", "damaged"),
    "a text": (b"the weights\n", "damaged"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS, not the file; .*git lfs pull"),
    "a plain pickle": (pickle(b"cos\nsystem\n" + CANARY + b"\x85R"), "'os.system'"),
    "another magic number": (legacy(mapping(a=tensor()), magic=whole(7)), "neither a zip archive nor"),
    "an archive cut short": (GOOD[:-30], "damaged"),
    "half an archive": (GOOD[: len(GOOD) // 2], "damaged"),
    "an older file cut short": (LEGACY[:-1], "asks for 24 bytes"),
    "an older file without numbers": (LEGACY[:-32], "damaged"),
    "an older file of another size": (legacy(mapping(a=tensor()), size=5), "storage '0' asks for"),
    "an older file with keys twice": (legacy(mapping(a=tensor()), keys=("0", "0")), "not those"),
    "an older file without keys": (legacy(mapping(a=tensor()), keys=()), "not those"),
    "big-endian": (LEGACY.replace(text("little_endian") + b"\x88", text("little_endian") + b"\x89"), "little-endian"),
    "a compressed archive": (
        bins.archive({"data.pkl": PKL, "data/0": bytes(10**6)}, zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "a name with dots": (bins.archive({"data.pkl": PKL, "../../x": b"", "data/0": DATA}), "holds the name"),
    "an absolute name": (bins.archive({"data.pkl": PKL, "data/0": DATA}, root="/a/"), "holds the name"),
    "a backslash": (bins.archive({"data.pkl": PKL, "data\\0": DATA}), "holds the name"),
    "two folders": (bins.archive({"a/data.pkl": PKL, "b/data/0": DATA}, root=""), "more than one folder"),
    "no pickle": (bins.archive({"data/0": DATA}), "holds no data.pkl"),
    "a changed byte of a storage": (GOOD.replace(DATA, DATA[:-1] + b"?"), "BadZipFile"),
    "a storage that is too short": (saved(mapping(a=tensor()), DATA[:-1]), "the file has 23 bytes"),
    "a storage that is too long": (saved(mapping(a=tensor()), DATA + b"?"), "the file has 25 bytes"),
    "a member that claims more": (GOOD.replace(struct.pack("<II", 24, 24), struct.pack("<II", 2**31, 2**31)), "a.bin"),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_refused(tmp_path, name):
    data, message = FILES[name]
    canary = tmp_path / "canary"
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, data.replace(CANARY, text(f"touch {canary}")))
    assert "\n" not in str(error.value) and str(error.value).isprintable() and not canary.exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as file:
        for data in (DATA, DATA[::-1]):
            file.writestr("archive/data/0", data)
        file.writestr("archive/data.pkl", PKL)
    with pytest.raises(InputError, match="a name twice"):
        load_bin(tmp_path / "a.bin")


def test_large_pickles_and_tables_of_contents_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_pickle, "_MAX_PICKLE", 4000)
    assert read(tmp_path, GOOD)
    with pytest.raises(InputError, match="at most 4000 bytes"):
        read(tmp_path, saved(mapping(a=tensor()) + b"N" * 4000))
    with pytest.raises(InputError, match="too many members"):
        read(tmp_path, bins.archive({"data.pkl": PKL} | {f"data/{i}": b"" for i in range(90)}))
    monkeypatch.setattr(torch_pickle, "_MAX_INSTRUCTIONS", 100)
    with pytest.raises(InputError, match="more than 100 instructions"):
        read(tmp_path, saved(b"]" * 200))


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.bin"):
        with pytest.raises(InputError, match="does not exist"):
            load_bin(path)


VALID = [
    bins.state({"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.int64)}, layout) for layout in (saved, legacy)
]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(VALID), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_give_an_input_error_or_arrays(tmp_path_factory, data, changes):
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    path = tmp_path_factory.getbasetemp() / "changed.bin"
    path.write_bytes(changed)
    try:
        assert all(isinstance(array, np.ndarray) for array in load_bin(path).values())
    except InputError as error:
        assert "\n" not in str(error)
