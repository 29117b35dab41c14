"""``scalearn push``: uploads a folder that `scalearn fold` or `scalearn export` made, with a model card.

Only the files that such a folder is known to have are sent, and only after none of them was found to hold a token or
to name a place on this machine.
"""

import dataclasses
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scalearn_jax.combiners.scalearn import VARIANTS
from scalearn_jax.config import PushConfig, takes
from scalearn_jax.config.schema import check_values, field_types, problems, required_fields
from scalearn_jax.errors import InputError, masked, printable, shortened
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.io import terminal
from scalearn_jax.io.files import MAX_BYTES, read_json, read_text, write_bytes
from scalearn_jax.io.model_folder import inside, read_settings
from scalearn_jax.models.backbones import BACKBONES, unknown_family
from scalearn_jax.runs import adapterhub, figures, provenance, run_json
from scalearn_jax.runs.provenance import PLACE
from scalearn_jax.sharing import card
from scalearn_jax.sharing.card_metadata import known_base
from scalearn_jax.sharing.folders import read_run_folder
from scalearn_jax.train.memory import format_bytes

FIGURE = "omega.png"
# Configuration of an adapter or a fusion -> its weights, and the reader of both.
_WEIGHTS = {
    "adapter_config.json": ("adapter.safetensors", adapterhub.load),
    "adapter_fusion_config.json": ("model_adapter_fusion.safetensors", adapterhub.load_fusion),
}


@dataclasses.dataclass(frozen=True)
class _Described:
    """The parts of ``scalearn.json`` that a card needs, beside the task and the backbone."""

    kind: Literal["adapter", "fusion", "fold"]
    method: str
    seed: int
    sources: tuple[dict[str, Any], ...]
    parameters: dict[str, Any]
    scores: dict[str, Any]
    versions: dict[str, Any]
    command: str


@takes(PushConfig, "dir", "repo")
def push(config: PushConfig) -> dict[str, Any]:
    """Uploads a folder with a model card; a dry run only writes the card and lists what would be sent.

    A card that was edited by hand is sent as it is.

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
    content, family = describe_folder(folder)
    kept = {name: path for name, path in hub.shareable(folder, FIGURE).items() if path.name not in hub.PICKLES}
    check_leaks(list(kept.values()), {})
    made = {} if FIGURE in kept else _figure(folder, content)
    made |= _card(config, content, family, [*kept, *made])
    if card.FILE in made:
        check_leaks([], {card.FILE: made[card.FILE].decode()})
    else:
        kept[card.FILE] = inside(folder, card.FILE)
        check_leaks([kept[card.FILE]], {})
    for name, written in made.items():
        write_bytes(folder / name, written)
    files = kept | {name: folder / name for name in made}
    sent = {name.partition("/")[0] for name in files}
    result = {
        "dir": config.dir,
        "repo": config.repo,
        "files": {name: path.stat().st_size for name, path in files.items()},
        "left_out": sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in sent),
        "written": list(made),
    }
    if config.dry_run:
        return result
    message = config.message or f"Upload {content['task'].name} with scalearn"
    done = hub.upload(files, config.repo, message=message, private=config.private, create_pr=config.create_pr)
    place = f"{done.repo}@{done.revision}"
    use = f"scalearn transfer --sources {place} ..."
    if "run.json" in files and content["method"] != "single":
        use = f"scalearn evaluate {place}"
    elif content["kind"] == "fusion":
        use = f"scalearn import {place} --out DIR"
    return result | {"commit": done.revision, "url": done.url, "use": use}


def describe_folder(folder: Path) -> tuple[dict[str, Any], str]:
    """Reads the description of a folder made by ``scalearn fold`` or ``export``, or of a run, and checks its weights.

    Returns:
      The content of ``scalearn.json``, or what it would be of a run's best seed, and the backbone's model family.
    """
    content = provenance.read_provenance(folder)
    if (folder / "run.json").exists():
        run, spec, task = read_run_folder(folder)
        if not content:
            seed, _ = provenance.choose_seed(folder, run.info)  # which the card names
            content = provenance.describe_run("adapter", folder, run.info, task, seed)
        content, family = content | {"task": task}, spec.backbone.family
    elif content:
        check_weights(folder)
        configs = [path for path in hub.shareable(folder).values() if path.name in _WEIGHTS]
        if not configs:
            raise InputError(f"DIR {folder} holds no {' or '.join(_WEIGHTS)}; expected what `scalearn fold` wrote.")
        family = read_settings(configs[0].parent, configs[0].name).get("model_type")
    else:
        raise InputError(
            f"DIR {folder} holds neither scalearn.json nor run.json; pass a folder made by `scalearn fold` or"
            " `scalearn export`."
        )
    if family not in BACKBONES:
        raise unknown_family(family, str(folder))
    _, found = check_values(_Described, {name: content[name] for name in field_types(_Described) if name in content})
    found += [f"missing key {name!r}" for name in required_fields(_Described) if name not in content]
    if found:
        raise problems(str(folder / provenance.FILE), found)
    return content, family


def check_weights(folder: Path) -> None:
    """Checks all weights of a folder or setup of AdapterHub that are to be uploaded, by reading them."""
    for path in hub.shareable(folder).values():
        if path.name in _WEIGHTS:
            weights, load = _WEIGHTS[path.name]
            if not (path.parent / weights).exists():
                raise InputError(f"DIR {path.parent} holds no {weights}, and pickles stay here; make the folder anew.")
            load(path.parent)
        elif path.name == "head_config.json":
            adapterhub.load_head(path.parent)


def _figure(folder: Path, content: Mapping[str, Any]) -> dict[str, bytes]:
    """Draws the learned scales of a ScaLearn run or of its fold; of anything else nothing."""
    scales = _scales(folder, content)
    if scales is None:
        return {}
    if importlib.util.find_spec("matplotlib") is None:
        _warn("the card has no figure of the learned scales: matplotlib is not installed.")
        return {}
    sources = [str(source.get("name")) for source in content["sources"]]
    sure = figures.deviations(folder, sources) if (folder / "run.json").exists() else None
    panel = figures.Panel(content["task"].name, sources, scales, sure)
    with tempfile.TemporaryDirectory() as scratch:
        figures.draw_omegas(content["method"], [panel], Path(scratch), "omega")
        return {FIGURE: Path(scratch, FIGURE).read_bytes()}


def _scales(folder: Path, content: Mapping[str, Any]) -> np.ndarray | None:
    """The learned scales Float[T L]: of a run from its weights, of a fold from its description."""
    if (folder / "run.json").exists():
        spec = run_json.read_info(folder)["spec"]
        normalise = dict(spec["combiner_options"]).get("normalise", "none")
        return figures.mean_omega(folder, normalise) if spec["combiner"] in VARIANTS else None
    try:
        scales = np.asarray(content.get("omega"), float).T
    except (TypeError, ValueError):
        return None
    fits = scales.ndim == 2 and 0 < len(scales) == len(content["sources"]) and np.isfinite(scales).all()
    return scales if fits else None


def _card(config: PushConfig, content: Mapping[str, Any], family: str, names: Sequence[str]) -> dict[str, bytes]:
    """The card to write: none where one that was edited by hand is to stay."""
    path = inside(Path(config.dir), card.FILE)
    if path.exists() and not card.is_ours(text_of(path)):
        _warn(f"{path} was not written by scalearn, or edited since, and is sent as it is; remove it for a new one.")
        return {}
    if not (config.base_model or known_base(content)):
        _warn(f"no hub id of the backbone {content['backbone']['name']!r} is known; pass --base-model for the card.")
    text = card.write_card(
        content, config.repo, names, family=family, base_model=config.base_model, license=config.license
    )
    return {card.FILE: text.encode()}


def _warn(text: str) -> None:
    print(f"scalearn: {printable(masked(text))}", file=sys.stderr)


def as_text(result: Mapping[str, Any]) -> str:
    """Formats what ``push`` returns for a terminal."""
    rows = [[name, format_bytes(size)] for name, size in result["files"].items()]
    lines = [terminal.plain([f"to {result['repo']}", "size"], rows), ""]
    lines += [f"left out: {printable(', '.join(result['left_out']))}"] * bool(result["left_out"])
    lines += [f"wrote {', '.join(result['written'])} in {result['dir']}"] * bool(result["written"])
    if "commit" not in result:
        return "\n".join([*lines, "nothing was sent; the same without --dry-run sends it"])
    return "\n".join([*lines, f"sent: {result['url']}", f"use it: {result['use']}"])


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
    return "" if path.suffix == ".png" else read_text(path, MAX_BYTES)


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
