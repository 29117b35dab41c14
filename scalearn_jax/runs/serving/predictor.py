"""Answers for texts: one model over a frozen backbone, or several tasks in one pass; what a server would hold.

Letters: n examples, N sequences of a step, S row length, C outputs, K sequences of an example.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalearn_jax import metrics
from scalearn_jax.data import batches, packing, tokens
from scalearn_jax.data.rows import Table
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError, unknown
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.runs.serving import mixed, questions
from scalearn_jax.runs.serving.folders import Served, open_folders
from scalearn_jax.runs.serving.mixed import Rows
from scalearn_jax.runs.serving.questions import Query
from scalearn_jax.runs.sources import Trust
from scalearn_jax.train import sharding
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.typing import Array, Params

_DTYPES = ("float32", "strict", "mixed", "bfloat16", "float64")
_MOST = 2**16  # sequences of a step
_SHORTEST = 8  # tokens of a row


@dataclass(frozen=True, init=False, repr=False)
class Predictor:
    """Trained tasks over one backbone, ready to answer: open folders, then call it with texts.

    Every step has the same N sequences, one of three row lengths and one of few numbers of rows, so few programs serve
    all calls; each is compiled when it is first needed. They are pure functions and the tokenizer is locked, so threads
    may share a predictor. It uses all of the process's devices, which share out the rows.

    Attributes:
      tasks: name -> row.
      backbone: sizes of the encoder.
      where: the backbone's place, for errors.
      batch_size: N.
      forward: (params, rows) -> logits Float[N C]; compiled.
      params: on the devices.
      tokenizer: of the backbone.
      choices: a line for each run of several seeds, which of them was taken and why.

    Example:
      >>> predictor = Predictor("runs/rte", "runs/sst2")  # doctest: +SKIP
      >>> predictor(["A fine film.", ("It rains.", "It is wet.")], ["glue/sst2", "glue/rte"])  # doctest: +SKIP
      [{'label': 'positive', 'probabilities': {...}}, {'label': 'entailment', 'probabilities': {...}}]
    """

    tasks: Mapping[str, Task]
    backbone: BackboneSpec
    where: str
    batch_size: int
    forward: Callable[[Params, Rows], Array]
    params: Params
    tokenizer: Any
    choices: Sequence[str]
    _lock: Any

    def __init__(
        self,
        *folders: str,
        backbone: str | None = None,
        seed: int | None = None,
        batch_size: int = 32,
        dtype: str | None = None,
        allow_pickle: bool = False,
        any_base_model: bool = False,
        combiner: Any = None,
    ):
        """Opens folders for prediction.

        Args:
          *folders: each a finished run, or an AdapterHub adapter with its head (what ``scalearn fold`` and ``export``
            write, or a stranger's). Several must share a backbone and be one adapter in each layer, as all methods but
            fusion, ia3, full and head are.
          backbone: where the backbone lies now; needed where no folder names it.
          seed: which seed of a run; by default its best on development data, see ``choices``.
          batch_size: N, sequences of a step; an example of a task with K choices has K.
          dtype: type of the computation, see ``ModelSpec``; by default that of the runs, float32 where they differ.
          allow_pickle: whether to read weights without safetensors.
          any_base_model: whether an adapter may name another base model than the backbone.
          combiner: the user's own, of a run that was made with one; see ``combiners.own``.

        Raises:
          InputError: a folder that cannot be served, or folders that do not fit each other; see ``open_folders``.
        """
        _check(batch_size, dtype)
        with own_settings():
            trust = Trust(allow_pickle, any_base_model, combiner)
            self._set(open_folders(*folders, backbone=backbone, seed=seed, trust=trust), batch_size, dtype)

    @classmethod
    def load(cls, *folders: str, **options: Any) -> "Predictor":
        """Opens folders for prediction, as ``Predictor(...)`` does."""
        return cls(*folders, **options)

    @classmethod
    def of(
        cls, served: Sequence[Served], *, batch_size: int = 32, dtype: str | None = None, tokenizer: Any = None
    ) -> "Predictor":
        """Makes a predictor of what is in memory; by default it reads the tokenizer where the backbone lies."""
        _check(batch_size, dtype)
        predictor = object.__new__(cls)
        with own_settings():
            predictor._set(served, batch_size, dtype, tokenizer)
        return predictor

    def _set(self, served: Sequence[Served], batch_size: int, dtype: str | None, tokenizer: Any = None) -> None:
        """Fills in the fields."""
        forward, params = mixed.assemble(served, dtype)
        values = dict(
            tasks={one.task.name: one.task for one in served},
            backbone=served[0].spec.backbone,
            where=served[0].path,
            batch_size=batch_size,
            forward=forward,
            params=params,
            tokenizer=tokenizer or tokens.load_tokenizer(served[0].path, served[0].revision),
            choices=[one.why for one in served if one.why],
            _lock=threading.Lock(),
        )
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __call__(self, texts: Any, tasks: str | Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Answers texts, as ``predict`` does."""
        return self.predict(texts, tasks)

    def __repr__(self) -> str:
        return f"Predictor({', '.join(self.tasks)}; backbone {self.where})"

    @property
    def row_choices(self) -> tuple[int, ...]:
        """The numbers of rows that a step may have, evenly shared by the devices."""
        return tuple(np.unique(sharding.divisible(np.array(packing.row_steps(self.batch_size)), sharding.make_mesh())))

    @property
    def row_lengths(self) -> tuple[int, ...]:
        """The lengths that the rows of a call may have: that of the longest task; for short texts, a part of it."""
        longest = max(task.max_length for task in self.tasks.values())
        return (*(longest // part for part in (4, 2) if longest // part >= _SHORTEST), longest)

    def predict(self, texts: Any, tasks: str | Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Answers texts.

        Args:
          texts: each a text, several in the order of its task's columns, or a dict by column; in a list, an array, a
            column of a table, a DataFrame (its rows) or a generator. One text alone is a list of one.
          tasks: the task of each, or of all; ``None`` where there is one.

        Returns:
          For each text in order ``{"label", "probabilities": {label: p}}``; of a regression task ``{"value"}``, of a
          multi-label one ``{"labels", "probabilities"}``. Texts longer than the task's length are cut as in training.

        Raises:
          InputError: an unknown task, or a text that does not fit its task.
          FloatingPointError: damaged weights, whose logits are no finite numbers.
        """
        return self._answers(questions.of_texts(texts, tasks, self.tasks))

    def predict_table(self, table: Table, where: str, tasks: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Answers the rows of the file ``where``, as ``predict`` does; ``tasks`` as there."""
        return self._answers(questions.of_table(table, where, tasks, self.tasks))

    def logits(self, texts: Any, tasks: str | Sequence[str] | None = None) -> list[np.ndarray]:
        """Computes the logits behind ``predict``.

        Returns:
          For each text in order Float[C]; of a task with K choices Float[K], of one that makes several examples of a
          text, such as ReCoRD, Float[number of examples, C].
        """
        asked, found = questions.of_texts(texts, tasks, self.tasks), []
        for query, logits in zip(asked, self._logits(asked), strict=True):
            rows = questions.examples_of(query.task, query.table)
            found.append([logits[own] if query.task.derive == "record" else logits[own[0]] for own in rows])
        return _in_order(asked, found)

    def _answers(self, asked: list[Query]) -> list[dict[str, Any]]:
        of_query = zip(asked, self._logits(asked), strict=True)
        return _in_order(asked, [questions.answers(query.task, query.table, logits) for query, logits in of_query])

    def _logits(self, asked: list[Query]) -> list[np.ndarray]:
        """Computes Float[n C] of each query's examples, or Float[n K]."""
        if not asked:
            return []
        encoded = []
        for task, table in ((query.task, query.table) for query in asked):
            with self._lock:  # a tokenizer keeps the length it cuts at
                one = tokens.encode(self.tokenizer, task, table, max_length=task.max_length, labels=False)
            encoded.append(tokens.check_ids(one, self.backbone, self.where))
        counts = [len(one.lengths) for one in encoded]
        logits = self._of_sequences(_joined(encoded), np.repeat([query.number for query in asked], counts))
        found = []
        for query, one, part in zip(asked, encoded, np.split(logits, np.cumsum(counts)[:-1]), strict=True):
            part = part[:, : query.task.num_outputs]
            metrics.check_finite(part, f"task {query.task.name}")
            found.append(part.reshape(len(one), -1))
        return found

    def _of_sequences(self, encoded: tokens.Encoded, groups: np.ndarray) -> np.ndarray:
        """Computes the heads' outputs for single sequences, in order."""
        outputs = []
        for start in range(0, len(encoded), self.batch_size):
            sequences = np.arange(start, min(start + self.batch_size, len(encoded)))
            batch = batches.make_batch(
                encoded,
                sequences,
                groups=groups[sequences],
                batch_size=self.batch_size,
                row_length=packing.rounded_up(encoded.lengths.max(), self.row_lengths),
                row_choices=self.row_choices,
            )
            outputs.append(self.forward(self.params, mixed.rows_of(batch, groups[sequences])))
        return np.concatenate(jax.device_get(outputs))[: len(encoded)]


def _check(batch_size: Any, dtype: Any) -> None:
    if type(batch_size) is not int or not 1 <= batch_size <= _MOST:
        raise InputError(f"batch_size must be a whole number from 1 to {_MOST}, got {batch_size!r}.")
    if dtype not in (None, *_DTYPES):
        raise unknown("dtype", dtype, _DTYPES)


def _joined(parts: Sequence[tokens.Encoded]) -> tokens.Encoded:
    """Makes one split of the single sequences of several."""
    lengths = np.concatenate([part.lengths for part in parts])
    return tokens.Encoded(
        ids=np.concatenate([part.ids for part in parts]),
        token_types=np.concatenate([part.token_types for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.zeros(len(lengths), np.int32),
        pad_id=parts[0].pad_id,
    )


def _in_order(asked: Iterable[Query], found: Iterable[Sequence[Any]]) -> list[Any]:
    """Brings what was found for each query's rows back in the order of the question."""
    at = {
        place: one
        for query, own in zip(asked, found, strict=True)
        for place, one in zip(query.positions, own, strict=True)
    }
    return [at[place] for place in sorted(at)]
