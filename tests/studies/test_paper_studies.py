"""The paper's studies, resolved: rates, patience, epochs, seeds and selection of every method as published."""

from pathlib import Path

import pytest

from scalearn_jax import methods
from scalearn_jax.config import StudyConfig, from_dict, read_yaml
from scalearn_jax.data.tasks import SUITES
from scalearn_jax.stages.program import make_schedule, warmup_steps
from scalearn_jax.studies import cells as plan
from scalearn_jax.studies.checks import study_problems

PAPER = Path(__file__).resolve().parents[2] / "experiments" / "paper"
TEN, THREE = tuple(range(10)), (0, 1, 2)
BIG = ("glue/sst2", "glue/qnli", "glue/qqp", "glue/mnli")
# method -> (rate, patience) in every table (method.md, "Published settings")
PUBLISHED = {
    "full": (2e-5, 5),
    "single": (3e-4, 5),
    "scalearn": (6e-3, 30),
    "scalearn-uniform": (6e-3, 30),
    "scalearn++": (6e-3, 30),
    "scalearn-uniform++": (6e-3, 30),
    "fusion": (5e-5, 5),
    "soup": (3e-4, 5),
    "compacter++": (3e-3, 5),
    "propetl": (1e-3, 5),
    "ia3": (5e-3, 5),
}

JOINT = {
    "full-m": ("full", 2e-5),
    **{"adapter-m": ("adapter", 3e-4), "propetl-m": ("propetl", 3e-4)},
    **{"hyperformer": ("hyperformer", 3e-4), "hyperformer++": ("hyperformer++", 3e-4)},
}


def read(name: str) -> StudyConfig:
    path = PAPER / f"{name}.yaml"
    study = from_dict(StudyConfig, read_yaml(path), where=str(path))
    assert study_problems(study) == []
    return study


def resolved(name: str) -> dict:
    """Cell -> its settings, with what the config leaves open taken from the method."""
    found = {}
    for cell in plan.cells(read(name), "o"):
        config, row = cell.config, cell.method
        found[cell.name] = {
            "rate": config.learning_rate or row.learning_rate,
            "patience": config.patience or row.patience,
            "epochs": config.epochs or row.epochs,
            "config": config,
            "method": row,
        }
    return found


TABLES = [
    *(
        (f"{suite}_{size}", suite.replace("_", "+"))
        for suite in ("glue", "superglue", "humset")
        for size in ("base", "large")
    ),
    *((f"glue_superglue_{size}", "glue+superglue") for size in ("base", "large")),
]


@pytest.mark.parametrize("name, suite", TABLES)
def test_tables_are_those_of_the_paper(name, suite):
    study, cells = read(name), resolved(name)
    assert set(study.sources) == set(study.targets) == set(SUITES[suite])
    assert set(study.methods) == {*PUBLISHED, *JOINT}
    for task in SUITES[suite]:
        source = cells[f"adapters/{task}"]
        assert (source["rate"], source["patience"], source["epochs"]) == (3e-4, 5, 30)
        assert source["config"].seeds == (0,) and source["config"].select == ("metric" if suite == "humset" else "loss")
        for method, (rate, patience) in PUBLISHED.items():
            cell = cells[f"{task}/{method}"]
            if suite == "humset" and method == "soup":
                patience = 3
            assert (cell["rate"], cell["patience"]) == (rate, patience), (task, method)
            assert cell["config"].batch_size == 32 and cell["config"].warmup_steps == 0
            assert cell["config"].select == ("metric" if suite == "humset" else "loss")
        assert cells[f"{task}/soup"]["config"].embedder == "sentence-transformers/all-mpnet-base-v2"


@pytest.mark.parametrize("name, suite", TABLES)
def test_joint_rows_are_those_of_the_paper(name, suite):
    cells = resolved(name)
    for label, (method, rate) in JOINT.items():
        cell = cells[f"joint/{label}"]
        config = cell["config"]
        assert (cell["rate"], cell["patience"], config.method, config.select) == (rate, 10, method, "loss")
        assert set(config.tasks) == set(SUITES[suite]) and config.seeds == THREE and config.sampler_seed == 0
        assert (config.max_steps, config.temperature, config.batch_size) == (375_000, 1.0, 32)
        assert warmup_steps(config, 375_000) == 37_500
        assert make_schedule(config, cell["method"], 100).eval_every == 7_500
    baselines = {task: cells[f"{task}/propetl"]["config"] for task in SUITES[suite]}
    assert {config.masks for config in baselines.values()} == {"frozen"}  # the release's, whose numbers these are


@pytest.mark.parametrize("name, suite", TABLES)
def test_record_is_learned_in_three_epochs_by_transfer(name, suite):
    cells, combined = resolved(name), suite == "glue+superglue"
    for method in PUBLISHED:
        for task in SUITES[suite]:
            short = ("scalearn", "soup", "ia3", *(() if combined else ("fusion",)))
            three = task == "superglue/record" and method.startswith(short)
            assert cells[f"{task}/{method}"]["epochs"] == (3 if three else 30), (task, method)


@pytest.mark.parametrize(
    "name, task, method, seeds",
    [
        *(("glue_base", task, method, THREE) for task in BIG for method in ("full", "scalearn", "fusion")),
        ("glue_base", "glue/rte", "scalearn", TEN),
        ("superglue_base", "superglue/cb", "soup", TEN),
        ("superglue_base", "superglue/multirc", "scalearn", THREE),
        ("superglue_base", "superglue/record", "single", THREE),
        ("superglue_base", "superglue/multirc", "full", TEN),
        ("humset_base", "humset/sectors", "scalearn", THREE),
    ],
)
def test_seeds_are_the_published_ones(name, task, method, seeds):
    assert resolved(name)[f"{task}/{method}"]["config"].seeds == seeds


def test_few_shot_is_the_published_protocol():
    study, cells = read("few_shot"), resolved("few_shot")
    assert study.shots == (4, 16, 32, 100) and study.seeds == (0, 1, 2, 3, 4)
    for method, rate in (("single", 3e-4), ("scalearn++", 6e-3), ("fusion", 5e-5)):
        cell = cells[f"superglue/cb/16-shot/{method}"]
        config = cell["config"]
        assert (cell["rate"], cell["patience"]) == (rate, 20)
        assert (config.max_steps, config.select, config.max_train_samples) == (1000, "metric", 16)
        assert (config.max_dev_samples, config.max_eval_samples) == (5000, None)
    own, other = cells["adapters/16-shot/superglue/cb"]["config"], cells["adapters/glue/mnli"]["config"]
    assert (own.max_train_samples, own.max_steps, own.seeds) == (16, 1000, (0,))
    assert (other.max_train_samples, other.max_steps) == (None, None)


def test_ablations_differ_from_scalearn_in_one_thing():
    cells = resolved("ablations")
    plain = cells["glue/rte/scalearn"]["config"]
    changed = {
        name: {
            field: value
            for field, value in vars(cells[f"glue/rte/{name}"]["config"]).items()
            if value != getattr(plain, field) and field != "out"
        }
        for name in read("ablations").methods
    }
    assert changed == {
        "scalearn": {},
        "scalearn-mean": {"method": "scalearn-mean"},
        "scalearn-softmax": {"method": "scalearn-softmax"},
        "no-dropout": {"omega_dropout": 0.0},
        "start-at-mean": {"omega_init": 1.0},
        "penalty-0.001": {"penalty": 0.001},
        "penalty-0.01": {"penalty": 0.01},
        "penalty-0.1": {"penalty": 0.1},
    }
    assert cells["glue/mnli/scalearn"]["config"].seeds == (0, 1)


def test_probing_covers_the_published_grids():
    single = [cell for cell in plan.cells(read("probing_single"), "o") if not cell.is_source]
    assert len(single) == 15 * 4 * 7 and {cell.config.seeds for cell in single} == {(0, 1, 2, 3, 4)}
    pairs = [cell for cell in plan.cells(read("probing_pairs"), "o") if not cell.is_source]
    assert len(pairs) == 10 * 7 * 7 and all(cell.config.sources[1] == "o/adapters/glue/mnli" for cell in pairs)
    assert all(cell.config.sources[0] == f"o/adapters/{cell.task}" for cell in pairs)
    assert {(methods.get(cell.config.method).learning_rate, cell.config.patience) for cell in pairs} == {(3e-4, None)}
