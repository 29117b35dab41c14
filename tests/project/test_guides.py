"""The guides: whoever cites a heading of experiments/guides/method.md cites one that is there."""

import re
from pathlib import Path

import pytest

from tests.support import tiny_backbone

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


@pytest.mark.slow
def test_the_blocks_of_the_python_guide_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    backbone = tiny_backbone.write(tmp_path / "backbone", num_hidden_layers=1, max_position_embeddings=130)
    blocks = re.findall(r"```python\n(.*?)```", (GUIDE.parent / "python.md").read_text(), re.DOTALL)
    code = "\n".join(blocks).replace("sentence-transformers/all-MiniLM-L6-v2", str(backbone))
    short = "max_steps=2, eval_every=2, batch_size=4, max_train_samples=16, max_eval_samples=8"
    code = code.replace("max_steps=100, eval_every=50", short)
    assert str(backbone) in code and short in code and len(blocks) == 7
    names: dict = {"__name__": "guide"}
    exec(compile(code, "python.md", "exec"), names)
    assert "Result(builtin/agreement, scalearn-uniform: accuracy" in capsys.readouterr().out
    assert names["values"].shape == (2, 3) and (tmp_path / "runs/gated/run.json").exists()
