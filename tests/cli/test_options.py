"""How lists, ranges and words are written on the command line."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_bench.base.errors import UnknownNameError
from medusa_bench.cli import options


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", (1,)),
        ("16,1,4,4", (1, 4, 16)),
        ("1..64", (1, 2, 4, 8, 16, 32, 64)),
        ("128..8192", (128, 256, 512, 1024, 2048, 4096, 8192)),
        ("3..20", (3, 6, 12, 20)),
        ("1..64:+16", (1, 17, 33, 49, 64)),
        ("1, 16..48:+16", (1, 16, 32, 48)),
        ("5..5", (5,)),
    ],
)
def test_lists_doubling_ranges_and_steps(text: str, values: tuple[int, ...]) -> None:
    assert options.parse_counts(text) == values


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "1.5", "a", "1e3", "1,,2", "9" * 5000, "\u0661", "1..\u0662"],
)
def test_what_is_no_count_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="neither a whole number nor a range"):
        options.parse_counts(text)


@pytest.mark.parametrize(
    "text",
    ["8..4", "0..4", "1..64:+0", "1..99999999", "1..9999999:+1", "1..64:8", "1..2..3"],
)
def test_a_range_that_leads_nowhere_or_too_far_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither|leaves|step|more than"):
        options.parse_counts(text)


@given(st.text(max_size=40))
def test_any_text_gives_counts_or_a_value_error(text: str) -> None:
    try:
        values = options.parse_counts(text)
    except ValueError:
        return
    assert values == tuple(sorted(set(values)))
    assert min(values) >= 1


def test_words_keep_their_order_and_lose_repeats() -> None:
    assert options.OPERATORS.convert("qk, q,QK", None, None) == ("qk", "q")
    assert options.PHASES.convert("medusa,decode", None, None) == ("medusa", "decode")


def test_an_unknown_word_is_an_error_with_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="No phase named 'decoding'") as caught:
        options.PHASES.convert("decoding", None, None)
    assert "decode" in str(caught.value.hint)


@pytest.mark.parametrize("kind", [options.OPERATORS, options.PHASES, options.MODELS])
def test_a_list_of_nothing_is_a_usage_error(kind: "click.ParamType[tuple[str, ...]]") -> None:
    with pytest.raises(click.UsageError, match="names no"):
        kind.convert(" , ", None, None)


def test_models_may_be_paths() -> None:
    assert options.MODELS.convert("llama-7b, a/config.json", None, None) == (
        "llama-7b",
        "a/config.json",
    )
