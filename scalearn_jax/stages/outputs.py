"""What a trained run leaves: its best checkpoints, their scores and all that is needed to use or repeat it; or why not.

Letters: M members (seeds of a run).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.data import batches
from scalearn_jax.io.files import write_json
from scalearn_jax.io.tensors import save_tensors, save_tree
from scalearn_jax.models import encoder, pretrained
from scalearn_jax.runs import provenance, run_json
from scalearn_jax.stages.setup import Part, Setup
from scalearn_jax.stages.task_folders import write_tasks
from scalearn_jax.train.checkpoint import to_host
from scalearn_jax.train.evaluate import (
    Members,
    errors_over_tasks,
    member_logits,
    over_tasks,
    scores,
    standard_errors,
)
from scalearn_jax.train.loop import Schedule
from scalearn_jax.train.sharding import gather, replicate
from scalearn_jax.train.state import Faults, Member, Position, count_parameters, own_part
from scalearn_jax.typing import Params


class Outcome(NamedTuple):
    """What came of a run."""

    members: dict[int, Member]  # seed -> its best checkpoint, without the seeds that are lost
    lost: dict[int, str]  # seed -> why it has no result
    state_hash: str  # of the last training state, optimiser included
    scores: Mapping[int, dict[str, Any]] = {}  # seed -> its ``test`` scores and their standard errors ``se``
    solved: Mapping[str, Any] = {}  # what ``results.json`` says of a run that was solved for


def outcomes(setups: Sequence[Setup], position: Position) -> list[Outcome]:
    """Collects the outcome of each run from the program that trained them; see ``score_test`` for its scores."""
    found = []
    for number, (setup, run) in enumerate(zip(setups, position.groups, strict=True)):
        own = slice(number * len(run.members), (number + 1) * len(run.members))
        state, members, lost = tree.index(position.state, own), {}, {}
        for index, (seed, member) in enumerate(zip(setup.config.seeds, run.members, strict=True)):
            if run.gave_up[index]:
                lost[seed] = _diagnosis(setup, index, state.faults)
            elif member.trainable is None:
                select = "loss" if setup.config.select == "loss" else "metric"
                lost[seed] = f"no evaluation of seed {seed} gave a finite {select}"
            else:
                members[seed] = in_units(setup, member)
        found.append(Outcome(members, lost, tree.content_hash(to_host(state))))
    return found


def in_units(setup: Setup, member: Member) -> Member:
    """Moves the standardisation of a regression's labels into the head: out = deviation * out + mean.

    From here on its logits and its loss are in the user's unit, as all that reads a run takes them.
    """
    heads, metrics = member.trainable["heads"], member.metrics
    for task, data in setup.parts:
        mean, deviation = data.train.unit
        if (mean, deviation) != (0.0, 1.0):
            kernel, bias = (heads[task.name]["out"][name] * np.float32(deviation) for name in ("kernel", "bias"))
            out = {"kernel": kernel, "bias": bias + np.float32(mean)}
            heads = heads | {task.name: heads[task.name] | {"out": out}}
            loss = f"{task.name}/loss" if setup.is_joint else "loss"
            metrics = metrics | {loss: deviation**2 * metrics[loss]}
    return dataclasses.replace(member, trainable=member.trainable | {"heads": heads}, metrics=metrics)


def score_test(setup: Setup, outcome: Outcome) -> Outcome:
    """Scores the best checkpoints of a run on its test set; a seed whose logits there are not finite is lost, too."""
    if not outcome.members:
        return outcome
    best = replicate(tree.stack([member.trainable for member in outcome.members.values()]), setup.mesh)
    places = np.array([setup.config.seeds.index(seed) for seed in outcome.members])
    frozen = setup.frozen | jax.tree.map(lambda leaf: leaf[places], own_part(setup.frozen))
    logits = [
        member_logits(
            Members(setup.spec.program, task, best, frozen), data.test, setup.evaluation_layout, diverged=True
        )
        for task, data in setup.parts
    ]
    finite = [
        number for number, _ in enumerate(outcome.members) if all(np.isfinite(one[number]).all() for one in logits)
    ]
    seeds = [list(outcome.members)[number] for number in finite]
    lost = {seed: f"seed {seed}: no finite logits on the test set" for seed in outcome.members if seed not in seeds}
    tests = [(task, one[finite], data.test) for (task, data), one in zip(setup.parts, logits, strict=True)]
    found, errors = ([function(*test) for test in tests] for function in (scores, standard_errors))
    if setup.is_joint:
        names = [task for task, _ in setup.parts]
        found, errors = over_tasks(names, found), errors_over_tasks(names, errors)
    else:
        (found,), (errors,) = found, errors
    both = zip(seeds, found, errors, strict=True)
    return outcome._replace(
        members={seed: outcome.members[seed] for seed in seeds},
        lost=outcome.lost | lost,
        scores={seed: {"test": score, "se": error} for seed, score, error in both},
    )


def _diagnosis(setup: Setup, index: int, faults: Faults) -> str:
    """Describes the last step of a member whose loss or gradient was not finite too often."""
    seed, fault = setup.config.seeds[index], tree.index(jax.tree.map(np.asarray, faults), index)
    of, step = "", int(fault.step)
    if setup.is_joint:
        number, examples = setup.mixture.step(setup.sampler_seeds[index], step)
        of = f" of {setup.parts[number].task.name}"
    else:
        examples = batches.examples_of(seed, step, len(setup.data.train), setup.config.batch_size)
    gradients, parameters = (
        ", ".join(f"{name} {float(norm):.3g}" for name, norm in norms.items())
        for norms in (fault.gradient_norms, fault.parameter_norms)
    )
    return (
        f"seed {seed}: no finite loss and gradient in {int(fault.in_a_row)} steps in a row, up to step"
        f" {step + 1} (training examples{of} {', '.join(map(str, examples))}); norms of gradients: {gradients};"
        f" norms of parameters: {parameters}"
    )


def write_run(kind: str, folder: Path | None, setup: Setup, schedule: Schedule, outcome: Outcome) -> dict[str, Any]:
    """Fills the folder of a run that is scored; returns the results. A process that only computes has no folder."""
    # What is frozen stays in the run where other copies may lack it: the bank, and a pooler that its head uses.
    pooled = any(head.kind == "pooled" for _, head in setup.spec.heads)
    backbone = {"pooler": setup.frozen["backbone"]["pooler"]} if pooled else {}
    kept = tree.flatten(gather({"adapters": setup.frozen["adapters"], "backbone": backbone}, setup.mesh))
    kept = {name: np.asarray(leaf) for name, leaf in kept.items()}
    results = summarise(setup, outcome, schedule)
    if folder:
        for seed, member in outcome.members.items():
            save_tree(folder / f"seed-{seed}.safetensors", member_tree(setup, member, seed))
        if kept:
            widened = {name: leaf.astype(np.promote_types(leaf.dtype, np.float32)) for name, leaf in kept.items()}
            save_tensors(folder / "frozen.safetensors", widened)
        write_json(folder / "results.json", results)
        info = describe(kind, setup) | {"seeds": list(outcome.members)}
        write_json(folder / "run.json", info)
        if setup.is_joint:
            write_tasks(folder, setup, outcome.members, results, info)
    return results


def member_tree(setup: Setup, member: Member, seed: int) -> Params:
    """What a run folder keeps of a seed: what it has trained, and what it has drawn for good, such as masks."""
    constants = setup.spec.combiner_functions.constants  # these stand in the spec
    own = tree.index(own_part(setup.frozen), setup.config.seeds.index(seed))
    whole = {group: tree.combine(member.trainable[group], part) for group, part in own.items()}
    whole["transfer"] = {name: leaf for name, leaf in whole["transfer"].items() if name not in constants}
    if "masks" in whole["transfer"]:
        whole["transfer"]["masks"] = jax.tree.map(lambda leaf: np.asarray(leaf, bool), whole["transfer"]["masks"])
    return member.trainable | whole | {"backbone": encoder.stacked(member.trainable["backbone"])}


def describe(kind: str, setup: Setup) -> dict[str, Any]:
    """Builds ``run.json``: all that is needed to repeat, evaluate or reuse the run."""
    config, own = setup.config, setup.given.describe()
    return {
        "format": run_json.FORMAT,
        "kind": kind,
        "method": config.method,
        "config": dataclasses.asdict(config) | ({"optimizer": "own"} if "optimizer" in own else {}),
        "task": {} if setup.is_joint else setup.task.to_dict(),
        **({"tasks": [task.to_dict() for task, _ in setup.parts]} if setup.is_joint else {}),
        "backbone": pretrained.locate_backbone(config.backbone, config.revision) | {"hash": setup.backbone_hash},
        "data_dir": config.data_dir and str(Path(config.data_dir).expanduser().resolve()),
        "spec": run_json.spec_to_dict(setup.spec),
        "sources": [{"name": source.name, "path": source.path, "hash": source.hash} for source in setup.sources],
        **({"soup": setup.source_weights.to_dict()} if setup.source_weights else {}),
        "seeds": list(config.seeds),
        **({"own": own} if own else {}),
        "parameters": count_parameters(setup.trainable),
        "versions": provenance.versions(),
        "command": provenance.command(),
    }


def summarise(setup: Setup, outcome: Outcome, schedule: Schedule) -> dict[str, Any]:
    """Builds ``results.json``: each seed's metrics at its best checkpoint, their mean and sd, and on how many examples.

    ``se`` is the standard error that so few test examples give, see ``metrics.standard_errors``; its mean over seeds,
    which see the same examples, is at least that of their mean. The hash of the last training state, optimiser
    included, shows whether two runs were the same to the last bit; of runs that train together, the state is that when
    the last of them ended.
    """
    by_seed = {
        str(seed): {"dev": member.metrics, **scored, "best_step": member.best_step, "steps": member.stopped_at}
        for (seed, member), scored in zip(outcome.members.items(), outcome.scores.values(), strict=True)
    }

    def over_seeds(part: str) -> dict[str, np.ndarray]:
        entries = [entry[part] for entry in by_seed.values()]
        return {name: np.array([entry[name] for entry in entries]) for name in entries[0]}

    test, parts = over_seeds("test"), [_describe_part(part) for part in setup.parts]
    joint = {"tasks": dict(zip((part.task.name for part in setup.parts), parts, strict=True))}
    return {
        "main_metric": setup.main_metric,
        "num_steps": schedule.num_steps,
        "seeds": by_seed,
        "mean": {name: float(values.mean()) for name, values in test.items()},
        "sd": {name: float(values.std(ddof=1)) if len(values) > 1 else None for name, values in test.items()},
        "se": {name: float(values.mean()) for name, values in over_seeds("se").items()},
        **(joint if setup.is_joint else parts[0]),
        **({"lost": {str(seed): why for seed, why in outcome.lost.items()}} if outcome.lost else {}),
        **({"solve": outcome.solved} if outcome.solved else {}),
        "state": outcome.state_hash,
    }


def _describe_part(part: Part) -> dict[str, Any]:
    """On how many examples a run trained and was scored, and how the labels of a regression were standardised."""
    sizes = {name: {"used": len(split), "available": split.available} for name, split in vars(part.data).items()}
    unit = dict(zip(("mean", "deviation"), part.data.train.unit, strict=True))
    return {"examples": sizes} | ({"standardised": unit} if unit != {"mean": 0.0, "deviation": 1.0} else {})
