"""Numbers, times and tables as people read them."""

import io
import math
import sys

import pytest
from rich.console import Console

from medusa_bench.cli import console


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.12e14, "312 TFLOP/s"),
        (9.999e11, "1.00 TFLOP/s"),  # rounds up into the next prefix
        (9.994e11, "999 GFLOP/s"),
        (999.6, "1.00 kFLOP/s"),
        (1e3, "1.00 kFLOP/s"),
        (0, "0 FLOP/s"),
        (0.0331, "0.0331 FLOP/s"),
        (1.0, "1.00 FLOP/s"),
        (-2.5e9, "-2.50 GFLOP/s"),
        (5e18, "5000 PFLOP/s"),
    ],
)
def test_si_keeps_three_digits_and_the_right_prefix(value: float, text: str) -> None:
    assert console.si(value, "FLOP/s") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (4.12e-7, "412 ns"),
        (9.999e-7, "1.00 us"),
        (33.1e-6, "33.1 us"),
        (999.4e-6, "999 us"),
        (999.6e-6, "1.00 ms"),
        (1.24e-3, "1.24 ms"),
        (0.9996, "1.00 s"),
        (12.0, "12.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_duration_reads_well_at_every_edge(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1935, "1935"), (312.4, "312"), (0.00331, "0.00331"), (9.999, "10.0"), (math.inf, "inf")],
)
def test_significant_never_drops_the_whole_part(value: float, text: str) -> None:
    assert console.significant(value) == text


def rendered(columns: list[str], rows: list[list[str]], width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(console.table(columns, rows))
    return out.getvalue()


def test_a_column_of_numbers_is_set_to_the_right_and_text_to_the_left() -> None:
    text = rendered(["name", "value"], [["a", "1"], ["bb", "100"], ["c", "-"]])
    assert text.splitlines() == ["name  value", "a         1", "bb      100", "c         -"]


def test_cells_are_text_not_markup_and_control_characters_do_not_reach_the_terminal() -> None:
    text = rendered(["name"], [["[red]x[/red]"], ["a\x1b[31mb"]])
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    assert "a?[31mb" in text


def test_a_long_cell_is_folded_within_the_width_and_loses_nothing() -> None:
    text = rendered(["name", "value"], [["word " * 40, "1"]], width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("word") == 40


def test_no_colour_codes_go_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    console.stdout().print(console.table(["name"], [["x"]], title="Title"))
    console.warn("[bold]as it stands[/bold]")
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert captured.err == "Warning: [bold]as it stands[/bold]\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_color_is_honoured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    console.stdout().print("[red]hot[/red]")
    assert "\x1b[31m" not in terminal.getvalue()
    assert "hot" in terminal.getvalue()


def test_json_is_ascii_and_refuses_what_json_does_not_have(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.print_json({"name": "\u00e9\udcff"})
    assert capsys.readouterr().out.isascii()
    with pytest.raises(ValueError, match="JSON compliant"):
        console.print_json(float("nan"))


def test_a_wheel_turns_on_a_terminal_and_a_log_stays_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import io

    from rich.console import Console

    from medusa_bench.cli import progress

    for is_terminal in (True, False):
        said = io.StringIO()
        err = Console(file=said, force_terminal=is_terminal, width=80)
        monkeypatch.setattr(console, "stderr", lambda err=err: err)
        with progress.busy("Reading a folder"):
            pass
        assert ("Reading a folder" in said.getvalue()) == is_terminal
