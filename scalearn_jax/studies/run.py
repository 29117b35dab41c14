"""Running studies: every target with every method from one set of source adapters, one folder a cell.

    OUT/study.json       the resolved study
    OUT/adapters/TASK            stage 1, seed 0
    OUT/TARGET/METHOD            a result, all seeds together
    OUT/TARGET/K-shot/METHOD     the same from K examples
    OUT/TARGET/probe/CONSTANTS   the same with constant coefficients
    OUT/report                   the tables and figures

A cell's folder appears only when it is complete, so a rerun does exactly what is missing.
"""

import dataclasses
import math
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from scalearn_jax.config import AdapterConfig, ReportConfig, RunConfig, StudyConfig
from scalearn_jax.config.checks import parse_shard
from scalearn_jax.config.schema import from_dict, problems, to_dict
from scalearn_jax.errors import STOPPED, InputError, format_value
from scalearn_jax.io import terminal
from scalearn_jax.io.atomic_folder import SCRATCH, Busy, is_being_written, tidy
from scalearn_jax.io.files import write_json
from scalearn_jax.io.hub_folder import split_alias
from scalearn_jax.io.terminal import format_duration
from scalearn_jax.io.yaml_file import read_yaml
from scalearn_jax.models import pretrained
from scalearn_jax.studies import checks, report, results
from scalearn_jax.studies.cells import Cell, cells

FORMAT = 1
_POLL_SECONDS = 2.0


def run_command(config: RunConfig) -> int:
    """Runs a study file and prints its progress and table; what the command line gives wins over the file.

    Args:
      config: see ``RunConfig``.

    Returns:
      As ``run_study``.

    Raises:
      InputError: a bad study, or a folder that holds another one; nothing has been trained then.
    """
    content = read_yaml(config.study)
    for name in ("backbone", "data_dir", "seeds"):
        if getattr(config, name) is not None:
            content[name] = getattr(config, name)
    study = from_dict(StudyConfig, content, where=config.study)
    if config.seeds is not None:
        plain = {task: {k: v for k, v in values.items() if k != "seeds"} for task, values in study.tasks.items()}
        study = dataclasses.replace(study, tasks=plain)
    return run_study(
        study,
        config.out,
        only=config.only,
        share=parse_shard(config.shard) if config.shard else (1, 1),
        max_minutes=config.max_minutes,
        dry_run=config.dry_run,
        where=config.study,
    )


def run_study(
    study: StudyConfig,
    out: str,
    *,
    only: str | None = None,
    share: tuple[int, int] = (1, 1),
    max_minutes: float | None = None,
    dry_run: bool = False,
    where: str = "the study",
) -> int:
    """Runs what is missing of a study, then makes its report.

    Args:
      study: the study.
      out: folder of the results.
      only: run only cells whose name contains this.
      share: (i, n), run only every n-th cell from the i-th on, for n processes on one folder.
      max_minutes: start no cell after this time.
      dry_run: list the cells and stop; nothing is written.
      where: what to call the study in errors.

    Returns:
      0, 1 if a cell failed, or 75 if the time was up before all was done.

    Raises:
      InputError: a bad study, or a folder that holds another one; nothing has been trained then.
    """
    if not isinstance(study, StudyConfig):
        raise InputError(f"study: expected a StudyConfig, got {format_value(study)}; `scalearn run` takes a file.")
    found = checks.study_problems(study)
    if found:
        raise problems(where, found)
    checks.check_folder(study, Path(out))
    chosen = _share([cell for cell in cells(study, out) if (only or "") in cell.name], share)
    if not chosen:
        raise InputError(f"no cell of the study is left by --only {only} and --shard; see --dry-run.")
    if dry_run:
        print(cells_with_costs(study, chosen))
        return 0
    checks.check_inputs(study, [cell for cell in chosen if not cell.done], where)
    Path(out).mkdir(parents=True, exist_ok=True)
    write_json(Path(out) / results.STUDY, {"format": FORMAT, "study": to_dict(study)})
    num_failed, num_left = _run_cells(chosen, 60 * max_minutes if max_minutes is not None else math.inf)
    if any(cell.done and not cell.is_source for cell in cells(study, out)):
        # Not strict: a damaged cell outside this part of the study is left out of its table.
        print(f"\n{report.make_report(ReportConfig(dir=out), strict=False)}")
    if num_failed:
        print(f"scalearn: {num_failed} of {len(chosen)} cells failed; run again to retry them", file=sys.stderr)
    if num_left:
        print(f"scalearn: the time is up, {num_left} of {len(chosen)} cells are left; run again", file=sys.stderr)
    return 1 if num_failed else STOPPED if num_left else 0


def _share(chosen: Sequence[Cell], share: tuple[int, int]) -> list[Cell]:
    """Deals the cells to n processes. All need every source adapter: each makes its own first, then the others'."""
    number, count = share
    sources = [cell for cell in chosen if cell.is_source]
    own = sources[number - 1 :: count]
    others = [cell for cell in sources if cell not in own]
    return [*own, *others, *[cell for cell in chosen if not cell.is_source][number - 1 :: count]]


def _run_cells(chosen: Sequence[Cell], seconds: float) -> tuple[int, int]:
    """Runs cells, a line each, and starts none after some seconds; returns how many failed and how many are left."""
    started, num_failed = perf_counter(), 0
    until = started + seconds
    for number, cell in enumerate(chosen, start=1):
        began = perf_counter()
        try:
            how = _run(cell, until)
            if not how:
                return num_failed, sum(not cell.done for cell in chosen[number - 1 :])
            result = results.read_result(Path(cell.config.out))
            lost = f"  LOST seeds {' '.join(map(str, result.lost))}" if result.lost else ""
            outcome = f"{how}  {result.metric} {results.format_score(result)}{lost}"
        except Exception as error:  # the other cells go on
            if not isinstance(error, InputError | FloatingPointError | OSError):  # whose text is enough
                traceback.print_exc()
            num_failed += 1
            outcome = f"FAILED  {type(error).__name__}: {error}"
        now = perf_counter()
        times = f"{format_duration(now - began)}, {format_duration(now - started)} in all"
        print(f"[{number}/{len(chosen)}] {cell.name}  {outcome}  ({times})", flush=True)
    return num_failed, 0


def _run(cell: Cell, until: float) -> str:
    """Makes a cell, or waits while another process makes it or a source of it; empty when the time is up."""
    while not cell.done:
        while any(map(is_being_written, [cell.config.out, *getattr(cell.config, "sources", ())])):
            if perf_counter() >= until:
                return ""
            sleep(_POLL_SECONDS)
        if cell.done:
            break
        if perf_counter() >= until:
            return ""
        checks.clear_damaged_run(Path(cell.config.out))
        try:
            _train(cell)
            return "done"
        except InputError as error:  # another process may have begun it since
            if not isinstance(error, Busy) and not cell.done:
                raise
    tidy(Path(cell.config.out), SCRATCH)
    return "was there"


def _train(cell: Cell) -> None:
    from scalearn_jax.stages import pipeline

    if cell.is_source or cell.is_joint:
        (pipeline.train_adapter if cell.is_source else pipeline.train_joint)(cell.config)
        return
    trained = [source for source in cell.config.sources if split_alias(source)[0] is None]
    missing = [source for source in trained if not (Path(source) / "run.json").exists()]
    if missing:
        raise InputError(f"needs source adapters that are not there: {', '.join(missing)}")
    pipeline.transfer(cell.config)


_DECIDE_DATA = ("backbone", "revision", "data_dir", "max_train_samples", "sample_seed", "max_eval_samples")
_DECIDE_DATA += ("max_dev_samples",)


def cells_with_costs(study: StudyConfig, chosen: Sequence[Cell]) -> str:
    """Lists some cells of a study with their steps and about how long each will take, and the time of all missing ones.

    Nothing is fetched from the hub: "-" stands where backbone or data are not on this machine.
    """
    costs, reason = _costs(study, [cell for cell in chosen if not cell.done])
    lines = []
    for cell in chosen:
        cost = costs.get(cell.name)
        numbers = [str(cost.steps), format_duration(cost.seconds)] if cost else ["-", "-"]
        lines.append(["done" if cell.done else "to do", cell.name, *numbers])
    total = sum(cost.seconds for cost in costs.values())
    summary = f"about {format_duration(total)} on this machine, half or double is possible" if costs else reason
    if costs and any(cell.is_joint and not cell.done for cell in chosen):
        summary += ", and the joint cells, which `scalearn plan train-joint` measures"
    return f"{terminal.plain(['state', 'cell', 'steps', 'about'], lines)}\n\n{len(chosen)} cells; {summary}"


def _costs(study: StudyConfig, missing: Sequence[Cell]) -> tuple[dict[str, Any], str]:
    """The cost of cells by name, and why there is none where there is none."""
    if not missing:
        return {}, "all done"
    if not Path(study.backbone).is_dir():
        return {}, f"no estimate: the backbone {study.backbone} is not a folder of this machine"
    from scalearn_jax.stages import prepare
    from scalearn_jax.stages.planning import estimate

    spec, costs, encoded = pretrained.backbone_spec(study.backbone), {}, {}
    try:
        for cell in missing:
            if cell.is_joint:
                continue
            task = prepare.resolve_task(cell.config, cell.task)
            if study.data_dir is None and task.hub is not None:
                return {}, "no estimate: the data are on the hub; --data-dir names a local folder"
            # Cells whose data are the same share them.
            source = AdapterConfig(task="", out="", **{name: getattr(cell.config, name) for name in _DECIDE_DATA})
            if (source, task) not in encoded:
                tables = prepare.load_tables(source, task)
                encoded[source, task] = prepare.encode_tables(source, task, spec, tables)
            num_sources = len(getattr(cell.config, "sources", ()))
            costs[cell.name] = estimate.cost(cell.config, task, spec, encoded[source, task], num_sources)
    except InputError as error:
        return {}, f"no estimate: {error}"
    return costs, ""
