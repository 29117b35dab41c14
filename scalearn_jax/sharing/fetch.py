"""``scalearn fetch``: backbones, data and adapters of the hub, for jobs and machines without a network.

What is fetched stays in the hub's own cache, where the same commands find it again with ``HF_HUB_OFFLINE=1``; or it is
copied to a folder, to be carried to another machine:

    OUT/backbones/OWNER-NAME/   config, weights and tokenizer, for --backbone
    OUT/data/TASK/              a file a split, for --data-dir OUT/data
    OUT/sources/OWNER-NAME/     an adapter or a run, for --sources
    OUT/fetched.json            ids, commits, sizes and hashes of all files

Of what stays in the cache, ``fetched.json`` lies in this package's own cache folder.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scalearn_jax.config import FetchConfig
from scalearn_jax.config.schema import problems
from scalearn_jax.data import splits, tasks
from scalearn_jax.data.rows import SUFFIXES, concatenate, read_table
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.io import model_folder as checkpoints
from scalearn_jax.io import text_table as tables
from scalearn_jax.io.atomic_folder import atomic_folder
from scalearn_jax.io.cache import cache_folder
from scalearn_jax.io.files import safe_name, write_text
from scalearn_jax.io.hub import in_cache, is_id, is_model_id, split_revision
from scalearn_jax.sharing import fetch_record
from scalearn_jax.sharing.fetch_record import Entry
from scalearn_jax.train.memory import format_bytes as words


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
        fetch_record.write(path, (fetch_record.read(path) if path.exists() else {}) | entries)
        return f"{_table(entries)}\n{_next_from_cache(config)}"
    with atomic_folder(config.out) as folder:
        entries = {}
        own = _task_files(config)
        for place, one in _all(config).items():
            one = one._replace(files={**one.files, **own.get(place, {})})
            _copy(one, folder.path / place)
            entries[place] = _entry(one, {name: folder.path / place / name for name in one.files})
        fetch_record.write(folder.path / fetch_record.FILE, entries)
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
    if not path.exists():
        raise InputError(
            f"{path} does not exist; pass the --out of the fetch, or run `scalearn fetch` without --check."
        )
    entries, found = fetch_record.read(path), []
    for place, entry in entries.items():
        folder = path.parent / place if config.out else in_cache(entry.repo, entry.commit, entry.kind)
        found += fetch_record.differences(place, folder, entry.files, whole=config.out is not None)
    if found:
        raise problems(f"{path}: not as fetched", found)
    return f"all as fetched: {sum(len(entry.files) for entry in entries.values())} files of {len(entries)} folders"


def _all(config: FetchConfig) -> dict[str, Fetched]:
    """Fetches all into the hub's cache; place in a folder -> what belongs there."""
    backbones, sources = _places("backbones", config.backbone), _places("sources", config.sources)
    names = (*config.tasks, *(tasks.SUITES[config.suite] if config.suite else ()))
    data = {_data_place(task): task for task in map(tasks.get, names)}
    return {
        **{place: _backbone(name, config.allow_pickle) for place, name in backbones.items()},
        **{place: _data(task) for place, task in data.items()},
        **{place: _source(name, config.allow_pickle) for place, name in sources.items()},
    }


def _data_place(task: tasks.Task) -> str:
    return f"data/{task.folder or task.name}"


def _task_files(config: FetchConfig) -> dict[str, dict[str, list[Path]]]:
    """The files that describe tasks of the user's own, to lie beside their data: place -> name -> file."""
    paths = [Path(name) for name in config.tasks if name not in tasks.TASKS and Path(name).is_file()]
    return {_data_place(tasks.get(str(path))): {f"task{path.suffix}": [path]} for path in paths}


def _places(kind: str, names: Iterable[str]) -> dict[str, str]:
    """Place in a folder -> id.

    Raises:
      InputError: two have the same place.
    """
    places: dict[str, str] = {}
    for name in names:
        place = f"{kind}/{safe_name(split_revision(name)[0])}"
        if place in places:
            raise InputError(f"{places[place]} and {name} would both be {place}; fetch them one after the other.")
        places[place] = name
    return places


def _backbone(name: str, allow_pickle: bool) -> Fetched:
    _check_remote("--backbone", name)
    where = checkpoints.folder(name, allow_pickle=allow_pickle)
    known = {path for pattern in (*checkpoints.FILES, checkpoints.PICKLE) for path in where.glob(pattern)}
    return _model(name, where, sorted(known))


def _source(name: str, allow_pickle: bool) -> Fetched:
    _check_remote("--sources", name)
    where, _ = hub.source_folder(name, flag="--sources", allow_pickle=allow_pickle)
    return _model(name, where, list(hub.shareable(where).values()))


def _model(name: str, where: Path, files: Sequence[Path]) -> Fetched:
    named = {path.relative_to(where).as_posix(): [path] for path in files}
    return Fetched(split_revision(name)[0], where.name, "model", where, named)


def _check_remote(flag: str, name: str) -> None:
    """Checks that a name is the hub's; that of an old backbone has no owner.

    Raises:
      InputError: it is a path, or none.
    """
    if Path(name).exists():
        raise InputError(f"{flag} {name} is here already; expected the id of what is to be fetched, OWNER/NAME.")
    repo, _ = split_revision(name)
    if not (is_id(repo) or flag == "--backbone" and is_model_id(repo)):
        raise InputError(f"{flag} {name} is no id of the hub; expected OWNER/NAME or OWNER/NAME@REVISION.")


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
        (folder / name).parent.mkdir(exist_ok=True)  # a setup has folders
        if len(paths) == 1:
            shutil.copyfile(paths[0], folder / name)
            continue
        table = concatenate([read_table(path) for path in paths], str(paths[0]))
        rows = (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
        write_text(folder / name, "".join(_line(row, paths[0]) for row in rows))


def _line(row: Mapping[str, Any], path: Path) -> str:
    try:
        return json.dumps(row) + "\n"
    except TypeError as error:
        raise InputError(f"{path} holds values that no line of JSON can ({error}); fetch without --out.") from error


def _entry(one: Fetched, files: Mapping[str, Path]) -> Entry:
    return Entry(one.repo, one.commit, one.kind, {name: fetch_record.fingerprint(path) for name, path in files.items()})


def _record(config: FetchConfig) -> Path:
    """Where the record of a fetch lies."""
    folder = Path(config.out) if config.out is not None else cache_folder("fetched")
    if folder is None:
        raise InputError("the cache folder cannot be used, see `scalearn doctor`; pass --out, or set SCALEARN_CACHE.")
    return folder / fetch_record.FILE


def _table(entries: Mapping[str, Entry]) -> str:
    sizes = {place: words(sum(size for size, _ in entry.files.values())) for place, entry in entries.items()}
    rows = [[place, x.repo, x.commit[:12], str(len(x.files)), sizes[place]] for place, x in entries.items()]
    return tables.plain(["fetched", "from", "commit", "files", "size"], rows) + "\n"


def _next_from_folder(out: str, entries: Mapping[str, Entry]) -> str:
    """The flags that use a folder."""
    backbones, data, sources = (
        [f"{out}/{place}" for place in entries if place.startswith(kind)]
        for kind in ("backbones/", "data/", "sources/")
    )
    flags = [f"--backbone {place}" for place in backbones[:1]]
    flags += [f"--data-dir {out}/data"] if data else []
    flags += [f"--sources {' '.join(sources)}"] if sources else []
    return f"next, with this folder on any machine: scalearn transfer {' '.join(flags)} ..."


def _next_from_cache(config: FetchConfig) -> str:
    flags = [f"--backbone {name}" for name in config.backbone[:1]]
    flags += [f"--sources {' '.join(config.sources)}"] if config.sources else []
    return f"next, without a network: HF_HUB_OFFLINE=1 scalearn transfer {' '.join([*flags, '...'])}"
