"""Joint runs end to end: what they train, what they leave for each task, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import methods, model, tree
from scalearn_jax.config import EvaluateConfig, ExportConfig, FoldConfig, JointConfig, PlanJointConfig, TransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.models import bank as banks
from scalearn_jax.models import pretrained
from scalearn_jax.models.adapter import bottleneck
from scalearn_jax.runs import load_run
from scalearn_jax.runs.evaluate import evaluate
from scalearn_jax.runs.sources import load_source
from scalearn_jax.sharing.exporting import export_run
from scalearn_jax.sharing.fold import fold_run
from scalearn_jax.stages import pipeline
from scalearn_jax.stages.joint import joint_setups
from scalearn_jax.stages.planning.plan import plan
from scalearn_jax.stages.program import make_program, make_schedule
from scalearn_jax.stages.setups import transfer_setups
from tests.support import tiny_backbone
from tests.train.test_resume import Lives, contents, until_done

TASKS = ("builtin/sentiment", "builtin/similarity", "builtin/cause", "builtin/complaints")
SHORT = dict(max_steps=6, batch_size=8, eval_every=3, log_every=3, max_train_samples=32, max_eval_samples=16)
SHORT |= dict(eval_batch_size=16, max_length=40, learning_rate=0.01)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    return str(tiny_backbone.write(folder, num_hidden_layers=1, **tiny_backbone.SILENT))


def config(backbone, out="", method="hyperformer++", **changes):
    settings = dict(tasks=TASKS, method=method, backbone=backbone, out=str(out), **SHORT)
    settings |= {} if method == "full" else {"reduction_factor": 4}
    return JointConfig(**settings | changes)


@pytest.fixture(scope="module")
def trained(backbone, tmp_path_factory):
    """Method -> the folder of its run, of two seeds."""
    folders = {}

    def run(method):
        if method not in folders:
            out = tmp_path_factory.mktemp("joint") / method
            folders[method] = pipeline.train_joint(config(backbone, out, method, seeds=(0, 3)))
        return folders[method]

    return run


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in methods.JOINT if name != "hyperformer++"]


@pytest.mark.parametrize("method", ["hyperformer++", *SLOW])
def test_each_task_is_an_ordinary_run_of_the_scores_it_had_in_training(method, trained):
    folder = trained(method)
    whole = json.loads((folder / "results.json").read_text())
    for task in TASKS:
        results = json.loads((folder / task / "results.json").read_text())
        assert results["mean"]["loss"] == whole["mean"][f"{task}/loss"]
        assert results["main_metric"] in results["mean"] and results["examples"]["test"]["used"] == 16
        again = evaluate(EvaluateConfig(run=str(folder / task)))
        for seed, scores in again["seeds"].items():
            for name, value in scores.items():
                np.testing.assert_allclose(value, results["seeds"][seed]["test"][name], atol=2e-5, err_msg=name)
    means = [whole["mean"][f"{task}/loss"] for task in TASKS]
    np.testing.assert_allclose(whole["mean"]["loss"], np.mean(means))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hyperformer++", "full"])
def test_a_stopped_run_ends_as_if_never_stopped(method, backbone, tmp_path, monkeypatch):
    settings = config(backbone, method=method, seeds=(0, 1))
    pipeline.train_joint(dataclasses.replace(settings, out=str(tmp_path / "whole")))
    lives = Lives(monkeypatch, 2, 5)
    settings = dataclasses.replace(settings, out=str(tmp_path / "stopped"))
    assert until_done(lives, lambda: pipeline.train_joint(settings)) == 2
    whole, stopped = contents(tmp_path / "whole"), contents(tmp_path / "stopped")
    assert whole.keys() == stopped.keys()
    assert [file for file in whole if whole[file] != stopped[file]] == []


def test_a_step_leaves_all_of_other_tasks_to_the_bit(backbone):
    """Through the whole program, of two members whose steps are of different tasks; what is shared moves."""
    (setup,) = joint_setups(config(backbone, method="propetl", seeds=(0, 1), warmup_steps=0))
    program = make_program([setup], make_schedule(setup.config, setup.method, setup.num_examples))
    batch = next(program.batches)
    before = tree.flatten(program.state.trainable)
    for member, number in enumerate(batch.task):
        one = tree.index(program.state, member)
        after, _ = program.step(one, setup.frozen, tree.index(batch, member))
        for path, leaf in tree.flatten(after.trainable).items():
            same = np.asarray(leaf).tobytes() == np.asarray(before[path][member]).tobytes()
            owner = methods.task_of(path)
            assert same == (owner is not None and owner != TASKS[number]), path
    assert len(set(batch.task.tolist())) == 2


def test_seeds_see_one_order_where_the_sampler_has_a_seed_of_its_own(backbone):
    for sampler_seed, same in ((None, False), (0, True)):
        (setup,) = joint_setups(config(backbone, seeds=(0, 1), sampler_seed=sampler_seed))
        batch = next(make_program([setup], make_schedule(setup.config, setup.method, 1)).batches)
        assert (batch.example_id[0].tolist() == batch.example_id[1].tolist()) == same


def test_a_choice_task_starts_at_the_pooler_of_the_backbone_and_learns_its_own(backbone, trained):
    (setup,) = joint_setups(config(backbone))
    pooler = pretrained.load_backbone(backbone)[0]["pooler"]
    head = setup.trainable["heads"]["builtin/cause"]
    np.testing.assert_array_equal(head["dense"]["kernel"][0], pooler["kernel"])
    kept = load_tensors(trained("hyperformer++") / "builtin/cause/seed-0.safetensors")
    assert (kept["heads/builtin:cause/dense/kernel"] != np.asarray(pooler["kernel"])).any()
    (setup,) = joint_setups(config(backbone, method="adapter"))
    assert setup.spec.head("builtin/cause").kind == "linear"


def test_published_schedule_is_a_tenth_of_warm_up_and_fifty_evaluations(backbone):
    (setup,) = joint_setups(config(backbone, max_steps=None, eval_every=None))
    schedule = make_schedule(setup.config, setup.method, setup.num_examples)
    assert (schedule.num_steps, schedule.eval_every, schedule.patience) == (14 * 16, 5, 10)


def test_the_folder_of_all_names_those_of_its_tasks(trained):
    folder = trained("hyperformer++")
    with pytest.raises(InputError, match="is a joint run of 4 tasks; pass the folder of one, such as .*sentiment or"):
        evaluate(EvaluateConfig(run=str(folder)))
    with pytest.raises(InputError, match="is a joint run of 4 tasks"):
        load_source(str(folder))
    with pytest.raises(InputError, match="is a joint run of 4 tasks"):
        export_run(ExportConfig(run=str(folder), out=str(folder / "out")))
    assert load_run(str(folder / TASKS[0])).spec.norm_after


def test_a_plan_has_one_program_for_training_and_one_for_evaluation(backbone):
    settings = vars(config(backbone)) | {"out": ""}
    found = plan(PlanJointConfig(**settings, suggest=False))
    assert [program["name"] for program in found["programs"]].count("evaluate") == 1
    assert found["task"] == "4 tasks" and found["programs"][-1]["calls"] == 2 * 4 + 4


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(tasks=TASKS[:1] * 2), ["builtin/sentiment stands there twice"]),
        (dict(temperature=0.0), ["temperature must be above 0, got 0"]),
        (dict(temperature=-1.0), ["temperature must be above 0, got -1"]),
        (dict(method="scalearn", reduction_factor=None), ["'scalearn' is not joint", "full, adapter, propetl"]),
        (dict(method="hyperformr"), ["did you mean 'hyperformer"]),
        (dict(tasks=("builtin/sentimant",)), ["did you mean 'builtin/sentiment'"]),
        (dict(tasks=()), ["tasks: expected one or more names"]),
        (dict(max_length=500), ["--max-length 500 exceeds"]),
        (dict(method="hyperformer", non_linearity="relu"), ["--non-linearity does not apply"]),
        (
            dict(tasks=("builtin/sentiment", "builtin/sentiment", "glue/nothing"), temperature=0.0, method="soup"),
            ["4 problems", "twice", "temperature", "glue/nothing", "not joint"],
        ),
    ],
)
def test_all_that_is_wrong_comes_at_once(changes, expected, backbone, tmp_path):
    settings = vars(config(backbone, tmp_path / "run")) | changes
    with pytest.raises(InputError) as error:
        pipeline.train_joint(JointConfig(**settings))
    text = str(error.value)
    assert "\n" not in text and all(part in text for part in expected), text
    assert not list(tmp_path.iterdir())


def test_a_task_without_data_is_named_beside_the_others(backbone, tmp_path):
    (tmp_path / "mine").mkdir()
    row = "name: mine\nkind: classification\ntexts: [text]\nlabels: [a, b]\n"
    (tmp_path / "mine/task.yaml").write_text(row)
    for split in ("train", "validation"):
        (tmp_path / f"mine/{split}.jsonl").write_text("")
    (tmp_path / "none").mkdir()
    (tmp_path / "none/task.yaml").write_text(row.replace("mine", "none"))
    tasks = ("mine", "builtin/sentiment", "none")
    with pytest.raises(InputError) as error:
        pipeline.train_joint(config(backbone, tmp_path / "run", tasks=tasks, data_dir=str(tmp_path)))
    assert "mine" in str(error.value) and "none" in str(error.value)


def test_two_files_of_one_task_name_are_refused(backbone, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "task.yaml").write_text("name: mine\nkind: regression\ntexts: [text]\n")
    tasks = tuple(str(tmp_path / folder / "task.yaml") for folder in ("one", "two"))
    with pytest.raises(InputError, match="mine is the name of two of them"):
        joint_setups(config(backbone, tasks=tasks))


def test_different_lengths_are_said(backbone, tmp_path, capsys):
    for name, length in (("long", 40), ("short", 20)):
        (tmp_path / name).mkdir()
        row = f"name: {name}\nkind: classification\ntexts: [text]\nlabels: [a, b]\nmax_length: {length}\n"
        (tmp_path / name / "task.yaml").write_text(row)
        for split in ("train", "validation"):
            lines = [json.dumps({"text": f"the soup was cold {n}", "label": "ab"[n % 2]}) for n in range(40)]
            (tmp_path / name / f"{split}.jsonl").write_text("\n".join(lines))
    settings = config(backbone, tasks=("long", "short"), data_dir=str(tmp_path), max_length=None)
    (setup,) = joint_setups(settings)
    assert (
        setup.row_length == 40 and "rows hold 40 tokens; texts are cut before of short at 20" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_tasks_with_a_norm_are_exported_combined_unfolded_and_not_folded(trained, backbone, tmp_path):
    """Their folders and what `adapters` would read are the same sources, and their sum is what it says."""
    folder = trained("hyperformer++")
    places = [folder / TASKS[0], folder / TASKS[3]]
    for place in places:
        export_run(ExportConfig(run=str(place), out=str(tmp_path / place.name)))
    written = json.loads((tmp_path / "sentiment/adapter_config.json").read_text())["config"]
    assert written["ln_after"] is True and written["non_linearity"] == "gelu_new"
    ours, theirs = ([load_source(str(place)) for place in group] for group in (places, tmp_path.glob("*")))
    assert {source.hash for source in ours} == {source.hash for source in theirs}

    settings = dict(target="builtin/topic", backbone=backbone, method="scalearn", max_steps=2, batch_size=8)
    settings |= dict(max_train_samples=16, max_eval_samples=8, eval_every=2, max_length=40)
    out = tmp_path / "scaled"
    pipeline.transfer(TransferConfig(**settings, sources=tuple(map(str, places)), out=str(out)))
    run = load_run(str(out))
    assert run.spec.norm_after and run.spec.option("compose") == "reference"
    params = run.members[0]
    site = jax.tree.map(lambda leaf: leaf[0], model.adapt(params, spec=run.spec).site)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 16)), jnp.float32)
    omega = params["transfer"]["omega"][0]
    expected = sum(
        omega[t][None, None] * bottleneck(jax.tree.map(lambda leaf, t=t: leaf[0, t], params["adapters"]), z, "gelu_new")
        for t in range(2)
    )
    np.testing.assert_allclose(run.spec.combiner_functions.apply(site, z), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="cannot be folded: its sources are adapters with a layer norm after"):
        fold_run(FoldConfig(run=str(out), out=str(tmp_path / "folded")))
    with pytest.raises(InputError, match="--compose folded: sources with a layer norm"):
        transfer_setups(TransferConfig(**settings, sources=tuple(map(str, places)), compose="folded", out="x"))
    plain = trained("adapter") / TASKS[0]
    with pytest.raises(InputError, match="mix"):
        transfer_setups(TransferConfig(**settings, sources=(str(places[1]), f"plain={plain}"), out="x"))


@pytest.mark.slow
def test_a_task_of_a_fully_trained_run_reads_the_backbone_above_it_and_leaves_with_it(trained, tmp_path):
    place = trained("full") / TASKS[0]
    assert [name for name in load_tensors(place / "seed-0.safetensors") if not name.startswith("heads/")] == []
    export_run(ExportConfig(run=str(place), out=str(tmp_path / "out"), format="native", seed=3))
    here, there = load_run(str(place)).members[3], load_run(str(tmp_path / "out")).members[3]
    assert tree.content_hash(here) == tree.content_hash(there)
    assert "backbone_in" not in (tmp_path / "out/run.json").read_text()
    shared = load_tensors(trained("full") / "seed-3.safetensors")["backbone/embeddings/word/embedding"]
    np.testing.assert_array_equal(here["backbone"]["embeddings"]["word"]["embedding"], shared)


def test_a_silenced_source_with_a_norm_adds_nothing():
    bank = banks.init(jax.random.key(0), banks.BankShape(1, 2, 8, 4), norm=True)
    bank["norm"]["bias"] += 1.0
    kept = jax.tree.map(lambda leaf: leaf[0, 1], banks.mask(bank, jnp.array([True, False])))
    assert not np.asarray(bottleneck(kept, jnp.ones((1, 8)))).any()
    with pytest.raises(InputError, match="no sum of them is one adapter"):
        banks.widen(bank, jnp.ones((1, 2, 1)))
