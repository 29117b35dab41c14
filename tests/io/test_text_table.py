"""Plain tables: columns that begin at one place in every line."""

from scalearn_jax.io.text_table import plain


def test_columns_are_aligned_and_no_line_ends_in_spaces():
    rows = [["glue/rte", "", "1"], ["b", "a long one", "20"]]
    lines = plain(["task", "kind", "n"], rows).splitlines()
    assert lines[1].split("  ") == ["-" * 8, "-" * 10, "-" * 2] and not any(line.endswith(" ") for line in lines)
    starts = [0, 10, 22]
    for line, row in zip([lines[0], *lines[2:]], [["task", "kind", "n"], *rows], strict=True):
        assert [line[at:].split("  ")[0] for at in starts] == row
