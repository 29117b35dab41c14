"""What the command line prints as tables: the names one can choose from, and the scores of a run."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scalearn_jax.config import ListConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io import terminal
from scalearn_jax.io.terminal import NO_SHARES, format_duration, format_score
from scalearn_jax.train.memory import format_bytes

_LABELS = 8  # that are named


def list_names(config: ListConfig) -> str:
    """Returns a table of the tasks, methods or backbones that one can choose from."""
    if config.data_dir and config.what != "tasks":
        raise InputError(f"--data-dir lists tasks, not {config.what}; leave it out.")
    if config.data_dir:
        return _list_found(Path(config.data_dir))
    if config.what == "tasks":
        from scalearn_jax.data import tasks

        rows = []
        for name, task in tasks.known().items():
            labels = ", ".join(task.labels[:_LABELS]) or "-"
            labels += f", ... ({len(task.labels)})" if len(task.labels) > _LABELS else ""
            rows.append([name, task.kind, task.metrics[0], labels, ", ".join(task.texts), ", ".join(task.metrics[1:])])
        header = ["task", "kind", "main metric", "labels", "text", "other metrics"]
        return terminal.plain(header, rows, width=terminal.width())
    if config.what == "methods":
        from scalearn_jax.methods import JOINT, METHODS

        def described(name: str, sources: str, row: Any) -> list[str]:
            return [name, row.about, f"{row.learning_rate:g}", sources, ", ".join(row.trainable)]

        rows = [described(name, "yes" if row.uses_sources else "no", row) for name, row in METHODS.items()]
        rows += [described(f"train-joint {name}", "no", row) for name, row in JOINT.items()]
        return terminal.plain(["method", "about", "rate", "sources", "trains"], rows, width=terminal.width())
    from scalearn_jax.models.backbones import BACKBONES

    rows = [[name, row.about] for name, row in BACKBONES.items()]
    return terminal.plain(["model_type", "about"], rows, width=terminal.width())


def _list_found(folder: Path) -> str:
    """Lists the tasks whose data lie in a folder, those of the package and those of a ``task.yaml``."""
    from scalearn_jax.data import splits, tasks

    if not folder.is_dir():
        raise InputError(f"--data-dir {folder}: there is no such folder.")
    known = {name: row for name, row in tasks.known().items() if (folder / (row.folder or name)).is_dir()}
    places: list[tuple[str, Path]] = [(name, folder) for name in known]
    places += [(str(path), path.parent) for path in sorted(folder.rglob("task.yaml"))]
    if not places:
        raise InputError(
            f"--data-dir {folder} holds no task: no task.yaml, and no folder called like a task, as glue/rte."
        )
    rows, errors = [], []
    for name, place in places:
        try:
            task = tasks.get(name)
            found = splits.load_splits(task, data_dir=place)
        except InputError as error:
            errors.append(f"{name}: {error}")
            continue
        rows.append([task.name, task.kind, *(f"{count:,}" for count in found.available), ", ".join(found.origins[1:])])
    table = terminal.plain(
        ["task", "kind", "train", "dev", "test", "where dev and test come from"], rows, width=terminal.width()
    )
    return "\n".join([*([table] if rows else []), *errors])


def format_scores(result: dict[str, Any]) -> str:
    """Lays out what ``evaluate`` returns: a line a seed, then mean, sample standard deviation and standard error.

    The deviation is that over several seeds; the error is what so few examples give, mean over seeds.

    Example:
      >>> seeds, errors = {"0": {"accuracy": 0.5}, "1": {"accuracy": 0.7}}, {"0": {"accuracy": 0.05}}
      >>> known = {"examples": {"used": 100, "available": 277}, "seeds": seeds, "se": errors}
      >>> print(format_scores({"run": "r", "task": "glue/rte", "split": "test", **known}))
      r: glue/rte, test split, 100 of 277 examples, 2 seeds, in percent
      seed  accuracy
      ----  --------
      0     50.00
      1     70.00
      mean  60.00
      sd    14.14
      se    5.00
    """
    seeds, errors, examples = result["seeds"], result["se"].values(), result["examples"]
    names = list(next(iter(seeds.values())))
    rows = [[str(seed), *(format_score(name, values[name]) for name in names)] for seed, values in seeds.items()]
    if len(seeds) > 1:
        for title, statistic in (("mean", fmean), ("sd", stdev)):
            rows.append([title, *(format_score(name, statistic([v[name] for v in seeds.values()])) for name in names)])
    known = {name: fmean(error[name] for error in errors) for name in names if all(name in e for e in errors)}
    rows.append(["se", *(format_score(name, known[name]) if name in known else "-" for name in names)])
    count = f"{examples['used']:,} of {examples['available']:,} examples"
    several = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    title = f"{result['run']}: {result['task']}, {result['split']} split, {count}, {several}, in percent"
    others = " and ".join(name for name in names if name in NO_SHARES)
    but = f" but for {others}" if others else ""
    return f"{title}{but}\n{terminal.plain(['seed', *names], rows)}"


def format_plan(result: dict[str, Any]) -> str:
    """Lays out what ``plan`` returns: parameters, a line a program, memory, time and suggestions."""
    parameters, seconds = result["parameters"], result["seconds"]
    several = f"{result['num_devices']} x " if result["num_devices"] > 1 else ""
    needed, available = (format_bytes(result["memory"][name]) for name in ("needed", "available"))
    verdicts = {True: "fits", False: f"does not fit ({_largest(result)})", None: "unknown whether it fits"}
    verdict = verdicts[result["memory"]["fits"]]
    parts = ", ".join(f"{part} {_duration(seconds[part])}" for part in ("prepare", "compile", "train", "evaluate"))
    facts = [
        ["parameters", f"{parameters['trainable']:,} trainable: {parameters['transfer']:,} transfer, head the rest"],
        ["schedule", f"{result['steps']:,} steps, {result['evaluations']:,} evaluations, if no seed stops early"],
        ["memory", f"{needed} of {available} on {several}{result['device']}: {verdict}"],
        ["time", f"{_duration(seconds['total'])}: {parts}"],
    ]
    if result["suggestions"]:
        best = result["suggestions"]["batch_size"]
        facts.append(["largest", f"--batch-size {best['value']} (an estimate: about {format_bytes(best['peak'])})"])
    seeds = f"{len(result['seeds'])} seed{'s' if len(result['seeds']) > 1 else ''}"
    title = f"{result['method']} on {result['task']}, {seeds} together, batch size {result['batch_size']}"
    programs = terminal.plain(_COLUMNS, [_program(program) for program in result["programs"]])
    return "\n".join([title, "", *(f"{name.ljust(13)}{text}" for name, text in facts), "", programs])


_COLUMNS = "program,rows x length,calls,arguments,temporaries,output,peak,GFLOP a call,s a call,s to compile".split(",")


def _program(program: dict[str, Any]) -> list[str]:
    need, shape = program["memory"] or {}, f"{program['rows']} x {program['length']}"
    sizes = [format_bytes(need.get(name)) for name in ("arguments", "temporaries", "output", "peak")]
    flops = "-" if program["flops"] is None else f"{program['flops'] / 1e9:.3g}"
    call = "-" if program["seconds"] is None else f"{program['seconds']:.3g}"
    return [program["name"], shape, f"{program['calls']:,}", *sizes, flops, call, f"{program['compile_seconds']:.1f}"]


def _largest(result: dict[str, Any]) -> str:
    """Names the program that takes most memory, and the flag that makes it smaller."""
    sized = [program for program in result["programs"] if program["memory"]]
    name = max(sized, key=lambda program: program["memory"]["peak"], default={"name": "train"})["name"]
    return f"{name} needs most: lower {'--batch-size' if name == 'train' else '--eval-batch-size'}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)
