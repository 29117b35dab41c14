"""The loop: best checkpoints, patience, and members that stop on their own."""

import itertools

import numpy as np

from scalearn_jax.train import evaluate, feed, loop
from scalearn_jax.train.signals import signals
from scalearn_jax.train.state import TrainState
from tests.support import tiny

BATCH = tiny.batch()
STACKED = BATCH._replace(**{name: value[None] for name, value in BATCH._asdict().items()})


def train(curves, gives_up_at=np.inf, accuracy=None, save=lambda position, why: None, num_runs=1, **schedule):
    """Runs the loop on a step that only counts; ``curves`` holds each member's development losses."""
    num_members = len(curves)

    def step(state, frozen, batch):
        trainable = {"omega": state.trainable["omega"] + 1, "head": state.trainable["head"] + 1}
        state = state._replace(step=state.step + 1, trainable=trainable | {"number": state.trainable["number"]})
        gave_up = np.full(num_members, False)
        gave_up[0] = state.step >= gives_up_at
        return state, {"loss": np.zeros(num_members), "grad_norm": np.ones(num_members), "gave_up": gave_up}

    def evaluate(trainable):
        done = int(trainable["omega"][0]) // settings["eval_every"] - 1
        losses = [curves[int(number)][done] for number in trainable["number"]]
        return [{"loss": loss, "accuracy": -loss if accuracy is None else accuracy} for loss in losses]

    settings = {"num_steps": 2 * len(curves[0]), "eval_every": 2, "log_every": 3, "patience": 99} | schedule
    events = []
    schedule = loop.Schedule(**settings)
    dispatches = feed.dispatches(itertools.repeat(STACKED), schedule.stops(), 1)
    zeros = np.zeros(num_members)
    state = TrainState(0, {"omega": zeros, "head": zeros, "number": np.arange(num_members)}, (), None, None)
    position = loop.start(state, num_runs, num_members // num_runs)
    sinks = [lambda event, run=run: events.append(event if num_runs == 1 else (run, event)) for run in range(num_runs)]
    evaluation = loop.Evaluation(evaluate, "accuracy")
    loop.train(step, position, {}, dispatches, schedule, evaluation, sinks, save)
    return [member for run in position.groups for member in run.members], events


def test_best_checkpoint_is_restored_whole():
    (member,), _ = train([[3.0, 1.0, 2.0]])
    assert member.best_step == 4 and member.metrics["loss"] == 1.0
    assert member.trainable == {"omega": 4.0, "head": 4.0, "number": 0}  # transfer and head from the same step


def test_metric_selection_takes_the_largest():
    (member,), _ = train([[3.0, 1.0, 2.0]], select="metric")
    assert member.best == -1.0 and member.best_step == 4


def test_patience_counts_evaluations_without_strict_improvement():
    (member,), events = train([[2.0, 2.0, 2.0, 1.0]], patience=2)
    assert member.best_step == 2 and member.stopped_at == 6
    assert [event["step"] for event in events if event["event"] == "eval"] == [2, 4, 6]


def test_members_stop_on_their_own():
    curves = [[2.0, 3.0, 3.0, 1.0], [4.0, 3.0, 2.0, 1.0]]
    members, _ = train(curves, patience=2)
    for member, curve in zip(members, curves, strict=True):
        (alone,), _ = train([curve], patience=2)
        assert (member.best_step, member.metrics, member.stopped_at) == (
            alone.best_step,
            alone.metrics,
            alone.stopped_at,
        )


def test_nan_is_never_best():
    (member,), _ = train([[float("nan"), 5.0, float("nan")]])
    assert member.best_step == 4
    (none,), _ = train([[float("nan")] * 3])
    assert none.trainable is None
    (member,), _ = train([[5.0, float("nan"), float("nan")]], select="metric", accuracy=0.5)
    assert member.best_step == 2
    (none,), _ = train([[float("nan")] * 3], select="metric", accuracy=0.5)  # as of one class that is always right
    assert none.trainable is None


def test_a_group_ends_when_a_member_has_given_up():
    _, events = train([[3.0, 2.0, 1.0, 1.0]], gives_up_at=4)
    assert [(event["event"], event["step"]) for event in events] == [("eval", 2), ("train", 3)]


def test_a_member_that_has_stopped_may_give_up():
    curves = [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]
    members, events = train(curves, gives_up_at=7, patience=2)
    assert [member.best_step for member in members] == [2, 8] and members[0].stopped_at == 6
    assert events[-1] == {"event": "eval", "step": 8, "dev": events[-1]["dev"]}


def test_a_member_that_gives_up_takes_no_other_with_it():
    curves = [[4.0, 3.0, 2.0, 1.0], [5.0, 6.0, 4.0, 3.0]]
    members, events = train(curves, gives_up_at=4)
    assert (members[0].best_step, members[0].stopped_at) == (2, 2)  # what it computes later does not count
    (alone,), _ = train(curves[1:])
    assert (members[1].best_step, members[1].metrics, members[1].stopped_at) == (8, alone.metrics, 8)
    assert [event["step"] for event in events if event["event"] == "eval"] == [2, 4, 6, 8]
    _, events = train([[1.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]], gives_up_at=4, patience=2)
    assert max(event["step"] for event in events) == 6  # one gave up, the other is out of patience


def test_runs_beside_each_other_end_and_log_as_alone():
    """The first run out of patience, the second with a better loss in the end."""
    curves = [[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0], [4.0, 3.0, 2.0, 1.0], [5.0, 3.0, 4.0, 2.0]]
    members, events = train(curves, num_runs=2, patience=2)
    for run in range(2):
        alone, expected = train(curves[2 * run :][:2], patience=2)
        timeless = [{k: v for k, v in event.items() if "second" not in k} for who, event in events if who == run]
        assert timeless == [{k: v for k, v in event.items() if "second" not in k} for event in expected]
        for member, other in zip(members[2 * run :][:2], alone, strict=True):
            assert (member.best_step, member.metrics) == (other.best_step, other.metrics)


def test_a_run_that_gives_up_takes_no_other_with_it():
    members, events = train([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], num_runs=2, gives_up_at=3)
    assert max(event["step"] for run, event in events if run == 0) == 3
    assert members[1].best_step == 6 and events[-1][1]["event"] == "eval"


def test_the_last_step_is_always_evaluated_and_logged():
    _, events = train([[3.0, 2.0]], num_steps=4, eval_every=4)
    assert [(event["event"], event["step"]) for event in events] == [("train", 3), ("train", 4), ("eval", 4)]


def test_logits_come_back_in_the_order_of_the_split():
    batches = [
        BATCH._replace(example_id=np.array([2, 0, -1, -1]), example_mask=np.array([True, True, False, False])),
        BATCH._replace(example_id=np.array([3, 1, -1, -1]), example_mask=np.array([True, True, False, False])),
    ]
    predict = lambda trainable, frozen, batch: batch.example_id[None, :, None].astype(float)  # noqa: E731
    assert evaluate.collect_logits(predict, {}, {}, batches).ravel().tolist() == [0, 1, 2, 3]


def test_before_anything_is_compiled_the_position_is_secure():
    saved = []
    train([[3.0, 2.0, 1.0]], save=lambda position, why: saved.append((position.step, why, signals.unsaved)))
    assert ("compilation" in [why for _, why, _ in saved]) and saved[0] == (1, "step", True)
    assert saved[1:4] == [(2, "compilation", True), (2, "evaluation", False), (3, "step", True)]
    assert saved[-1][:2] == (6, "end")
