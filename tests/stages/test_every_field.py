"""Every setting of the two stages: another value trains other weights or, for a reason written here, the same."""

import csv
from dataclasses import fields
from pathlib import Path

import jax
import numpy as np
import pytest

from scalearn_jax import tree
from scalearn_jax.config import AdapterConfig, TransferConfig
from scalearn_jax.config.checks import fields_where
from scalearn_jax.io.tensors import load_tree
from scalearn_jax.stages import pipeline, program
from scalearn_jax.stages.program import make_schedule
from scalearn_jax.train import sharding
from tests.support import hub_server, tiny_backbone

TESTS = Path(__file__).resolve().parents[1]
# Most settings are tried on a head over features that are computed once: its programs compile fast.
HEAD = dict(method="head", backbone_dropout=False)
TURNS = HEAD | dict(target="turns", max_steps=8, eval_every=1, warmup_steps=1, learning_rate=0.2)
EPOCH, DECAY = HEAD | dict(max_steps=None, epochs=1), HEAD | dict(weight_decay=10.0)
SOUP, FRESH, HALF = dict(method="soup"), dict(method="single", sources=()), dict(dtype="bfloat16")
DROPS = dict(backbone="backbone with dropout")
# The settings of two runs of stage 2, besides those of all, that train other weights.
CHANGES = {
    "backbone": ({}, dict(backbone="another backbone")),
    "data_dir": ({}, dict(data_dir="other data")),
    "target": ({}, dict(target="turns")),
    "targets": (HEAD, HEAD | dict(target=None, targets=("turns",))),
    "sources": ({}, dict(sources=("source1", "source0"))),
    "method": ({}, dict(method="scalearn-uniform")),
    "seeds": ({}, dict(seeds=(1,))),
    "epochs": (EPOCH, EPOCH | dict(epochs=2)),
    "max_steps": (HEAD, HEAD | dict(max_steps=4)),
    "batch_size": ({}, dict(batch_size=8)),
    "learning_rate": (HEAD, HEAD | dict(learning_rate=0.1)),
    "learning_rates": (HEAD, HEAD | dict(learning_rate=None, learning_rates=(0.1,))),
    "warmup_steps": (HEAD, HEAD | dict(warmup_steps=2)),
    "weight_decay": (HEAD, DECAY),
    "clip_norm": (HEAD, HEAD | dict(clip_norm=1e-3)),
    "optimizer": (DECAY, DECAY | dict(optimizer="optax")),  # which decays beside the update, not after it
    "patience": (TURNS, TURNS | dict(patience=1)),
    "eval_every": (TURNS | dict(select="metric"), TURNS | dict(select="metric", eval_every=4)),
    "select": (TURNS, TURNS | dict(select="metric")),
    "max_dev_samples": (TURNS, TURNS | dict(max_dev_samples=1)),
    "max_eval_samples": (TURNS, TURNS | dict(max_eval_samples=1)),
    "max_length": ({}, dict(max_length=5)),
    "max_train_samples": ({}, dict(max_train_samples=6)),
    "sample_seed": (dict(max_train_samples=6), dict(max_train_samples=6, sample_seed=3)),
    "backbone_dropout": (DROPS, DROPS | dict(backbone_dropout=False)),
    "dtype": ({}, HALF),
    "frozen_dtype": (HALF, HALF | dict(frozen_dtype="bfloat16")),
    "reduction_factor": (FRESH, FRESH | dict(reduction_factor=8)),
    "non_linearity": (FRESH, FRESH | dict(non_linearity="gelu")),
    "omega_dropout": ({}, dict(omega_dropout=0.9)),
    "omega_init": ({}, dict(omega_init=8.0)),
    "normalise": ({}, dict(normalise="softmax")),
    "penalty": ({}, dict(penalty=100.0)),
    "weights": (SOUP, SOUP | dict(weights=(30.0, -29.0))),
}
LEAST = {"frozen_dtype": 2e-5}  # how much weights differ; 1e-3 if not given, where a step moves them by 0.05
# They reach training as an option of the combiner alone; of the soup's, "weights" above trains with two values.
SHARED = SOUP | dict(sources=("adapter of mixed", "adapter of turns"), top_sources=2)
OPTIONS = {
    "top_sources": (SHARED, SHARED | dict(top_sources=1)),
    "embedder": (SHARED, SHARED | dict(embedder="another backbone")),
    "similarity_samples": (SHARED, SHARED | dict(similarity_samples=1)),
    "coefficients": tuple(dict(method="fixed", coefficients=values) for values in ((0.5, 0.5), (3.0, -2.0))),
}
OF_ADAPTERS = ("task", "method")  # the fields of stage 1 only; the others reach the same code
# Not one bit may differ: all are tried at once.
SAME = {
    "out": ("elsewhere", "a place"),
    "allow_pickle": (True, "there are safetensors, which are read first"),
    "any_base_model": (True, "a check of names, which holds without it"),
    "eval_batch_size": (3, "the scores are those of a whole split; but for last bits, which here choose the same step"),
    "log_every": (1, "how often training is reported"),
    "checkpoint_every": (1, "a copy of the state"),
    "checkpoint_minutes": (0.0, "a copy of the state"),
    "keep_checkpoints": (1, "copies of the state"),
    "restart": (True, "there is nothing to go on from"),
    "start_timeout": (60, "how long processes wait for each other"),
    "heartbeat_timeout": (60, "how long processes wait for each other"),
}
# Where else it is shown what another value does, "file::test"; of those above the line: nothing, to rounding.
ELSEWHERE = {
    "packed": "tests/stages/test_pipeline.py::test_packed_and_padded_training_agree",
    "layers": "tests/combiners/test_laws.py::test_scan_equals_loop",
    "remat": "tests/combiners/test_laws.py::test_remat_changes_nothing",
    "accumulate": "tests/stages/test_members.py::test_an_accumulated_step_is_the_whole_step",
    "steps_per_dispatch": "tests/stages/test_members.py::test_several_steps_a_dispatch_change_nothing",
    "mesh": "tests/train/test_step.py::test_sharded_equals_single_device",
    "fit": "tests/stages/test_solve.py::test_it_is_the_mean_of_halves_none_of_which_is_worse_than_the_centre",
    "solve_samples": "tests/stages/test_solve.py::test_scales_follow_from_some_examples_and_the_head_from_all",
    "compose": "tests/combiners/test_laws.py::test_fold_equals_reference_in_value_and_gradient",
    "coordinator": "tests/train/test_distributed.py::test_two_processes_equal_one_device",
    "num_processes": "tests/train/test_distributed.py::test_two_processes_equal_one_device",
    "process_id": "tests/train/test_distributed.py::test_two_processes_equal_one_device",
    # ------
    "masks": "tests/stages/test_pipeline.py::test_propetl_learns_its_masks_and_its_run_is_read_as_it_was",
    "ffn_scale": "tests/combiners/test_laws.py::test_the_feed_forward_vector_of_ia3_acts_where_it_says",
    "revision": "tests/stages/test_every_field.py::test_a_revision_of_the_hub_is_another_backbone",
    "max_faults": "tests/train/test_resume.py::test_too_many_faults_in_a_row_end_a_run_with_a_diagnosis",
}


@pytest.mark.parametrize("cls", [AdapterConfig, TransferConfig])
def test_every_field_is_listed_once(cls):
    changes = {*CHANGES, *OF_ADAPTERS} if cls is AdapterConfig else set(CHANGES)
    names = [*changes, *OPTIONS, *SAME, *ELSEWHERE]
    missing = {field.name for field in fields(cls)} - set(names)
    assert not missing, f"say of {sorted(missing)} whether another value trains other weights"
    assert len(names) == len(set(names))
    assert changes.isdisjoint(fields_where(cls, "result", False)), "marked as if no result followed from it"


@pytest.mark.parametrize("where", sorted(set(ELSEWHERE.values())))
def test_laws_elsewhere_are_there(where):
    file, name = where.split("::")
    assert f"def {name}(" in (TESTS.parent / file).read_text()


def test_every_listed_field_is_one():
    known = {field.name for cls in (AdapterConfig, TransferConfig) for field in fields(cls)}
    assert {*CHANGES, *OPTIONS, *OF_ADAPTERS, *SAME, *ELSEWHERE} == known


ORDER = np.random.default_rng((0, 0)).permutation(32)  # in which seed 0 sees 32 rows in its first epoch
WORDS = "soup lovely evening cold service warm room bad food nice staff dirty floor clean".split()


def write_task(folder: Path, seed: int, train: list[int], dev: list[int]) -> None:
    """Writes a task of texts of 3 to 12 words with given labels; its name is the folder's."""
    folder.mkdir(parents=True)
    lines = [f"name: {folder.name}", "kind: classification", "texts: [text]", "labels: ['no', 'yes']", "max_length: 12"]
    (folder / "task.yaml").write_text("\n".join(lines))
    generator = np.random.default_rng(seed)
    for split, labels in {"train": train, "validation": dev, "test": [0, 1]}.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("text", "label"))
            for label in labels:
                rows.writerow((" ".join(generator.choice(WORDS, generator.integers(3, 13))), label))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Backbones, adapters and two tasks.

    In ``turns`` the rows that seed 0 sees in its second step say yes, and all others no. So does the development set,
    but for its first row. Its loss, the first step of a warm-up having changed nothing, first rises and then falls.
    """
    root, options = tmp_path_factory.mktemp("inputs"), dict(num_hidden_layers=1)
    silent = options | dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # programs compile faster
    tiny_backbone.write_with_sources(root)
    (root / "backbone").rename(root / "backbone with dropout")
    tiny_backbone.write(root / "backbone", **silent)
    tiny_backbone.write(root / "another backbone", seed=1, **silent)
    said = np.isin(np.arange(32), ORDER[4:8]).astype(int).tolist()
    for number, data in enumerate(("data", "other data")):
        write_task(root / data / "mixed", 2 * number, [0, 1] * 16, [0, 1, 1, 0])
        write_task(root / data / "turns", 2 * number + 1, said, [1, 0, 0, 0, 0, 0])
    return root


PLACES = ("backbone", "data_dir", "sources", "embedder")  # below the folder of the inputs, or on the hub
ADAPTER = dict(max_steps=2, learning_rate=0.3, reduction_factor=4)
TRANSFER = dict(target="mixed", sources=("source0", "source1"), max_steps=3, learning_rate=0.05)


def config_of(cls, inputs, **settings):
    """A config of few steps, evaluated after the last one."""

    def below(value):
        if isinstance(value, tuple):
            return tuple(map(below, value))
        return str(inputs / value) if value and (inputs / value).exists() else value

    shared = dict(backbone="backbone", data_dir="data", batch_size=4, eval_every=99, eval_batch_size=6)
    shared |= ADAPTER if cls is AdapterConfig else TRANSFER
    if settings.get("method", "scalearn") == "scalearn" and cls is TransferConfig:
        shared["omega_dropout"] = 0.0
    given = shared | settings
    given |= {name: below(given[name]) for name in PLACES if name in given}
    return cls(out=str(inputs / given.pop("out", "nowhere")), **given)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    make = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda text=None, devices=None: make(text, devices or jax.devices()[:1]))


@pytest.fixture(scope="module")
def trained(inputs):
    """Returns (settings) -> weights of the best checkpoint, path -> array; trains equal settings once, in no folder."""
    done = {}

    def trained(**settings):
        bundle = repr(sorted(settings.items()))
        if bundle not in done:
            config = config_of(TransferConfig, inputs, **settings)
            (setup,) = pipeline.transfer_setups(config)
            schedule = make_schedule(config, setup.method, len(setup.data.train))
            position = program.train(program.runs_of(setup), schedule, [lambda event: None])
            done[bundle] = flat(position.groups[0].members[0].trainable, setup.task.name)
        return done[bundle]

    return trained


def flat(trainable, task: str):
    """Path -> leaf, whatever the head's name."""
    return {path.replace(f"heads/{task}/", "heads/"): leaf for path, leaf in tree.flatten(trainable).items()}


def shapes(setup):
    return {path: leaf.shape for path, leaf in flat(setup.trainable, setup.task.name).items()}


def distance(ours, theirs) -> float:
    """The largest difference of leaves of the same paths and shapes."""
    return max(float(np.abs(ours[path] - theirs[path]).max()) for path in ours.keys() | theirs.keys())


@pytest.mark.parametrize("name", CHANGES)
def test_another_value_trains_other_weights(name, trained, inputs):
    one, other = CHANGES[name]
    if name in ("method", "reduction_factor"):  # other weights before any step
        first, second = (pipeline.transfer_setups(config_of(TransferConfig, inputs, **x)) for x in (one, other))
        assert shapes(first[0]) != shapes(second[0])
    else:
        assert distance(trained(**one), trained(**other)) > LEAST.get(name, 1e-3)


def weights_of(folder: Path):
    """What a run folder holds of its seed."""
    stored = load_tree(folder / "seed-0.safetensors")
    return flat(stored, *stored["heads"])


@pytest.fixture
def adapters(inputs, one_device):
    """Stage-1 runs of two tasks, in folders of their names."""
    for task in ("mixed", "turns"):
        if not (inputs / f"adapter of {task}").exists():
            pipeline.train_adapter(config_of(AdapterConfig, inputs, task=task, out=f"adapter of {task}"))
    return [inputs / f"adapter of {task}" for task in ("mixed", "turns")]


@pytest.mark.slow
def test_another_task_or_method_of_stage_one_trains_other_weights(adapters, inputs):
    assert distance(*map(weights_of, adapters)) > 1e-3
    methods = (dict(method="single"), dict(method="head", reduction_factor=None))
    one, other = (pipeline.adapter_setups(config_of(AdapterConfig, inputs, task="mixed", **x)) for x in methods)
    assert shapes(one[0]) != shapes(other[0])


@pytest.mark.parametrize("name", OPTIONS)
def test_another_value_is_another_option_of_the_combiner(name, adapters, inputs):
    setups = [pipeline.transfer_setups(config_of(TransferConfig, inputs, **x))[0] for x in OPTIONS[name]]
    one, other = (setup.spec.option("coefficients" if name == "coefficients" else "weights") for setup in setups)
    assert np.abs(np.subtract(one, other)).max() > 1e-3


def test_what_says_how_a_run_is_made_changes_not_one_bit(trained, inputs):
    config = config_of(TransferConfig, inputs, **{name: value for name, (value, _) in SAME.items()})
    assert not tiny_backbone.weights_differ(trained(), weights_of(pipeline.transfer(config)))


@pytest.mark.parametrize("cls", [AdapterConfig, TransferConfig])
def test_a_revision_of_the_hub_is_another_backbone(cls, inputs, monkeypatch, tmp_path):
    make = pipeline.adapter_setups if cls is AdapterConfig else pipeline.transfer_setups
    task = {"task": "mixed"} if cls is AdapterConfig else {}
    with hub_server.running(monkeypatch, tmp_path) as hub:
        commits = [
            hub.add("models/me/tiny", {path.name: path.read_bytes() for path in (inputs / name).iterdir()})
            for name in ("backbone", "another backbone")
        ]
        configs = [config_of(cls, inputs, backbone="me/tiny", revision=commit, **task) for commit in commits]
        (first,), (second,) = map(make, configs)
    assert tiny_backbone.weights_differ(first.frozen["backbone"], second.frozen["backbone"])


def test_dropout_rates_are_those_of_the_backbone(inputs):
    rates = dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    tiny_backbone.write(inputs / "rates", num_hidden_layers=1, **rates)
    config = config_of(TransferConfig, inputs, backbone="rates", method="fusion")
    spec = pipeline.transfer_setups(config)[0].spec
    assert (spec.backbone.hidden_dropout, spec.backbone.attention_dropout) == (0.2, 0.3)
    assert (spec.head("mixed").dropout, spec.option("dropout")) == (0.2, 0.3)


def test_seeds_differ_in_start_order_and_masks(inputs):
    config = config_of(TransferConfig, inputs, seeds=(0, 1), max_steps=9)
    (setup,) = pipeline.transfer_setups(config)
    made = program.make_program([setup], make_schedule(config, setup.method, 32))
    for path, leaf in tree.flatten(made.state.trainable).items():
        assert np.any(leaf[0] != leaf[1]) != path.endswith("bias"), path  # which start at 0
    keys = jax.random.key_data(made.state.key)
    assert np.any(keys[0] != keys[1])
    seen = np.stack([next(made.batches).example_id for _ in range(8)], 1)  # [seed, step, example]
    orders = [rows.ravel() for rows in seen]
    assert [sorted(order) for order in orders] == [list(range(32))] * 2 and np.any(orders[0] != orders[1])
