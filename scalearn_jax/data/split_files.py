"""Where the files of a task's splits lie: in a folder as people have them, or on the hub."""

import re
from pathlib import Path

from scalearn_jax.data.rows import FILE_TYPES, SUFFIXES, is_saved
from scalearn_jax.data.task import Task
from scalearn_jax.data.tasks import TASKS
from scalearn_jax.errors import InputError
from scalearn_jax.io.hub import download
from scalearn_jax.io.terminal import note

_OTHER_NAMES = {"validation": ("valid", "val")}
_COUNTED = r"-\d+-of-(\d+)(?:-[0-9a-f]{16})?"  # in the name of a file of several; earlier ones of the hub end in a hash
_SUFFIX = f"(?i:{'|'.join(map(re.escape, SUFFIXES))})"


def local_files(task: Task, data_dir: Path, wanted: tuple[str, ...]) -> dict[str, list[Path]]:
    """Finds the files of each split; the folder of another task is not taken for this one's."""
    place = task.folder or task.name
    own = place.rsplit("/", 1)[-1]
    others = {(row.folder or name).rsplit("/", 1)[-1] for name, row in TASKS.items()} - {own}
    direct = [] if task.name in TASKS and data_dir.resolve().name in others else [data_dir]
    folders = list(dict.fromkeys([data_dir / place, data_dir / own, *direct]))
    for folder in folders:
        files = {split: found for split in wanted if (found := _files_of(task, folder, split))}
        if files:
            if rest := [str(other) for other in folders[folders.index(folder) + 1 :] if _sets_of(other, "train")]:
                note(f"task {task.name}: {folder} is read, not {', '.join(rest)}, where a training set is, too.")
            break
    else:
        raise InputError(
            f"task {task.name}: no data; looked for train and validation ({FILE_TYPES}) in"
            f" {', '.join(map(str, folders))}{_found_in(direct)}. Pass --data-dir with the folder that holds them."
        )
    lacks = [split for split in ("train", "validation") if split not in files]
    if lacks and not (lacks == ["validation"] and "dev" in files):
        found = _found_in([folder])
        raise InputError(f"task {task.name}: {folder} has no {lacks[0]} file ({FILE_TYPES}){found}; add it.")
    return files


def _files_of(task: Task, folder: Path, split: str) -> list[Path]:
    """Finds the file of a split in a folder, or its numbered files; two that may be it are an error."""
    of_hub = [Path(pattern).name for name, pattern in task.hub.files if name == split] if task.hub else []
    named = [split, *(match[0] for name in of_hub if (match := re.match(r"\w+", name)))]
    others = _OTHER_NAMES.get(split, ())
    if split == "validation" and task.split_rule != "files":  # as GLUE calls the set that is tested on
        others = (*others, "dev")
    found = {name: _sets_of(folder, name) for name in dict.fromkeys((*named, *others))}
    sets = [(name, paths) for name, own in found.items() for paths in own]
    if len(sets) > 1:
        each = " and ".join(str(paths[0]) for _, paths in sets)
        raise InputError(f"task {task.name}: {each} may all be its {split} split; keep one of them there.")
    for name, paths in sets:
        if (counted := re.search(_COUNTED, paths[0].name)) and len(paths) != int(counted[1]):
            raise InputError(
                f"task {task.name}: {paths[0]} is one of {counted[1]} files, found {len(paths)} of its kind; add what"
                " is missing, or remove what is left from elsewhere."
            )
        if name not in named:
            note(f"task {task.name}: {paths[0]} is taken for its {split} split.")
    return sets[0][1] if sets else []


def _sets_of(folder: Path, name: str) -> list[list[Path]]:
    """Lists what may be the split of a name: files, each alone or with those that differ from it in a number.

    It may be ``train.csv``, ``train-00000-of-00002.parquet`` and so on, a folder ``train`` with one file or with
    ``0000.parquet`` and so on, or one that ``datasets`` saved; in the folder itself or as the hub lays it out.
    """
    found: dict[tuple[Path, str], list[Path]] = {}
    for place in (folder, folder / "data", folder / "default"):
        paths = [path for path in place.glob(f"{name}*") if re.fullmatch(f"{name}({_COUNTED})?{_SUFFIX}", path.name)]
        if is_saved(place / name):
            paths.append(place / name)
        else:
            inside = rf"({name}|[\w-]*\d[\w.-]*){_SUFFIX}"
            paths += [path for path in (place / name).glob("*") if re.fullmatch(inside, path.name)]
        for path in sorted(path for path in paths if is_saved(path) or path.is_file()):
            numbered = re.sub(rf"{_COUNTED}|\d+", lambda match: match[1] or "#", path.name)
            found.setdefault((path.parent, numbered), []).append(path)
    return list(found.values())


def _found_in(folders: list[Path]) -> str:
    """Describes what lies in folders instead of what was looked for."""
    for folder in filter(is_saved, folders):
        return f"; {folder} is one saved data set, without splits: save a DatasetDict of train and validation there"
    names = sorted(path.name for folder in folders for path in folder.glob("*"))
    return f"; found {', '.join(names[:8])}" if names else ""


def hub_folder(task: Task, *, otherwise: str = "pass --data-dir with the folder of its files") -> Path:
    """Fetches the files of a task's data set into the hub's cache, or finds them there, in a folder named by commit.

    ``otherwise`` is what the user can do about a task without such a data set.
    """
    if task.hub is None:
        raise InputError(f"task {task.name} names no hub data set; {otherwise}.")
    what = f"task {task.name}: no --data-dir is given, and its data set {task.hub.repo!r}"
    patterns = [pattern for _, pattern in task.hub.files]
    return download(task.hub.repo, task.hub.revision, patterns, what=what, kind="dataset")


def hub_files(task: Task, folder: Path) -> dict[str, list[Path]]:
    """Lists the files of each split in what ``hub_folder`` found; every split must have one."""
    try:
        files = {split: sorted(folder.glob(pattern)) for split, pattern in task.hub.files}
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"task {task.name}: hub.files cannot be found: {error}; correct the patterns.") from error
    for split, pattern in task.hub.files:
        if not files[split]:
            raise InputError(
                f"task {task.name}: data set {task.hub.repo!r} has no file {pattern!r} for split {split!r}."
            )
    return files
