"""``scalearn fetch``: backbones, data and adapters of the hub, for jobs and machines without a network.

What is fetched stays in the hub's own cache (``HF_HOME``), where the same commands find it again with
``HF_HUB_OFFLINE=1``; to carry it to another machine, copy that folder.
"""

from pathlib import Path

from scalearn_jax.config import FetchConfig, takes
from scalearn_jax.data import split_files, tasks
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.io import model_folder, terminal
from scalearn_jax.io.hub import is_id, is_model_id, split_revision
from scalearn_jax.train.memory import format_bytes


@takes(FetchConfig)
def fetch(config: FetchConfig) -> str:
    """Fetches what a config names into the hub's cache.

    Returns:
      A table of what was fetched, and the command that uses it.

    Example:
      >>> print(fetch(FetchConfig(backbone=("FacebookAI/roberta-base",), suite="glue")))  # doctest: +SKIP
    """
    names, fetched = (*config.tasks, *(tasks.SUITES[config.suite] if config.suite else ())), []
    for name in config.backbone:
        _check_remote("--backbone", name)
        where = model_folder.folder(name, allow_pickle=config.allow_pickle)
        files = {path for pattern in (*model_folder.FILES, model_folder.PICKLE) for path in where.glob(pattern)}
        fetched.append(("backbone", split_revision(name)[0], where.name, tuple(sorted(files))))
    for task in map(tasks.get, names):
        where = split_files.hub_folder(task, otherwise="there is nothing to fetch, leave it out")
        files = [path for paths in split_files.hub_files(task, where).values() for path in paths]
        fetched.append(("data", task.hub.repo, where.name, tuple(files)))
    for _, name in map(hub.split_alias, config.sources):
        _check_remote("--sources", name)
        where, place = hub.source_folder(name, flag="--sources", allow_pickle=config.allow_pickle)
        fetched.append(("source", *split_revision(place), tuple(hub.shareable(where).values())))
    rows = []
    for kind, repo, commit, files in dict.fromkeys(fetched):  # tasks may share their data
        size = format_bytes(sum(path.stat().st_size for path in files))
        rows.append([kind, repo, commit[:12], str(len(files)), size])
    flags = [f"--backbone {name}" for name in config.backbone[:1]]
    flags += [f"--sources {' '.join(config.sources)}"] if config.sources else []
    table = terminal.plain(["fetched", "from", "commit", "files", "size"], rows)
    return f"{table}\n\nnext, without a network: HF_HUB_OFFLINE=1 scalearn transfer {' '.join([*flags, '...'])}"


def _check_remote(flag: str, name: str) -> None:
    """Checks that a name is the hub's; that of an old backbone has no owner."""
    if Path(name).exists():
        raise InputError(f"{flag} {name} is here already; expected the id of what is to be fetched, OWNER/NAME.")
    repo, _ = split_revision(name)
    if not (is_id(repo) or flag == "--backbone" and is_model_id(repo)):
        raise InputError(f"{flag} {name} is no id of the hub; expected OWNER/NAME or OWNER/NAME@REVISION.")
