"""What the processes of one run do together: compare what they run before they train, and end at one boundary.

They exchange JSON by JAX's collectives; ``multihost_utils.assert_equal`` would not name what differs.
"""

import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from scalearn_jax.errors import InputError
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.train.signals import signals


class Processes:
    """The processes of a run, and the place of this one among them. There is one, ``processes``."""

    def __init__(self) -> None:
        self.process_id, self.num_processes = 0, 1
        self.joined = False  # whether others were joined through ``jax.distributed``
        self._compared = True  # whether no other process waits for what this one has to report
        self._boundaries = 0

    @property
    def is_writer(self) -> bool:
        """Whether this process writes and prints; the others only compute."""
        return self.process_id == 0

    def join(self, num_processes: int) -> None:
        """Takes this process's place, once ``jax.distributed`` is there; fails where others have another number."""
        self.joined = True  # from here on a failure ends the others, too
        told = [int(number) for number in _gather(str(num_processes))]
        self.process_id, self.num_processes = jax.process_index(), jax.process_count()
        for process_id, number in enumerate(told):
            if number != told[0]:
                raise InputError(
                    f"process {process_id} was told of {number} processes, process 0 of {told[0]}; pass the same"
                    " --num-processes to all."
                )
        self._compared = False

    def check_joined(self, num_processes: int | None) -> None:
        """Checks that a run whose config names a number of processes has joined so many."""
        if num_processes not in (None, self.num_processes):
            raise InputError(
                f"num_processes is {num_processes}, this process has joined {self.num_processes}; only the commands"
                " train-adapter and transfer do so, a program calls train.distributed.start first."
            )

    def prepare(self) -> None:
        """Begins the preparation of a program: the others wait in ``agree``, and learn of an error until then."""
        self._compared = not self.joined

    def agree(self, facts: Mapping[str, Any], shared: Any = None) -> Any:
        """Waits until every process is ready to train with the same facts, and returns what the writer shares with all.

        Both are JSON. Fails alike on all where one failed or its facts differ. On CPU it waits at most half an hour,
        gloo's limit.

        Example:
          >>> processes.agree({"seeds": [0]}, shared="step 120")  # alone
          'step 120'
        """
        return self._exchange({"facts": dict(facts), "shared": shared}) if self.joined else shared

    def share_errors(self, work: Callable[[], Any]) -> Any:
        """Calls ``work``; where it fails before ``agree``, all processes fail with its message."""
        try:
            return work()
        except Exception as error:
            if not self._compared:
                if not isinstance(error, InputError):
                    traceback.print_exc()
                self._exchange({"error": str(error) or type(error).__name__})
            raise

    def end_here(self) -> bool:
        """Whether all processes end at this boundary, since one of them was told to stop."""
        self._boundaries += 1
        return multihost_utils.reached_preemption_sync_point(self._boundaries)

    def _exchange(self, entry: Mapping[str, Any]) -> Any:
        """Compares the entries of all processes; fails alike on all if one holds an error or other facts."""
        self._compared = True
        entries = [json.loads(text) for text in _gather(json.dumps(entry))]
        for process_id, other in enumerate(entries):
            if "error" in other:
                raise InputError(f"process {process_id}: {other['error']}")
        first = entries[0]["facts"]
        for process_id, other in enumerate(entries):
            for name in first | other["facts"]:
                here, there = first.get(name), other["facts"].get(name)
                if here != there:
                    raise InputError(
                        f"process {process_id} differs from process 0 in {name}: {there!r}, not {here!r}; start all"
                        " processes alike."
                    )
        return entries[0]["shared"]


processes = Processes()


@own_settings()
def _gather(text: str) -> list[str]:
    """Returns the texts of all processes, in their order; waits for all."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def boundary() -> None:
    """Ends the run here, by ``Preempted``, if it was told to stop; all processes of a run pass the same boundaries."""
    if processes.end_here() if processes.joined else signals.received:
        raise signals.preempted()
