"""Layouts: marks, escapes, and that LaTeX is balanced."""

import pandas as pd
import pytest

from scalearn_jax.studies.tables import Table, escape_latex, latex, mark_best, markdown

TEXTS = pd.DataFrame(
    {"my_task & co": ["1.00 ± 0.50", "-2.50"], "p": ["-", "< 0.1"]},
    index=pd.Index(["a_b", "c|d"], name="method"),
)
MARKS = pd.DataFrame({"my_task & co": ["best", "second"], "p": ["", ""]})
TABLE = Table("50 % of my_study", TEXTS, "Scores of {all} #1", group_by="method", marks=MARKS)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a_b & 5 %", r"a\_b \& 5 \%"),
        ("#{$}", r"\#\{\$\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("-1.50 ± 0.10", r"$-$1.50 $\pm$ 0.10"),
        ("few-shot 4-shot a-1 2310.01217 -", "few-shot 4-shot a-1 2310.01217 -"),
        ("-0.10 to -0.20", "$-$0.10 to $-$0.20"),
        ("a\nb", "a b"),  # a line break in a name would end a comment, or the row
    ],
)
def test_latex_escapes(text, expected):
    assert escape_latex(text) == expected


def test_latex_marks_groups_and_caption():
    lines = [line.strip() for line in latex(TABLE).splitlines()]
    assert r"a\_b & \textbf{1.00} $\pm$ 0.50 & - \\" in lines
    assert r"c\textbar{}d & \underline{$-$2.50} & \textless{} 0.1 \\" in lines
    assert lines.count(r"\midrule") == 2 and lines.count(r"\toprule") == lines.count(r"\bottomrule") == 1
    caption = r"50 \% of my\_study. Scores of \{all\} \#1; best in bold, second best underlined."
    assert rf"\caption{{{caption}}}" in lines


def test_latex_stacks_long_headings():
    table = TABLE._replace(texts=TEXTS.rename(columns={"my_task & co": "my/a_b macro_f1", "p": "k = 4"}))
    assert r"method & \shortstack[r]{my/a\_b\\macro\_f1} & k = 4 \\" in latex(table)


def test_latex_braces_and_environments_are_balanced():
    text = latex(TABLE).replace(r"\{", "").replace(r"\}", "")
    assert text.count("{") == text.count("}")
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1


def test_markdown_marks_and_escapes():
    lines = markdown(TABLE).splitlines()
    assert lines[0] == "## 50 % of my_study"
    rows = [[cell.strip() for cell in line.split(" | ")] for line in lines[4:6]]
    assert rows == [["| a_b", "**1.00** ± 0.50", "-     |"], [r"| c\|d", "_-2.50_", "< 0.1 |"]]
    assert lines[-1] == "Scores of {all} #1; best in bold, second best in italics."


@pytest.mark.parametrize(
    "scores, marks",
    [
        (["1.00"], [""]),
        (["1.00", "2.00"], ["", "best"]),
        (["1.00", "-", "2.00"], ["", "", "best"]),  # only two of them have one
        (["3.00", "1.00", "2.00"], ["best", "", "second"]),
        (["2.00 ± 1.00", "2.00 ± 3.00", "1.00", "1.00", "0.50"], ["best", "best", "second", "second", ""]),
        (["2.00", "2.00", "2.00"], ["best"] * 3),
        (["-1.00", "-3.00", "-2.00"], ["best", "", "second"]),
        (["10.00", "9.00", "9.50"], ["best", "", "second"]),  # as numbers, not as text
    ],
)
def test_best_and_second_best(scores, marks):
    assert mark_best(pd.DataFrame({"rte": scores}))["rte"].tolist() == marks
