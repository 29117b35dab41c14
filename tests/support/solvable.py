"""A tiny backbone with sources that change what it says, and tasks of a few texts to solve for."""

import json
from pathlib import Path

import numpy as np

from scalearn_jax.runs import adapterhub
from tests.support import tiny_backbone

WORDS = "soup lovely evening cold service warm room bad food nice staff dirty floor clean".split()
KINDS = {
    "classes": {"kind": "classification", "labels": ["no", "yes"]},
    "scores": {"kind": "regression"},
    "own/scores": {"kind": "regression"},
}
SPLITS = {"train": 40, "validation": 12, "test": 12}


def write(root: Path, count: int = 3) -> Path:
    """Writes ``backbone``, of one layer, sources ``source0`` and so on, and the tasks ``KINDS`` below ``data``."""
    silent = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    tiny_backbone.write(root / "backbone", num_hidden_layers=1, **silent)
    for number in range(count):
        adapter = draw_adapter(number)
        adapterhub.save(adapter, root / f"source{number}", name=f"s{number}", config={"model_type": "bert"})
    for name, row in KINDS.items():
        folder, generator = root / "data" / name, np.random.default_rng(7)
        folder.mkdir(parents=True)
        task = {"name": name, "texts": ["text"], "max_length": 12, **row}
        (folder / "task.json").write_text(json.dumps(task))
        for split, size in SPLITS.items():
            rows = [_row(name, generator) for _ in range(size)]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return root


def draw_adapter(seed: int, size: float = 0.7, width: int = 4):
    """An adapter of one layer whose update is about as large as what it is added to."""
    generator, hidden = np.random.default_rng(seed), tiny_backbone.CONFIG["hidden_size"]
    shapes = {"down": (hidden, width), "up": (width, hidden)}
    return {
        part: {
            "kernel": generator.normal(0, size, (1, *shape)).astype(np.float32),
            "bias": generator.normal(0, size, (1, shape[1])).astype(np.float32),
        }
        for part, shape in shapes.items()
    }


def _row(name: str, generator: np.random.Generator) -> dict:
    words = generator.choice(WORDS, generator.integers(3, 9)).tolist()
    score = sum(WORDS.index(word) % 2 for word in words) / len(words)
    label = score if name.endswith("scores") else int(score > 0.5)
    return {"text": " ".join(words), "label": label}
