"""Repositories of the Hugging Face hub: their ids, their files in the local cache, and its errors in plain words."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scalearn_jax.errors import InputError, masked
from scalearn_jax.io.files import escapes_folder

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_OWN = r"(?:\w|\w[\w.-]{0,94}\w)"  # a name's letters; the hub has further rules
_LONGEST = 300  # characters of the hub's own message


def is_id(text: str) -> bool:
    """Whether a text has the form of a repository's id: OWNER/NAME.

    Example:
      >>> is_id("AdapterHub/rte"), is_id("./rte"), is_id("runs/glue/rte")
      (True, False, False)
    """
    return bool(re.fullmatch(f"{_OWN}/{_OWN}", text, re.ASCII))


def is_commit(text: str) -> bool:
    """Whether a text has the form of a commit, as `snapshot_download` names its folders."""
    return bool(re.fullmatch("[0-9a-f]{40}", text))


def is_model_id(text: str) -> bool:
    """Whether a text has the form of a model's id; the oldest models have no owner.

    Example:
      >>> is_model_id("roberta-base"), is_model_id("FacebookAI/roberta-base"), is_model_id("a/b/c")
      (True, True, False)
    """
    return is_id(text) or is_id(f"owner/{text}")


def split_revision(name: str) -> tuple[str, str | None]:
    """Splits ``ID@REVISION``; the revision is a branch, tag or commit, or ``None``.

    Example:
      >>> split_revision("AdapterHub/rte@v1"), split_revision("AdapterHub/rte")
      (('AdapterHub/rte', 'v1'), ('AdapterHub/rte', None))
    """
    repo, at, revision = name.partition("@")
    if at and not (repo and revision):
        raise InputError(f"{name!r}: expected OWNER/NAME@REVISION, with a branch, tag or commit after the @.")
    return repo, revision or None


def pinned(name: str, revision: str | None) -> tuple[str, str | None]:
    """Joins the two ways to name a revision, after an id's ``@`` and on its own; checks that they do not differ."""
    repo, own = split_revision(name)
    if own and revision and own != revision:
        raise InputError(f"{name} and --revision {revision} name different revisions; give one of them.")
    return repo, own or revision


def download(repo: str, revision: str | None, patterns: Sequence[str], *, what: str, kind: str = "model") -> Path:
    """Downloads files of one commit of a repository, or finds them in the hub's cache; returns their folder.

    The folder's name is the commit. ``what`` begins an error, for instance ``"backbone 'roberta-base'"``; ``kind`` is
    ``"model"`` or ``"dataset"``.
    """
    from huggingface_hub import snapshot_download

    if revision and escapes_folder(revision):  # it names a file in the cache
        raise InputError(f"{what} has no revision {revision!r}; name a branch, tag or commit of it.")
    with explained(f"{what} could not be read from the hub (revision {revision or 'main'})"):
        return Path(snapshot_download(repo, repo_type=kind, revision=revision, allow_patterns=list(patterns)))


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns the many errors of the hub's library into an ``InputError`` that begins with ``what`` and names a fix."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (OSError, ValueError, KeyError, HTTPError) as error:
        raise InputError(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    from huggingface_hub import constants, errors

    first_line = masked(str(error).strip().split("\n")[0])[:_LONGEST] or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"access to it must be granted; ask for it on its page, then {LOG_IN}."
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision; name a branch, tag or commit of it."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private; check the name, and for a private one {LOG_IN}."
    if status == 401:
        return f"the hub does not know who you are (401); {LOG_IN}."
    if status == 403:
        return f"you may not do that there (403); {LOG_IN}, with a token of an account and of rights that may."
    is_absent = isinstance(error, errors.LocalEntryNotFoundError)  # the hub was not asked, or not reached
    if constants.is_offline_mode() and is_absent:
        return "HF_HUB_OFFLINE is set, and the cache lacks it; run `scalearn fetch` for it where there is a network."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it where there is a network."
    if isinstance(error, KeyError):
        return f"its answer lacks {error}; does HF_ENDPOINT name a hub?"
    if is_absent or (status is None and isinstance(error, errors.HTTPError | ConnectionError)):
        lacks = ", and the cache lacks it" if is_absent else ""
        return f"the hub cannot be reached{lacks}; is there a network? ({first_line})"
    return first_line
