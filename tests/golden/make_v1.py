"""Made ``v1_runs``, ``help`` and ``public_names.json``, with version 0.1.0 before its modules moved; kept as a record.

    python tests/golden/make_v1.py v1_runs help names       in about a minute and a half

It uses the modules of that version, so ``v1_runs`` can be made again only with a checkout of the commit that added this
file. Do that to hold a later version to the bits on another kind of processor: write the folder there, put it in the
place of the committed one, and run ``tests/project/test_net.py`` of the later version.

Two things are not as the commands left them. ``run.json`` held where the backbone and the data lay; here it holds
"backbone" and "data", so that the runs can be used with ``v1_runs`` as the working folder. And the folders of stopped
runs were called ``OUT.partial``; here they lie in ``stopped`` without the ``.partial``, which git ignores. What their
checkpoints hold is as it was: no place, but hashes of the backbone, the sources and the data.
"""

import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import conftest  # noqa: E402, F401  eight devices and cheap compilation, as in the tests; before jax
from tests.project.test_net import call, commands, made_with  # noqa: E402

GOLDEN = ROOT / "tests/golden"
_SMALL = (
    *("--backbone", "backbone", "--batch-size", "8", "--max-length", "32", "--max-train-samples", "48"),
    *("--max-eval-samples", "24", "--max-steps", "6", "--eval-every", "2", "--log-every", "1"),
    *("--keep-checkpoints", "1"),
)
_OPTIONS = (
    *("--learning-rates", "0.003", "0.03", "--reduction-factor", "8", "--non-linearity", "gelu", "--select", "metric"),
    *("--optimizer", "optax", "--warmup-steps", "2", "--weight-decay", "0.01", "--no-packed"),
)
_SOURCES = ("--sources", "adapter", "more/lr-0.03")
COMMANDS = {
    "adapter": ("train-adapter", "--task", "builtin/sentiment", "--reduction-factor", "4", "--non-linearity", "gelu"),
    "more": ("train-adapter", "--task", "builtin/topic", *_OPTIONS),
    "scalearn": ("transfer", "--target", "builtin/sentiment", "--seeds", "0", "1", *_SOURCES),
    "fusion": ("transfer", "--method", "fusion", "--target", "mood", "--data-dir", "data", *_SOURCES),
}
_RATES = {"adapter": "0.01", "scalearn": "0.02", "fusion": "0.02"}
COMMANDS = {
    name: [*command, "--out", name, *_SMALL, *(("--learning-rate", _RATES[name]) if name in _RATES else ())]
    for name, command in COMMANDS.items()
}
RUNS = {"adapter": [0], "more/lr-0.003": [0], "more/lr-0.03": [0], "scalearn": [0, 1], "fusion": [0]}
FOLDS = {"adapter": ("adapter", 0), "scalearn": ("scalearn", 1), "kept": ("scalearn", 1, "--keep", "1")}
# The run, and the boundaries (steps, and batches of evaluations) that it lasts: two steps, one batch a member or group.
STOPPED = {"scalearn": 4, "more": 5}
TEXTS = [
    "The soup was cold and the waiter was rude.",
    "A quiet room, friendly colleagues and delicious fruit!",
    "I found the lounge spotless.",
    "zyx",
    "Greetings from the coast, where the senator published a new law on the flu while many people watched the violinist"
    " break a porcelain vase in front of a large crowd after dark, and the wine glass turned out to be stale.",
]


def stop(name: str, boundaries: int) -> None:
    """Begins a run, stops it as a signal would, and keeps what it leaves in ``stopped``."""
    from scalearn_jax import cli, signals
    from scalearn_jax.train import preemption

    left = iter(range(boundaries - 1, -1, -1))

    def boundary():
        if next(left) == 0:
            raise signals.stopped()

    with mock.patch.object(preemption, "boundary", boundary):
        assert cli.main(COMMANDS[name]) == 75
    for partial in sorted(Path(".").rglob("*.partial")):
        place = Path("stopped", partial.with_suffix(""))
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(place)


def write_data(folder: Path) -> None:
    """Writes a task of one's own, with a development set to be held out of its training set."""
    from scalearn_jax.data import builtin

    names = ("bad", "good")
    rows = {split: builtin.rows("builtin/sentiment", split)[:80] for split in ("train", "validation")}
    folder.mkdir()
    (folder / "task.yaml").write_text(
        "name: mood\nkind: classification\ntexts: [review]\nlabels: [bad, good]\nmetrics: [accuracy, macro_f1]\n"
    )
    lines = [json.dumps({"review": row["sentence"], "label": names[row["label"]]}) for row in rows["train"]]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    quoted = [f'"{row["sentence"]}",{names[row["label"]]}' for row in rows["validation"]]
    (folder / "validation.csv").write_text("\n".join(["review,label", *quoted]) + "\n")


def relocate(path: Path) -> None:
    """Makes the places in a ``run.json`` relative to the folder of the runs."""
    info = json.loads(path.read_text())
    info["backbone"]["path"] = "backbone"
    info["data_dir"] = info["data_dir"] and "data"
    path.write_text(json.dumps(info, indent=2) + "\n")


def make_runs() -> None:
    """Trains, stops, evaluates and folds in a new folder, which then takes the place of ``v1_runs``."""
    import numpy as np

    import scalearn_jax as sj
    from tests import tiny_backbone

    with tempfile.TemporaryDirectory() as work, contextlib.chdir(work):
        tiny_backbone.write(Path("backbone"))
        write_data(Path("data"))
        for name, command in COMMANDS.items():
            if name in STOPPED:
                stop(name, STOPPED[name])
            call(*command)
        for path in Path(".").rglob("run.json"):
            relocate(path)
        Path("expected").mkdir()
        scores = {
            name: {split: json.loads(call("evaluate", name, "--split", split, "--json")) for split in ("dev", "test")}
            for name in RUNS
        }
        logits = {
            f"{name}/{seed}": np.stack(sj.Predictor.load(name, seed=seed).logits(TEXTS))
            for name, seeds in RUNS.items()
            for seed in seeds
        }
        np.savez("expected/logits.npz", **logits)
        for name, (run, seed, *more) in FOLDS.items():
            call("fold", run, "--out", f"expected/folds/{name}", "--seed", str(seed), *more)
        index = {
            "made_with": made_with(),
            "commands": COMMANDS,
            "runs": RUNS,
            "stopped": {name: _step(name) for name in STOPPED},
            "texts": TEXTS,
            "scores": scores,
            "folds": FOLDS,
        }
        Path("expected/index.json").write_text(json.dumps(index, indent=1) + "\n")
        shutil.rmtree(GOLDEN / "v1_runs", ignore_errors=True)
        shutil.copytree(".", GOLDEN / "v1_runs")


def _step(name: str) -> int:
    """The last step that a stopped run has saved."""
    return max(int(path.name.split(".")[0]) for path in Path("stopped", name).rglob("checkpoints/*.*"))


def make_help() -> None:
    """Writes what each command prints for ``--help``."""
    folder = GOLDEN / "help"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, words in commands().items():
        (folder / f"{name}.txt").write_text(call(*words, "--help"), encoding="utf-8")


def make_names() -> None:
    """Writes the public names."""
    import scalearn_jax

    (GOLDEN / "public_names.json").write_text(json.dumps(scalearn_jax.__all__, indent=1) + "\n")


if __name__ == "__main__":
    for what in sys.argv[1:]:
        {"v1_runs": make_runs, "help": make_help, "names": make_names}[what]()
