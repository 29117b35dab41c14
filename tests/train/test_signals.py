"""What SIGTERM and SIGINT do, in processes of their own."""

import signal
import subprocess
import sys
import time

import pytest

from scalearn_jax.train import signals
from tests.conftest import ROOT

HEAD = """
import ctypes, signal, sys, time
sys.path.insert(0, {root!r})
from scalearn_jax import signals
from scalearn_jax.errors import Preempted
try:
    with signals.watching():
        {setting}
        print("ready", flush=True)
        {work}
except Preempted as error:
    print(error)
    sys.exit(75)
"""
# As a compilation: no Python runs meanwhile. Another thread gets the signal, since it would end the sleep.
OUTSIDE_PYTHON = "ctypes.CDLL(None).sleep(30)"
TO_ANOTHER_THREAD = "signal.pthread_sigmask(signal.SIG_BLOCK, (2, 15))"
SAVES = "\n        ".join(
    ["while not signals.state.signum: time.sleep(0.01)", "time.sleep(5)", "print('saved', flush=True)"]
)
IN_TRAINING = "signals.state.defers, signals.state.unsaved = lambda: True, True"


def start(work: str, setting: str = "pass") -> subprocess.Popen:
    program = HEAD.format(root=str(ROOT), setting=setting, work=work)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen) -> tuple[int, str, float]:
    """Returns the exit code, what was said, and how long the end took."""
    began = time.monotonic()
    said = "".join(process.communicate(timeout=60))
    return process.returncode, said, time.monotonic() - began


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_where_there_is_nothing_to_save_the_first_one_ends(signum):
    process = start("time.sleep(30)")
    process.send_signal(signum)
    code, said, took = end(process)
    assert code == 75 and f"stopped by {signum.name}; nothing was lost; run the same command again" in said
    assert took < 20


def test_also_while_no_python_runs():
    process = start(OUTSIDE_PYTHON, TO_ANOTHER_THREAD)
    process.send_signal(signal.SIGTERM)
    code, said, took = end(process)
    assert code == 75 and "nothing was lost" in said
    assert took < 25  # not the 30 seconds that it would take by itself


@pytest.mark.parametrize("name", ["__del__", "_xla_gc_callback"])
def test_it_is_not_lost_where_python_swallows_exceptions(name):
    swallowing = f"exec('def {name}(): print(0, flush=True), time.sleep(30)')"
    process = start(f"{swallowing}; {name}()", "signals.state.raises = True")
    assert process.stdout.readline() == "0\n"
    process.send_signal(signal.SIGTERM)
    code, said, took = end(process)
    assert code == 75 and "nothing was lost" in said and "Traceback" not in said
    assert took < 20


def test_a_save_may_take_longer():
    process = start(SAVES, IN_TRAINING)
    process.send_signal(signal.SIGTERM)
    code, said, _ = end(process)
    assert (code, said) == (0, "saved\n")


@pytest.mark.parametrize("work", [OUTSIDE_PYTHON, "time.sleep(30)"])
def test_the_second_one_ends_at_once(work):
    process = start(work, f"{IN_TRAINING}; {TO_ANOTHER_THREAD}")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    code, said, took = end(process)
    assert code == 128 + signal.SIGTERM and said == "" and took < 20


def test_the_handlers_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with signals.watching():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_while_python_clears_up_is_silent():
    program = (
        f"import atexit, os, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['scalearn', '--version'];"
        "atexit.register(lambda: os.kill(os.getpid(), 2)); from scalearn_jax.cli import run; run()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT and done.stdout.startswith("scalearn ") and not done.stderr
