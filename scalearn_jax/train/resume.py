"""Going on with a run: a position of the loop as named arrays and JSON, when it is saved, and whether it may be used.

Letters: M members (of all groups).
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from scalearn_jax import tree
from scalearn_jax.errors import InputError
from scalearn_jax.train.agreement import processes
from scalearn_jax.train.checkpoint import Checkpoint, describe, differences, from_host, to_host
from scalearn_jax.train.checkpoint_store import CheckpointStore
from scalearn_jax.train.state import GroupProgress, Member, Position, TrainState

_OF_MEMBER = [field.name for field in dataclasses.fields(Member) if field.name != "trainable"]


def pack(position: Position) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Copies a position to the host, as named arrays and, as JSON, what is known of each group; see ``unpack``."""
    best = {
        str(number): {str(index): member.trainable for index, member in enumerate(group.members) if member.best_step}
        for number, group in enumerate(position.groups)
    }
    groups = [
        {
            "last": group.last,
            "gave_up": group.gave_up,
            "members": [_describe_member(member) for member in group.members],
        }
        for group in position.groups
    ]
    return to_host({"state": position.state, "metrics": position.metrics, "best": best}), groups


def _describe_member(member: Member) -> dict[str, Any]:
    """What is known of a member; before its first evaluation without a best score, which is -inf and no JSON."""
    return {name: getattr(member, name) for name in _OF_MEMBER if name != "best" or member.best_step}


def unpack(saved: Checkpoint, state: TrainState) -> Position:
    """Makes the position that ``pack`` took apart, its state on the host.

    ``state`` is the first one of the same program; only its key need be real. Fails where arrays are missing, left over
    or of another shape or dtype, and names them all.
    """
    groups = saved.meta["groups"]
    member = jax.eval_shape(lambda trainable: tree.index(trainable, 0), state.trainable)
    best = {  # a member that was never evaluated has no best checkpoint
        str(number): {str(index): member for index, entry in enumerate(group["members"]) if entry["best_step"]}
        for number, group in enumerate(groups)
    }
    like = {"state": state, "best": best}
    metrics = {name: value for name, value in saved.arrays.items() if name.startswith("metrics/")}
    arrays = {name: value for name, value in saved.arrays.items() if name not in metrics}
    expected = describe(like)
    arrays = _as_now(arrays, expected)
    found = differences(describe(arrays), expected)
    if found:
        raise InputError(
            f"the checkpoint of step {saved.step} is of another model ({'; '.join(found)}); take the version that wrote"
            " it, or pass --restart to begin anew."
        )
    trees = from_host(like, arrays)
    progress = []
    for number, group in enumerate(groups):
        trained = trees["best"][str(number)]
        members = [Member(trained.get(str(index)), **entry) for index, entry in enumerate(group["members"])]
        progress.append(GroupProgress(members, group["last"], group["gave_up"]))
    metrics = {name.removeprefix("metrics/"): value for name, value in metrics.items()}
    return Position(saved.step, trees["state"], metrics, progress)


def _as_now(arrays: Mapping[str, np.ndarray], expected: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Turns the arrays of an earlier version into today's.

    It trained ProPETL's scores, without a gradient: their masks are drawn from the seed. And it stacked the layers of a
    backbone that learns, [L ...] of a member and [M L ...] of all.
    """
    found = {}
    for name, value in arrays.items():
        place, layers, leaf = name.partition("/backbone/layers/")
        axis = 0 if name.startswith("best/") else 1
        if layers and name not in expected and value.ndim > axis:
            each = enumerate(np.moveaxis(value, axis, 0))
            found |= {f"{place}{layers}{i}/{leaf}": np.ascontiguousarray(layer) for i, layer in each}
        elif "/transfer/scores/" not in name or name in expected:
            found[name] = value
    return found


class CheckpointSaver:
    """Saves a run as it goes: called by the loop after every dispatch.

    It saves every so many steps (``None``: not by steps) and minutes, along with what ``meta`` returns then.
    """

    def __init__(
        self, checkpoints: CheckpointStore, every: int | None, minutes: float, meta: Callable[[], Mapping[str, Any]]
    ):
        self._checkpoints, self._every, self._seconds, self._meta = checkpoints, every, 60 * minutes, meta
        self._last: tuple[int, ...] = (0,)  # the step, and the last one that each group logged or evaluated
        self._time = time.monotonic()

    def __call__(self, position: Position, why: str) -> None:
        """Saves where it is due; waits until it is on the disk, except after a step or an evaluation."""
        here = (position.step, *(group.last for group in position.groups))
        if why in ("end", "stop"):  # the last chance
            self._checkpoints.forget()
        self._checkpoints.check()
        by_steps = self._every is not None and position.step // self._every > self._last[0] // self._every
        due = why != "step" or by_steps or time.monotonic() - self._time >= self._seconds
        if due and here != self._last:
            arrays, groups = pack(position)
            self._checkpoints.save(position.step, arrays, {**self._meta(), "groups": groups})
            self._last, self._time = here, time.monotonic()
        if why not in ("step", "evaluation"):
            self._checkpoints.flush()

    def resumed(self, position: Position) -> None:
        """Notes what is on the disk already."""
        self._last = (position.step, *(group.last for group in position.groups))


def find(
    checkpoints: CheckpointStore, facts: Mapping[str, Any], machine: Mapping[str, Any], warn: Callable
) -> Checkpoint | None:
    """Reads the checkpoint to go on from, or ``None``, and checks that it is of this run.

    Args:
      checkpoints: where they lie.
      facts: what must be equal for the results to be; JSON types. Otherwise it fails, and lists all differences.
      machine: what should be equal for them to be equal to the last bit; JSON types. Otherwise it warns.
      warn: receives a line on damaged checkpoints, and one on another machine.
    """
    saved = checkpoints.restore(warn)
    if saved is None:
        return None
    found = differences(saved.meta.get("facts", {}), json.loads(json.dumps(facts)))
    if found:
        raise InputError(
            f"{checkpoints.folder} holds checkpoints of another run ({'; '.join(found)}); take the same settings and"
            " files again, choose another --out, or remove the folder (or pass --restart) to begin anew."
        )
    found = differences(saved.meta.get("machine", {}), json.loads(json.dumps(machine)))
    if found:
        warn(f"goes on where other software or devices stopped ({'; '.join(found)}); the last bits may differ.")
    return saved


def is_of_restart(checkpoints: CheckpointStore, facts: Mapping[str, Any]) -> bool:
    """Whether the same run, begun anew with ``--restart``, has written these checkpoints."""
    try:
        saved = checkpoints.restore(lambda text: None)
    except InputError:
        return False
    return bool(saved and saved.meta.get("restart") and saved.meta.get("facts") == json.loads(json.dumps(facts)))


def share(saved: Checkpoint | None, done: list[str], facts: Mapping[str, Any]) -> tuple[Checkpoint | None, list[str]]:
    """Waits until all processes are ready with the same facts, and gives all what the one that writes has found.

    That is its checkpoint, ``None`` on the others, and the folders that it found ``done``. See ``Processes.agree``.
    """
    found = None
    if saved:
        shapes = {name: (str(array.dtype), array.shape) for name, array in saved.arrays.items()}
        found = {"step": saved.step, "groups": saved.meta["groups"], "arrays": shapes}
    shared = processes.agree(facts, {"done": done, "saved": found})
    found = shared["saved"]
    if found is None or not processes.joined:
        return saved, shared["done"]
    arrays = {}
    for name, (dtype, shape) in sorted(found["arrays"].items()):
        array = np.ascontiguousarray(saved.arrays[name] if saved else np.zeros(shape, dtype))
        # as bytes: JAX broadcasts by a sum, which loses -0.0, and turns float64 into float32
        flat = multihost_utils.broadcast_one_to_all(array.reshape(-1).view(np.uint8))
        arrays[name] = np.array(flat).view(array.dtype).reshape(shape)
    return Checkpoint(found["step"], arrays, saved.meta if saved else {"groups": found["groups"]}), shared["done"]
