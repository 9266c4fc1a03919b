"""What reaches a terminal, a spreadsheet or a page does nothing there."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_bench.base.exits import csv_cell, markdown_cell, printable


@given(st.text())
def test_nothing_printed_controls_a_terminal(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert all(each.isprintable() or each == "\n" for each in shown)


def test_a_title_sequence_is_shown_and_not_obeyed() -> None:
    assert printable("\x1b]0;owned\x07a") == "?]0;owned?a"
    assert printable("Qwen3 模型 é") == "Qwen3 模型 é"


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "+1", "-1", "@x", "\tx", "\rx"])
def test_a_spreadsheet_runs_no_cell(text: str) -> None:
    lines = io.StringIO()
    csv.writer(lines).writerow([csv_cell(text)])
    (cell,) = next(csv.reader(io.StringIO(lines.getvalue())))
    assert cell == "'" + printable(text)


@pytest.mark.parametrize("value", [-1, -1.5, None, "a40", ""])
def test_numbers_and_plain_names_are_left_alone(value: object) -> None:
    assert csv_cell(value) is value


def test_a_markdown_cell_is_text() -> None:
    cell = markdown_cell("<script>a</script> [b](javascript:c) `d` | e\nf")
    assert "<" not in cell
    assert "\\[b\\]" in cell
    assert "\n" not in cell
    assert cell.count("|") == cell.count("\\|") == 1
