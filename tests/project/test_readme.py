"""The README's Python blocks run, and its parameter table is what the code counts."""

import re
from pathlib import Path

import jax
import pytest

from scalearn_jax import combiners, tree
from scalearn_jax.models.bank import BankShape
from tests.support import tiny_backbone

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
LIBRARY, FUNCTIONS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_library_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = tiny_backbone.write(tmp_path / "backbone", num_hidden_layers=1)
    code = LIBRARY.replace("sentence-transformers/all-MiniLM-L6-v2", str(backbone))
    short = "max_steps=2, eval_every=2, batch_size=4, max_train_samples=16, max_eval_samples=8"
    code = code.replace("max_steps=100, eval_every=50", short)
    assert str(backbone) in code and "max_steps=2" in code
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (names["run"] / "results.json").exists() and (tmp_path / "folded/adapter.safetensors").exists()


def test_the_functional_example_runs():
    names: dict = {}
    exec(compile(FUNCTIONS, "README.md", "exec"), names)
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
    (number,) = re.findall(rf"^\| {re.escape(row)}.*\| \**([\d,]+)\** \|$", README, re.MULTILINE)
    shapes = jax.eval_shape(lambda key: combiners.make(name).init(key, BankShape(12, 8, 768, 48)), jax.random.key(0))
    assert int(number.replace(",", "")) == tree.num_parameters(shapes)
