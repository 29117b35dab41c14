"""``fetched.json``: what `scalearn fetch` brought from the hub, with the size and hash of every file."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from scalearn_jax.config.schema import check_values, problems
from scalearn_jax.errors import InputError
from scalearn_jax.io.files import escapes_folder, read_json, write_json
from scalearn_jax.io.hub import is_commit

FILE, FORMAT = "fetched.json", 1


@dataclass(frozen=True)
class Entry:
    """What the record says of one backbone, data set or adapter.

    Attributes:
      repo: its id.
      commit: what was read of it.
      kind: ``"model"`` or ``"dataset"``.
      files: name -> ``fingerprint``.
    """

    repo: str
    commit: str
    kind: Literal["model", "dataset"]
    files: dict[str, Any]


def fingerprint(path: Path) -> list[Any]:
    """Reads the size and the sha256 of a file."""
    with path.open("rb") as stream:
        return [path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()]


def write(path: Path, entries: Mapping[str, Entry]) -> None:
    """Writes a record; ``entries`` are by their place in a folder."""
    write_json(path, {"format": FORMAT, "fetched": {place: asdict(entry) for place, entry in sorted(entries.items())}})


def read(path: Path) -> dict[str, Entry]:
    """Reads what ``write`` wrote.

    Raises:
      InputError: missing or damaged.
    """
    content = read_json(path)
    if content.get("format") != FORMAT or not isinstance(content.get("fetched"), dict):
        raise InputError(f"{path} is no record of `scalearn fetch`, or of another version; fetch again.")
    entries = {}
    for place, entry in content["fetched"].items():
        values, found = check_values(Entry, entry)
        if found or len(values) < len(fields(Entry)):
            raise problems(f"{path}, {place}", found or ["keys are missing"])
        entries[place] = Entry(**values)
        if any(map(escapes_folder, (place, *entries[place].files))) or not is_commit(entries[place].commit):
            raise InputError(f"{path}, {place}: it names files elsewhere; fetch again.")
    return entries


def differences(place: str, folder: Path, files: Mapping[str, Any], *, whole: bool) -> Iterator[str]:
    """Names what of a folder is not as recorded; new files only where the ``whole`` folder is ours."""
    for name, recorded in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{place}/{name} is missing"
        elif (now := fingerprint(path)) != recorded:
            yield f"{place}/{name} has other content ({now[0]} bytes, sha256 {now[1][:12]})"
    if whole and folder.is_dir():
        found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())
        yield from (f"{place}/{name} is new" for name in found if name not in files)
