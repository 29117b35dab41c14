"""A check for what must not leave this machine with shared files: tokens, passwords, and places on it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalearn_jax.errors import InputError, masked, shortened
from scalearn_jax.io.files import MAX_BYTES, read_json, read_text
from scalearn_jax.runs.provenance import PLACE

_DESCRIBED = ("task", "spec")  # parts of a JSON file with texts of the data's, in which a slash is no path


def check_leaks(files: Sequence[Path], texts: Mapping[str, str]) -> None:
    """Checks that no file, and no text to be written (by its name), holds a token, a password or a place here."""
    from huggingface_hub import get_token

    token = get_token()
    for where, text in {**texts, **{str(path): text_of(path) for path in files}}.items():
        if masked(text) != text or (token and token in text):
            raise InputError(f"{where} holds a token or password, which must not be uploaded; take it out.")
    for path in files:
        if path.suffix == ".json" and (place := next(_places(read_json(path)), None)):
            fix = "edit the file"
            if path.name == "run.json":
                fix = f"`scalearn export {path.parent} --format native --out DIR` makes a folder without"
            raise InputError(f"{path} names a place on this machine, {shortened(place)!r}, for all to see; {fix}.")


def text_of(path: Path) -> str:
    """Reads the text of a file; of a file of weights its head, of a picture nothing."""
    if path.suffix == ".safetensors":
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            return stream.read(min(length, MAX_BYTES)).decode("utf-8", "replace")
    try:
        return "" if path.suffix == ".png" else read_text(path, MAX_BYTES)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text; restore or remove it.") from error


def _places(value: Any) -> Iterator[str]:
    """All absolute paths in the texts of a JSON file."""
    if isinstance(value, str):
        yield from (match[0] for match in PLACE.finditer(value))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _places(inner) if name not in _DESCRIBED else ()
    elif isinstance(value, list):
        for inner in value:
            yield from _places(inner)
