"""The pages: every link leads somewhere, and every command on them is one that the command line takes."""

import ast
import re
import shlex
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from scalearn_jax import config as configs
from scalearn_jax import methods
from scalearn_jax.cli import flags
from scalearn_jax.cli.commands import SCALEARN, Group
from scalearn_jax.errors import InputError
from tests.conftest import ROOT

FOLDERS = ("scalearn_jax", "experiments", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
COMMAND = re.compile(r"(?<![\w./-])(?:\.venv/bin/)?scalearn ([a-z][^\"|;&]*(?:\"[^\"]*\"[^\"|;&]*)*)")

each = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text()))


def blocks(page: Path, *languages: str) -> list[str]:
    """What stands between the fences of a page, with lines joined that end in a backslash."""
    found = [text for _, language, text in FENCE.findall(page.read_text()) if language in languages]
    return [re.sub(r"\\\n\s*", " ", text) for text in found]


def anchors(page: Path) -> set[str]:
    """The names by which the headings of a page can be linked."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[str]:
    """What follows the word scalearn: in blocks, where other programs may start it."""
    for block in blocks(page, "bash"):
        for line in block.splitlines():
            yield from (match.strip() for match in COMMAND.findall(line))
    for block in blocks(page, ""):
        yield from re.findall(r"^\$ scalearn (.+)$", block, re.MULTILINE)


def mentions(page: Path) -> list[str]:
    """What follows the word scalearn in code within a line; more may be needed to run it."""
    spans = re.findall(r"`scalearn ([a-z][^`\n]*)`", FENCE.sub("", page.read_text()))
    return [re.sub(r" \.\.\.|[][]", "", span) for span in spans]


def parse(line: str) -> configs.checks.Config:
    """Reads a command as the command line does, without running it."""
    command, argv, said = SCALEARN, shlex.split(line, comments=True), ["scalearn"]
    while isinstance(command, Group):
        name, *argv = argv or [""]
        if not name:
            raise InputError(f"missing {command.kind}")
        if name not in command.commands:
            raise InputError(f"unknown {command.kind} {name!r}")
        command, said = command.commands[name], [*said, name]
    return flags.parse(getattr(configs, command.config), argv, prog=" ".join(said), positional=command.positional)


@each
def test_its_links_lead_to_files_and_headings_that_are_there(page):
    lost = []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists() or anchor and anchor not in anchors(target):
            lost.append(link)
    assert lost == []


@each
def test_its_commands_are_understood(page):
    for line in commands(page):
        config = parse(line)
        if hasattr(config, "method"):
            (methods.get_joint if hasattr(config, "tasks") else methods.get)(config.method)


@each
def test_the_flags_that_it_mentions_exist(page):
    for line in mentions(page):
        try:
            parse(line)
        except InputError as error:
            assert "got nothing. " in str(error) or str(error).startswith("missing"), f"{line}: {error}"


@each
def test_files_of_the_repository_that_it_names_are_there(page):
    """Those named from the root, in commands or in code within a line."""
    names = re.findall(r"(?<![\w./-])(?:scalearn_jax|experiments|tests|\.ci)/[\w./+-]*[\w/]", page.read_text())
    assert [name for name in names if not (ROOT / name).exists()] == []


@each
def test_modules_and_extras_that_it_names_are_there(page):
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for block in blocks(page, "bash"):
        modules = [name.replace(".", "/") for name in re.findall(r"python -m (experiments[\w.]*)", block)]
        assert [name for name in modules if not (ROOT / name).is_dir() and not (ROOT / f"{name}.py").exists()] == []
        extras = {name for group in re.findall(r"\.\[([\w,]+)\]", block) for name in group.split(",")}
        assert extras <= {*setup["options.extras_require"]}
    for block in blocks(page, "py", "python"):
        ast.parse(block)


def test_links_and_commands_are_found_at_all():
    """So that a change of form does not empty the tests above."""
    links = [link for page in PAGES for link in LINK.findall(prose(page)) if "://" not in link]
    found = {page.name: len(list(commands(page))) for page in PAGES if page.parent.name == "guides"}
    assert len(links) > 60 and sum(found.values()) > 30, (len(links), found)
    assert sum(len(list(commands(page))) for page in PAGES) > 35
    assert sum(len(mentions(page)) for page in PAGES) > 40
    fenced = sum(len(re.findall(r"^[^#\n]*\bscalearn [a-z]", text, re.M)) for p in PAGES for text in blocks(p, "bash"))
    assert fenced == sum(
        len(COMMAND.findall(line)) for p in PAGES for t in blocks(p, "bash") for line in t.splitlines()
    )


@pytest.mark.parametrize("line", ["transfer --target T", "trasfer --x", "fold RUN --out F --kept 2", "list things"])
def test_a_wrong_command_is_refused(line):
    with pytest.raises(InputError):
        parse(line)


def test_every_guide_is_linked_from_the_readme_and_the_gallery():
    guides = {path.name for path in (ROOT / "experiments/guides").glob("*.md")}
    for page in (ROOT / "README.md", ROOT / "experiments/README.md"):
        assert guides <= {Path(link.partition("#")[0]).name for link in LINK.findall(prose(page))}


def test_the_citation_is_of_this_version_and_of_the_paper_that_the_readme_cites():
    import scalearn_jax

    cited = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert cited["version"] == scalearn_jax.__version__ and cited["license"] == "Apache-2.0"
    paper = cited["preferred-citation"]
    entry = (ROOT / "README.md").read_text().split("```bibtex")[1].split("```")[0].replace("{ScaLearn}", "ScaLearn")
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert paper["title"] in entry and authors in entry and paper["url"].rsplit("/", 1)[-1] in entry


def test_the_commands_that_the_quickstart_runs_and_names_are_understood():
    text = (ROOT / "experiments/quickstart.sh").read_text().replace('"$@"', "")
    lines = re.findall(r"\.venv/bin/scalearn ([^\n>]*?)(?: {2,}[^\n]*| >[^\n]*)?$", text, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["run", "explain", "predict", "fold"]
    for line in lines:
        parse(re.sub(r"\$\w+", "x", line))
