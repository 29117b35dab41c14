"""Running studies: every target with every method from one set of source adapters, one folder a cell.

    OUT/study.json       the resolved study
    OUT/adapters/TASK    stage 1, seed 0
    OUT/TARGET/METHOD    a result, all seeds together
    OUT/report           the tables and figures

A cell's folder appears only when it is complete, so a rerun does exactly what is missing.
"""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from scalearn_jax import methods, report, results
from scalearn_jax.config import AdapterConfig, ReportConfig, RunConfig, StudyConfig
from scalearn_jax.errors import InputError
from scalearn_jax.files import write_json
from scalearn_jax.plan import Cell, cells, check
from scalearn_jax.progress import clock
from scalearn_jax.schema import from_dict, problems, read_yaml, to_dict

FORMAT = 1


def run_command(config: RunConfig) -> int:
    """Runs a study file and prints its progress and table; what the command line gives wins over the file.

    Args:
      config: see ``RunConfig``.

    Returns:
      0, or 1 if a cell failed.

    Raises:
      InputError: a bad study, or a folder that holds another one; nothing has been trained then.
    """
    given = {"backbone": config.backbone, "data_dir": config.data_dir, "seeds": config.seeds}
    content = read_yaml(config.study) | {name: value for name, value in given.items() if value is not None}
    study = from_dict(StudyConfig, content, where=config.study)
    return run_study(study, config.out, only=config.only, dry_run=config.dry_run, where=config.study)


def run_study(
    study: StudyConfig, out: str, *, only: str | None = None, dry_run: bool = False, where: str = "the study"
) -> int:
    """Runs what is missing of a study, then makes its report.

    Args:
      study: the study.
      out: folder of the results.
      only: run only cells whose name contains this.
      dry_run: list the cells and stop; nothing is written.
      where: what to call the study in errors.

    Returns:
      0, or 1 if a cell failed.

    Raises:
      InputError: a bad study, or a folder that holds another one; nothing has been trained then.
    """
    found = check(study)
    if found:
        raise problems(where, found)
    check_folder(study, Path(out))
    chosen = [cell for cell in cells(study, out) if (only or "") in cell.name]
    if not chosen:
        raise InputError(f"--only {only}: no cell of the study has this in its name; see --dry-run.")
    if dry_run:
        print("\n".join(f"{'done ' if cell.done else 'to do'}  {cell.name}" for cell in chosen))
        return 0
    _check_inputs(study, [cell for cell in chosen if not cell.done])
    _claim(study, Path(out))
    num_failed = len(chosen) - _run_cells(chosen)
    if any(cell.done for cell in cells(study, out) if not cell.name.startswith(f"{results.ADAPTERS}/")):
        print(f"\n{report.make_report(ReportConfig(dir=out))}")
    if num_failed:
        print(f"scalearn: {num_failed} of {len(chosen)} cells failed; run again to retry them", file=sys.stderr)
    return 1 if num_failed else 0


def check_folder(study: StudyConfig, out: Path) -> None:
    """Checks that a folder is free or holds this very study; nothing is written.

    Raises:
      InputError: it holds something else; differing keys are named.
    """
    if (out / results.STUDY).exists():
        there, here = results.read_study(out), to_dict(study)
        differing = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
        if differing:
            both = "; ".join(f"{name}: there {there.get(name)!r}, here {here.get(name)!r}" for name in differing)
            raise InputError(f"--out {out} holds another study ({both}); choose another folder.")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out} exists and holds no study; choose another folder or remove it.")


def _claim(study: StudyConfig, out: Path) -> None:
    """Writes the study into its folder, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / results.STUDY
    if not path.exists():
        write_json(path, {"format": FORMAT, "study": to_dict(study)})


def _check_inputs(study: StudyConfig, chosen: Sequence[Cell]) -> None:
    """Reads backbone and data once before anything trains, so that a mistake in the last cell is told at once."""
    from scalearn_jax import checks, prepare, runs, soup
    from scalearn_jax.data import splits, tokens

    if not chosen:
        return
    _, spec, _ = runs.load_backbone(study.backbone, study.revision)
    tokens.load_tokenizer(study.backbone, study.revision)
    for embedder in {getattr(cell.config, "embedder", None) for cell in chosen} - {None}:
        soup.load_embedder(embedder)
        tokens.load_tokenizer(embedder, None)
    for cell in chosen:
        task = prepare.resolve_task(cell.config, cell.task)
        num_sources = len(getattr(cell.config, "sources", ()))
        try:
            checks.check_settings(cell.config, methods.get(cell.config.method), task, spec, num_sources)
        except InputError as error:
            raise InputError(f"{cell.name}: {error}") from error
    for task in {cell.task: prepare.resolve_task(cell.config, cell.task) for cell in chosen}.values():
        splits.load_splits(task, data_dir=study.data_dir)


def _run_cells(chosen: Sequence[Cell]) -> int:
    """Runs cells, a line each; returns how many are done in the end."""
    started, num_done = perf_counter(), 0
    for number, cell in enumerate(chosen, start=1):
        began = perf_counter()
        try:
            how = "was there" if cell.done else _run(cell)
            num_done += 1
            outcome = f"{how}  {_score(cell)}"
        except Exception as error:  # one cell must not take the others with it
            if not isinstance(error, InputError):
                traceback.print_exc()
            outcome = f"FAILED  {type(error).__name__}: {error}"
        now = perf_counter()
        times = f"{clock(now - began)}, {clock(now - started)} in all"
        print(f"[{number}/{len(chosen)}] {cell.name}  {outcome}  ({times})", flush=True)
    return num_done


def _run(cell: Cell) -> str:
    from scalearn_jax import pipeline

    if isinstance(cell.config, AdapterConfig):
        pipeline.train_adapter(cell.config)
        return "done"
    missing = [source for source in cell.config.sources if not (Path(source) / "run.json").exists()]
    if missing:
        raise InputError(f"needs source adapters that are not there: {', '.join(missing)}")
    pipeline.transfer(cell.config)
    return "done"


def _score(cell: Cell) -> str:
    result = results.read_result(Path(cell.config.out))
    return f"{result.metric} {results.spread(result)}"
