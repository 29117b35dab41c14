"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "scalearn_jax").rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module(name, tmp_path, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)  # an example may write files
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(module, optionflags=flags).failed == 0
    for value in vars(module).values():  # what is decorated belongs to another module, for doctest
        inner = inspect.unwrap(value) if callable(value) else value
        if inner is not value and getattr(inner, "__module__", None) == name:
            finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=flags)
            for example in finder.find(inner, inner.__name__, module, globs=dict(vars(module))):
                assert runner.run(example).failed == 0
