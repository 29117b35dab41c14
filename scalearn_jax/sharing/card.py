"""The model card of a shared folder: the content of ``scalearn.json``, as the hub's metadata and as text.

Much of it comes from files that anyone may have written. So names are in code spans, in which nothing acts, and what
goes into the metadata is either one of our own words or has been checked to be a plain name.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scalearn_jax.errors import masked, printable
from scalearn_jax.io.terminal import format_score
from scalearn_jax.models.backbones import BACKBONES
from scalearn_jax.runs.provenance import SURE
from scalearn_jax.sharing.card_metadata import (
    card_metadata,
    example_counts,
    example_limit,
    finite_scores,
    known_base,
    standard_error,
)

FILE = "README.md"
ENCODER = "FOLDER-OR-ID-OF-THE-ENCODER"
_MARK = "<!-- written by scalearn push: {} -->\n"
_MOST = 300  # characters of a name, a value or a command
_COUNTS = {"transfer": "transfer parameters", "head": "of the head", "trainable": "trained parameters in all"}
_ABOUT = {
    "run": "a finished run of `scalearn_jax`",
    "adapter": "an adapter",
    "fold": "one ordinary adapter, into which scaled source adapters were folded exactly,",
    "unscaled": "an adapter",
    "less": "one ordinary adapter, into which scaled source adapters were folded, with fewer of them or fewer units,",
    "fusion": "an AdapterFusion layer with the adapters that it joins",
}


def write_card(
    content: Mapping[str, Any],
    repo: str,
    files: Sequence[str],
    *,
    family: str,
    base_model: str | None = None,
    license: str | None = None,
) -> str:
    """Writes the card.

    Args:
      content: as ``read_provenance`` gives it.
      repo: id of the repository, OWNER/NAME.
      files: names of what is beside it, which tell the format and whether there is a figure.
      family: model family of the backbone, a key of ``BACKBONES``.
      base_model: hub id of the backbone, where ``content`` names none.
      license: the hub's short name of it.

    Returns:
      The text of ``README.md``, which ``is_ours`` recognises.
    """
    base = base_model or known_base(content)
    versions = ", ".join(f"{inert(name)} {inert(version)}" for name, version in content["versions"].items())
    command = f"\n```sh\n{_plain(content['command'])}\n```\n" if content["command"] else ""
    parts = [
        f"---\n{card_metadata(content, repo, files, family=family, base=base, license=license)}\n---\n",
        f"# {repo.partition('/')[2]}\n",
        _summary(content, files, base),
        _usage(content, repo, files, base, family),
        *_scores(content),
        *_origin(content, files),
        *_fold(content),
        f"## Made with\n\n{versions}\n{command}",
    ]
    text = "\n".join(parts)
    return text + _MARK.format(_digest(text))


def is_ours(text: str) -> bool:
    """Whether a card is exactly as ``write_card`` made it, and may be written anew; one that was edited is kept."""
    found = re.search(_MARK.format("([0-9a-f]{12})") + r"\Z", text)
    return bool(found) and found[1] == _digest(text[: found.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def inert(value: Any) -> str:
    """Makes a code span of anything from a file."""
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """One line without what would end a code span or block."""
    text = printable(masked(" ".join(str(value).split()))).replace("`", "'")
    return (text if len(text) <= _MOST else f"{text[:_MOST]}...") or " "


def _summary(content: Mapping[str, Any], files: Sequence[str], base: str | None) -> str:
    task, backbone = content["task"], content["backbone"]
    kind = "run" if "run.json" in files else _kind(content)
    about = f"This is {_ABOUT[kind]} for {inert(task.name)} ({task.kind}) over "
    if base:
        revision = f" at revision {inert(backbone['revision'])}" if backbone["revision"] else ""
        over = f"[`{base}`](https://huggingface.co/{base}){revision}"
    else:
        over = f"the encoder {inert(backbone['name'])}, which lay in a local folder: no id on the hub is known"
    labels = f" Its labels, by id: {', '.join(map(inert, task.labels))}." if 0 < len(task.labels) <= 50 else ""
    return f"{about}{over} (content hash {inert(backbone['hash'][:12])}).{labels}\n"


def _kind(content: Mapping[str, Any]) -> str:
    """The key of ``_ABOUT`` for a folder of AdapterHub."""
    report = content.get("fold")
    if content["kind"] != "fold" or not isinstance(report, dict):
        return content["kind"]
    if not content["sources"] or content["method"] == "soup":
        return "unscaled"
    return "less" if report.get("width") != report.get("width_before", report.get("width")) else "fold"


def _usage(content: Mapping[str, Any], repo: str, files: Sequence[str], base: str | None, family: str) -> str:
    is_run, is_fusion, blocks = "run.json" in files, content["kind"] == "fusion", []
    model_class = BACKBONES[family].model_class
    if not is_run and model_class:
        lines, encoder = [f"from adapters import {model_class}"], f'"{base or ENCODER}"'
        known = next(name for name, row in BACKBONES.items() if row.model_class == model_class)
        if known == family:
            lines += ["", f"model = {model_class}.from_pretrained({encoder})"]
        else:  # that library knows these blocks under one name
            settings = f"{model_class.removesuffix('AdapterModel')}Config"
            lines += [f"from transformers import {settings}", ""]
            lines += [f'config = {settings}.from_pretrained({encoder}, model_type="{known}")']
            lines += [f"model = {model_class}.from_pretrained({encoder}, config=config)"]
        if is_fusion:
            lines = ["from huggingface_hub import snapshot_download", *lines, f'folder = snapshot_download("{repo}")']
            lines += ["model.load_adapter_setup(folder, use_safetensors=True, set_active=True)"]
        else:
            lines += [f'model.load_adapter("{repo}", source="hf", use_safetensors=True, set_active=True)']
        blocks.append(("In [`adapters`](https://docs.adapterhub.ml) (PyTorch)", lines))
    if is_run or not is_fusion:
        where = f'"{repo}"' if known_base(content) else f'"{repo}", backbone="{base or ENCODER}"'
        predict = f"scalearn_jax.Predictor.load({where}).predict(texts)"
        blocks.append(("In `scalearn_jax` (JAX)", ["import scalearn_jax", "", predict]))
    code = "\n".join(f"{title}:\n\n```python\n{chr(10).join(lines)}\n```\n" for title, lines in blocks)
    if is_fusion or (is_run and content["method"] != "single"):
        return f"## Use\n\n{code}"
    flag = f"scalearn transfer --sources {repo} ..."
    return f"## Use\n\n{code}\nAs a source of another task; a commit, `{repo}@COMMIT`, pins it:\n\n```sh\n{flag}\n```\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *escaped]) + "\n"


def _scores(content: Mapping[str, Any]) -> list[str]:
    rows = []
    for ours, split, metric, value in finite_scores(content):
        limit, counts = example_limit(content, ours), example_counts(content, ours)
        examples = "all" if limit is None else f"at most {limit:,}"
        if counts:
            examples = "all {:,}".format(*counts) if counts[0] == counts[1] else "{:,} of {:,}".format(*counts)
        error = standard_error(content, metric) if ours == "test" else None
        shown = " ± ".join(format_score(metric, number) for number in (value, error) if number is not None)
        rows.append([ours, split, inert(metric), shown, examples])
    if not rows:
        return []
    is_part = any(row[:2] == ["dev", "train"] for row in rows)
    note = "\n`dev` is a tenth of the published training set, which was held out.\n" if is_part else ""
    if any("±" in row[3] for row in rows):
        note += "\n± is the standard error that a test set of so few examples gives, of one seed.\n"
    return [f"## Scores\n\n{_table(['split', 'published as', 'metric', 'score in percent', 'examples'], rows)}{note}"]


def _origin(content: Mapping[str, Any], files: Sequence[str]) -> list[str]:
    numbers = [(what, content["parameters"].get(name)) for name, what in _COUNTS.items()]
    counts = "".join(f"; {number:,} {what}" for what, number in numbers if type(number) is int)
    text = f"## How it was made\n\nMethod {inert(content['method'])}, seed {content['seed']}{counts}.\n"
    rows, scales = [], _scales(content)
    for source in content["sources"]:
        place, digest = source.get("place") or "not published", str(source.get("hash") or "")[:12]
        own = [scales.get(str(source.get("name")), "")] if scales else []
        rows.append([inert(source.get("name")), inert(place), inert(digest), *own])
    if isinstance(content.get("imported"), str):
        text += f"\nIt was imported from {inert(content['imported'])}.\n"
    header = ["source", "place", "content hash", *(["scale, with its 95 % interval"] if scales else [])]
    parts = [text, _table(header, rows)] if rows else [text]
    if "omega.png" in files:
        parts.append("![Learned scale of each source in each layer](omega.png)\n")
    return parts


def _scales(content: Mapping[str, Any]) -> dict[str, str]:
    """The scales that were solved for, by source, as text."""
    found = content.get("scales")
    texts = {}
    for name, pair in found.items() if isinstance(found, dict) else ():
        numbers = [x for x in pair if isinstance(x, float) and math.isfinite(x)] if isinstance(pair, list) else []
        if len(numbers) == 1:
            texts[name] = f"{numbers[0]:.2f}"
        elif len(numbers) == 2:
            texts[name] = f"{numbers[0]:.2f} ± {SURE * numbers[1]:.2f}"
    return texts


def _fold(content: Mapping[str, Any]) -> list[str]:
    """The report of a fold."""
    report = content.get("fold")
    if not isinstance(report, dict) or not report:
        return []
    return [f"## Fold\n\n{_table(['fact', 'value'], [[inert(name), inert(value)] for name, value in _facts(report)])}"]


def _facts(report: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested facts, each with a dotted name."""
    for name, value in report.items():
        if isinstance(value, dict):
            yield from _facts(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
