"""What is checked before a study trains anything: the study, its folder, its backbone, and the data of every cell."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from scalearn_jax import methods
from scalearn_jax.config import AdapterConfig, StudyConfig, TransferConfig
from scalearn_jax.config.checks import fields_where
from scalearn_jax.config.schema import check_values, from_dict, problems, to_dict
from scalearn_jax.config.stages import foreign_settings
from scalearn_jax.data import tasks
from scalearn_jax.errors import InputError
from scalearn_jax.io.hub_folder import split_alias
from scalearn_jax.models import pretrained
from scalearn_jax.studies import published, results
from scalearn_jax.studies.cells import SELF, STAGES, Cell, cells, given_sources, method_of, recipes

_SET_BY_STUDY = {*fields_where(AdapterConfig, "by_study"), *fields_where(TransferConfig, "by_study")}
# What a run folder may hold.
RUN_FILES = (
    *("run.json", "results.json", "metrics.jsonl", "timing.jsonl", "seed-*.safetensors", "frozen.safetensors"),
    *("explain", "checkpoints", ".lock", ".owner"),
)


def study_problems(study: StudyConfig) -> list[str]:
    """Lists everything wrong with a study: unknown tasks, methods and fields, bad values, clashing names."""
    found = [*_name_problems(study), *_probe_problems(study), *_override_problems(study)]
    if not found and not study.sources:
        needing = [label for label in study.methods if methods.get(method_of(study, label)).uses_sources]
        if needing:
            return [f"sources: empty, but {', '.join(map(repr, needing))} need source adapters; name source tasks"]
    return list(dict.fromkeys(found or _recipe_problems(study)))


def _name_problems(study: StudyConfig) -> Iterator[str]:
    sources = given_sources(study)
    for name in (*(name for name, given in sources.items() if given is None), *study.targets):
        if name.endswith((".yaml", ".yml", ".json")):
            yield f"task {name!r}: a study names tasks, not files; put the file at DATA_DIR/NAME/task.yaml"
        else:
            yield from _error_of(lambda name=name: tasks.get(name, data_dir=study.data_dir))
    for label in study.methods:
        yield from _error_of(lambda label=label: methods.get(method_of(study, label)))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+._-]*", label):
            yield f"method {label!r}: a name starts with a letter or digit and holds letters, digits, + - . _ only"
    yield from (
        f"sources: {name!r} is an adapter that is there, but few-shot cells train the target's own; name the task alone"
        for name, given in sources.items()
        if given and study.shots and name in study.targets
    )
    for key in ("sources", "targets", "methods"):
        names = [split_alias(name)[0] or name if key == "sources" else name for name in getattr(study, key)]
        yield from (f"{key}: {name!r} is listed twice" for name in set(names) if names.count(name) > 1)
        if not names and key != "sources" and not (key == "methods" and study.probe_sources):
            yield f"{key}: expected at least one"
    if study.published is not None:
        yield from _error_of(lambda: published.get_table(study.published), "published: ")


def _probe_problems(study: StudyConfig) -> Iterator[str]:
    if bool(study.probe_sources) != bool(study.probe_constants):
        yield "probe_sources and probe_constants: expected both or neither"
    for group in study.probe_sources:
        for task in study.targets:
            names = [task if name == SELF else name for name in group]
            strange = [name for name in names if name not in given_sources(study)]
            yield from (f"probe_sources: {name!r} is not among the sources" for name in strange)
            if not names or len(set(names)) < len(names):
                yield f"probe_sources: {list(group)} names no source, or one twice, for target {task!r}"


def _override_problems(study: StudyConfig) -> Iterator[str]:
    yield from _field_problems("stage1", AdapterConfig, study.stage1)
    yield from _field_problems("stage2", TransferConfig, study.stage2)
    for task, values in study.tasks.items():
        both = {name: value for name, value in values.items() if name not in STAGES}
        yield from _field_problems(f"tasks: {task}", TransferConfig, both, allowed=("seeds",))
        for stage, cls in STAGES.items():
            given = values.get(stage, {})
            if isinstance(given, dict):
                yield from _field_problems(f"tasks: {task}: {stage}", cls, given)
            else:
                yield f"tasks: {task}: {stage}: expected keys and values, got {given!r}"
        if task not in (*given_sources(study), *study.targets):
            yield f"tasks: {task!r} is neither a source nor a target of the study"
    for label, values in study.methods_options.items():
        row = methods.METHODS.get(method_of(study, label))
        yield from _field_problems(f"methods_options: {label}", TransferConfig, values, allowed=("method", "seeds"))
        foreign = foreign_settings(row, values) if row else []
        yield from (f"methods_options: {label}: {flag!r} does not apply to this method" for flag in foreign)
        implied = [name for name, used in (("fixed", study.probe_sources), ("single", study.shots)) if used]
        if label not in (*study.methods, *implied):
            yield f"methods_options: {label!r} is not among the study's methods"


def _field_problems(place: str, cls: type, values: dict[str, Any], allowed: tuple[str, ...] = ()) -> Iterator[str]:
    fixed = (_SET_BY_STUDY | {"method"}) - set(allowed)
    yield from (f"{place}: key {name!r} is set by the study itself" for name in values if name in fixed)
    _, found = check_values(cls, {name: value for name, value in values.items() if name not in fixed})
    yield from (f"{place}: {problem}" for problem in found)


def _recipe_problems(study: StudyConfig) -> Iterator[str]:
    """Cells whose folders would lie inside one another, and those whose config is refused."""
    resolved = recipes(study, "")
    names = [results.REPORT, *(recipe.name for recipe in resolved)]
    yield from (f"two cells would be called {name!r}" for name in names if names.count(name) > 1)
    for name in names:
        parents = {str(parent) for parent in PurePosixPath(name).parents}
        yield from (f"the folder of {name!r} would lie inside that of {other!r}" for other in parents & set(names))
    for recipe in resolved:
        yield from _error_of(lambda recipe=recipe: recipe.cls(**recipe.values), f"{recipe.name}: ")


def _error_of(function: Callable[[], Any], prefix: str = "") -> Iterator[str]:
    """Calls a function; yields what it finds wrong."""
    try:
        function()
    except InputError as error:
        yield f"{prefix}{error}"


def check_folder(study: StudyConfig, out: Path) -> None:
    """Checks that a folder is free, or holds this study or a part of it; nothing is written.

    A study may grow, by a target, a method or a number of shots; the cells that are there must stay as they are.
    """
    if (out / results.STUDY).exists():
        there, here = results.read_study(out), to_dict(study)
        if there != here and not _is_grown(there, study, str(out)):
            differing = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
            both = "; ".join(f"{name}: there {there.get(name)!r}, here {here.get(name)!r}" for name in differing)
            raise InputError(f"--out {out} holds another study ({both}); choose another folder.")
        return
    unfinished = f".{results.STUDY}."  # of a process that was killed while it wrote the study
    if out.exists() and (not out.is_dir() or any(not path.name.startswith(unfinished) for path in out.iterdir())):
        raise InputError(f"--out {out} exists and holds no study; choose another folder or remove it.")


def _is_grown(there: dict[str, Any], study: StudyConfig, out: str) -> bool:
    """Whether a study has all cells of the one that a folder holds, each with the same config."""
    try:
        before = from_dict(StudyConfig, there)
        if study_problems(before) or before.name != study.name:
            return False
    except InputError:  # written by another version
        return False
    now = {cell.name: cell.config for cell in cells(study, out)}
    return all(now.get(cell.name) == cell.config for cell in cells(before, out))


def check_inputs(study: StudyConfig, missing: Sequence[Cell], where: str) -> None:
    """Reads the backbone and data of the missing cells before anything trains; one error names all that is wrong.

    So a mistake in the last cell is reported at once. ``where`` is the study's name in errors.
    """
    from scalearn_jax.data import splits, tokens
    from scalearn_jax.runs.sources import check_sources, load_source
    from scalearn_jax.stages import prepare, soup

    if not missing:
        return
    found: list[str] = []
    for task in {cell.task: prepare.resolve_task(cell.config, cell.task) for cell in missing}.values():
        found += _error_of(lambda task=task: splits.load_splits(task, data_dir=study.data_dir))
    if study.adapters and os.path.lexists(study.adapters) and not Path(study.adapters).is_dir():
        found.append(f"adapters: {study.adapters} is no folder; name one, which need not be there yet")
    try:  # pickles only where every cell may read them: one that may not would fail later
        allowed = all(cell.config.allow_pickle for cell in missing)
        _, spec, backbone_hash = pretrained.load_hashed_backbone(study.backbone, study.revision, allow_pickle=allowed)
        tokenizer = tokens.load_tokenizer(study.backbone, study.revision)
        found += [*_setting_problems(missing, spec, tokenizer), *_adapter_problems(study, missing, backbone_hash)]
        given = [load_source(text, allow_pickle=allowed) for text in given_sources(study).values() if text]
        check_sources(given, spec, backbone_hash)
    except InputError as error:
        found.append(str(error))
    for embedder in sorted({getattr(cell.config, "embedder", None) for cell in missing} - {None}):
        users = [cell for cell in missing if getattr(cell.config, "embedder", None) == embedder]
        try:
            soup.load_embedder(embedder, allow_pickle=all(cell.config.allow_pickle for cell in users))
            tokens.load_tokenizer(embedder, None)
        except InputError as error:
            found.append(str(error))
    if found:
        raise problems(where, list(dict.fromkeys(found)))


def _setting_problems(missing: Sequence[Cell], spec: Any, tokenizer: Any) -> Iterator[str]:
    from scalearn_jax.data import tokens
    from scalearn_jax.stages import prepare

    for cell in missing:
        task, method = prepare.resolve_task(cell.config, cell.task), methods.get(cell.config.method)
        try:
            prepare.check_settings(cell.config, method, task, spec, len(getattr(cell.config, "sources", ())))
            prepare.compute_dtype(cell.config)
            prepare.make_mesh(cell.config, spec)
            tokens.check_room(tokenizer, task, task.max_length)
        except InputError as error:
            yield f"{cell.name}: {error}"


def _adapter_problems(study: StudyConfig, missing: Sequence[Cell], backbone_hash: str) -> Iterator[str]:
    """Finished source adapters of another backbone, which ``adapters`` of a study may bring."""
    from scalearn_jax.runs import run_json

    for path in dict.fromkeys(path for cell in missing for path in getattr(cell.config, "sources", ())):
        if study.adapters and (Path(path) / "run.json").exists():
            found = run_json.read_info(Path(path))["backbone"].get("hash")
            if found != backbone_hash:
                yield f"adapters: {path} was trained on backbone {str(found)[:12]}, this one is {backbone_hash[:12]}"


def clear_damaged_run(folder: Path) -> None:
    """Removes what is left of a damaged run, so that it is made again; files that no run writes are an error."""
    if not folder.is_dir():
        return
    strange = [path.name for path in folder.iterdir() if not any(path.match(pattern) for pattern in RUN_FILES)]
    if strange:
        raise InputError(f"{folder} is no whole run and holds {', '.join(sorted(strange)[:3])}; move it away.")
    shutil.rmtree(folder)
