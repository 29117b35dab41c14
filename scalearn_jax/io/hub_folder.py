"""Adapters and runs on the Hugging Face hub: fetched as folders, and uploaded from folders."""

import os.path
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from scalearn_jax.errors import InputError, format_value
from scalearn_jax.io.hub import download, explained, is_id, split_revision
from scalearn_jax.io.model_folder import inside

# Files of a shared folder: an adapter, a head, a fusion layer, a run, and its description.
FILES = (
    *("adapter_config.json", "adapter.safetensors"),
    *("head_config.json", "model_head.safetensors", "head.safetensors"),
    *("adapter_fusion_config.json", "model_adapter_fusion.safetensors"),
    *("run.json", "results.json", "seed-*.safetensors", "frozen.safetensors"),
    *("scalearn_config.json", "transfer.safetensors"),
    "scalearn.json",
)
_DESCRIPTIONS = tuple(name for name in FILES if name.endswith(".json"))
_OWN = ("adapter_config.json", "run.json")  # of those, what describes an adapter or a run
SETUP = "adapter_setup.json"  # beside folders of adapters and of the fusion that joins them
# Read only where they are allowed; never uploaded.
PICKLES: Mapping[str, Sequence[str]] = {
    "pytorch_adapter.bin": ("adapter.safetensors",),
    "pytorch_model_adapter_fusion.bin": ("model_adapter_fusion.safetensors", "transfer.safetensors"),
    "pytorch_model_scalearn.bin": ("transfer.safetensors",),
    "pytorch_model_head.bin": ("model_head.safetensors", "head.safetensors"),
}


class Commit(NamedTuple):
    """An uploaded commit of a repository; ``url`` is its page, or that of the pull request."""

    repo: str
    revision: str
    url: str


def is_remote(path_or_id: str) -> bool:
    """Whether a name is one of the hub: OWNER/NAME, with or without a revision, and no folder here."""
    return is_id(path_or_id.partition("@")[0]) and not os.path.lexists(os.path.expanduser(path_or_id))


def check_name(name: Any, what: str) -> str:
    """Takes the name of a folder or of the hub; anything else but a path is an error that calls it ``what``."""
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise InputError(f"{what}: expected the name of a folder or OWNER/NAME of the hub, got {format_value(name)}.")
    return os.fspath(name)


def split_alias(text: str) -> tuple[str | None, str]:
    """Splits ``NAME=SOURCE``, by which a user calls a source by a name of his own; without one, the name is ``None``.

    What exists as it stands is a path, with ``=`` and all; so is what begins with ``.``, ``/`` or ``~``.

    Raises:
      InputError: both the whole and what follows ``=`` exist, so either may be meant.

    Example:
      >>> split_alias("rte=runs/rte-2"), split_alias("./lr=0.1"), split_alias("rte=me/rte@v1")
      (('rte', 'runs/rte-2'), (None, './lr=0.1'), ('rte', 'me/rte@v1'))
    """
    name, equals, path = text.partition("=")
    path = os.path.expanduser(path)  # which no shell expands there
    if not equals or not path or not re.fullmatch(r"\w[\w .+/-]*", name):
        return None, text
    if os.path.lexists(text):
        if os.path.lexists(path):
            raise InputError(
                f"--sources {text}: both {text} and {path} exist; write ./{text} for the first, or for the second under"
                f" the name {name!r} {name}={os.path.abspath(path)}."
            )
        return None, text
    return name, path


def source_folder(path_or_id: str, *, flag: str, allow_pickle: bool = False) -> tuple[Path, str]:
    """Finds an adapter or a run: a local folder, which need not exist, or a repository of the hub, in its cache.

    Where nothing known lies in it, it is the only adapter or run below, as in a checkpoint of AdapterHub's trainer.
    ``flag`` is its flag on the command line, for errors; with ``allow_pickle`` pickles are fetched where the hub has no
    safetensors. Returns the folder, and its path as given, or ``OWNER/NAME@COMMIT``.
    """
    if not is_remote(path_or_id):
        folder = only_below(Path(path_or_id), flag)
        return folder, path_or_id if folder == Path(path_or_id) else str(folder)
    repo, revision = split_revision(path_or_id)
    what = f"{flag} {path_or_id}: no such folder is here, and {repo!r}"
    where = download(repo, revision, _patterns(FILES), what=what)
    pickles = [name for name, others in PICKLES.items() if not any((where / other).exists() for other in others)]
    if allow_pickle and pickles:  # of the same commit, wherever a branch is now
        where = download(repo, where.name, _patterns((*FILES, *pickles)), what=what)
    folder = where if shareable(where) else only_below(where, flag)
    if not shareable(folder):
        raise InputError(
            f"{flag} {path_or_id}: the repository holds no adapter and no run; expected adapter_config.json or run.json"
            " at its top."
        )
    return folder, f"{repo}@{where.name}"


def only_below(folder: Path, flag: str) -> Path:
    """Returns a folder or, where nothing known is in it, the only one up to two below with an adapter or a run.

    Raises:
      InputError: several lie below.
    """
    if not folder.is_dir() or any((folder / name).exists() for name in (*_DESCRIPTIONS, SETUP)):
        return folder
    paths = [path for depth in ("*", "*/*") for name in _OWN for path in folder.glob(f"{depth}/{name}")]
    below = sorted({path.parent for path in paths if path.parent.resolve().is_relative_to(folder.resolve())})
    if len(below) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in below[:5])
        raise InputError(f"{flag} {folder}: {len(below)} adapters or runs lie below it ({names}); pass one of them.")
    return below[0] if below else folder


def _patterns(names: Sequence[str]) -> list[str]:  # at the top and in the folders of a setup
    return [*names, SETUP, *(f"*/{name}" for name in names)]


def shareable(folder: Path, *more: str) -> dict[str, Path]:
    """Finds name -> file of an adapter, a run or a setup in a folder, and those named in ``more``; see ``inside``."""
    found = _known(folder, (*FILES, *PICKLES, SETUP, *more))
    if SETUP in found:
        for part in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
            found |= {f"{part.name}/{name}": path for name, path in _known(part, (*FILES, *PICKLES)).items()}
    return found


def _known(folder: Path, patterns: Sequence[str]) -> dict[str, Path]:
    names = sorted(path.name for path in folder.glob("*"))
    return {name: inside(folder, name) for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def upload(
    files: Mapping[str, Path], repo: str, *, message: str, private: bool = False, create_pr: bool = False
) -> Commit:
    """Uploads name in the repository -> file in one commit; makes the repository, OWNER/NAME, if there is none.

    ``private`` is for a new repository; a public one that is there is refused. With ``create_pr`` a pull request is
    opened instead of writing to ``main``.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api, what = HfApi(library_name="scalearn-jax"), f"could not upload to {repo}"
    with explained(what):
        repo = api.create_repo(repo, private=private or None, exist_ok=True).repo_id
        is_as_asked = not private or api.model_info(repo).private
    if not is_as_asked:
        raise InputError(f"{what}: it is there already, and public; make it private on its page, or drop --private.")
    added = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    with explained(what):
        done = api.create_commit(repo, added, commit_message=message, create_pr=create_pr)
    return Commit(repo, done.oid, done.pr_url or done.commit_url)
