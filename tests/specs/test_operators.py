"""The operator table: the paper's closed forms, its numbers by hand, and laws."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_bench.base.errors import UnknownNameError
from medusa_bench.cli import run
from medusa_bench.specs import paper_grid
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.models import PRESETS
from medusa_bench.specs.operators import (
    BY_NAME,
    OPERATORS,
    OUTSIDE_THE_BLOCK,
    Family,
    Operator,
    dimensions,
    distinct_experts,
    find,
    heads_weight_share,
    of_model,
    points,
    symbols,
)
from medusa_bench.specs.products import Product
from medusa_bench.specs.settings import Phase, Setting, settings
from medusa_bench.specs.shapes import ModelShape

LLAMA_33B = PRESETS["llama-33b"]
MISTRAL = PRESETS["mistral-7b"]
FLOAT16 = Dtype.FLOAT16

sizes = st.integers(1, 512)
paper_shapes = st.sampled_from([PRESETS[name] for name in paper_grid.PAPER_MODELS])
any_shapes = st.sampled_from(list(PRESETS.values()))
# Of experts, tokens touch fewer than each for itself, in whole numbers: their laws stand below.
no_experts = st.sampled_from([shape for shape in PRESETS.values() if not shape.experts])
any_settings = st.builds(
    lambda phase, b, s, q: Setting(phase, b, s, q if phase is Phase.MEDUSA else 1),
    st.sampled_from(Phase),
    sizes,
    sizes,
    sizes,
)


def standing(shape: ModelShape) -> list[Operator]:
    """The operators that a model has."""
    return [operator for operator in BY_NAME.values() if operator.num_layers(shape)]


def product(name: str, shape: ModelShape, setting: Setting) -> Product:
    return find(name).product(shape, setting)


@given(paper_shapes, any_settings)
def test_linear_intensity_is_the_closed_form_of_the_paper(
    shape: ModelShape, setting: Setting
) -> None:
    b, q = setting.batch_size, setting.query_len
    h, i = shape.hidden_size, shape.intermediate_size
    closed = b * q * h * i / (b * q * (h + i) + h * i)
    for name in ("up", "gate", "down"):
        assert product(name, shape, setting).operational_intensity(FLOAT16) == pytest.approx(closed)
    closed = b * q * h * h / (2 * b * q * h + h * h)
    for name in ("q", "k", "v", "o"):
        assert product(name, shape, setting).operational_intensity(FLOAT16) == pytest.approx(closed)


@given(paper_shapes, any_settings)
def test_attention_intensity_is_the_closed_form_of_the_paper(
    shape: ModelShape, setting: Setting
) -> None:
    s, q, d = setting.seq_len, setting.query_len, shape.head_dim
    closed = s * q * d / (s * q + (s + q) * d)
    for name in ("qk", "pv"):
        assert product(name, shape, setting).operational_intensity(FLOAT16) == pytest.approx(closed)


@pytest.mark.parametrize(
    ("name", "setting", "flops", "elements"),
    [
        # By hand, h 6656, i 17920, n 52, d 128.
        (
            "up",
            Setting(Phase.MEDUSA, 2, 1024, 64),
            2 * 2 * 64 * 6656 * 17920,
            2 * 64 * 6656 + 6656 * 17920 + 2 * 64 * 17920,
        ),
        (
            "qk",
            Setting(Phase.MEDUSA, 2, 1024, 64),
            2 * 2 * 52 * 64 * 128 * 1024,
            2 * 52 * (64 * 128 + 1024 * 128 + 64 * 1024),
        ),
        ("q", Setting(Phase.DECODE, 4, 512), 2 * 4 * 6656**2, 2 * 4 * 6656 + 6656**2),
        (
            "pv",
            Setting(Phase.PREFILL, 1, 256),
            2 * 52 * 256 * 256 * 128,
            52 * (256 * 256 + 2 * 256 * 128),
        ),
        ("lm_head", Setting(Phase.DECODE, 1, 1), 2 * 6656 * 32000, 6656 + 6656 * 32000 + 32000),
        (
            "medusa_head",
            Setting(Phase.DECODE, 3, 1),
            5 * 2 * 3 * 6656 * 32000,
            5 * (3 * 6656 + 6656 * 32000 + 3 * 32000),
        ),
    ],
)
def test_flops_and_bytes_equal_those_written_out_by_hand(
    name: str, setting: Setting, flops: int, elements: int
) -> None:
    made = product(name, LLAMA_33B, setting)
    assert made.flops == flops
    assert made.bytes_moved(FLOAT16) == 2 * elements
    assert made.bytes_moved(Dtype.FLOAT32) == 4 * elements


@given(any_shapes, sizes, sizes)
def test_decode_is_medusa_with_one_candidate(shape: ModelShape, b: int, s: int) -> None:
    for operator in standing(shape):
        assert operator.product(shape, Setting(Phase.DECODE, b, s)) == operator.product(
            shape, Setting(Phase.MEDUSA, b, s, 1)
        )


@given(any_shapes, sizes, sizes)
def test_prefill_is_medusa_with_as_many_candidates_as_tokens(
    shape: ModelShape, b: int, s: int
) -> None:
    for operator in standing(shape):
        assert operator.product(shape, Setting(Phase.PREFILL, b, s)) == operator.product(
            shape, Setting(Phase.MEDUSA, b, s, s)
        )


@given(no_experts, any_settings, st.integers(2, 8))
def test_flops_are_linear_in_batch_size(shape: ModelShape, setting: Setting, times: int) -> None:
    larger = Setting(
        setting.phase, times * setting.batch_size, setting.seq_len, setting.num_candidates
    )
    for operator in standing(shape):
        one, many = operator.product(shape, setting), operator.product(shape, larger)
        assert many.flops == times * one.flops
        if operator.reads_cache:
            assert many.num_elements == times * one.num_elements
        else:  # the weights are read once, however many sequences
            assert many.num_elements < times * one.num_elements


@given(any_shapes, any_settings)
def test_up_gate_and_down_have_equal_flops_and_bytes_and_so_have_qk_and_pv(
    shape: ModelShape, setting: Setting
) -> None:
    made = {op.name: op.product(shape, setting) for op in OPERATORS}
    assert made["up"] == made["gate"]
    assert made["up"].flops == made["down"].flops
    assert made["up"].num_elements == made["down"].num_elements
    assert made["qk"].flops == made["pv"].flops
    assert made["qk"].num_elements == made["pv"].num_elements


@given(any_settings)
def test_grouped_keys_and_values_are_counted_once_and_all_query_heads_do_their_work(
    setting: Setting,
) -> None:
    b, s, q = setting.batch_size, setting.seq_len, setting.query_len
    made = product("qk", MISTRAL, setting)
    assert made.flops == 2 * b * 32 * q * s * 128
    assert made.num_elements == b * (32 * q * 128 + 8 * s * 128 + 32 * q * s)
    assert product("k", MISTRAL, setting).flops * 4 == product("q", MISTRAL, setting).flops


@given(any_shapes, any_settings)
def test_every_product_contracts_and_returns_what_its_row_says(
    shape: ModelShape, setting: Setting
) -> None:
    size = dimensions(shape, setting)
    for operator in standing(shape):
        made = operator.product(shape, setting)
        out = 1
        for symbol in operator.out.split():
            out *= size[symbol]
        assert made.batch * made.m * made.n == out
        lhs, rhs, kept = (set(side.split()) for side in (operator.lhs, operator.rhs, operator.out))
        contracted = lhs & rhs - kept  # nothing, where a state is written
        assert made.k == math.prod(size[symbol] for symbol in contracted)


def test_a_linear_operator_in_decode_does_not_depend_on_seq_len() -> None:
    for name in ("q", "k", "v", "up", "gate", "down"):
        made = {product(name, LLAMA_33B, Setting(Phase.DECODE, 4, s)) for s in (128, 1024, 8192)}
        assert len(made) == 1


def test_the_papers_grid_is_11760_logical_points_and_2835_distinct_products() -> None:
    logical = points(
        [PRESETS[name] for name in paper_grid.PAPER_MODELS], OPERATORS, settings(), [FLOAT16]
    )
    assert len(logical) == 11760
    assert len({point.product for point in logical}) == 2835


@pytest.mark.parametrize(
    ("name", "share"), [("llama-7b", 0.112), ("llama-13b", 0.074), ("llama-33b", 0.040)]
)
def test_five_medusa_heads_add_the_published_share_of_weight_traffic(
    name: str, share: float
) -> None:
    assert heads_weight_share(PRESETS[name]) == pytest.approx(share, abs=0.0005)


def test_the_paper_lists_eight_operators_and_four_stand_outside() -> None:
    assert [op.name for op in OPERATORS] == "q k v qk pv up gate down".split()
    assert [op.name for op in OUTSIDE_THE_BLOCK] == "o lm_head medusa_block medusa_head".split()


def test_an_unknown_operator_is_an_error_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="No operator named 'qkt'") as caught:
        find("qkt")
    assert "qk" in str(caught.value.hint)


def test_the_command_prints_the_table_in_symbols(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["operators"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert "pv PV (b, n, q, s) x (b, n_kv, s, d) -> (b, n, q, d) corrected*".split() in lines
    assert "lm_head XW_LM (b, q, h) x (h, v) -> (b, q, v) outside".split() in lines
    assert "n, n_kv query heads, key/value heads".split() in lines


def test_the_command_prints_a_phase_with_its_own_query_tokens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["operators", "--phase", "decode", "--operator", "pv"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "PV (b, n, 1, s) x (b, n_kv, s, d) -> (b, n, 1, d)" in out


def test_the_command_prints_numbers_for_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("operators -m llama-33b -b 1 -s 1024 -q 64 --phase medusa".split()) == 0
    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines()]
    assert "up 1x64x6656 6656x17920 15.3 GFLOP 242 MB 63.17".split() in rows
    assert "qk 1x52x64x128 1x52x1024x128 872 MFLOP 21.3 MB 40.96".split() in rows
    assert "add 4.0%" in captured.out
    assert captured.err == ""


def test_a_family_names_its_operators(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("operators --operator mlp,qk --json".split()) == 0
    rows = json.loads(capsys.readouterr().out)["operators"]
    assert [row["operator"] for row in rows] == ["up", "gate", "down", "qk"]


def test_json_gives_every_row_with_flops_bytes_and_intensity(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("operators -m llama-7b,mistral-7b -b 1,4 -s 512 -q 16,64 --json".split()) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2 * 13 * (2 + 2 + 4)
    for row in rows:
        assert row["operational_intensity"] == row["flops"] / row["bytes_moved"]
    row = next(
        row for row in rows if row["model"] == "mistral-7b" and row["operator"] == "qk_window"
    )
    assert row["rhs"] == [1, 8, 512, 128]


def test_what_a_model_has_beyond_the_table_is_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    noted = Path(__file__).parents[1] / "fixtures/sees-images"
    assert run(["operators", "-m", str(noted)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "Warning: sees-images: the vision model is left out" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--operator softmax", 1, "No operator named 'softmax'"),
        ("--model nothing", 1, "No model named 'nothing'"),
        ("--phase decoding", 1, "No phase named 'decoding'"),
        ("-b 0", 2, "neither a whole number nor a range"),
    ],
)
def test_a_wrong_word_is_refused_with_a_hint(
    arguments: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["operators", *arguments.split()]) == code
    assert message in capsys.readouterr().err


# modern.md's worked examples: the weights that a verification of q tokens reads, over one's.
@pytest.mark.parametrize(
    ("model", "batch_size", "ratios"),
    [
        ("mixtral-8x7b", 1, {2: 1.66, 4: 2.53, 8: 3.30, 16: 3.62, 64: 3.65}),
        ("mixtral-8x7b", 8, {2: 1.10, 4: 1.11, 8: 1.11}),
        ("qwen3-30b-a3b", 1, {2: 1.56, 4: 2.57, 8: 4.25, 16: 6.54, 64: 9.78}),
        ("qwen3-30b-a3b", 8, {2: 1.54, 4: 2.05, 8: 2.30}),
        ("qwen3-30b-a3b", 64, {2: 1.02, 8: 1.02}),
        ("gpt-oss-120b", 1, {2: 1.68, 4: 2.97, 8: 5.31, 16: 9.20, 64: 19.7}),
        ("gpt-oss-120b", 64, {2: 1.13, 8: 1.15}),
        ("deepseek-v3", 1, {2: 1.54, 4: 2.57, 8: 4.45, 16: 7.55, 64: 16.0}),
        ("deepseek-v3", 8, {2: 1.70, 4: 2.66, 8: 3.59}),
        ("kimi-k2", 1, {2: 1.65, 4: 2.92, 8: 5.30, 16: 9.49, 64: 24.0}),
        ("kimi-k2", 64, {2: 1.26, 8: 1.35}),
    ],
)
def test_a_verification_reads_the_experts_that_its_tokens_touch(
    model: str, batch_size: int, ratios: Mapping[int, float]
) -> None:
    shape = PRESETS[model]

    def weights_read(query_len: int) -> float:
        size = symbols(shape, batch_size, 1, query_len)
        found = float(find("lm_head").num_weights(shape))
        for operator, count in of_model(shape):
            if not operator.reads_cache:
                batch, _, n, k = operator.sizes(size)
                found += count * batch * n * k
        return found

    for query_len, ratio in ratios.items():
        digits = 1 if ratio > 10 else 2
        assert round(weights_read(query_len) / weights_read(1), digits) == pytest.approx(
            ratio, abs=1.01 * 10**-digits
        )


@pytest.mark.parametrize(
    ("model", "touched"),
    [
        ("mixtral-8x7b", (2.0, 3.5, 5.5, 7.2, 7.9)),
        ("qwen3-30b-a3b", (8.0, 15.5, 29.1, 51.6, 82.4, 111.8, 125.9)),
        ("gpt-oss-120b", (4.0, 7.9, 15.3, 28.7, 51.0, 81.7, 111.2, 125.8)),
        ("deepseek-v3", (8.0, 15.8, 30.5, 57.4, 102.0, 163.3, 222.4, 251.6)),
        ("kimi-k2", (8.0, 15.8, 31.0, 59.5, 109.8, 188.2, 284.2, 358.1)),
    ],
)
def test_distinct_experts_are_as_many_as_chance_has_it(
    model: str, touched: tuple[float, ...]
) -> None:
    experts = PRESETS[model].experts
    assert experts is not None
    for power, expected in enumerate(touched):
        assert round(distinct_experts(experts, 2**power), 1) == pytest.approx(expected, abs=0.051)


def test_latent_attention_computes_what_it_caches_over_and_over() -> None:
    """242 FLOP a byte at one query of DeepSeek-V3's 128 heads, where grouped heads have 8."""
    shape = PRESETS["deepseek-v3"]
    setting = Setting(Phase.DECODE, 1, 8192)
    products = [find(name).product(shape, setting) for name in ("qk_latent", "pv_latent")]
    assert (products[0].m, products[0].k, products[1].n) == (128, 576, 512)
    flops = sum(product.flops for product in products)
    assert flops == 2 * 128 * 8192 * (2 * 512 + 64)
    cached = 8192 * 576 * 2
    assert flops / cached == pytest.approx(242, abs=1)


def test_a_window_bounds_the_cached_tokens_of_its_layers() -> None:
    shape = PRESETS["gemma-3-12b"]
    assert [(op.name, count) for op, count in of_model(shape) if op.family is Family.ATTENTION] == [
        ("qk", 8), ("pv", 8), ("qk_window", 40), ("pv_window", 40),
    ]  # fmt: skip
    for cached, within in ((512, 512), (8192, 1024)):
        product = find("qk_window").product(shape, Setting(Phase.DECODE, 1, cached))
        assert product.n == within
        assert find("qk").product(shape, Setting(Phase.DECODE, 1, cached)).n == cached


def test_rows_of_experts_hold_every_token() -> None:
    shape = PRESETS["qwen3-30b-a3b"]
    for tokens in (1, 2, 7, 64, 500):
        product = find("expert_up").product(shape, Setting(Phase.MEDUSA, 1, 128, tokens))
        assert product.batch * product.m >= 8 * tokens
        assert product.batch <= 128


def test_an_mlp_without_a_gate_has_two_products() -> None:
    plain = PRESETS["llama-7b"]
    names = {op.name for op, _ in of_model(replace(plain, gated=False))}
    assert {op.name for op, _ in of_model(plain)} - names == {"gate"}
