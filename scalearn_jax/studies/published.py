"""The paper's numbers, and results beside them.

Scores are those of base models: test scores in percent, mean over seeds, from the official repository's tables. A table
is one suite on one backbone. RTE is in both GLUE and SuperGLUE, with other source adapters.
"""

import functools
import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from scalearn_jax.errors import unknown
from scalearn_jax.studies.results import Result, format_score
from scalearn_jax.studies.tables import ABSENT, Table, by_method, describe_seeds, describe_tests, targets_of, to_csv


@functools.cache
def _tables() -> dict[str, dict[str, Any]]:
    return json.loads(resources.files("scalearn_jax.studies").joinpath("published.json").read_text(encoding="utf-8"))


def table_names() -> list[str]:
    """Lists the published tables, as SUITE/BACKBONE."""
    return list(_tables())


def get_table(table: str) -> dict[str, Any]:
    """Looks up a table: its ``backbone``; ``tasks``, the names of its columns; ``scores``, method -> a number a task;
    ``averages``, method -> its average as published, also of methods whose scores are not at hand; ``joint_defects``,
    what is wrong with its joint baselines.
    """
    if table not in _tables():
        raise unknown("published table", table, _tables())
    return _tables()[table]


def lookup(table: str, method: str, task: str) -> float | None:
    """Looks up a score in percent, of a row of ``METHODS`` or a baseline that only the paper has; ``None`` without one.

    Example:
      >>> lookup("glue/roberta-base", "fusion", "glue/rte")
      79.49
    """
    found = get_table(table)
    if method not in found["scores"] or task not in found["tasks"]:
        return None
    return found["scores"][method][found["tasks"].index(task)]


def published_table(
    results: Sequence[Result], title: str, *, table: str, backbone: str, all_targets: Sequence[str] = ()
) -> Table | None:
    """Lays out scores beside the paper's: for each method three rows, ours, published and their difference.

    Averages are over the study's targets, ``all_targets``, where both sides have all of them. ``results`` are runs on
    all the data. ``None`` if the paper has none of these methods and targets.
    """
    import pandas as pd

    targets, rows = targets_of(results), {}
    for method, row in by_method(results).items():
        theirs = pd.Series({target: lookup(table, method, target) for target in targets}, dtype=float)
        average = get_table(table)["averages"].get(method) if set(targets) == set(get_table(table)["tasks"]) else None
        ours = pd.Series({target: 100 * row[target].mean for target in row}, dtype=float).reindex(theirs.index)
        texts = pd.Series({target: format_score(row[target]) for target in row}).reindex(theirs.index)
        if (ours - theirs).isna().all() and (average is None or ours.isna().any()):
            continue
        if len(targets) > 1:
            whole = set(targets) >= set(all_targets) and ours.notna().all() and (theirs.notna().all() or average)
            average = theirs.mean() if theirs.notna().all() else average
            ours["average"], theirs["average"] = (ours.mean(), average) if whole else (None, None)
            texts["average"] = f"{ours['average']:.2f}" if whole else None
        rows[method, "ours"] = texts
        rows[method, "published"] = theirs.map("{:.2f}".format, na_action="ignore")
        # + 0: no minus before a zero
        rows[method, "difference"] = ((ours - theirs).round(2) + 0.0).map("{:+.2f}".format, na_action="ignore")
    if not rows:
        return None
    texts = pd.DataFrame({row: values.astype(object).fillna(ABSENT) for row, values in rows.items()}).T
    texts = texts.rename_axis(["method", "scores"]).rename(
        columns={t: f"{t} {metric}" for t, metric in targets.items()}
    )
    defects = [get_table(table)["joint_defects"]] if any(is_joint_label(method) for method, _ in rows) else []
    theirs, name = get_table(table)["backbone"], backbone_name(backbone)
    same = f"of backbone {name}"
    other = f"of ANOTHER BACKBONE, {name}: the differences do not measure how well the paper is reproduced"
    caption = (
        f"Test scores in percent. Published: ScaLearn (arXiv 2310.01217), table {table}, backbone {theirs}, mean over"
        f" seeds. Ours: {describe_seeds(results)}; {describe_tests(results)}; {same if name == theirs else other}"
    )
    caption = ". ".join([caption, *defects])
    return Table(f"{title}: beside the published numbers", texts, caption, group_by="method")


def is_joint_label(method: str) -> bool:
    """Whether the paper's row of this name is of a joint baseline."""
    return method in ("full-m", "adapter-m", "propetl-m", "hyperformer", "hyperformer++")


def backbone_name(backbone: str) -> str:
    """The last part of a backbone's folder or hub id.

    Example:
      >>> backbone_name("FacebookAI/roberta-base"), backbone_name("hub/models--x--roberta-base/snapshots/0a1b/")
      ('roberta-base', 'roberta-base')
    """
    return re.split(r"[/\\]|--", re.sub(r"[/\\](snapshots[/\\].*)?$", "", backbone))[-1]


def published_csv(results: Sequence[Result], table: str) -> str:
    """Formats a line a result that has a published counterpart, in percent."""
    import pandas as pd

    rows = []
    for result in results:
        theirs, ours = lookup(table, result.method, result.target), 100 * result.mean
        if theirs is not None:
            rows.append([result.method, result.target, result.metric, ours, theirs, ours - theirs])
    return to_csv(pd.DataFrame(rows, columns=["method", "target", "metric", "ours", "published", "difference"]))
