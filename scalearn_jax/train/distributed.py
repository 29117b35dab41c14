"""Many processes, one run: how they find each other and end together.

Every process computes the same run on its own devices; process 0 writes. No process may outlive another, since it would
wait for it forever: one that fails before training tells the others why, see ``agreement``; one that is lost later ends
them, at the latest after the heartbeat timeout.
"""

import ctypes
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax
from jax._src import clusters
from jax._src.lib import _jax

from scalearn_jax.errors import STOPPED, InputError
from scalearn_jax.train import preemption, signals
from scalearn_jax.train.agreement import PARTING_MS, all_done, check_number, say, state, telling_others

_JOIN_SECONDS = 2.0
CLUSTERS = ("slurm", "ompi", "gcetpu", "gketpu")


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    start_timeout: int = 300,
    heartbeat_timeout: int = 30,
) -> None:
    """Joins the other processes of a run; does nothing where there are none.

    Only the command line calls this, once, before anything touches a device. Without arguments, Cloud TPU, Slurm and
    Open MPI say who takes part.

    Args:
      coordinator: ``HOST:PORT`` of process 0.
      num_processes: how many there are.
      process_id: which this is.
      start_timeout: seconds within which all must have come.
      heartbeat_timeout: seconds of silence after which a process counts as lost.

    Raises:
      InputError: some process did not come, or they disagree on how many they are.
    """
    found = (coordinator, num_processes, process_id, "deactivate") if coordinator else detect(start_timeout)
    if not found or found[1] == 1:
        return
    coordinator, num_processes, process_id, method = found
    state.process_id, state.num_processes, state.settled = process_id, num_processes, True  # nobody to tell of errors
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    try:
        _connect(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            cluster_detection_method=method,
            initialization_timeout=start_timeout,
            heartbeat_timeout_seconds=heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        why = "" if "bad_cast" in str(error) else f" ({error})"
        raise InputError(
            f"process {process_id} of {num_processes}: not all processes met at {coordinator} within {start_timeout} s"
            f"{why}; start {num_processes} of them with the same --coordinator and --num-processes."
        ) from error
    check_number()
    state.listener, state.settled = preemption.listen(), False
    jax.devices()  # needs all processes, so now, while all are here


def detect(timeout: int) -> tuple[str, int, int, str] | None:
    """Asks the environment who takes part.

    Args:
      timeout: seconds to wait for the coordinator's name to be known.

    Returns:
      (coordinator, number of processes, own number, name of the kind of cluster), or ``None`` for a process alone.
    """
    for cluster in clusters.ClusterEnv._cluster_types:
        if cluster.name in CLUSTERS and cluster.is_env_present() and cluster.get_process_count() > 1:
            port = os.environ.get("JAX_COORDINATOR_PORT")
            address = cluster.get_coordinator_address(timeout_secs=timeout, override_coordinator_port=port)
            return address, cluster.get_process_count(), cluster.get_process_id(), cluster.name
    return None


def _connect(**arguments) -> None:
    """``jax.distributed.initialize``, but a lost process ends this one with one line instead of a stack trace.

    JAX's client aborts the process when another is lost. It takes a callback for that case, which jaxlib 0.10 cannot
    call: the status it passes has no Python type. The call ends in ``std::terminate``, and that we can handle.
    """
    make = _jax.get_distributed_runtime_client
    callback = functools.partial(make, missed_heartbeat_callback=lambda status: None, shutdown_on_destruction=False)
    try:
        ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE(_on_terminate)
        _jax.get_distributed_runtime_client = callback
    except (OSError, AttributeError):  # another C++ library: JAX's own message and abort have to do
        pass
    try:
        jax.distributed.initialize(**arguments)
    finally:
        _jax.get_distributed_runtime_client = make


@ctypes.CFUNCTYPE(None)
def _on_terminate() -> None:
    if state.leaving:  # the main thread is about to end, with a better word
        time.sleep(PARTING_MS / 1000)
    if preemption.was_told() and not signals.state.unsaved:  # so was that one
        os._exit(STOPPED)
    say("lost another process: it died or cannot be reached; its own output says why.")
    os._exit(1)


def run(work: Callable[[], Any], report: Callable[[Callable[[], Any]], int]) -> int:
    """Runs this process's share of a command and ends it so that no process waits for another that is gone.

    Args:
      work: the command; may call ``start``.
      report: calls what it is given, words its errors, and returns the exit code.

    Returns:
      The exit code. Where other processes take part, a failed one does not return but ends here.

    Example:
      >>> run(lambda: 0, lambda work: work())
      0
    """
    try:
        code = report(lambda: telling_others(work))
    except Exception as error:
        if state.num_processes == 1:
            raise
        if not isinstance(error, jax.errors.JaxRuntimeError):
            traceback.print_exc()
        elif preemption.was_told():  # as the other was, which has ended already
            os._exit(STOPPED)
        else:
            say(f"the computation with the other processes failed, one may have died: {error}")
        code = 1
    if state.num_processes > 1:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """Ends a failed process at once, where an ordinary exit would wait for the others, and a good one after them."""
    signals.state.over = True
    sys.stdout.flush()
    sys.stderr.flush()
    if code in (0, STOPPED) and not all_done():
        code = STOPPED if preemption.was_told() else 1
        if code == 1:
            say("another process failed at the end; its own output says why.")
    state.leaving = True
    if code not in (0, STOPPED):
        os._exit(code)
    if state.listener:
        state.listener.join(_JOIN_SECONDS)
    jax.distributed.shutdown()
