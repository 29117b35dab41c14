"""The tables of a study, and the figures of its scores and of what was learned."""

import importlib.util
import sys
from pathlib import Path

from scalearn_jax.config import ReportConfig, takes
from scalearn_jax.errors import InputError, printable
from scalearn_jax.io.atomic_folder import check_folder
from scalearn_jax.io.files import write_text
from scalearn_jax.studies import figures, intervals, published, significance, tables
from scalearn_jax.studies.figures import read_omegas
from scalearn_jax.studies.results import REPORT, STUDY, read_results, read_study


@takes(ReportConfig, "dir")
def make_report(config: ReportConfig, *, strict: bool = True) -> str:
    """Writes what applies to a folder's results.

    ``table`` and ``few-shot`` hold scores, ``published`` sets them beside the paper's, ``significance`` compares
    methods with AdapterFusion, the single adapter, the constant and the best source, ``intervals`` says how far those
    of solved scales are true (Markdown, LaTeX and CSV each); ``probing.csv`` holds probing scores. Figures are PNG and
    SVG: ``omega-METHOD``, ``score-vs-parameters``, ``few-shot``, ``probing-single`` and ``probing-pairs-TARGET``.

    Args:
      config: see ``ReportConfig``.
      strict: whether a damaged run is an error, or named on standard error and left out.

    Returns:
      The tables of scores as Markdown, which also reads well as it is.

    Raises:
      InputError: no finished run in the folder, a damaged one, or a place that cannot be written; nothing is written
        then, but for figures of weights that turn out damaged while they are drawn.

    Example:
      >>> print(make_report("runs/study"))  # doctest: +SKIP
    """
    root = Path(config.dir)
    results = read_results(root, strict=strict)
    study = read_study(root) if (root / STUDY).exists() else {"name": printable(root.resolve().name)}
    out = check_folder(Path(config.out) if config.out else root / REPORT)
    title, targets, table = study["name"], study.get("targets", ()), study.get("published")
    if table:
        published.get_table(table)
    plain = [result for result in results if not result.shots and not result.coefficients]
    few_shot = [result for result in results if result.shots]
    probing = [result for result in results if result.coefficients]
    missing = [name for name in ("matplotlib", "adjustText") if importlib.util.find_spec(name) is None]
    if strict and not missing:
        read_omegas(plain)  # a run without its weights is reported before anything is written
    out.mkdir(parents=True, exist_ok=True)
    texts = []
    if plain:
        texts.append(_write_table(tables.main_table(plain, title, targets), tables.scores_csv(plain), out, "table"))
    if few_shot:
        laid_out = tables.few_shot_table(few_shot, title, targets)
        lines = tables.scores_csv(few_shot, ("method", "target", "shots"))
        texts.append(_write_table(laid_out, lines, out, "few-shot"))
    if plain and table:
        beside = published.published_table(plain, title, table=table, backbone=study["backbone"], all_targets=targets)
        if beside:
            texts.append(_write_table(beside, published.published_csv(plain, table), out, "published"))
        else:
            texts.append(f"No result has a published counterpart in {table}.")
    if probing:
        write_text(out / "probing.csv", tables.probing_csv(probing))
        texts.append(f"{len(probing)} probing results: {printable(str(out / 'probing.csv'))}")
    if comparisons := significance.compare_all([*plain, *few_shot]):
        laid_out = significance.significance_table(comparisons, title, tables.describe_tests([*plain, *few_shot]))
        _write_table(laid_out, significance.significance_csv(comparisons), out, "significance")
    if len(found := intervals.compare_draws(few_shot)):
        _write_table(intervals.intervals_table(found, title), tables.to_csv(found), out, "intervals")
    if missing:
        print(f"no figures: {missing[0]} is not installed; pip install 'scalearn-jax[plots]'", file=sys.stderr)
        return "\n\n".join(texts)
    try:
        figures.draw_all(results, out)
    except InputError as error:  # a run without weights
        if strict:
            raise
        print(f"not all figures: {error}", file=sys.stderr)
    return "\n\n".join(texts)


def _write_table(table: tables.Table, comma_separated: str, out: Path, name: str) -> str:
    """Writes a table in its three formats; returns its Markdown."""
    text = tables.markdown(table)
    for suffix, content in {"md": text + "\n", "tex": tables.latex(table), "csv": comma_separated}.items():
        write_text(out / f"{name}.{suffix}", content)
    return text
