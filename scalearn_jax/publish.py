"""``scalearn push``: uploads a folder that `scalearn fold` or `scalearn export` made, with a model card.

Only the files that such a folder is known to have are sent, and only after none of them was found to hold a token or
to name a place on this machine.
"""

import dataclasses
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from scalearn_jax import card, provenance, run_info, runs, tables
from scalearn_jax.attribution import VARIANTS
from scalearn_jax.config import PushConfig
from scalearn_jax.convert import hub
from scalearn_jax.convert.files import inside, read_settings
from scalearn_jax.errors import InputError, masked, printable, shortened, unknown
from scalearn_jax.figures import omega
from scalearn_jax.files import MAX_BYTES, read_json, read_text, write_bytes
from scalearn_jax.memory import words
from scalearn_jax.models.backbones import BACKBONES
from scalearn_jax.provenance import PLACE
from scalearn_jax.schema import check_values, field_types, problems, required_fields

FIGURE = "omega.png"
_DESCRIBED = ("task", "spec")  # parts of a JSON file with texts of the data's, in which a slash is no path


@dataclasses.dataclass(frozen=True)
class _Described:
    """What a card is made of, beside the task and the backbone."""

    kind: Literal["adapter", "fusion", "fold"]
    method: str
    seed: int
    sources: tuple[dict[str, Any], ...]
    parameters: dict[str, Any]
    scores: dict[str, Any]
    versions: dict[str, Any]
    command: str


def push(config: PushConfig) -> dict[str, Any]:
    """Uploads a folder with a model card; a dry run only writes the card and lists what would be sent.

    A card that was edited by hand is sent as it is.

    Args:
      config: see ``PushConfig``.

    Returns:
      ``dir``, ``repo``, ``files`` (name -> bytes), ``left_out``, ``written`` (names of what was written into the
      folder), and of an upload ``commit``, ``url`` and ``use``, the command that uses it.

    Raises:
      InputError: no such folder, a token or a place on this machine in it, or what the hub refuses; nothing is sent.

    Example:
      >>> push(PushConfig(dir="out/rte", repo="me/rte", dry_run=True))["written"]  # doctest: +SKIP
      ['README.md']
    """
    folder = Path(config.dir)
    content, family = describe(folder)
    if not (config.base_model or card.known_base(content)):
        _warn(f"no hub id of the backbone {content['backbone']['name']!r} is known; pass --base-model for the card.")
    files = {path.name: path for path in hub.shareable(folder) if path.name not in hub.PICKLES}
    made = _figure(folder)
    shown = [*files, *([FIGURE] if made or (folder / FIGURE).exists() else [])]
    base, license = config.base_model, config.license
    made |= _card(folder, card.write(content, config.repo, shown, family=family, base_model=base, license=license))
    files |= {name: inside(folder, name) for name in (card.FILE, FIGURE) if (folder / name).exists()}
    _check({name: path for name, path in files.items() if name not in made}, made)
    for name, written in made.items():
        write_bytes(folder / name, written)
        files[name] = folder / name
    result = {
        "dir": config.dir,
        "repo": config.repo,
        "files": {name: path.stat().st_size for name, path in files.items()},
        "left_out": sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in files),
        "written": list(made),
    }
    if config.dry_run:
        return result
    message = config.message or f"Upload {content['task'].name} with scalearn"
    done = hub.upload(files, config.repo, message=message, private=config.private, create_pr=config.create_pr)
    return result | {
        "commit": done.revision,
        "url": done.url,
        "use": _use(f"{done.repo}@{done.revision}", content, files),
    }


def _use(place: str, content: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """The command that uses what was sent."""
    if "run.json" in files and content["method"] != "single":
        return f"scalearn evaluate {place}"
    return (
        f"scalearn import {place} --out DIR"
        if content["kind"] == "fusion"
        else f"scalearn transfer --sources {place} ..."
    )


def describe(folder: Path) -> tuple[dict[str, Any], str]:
    """Reads what a folder says of itself.

    Args:
      folder: made by ``scalearn fold`` or ``scalearn export``, or a run folder.

    Returns:
      The content of ``scalearn.json``, or what it would be of a run, and the backbone's model family.

    Raises:
      InputError: no such folder, or a damaged one.
    """
    content = provenance.read(folder)
    if (folder / "run.json").exists():
        info = run_info.read_info(folder)
        spec, task = run_info.read_spec(folder, info)
        run = runs.Run(folder, info, spec, task, {})
        content, family = content or provenance.describe("adapter", run, info["seeds"][0]), spec.backbone.family
        content["task"] = task
    elif content:
        name = "adapter_fusion_config.json" if content.get("kind") == "fusion" else "adapter_config.json"
        family = read_settings(folder, name).get("model_type")
    else:
        raise InputError(
            f"DIR {folder} holds neither scalearn.json nor run.json; pass a folder made by `scalearn fold` or"
            " `scalearn export`."
        )
    if not isinstance(family, str) or family not in BACKBONES:
        raise unknown("model_type", family, BACKBONES, where=str(folder))
    _, found = check_values(_Described, {name: content[name] for name in field_types(_Described) if name in content})
    found += [f"missing key {name!r}" for name in required_fields(_Described) if name not in content]
    if found:
        raise problems(str(folder / provenance.FILE), found)
    return content, family


def _figure(folder: Path) -> dict[str, bytes]:
    """Draws the learned scales of a ScaLearn run; of another, or where there is a figure already, nothing."""
    if (folder / FIGURE).exists() or not (folder / "run.json").exists():
        return {}
    info = run_info.read_info(folder)
    normalise = dict(info["spec"]["combiner_options"]).get("normalise", "none")
    if info["spec"]["combiner"] not in VARIANTS:
        return {}
    if importlib.util.find_spec("matplotlib") is None:
        _warn("the card has no figure of the learned scales: matplotlib is not installed.")
        return {}
    panel = omega.Panel(
        info["task"]["name"], [source["name"] for source in info["sources"]], omega.mean_omega(folder, normalise)
    )
    with tempfile.TemporaryDirectory() as scratch:
        omega.draw_omegas(info["method"], [panel], Path(scratch), "omega")
        return {FIGURE: Path(scratch, FIGURE).read_bytes()}


def _card(folder: Path, text: str) -> dict[str, bytes]:
    """The card to write: none where one that was edited by hand is to stay."""
    path = inside(folder, card.FILE)
    if path.exists() and not card.is_ours(_text(path)):
        _warn(f"{path} was not written by scalearn, or edited since, and is sent as it is; remove it for a new one.")
        return {}
    return {card.FILE: text.encode()}


def _warn(text: str) -> None:
    print(f"scalearn: {printable(masked(text))}", file=sys.stderr)


def _check(files: Mapping[str, Path], made: Mapping[str, bytes]) -> None:
    """Checks that nothing that is sent gives a token or a place on this machine away.

    Raises:
      InputError: something does; it is not repeated.
    """
    from huggingface_hub import get_token

    token = get_token()
    texts = {name: content.decode() for name, content in made.items() if name == card.FILE}
    texts |= {str(path): _text(path) for path in files.values()}
    for where, text in texts.items():
        if masked(text) != text or (token and token in text):
            raise InputError(f"{where} holds a token or password, which must not be uploaded; take it out.")
    for path in files.values():
        if path.suffix == ".json" and (place := next(_places(read_json(path)), None)):
            mend = "edit the file"
            if path.name == "run.json":
                mend = f"`scalearn export {path.parent} --format native --out DIR` makes a folder without"
            raise InputError(f"{path} names a place on this machine, {shortened(place)!r}, for all to see; {mend}.")


def _text(path: Path) -> str:
    """The text of a file; of a file of weights its head, of a picture nothing."""
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


def as_text(result: Mapping[str, Any]) -> str:
    """Lays out what ``push`` returns.

    Example:
      >>> result = {"dir": "d", "repo": "me/x", "files": {"README.md": 10}, "left_out": [], "written": ["README.md"]}
      >>> print(as_text(result).splitlines()[-1])
      nothing was sent; the same without --dry-run sends it
    """
    rows = [[name, words(size)] for name, size in result["files"].items()]
    lines = [tables.plain([f"to {result['repo']}", "size"], rows), ""]
    lines += [f"left out: {printable(', '.join(result['left_out']))}"] * bool(result["left_out"])
    lines += [f"wrote {', '.join(result['written'])} in {result['dir']}"] * bool(result["written"])
    if "commit" not in result:
        return "\n".join([*lines, "nothing was sent; the same without --dry-run sends it"])
    return "\n".join([*lines, f"sent: {result['url']}", f"use it: {result['use']}"])
