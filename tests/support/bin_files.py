"""``pytorch_*.bin`` files as ``torch.save`` writes them, put together by hand: pickles from their instructions."""

import io
import struct
import zipfile

import numpy as np

from scalearn_jax.io.tensors import load_tensors

KINDS = {
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "float64": "Double",
    "int32": "Int",
    "int64": "Long",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"


def text(value):
    """A text."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def whole(value):
    """A whole number."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def row(*items):
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def counts(*numbers):
    """A tuple of whole numbers."""
    return row(*map(whole, numbers))


def storage(key="0", size=6, kind="Float", *more):
    """A reference to a storage, by a persistent id."""
    return row(text("storage"), f"ctorch\n{kind}Storage\n".encode(), text(key), text("cpu"), whole(size), *more) + b"Q"


def tensor(key="0", size=6, sizes=(2, 3), strides=(3, 1), offset=0, kind="Float", *more):
    """A call that rebuilds a tensor."""
    shape = counts(*sizes), counts(*strides)
    return REBUILD + row(storage(key, size, kind), whole(offset), *shape, b"\x89", ORDERED + b")R", *more) + b"R"


def mapping(**values):
    """A dict."""
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def pickle(body):
    """A whole pickle."""
    return b"\x80\x02" + body + b"."


def archive(members, compression=zipfile.ZIP_STORED, root="archive/"):
    """A zip archive of ``{name: bytes}``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, data in members.items():
            made.writestr(root + name, data)
    return file.getvalue()


def saved(body, data=None, **members):
    """An archive with a pickle and one storage, 0, 1, ... 5 in float32."""
    data = np.arange(6, dtype=np.float32).tobytes() if data is None else data
    return archive({"data.pkl": pickle(body), "byteorder": b"little", "data/0": data} | members)


def legacy(body, keys=("0",), data=None, magic=MAGIC, size=6):
    """A file of the older layout."""
    data = np.arange(6, dtype=np.float32).tobytes() if data is None else data
    system = mapping(protocol_version=b"M\xe9\x03", little_endian=b"\x88")
    listed = b"](" + b"".join(map(text, keys)) + b"e"
    pickles = b"".join(map(pickle, (magic, b"M\xe9\x03", system, body, listed)))
    return pickles + struct.pack("<q", size) + data


def state(arrays, layout=saved):
    """A state dict, an ordered one with attributes as modules give it."""
    items = {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = [stride // array.itemsize for stride in array.strides]
        items[name] = tensor(str(key), array.size, array.shape, strides, 0, KINDS[str(array.dtype)])
    body = ORDERED + b")R(" + b"".join(text(name) + value for name, value in items.items()) + b"u"
    body += mapping(_metadata=ORDERED + b")R") + b"b"
    data = [array.tobytes() for array in arrays.values()]
    if layout is legacy:
        file = legacy(body, map(str, range(len(data))), b"", size=0)[:-8]
        sizes = (struct.pack("<q", array.size) for array in arrays.values())
        return file + b"".join(size + part for size, part in zip(sizes, data, strict=True))
    return archive({"data.pkl": pickle(body), "byteorder": b"little"} | {f"data/{i}": x for i, x in enumerate(data)})


def pickled(folder, name, weights):
    """Puts a pickle of some weights in the place of a folder's safetensors."""
    (folder / name).write_bytes(state(load_tensors(folder / weights)))
    for path in folder.glob("*.safetensors"):
        path.unlink()
    return folder
