"""The house: a group imports only from groups to its left, and none of its neighbours."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "scalearn_jax"

ORDER = """
typing errors metrics | tree losses methods | io | config models | data combiners | model | train | runs |
stages sharing | studies | cli
"""
RANK = {name: rank for rank, group in enumerate(ORDER.split("|")) for name in group.split()}
ROOT_FILES = {"__init__", "typing", "errors", "tree", "losses", "metrics", "methods", "model"}
# These hand names on, so they hold more than a docstring.
DOORS = {"", "combiners", "config", "runs", "runs.adapterhub", "cli", "data.builtin"}
HEAVY = {
    "transformers",
    "datasets",
    "orbax",
    "matplotlib",
    "tyro",
    "sklearn",
    "scipy",
    "pandas",
    "rich",
    "huggingface_hub",
    "torch",
}


def modules():
    """Dotted name below the package -> syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ast.parse(path.read_text())


TREES = dict(modules())


def imported(nodes):
    """Modules of the package that syntax nodes import."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "scalearn_jax":
            base = node.module.removeprefix("scalearn_jax").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                yield inner if inner in TREES else base
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("scalearn_jax.") for a in node.names if a.name.startswith("scalearn_jax."))


def at_import(tree):
    """The statements that run when a module is imported: all but the bodies of functions."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


EDGES = {name: set(imported(at_import(tree))) - {name, ""} for name, tree in TREES.items()}


@pytest.mark.parametrize("name", [name for name in TREES if name])
def test_a_group_imports_only_from_groups_to_its_left(name):
    group = name.split(".")[0]
    for other in imported(ast.walk(TREES[name])):  # also inside functions
        theirs = other.split(".")[0]
        assert not theirs or theirs == group or RANK[theirs] < RANK[group], f"{name} imports {other}"


def test_no_circle_and_no_chain_of_more_than_twenty_files():
    depth, waiting = {}, dict(EDGES)
    while waiting:
        free = [name for name, others in waiting.items() if not others & waiting.keys()]
        assert free, f"these files import each other in a circle: {sorted(waiting)}"
        for name in free:
            depth[name] = 1 + max((depth[other] for other in waiting.pop(name)), default=0)
    deepest = max(depth, key=depth.get)
    assert depth[deepest] <= 20, f"a chain of {depth[deepest]} imports ends in {deepest}"


def test_the_root_holds_eight_files_and_the_named_packages():
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_FILES
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == RANK.keys() - ROOT_FILES


@pytest.mark.parametrize("name", [n for n in TREES if (PACKAGE / n.replace(".", "/") / "__init__.py").exists()])
def test_an_init_file_is_one_docstring_but_for_the_doors(name):
    assert ast.get_docstring(TREES[name]), f"{name} has no docstring"
    assert name in DOORS or len(TREES[name].body) == 1


@pytest.mark.parametrize("name", TREES)
def test_heavy_libraries_are_imported_inside_functions(name):
    for node in TREES[name].body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        heavy = HEAVY & {name.split(".")[0] for name in names}
        assert not heavy, f"{name} imports {heavy} at its top"


@pytest.mark.parametrize("name", TREES)
def test_modules_and_public_functions_say_what_they_do(name):
    assert ast.get_docstring(TREES[name]), f"{name} has no docstring"
    for node in TREES[name].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"
