"""Many processes, one run: how they find each other and end together.

Every process computes the same run on its own devices; process 0 writes. No process may outlive another, since it would
wait for it forever: one that fails before training passes its error on, see ``agreement``; one that is lost later ends
the others, at the latest after the heartbeat timeout, with JAX's own message.
"""

import errno
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax

from scalearn_jax.errors import STOPPED, InputError
from scalearn_jax.train.agreement import processes
from scalearn_jax.train.signals import signals

_PORTS = 61440, 4096  # first and number: those that the system gives to no one else, and that JAX takes, too
_PORT = "JAX_COORDINATOR_PORT"
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST", _PORT)
_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_MCA_orte_hnp_uri", _PORT)
_FLAGS = "--coordinator HOST:PORT --num-processes N --process-id I"


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    start_timeout: int = 300,
    heartbeat_timeout: int = 30,
) -> None:
    """Joins the other processes of a run; does nothing where there are none.

    The command line, or a program that trains with several processes, calls this once, before anything touches a
    device. Without arguments, Cloud TPU, Slurm and
    Open MPI define who takes part. Fails where a process does not come, or they disagree on how many they are.

    Args:
      coordinator: ``HOST:PORT`` of process 0.
      start_timeout: seconds within which all must have come.
      heartbeat_timeout: seconds of silence after which a process counts as lost.
    """
    if coordinator:
        where = dict(coordinator_address=coordinator, num_processes=num_processes, process_id=process_id)
        where["cluster_detection_method"] = "deactivate"
        hint = f"start {num_processes} of them with the same --coordinator and --num-processes."
    else:
        where, hint = detect() or ({"num_processes": 1}, "")
    if where.get("num_processes") == 1:
        return
    who = f"process {where['process_id']} of {where['num_processes']}: " if where else ""
    at = f" at {where['coordinator_address']}" if "coordinator_address" in where else ""
    failure = f"{who}not all processes met{at} within {start_timeout} s; {hint}"
    if where.get("process_id") == 0 and at:
        _check_port(int(where["coordinator_address"].rsplit(":", 1)[1]), hint)
    jax.config.update("jax_enable_preemption_service", True)  # see ``agreement.boundary``
    late = threading.Timer(start_timeout, _give_up, [failure])  # JAX would abort, with a stack trace
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=start_timeout + 60,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=600,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{failure} ({error})") from error
    finally:
        late.cancel()
    signals.leave_sigterm_to_jax()
    processes.join(where.get("num_processes") or jax.process_count())


def _check_port(port: int, hint: str) -> None:
    """Checks that nobody listens where the others are to meet: JAX would crash, or share the port with another run."""
    dual = socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if dual else socket.AF_INET
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            another = f"give all processes another one, by --coordinator or {_PORT}"
            raise InputError(f"port {port} is taken, perhaps by another run; {another}. {hint}") from error


def _give_up(failure: str) -> None:
    os.write(2, f"scalearn: error: {failure}\n".encode(errors="backslashreplace"))
    os._exit(2)


def detect() -> tuple[dict[str, Any], str] | None:
    """Reads from the environment who takes part: of Slurm in the job step, not in the allocation around it.

    Returns (arguments of ``jax.distributed.initialize``, what to check where the processes do not meet), ``None`` for a
    process alone. Fails where MPI has started several processes and does not give their address.
    """
    known = os.environ
    in_step = bool(known.get("SLURM_STEP_NODELIST") and known.get("SLURM_PROCID"))
    if "OMPI_COMM_WORLD_SIZE" in known:  # before Slurm: mpirun's daemons are the tasks of its step
        count, rank = _whole("OMPI_COMM_WORLD_SIZE"), _whole("OMPI_COMM_WORLD_RANK")
        if count > 1 and "OMPI_MCA_orte_hnp_uri" not in known:
            raise _without_address("Open MPI", count, ", as from version 5 on")
        where = dict(num_processes=count, process_id=rank, cluster_detection_method="ompi")
        return (where, _read_from("Open MPI", _OPEN_MPI)) if count > 1 else None
    count = _whole("SLURM_STEP_NUM_TASKS") if in_step else 1
    if (started := _whole("PMI_SIZE")) not in (1, count):  # MPICH's and Intel's mpiexec; srun's tasks are counted alike
        raise _without_address("MPI (PMI_SIZE)", started)
    if count > 1:
        where = dict(num_processes=count, process_id=_whole("SLURM_PROCID"), cluster_detection_method="slurm")
        return where | {"coordinator_address": _slurm_address()}, _read_from("Slurm", _SLURM)
    if in_step:
        return None
    if known.get("TPU_ML_PLATFORM") == "JAX":  # which JAX sets on a Cloud TPU, when it is imported
        hosts = known.get("TPU_PROCESS_ADDRESSES") or known.get("TPU_WORKER_HOSTNAMES")
        asks = hosts is None and "TPU_SKIP_MDS_QUERY" not in known  # JAX then asks the metadata server
        if asks or "," in (hosts or "") or _whole("MEGASCALE_NUM_SLICES") > 1:
            return {}, "run the command on every host of the Cloud TPU."
    return None


def _slurm_address() -> str:
    """The first node of the job step, and a port of its own for every step of an allocation."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", os.environ["SLURM_STEP_NODELIST"])[0]  # node[003-004,7],other
    host = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)
    port = _PORTS[0] + (61 * _whole("SLURM_JOB_ID", 0) + _whole("SLURM_STEP_ID", 0)) % _PORTS[1]
    return f"{host}:{_whole(_PORT, port)}"


def _read_from(launcher: str, names: tuple[str, ...]) -> str:
    values = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    return f"{launcher} gave {values}; where that is not so, pass {_FLAGS} to each."


def _without_address(launcher: str, count: int, why: str = "") -> InputError:
    return InputError(
        f"{launcher} has started {count} processes and does not say where they meet{why}; pass {_FLAGS} to each."
    )


def _whole(name: str, default: int = 1) -> int:
    """A number of the environment."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal():
        raise InputError(f"{name}={value} is no whole number; correct it, or pass {_FLAGS} to each process.")
    return int(value)


def run(work: Callable[[], Any], report: Callable[[Callable[[], Any]], int]) -> int:
    """Runs this process's share of a command, and ends it so that no process waits for another that is gone.

    Returns the exit code of ``report``, which calls what it is given and prints its errors. Where other processes take
    part, a failed command does not return but ends here.
    """
    try:
        code = report(lambda: processes.share_errors(work))
    except Exception as error:
        if not processes.joined:
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            _print_error(f"the computation with the other processes failed, one may have died: {error}")
        else:
            traceback.print_exc()
        code = 1
    if not processes.joined:
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    if code in (0, STOPPED):
        try:
            jax.distributed.shutdown()  # waits for the others
            return code
        except jax.errors.JaxRuntimeError:
            _print_error("another process failed at the end; its own output says why.")
            code = 1
    else:  # most likely all fail alike, and the end of the coordinator ends those that have not yet said so
        time.sleep(1 if processes.process_id else 2)
    os._exit(code)  # an ordinary exit would wait for the others


def _print_error(message: str) -> None:
    line = f"scalearn: error: process {processes.process_id}: {' '.join(message.split())}\n"
    os.write(2, line.encode(errors="backslashreplace"))
