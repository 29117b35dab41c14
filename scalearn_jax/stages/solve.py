"""Solves for a target: scales by the leave-one-out error of a head in closed form, then the head itself.

    scales    those of least error, see ``scales``
    head      ridge regression for scores, logistic regression where there are probabilities

No learning rate, no order of the examples, no development set, no seed. Features are computed chunk by chunk, and the
gradient by one vector-Jacobian product a chunk, so that memory is that of one training step or two.

Letters: n examples, K choices, N sequences of a chunk, d hidden size, T source tasks, p numbers of omega a source.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from scalearn_jax import tree
from scalearn_jax.data.tokens import Encoded
from scalearn_jax.errors import Preempted
from scalearn_jax.io import terminal
from scalearn_jax.models import bank as banks
from scalearn_jax.stages.features import Features, frozen_of_first
from scalearn_jax.stages.outputs import Outcome
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.stages.scales import Objective, error_of_each, halves_of, most_evaluations, solve_scales
from scalearn_jax.train import logistic
from scalearn_jax.train.checkpoint import Checkpoint, to_host
from scalearn_jax.train.evaluate import Layout, Members, score
from scalearn_jax.train.loop import Event, Schedule
from scalearn_jax.train.ridge import Ridge, Rows
from scalearn_jax.train.sharding import replicate
from scalearn_jax.train.signals import signals
from scalearn_jax.train.solver import Evaluation, Search
from scalearn_jax.train.state import GroupProgress, Member, Position

_SEED = 42  # of the examples that are solved for


class _Journal:
    """All searches of a solve: each evaluation is reported, and saved now and then, so that a stopped one goes on."""

    def __init__(
        self, saved: Checkpoint | None, save: Callable[[Position, str], None], record: Callable[[Event], None]
    ):
        self._searches: dict[str, Search] = {}
        self._known = tree.unflatten(saved.arrays)["state"] if saved else {}
        self._save, self._record = save, record

    def search(self, name: str, evaluate: Callable) -> Search:
        """Begins a search, or goes on with that of the same name."""
        self._searches[name] = Search(evaluate, self._known.get(name), lambda found: self._note(name, found))
        return self._searches[name]

    @property
    def count(self) -> int:
        return sum(len(search.done) for search in self._searches.values())

    def save(self, why: str) -> None:
        if self.count:
            state = {name: search.arrays() for name, search in self._searches.items() if search.done}
            self._save(Position(self.count, self._known | state, {}, [GroupProgress([], self.count)]), why)

    def _note(self, name: str, found: Evaluation) -> None:
        signals.mark_unsaved()
        omega = found.omega.mean(0).tolist()
        self._record(dict(event="solve", search=name, step=self.count, error=float(found.error), omega=omega))
        self.save("step")


def schedule(setup: Setup) -> Schedule:
    """The schedule of a solve, whose steps are evaluations, at most."""
    most = most_evaluations(setup) if setup.method.solves == "scales" else 1
    return Schedule(num_steps=most, eval_every=most)


def solve(
    setup: Setup,
    record: Callable[[Event], None],
    saved: Checkpoint | None = None,
    save: Callable[[Position, str], None] = lambda position, why: None,
) -> tuple[Setup, Outcome]:
    """Solves for the scales of a setup, and for its head; see ``program.train`` for the arguments.

    Returns:
      The setup, with the constants that were chosen, and what came of it.
    """
    journal, task, train = _Journal(saved, save, record), setup.task, setup.data.train
    chosen, layout = _chosen(setup)
    with signals.training():
        try:
            report: dict[str, Any] = {}
            if setup.method.coefficients == "best":
                search = journal.search("alone", Objective(setup, chosen, layout))
                setup, report = _best_source(setup, error_of_each(setup, search))
            transfer = {name: leaf[0] for name, leaf in setup.frozen["transfer"].items() if leaf is not None}
            if setup.method.solves == "scales":
                transfer, report = solve_scales(setup, chosen, layout, journal.search)
            features = Features(setup, train, layout)(transfer)
            head, of_head = fit_head(task.kind, features, train.labels, task.num_outputs, setup.config.solve_samples)
            first = tree.index(setup.trainable, 0)
            learned = transfer if setup.method.solves == "scales" else {}
            found = first | {
                "transfer": first["transfer"] | learned,
                "heads": {task.name: {"out": jax.tree.map(np.float32, head._asdict())}},
            }
            stacked = replicate(tree.stack([found]), setup.mesh)
            members = Members(setup.spec.program, task, stacked, frozen_of_first(setup))
            [metrics] = score(members, setup.data.dev, setup.evaluation_layout)
        except Preempted:
            journal.save("stop")
            raise Preempted(
                f"told to stop, and saved {journal.count} evaluations; run the same command again to go on."
            ) from None
    member = Member(found, best_step=journal.count, metrics=metrics, stopped_at=journal.count)
    report = {"examples": len(chosen), "evaluations": journal.count, **report, "head": of_head}
    if "omega" in report:
        spread = report.get("deviation", {})
        found_at = {
            name: f"{x:.2f}" + (f" ± {spread[name]:.2f}" if spread else "") for name, x in report["omega"].items()
        }
        record({"event": "solved", "error": report["error"], "scales": found_at})
    members, content = dict.fromkeys(setup.config.seeds, member), tree.content_hash(to_host(found))
    return setup, Outcome(members, {}, content, solved=report)


def take_best_source(setup: Setup) -> Setup:
    """Gives a setup of ``best-source`` whose head is to be trained its constants, and says which source that is."""
    chosen, layout = _chosen(setup)
    setup, found = _best_source(setup, error_of_each(setup, Search(Objective(setup, chosen, layout))))
    terminal.note(
        f"target {setup.task.name}: source {found['start']} has the least leave-one-out error ({found['error']:.3f}),"
        f" by the exact head on {len(chosen)} training examples."
    )
    return setup


def rank(setup: Setup, on_source: Callable[[int], None] = lambda number: None) -> list[dict[str, Any]]:
    """Ranks the sources of a ScaLearn setup by what each alone does for the target, the best first.

    Returns:
      Of each source its ``name``; ``error`` by leave-one-out, alone; and how fast the error falls as its scale grows,
      from no source at all (``gain_at_zero``) and from the constant (``gain_at_constant``).
    """
    chosen, layout = _chosen(setup)
    num_sources, evaluate = setup.spec.num_sources, Objective(setup, chosen, layout)
    center = setup.spec.option("init_scale", 2.0) / num_sources
    zero, constant = (-evaluate(np.full((1, num_sources), scale)).gradient[0] for scale in (0.0, center))
    # One source at a time: a bank of all would cost T times as much.
    spec = dataclasses.replace(setup.spec, num_sources=1, combiner="single", combiner_options=())
    rows = []
    for number, source in enumerate(setup.sources):
        bank = banks.stack([banks.select(setup.frozen["adapters"], number)])
        alone = dataclasses.replace(setup, spec=spec, frozen=setup.frozen | {"adapters": bank})
        features = Features(alone, chosen, layout)({})
        head = Ridge(Rows.of(setup.task.kind, features, chosen.labels, setup.task.num_outputs))
        gains = {"gain_at_zero": float(zero[number]), "gain_at_constant": float(constant[number])}
        rows.append({"name": source.name, "error": head.error(head.strength), **gains})
        on_source(number + 1)
    return sorted(rows, key=lambda row: row["error"])


def _chosen(setup: Setup) -> tuple[Encoded, Layout]:
    """The training examples that scales are solved for, and a layout that they, their halves and all others fit in."""
    train, most = setup.data.train, min(setup.config.solve_samples, len(setup.data.train))
    chosen = train.take(np.sort(np.random.default_rng(_SEED).permutation(len(train))[:most]))
    splits, sizes = [chosen, *halves_of(setup, chosen), train], (setup.task.max_length, setup.config.batch_size)
    return chosen, Layout.of(splits, *sizes, packed=setup.config.packed, mesh=setup.mesh)


def _best_source(setup: Setup, errors: dict[str, float]) -> tuple[Setup, dict[str, Any]]:
    """Makes the constants of a setup those of the source of least error."""
    best = min(errors, key=errors.get)
    chosen = tuple(float(source.name == best) for source in setup.sources)
    copies = replicate(np.tile(np.float32(chosen), (len(setup.config.seeds), 1)), setup.mesh)
    frozen = setup.frozen | {"transfer": setup.frozen["transfer"] | {"coefficients": copies}}
    setup = dataclasses.replace(setup, spec=setup.spec.with_options(coefficients=chosen), frozen=frozen)
    return setup, {"error": errors[best], "start": best, "error_of_source": errors}


def fit_head(
    kind: str, features: np.ndarray, labels: np.ndarray, num_outputs: int, samples: int
) -> tuple[logistic.Linear, Mapping[str, Any]]:
    """Fits the head that scores; its strength follows from some of the examples, where they are many."""
    if kind == "regression":
        head = Ridge(Rows.of(kind, features, labels, num_outputs))
        kernel = head.weights(head.strength)
        found = logistic.Linear(kernel, np.mean(labels) - features.mean(0, dtype=float) @ kernel)
        return found, {"kind": "ridge", "strength": head.strength, "error": head.error(head.strength)}
    some = np.sort(np.random.default_rng(_SEED).permutation(len(labels))[:samples])
    strength, loss = logistic.choose_strength(kind, features[some], labels[some], num_outputs)
    found = logistic.fit(kind, features, labels, num_outputs, strength)
    return found, {"kind": "logistic", "strength": strength, "loss_of_examples_left_out": loss}
