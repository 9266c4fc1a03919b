"""README.md shows what the commands print, and names every command and exit code."""

from medusa_bench.base.errors import ExitCode
from medusa_bench.cli import COMMANDS
from tools import readme


def test_every_output_shown_is_what_the_command_prints() -> None:
    text = readme.README.read_text()
    assert len(readme.commands(text)) >= 3
    assert readme.render(text) == text


def test_every_command_is_named() -> None:
    text = readme.README.read_text()
    assert [name for name in COMMANDS if text.count(f"\n| `{name}` |") != 1] == []


def test_every_exit_code_is_documented_with_its_meaning() -> None:
    text = readme.README.read_text()
    assert [code for code in ExitCode if f"| {code.value} | {code.meaning} |" not in text] == []
