"""Numbers of documents and of the command line: in range, or refused."""

from collections.abc import Iterator

import click
import pytest

from medusa_bench import cli
from medusa_bench.base import ranges
from medusa_bench.cli.options import Number, Whole

NONSENSE = [float("nan"), float("inf"), -float("inf"), -1.0, 5e-324, 1e308, True, "nan", "1", None]


@pytest.mark.parametrize("value", [*NONSENSE, 10**5000], ids=lambda _: "number")
def test_a_latency_that_is_none_is_refused_in_a_short_sentence(value: object) -> None:
    with pytest.raises(ValueError, match="is not a latency") as refused:
        ranges.LATENCY_S.of(value)
    assert len(str(refused.value)) < 120


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "", "true", None, "1e400"])
def test_a_share_written_as_text_is_checked_alike(text: str | None) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        ranges.SHARE.of_text(text)
    assert ranges.SHARE.of_text("0.5") == 0.5


def test_a_table_of_numbers_is_checked_number_by_number() -> None:
    assert ranges.SHARE.all_of([[0, 1], [0.5, 0.25]]).tolist() == [[0.0, 1.0], [0.5, 0.25]]
    for wrong in ([[0.5], [True]], [[0.5], [0.5, 0.5]], [["nan"]], "0.5", {"0": 1}):
        with pytest.raises(ValueError):
            ranges.SHARE.all_of(wrong)


def _options(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found
            yield from _options(found)


def test_every_numeric_option_has_both_ends_and_refuses_what_is_no_number() -> None:
    numeric = [
        option.type
        for option in _options(cli.group)
        if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)
    ]
    assert len(numeric) > 20
    for kind in numeric:
        assert isinstance(kind, Whole | Number)
        for text in ("nan", "inf", "-inf", "1e999", "9" * 400):
            with pytest.raises(click.BadParameter):
                kind.convert(text, None, None)
