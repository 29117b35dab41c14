"""What the processes of one run tell each other before they train: that each is ready, and for the same run.

They leave texts with the coordinator, process 0, where each reads those of all others; no device takes part.
"""

import json
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax._src import distributed as runtime

from scalearn_jax.errors import InputError, Preempted

PARTING_MS = 10_000
_POLL_MS, _COMMON_MS, _DONE_MS = 1000, 2000, 600_000


@dataclass
class State:
    """This process's place in the run.

    Attributes:
      process_id: its number.
      num_processes: of how many.
      settled: whether there is nothing to tell the others: none is there yet, or all have said whether they are ready.
      rounds: how often they have said so.
      leaving: whether this process is about to end, and has said why.
      listener: the thread that learns of what others are told.
    """

    process_id: int = 0
    num_processes: int = 1
    settled: bool = False
    rounds: int = 0
    leaving: bool = False
    listener: threading.Thread | None = None


state = State()


def is_writer() -> bool:
    """Whether this process writes and prints; the others only compute.

    Example:
      >>> is_writer()
      True
    """
    return state.process_id == 0


def say(message: str) -> None:
    """Writes an error of this process as one line."""
    line = f"scalearn: error: process {state.process_id}: {' '.join(message.split())}\n"
    os.write(2, line.encode())


def check_joined(num_processes: int | None) -> None:
    """Checks that a run which asks for other processes is in their company.

    Args:
      num_processes: how many the config names, if any.

    Raises:
      InputError: this process has not joined so many.

    Example:
      >>> check_joined(None)
    """
    if num_processes not in (None, state.num_processes):
        raise InputError(
            f"num_processes is {num_processes}, this process has joined {state.num_processes}; only the commands"
            " train-adapter and transfer do so, a program calls train.distributed.start first."
        )


def check_number() -> None:
    """Checks that all processes were told of the same number of processes.

    Raises:
      InputError: they were not.
    """
    for process_id, number in exchange("number", str(state.num_processes)):
        if number != str(state.num_processes):
            _give_up(
                f"process {process_id} was told of {number} processes, process {state.process_id} of"
                f" {state.num_processes}; pass the same --num-processes to all."
            )


def prepare() -> None:
    """Lets errors be told to the others again, until the next time that all say whether they are ready."""
    state.settled = False


def agree(facts: Mapping[str, Any], told: Any = None) -> Any:
    """Waits until every process is ready to train, with the same facts.

    However long another one prepares, this one waits, as long as that one lives.

    Args:
      facts: what must be equal everywhere; JSON types.
      told: what the process that writes has to tell the others; JSON types.

    Returns:
      What that process told.

    Raises:
      InputError: another process failed, or its facts differ; the same message on all.
      Preempted: another process was told to stop.

    Example:
      >>> agree({"seeds": [0]}, told="step 120")  # alone
      'step 120'
    """
    return _settle({"facts": dict(facts), "told": told}) if state.num_processes > 1 else told


def telling_others(work: Callable[[], Any]) -> Any:
    """Calls ``work``; where it fails before ``agree``, all processes fail with its message.

    Where it fails later, most likely all fail alike, and none leaves before the others have had time to say so.

    Raises:
      InputError: this or another process failed.
    """
    try:
        return work()
    except Exception as error:
        if state.num_processes > 1 and not state.settled:
            if not isinstance(error, InputError):
                traceback.print_exc()
            _settle({"error": str(error) or type(error).__name__})
        if state.num_processes > 1 and not state.leaving and not isinstance(error, jax.errors.JaxRuntimeError):
            _part(_COMMON_MS)
        raise
    except Preempted as error:
        if state.num_processes > 1 and not state.settled:
            _settle({"stopped": str(error)})
        raise


def all_done() -> bool:
    """Waits until every process has done its part, such as to write; says whether they all did."""
    try:
        runtime.global_state.client.wait_at_barrier("scalearn/done", _DONE_MS)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _settle(entry: Mapping[str, Any]) -> Any:
    """Shows an entry to all processes, and fails if theirs tell of an error or of other facts; see ``agree``."""
    board, state.rounds = f"ready-{state.rounds}", state.rounds + 1  # a board can be written once
    entries = [json.loads(text) for _, text in exchange(board, json.dumps(entry))]
    first = json.loads(json.dumps(entries[0].get("facts", {})))
    for process_id, other in enumerate(entries):
        if "error" in other:
            _give_up(f"process {process_id}: {other['error']}")
        if "stopped" in other:
            state.settled = True
            raise Preempted(other["stopped"])
    for process_id, other in enumerate(entries):
        for name, value in first.items():
            if other["facts"].get(name) != value:
                _give_up(
                    f"process {process_id} differs from process 0 in {name}: {other['facts'].get(name)!r}, not"
                    f" {value!r}; start all processes alike."
                )
    state.settled = True
    return entries[0].get("told")


def _give_up(message: str) -> None:
    """Fails, after giving the others time to read what this process, maybe the coordinator, has read."""
    state.settled = True
    _part(PARTING_MS)
    raise InputError(message)


def _part(milliseconds: int) -> None:
    """Waits for the others to be about to end, too, but not for long."""
    state.leaving = True
    try:
        runtime.global_state.client.wait_at_barrier("scalearn/parting", milliseconds)
    except jax.errors.JaxRuntimeError:  # they go on, or are gone already
        pass


def exchange(board: str, text: str) -> Iterator[tuple[int, str]]:
    """Leaves a text on a board of the coordinator; yields (process, text) of all processes as they come."""
    post(f"{board}/{state.process_id}", text)
    for process_id in range(state.num_processes):
        while (found := look(f"{board}/{process_id}", _POLL_MS)) is None:
            if state.leaving:
                return
        yield process_id, found


def post(name: str, text: str) -> None:
    """Leaves a text with the coordinator, in place of an earlier one."""
    runtime.global_state.client.key_value_set(f"scalearn/{name}", text, allow_overwrite=True)


def look(name: str, milliseconds: int) -> str | None:
    """Waits for a text that some process leaves with the coordinator; ``None`` if none came in time."""
    try:
        return runtime.global_state.client.blocking_key_value_get(f"scalearn/{name}", milliseconds)
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        return None
