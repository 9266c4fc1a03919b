"""The commands of `make evidence` are ones that the command line takes, on a GPU too."""

import shlex
import sys
from pathlib import Path

import click
import pytest

from medusa_bench import cli
from tools import evidence


@pytest.mark.parametrize("on_cpu", [True, False])
def test_every_command_is_one_that_is_understood(on_cpu: bool, tmp_path: Path) -> None:
    steps = list(evidence.steps(tmp_path / "a folder", on_cpu=on_cpu))
    assert len({step.name for step in steps}) == len(steps) > 7
    for folder in ("sweep", "sweep-again"):
        (tmp_path / "a folder" / folder).mkdir(parents=True)
    for step in steps:
        program, *arguments = shlex.split(step.command)
        if program != evidence.MEDUSA_BENCH:
            assert arguments[0] == "-m"
            continue
        group: click.Command | None = cli.group
        while isinstance(group, click.Group):
            name, *arguments = arguments
            group = group.get_command(click.Context(group), name)
        assert group is not None, step.command
        group.make_context(group.name, arguments)  # a usage error where it is not


def test_what_fails_is_kept_with_its_reason_and_what_is_done_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = evidence.Step("good", f"{evidence.MEDUSA_BENCH} profiles check")
    bad = evidence.Step("bad", f"{evidence.MEDUSA_BENCH} explain nowhere")
    assert [evidence.run(step, tmp_path) for step in (good, bad)] == [True, False]
    assert (tmp_path / "good.txt").read_text().startswith("$ medusa-bench profiles check\n")
    assert "exit code 1\nError: " in (tmp_path / "bad.failed").read_text()
    printed = capsys.readouterr().out
    assert "FAILED" in printed and "explain nowhere" in printed
    assert evidence.run(good, tmp_path)
    assert capsys.readouterr().out == ""


def test_a_folder_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evidence"])
    assert evidence.main() == 2
    assert "python -m tools.evidence results/" in capsys.readouterr().err
