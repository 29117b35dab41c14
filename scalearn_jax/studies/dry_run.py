"""What a study will do and how long it may take, before it starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalearn_jax.config import AdapterConfig, StudyConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io import text_table
from scalearn_jax.io.progress import format_duration
from scalearn_jax.models import pretrained
from scalearn_jax.studies.cells import Cell

_DECIDE_DATA = ("backbone", "revision", "data_dir", "max_train_samples", "max_eval_samples", "max_dev_samples")


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
    return f"{text_table.plain(['state', 'cell', 'steps', 'about'], lines)}\n\n{len(chosen)} cells; {summary}"


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
