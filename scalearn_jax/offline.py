"""``scalearn fetch``: backbones, data and adapters of the hub, for jobs and machines without a network.

What is fetched stays in the hub's own cache, where the same commands find it again with ``HF_HUB_OFFLINE=1``; or it is
copied to a folder, to be carried to another machine:

    OUT/backbones/OWNER-NAME/   config, weights and tokenizer, for --backbone
    OUT/data/TASK/              a file a split, for --data-dir OUT/data
    OUT/sources/OWNER-NAME/     an adapter or a run, for --sources
    OUT/fetched.json            ids, commits, sizes and hashes of all files

Of what stays in the cache, ``fetched.json`` lies in this package's own cache folder.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from scalearn_jax import tables
from scalearn_jax.caches import cache_folder
from scalearn_jax.config import FetchConfig
from scalearn_jax.convert import files as checkpoints
from scalearn_jax.convert import hub
from scalearn_jax.convert.snapshot import in_cache, split_revision
from scalearn_jax.data import splits, tasks
from scalearn_jax.data.tables import SUFFIXES, concatenate, read_table
from scalearn_jax.errors import InputError
from scalearn_jax.files import read_json, safe_name, write_json, write_text
from scalearn_jax.folders import new_folder
from scalearn_jax.memory import words
from scalearn_jax.schema import check_values, problems

RECORD, FORMAT = "fetched.json", 1


class Fetched(NamedTuple):
    """One backbone, data set or adapter in the hub's cache.

    Attributes:
      repo: its id.
      commit: what was read of it.
      kind: ``"model"`` or ``"dataset"``.
      cached: its folder in the cache.
      files: name in a plain folder -> the files in the cache that it is made of; several are shards of one table.
    """

    repo: str
    commit: str
    kind: str
    cached: Path
    files: Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class _Entry:
    """What ``fetched.json`` says of one of them; ``files`` are name -> [size, sha256]."""

    repo: str
    commit: str
    kind: str
    files: dict[str, Any]


def fetch(config: FetchConfig) -> str:
    """Fetches what a config names, and records it.

    Args:
      config: see ``FetchConfig``.

    Returns:
      A table of what was fetched, and the command that uses it.

    Raises:
      InputError: something is not on the hub within reach; of a new folder nothing is then left.

    Example:
      >>> print(fetch(FetchConfig(backbone=("FacebookAI/roberta-base",), suite="glue")))  # doctest: +SKIP
    """
    if config.out is None:
        fetched = _all(config)
        entries = {place: _entry(one, _in_cache(one)) for place, one in fetched.items()}
        path = _record(config)
        _write_record(path, (_read_record(path) if path.exists() else {}) | entries)
        return f"{_table(entries)}\n{_next_from_cache(config)}"
    with new_folder(config.out) as out:
        entries = {}
        for place, one in _all(config).items():
            _copy(one, out / place)
            entries[place] = _entry(one, {name: out / place / name for name in one.files})
        _write_record(out / RECORD, entries)
    return f"{_table(entries)}\n{_next_from_folder(config.out, entries)}"


def check(config: FetchConfig) -> str:
    """Compares what is there with what an earlier fetch recorded.

    Args:
      config: with the ``out`` of that fetch.

    Returns:
      What was compared, in one line.

    Raises:
      InputError: no record, or files that are missing, changed or new: all of them are named.
    """
    path = _record(config)
    entries = _read_record(path)
    found = []
    for place, entry in entries.items():
        folder = path.parent / place if config.out else in_cache(entry.repo, entry.commit, entry.kind)
        found += _differences(place, folder, entry.files, whole=config.out is not None)
    if found:
        raise problems(f"{path}: not as fetched", found)
    return f"all as fetched: {sum(len(entry.files) for entry in entries.values())} files of {len(entries)} folders"


def _all(config: FetchConfig) -> dict[str, Fetched]:
    """Fetches all into the hub's cache; place in a folder -> what belongs there."""
    fetched = {}
    for name in config.backbone:
        fetched[f"backbones/{safe_name(split_revision(name)[0])}"] = _backbone(name, config.allow_pickle)
    names = (*config.tasks, *(tasks.SUITES[config.suite] if config.suite else ()))
    for task in map(tasks.get, names):
        fetched.setdefault(f"data/{task.folder or task.name}", _data(task))
    for name in config.sources:
        fetched[f"sources/{safe_name(split_revision(name)[0])}"] = _source(name, config.allow_pickle)
    return fetched


def _backbone(name: str, allow_pickle: bool) -> Fetched:
    _check_remote("--backbone", name)
    where = checkpoints.folder(name, allow_pickle=allow_pickle)
    known = {path for pattern in (*checkpoints.FILES, checkpoints.PICKLE) for path in where.glob(pattern)}
    return _model(name, where, sorted(known))


def _source(name: str, allow_pickle: bool) -> Fetched:
    _check_remote("--sources", name)
    where, _ = hub.source_folder(name, flag="--sources", allow_pickle=allow_pickle)
    return _model(name, where, hub.shareable(where))


def _model(name: str, where: Path, files: Sequence[Path]) -> Fetched:
    return Fetched(split_revision(name)[0], where.name, "model", where, {path.name: [path] for path in files})


def _check_remote(flag: str, name: str) -> None:
    if Path(name).exists():
        raise InputError(f"{flag} {name} is here already; expected the id of what is to be fetched, OWNER/NAME.")


def _data(task: tasks.Task) -> Fetched:
    cached = splits.hub_folder(task)
    files = {f"{split}{_suffix(paths)}": paths for split, paths in splits.hub_files(task, cached).items()}
    return Fetched(task.hub.repo, cached.name, "dataset", cached, files)


def _suffix(paths: Sequence[Path]) -> str:
    """How the one file of a split ends; shards are joined to JSON lines."""
    [suffix, *_] = [suffix for suffix in SUFFIXES if paths[0].name.endswith(suffix)] or [paths[0].suffix]
    return suffix if len(paths) == 1 else ".jsonl"


def _in_cache(one: Fetched) -> dict[str, Path]:
    return {str(path.relative_to(one.cached)): path for paths in one.files.values() for path in paths}


def _copy(one: Fetched, folder: Path) -> None:
    """Writes the files of a plain folder, links followed and shards joined."""
    folder.mkdir(parents=True)
    for name, paths in one.files.items():
        if len(paths) == 1:
            shutil.copyfile(paths[0], folder / name)
            continue
        table = concatenate([read_table(path) for path in paths], str(paths[0]))
        rows = (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
        write_text(folder / name, "".join(json.dumps(row) + "\n" for row in rows))


def _entry(one: Fetched, files: Mapping[str, Path]) -> _Entry:
    return _Entry(one.repo, one.commit, one.kind, {name: _fingerprint(path) for name, path in files.items()})


def _fingerprint(path: Path) -> list[Any]:
    with path.open("rb") as stream:
        return [path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()]


def _record(config: FetchConfig) -> Path:
    """Where the record of a fetch lies."""
    folder = Path(config.out) if config.out is not None else cache_folder("fetched")
    if folder is None:
        raise InputError("the cache folder cannot be used, see `scalearn doctor`; pass --out, or set SCALEARN_CACHE.")
    return folder / RECORD


def _write_record(path: Path, entries: Mapping[str, _Entry]) -> None:
    write_json(path, {"format": FORMAT, "fetched": {place: asdict(entry) for place, entry in sorted(entries.items())}})


def _read_record(path: Path) -> dict[str, _Entry]:
    content = read_json(path)
    if content.get("format") != FORMAT or not isinstance(content.get("fetched"), dict):
        raise InputError(f"{path} is no record of `scalearn fetch`, or of another version; fetch again.")
    entries = {}
    for place, entry in content["fetched"].items():
        values, found = check_values(_Entry, entry)
        if found or len(values) < len(fields(_Entry)):
            raise problems(f"{path}, {place}", found or ["keys are missing"])
        entries[place] = _Entry(**values)
    return entries


def _differences(place: str, folder: Path, files: Mapping[str, Any], *, whole: bool) -> Iterator[str]:
    """Names what of a folder is not as recorded; new files only where the ``whole`` folder is ours."""
    for name, recorded in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{place}/{name} is missing"
        elif (now := _fingerprint(path)) != recorded:
            yield f"{place}/{name} has other content ({now[0]} bytes, sha256 {now[1][:12]})"
    if whole and folder.is_dir():
        yield from (f"{place}/{path.name} is new" for path in sorted(folder.iterdir()) if path.name not in files)


def _table(entries: Mapping[str, _Entry]) -> str:
    rows = [
        [
            place,
            entry.repo,
            entry.commit[:12],
            str(len(entry.files)),
            words(sum(size for size, _ in entry.files.values())),
        ]
        for place, entry in entries.items()
    ]
    return tables.plain(["fetched", "from", "commit", "files", "size"], rows) + "\n"


def _next_from_folder(out: str, entries: Mapping[str, _Entry]) -> str:
    """The flags that use a folder."""
    places = {
        kind: [f"{out}/{place}" for place in entries if place.startswith(kind)] for kind in ("backbones", "sources")
    }
    flags = [f"--backbone {place}" for place in places["backbones"][:1]]
    flags += [f"--data-dir {out}/data"] if any(place.startswith("data/") for place in entries) else []
    flags += [f"--sources {' '.join(places['sources'])}"] if places["sources"] else []
    return f"next, with this folder on any machine: scalearn transfer {' '.join(flags)} ..."


def _next_from_cache(config: FetchConfig) -> str:
    flags = [f"--backbone {name}" for name in config.backbone[:1]]
    flags += [f"--sources {' '.join(config.sources)}"] if config.sources else []
    return f"next, without a network: HF_HUB_OFFLINE=1 scalearn transfer {' '.join([*flags, '...'])}"
