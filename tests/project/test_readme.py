"""The README is short; its commands and the pages' Python blocks run; the parameter table is what the code counts."""

import csv
import re
import shlex
from pathlib import Path

import jax
import pytest

from scalearn_jax import cli, combiners, tree
from scalearn_jax.models.bank import BankShape
from scalearn_jax.models.heads import Head, HeadSpec
from tests.conftest import ROOT
from tests.project.test_pages import PAGES
from tests.support import tiny_backbone

README, GALLERY, TESTS = (
    (ROOT / name).read_text() for name in ("README.md", "experiments/README.md", "tests/README.md")
)
(LIBRARY,), (FUNCTIONS,) = (re.findall(r"```python\n(.*?)```", page, re.DOTALL) for page in (README, TESTS))


def test_it_is_short():
    assert 600 < len(README.split()) < 870  # of tables and code, too


def test_it_has_what_a_newcomer_looks_for():
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert headings == [
        *("For you if", "Install", "Quickstart", "Your own data", "Python", "Beside adapters and peft", "Results"),
        *("Status", "Pages", "Citation", "Licence, contributing"),
    ]
    assert all(
        word in README for word in ("git clone", "-m venv", "[cuda]", "[tpu]", "Not if", "omega_1", "Never run:")
    )
    assert re.search(r"!\[[^]]*interval\]\((.*?\.png)\)", README)


def test_the_few_numbers_always_stand_with_the_heads_own():
    shapes = jax.eval_shape(Head(HeadSpec(), 768).init, jax.random.key(0), jax.numpy.zeros((1, 768)))
    assert tree.num_parameters(shapes) == 592_130  # RoBERTa-base, two labels; at MiniLM's width 148,610
    parts = [part for page in PAGES for part in page.read_text().split("\n\n")]
    said = [part for part in parts if re.search(r"\b8\b[^|.]{0,20}\bnumbers", part)]
    assert len(said) == 3 and all("592,130" in part or "148,610" in part for part in said), said


@pytest.mark.slow
def test_the_library_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = tiny_backbone.write(tmp_path / "backbone", num_hidden_layers=1)
    code = LIBRARY.replace("sentence-transformers/all-MiniLM-L6-v2", str(backbone))
    short = "max_steps=2, eval_every=2, batch_size=4, max_train_samples=16, max_eval_samples=8"
    code = code.replace("max_steps=100, eval_every=50", short)
    assert str(backbone) in code and "max_steps=2" in code
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert Path("runs/agreement/results.json").exists() and Path("folded/adapter.safetensors").exists()


@pytest.mark.slow
def test_the_five_commands_for_your_own_data_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_backbone.write(tmp_path / "MODEL", num_hidden_layers=1, max_position_embeddings=160)
    rows = "text,label\n" + "".join(f"good text {i},yes\nbad text {i},no\n" for i in range(20))
    for task in ("reviews", "topics", "tickets"):
        (tmp_path / "data" / task).mkdir(parents=True)
        for name in ("train.csv", "validation.csv", "task.yaml"):
            described = f'name: {task}\nkind: classification\ntexts: ["{{text}}"]\nlabels: ["no", "yes"]\n'
            (tmp_path / "data" / task / name).write_text(described if name == "task.yaml" else rows)
    (tmp_path / "new.csv").write_text("text\ngood text\n")
    (section,) = re.findall(r"^## Your own data$.*?```bash\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    lines = section.replace("\\\n", "").splitlines()
    assert len(lines) == 5
    for line in lines:
        word, *argv = shlex.split(line)
        trains = ["--max-steps", "2", "--eval-every", "2"] if argv[0] in ("train-adapter", "transfer") else []
        assert word == "scalearn" and cli.main([*argv, *trains]) == 0, line
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_the_functional_example_runs():
    names: dict = {}
    exec(compile(FUNCTIONS, "tests/README.md", "exec"), names)
    assert names["update"].shape == (1, 4, 768)
    assert names["site"]["down"]["kernel"].shape == (12, 768, 8 * 48)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("ScaLearn:", "scalearn"),
        ("ScaLearnUniform:", "scalearn-uniform"),
        ("ScaLearn++:", "scalearn++"),
        ("ScaLearnUniform++:", "scalearn-uniform++"),
        ("AdapterFusion", "fusion"),
    ],
)
def test_the_parameter_table_is_counted(row, name):
    (number,) = re.findall(rf"^\| {re.escape(row)}.*\| \**([\d,]+)\** \|$", GALLERY, re.MULTILINE)
    shapes = jax.eval_shape(lambda key: combiners.make(name).init(key, BankShape(12, 8, 768, 48)), jax.random.key(0))
    assert int(number.replace(",", "")) == tree.num_parameters(shapes)
    if name in ("scalearn", "scalearn-uniform++", "fusion"):
        assert re.search(rf"\b{number}\b", README)


def test_the_quickstarts_numbers_are_those_of_its_files():
    results = ROOT / "experiments/results/quickstart"
    with open(results / "table.csv", newline="") as file:
        found = {row["method"]: row for row in csv.DictReader(file)}
    rows = re.findall(
        r"^\| `([^`]+)`([^|]*)\| ([\d,]+) \| ([\d,]+) \| ([\d.]+)(?: ± ([\d.]+))? \|$", README, re.MULTILINE
    )
    assert len(rows) == len(found) == 7
    for name, about, transfer, head, mean, sd in rows:
        row = found[f"{name}-solved" if "solved" in about else name]
        assert [int(count.replace(",", "")) for count in (transfer, head)] == [
            int(row["transfer_parameters"]),
            int(row["head_parameters"]),
        ]
        assert mean == f"{100 * float(row['mean']):.2f}" and (sd or "0.00") == f"{100 * float(row['sd']):.2f}"
        assert row["test_examples"] == row["test_available"] == "500"
    assert (results / "table.md").read_text().split("\n\n")[1] in GALLERY
