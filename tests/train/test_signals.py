"""What SIGTERM and SIGINT do, in processes of their own."""

import signal
import subprocess
import sys
import time

import pytest

from scalearn_jax.train.signals import signals
from tests.conftest import ROOT

HEAD = """
import ctypes, signal, sys, time
sys.path.insert(0, {root!r})
from scalearn_jax.train.signals import signals
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
    ["while not signals.received: time.sleep(0.01)", "time.sleep(5)", "print('saved', flush=True)"]
)
IN_TRAINING = "training = signals.training(); training.__enter__(); signals.mark_unsaved()"


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


def test_training_with_all_saved_ends_after_a_while():
    process = start("time.sleep(30)", f"{IN_TRAINING}; signals.mark_saved()")
    process.send_signal(signal.SIGTERM)
    code, said, took = end(process)
    assert code == 75 and "nothing was lost" in said and took < 25


def test_a_signal_after_the_last_boundary_ends_the_command():
    process = start("os.kill(os.getpid(), 15); training.__exit__(None, None, None)", f"import os; {IN_TRAINING}")
    code, said, _ = end(process)
    assert code == 75 and "stopped by SIGTERM;" in said and "run the same command again" in said


def test_beside_others_an_interrupt_is_passed_on_as_the_signal_that_jax_waits_for():
    another = "signal.signal(signal.SIGTERM, signal.SIG_DFL)"  # a handler outside Python, as JAX's is
    process = start("time.sleep(30)", f"signals.leave_sigterm_to_jax(); {another}")
    process.send_signal(signal.SIGINT)
    code, said, _ = end(process)
    assert (code, said) == (-signal.SIGTERM, "")


@pytest.mark.slow
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
