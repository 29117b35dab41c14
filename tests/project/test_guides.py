"""The guides: whoever cites a heading of experiments/guides/method.md cites one that is there."""

import re
import shlex
import types
from pathlib import Path

import pandas as pd
import pytest

import scalearn_jax as sj
from scalearn_jax import cli
from scalearn_jax.cli.commands import COMMANDS
from tests.project.test_pages import blocks
from tests.support import flag_reference, tiny_backbone

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "experiments" / "guides" / "method.md"
HEADINGS = re.findall(r"^#+ (.+)$", GUIDE.read_text(), re.MULTILINE)
FILES = [
    path
    for folder in ("scalearn_jax", "tests", "experiments")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".yaml", ".sh", ".ipynb") and path not in (GUIDE, Path(__file__).resolve())
]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
CITATION = re.compile(r'method\.md,\s+"([^"]*)"')
PYTHON = (GUIDE.parent / "python.md").read_text()
WORDS = {"good": "positive", "bad": "negative"}
CITATIONS = sorted({(name, heading) for name, text in TEXTS.items() for heading in CITATION.findall(text)})


@pytest.mark.parametrize("name, heading", CITATIONS)
def test_cited_heading_exists(name, heading):
    assert " ".join(heading.split()) in HEADINGS, f"{name} cites {heading!r}; {GUIDE.name} has {', '.join(HEADINGS)}"


def test_every_mention_of_the_guide_names_a_heading():
    mentions = {name: text.count("method.md") for name, text in TEXTS.items() if name.endswith(".py")}
    cited = {name: len(CITATION.findall(TEXTS[name])) for name in mentions}
    assert CITATIONS and mentions == cited


def test_headings_are_unique():
    assert len(set(HEADINGS)) == len(HEADINGS)


def test_nothing_cites_a_document_that_is_not_here():
    assert [name for name, text in TEXTS.items() if re.search(r"\bSEMANTICS\b", text)] == []


def test_the_guide_to_the_command_line_lists_the_flags_as_help_does():
    guide = (GUIDE.parent / "command_line.md").read_text()
    listed = guide.split(flag_reference.BEGIN)[1].split(flag_reference.END)[0]
    assert listed == flag_reference.reference(), "run `python -m tests.support.flag_reference`"
    assert {line.split()[1] for line in listed.splitlines() if line.startswith("###")} == COMMANDS.keys() - {"plan"}


@pytest.mark.slow
def test_the_commands_for_your_own_data_run(tmp_path, monkeypatch):
    """All blocks of the page, in the order in which they stand."""
    monkeypatch.chdir(tmp_path)
    tiny_backbone.write(tmp_path / "MODEL", num_hidden_layers=1, max_position_embeddings=160)
    described = re.search(r"```yaml\n(.*?)hub:", (GUIDE.parent / "own_data.md").read_text(), re.DOTALL)[1]
    rows = [(f"visit {i}", f"{word} place", label) for i in range(20) for word, label in WORDS.items()]
    for task in ("reviews", "topics", "tickets"):
        folder = tmp_path / "data/my" / task
        folder.mkdir(parents=True)
        (folder / "task.yaml").write_text(described.replace("my/reviews", f"my/{task}"))
        for name in ("train.csv", "validation.csv"):
            pd.DataFrame(rows, columns=["title", "body", "label"]).to_csv(folder / name, index=False)
    pd.DataFrame(rows[:3], columns=["title", "body", "label"]).to_csv("new.csv", index=False)
    lines = [line for block in blocks(GUIDE.parent / "own_data.md", "bash") for line in block.splitlines()]
    assert len(lines) == 9
    for line in lines:
        word, *argv = shlex.split(line)
        trains = argv[0] in ("train-adapter", "transfer") and "solve" not in argv
        short = ["--max-steps", "2", "--eval-every", "2"] if trains else []
        assert word == "scalearn" and cli.main([*argv, *short]) == 0, line
    answers = pd.read_csv("labels.csv")
    assert len(answers) == 3 and {"title", "body", "input_label", "label"} <= {*answers.columns}


@pytest.mark.slow
def test_the_blocks_of_the_python_guide_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    backbone = tiny_backbone.write(tmp_path / "backbone", num_hidden_layers=1, max_position_embeddings=130)
    pieces = re.findall(r"```python\n(.*?)```", PYTHON, re.DOTALL)
    code = "\n".join(pieces).replace("sentence-transformers/all-MiniLM-L6-v2", str(backbone))
    short = "max_steps=2, eval_every=2, batch_size=4, max_train_samples=16, max_eval_samples=8"
    code = code.replace("max_steps=100, eval_every=50", short)
    assert str(backbone) in code and short in code and len(pieces) == 7
    names: dict = {"__name__": "guide"}
    exec(compile(code, "python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "Result(builtin/agreement, scalearn-uniform: accuracy" in printed
    assert re.search(r"^2 train/loss \d", printed, re.MULTILINE) and re.search(
        r"^2 dev/accuracy \d", printed, re.MULTILINE
    )
    (line,), logged = re.findall(r"`on_event=(lambda event: wandb[^`]*)`", PYTHON), []
    names["wandb"] = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)))
    for event in names["own"].events:
        eval(line, names)(event)
    assert logged[-1] == (2, sj.scalars(names["own"].events[-1])) and "dev/loss" in logged[-1][1]
    assert names["values"].shape == (2, 3) and (tmp_path / "runs/gated/run.json").exists()
