"""Runs studies within a time and keeps what is small; see ``accelerator.sh``.

A study's folder lies in RESULTS. After each call the weights of its targets are dropped, which no later cell needs; the
source adapters stay, for all studies together.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

STUDIES = [Path(__file__).parents[1] / "glue_mpnet.yaml"]


def run(results: Path, model: Path, data: Path, minutes: float, files: Sequence[Path], processes: int = 1) -> int:
    """Runs what is missing of some studies and slims their folders; returns an exit code as ``scalearn run`` does."""
    from scalearn_jax.errors import STOPPED

    until, codes = time.monotonic() + 60 * minutes, []
    for path in files:
        left = (until - time.monotonic()) / 60
        if left <= 0:
            codes.append(STOPPED)
            continue
        relocate(results / path.stem, places(results, model, data))
        try:
            if processes > 1:  # a small encoder leaves most of a device idle, and compiling leaves all of it
                side_by_side(results, model, data, left, path, processes)
                left = 0  # what there is, in one table
            codes.append(run_share(results, model, data, left, path))
        finally:
            slim(results / path.stem)
    return next((code for code in (1, STOPPED) if code in codes), 0)


def run_share(
    results: Path, model: Path, data: Path, minutes: float, path: Path, share: tuple[int, int] = (1, 1)
) -> int:
    """Runs what is missing of a share of a study."""
    from scalearn_jax.config import StudyConfig, from_dict, read_yaml
    from scalearn_jax.io.cache import keep_compiled_programs
    from scalearn_jax.studies.run import run_study

    keep_compiled_programs()
    study = from_dict(StudyConfig, read_yaml(path) | places(results, model, data), where=str(path))
    return run_study(study, str(results / path.stem), max_minutes=minutes, share=share, where=str(path))


def side_by_side(results: Path, model: Path, data: Path, minutes: float, path: Path, processes: int) -> None:
    """Runs a study's shares in as many processes on one device; a signal to the group reaches all, and all save."""
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    command = [sys.executable, __file__, "share", str(results), str(model), str(data), "--minutes", f"{minutes:.3f}"]
    command += ["--studies", str(path), "--share"]
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        shares = [subprocess.Popen([*command, f"{i}/{processes}"], env=environment) for i in range(1, processes + 1)]
        for share in shares:
            share.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def places(results: Path, model: Path, data: Path) -> dict[str, str]:
    """Where a study finds what it needs."""
    return {"backbone": str(model), "data_dir": str(data), "adapters": str(results / "adapters")}


def relocate(out: Path, places: dict[str, str]) -> None:
    """Tells a study's folder where things lie now: it may have come from another machine."""
    from scalearn_jax.io.files import read_json, write_json

    if (out / "study.json").exists():
        content = read_json(out / "study.json")
        write_json(out / "study.json", content | {"study": content["study"] | places})


def slim(study: Path) -> None:
    """Drops the weights of a study's finished target cells but for the learned scales, which its figures show."""
    from scalearn_jax.io.tensors import load_tensors, save_tensors

    for path in study.rglob("*.safetensors"):
        if any(part.endswith(".partial") for part in path.parts):
            continue
        scales = {name: leaf for name, leaf in load_tensors(path).items() if name == "transfer/omega"}
        if scales:
            save_tensors(path, scales)
        else:
            path.unlink()


def halve(source: Path, destination: Path) -> None:
    """Copies an encoder's folder with its weights in float16."""
    import shutil

    import numpy as np
    from safetensors.numpy import load_file, save_file

    destination.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (source / name).exists():
            shutil.copy(source / name, destination / name)
    tensors = load_file(source / "model.safetensors")
    save_file(
        {name: t.astype(np.float16) if t.dtype == np.float32 else t for name, t in tensors.items()},
        destination / "model.safetensors",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line; wrong input is one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run what is missing of the studies")
    runs.add_argument("--processes", type=int, default=1, help="share the cells of a study among so many")
    share = commands.add_parser("share", help="run what is missing of a share of a study")
    share.add_argument("--share", help="I/N", required=True)
    for command in (runs, share):
        for name in ("results", "model", "data"):
            command.add_argument(name, type=Path)
        command.add_argument("--minutes", type=float, default=7.5, help="start no cell after this time")
        command.add_argument("--studies", type=Path, nargs="+", default=STUDIES)
    copy = commands.add_parser("halve", help="copy an encoder in float16")
    for name in ("source", "destination"):
        copy.add_argument(name, type=Path)
    given = parser.parse_args(argv)

    from scalearn_jax.config.checks import parse_shard
    from scalearn_jax.errors import STOPPED, InputError, Preempted
    from scalearn_jax.train.signals import signals

    try:
        if given.command == "halve":
            halve(given.source, given.destination)
            return 0
        inputs = given.results, given.model, given.data, given.minutes
        if given.command == "run" and given.processes > 1:
            return run(*inputs, given.studies, given.processes)
        with signals.watching():  # a cell that does not fit the call is saved, and goes on in the next
            if given.command == "share":
                return run_share(*inputs, given.studies[0], parse_shard(given.share))
            return run(*inputs, given.studies)
    except Preempted as error:
        print(f"accelerator: {error}", file=sys.stderr)
        return STOPPED
    except (InputError, OSError) as error:
        print(f"accelerator: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
