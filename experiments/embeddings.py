"""What the encoder's own sentence embeddings give on the cells of a few-shot study, with no adapter.

    python experiments/embeddings.py experiments/few_shot_minilm.yaml OUT.json --backbone DIR --data-dir DATA

    logistic   a linear head on the embeddings: logistic regression, for scores ridge, strength by cross-validation; of
               a pair (u, v) it sees u, v, |u - v| and u * v
    setfit     SetFit: the encoder itself is tuned on pairs of examples, then a logistic regression; labels only

Draws, test sets and metrics are the study's. It needs `sentence-transformers` and `setfit`, which ask for an older
transformers, in an environment of their own with `PYTHONPATH=.`, and no JAX:
`pip install torch==2.13.0 setfit "transformers<5" pydantic ruamel.yaml`. What OUT.json holds is not computed again.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("logistic", "setfit")


def run(study: dict[str, Any], out: Path, methods: Sequence[str], targets: Sequence[str], shots: Sequence[int]) -> None:
    """Runs what is missing, and saves each score."""
    found = json.loads(out.read_text()) if out.exists() else {}
    embedded: dict[str, np.ndarray] = {}  # texts of test sets come again with every draw
    for method, task, k, draw in itertools.product(methods, targets, shots, range(study["draws"])):
        scores = found.setdefault(method, {}).setdefault(task, {}).setdefault(str(k), {})
        if str(draw) in scores:
            continue
        score = cell(method, task, study["data_dir"], k, draw, study["backbone"], embedded)
        if score is None:
            continue
        scores[str(draw)] = score
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{task} {k} {draw} {method} {100 * score:.2f}", flush=True)


def cell(method: str, name: str, data: str, k: int, draw: int, backbone: str, embedded: dict) -> float | None:
    """Returns the test score of a cell, or nothing where the method has no answer to such a task."""
    from scalearn_jax import metrics
    from scalearn_jax.data import tasks
    from scalearn_jax.data.splits import load_splits

    task = tasks.get(name)
    splits = load_splits(task, data_dir=data, max_train_samples=k, sample_seed=draw)
    texts = [[task.sequences(row)[0] for row in rows] for rows in (splits.train, splits.test)]
    labels = [np.array(rows["label"]) for rows in (splits.train, splits.test)]
    if (method == "setfit" and task.kind != "classification") or len(set(labels[0].tolist())) < 2:
        return None
    if method == "setfit":
        logits = tune(backbone, *texts, labels[0])
    else:
        logits = fit(backbone, *texts, labels[0], task, embedded)
    scores = metrics.compute(task.metrics, task.kind, logits.astype(np.float32), labels[1], None)
    return float(scores[task.metrics[0]])


def fit(backbone: str, train: list, test: list, labels: np.ndarray, task, embedded: dict) -> np.ndarray:
    """Fits a linear head to embeddings; returns the logits of the test set."""
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = [embed(backbone, texts, embedded) for texts in (train, test)]
    if task.kind == "regression":
        head = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 25)))
        return head.fit(features[0], labels).predict(features[1])[:, None]
    folds = max(2, min(5, np.unique(labels, return_counts=True)[1].min()))
    linear = GridSearchCV(LogisticRegression(max_iter=2000), {"C": np.logspace(-5, 1, 13)}, cv=folds)
    head = make_pipeline(StandardScaler(), linear)
    probabilities = head.fit(features[0], labels).predict_proba(features[1])
    logits = np.full((len(test), task.num_outputs), -1e9)
    logits[:, head.classes_] = np.log(probabilities + 1e-30)
    return logits


def embed(backbone: str, texts: list[tuple[str, ...]], embedded: dict) -> np.ndarray:
    """Embeds examples of one or two texts."""
    from sentence_transformers import SentenceTransformer

    encoder = embedded.setdefault("encoder", SentenceTransformer(backbone, device="cpu"))
    missing = sorted({text for example in texts for text in example} - set(embedded))
    embedded.update(zip(missing, encoder.encode(missing, batch_size=64), strict=True))
    parts = [np.array([embedded[example[number]] for example in texts]) for number in range(len(texts[0]))]
    if len(parts) == 1:
        return parts[0]
    u, v = parts
    return np.concatenate([u, v, abs(u - v), u * v], axis=1)


def tune(backbone: str, train: list, test: list, labels: np.ndarray) -> np.ndarray:
    """Tunes the encoder as SetFit's paper does, 20 pairs of each kind an example; returns the test set's logits."""
    import datasets
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(backbone, device="cpu")
    rows = datasets.Dataset.from_dict({"text": [" ".join(texts) for texts in train], "label": labels.tolist()})
    with tempfile.TemporaryDirectory() as scratch:
        settings = {"batch_size": 16, "num_epochs": 1, "num_iterations": 20, "report_to": "none", "save_strategy": "no"}
        trainer = Trainer(model, TrainingArguments(scratch, show_progress_bar=False, **settings), train_dataset=rows)
        trainer.train()
    probabilities = np.asarray(model.predict_proba([" ".join(texts) for texts in test], as_numpy=True))
    return np.log(probabilities + 1e-30)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line."""
    from scalearn_jax.io.yaml_file import read_yaml

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--targets", nargs="+", help="instead of the study's")
    parser.add_argument("--shots", nargs="+", type=int, help="instead of the study's")
    given = parser.parse_args(argv)
    study = read_yaml(str(given.study)) | {"backbone": given.backbone, "data_dir": given.data_dir}
    run(study, given.out, given.methods, given.targets or study["targets"], given.shots or study["shots"])


if __name__ == "__main__":
    sys.exit(main())
