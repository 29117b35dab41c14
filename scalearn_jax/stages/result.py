"""What a run in memory leaves: parameters, scales, history and scores; it predicts, and is saved as a run folder.

Letters: L layers, T source tasks.
"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.combiners.scalearn import VARIANTS, effective_omega
from scalearn_jax.data.rows import Table, to_arrow
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io.atomic_folder import atomic_folder
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.models import encoder
from scalearn_jax.runs.load import Run
from scalearn_jax.runs.serving.folders import serve
from scalearn_jax.runs.serving.predictor import Predictor
from scalearn_jax.runs.sources import Source
from scalearn_jax.stages.logs import write_logs
from scalearn_jax.stages.outputs import Outcome, describe, member_tree, summarise, write_run
from scalearn_jax.stages.setup import Setup
from scalearn_jax.train.loop import Event, Schedule
from scalearn_jax.train.sharding import gather
from scalearn_jax.typing import Params

if TYPE_CHECKING:  # it takes half a second to import
    import pandas

DATA = "data"  # folder of a saved run with the examples that were in memory


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result:
    """A trained run; ``fit_adapter`` and ``fit_transfer`` make it, and ``print`` shows its score and its size.

    Attributes:
      kind: ``"adapter"`` or ``"transfer"``.
      setup: what it was trained from, checked and resolved.
      schedule: how long it trained.
      outcome: the best checkpoint of each seed.
      events: all events of training, in order.
    """

    kind: str
    setup: Setup
    schedule: Schedule
    outcome: Outcome
    events: tuple[Event, ...]

    @property
    def task(self) -> Task:
        """What it answers."""
        return self.setup.task

    @property
    def spec(self) -> ModelSpec:
        """The model, as ``model.apply`` takes it."""
        return self.setup.spec

    @functools.cached_property
    def results(self) -> dict[str, Any]:
        """The content of ``results.json``: scores by seed, mean, ``sd`` over seeds, ``se`` of the test examples."""
        return summarise(self.setup, self.outcome, self.schedule)

    @property
    def metrics(self) -> dict[str, float]:
        """The task's metrics on the test set, from 0 to 1 where they are shares, and ``loss``; means over seeds."""
        return dict(self.results["mean"])

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """The content of ``run.json``: settings, task, backbone, sources, versions."""
        return describe(self.kind, self.setup) | {"seeds": list(self.outcome.members)}

    @property
    def seed(self) -> int:
        """The seed with the best score on development data; of equals the first."""
        scores = {seed: member.metrics[self.task.metrics[0]] for seed, member in self.outcome.members.items()}
        return max(scores, key=scores.get)

    @functools.cached_property
    def members(self) -> dict[int, Params]:
        """All parameters of each seed, ``{"backbone", "adapters", "transfer", "heads"}`` in float32."""
        frozen = gather({name: self.setup.frozen[name] for name in ("backbone", "adapters")}, self.setup.mesh)
        shared = jax.tree.map(np.asarray, frozen | {"backbone": encoder.stacked(frozen["backbone"])})
        shared = jax.tree.map(lambda leaf: leaf.astype(np.promote_types(leaf.dtype, np.float32)), shared)
        found = {}
        for seed, member in self.outcome.members.items():
            own = member_tree(self.setup, member, seed)
            found[seed] = own | {name: tree.combine(own[name], part) for name, part in shared.items()}
        return found

    @property
    def params(self) -> Params:
        """The parameters of the best seed, as ``model.apply`` takes them; of the others see ``members``."""
        return self.members[self.seed]

    @property
    def omega(self) -> "pandas.DataFrame":
        """The scales as they act, source by layer, means over seeds and hidden dimensions.

        Raises:
          InputError: the method learns no scales.
        """
        import pandas

        if self.spec.combiner not in VARIANTS:
            raise InputError(f"omega: a {self.setup.config.method!r} run learns no scales; expected a ScaLearn method.")
        num_layers, normalise = self.spec.backbone.num_layers, self.spec.option("normalise", "none")
        found = [effective_omega(one["transfer"]["omega"], num_layers, normalise) for one in self.members.values()]
        names = [source.name for source in self.setup.sources]
        values = np.mean([np.asarray(one, float).mean(-1) for one in found], axis=0).T  # [T, L]
        return pandas.DataFrame(values, index=pandas.Index(names, name="source")).rename_axis(columns="layer")

    @property
    def history(self) -> "pandas.DataFrame":
        """Losses and scores on the way: a row for each step that was logged or evaluated, set and seed."""
        import pandas

        rows, seeds = [], self.setup.config.seeds
        for event in self.events:
            if event["event"] == "eval":
                each = event["dev"]
            elif event["event"] == "train":
                lists = {name: values for name, values in event.items() if isinstance(values, list)}
                each = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
            else:
                continue
            split = "dev" if event["event"] == "eval" else "train"
            rows += [
                {"step": event["step"], "set": split, "seed": seed} | one for seed, one in zip(seeds, each, strict=True)
            ]
        return pandas.DataFrame(rows, columns=None if rows else ["step", "set", "seed"])

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The best seed, ready to answer; compiled once a shape."""
        run = Run(Path("memory"), self.info, self.spec, self.task, self.members)
        given = self.setup.given.backbone
        return Predictor.of([serve(run, self.seed)], tokenizer=given and given.tokenizer)

    def predict(self, texts: Any) -> list[dict[str, Any]]:
        """Answers texts with the best seed; see ``Predictor.predict`` for what may hold them, and for the answers."""
        return self.predictor.predict(texts)

    def as_source(self) -> Source:
        """The adapter of the best seed, as ``fit_transfer`` takes it.

        Raises:
          InputError: a method other than ``single``.
        """
        if self.setup.config.method != "single":
            raise InputError(
                f"sources: holds the result of a {self.setup.config.method!r} run, expected a single adapter, which"
                " fit_adapter makes, or `scalearn fold` of a saved run."
            )
        adapter = banks.select(self.params["adapters"], 0)
        phi, info = self.spec.non_linearity, self.info | {"data_dir": self.setup.given.data or self.info["data_dir"]}
        return Source(self.task.name, "memory", adapter, phi, self.setup.backbone_hash, info=info)

    def save(self, folder: str | Path, *, data: bool = True) -> Path:
        """Writes the run folder that ``train_adapter`` or ``transfer`` would have written; all commands work on it.

        Args:
          folder: must not exist yet, or be empty.
          data: whether examples that were in memory are kept in it, so that ``evaluate``, ``explain`` and ``fold``
            find them; nothing that is pushed or exported holds them.

        Returns:
          The folder.

        Raises:
          InputError: the folder cannot be written.
        """
        config = dataclasses.replace(self.setup.config, out=str(folder))
        tables = self.setup.given.data if data else None
        if tables:
            config = dataclasses.replace(config, data_dir=str(Path(config.out).resolve() / DATA))
        with atomic_folder(config.out) as place:
            for split, table in (tables or {}).items():
                _write_table(self.task, table, place.path / DATA / (self.task.folder or self.task.name), split)
            write_logs(place.path, self.events)
            setup = dataclasses.replace(self.setup, config=config)
            write_run(self.kind, place.path, setup, self.schedule, self.outcome)
        return Path(config.out)

    def __repr__(self) -> str:
        results, counts, name = self.results, self.info["parameters"], self.task.metrics[0]
        used, seeds = results["examples"]["test"]["used"], list(results["seeds"])
        error, of = results["se"].get(name), f"standard error, {used} test examples"
        if len(seeds) > 1:
            error, of = results["sd"][name], f"standard deviation over {len(seeds)} seeds, {used} test examples"
        score = f"{100 * results['mean'][name]:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")
        return (
            f"Result({self.task.name}, {self.info['method']}: {name} {score} % ({of}); parameters:"
            f" {counts['transfer']:,} transfer, {counts['head']:,} head)"
        )


def _write_table(task: Task, table: Table, folder: Path, split: str) -> None:
    """Writes what a task needs of a set as ``read_table`` reads it again."""
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: table[name] for name in dict.fromkeys((*task.columns, *task.label_columns))}
    parquet.write_table(to_arrow(kept).data.table, folder / f"{split}.parquet")
