"""A small suite of English tasks, generated from our own word lists: no download, no licence to check.

Eight source tasks of 2,000 training rows cover every label kind; their evaluation rows use words and templates that
training never shows. Two low-resource targets of 64 rows need what the sources teach: ``builtin/recommendation``
weighs opinions about other things, ``builtin/agreement`` compares two reports in another frame.
"""

from scalearn_jax.data.builtin import opinions, topics
from scalearn_jax.data.builtin.generate import rows as rows
from scalearn_jax.data.builtin.generate import splits as splits
from scalearn_jax.data.builtin.generate import write as write
from scalearn_jax.data.task import Task


def _row(name: str, texts: tuple[str, ...], labels: tuple[str, ...], kind: str = "classification", **fields) -> Task:
    return Task(f"builtin/{name}", kind, texts, labels, max_length=64, **fields)


BUILTIN = {
    task.name: task
    for task in (
        _row("sentiment", ("sentence",), ("negative", "positive")),
        _row("topic", ("sentence",), topics.NAMES, metrics=("accuracy", "macro_f1")),
        _row("complaints", ("sentence",), opinions.ASPECTS, "multilabel", metrics=("macro_f1",), stratify=False),
        _row("entailment", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
        _row("paraphrase", ("sentence1", "sentence2"), ("different", "same"), metrics=("accuracy", "f1")),
        _row(
            "similarity", ("sentence1", "sentence2"), (), "regression", metrics=("pearson", "spearman"), stratify=False
        ),
        _row("answer", ("question", "sentence"), ("unanswered", "answered")),
        _row("cause", ("{premise} {question}",), (), "choice", choices=("choice1", "choice2")),
        _row("recommendation", ("letter",), ("advises against", "recommends")),
        _row("agreement", ("witness1", "witness2"), ("disagree", "agree")),
    )
}
