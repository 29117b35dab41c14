"""Several real processes through the command line: equal results, equal errors, and no process that waits for ever."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from scalearn_jax import cli, tree
from scalearn_jax.config import TransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tree
from scalearn_jax.stages import pipeline
from scalearn_jax.train import agreement, distributed, sharding
from tests.conftest import FAST, ROOT
from tests.support import tiny_backbone

LIMIT = 120  # seconds that no test comes near unless something hangs
DEVICES = "--xla_force_host_platform_device_count=4"
FOREIGN = {"JAX_ENABLE_X64": "1", "JAX_TRANSFER_GUARD": "disallow"}  # no matter to a run, see test_jax_settings
SHORT = dict(max_steps=6, batch_size=8, eval_every=3, log_every=2, max_train_samples=32, max_eval_samples=16)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A backbone and two source adapters."""
    return tiny_backbone.write_with_sources(tmp_path_factory.mktemp("inputs"))


def settings(inputs, out, **changes):
    sources = tuple(str(inputs / f"source{number}") for number in range(2))
    given = dict(target="builtin/sentiment", backbone=str(inputs / "backbone"), sources=sources, out=str(out))
    return given | SHORT | changes


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Processes:
    """Processes of one ``scalearn transfer``; each is told its number."""

    def __init__(self, folder, each):
        self._logs = [folder / f"log{number}" for number in range(len(each))]
        joint = dict(coordinator=f"127.0.0.1:{port()}", num_processes=2, start_timeout=60, heartbeat_timeout=5)
        self._running = [self._begin(number, joint | given) for number, given in enumerate(each)]

    def _begin(self, number, given):
        flags = []
        for name, value in (given | {"process_id": given.get("process_id", number)}).items():
            values = value if isinstance(value, tuple) else (value,)
            flags += [f"--{name.replace('_', '-')}", *map(str, values)]
        command = [sys.executable, "-c", "from scalearn_jax.cli import run; run()", "transfer", *flags]
        environment = os.environ | {"XLA_FLAGS": f"{DEVICES} {FAST}", "PYTHONPATH": str(ROOT)} | FOREIGN
        with self._logs[number].open("w") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def wait_for(self, number, words):
        """Waits until a process has said something."""
        until = time.monotonic() + LIMIT
        while words not in self._logs[number].read_text():
            assert time.monotonic() < until and self._running[number].poll() is None, self._logs[number].read_text()
            time.sleep(0.05)

    def kill(self, number):
        self._running[number].kill()

    def tell(self, number):
        self._running[number].terminate()

    def ended(self):
        """Returns the exit code and the own lines of each process."""
        try:
            codes = [process.wait(LIMIT) for process in self._running]
        finally:
            for process in self._running:
                process.kill()
                process.wait()
        # collectives on CPU greet on standard output, from several threads at once and into each other's lines
        lines = [log.read_text().split("\n")[:-1] for log in self._logs]
        return [
            (code, [line for line in said if line and (line.startswith("scalearn") or not _is_greeting(line))])
            for code, said in zip(codes, lines, strict=True)
        ]


def _is_greeting(line):
    return "Gloo" in line or "peer ranks" in line


@pytest.mark.slow
def test_two_processes_equal_one_device(inputs, tmp_path, monkeypatch):
    both = Processes(tmp_path, [settings(inputs, tmp_path / "two", mesh="data=2,model=4")] * 2)
    make = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda text=None: make(text, jax.devices()[:1]))
    pipeline.transfer(TransferConfig(**settings(inputs, tmp_path / "one")))
    (first, said), (second, silence) = both.ended()
    assert (first, second) == (0, 0), (said, silence)
    assert said[-1] == f"wrote {tmp_path / 'two'}" and silence == []
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    for split in ("dev", "test"):
        assert two["seeds"]["0"][split]["loss"] == pytest.approx(one["seeds"]["0"][split]["loss"], abs=1e-5)
    one, two = (load_tree(tmp_path / name / "seed-0.safetensors") for name in ("one", "two"))
    for path, leaf in tree.flatten(one).items():
        np.testing.assert_allclose(tree.flatten(two)[path], leaf, atol=1e-4, err_msg=path)
    one, two = (load_tree(tmp_path / name / "frozen.safetensors") for name in ("one", "two"))
    assert not tiny_backbone.weights_differ(one, two)  # gathered from both processes


@pytest.mark.slow
def test_an_error_of_one_process_ends_both(inputs, tmp_path):
    good = settings(inputs, tmp_path / "run")
    bad = good | {"target": "glue/rte", "max_length": 64, "data_dir": str(tmp_path / "nowhere")}
    for code, lines in Processes(tmp_path, [good, bad]).ended():
        assert code == 2 and len(lines) == 1, lines
        assert lines[0].startswith("scalearn: error: process 1: ") and "nowhere" in lines[0]
    assert not list(tmp_path.glob("run*"))


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_both_go_on_when_begun_again(inputs, tmp_path):
    long = settings(inputs, tmp_path / "run", max_steps=30, eval_every=15, checkpoint_every=1)
    both = Processes(tmp_path, [long] * 2)
    both.wait_for(0, "step 4/")
    both.kill(1)
    (code, lines), _ = both.ended()
    assert code in (1, -signal.SIGABRT), (code, lines)  # where it waits, or JAX's own abort
    assert any("died" in line for line in lines), lines
    both = Processes(tmp_path, [long] * 2)
    both.wait_for(0, "/30  loss ")
    both.tell(1)  # which tells the other
    ends = both.ended()
    assert [code for code, _ in ends] == [75, 75], ends
    assert "going on from step " in ends[0][1][0]
    assert all("told to stop, and saved step " in lines[-1] for _, lines in ends), ends
    (first, said), (second, _) = Processes(tmp_path, [long] * 2).ended()
    assert (first, second) == (0, 0) and said[-1] == f"wrote {tmp_path / 'run'}", said
    whole = Processes(tmp_path, [long | {"out": str(tmp_path / "whole")}] * 2).ended()
    assert [code for code, _ in whole] == [0, 0], whole
    for name in ("results.json", "metrics.jsonl", "seed-0.safetensors"):  # the state's hash is among the results
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_process_that_nobody_joins_gives_up(inputs, tmp_path):
    alone = settings(inputs, tmp_path / "run", start_timeout=1, process_id=1)
    [(code, lines)] = Processes(tmp_path, [alone]).ended()
    assert code == 2 and len(lines) == 1, lines
    assert "process 1 of 2: not all processes met at 127.0.0.1:" in lines[0]


def test_a_port_that_is_taken_is_named(monkeypatch):
    with socket.create_server(("", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(InputError, match=f"port {taken} is taken, perhaps by another run; give all .* another one"):
            distributed.start(f"localhost:{taken}", 2, 0)
        in_environment(monkeypatch, SLURM | {"SLURM_PROCID": "0", "JAX_COORDINATOR_PORT": str(taken)})
        with pytest.raises(InputError, match=f"port {taken} is taken.* or JAX_COORDINATOR_PORT.* SLURM_STEP_ID=0"):
            distributed.start()


def others_send(monkeypatch, *texts):
    """Makes this process the first of some, the others of which send the given texts."""
    monkeypatch.setattr(agreement, "_gather", lambda text: [text, *texts])
    alone = agreement.Processes()
    alone.joined = True
    return alone


def test_processes_must_be_of_the_same_run(monkeypatch):
    theirs = json.dumps({"facts": {"--batch-size": 8, "the backbone": "ab"}, "shared": None})
    processes = others_send(monkeypatch, theirs)
    assert processes.agree({"--batch-size": 8, "the backbone": "ab"}, shared="step 3") == "step 3"
    with pytest.raises(InputError, match="process 1 differs from process 0 in the backbone: 'ab', not 'cd'"):
        processes.agree({"--batch-size": 8, "the backbone": "cd"})
    with pytest.raises(InputError, match="process 1 differs from process 0 in source 1: None, not 'x'"):
        processes.agree({"--batch-size": 8, "the backbone": "ab", "source 1": "x"})


def test_processes_must_count_alike(monkeypatch):
    with pytest.raises(InputError, match="process 1 was told of 3 processes, process 0 of 2"):
        others_send(monkeypatch, "3").join(2)


def test_a_run_that_asks_for_others_must_have_joined_them(inputs, tmp_path):
    config = TransferConfig(**settings(inputs, tmp_path / "run", coordinator="host:1", num_processes=2, process_id=0))
    with pytest.raises(InputError, match="num_processes is 2, this process has joined 1"):
        pipeline.transfer(config)


SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[003-004,7],other",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "4",  # of the allocation
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
SLURM_NUMBERS = "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_JOB_ID"
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1:3",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


def in_environment(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_slurm_says_in_the_job_step_who_takes_part(monkeypatch):
    in_environment(monkeypatch, SLURM)
    where, hint = distributed.detect()
    assert where["num_processes"] == 2 and where["process_id"] == 1
    assert where["coordinator_address"].startswith("node003:")
    assert "SLURM_STEP_NUM_TASKS=2" in hint and "SLURM_NTASKS" not in hint
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # such as a shell inside salloc
    assert distributed.detect() is None
    distributed.start()  # nothing to join


def test_steps_of_one_allocation_meet_at_different_ports(monkeypatch):
    in_environment(monkeypatch, SLURM)
    addresses = set()
    for step in range(100):
        monkeypatch.setenv("SLURM_STEP_ID", str(step))
        addresses.add(distributed.detect()[0]["coordinator_address"])
    ports = [int(address.split(":")[1]) for address in addresses]
    assert len(ports) == 100 and min(ports) >= 61440 and max(ports) <= 65535


@pytest.mark.parametrize(
    "nodes, first",
    [("alpha", "alpha"), ("alpha,beta", "alpha"), ("n[07,09]-ib,m", "n07-ib"), ("r[1-2]n[3-4]", "r1n3")],
)
def test_the_first_node_of_a_step(nodes, first, monkeypatch):
    in_environment(monkeypatch, SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert distributed.detect()[0]["coordinator_address"].rsplit(":", 1)[0] == first


def test_open_mpi_says_who_takes_part_up_to_version_4(monkeypatch):
    in_environment(monkeypatch, OPEN_MPI)
    where, hint = distributed.detect()
    assert where == dict(num_processes=2, process_id=1, cluster_detection_method="ompi")
    assert "OMPI_COMM_WORLD_RANK=1" in hint
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri")
    with pytest.raises(InputError, match="Open MPI has started 2 processes and does not say where they meet"):
        distributed.detect()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert distributed.detect() is None


def test_mpirun_inside_slurm_goes_by_its_own_processes(monkeypatch):
    in_environment(monkeypatch, SLURM | OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5"})
    where, _ = distributed.detect()  # Slurm's tasks are the two daemons of mpirun
    assert where == dict(num_processes=8, process_id=5, cluster_detection_method="ompi")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert distributed.detect() is None


def test_other_mpis_do_not_say_where_processes_meet(monkeypatch):
    in_environment(monkeypatch, {"PMI_SIZE": "4", "PMI_RANK": "1"})
    with pytest.raises(InputError, match=r"MPI \(PMI_SIZE\) has started 4 processes .* pass --coordinator"):
        distributed.detect()
    in_environment(monkeypatch, SLURM)  # whose two tasks are daemons of mpiexec
    with pytest.raises(InputError, match="has started 4 processes"):
        distributed.detect()
    monkeypatch.setenv("PMI_SIZE", "2")  # as srun itself says
    assert distributed.detect()[0]["cluster_detection_method"] == "slurm"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("PMI_SIZE", "1")
    assert distributed.detect() is None


@pytest.mark.parametrize("name", [*SLURM_NUMBERS, "JAX_COORDINATOR_PORT"])
def test_what_is_no_number_is_named(name, monkeypatch):
    in_environment(monkeypatch, SLURM | {name: "batch"})
    with pytest.raises(InputError, match=f"{name}=batch is no whole number; .* --coordinator"):
        distributed.detect()


@pytest.mark.parametrize("step", ["4294967290", "4294967291", "4294967292"])  # interactive, batch, extern
def test_special_steps_have_ports_too(step, monkeypatch):
    in_environment(monkeypatch, SLURM | {"SLURM_STEP_ID": step})
    assert 61440 <= int(distributed.detect()[0]["coordinator_address"].split(":")[1]) <= 65535


def test_an_allocation_without_a_step_is_one_process(monkeypatch):
    outside = {name: value for name, value in SLURM.items() if not name.startswith("SLURM_STEP")}
    in_environment(monkeypatch, outside)  # a batch script, which runs once
    assert distributed.detect() is None


def test_tasks_of_an_array_on_one_node_meet_at_different_ports(monkeypatch):
    in_environment(monkeypatch, SLURM)
    found = set()
    for job in range(4097, 4097 + 500):  # each task of a job array is a job of its own
        monkeypatch.setenv("SLURM_JOB_ID", str(job))
        found.add(distributed.detect()[0]["coordinator_address"])
    assert len(found) == 500
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "1234")
    where, hint = distributed.detect()
    assert where["coordinator_address"] == "node003:1234" and "JAX_COORDINATOR_PORT=1234" in hint


def test_a_cloud_tpu_of_several_hosts_is_joined(monkeypatch):
    in_environment(monkeypatch, {"TPU_ML_PLATFORM": "JAX", "TPU_WORKER_HOSTNAMES": "host0,host1"})
    assert distributed.detect()[0] == {}
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host0")
    assert distributed.detect() is None


def test_what_slurm_gave_is_named_where_processes_do_not_meet(monkeypatch):
    in_environment(monkeypatch, SLURM)

    def refuse(**arguments):
        raise RuntimeError("connection refused")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(InputError) as caught:
        distributed.start(start_timeout=9)
    for part in ("process 1 of 2: not all processes met at node003:", "within 9 s", "SLURM_STEP_ID=0", "refused"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--coordinator", "host:1"], "belong together"),
        (["--coordinator", "host", "--num-processes", "2", "--process-id", "0"], "must be HOST:PORT"),
        (["--coordinator", "host:1", "--num-processes", "2", "--process-id", "2"], "must be from 0 to 1"),
        (["--num-processes", "0"], "at least 1"),
    ],
)
def test_flags_for_many_processes_are_checked(flags, words, capsys):
    assert cli.main(["transfer", "--target", "a", "--backbone", "b", "--out", "c", *flags]) == 2
    assert words in capsys.readouterr().err
