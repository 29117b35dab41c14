"""Results laid out beside the paper's."""

import re
from collections.abc import Sequence
from statistics import fmean

from scalearn_jax.io.text_table import Cell, Table, comma_separated
from scalearn_jax.studies import published
from scalearn_jax.studies.results import Result, spread
from scalearn_jax.studies.tables import ABSENT, by_method, spreads, targets_of


def published_table(
    results: Sequence[Result], title: str, *, table: str, backbone: str, all_targets: Sequence[str] = ()
) -> Table:
    """Lays out scores beside the paper's: for each method three rows, ours, published and their difference.

    Averages are over the study's targets and stand only where both sides have all of them.

    Args:
      results: finished runs on all the data.
      title: the heading.
      table: name of the published table.
      backbone: folder or hub id of the study's backbone.
      all_targets: the study's, finished or not; by default those of the results.

    Returns:
      The table; without rows if the paper has none of these methods and targets.

    Raises:
      InputError: unknown table.
    """
    rows, targets = by_method(results), list(targets_of(results))
    whole = set(targets) >= set(all_targets)
    groups = [group for method, row in rows.items() if (group := _beside(method, row, targets, table, whole))]
    header = ["method", "scores", *(f"{target} {metric}" for target, metric in targets_of(results).items())]
    header += ["average"] if len(targets) > 1 else []
    theirs = published.get(table)["backbone"]
    caption = (
        f"Test scores in percent. Published: ScaLearn (arXiv 2310.01217), table {table}, backbone {theirs}, mean over"
        f" seeds. Ours: {spreads(results)}, {_backbone_words(backbone, theirs)}"
    )
    return Table(f"{title}: beside the published numbers", header, groups, caption, num_names=2)


def _beside(method: str, row: dict[str, Result], targets: Sequence[str], table: str, whole: bool) -> list[list[Cell]]:
    theirs = [published.lookup(table, method, target) for target in targets]
    if not any(target in row for target, value in zip(targets, theirs, strict=True) if value is not None):
        return []
    ours = [100 * row[target].mean if target in row else None for target in targets]
    words = [spread(row[target]) if target in row else ABSENT for target in targets]
    if len(targets) > 1:
        complete = whole and None not in (*ours, *theirs)
        ours.append(fmean(ours) if complete else None)
        theirs.append(fmean(theirs) if complete else None)
        words.append(_number(ours[-1], "{:.2f}"))
    differences = [None if None in pair else pair[0] - pair[1] for pair in zip(ours, theirs, strict=True)]
    lines = {
        "ours": words,
        "published": [_number(value, "{:.2f}") for value in theirs],
        "difference": [_number(value, "{:+.2f}") for value in differences],
    }
    return [[Cell(method), Cell(name), *map(Cell, values)] for name, values in lines.items()]


def _backbone_words(backbone: str, theirs: str) -> str:
    name = backbone_name(backbone)
    if name == theirs:
        return f"of backbone {name}"
    return f"of ANOTHER BACKBONE, {name}: the differences do not measure how well the paper is reproduced"


def backbone_name(backbone: str) -> str:
    """The last part of a backbone's folder or hub id.

    Example:
      >>> backbone_name("FacebookAI/roberta-base"), backbone_name("hub/models--x--roberta-base/snapshots/0a1b/")
      ('roberta-base', 'roberta-base')
    """
    return re.split(r"[/\\]|--", re.sub(r"[/\\](snapshots[/\\].*)?$", "", backbone))[-1]


def published_csv(results: Sequence[Result], table: str) -> str:
    """Writes a line a result that has a published counterpart, in percent.

    Raises:
      InputError: unknown table.
    """
    rows = []
    for result in results:
        theirs, ours = published.lookup(table, result.method, result.target), 100 * result.mean
        if theirs is not None:
            rows.append([result.method, result.target, result.metric, ours, theirs, ours - theirs])
    return comma_separated(["method", "target", "metric", "ours", "published", "difference"], rows)


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else form.format(round(value, 2) + 0.0)  # + 0: no minus before a zero
