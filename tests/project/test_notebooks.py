"""The notebooks: executed from top to bottom, quiet, the same anywhere, and about what the package has."""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "experiments/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 100_000  # bytes of a notebook
NOISE = re.compile(r"warning|traceback|not found", re.IGNORECASE)
PLACE = re.compile(r"(?<![\w.:/])/(home|tmp|root|work|usr|opt|var|Users|mnt)\b|site-packages|[A-Z]:\\")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def sources(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in code_cells(path)]


def texts(path: Path) -> Iterator[str]:
    """All that a reader sees: text, code, and printed output."""
    for cell in read(path)["cells"]:
        yield "".join(cell["source"])
        yield from printed(cell)


def printed(cell: dict) -> Iterator[str]:
    for output in cell.get("outputs", ()):
        yield "".join(output.get("text", ()))
        yield "".join(output.get("data", {}).get("text/plain", ()))


def pictures(cell: dict) -> list[str]:
    return [kind for output in cell["outputs"] for kind in output.get("data", {}) if kind == "image/png"]


def used(source: str) -> Iterator[tuple[str, str]]:
    """Module and name of what a cell imports from the package, or takes from it as ``sj.NAME``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "scalearn_jax":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sj":
            yield "scalearn_jax", node.attr


def exists(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name) or bool(import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


def test_the_readme_lists_all():
    listed = re.findall(r"^\| \[(.*?)\]\(\1\)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.name for path in NOTEBOOKS] and len(listed) == 4


@each
def test_it_is_a_notebook(path):
    notebook = read(path)
    cells, keys = notebook["cells"], {"cell_type", "id", "metadata", "source"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        extra = {"code": {"execution_count", "outputs"}, "markdown": set()}[cell["cell_type"]]
        assert set(cell) == keys | extra


@each
def test_it_was_executed_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_no_cell_failed_or_warned(path):
    outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
    assert outputs and not [output for output in outputs if output["output_type"] == "error"]
    assert not [text for cell in code_cells(path) for text in printed(cell) if NOISE.search(text)]


@each
def test_nothing_in_it_is_of_one_machine(path):
    assert not [text for text in texts(path) if PLACE.search(text)]
    assert not any(cell["metadata"] for cell in read(path)["cells"])  # such as times of execution
    assert set(read(path)["metadata"]) == {"kernelspec", "language_info"}


@each
def test_it_is_small(path):
    assert path.stat().st_size < LARGEST


@each
def test_its_code_names_what_the_package_has(path):
    names = [pair for source in sources(path) for pair in used(source)]
    assert names and not [f"{module}.{name}" for module, name in names if not exists(module, name)]


CONFIGS = {
    "fit_adapter": "AdapterConfig",
    "fit_transfer": "TransferConfig",
    "evaluate": "EvaluateConfig",
    "explain_run": "ExplainConfig",
    "fold_run": "FoldConfig",
    "export_run": "ExportConfig",
    "import_source": "ImportConfig",
    "push": "PushConfig",
}


@each
def test_its_settings_are_those_of_the_functions_that_it_calls(path):
    """Keywords of calls and of dicts that are passed as such: a parameter of the function, or a field of its config."""
    import scalearn_jax as sj

    calls = [node for source in sources(path) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in CONFIGS]
    given = {(call.func.attr, word.arg) for call in calls for word in call.keywords if word.arg}
    known = {
        name: {*inspect.signature(getattr(sj, name)).parameters, *getattr(sj, config).__dataclass_fields__}
        for name, config in CONFIGS.items()
    }
    assert given and not [f"{name}({word}=)" for name, word in given if word not in known[name]]


@each
def test_it_is_in_memory_short_and_has_a_picture(path):
    code, kinds = "\n".join(sources(path)), [kind for cell in code_cells(path) for kind in pictures(cell)]
    assert "fit_adapter(" in code and "fit_transfer(" in code and "Config(" not in code
    assert len(code.splitlines()) < 160 and 1 <= len(kinds) <= 3


@each
def test_its_links_lead_somewhere(path):
    links = [link for text in texts(path) for link in re.findall(r"\]\(([\w.]+\.ipynb)\)", text)]
    assert not [link for link in links if not (FOLDER / link).exists()]
