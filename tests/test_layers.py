"""The layout: each line imports only from lines above it, so the package has no import cycles."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "scalearn_jax"

# Modules on one line know nothing of each other; files of one package may.
LAYERS = """
errors typing
files
extrapolation limits memory problems schema tables tree
config caches out_of_memory progress published signals
folders losses checkpoint software
checkpoints
convert.snapshot
convert.files convert.pickle_machine convert.safetensors_io convert.torch_pickle
data
metrics
models
combiners similarity
model methods
convert
run_info provenance
runs results
portable card_data
adapter_folder answers card checks foreign_head leaks mixed queries train
soup
prepare
served exchange
programs
predictor
inference
attribution features identity outcomes rates records together
fold_report folding
training
outputs
pipeline
plan score_tables significance estimate
comparison figures workload
forecast
fetch_record
report explain fold listing offline outlook publish study_checks suggest doctor
preview
study flags exits
commands
cli
__main__
""".strip().splitlines()
LAYER = {name: number for number, line in enumerate(LAYERS) for name in line.split()}
HEAVY = {
    "transformers",
    "datasets",
    "orbax",
    "matplotlib",
    "tyro",
    "sklearn",
    "scipy",
    "rich",
    "huggingface_hub",
    "torch",
}


def modules():
    """Dotted name below the package -> syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            yield name, ast.parse(path.read_text())


TREES = dict(modules())


def layer(name):
    """Number of a module's line; a package's file may have a line of its own."""
    while name not in LAYER and "." in name:
        name = name.rpartition(".")[0]
    assert name in LAYER, f"{name} has no place in the layout; add it to LAYERS"
    return LAYER[name]


def imported(nodes):
    """Modules of the package that syntax nodes import."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "scalearn_jax":
            base = node.module.removeprefix("scalearn_jax").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                target = inner if inner in TREES else base
                if target:
                    yield target
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("scalearn_jax.") for a in node.names if a.name.startswith("scalearn_jax."))


@pytest.mark.parametrize("name", TREES)
def test_module_imports_only_from_layers_above(name):
    for other in imported(ast.walk(TREES[name])):  # also inside functions
        same_package = other.split(".")[0] == name.split(".")[0]
        assert layer(other) < layer(name) or same_package, f"{name} imports {other}, which stands below or beside it"


def test_no_import_cycles():
    edges = {name: set(imported(tree.body)) - {name} for name, tree in TREES.items()}
    while edges:
        free = {name for name, others in edges.items() if not others & set(edges)}
        assert free, f"import cycle among {sorted(edges)}"
        edges = {name: others for name, others in edges.items() if name not in free}


@pytest.mark.parametrize("name", TREES)
def test_heavy_libraries_are_imported_inside_functions(name):
    for node in TREES[name].body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        heavy = HEAVY & {name.split(".")[0] for name in names}
        assert not heavy, f"{name} imports {heavy} at its top"


@pytest.mark.parametrize("name", TREES)
def test_modules_and_public_functions_say_what_they_do(name):
    assert ast.get_docstring(TREES[name]) or not TREES[name].body, f"{name} has no docstring"
    for node in TREES[name].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"
