"""Our training step on whatever device JAX finds, without PyTorch, data or downloads: random encoder and token ids.

    python -m experiments.benchmark.accelerator RESULTS [--minutes 2]

An encoder of RoBERTa-base's size in bfloat16, examples of MNLI's lengths packed into rows of 128: time of a step and
share of the device's own matrix-product speed at batch 256, and ten seeds together against one at batch 32. What is
measured stays in RESULTS/accelerator.json; a rerun measures what is missing.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# 32 quantiles of the lengths of MNLI's training pairs, in word pieces, special tokens included; their mean is 40.
LENGTHS = (13, 16, 18, 20, 21, 23, 24, 26, 27, 28, 30, 31, 32, 34, 35, 36)
LENGTHS += (38, 39, 41, 42, 44, 46, 47, 49, 51, 53, 55, 58, 62, 67, 73, 92)
ROW_LENGTH = 128
NUM_BATCHES, STEPS_AT_ONCE = 2, 10
SHAPES = ((8192, 768, 3072), (8192, 3072, 768), (8192, 8192, 8192))
ROBERTA_BASE = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
TINY = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class Cell(NamedTuple):
    """One measurement."""

    method: str
    batch_size: int
    seeds: int = 1

    @property
    def name(self) -> str:
        """What it is called in results and tables."""
        return f"{self.method}, batch {self.batch_size}, seeds {self.seeds}"


CELLS = (
    Cell("scalearn", 256),
    Cell("single", 256),
    Cell("fusion", 256),
    Cell("scalearn", 32),
    Cell("scalearn", 32, seeds=10),
)


def run(out: Path, minutes: float, repeats: int, tiny: bool) -> int:
    """Measures what is missing until the time is up; returns 0, or 75 where something is left."""
    import jax

    from experiments.benchmark.ours import peak
    from scalearn_jax.io.cache import keep_compiled_programs

    keep_compiled_programs()
    until, path = time.monotonic() + 60 * minutes, out / "accelerator.json"
    found = json.loads(path.read_text()) if path.exists() else {"cells": {}}
    device = {"kind": jax.devices()[0].device_kind, "count": jax.device_count(), "jax": jax.__version__}
    if found.setdefault("device", device) != device:  # figures of two machines do not belong in one table
        found = {"cells": {}, "device": device}
    shapes = [[size // 64 for size in shape] for shape in SHAPES] if tiny else SHAPES
    found["peak"] = found.get("peak") or peak({"shapes": shapes, "at_once": STEPS_AT_ONCE})
    missing = [cell for cell in CELLS if cell.name not in found["cells"]]
    for cell in missing:
        if time.monotonic() > until:
            break
        small = cell._replace(batch_size=8, seeds=min(cell.seeds, 2))
        found["cells"][cell.name] = measure_cell(*(small, TINY) if tiny else (cell, {}), repeats)
        write(out, found)
    write(out, found)
    return 0 if len(found["cells"]) == len(CELLS) else 75


def measure_cell(cell: Cell, changes: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Builds a random model and packed batches and measures the step, as ``step`` does for real ones."""
    from experiments.benchmark.step import measure_steps

    found = measure_steps(random_workload(cell, changes), repeats, STEPS_AT_ONCE)
    return found | {"examples_per_second": cell.seeds * cell.batch_size / found["seconds"]}


def random_workload(cell: Cell, changes: dict[str, Any]):
    """Draws encoder, sources and token ids; everything else as a run resolves it."""
    import jax

    from experiments.benchmark.step import Workload, make_config, random_sources
    from scalearn_jax import methods
    from scalearn_jax.models import bank, encoder
    from scalearn_jax.models.backbones import spec_from_config
    from scalearn_jax.stages import prepare
    from scalearn_jax.train import sharding

    sizes, method = spec_from_config(ROBERTA_BASE | changes), methods.get(cell.method)
    setting = {"backbone": "random", "data_dir": None, "task": "glue/mnli", "rows": "packed", "length": ROW_LENGTH}
    config = make_config(setting | cell._asdict() | {"dtype": "bfloat16"})
    task = prepare.resolve_task(config, config.target)
    sources = random_sources(sizes, 8) if method.uses_sources else []
    spec = prepare.make_spec(config, method, task, sizes, sources)
    backbone = jax.jit(encoder.init, static_argnums=1)(jax.random.key(0), sizes)
    stacked = bank.stack([source.adapter for source in sources]) if sources else None
    halves = prepare.init_members(config.seeds, spec, method, backbone, stacked, sharding.make_mesh())
    return Workload(spec, task, method, *halves, packed_batches(cell, sizes.vocab_size, task.num_outputs))


def packed_batches(cell: Cell, vocab_size: int, num_outputs: int) -> list:
    """Draws examples of ``LENGTHS`` and packs each step's into rows, all steps into as many as the fullest needs."""
    import numpy as np

    from scalearn_jax.data import batches, tokens

    num_examples, generator = NUM_BATCHES * cell.batch_size, np.random.default_rng(0)
    lengths = np.resize(LENGTHS, num_examples)
    ids = generator.integers(5, vocab_size, lengths.sum(), np.int32)
    labels = generator.integers(0, num_outputs, num_examples, np.int32)
    encoded = tokens.Encoded(ids, np.zeros_like(ids), np.concatenate([[0], np.cumsum(lengths)]), labels, pad_id=1)
    given = {"batch_size": cell.batch_size, "row_length": ROW_LENGTH}
    rows = batches.train_rows(encoded, seeds=range(cell.seeds), num_steps=NUM_BATCHES, **given)
    streams = [
        batches.train_batches(encoded, seed=seed, row_choices=(int(rows.max()),), **given) for seed in range(cell.seeds)
    ]
    return [batches.stack([next(stream) for stream in streams]) for _ in range(NUM_BATCHES)]


def write(out: Path, found: dict[str, Any]) -> None:
    """Keeps the results, and their tables as README.md."""
    from experiments.benchmark.tables import number, table

    fastest = {kind: max(rates.values()) for kind, rates in found["peak"].items()}
    kind = "bfloat16" if "bfloat16" in fastest else "float32"
    single = found["cells"].get(Cell("single", 256).name, {}).get("seconds")
    one_seed = found["cells"].get(Cell("scalearn", 32).name, {}).get("seconds")
    rows = []
    for name, entry in found["cells"].items():
        base, compiled = one_seed if "batch 32" in name else single, entry["flops"] / entry["needed_flops"]
        rows.append(
            (
                name,
                number(entry, "rows", "{:.0f}"),
                number(entry, "seconds", "{:.2f}", 1e-3),
                f"{entry['seconds'] / base:.2f}" if base else "-",
                number(entry, "examples_per_second", "{:,.0f}"),
                f"{100 * entry['needed_flops'] / entry['seconds'] / fastest[kind]:.1f} %",
                f"{compiled:.3f}" if compiled >= 1 else "-",
                number(entry, "temp", "{:,.0f}", 1e6),
            )
        )
    head = ("step", "rows", "ms", "ratio", "examples/s", "share of peak", "compiled / needed operations", "temp MB")
    device = ", ".join(f"{name} {value}" for name, value in found["device"].items())
    speeds = [(name, f"{rate / 1e12:.2f}") for name, rate in fastest.items()]
    about = (
        f"RoBERTa-base's size, bfloat16, 8 sources, rows of {ROW_LENGTH}; device: {device}. The ratio is to the single"
        f" adapter at batch 256, to one seed at batch 32. Share: needed operations over the fastest {kind} product."
        " XLA does not count compiled operations that it leaves to a library; there, -."
    )
    lines = ["# Benchmark on a device", "", about, "", *table(head, rows), *table(("product", "TFLOP/s"), speeds)]
    out.mkdir(parents=True, exist_ok=True)
    (out / "accelerator.json").write_text(json.dumps(found, indent=1))
    (out / "README.md").write_text("\n".join(lines).rstrip() + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0, help="start no cell after this time")
    parser.add_argument("--repeats", type=int, default=5, help=f"timed runs of {STEPS_AT_ONCE} steps of each batch")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script")
    given = parser.parse_args(argv)
    return run(given.out, given.minutes, given.repeats, given.tiny)


if __name__ == "__main__":
    sys.exit(main())
