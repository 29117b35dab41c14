"""setup.cfg names what the package imports, and nothing else."""

import ast
import configparser
import importlib.metadata
import re
import sys
from functools import cache

from tests.conftest import ROOT

OPTIONAL = {"matplotlib": "plots", "adjustText": "plots"}  # imported where its extra is installed
OTHER_USES = {"pandas": {"tabulate", "jinja2"}}  # libraries that another one imports only if they are installed


def plain(name):
    """Writes the name of a distribution in its one normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(text):
    """Names of the distributions in the lines of a requirement list."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {plain(re.match(r"[\w.-]+", line)[0]) for line in lines if line}


@cache
def imported():
    """Top-level modules outside the standard library that some file of the package imports."""
    found = set()
    for path in (ROOT / "scalearn_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - {"scalearn_jax"} - sys.stdlib_module_names


packages = cache(importlib.metadata.packages_distributions)


def distributions(module):
    """Names of the distributions that may bring a module; a namespace, such as orbax, has several."""
    return set(map(plain, packages().get(module, [module])))


SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
REQUIRED = requirements(SETUP["options"]["install_requires"])


def test_every_import_is_required():
    for module in sorted(imported()):
        extra = OPTIONAL.get(module)
        known = requirements(SETUP["options.extras_require"][extra]) if extra else REQUIRED
        assert distributions(module) & known, f"setup.cfg has no line for {module}"


def test_every_requirement_is_imported():
    used = set().union(*map(distributions, imported()))
    used |= set().union(*(others for library, others in OTHER_USES.items() if library in imported()))
    assert REQUIRED <= used, f"nothing imports {sorted(REQUIRED - used)}"


def test_both_lists_of_requirements_agree():
    tests_only = {"pytest", "jaxlib", *requirements(SETUP["options.extras_require"]["test"])}
    assert REQUIRED <= requirements((ROOT / "requirements.txt").read_text()) <= REQUIRED | tests_only
