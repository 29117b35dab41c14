"""What is checked before a study trains anything: its folder, its backbone, and the data and settings of every cell."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scalearn_jax import methods
from scalearn_jax.config import StudyConfig
from scalearn_jax.config.schema import from_dict, problems, to_dict
from scalearn_jax.errors import InputError
from scalearn_jax.models import pretrained
from scalearn_jax.studies import results
from scalearn_jax.studies.cells import Cell, cells, check

# What a run folder may hold.
RUN_FILES = (
    *("run.json", "results.json", "metrics.jsonl", "timing.jsonl", "seed-*.safetensors", "frozen.safetensors"),
    *("explain", "checkpoints", ".lock", ".owner"),
)


def check_folder(study: StudyConfig, out: Path) -> None:
    """Checks that a folder is free, or holds this study or a part of it; nothing is written.

    A study may grow, by a target, a method or a number of shots; the cells that are there must stay as they are.

    Raises:
      InputError: it holds something else; differing keys are named.
    """
    if (out / results.STUDY).exists():
        there, here = results.read_study(out), to_dict(study)
        if there != here and not _grown(there, study, str(out)):
            differing = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
            both = "; ".join(f"{name}: there {there.get(name)!r}, here {here.get(name)!r}" for name in differing)
            raise InputError(f"--out {out} holds another study ({both}); choose another folder.")
    elif out.exists() and (not out.is_dir() or any(not _is_half(path) for path in out.iterdir())):
        raise InputError(f"--out {out} exists and holds no study; choose another folder or remove it.")


def _is_half(path: Path) -> bool:
    """Whether a process was killed while it wrote the study there."""
    return path.name.startswith(f".{results.STUDY}.")


def _grown(there: dict[str, Any], study: StudyConfig, out: str) -> bool:
    """Whether a study has all cells of the one that a folder holds, each with the same config."""
    try:
        before = from_dict(StudyConfig, there)
        if check(before) or before.name != study.name:
            return False
    except InputError:  # written by another version
        return False
    now = {cell.name: cell.config for cell in cells(study, out)}
    return all(now.get(cell.name) == cell.config for cell in cells(before, out))


def check_inputs(study: StudyConfig, missing: Sequence[Cell], where: str) -> None:
    """Reads backbone and data once before anything trains, so that a mistake in the last cell is told at once.

    Args:
      study: the study.
      missing: the cells that are to run.
      where: what to call the study in errors.

    Raises:
      InputError: names everything that is wrong, in one line.
    """
    from scalearn_jax.data import tokens
    from scalearn_jax.stages import soup

    if not missing:
        return
    found = _data_problems(study, missing)
    if study.adapters and os.path.lexists(study.adapters) and not Path(study.adapters).is_dir():
        found.append(f"adapters: {study.adapters} is no folder; name one, which need not be there yet")
    try:
        allowed = _all_allow_pickle(missing)
        _, spec, backbone_hash = pretrained.load_hashed_backbone(study.backbone, study.revision, allow_pickle=allowed)
        tokens.load_tokenizer(study.backbone, study.revision)
        found += [*_setting_problems(missing, spec), *_adapter_problems(study, missing, backbone_hash)]
    except InputError as error:
        found.append(str(error))
    for embedder in sorted({getattr(cell.config, "embedder", None) for cell in missing} - {None}):
        try:
            users = [cell for cell in missing if getattr(cell.config, "embedder", None) == embedder]
            soup.load_embedder(embedder, allow_pickle=_all_allow_pickle(users))
            tokens.load_tokenizer(embedder, None)
        except InputError as error:
            found.append(str(error))
    if found:
        raise problems(where, list(dict.fromkeys(found)))


def _all_allow_pickle(cells: Sequence[Cell]) -> bool:
    """Whether all cells may read pickles; one that may not would fail later."""
    return all(cell.config.allow_pickle for cell in cells)


def _setting_problems(missing: Sequence[Cell], spec: Any) -> Iterator[str]:
    from scalearn_jax.stages import checks, prepare

    for cell in missing:
        task, method = prepare.resolve_task(cell.config, cell.task), methods.get(cell.config.method)
        try:
            checks.check_settings(cell.config, method, task, spec, len(getattr(cell.config, "sources", ())))
            prepare.compute_dtype(cell.config)
            prepare.make_mesh(cell.config, spec)
        except InputError as error:
            yield f"{cell.name}: {error}"


def _adapter_problems(study: StudyConfig, missing: Sequence[Cell], backbone_hash: str) -> Iterator[str]:
    """Finished source adapters of another backbone, which ``adapters`` of a study may bring."""
    from scalearn_jax.runs import run_json as run_info

    for path in dict.fromkeys(path for cell in missing for path in getattr(cell.config, "sources", ())):
        if study.adapters and (Path(path) / "run.json").exists():
            found = run_info.read_info(Path(path))["backbone"].get("hash")
            if found != backbone_hash:
                yield f"adapters: {path} was trained on backbone {str(found)[:12]}, this one is {backbone_hash[:12]}"


def _data_problems(study: StudyConfig, missing: Sequence[Cell]) -> list[str]:
    from scalearn_jax.data import splits
    from scalearn_jax.stages import prepare

    found = []
    for task in {cell.task: prepare.resolve_task(cell.config, cell.task) for cell in missing}.values():
        try:
            splits.load_splits(task, data_dir=study.data_dir)
        except InputError as error:
            found.append(str(error))
    return found


def clear(folder: Path) -> None:
    """Removes what is left of a damaged run, so that it is made again; nothing else is ever removed.

    Raises:
      InputError: the folder holds files that no run writes.
    """
    if not folder.is_dir():
        return
    strange = [path.name for path in folder.iterdir() if not any(path.match(pattern) for pattern in RUN_FILES)]
    if strange:
        raise InputError(f"{folder} is no whole run and holds {', '.join(sorted(strange)[:3])}; move it away.")
    shutil.rmtree(folder)
