"""Runs the studies of ``experiments/accelerator`` within a time and keeps what is small; see ``accelerator.sh``.

A study's folder lies in RESULTS. After each call the weights of its targets are dropped, which no later cell needs; the
source adapters stay, for all studies together.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

STUDIES = Path(__file__).parent


def run(results: Path, model: Path, data: Path, minutes: float, files: Sequence[Path]) -> int:
    """Runs what is missing of some studies and slims their folders; returns an exit code as ``scalearn run`` does."""
    from scalearn_jax.config import StudyConfig, from_dict, read_yaml
    from scalearn_jax.errors import STOPPED
    from scalearn_jax.io.cache import keep_compiled_programs
    from scalearn_jax.studies.run import run_study

    keep_compiled_programs()
    until, codes = time.monotonic() + 60 * minutes, []
    for path in files:
        places = {"backbone": str(model), "data_dir": str(data), "adapters": str(results / "adapters")}
        study = from_dict(StudyConfig, read_yaml(path) | places, where=str(path))
        out = results / path.stem
        relocate(out, places)
        left = (until - time.monotonic()) / 60
        if left <= 0:
            codes.append(STOPPED)
            continue
        try:
            codes.append(run_study(study, str(out), max_minutes=left, where=str(path)))
        finally:
            slim(out)
    return next((code for code in (1, STOPPED) if code in codes), 0)


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
    for name in ("results", "model", "data"):
        runs.add_argument(name, type=Path)
    runs.add_argument("--minutes", type=float, default=7.5, help="start no cell after this time")
    runs.add_argument("--studies", type=Path, nargs="+", default=sorted(STUDIES.glob("*.yaml")))
    copy = commands.add_parser("halve", help="copy an encoder in float16")
    for name in ("source", "destination"):
        copy.add_argument(name, type=Path)
    given = parser.parse_args(argv)

    from scalearn_jax.errors import STOPPED, InputError, Preempted
    from scalearn_jax.train.signals import signals

    try:
        if given.command == "halve":
            halve(given.source, given.destination)
            return 0
        with signals.watching():  # a cell that does not fit the call is saved, and goes on in the next
            return run(given.results, given.model, given.data, given.minutes, given.studies)
    except Preempted as error:
        print(f"accelerator: {error}", file=sys.stderr)
        return STOPPED
    except (InputError, OSError) as error:
        print(f"accelerator: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
