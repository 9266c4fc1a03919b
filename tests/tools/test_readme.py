"""README.md and docs/ show what the commands print, and name every command and exit code."""

from pathlib import Path

import pytest

from medusa_bench.base.errors import ExitCode
from medusa_bench.cli import COMMANDS
from tools import readme

COMMANDS_PAGE = readme.ROOT / "docs" / "commands.md"


@pytest.mark.parametrize("document", readme.DOCUMENTS, ids=lambda path: path.stem)
def test_every_output_shown_is_what_the_command_prints(document: Path) -> None:
    text = document.read_text()
    assert readme.render(text) == text


def test_readme_is_short_and_shows_the_answer_for_one_card() -> None:
    text = (readme.ROOT / "README.md").read_text()
    assert len(text.split()) < 1800
    assert any(" compare --gpu " in line for line in readme.commands(text))


def test_every_command_is_named() -> None:
    text = COMMANDS_PAGE.read_text()
    assert [name for name in COMMANDS if text.count(f"\n| `{name}` |") != 1] == []


def test_every_exit_code_is_documented_with_its_meaning() -> None:
    text = COMMANDS_PAGE.read_text()
    assert [code for code in ExitCode if f"| {code.value} | {code.meaning} |" not in text] == []
