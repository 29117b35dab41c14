"""Both stages in memory: what may be passed, what comes back, how it is saved, and how wrong input is refused."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax
import pandas as pd
import pytest
from datasets import Dataset

import scalearn_jax as sj
from scalearn_jax import losses, model, tree
from scalearn_jax.combiners import of_module
from scalearn_jax.config import ExplainConfig, ExportConfig, FoldConfig, TransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.models import bank as banks
from scalearn_jax.stages import pipeline
from scalearn_jax.stages.given import as_splits
from tests.support import hub_server, tiny_backbone
from tests.support.gate import Gates, gated

TASK = sj.Task("reviews", "classification", ("text",), labels=("bad", "good"))
ROWS = {"text": [f"the soup was {'good' if i % 2 else 'cold'}" for i in range(60)], "label": [i % 2 for i in range(60)]}
FRAME = pd.DataFrame(ROWS)
SHORT = dict(max_steps=4, eval_every=2, batch_size=8, log_every=2, max_length=32)
LOADED: dict = {}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_backbone.write_with_sources(tmp_path_factory.mktemp("inputs"), **tiny_backbone.SILENT)


@pytest.fixture(scope="module")
def backbone(root):
    return sj.load_backbone(str(root / "backbone"))


@pytest.fixture(scope="module")
def adapter(backbone):
    data = Dataset.from_dict(ROWS)
    return sj.fit_adapter(TASK, backbone=backbone, data=data, seeds=range(3), reduction_factor=4, **SHORT)


@pytest.fixture(scope="module")
def transferred(backbone, adapter, root):
    sources = [adapter, str(root / "source0"), f"other={root / 'source1'}"]
    return sj.fit_transfer(TASK, backbone=backbone, data=FRAME, sources=sources, seeds=(0, 1), **SHORT)


@pytest.mark.slow
def test_both_stages_run_in_memory(adapter, transferred):
    assert list(adapter.members) == [0, 1, 2] and adapter.params["adapters"]["up"]["kernel"].shape == (1, 1, 4, 16)
    assert transferred.omega.shape == (3, 1) and list(transferred.omega.index) == ["s0", "other", "reviews"]
    mean = np.mean([one["transfer"]["omega"].mean(-1) for one in transferred.members.values()], 0)
    np.testing.assert_allclose(transferred.omega.to_numpy().T, mean, rtol=1e-6)
    shown = repr(transferred)
    score = transferred.results["mean"]["accuracy"], transferred.results["sd"]["accuracy"]
    assert f"reviews, scalearn: accuracy {100 * score[0]:.2f} ± {100 * score[1]:.2f} %" in shown
    assert "48 transfer, 306 head" in shown and "\n" not in shown
    history = transferred.history
    assert {(2, "dev", 1), (4, "train", 0)} <= {*zip(history.step, history.set, history.seed, strict=True)}


@pytest.mark.slow
def test_sources_are_results_folders_and_ids_of_the_hub(backbone, adapter, root, tmp_path, monkeypatch):
    """Nothing but where it lies tells an adapter of the hub from the folder that was uploaded."""
    folder = root / "source1"
    with hub_server.running(monkeypatch, tmp_path) as hub:
        commit = hub.add("models/me/adapter", {path.name: path.read_bytes() for path in folder.iterdir()})
        given = dict(backbone=backbone, data=FRAME, method="scalearn-uniform", **SHORT)
        found = sj.fit_transfer(TASK, sources=[adapter, str(root / "source0"), "me/adapter"], **given)
        with pytest.raises(InputError, match="nobody/adapter.* hub") as caught:
            sj.fit_transfer(TASK, sources=[adapter, "nobody/adapter"], **given)
    assert "\n" not in str(caught.value)
    here = sj.fit_transfer(TASK, sources=[adapter, str(root / "source0"), str(folder)], **given)
    assert list(found.omega.index) == list(here.omega.index) and found.omega.equals(here.omega)
    assert found.info["sources"][1]["path"] == f"me/adapter@{commit}"
    assert json.loads((found.save(tmp_path / "run") / "run.json").read_text())["sources"][1]["path"].endswith(commit)


@pytest.mark.slow
def test_the_command_line_trains_the_same_to_the_last_bit(backbone, adapter, transferred, root, tmp_path):
    folder = transferred.save(tmp_path / "saved")
    first = adapter.save(tmp_path / "first")
    config = json.loads((folder / "run.json").read_text())["config"]
    assert config["data_dir"] == str((folder / "data").resolve())
    given = {name: config[name] for name in ("backbone", "seeds", "data_dir", *SHORT)}
    sources = (str(first), str(root / "source0"), f"other={root / 'source1'}")
    (tmp_path / "folder").mkdir()
    task = tmp_path / "task.yaml"
    task.write_text(json.dumps(TASK.to_dict()))
    again = pipeline.transfer(TransferConfig(target=str(task), sources=sources, out=str(tmp_path / "again"), **given))
    for name in ("seed-0.safetensors", "seed-1.safetensors", "frozen.safetensors", "metrics.jsonl"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    ours, theirs = (json.loads((one / "results.json").read_text()) for one in (folder, again))
    assert ours == theirs


@pytest.mark.slow
def test_a_saved_result_is_a_run_folder(backbone, transferred, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    transferred.save("runs/x")
    found = sj.evaluate("runs/x")
    for seed, scores in found["seeds"].items():
        assert scores == pytest.approx(transferred.results["seeds"][seed]["test"], abs=1e-5)
    texts = ROWS["text"][:5]
    np.testing.assert_allclose(sj.Predictor("runs/x").logits(texts), transferred.predictor.logits(texts), atol=1e-6)
    assert sj.Predictor("runs/x")(texts) == transferred.predict(texts)
    assert sj.evaluate("runs/x", data=FRAME)["examples"] == {"used": 60, "available": 60}
    assert sj.evaluate("runs/x", split="dev")["examples"]["used"] == 6
    sj.explain_run(ExplainConfig(run="runs/x", out="explained"))
    sj.fold_run(FoldConfig(run="runs/x", out="folded"))
    sj.export_run(ExportConfig(run="runs/x", out="native", format="native"))
    assert not Path("native/data").exists()  # no examples leave with it
    transferred.save("runs/bare", data=False)
    assert not Path("runs/bare/data").exists()
    with pytest.raises(InputError, match="pass --data-dir"):
        sj.evaluate("runs/bare")


@pytest.mark.slow
def test_texts_may_come_in_anything_with_an_order(transferred):
    texts = ROWS["text"][:3]
    answers = transferred.predict(texts)
    assert transferred.predict([]) == []
    for wrong in (3, None, [3], [None], [["a", "b"]], {"body": "a"}, b"a", {"a"}):
        with pytest.raises(InputError) as caught:
            transferred.predict(wrong)
        assert "\n" not in str(caught.value)
    for given in (FRAME["text"][:3], np.array(texts), (text for text in texts), Dataset.from_dict(ROWS)["text"][:3]):
        assert transferred.predict(given) == answers
    assert transferred.predict(texts[0]) == answers[:1]


FORMS = {
    "columns": ROWS,
    "arrays": {name: np.array(values) for name, values in ROWS.items()},
    "rows": FRAME.to_dict("records"),
    "frame": FRAME,
    "dataset": Dataset.from_dict(ROWS),
    "arrow": Dataset.from_dict(ROWS).data.table,
    "generator": lambda: (row for row in FRAME.to_dict("records")),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_may_come_in_many_forms(form):
    given = FORMS[form]
    found = as_splits(TASK, given() if callable(given) else given)
    whole = [*found["train"]["text"], *found["validation"]["text"]]
    assert sorted(whole) == sorted(ROWS["text"]) and len(found["validation"]["label"]) == 6
    assert sum(map(int, found["validation"]["label"])) == 3  # stratified
    apart = as_splits(TASK, {"train": ROWS, "validation": FRAME[:4], "test": Dataset.from_dict(ROWS)})
    assert {name: len(table["text"]) for name, table in apart.items()} == {"train": 60, "validation": 4, "test": 60}


@pytest.mark.slow
def test_a_test_set_that_is_given_is_used_whatever_the_task_says(backbone):
    task = sj.Task("reviews", "classification", ("text",), ("bad", "good"), split_rule="published")
    data = {"train": ROWS, "validation": FRAME[:6], "test": FRAME[:9]}
    found = sj.fit_adapter(task, backbone=backbone, data=data, method="head", **SHORT)
    assert [found.results["examples"][name]["used"] for name in ("train", "dev", "test")] == [60, 6, 9]
    assert found.task.split_rule == "files"  # so that a saved run reads it again


@pytest.mark.slow
def test_an_optimizer_of_ones_own_is_taken_as_it_is(backbone, root, tmp_path):
    """Plain gradient steps of rate 0 change nothing; the same through optax as by hand otherwise."""

    def fit(optimizer, steps=1):
        short = SHORT | dict(max_steps=steps, eval_every=1)
        source = str(root / "source0")
        return sj.fit_transfer(
            TASK, backbone=backbone, data=FRAME, sources=source, optimizer=optimizer, omega_dropout=0.0, **short
        )

    still, moved, twice = (fit(optax.sgd(rate)).params for rate in (0.0, 1.0, 2.0))
    first, once, double = ({**tree.flatten({"t": one["transfer"], "h": one["heads"]})} for one in (still, moved, twice))
    for name in first:  # twice the rate, twice the step: nothing is clipped or scaled on the way
        np.testing.assert_allclose(double[name] - first[name], 2 * (once[name] - first[name]), atol=1e-5)
    assert max(np.abs(once[name] - first[name]).max() for name in first) > 1e-3
    saved = fit(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 4))), 2)
    info = json.loads((saved.save(tmp_path / "run") / "run.json").read_text())
    assert info["config"]["optimizer"] == "own" and "chain" in info["own"]["optimizer"]
    assert sj.evaluate(tmp_path / "run")["seeds"]["0"] == pytest.approx(saved.metrics, abs=1e-5)


@pytest.mark.slow
def test_events_come_while_it_trains_and_flatten_to_numbers(backbone):
    seen = []
    found = sj.fit_adapter(
        TASK, backbone=backbone, data=FRAME, method="head", on_event=lambda event: seen.append(event), **SHORT
    )
    assert [event["event"] for event in seen] == ["start", "train", "eval", "train", "eval"]
    assert [*found.events] == seen
    assert sj.scalars(seen[-1])["dev/loss"] == seen[-1]["dev"][0]["loss"]
    assert all(isinstance(value, float | int) for event in seen for value in sj.scalars(event).values())


@pytest.fixture(scope="module")
def own(backbone, root):
    sources = [str(root / f"source{number}") for number in range(2)]
    return sj.fit_transfer(
        TASK, backbone=backbone, data=FRAME, sources=sources, combiner=gated, learning_rate=0.05, **SHORT
    )


@pytest.mark.slow
def test_a_combiner_of_ones_own_is_trained_saved_loaded_and_served(own, tmp_path):
    assert own.params["transfer"]["gate"].shape == (1, 2, 16) and "reviews, own:" in repr(own)
    run = str(own.save(tmp_path / "run"))
    texts = ROWS["text"][:4]
    loaded = sj.load_run(run, combiner=gated)
    np.testing.assert_array_equal(loaded.members[0]["transfer"]["gate"], own.params["transfer"]["gate"])
    assert sj.Predictor(run, combiner=gated)(texts) == own.predict(texts)
    assert sj.evaluate(run, combiner=gated)["seeds"]["0"] == pytest.approx(own.metrics, abs=1e-5)
    name = f"{gated.__module__}:gated"
    assert json.loads(Path(run, "run.json").read_text())["own"] == {"combiner": name}
    for call, told in (
        (lambda: sj.Predictor(run), f"combiner of one's own, {name}.*pass it in Python"),
        (lambda: sj.evaluate(run), "pass it in Python"),
        (lambda: sj.explain_run(ExplainConfig(run=run)), "a run with a combiner of one's own, without known scales"),
        (lambda: sj.fold_run(FoldConfig(run=run, out=str(tmp_path / "out"))), f"{name}, of which it is not known"),
        (lambda: sj.export_run(ExportConfig(run=run, out=str(tmp_path / "out"))), "cannot be exported"),
        (lambda: own.omega, "omega: a 'own' run learns no scales"),
    ):
        with pytest.raises(InputError, match=told) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_no_file_decides_what_is_imported(tmp_path):
    """A description names a module of its own; reading it must not run that."""
    from scalearn_jax.runs import run_json

    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    info = {"method": "own", "spec": {"combiner": "trap:made"}, "task": {}}
    with pytest.raises(InputError, match="not imported by itself"):
        run_json.read_spec(tmp_path, info)


BAD = {
    "steps as text": (dict(max_steps="2"), "fit_adapter: key 'max_steps': expected a whole number, got '2'"),
    "a wrong name": (dict(max_step=2), "unknown key 'max_step'; did you mean 'max_steps'"),
    "a folder": (dict(out="x"), "out is a setting of runs that write their folder"),
    "seeds": (dict(seeds=3), "key 'seeds': expected a list of whole numbers, got 3"),
    "backbone": (dict(backbone=3), "backbone: expected a folder, a hub id or what load_backbone returns, got 3"),
    "no data": (dict(data=3), "data: expected a datasets.Dataset, a DataFrame, .* got 3"),
    "text as data": (dict(data="train.csv"), "data: expected a datasets.Dataset, .* got 'train.csv'"),
    "rows of text": (dict(data=["a", "b"]), "got a row 'a'"),
    "uneven columns": (dict(data={"text": ["a"], "label": [0, 1]}), "different lengths, text 1, label 2"),
    "a scalar column": (dict(data={"text": "a", "label": [0]}), "got 'a' as column 'text'"),
    "no text column": (dict(data={"body": ["a"], "label": [0]}), "unknown column 'text' in data"),
    "no label": (dict(data={"text": ["a"] * 20}), "unknown column 'label'"),
    "a label outside": (dict(data={"text": ["a"] * 20, "label": [5] * 20}), "data, row 1: label 5 is outside"),
    "no validation": (dict(data={"train": ROWS}), "there is train, but no validation"),
    "a split": (dict(data={"train": ROWS, "dev": ROWS, "held": ROWS}), "the splits train, validation .* got 'held'"),
    "too few rows": (dict(data={"text": ["a", "b"], "label": [0, 1]}), "no test set can be held out of one set"),
    "optimizer": (dict(optimizer=3), "optimizer: expected an optax transformation"),
    "an unknown optimizer": (dict(optimizer="sgd"), "key 'optimizer': expected one of published, optax"),
    "two rates": (dict(optimizer=optax.sgd(0.1), learning_rate=0.1), "learning_rate does not apply to an optimizer"),
    "on_event": (dict(on_event=3), "on_event: expected a function of an event, got 3"),
    "data twice": (dict(data_dir="x"), "data and data_dir both say"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments_are_one_line_at_once(case, backbone):
    changes, told = BAD[case]
    with pytest.raises(InputError, match=told) as caught:
        sj.fit_adapter(TASK, **dict(backbone=backbone, data=FRAME) | changes)
    assert "\n" not in str(caught.value)


def test_a_dev_set_selects_and_is_not_scored(backbone, tmp_path):
    data = {"train": FRAME, "dev": FRAME[:20], "test": FRAME[20:50]}
    result = sj.fit_adapter(TASK, backbone=backbone, data=data, **SHORT)
    used = {name: counts["used"] for name, counts in result.results["examples"].items()}
    assert used == {"train": 60, "dev": 20, "test": 30}
    assert sj.evaluate(result.save(tmp_path / "run"))["seeds"]["0"] == pytest.approx(result.metrics, abs=1e-5)


BAD_TRANSFERS = {
    "sources": (dict(sources=3), "sources: expected a list of results"),
    "one source": (dict(sources=[3]), "sources: expected results of fit_adapter, folders and hub ids, got 3"),
    "no sources": (dict(sources=[]), "needs --sources"),
    "no combiner": (dict(combiner=3), "combiner: expected a function that makes a Combiner"),
    "a type": (dict(combiner=dict), "combiner: expected a function that makes a Combiner"),
    "a module": (dict(combiner=Gates()), "combiner: expected a function that makes a Combiner"),
    "arguments": (dict(combiner=lambda width: None), "needs width; pass functools.partial"),
    "what it makes": (dict(combiner=lambda: 3), "made a int, expected a Combiner"),
    "its update": (dict(combiner=lambda: of_module(Gates(), apply=lambda site, z: z[..., :2])), "its update has shape"),
    "two methods": (dict(combiner=gated, method="fusion"), "method does not apply to a combiner of one's own"),
    "a foreign option": (dict(combiner=gated, omega_dropout=0.1), "--omega-dropout does not apply"),
    "no object": (dict(method="own"), "passed in Python"),
}


@pytest.mark.parametrize("case", BAD_TRANSFERS)
def test_wrong_arguments_of_a_transfer_are_one_line_at_once(case, backbone, root):
    changes, told = BAD_TRANSFERS[case]
    given = dict(backbone=backbone, data=FRAME, sources=[str(root / "source0")], max_length=32)
    with pytest.raises(InputError, match=told) as caught:
        sj.fit_transfer(TASK, **given | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", [3, None, ("reviews",)])
def test_a_task_is_a_name_or_a_row(task, backbone):
    with pytest.raises(InputError, match="task: expected a name, see `scalearn list tasks`, or a Task"):
        sj.fit_adapter(task, backbone=backbone, data=FRAME)


@pytest.mark.parametrize(
    "changes, told",
    [
        (dict(texts="text"), "texts: expected a list of names, got 'text'"),
        (dict(labels=3), "labels: expected a list of names, got 3"),
        (dict(kind="classify"), "unknown kind 'classify' in task reviews; did you mean 'classification'"),
        (dict(max_length="32"), "max_length: expected a whole number, got '32'"),
        (dict(name=3), "task name 3: expected letters"),
    ],
)
def test_a_wrong_row_is_one_line(changes, told):
    with pytest.raises(InputError, match=told):
        sj.Task(**dict(name="reviews", kind="classification", texts=["text"], labels=["bad", "good"]) | changes)
    assert hash(sj.Task("reviews", "regression", ["text"])) == hash(sj.Task("reviews", "regression", ("text",)))


@pytest.mark.slow
def test_a_soup_weighs_results_by_their_own_texts(backbone, adapter):
    other = sj.Task("trains", "classification", ("text",), labels=("late", "on time"))
    rows = {"text": [f"the train came {i % 2}" for i in range(60)], "label": ROWS["label"]}
    second = sj.fit_adapter(other, backbone=backbone, data=rows, reduction_factor=4, **SHORT)
    sources = {"mine": adapter, "theirs": second}
    found = sj.fit_transfer(TASK, backbone=backbone, data=FRAME, sources=sources, method="soup", top_sources=1, **SHORT)
    assert [source.name for source in found.setup.sources] == ["mine", "theirs"]
    assert found.setup.source_weights.weights == (1.0, 0.0)


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: sj.Predictor(3), "folder to serve: expected the name of a folder or OWNER.NAME of the hub, got 3"),
        (lambda: sj.evaluate(3), "evaluate: key 'run': expected text, got 3"),
        (lambda: sj.evaluate("runs/x", splits="dev"), "evaluate: unknown key 'splits'; did you mean 'split'"),
        (lambda: sj.load_backbone(3), "expected a folder or a hub id, got 3"),
        (
            lambda: sj.padded_batch([[1, 2], [3]]),
            "input_ids: expected whole numbers .N S., got rows of different lengths",
        ),
        (lambda: sj.padded_batch([[1, 2]], [[1]]), "attention_mask: expected the shape of input_ids"),
        (lambda: sj.padded_batch([[1, 2, 3]], [[1, 0, 1]]), "attention_mask, row 0: expected tokens side by side"),
        (lambda: sj.padded_batch([[1, 2]], labels=[0, 1]), "labels: expected one for each of 1 rows"),
    ],
)
def test_wrong_arguments_elsewhere_are_one_line(call, told):
    with pytest.raises(InputError, match=told) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_padded_batch_gives_the_logits_of_the_texts_alone(backbone, adapter, side):
    tokenizer = backbone.tokenizer
    texts = ["the soup was good", "good"]
    long, short = (tokenizer(text)["input_ids"] for text in texts)
    gap = [0] * (len(long) - len(short))
    rows, mask = [short + gap, long], [[1] * len(short) + gap, [1] * len(long)]
    if side == "left":
        rows, mask = [gap + short, long], [gap + [1] * len(short), [1] * len(long)]
    batch = sj.padded_batch(rows, mask)
    found = model.apply(adapter.params, batch, spec=replace(adapter.spec, layers="scan"), task="reviews")
    np.testing.assert_allclose(found, adapter.predictor.logits(texts[::-1]), atol=1e-5)


def test_texts_become_states(backbone):
    texts = ["the soup was good", "good"]
    whole, first, mean = (backbone.encode(texts, pool=pool) for pool in (None, "first", "mean"))
    assert [len(states) for states in whole] == [6, 3]
    np.testing.assert_allclose(first, [states[0] for states in whole], atol=1e-5)
    np.testing.assert_allclose(mean, [states.mean(0) for states in whole], atol=1e-5)
    np.testing.assert_allclose(backbone.encode(texts[1], pool="mean"), mean[1:], atol=1e-5)
    [pair] = backbone.encode([("the soup", "was good")])
    assert len(pair) == 7 and backbone.encode([]) == []
    for changes, told in ((dict(pool="max"), "unknown pool 'max'"), (dict(max_length=9999), "max_length: expected")):
        with pytest.raises(InputError, match=told):
            backbone.encode(texts, **changes)


def test_a_result_of_another_method_is_no_source(backbone):
    found = sj.fit_adapter(TASK, backbone=backbone, data=FRAME, method="head", **SHORT)
    with pytest.raises(InputError, match="result of a 'head' run, expected a single adapter"):
        sj.fit_transfer(TASK, backbone=backbone, data=FRAME, sources=[found])


@pytest.mark.slow
def test_a_loop_of_ones_own_is_a_few_lines(backbone, root):
    """``model.apply``, optax and vmap over seeds: all names come from documented places, and the loss falls."""
    spec = sj.ModelSpec(
        backbone=backbone.spec, combiner="scalearn", heads=(("reviews", sj.HeadSpec(num_outputs=2)),),
        num_sources=2, bottleneck=4,
    )  # fmt: skip
    bank = banks.stack([sj.load_source(str(root / f"source{number}")).adapter for number in range(2)])
    encoded = backbone.tokenizer(ROWS["text"], padding=True, return_tensors="np")
    batch = sj.padded_batch(**encoded, labels=np.array(ROWS["label"]))
    optimizer = optax.adam(1e-2)

    def loss(trainable):
        params = {"backbone": backbone.params, "adapters": bank, **trainable}
        logits = model.apply(params, batch, spec=spec, task="reviews")
        return losses.LOSSES["classification"](logits, batch.labels).mean()

    def step(state, _):
        trainable, opt_state = state
        value, grads = jax.value_and_grad(loss)(trainable)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(trainable, updates), opt_state), value

    def train(key):
        trainable = model.init_target(*jax.random.split(key), spec)
        return jax.lax.scan(step, (trainable, optimizer.init(trainable)), length=20)

    _, values = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2))
    assert values.shape == (2, 20) and (values[:, -1] < values[:, 0] - 0.05).all()
