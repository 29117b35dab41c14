"""The tables of a study, and the figures of its scores and of what was learned."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from scalearn_jax.config import ReportConfig
from scalearn_jax.errors import InputError, printable
from scalearn_jax.io.atomic_folder import check_folder
from scalearn_jax.io.files import write_text
from scalearn_jax.io.text_table import Table, latex, markdown
from scalearn_jax.studies import comparison, figures, published, significance
from scalearn_jax.studies import tables as score_tables
from scalearn_jax.studies.figures import omega
from scalearn_jax.studies.results import REPORT, STUDY, Result, read_results, read_study


def make_report(config: ReportConfig, *, strict: bool = True) -> str:
    """Writes what applies to a folder's results.

    ``table`` and ``few-shot`` hold scores, ``published`` sets them beside the paper's, ``significance`` compares
    methods with AdapterFusion and the single adapter (Markdown, LaTeX and CSV each); ``probing.csv`` holds probing
    scores. Figures are PNG and SVG: ``omega-METHOD``, ``score-vs-parameters``, ``few-shot``, ``probing-single`` and
    ``probing-pairs-TARGET``.

    Args:
      config: see ``ReportConfig``.
      strict: whether a damaged run is an error, or named on standard error and left out.

    Returns:
      The tables of scores as Markdown, which also reads well as it is.

    Raises:
      InputError: no finished run in the folder, a damaged one, or a place that cannot be written; nothing is written
        then, but for figures of weights that turn out damaged while they are drawn.
    """
    root = Path(config.dir)
    results = read_results(root, strict=strict)
    study = read_study(root) if (root / STUDY).exists() else {"name": printable(root.resolve().name)}
    out = check_folder(Path(config.out) if config.out else root / REPORT)
    if name := study.get("published"):
        published.get(name)
    plain = [result for result in results if not result.shots and not result.coefficients]
    if strict and _can_draw():
        omega.read_omegas(plain)  # a run without its weights is told before anything is written
    out.mkdir(parents=True, exist_ok=True)
    probing = [result for result in results if result.coefficients]
    few_shot = [result for result in results if result.shots]
    texts = _write_scores(plain, few_shot, study, out)
    if probing:
        write_text(out / "probing.csv", score_tables.probing_csv(probing))
        texts.append(f"{len(probing)} probing results: {printable(str(out / 'probing.csv'))}")
    if comparisons := significance.compare_all([*plain, *few_shot]):
        _write(significance.as_table(comparisons, study["name"]), significance.as_csv(comparisons), out, "significance")
    _draw(results, out, strict)
    return "\n\n".join(texts)


def _write_scores(plain: Sequence[Result], few_shot: Sequence[Result], study: dict, out: Path) -> list[str]:
    texts, title, targets = [], study["name"], study.get("targets", ())
    if plain:
        texts.append(
            _write(score_tables.main_table(plain, title, targets), score_tables.scores_csv(plain), out, "table")
        )
    if few_shot:
        table = score_tables.few_shot_table(few_shot, title, targets)
        texts.append(_write(table, score_tables.few_shot_csv(few_shot), out, "few-shot"))
    if plain and (name := study.get("published")):
        where = {"table": name, "backbone": study["backbone"], "all_targets": targets}
        table = comparison.published_table(plain, title, **where)
        if table.groups:
            texts.append(_write(table, comparison.published_csv(plain, name), out, "published"))
        else:
            texts.append(f"No result has a published counterpart in {name}.")
    return texts


def _write(table: Table, comma_separated: str, out: Path, name: str) -> str:
    """Writes a table in its three formats; returns its Markdown."""
    text = markdown(table)
    for suffix, content in {"md": text + "\n", "tex": latex(table), "csv": comma_separated}.items():
        write_text(out / f"{name}.{suffix}", content)
    return text


def _can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _draw(results: Sequence[Result], out: Path, strict: bool) -> None:
    """Draws the figures, or says in a line why there are none."""
    if not _can_draw():
        print("no figures: matplotlib is not installed; pip install 'scalearn-jax[plots]'", file=sys.stderr)
        return
    try:
        figures.draw_all(results, out)
    except InputError as error:  # a run without weights
        if strict:
            raise
        print(f"not all figures: {error}", file=sys.stderr)
