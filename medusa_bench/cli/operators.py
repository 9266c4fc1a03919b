"""`medusa-bench operators`: the operator table, with symbols and with numbers."""

from collections.abc import Iterable, Sequence
from typing import Any

import click

from medusa_bench.cli import console, hub
from medusa_bench.cli.options import (
    ASSUME_BLOCK,
    CACHE,
    COUNTS,
    DTYPE,
    JSON,
    MODELS,
    OFFLINE,
    OPERATORS,
    PHASES,
    WEIGHTS,
)
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.operators import (
    BY_NAME,
    Operator,
    Point,
    dimensions,
    heads_weight_share,
    of_model,
    points,
    select,
)
from medusa_bench.specs.operators import OPERATORS as BLOCK
from medusa_bench.specs.settings import Phase, Setting, settings
from medusa_bench.specs.shapes import ModelShape

# The paper's print, where it slips, by operator; the table prints what it must mean.
_CORRECTED = {
    "qk": "in print, the results of decode and medusa have other shapes",
    "pv": "in print, the value cache is (b, n, 1, d); blank cells mean the row above",
    "down": "in print, blank cells mean the row above",
}
_QUERY_SYMBOL = {Phase.PREFILL: "s", Phase.DECODE: "1", Phase.MEDUSA: "q"}
_LEGEND = {
    "b": "batch_size",
    "s": "seq_len: cached tokens of a sequence",
    "q": "query tokens: s in prefill, 1 in decode, the candidates in medusa",
    "h": "hidden_size",
    "i": "intermediate_size",
    "n, n_kv": "query heads, key/value heads",
    "d": "head_dim",
    "nd, n_kv_d": "n x d, n_kv x d",
    "v": "vocab_size",
    "m, mh": "Medusa heads, m x h",
    "x, g": "num_experts, outputs of the router",
    "u, r": "distinct experts that b x q tokens touch, rows of each",
    "e, sh": "width of an expert, of the shared experts",
    "eh": "width that experts act on: h, or of a projection",
    "w": "cached tokens within the window",
    "c, cr": "latent kv_rank, with rope_dim: what is cached",
    "dn, dv, ndv": "latent nope_dim, value_dim, n x dv",
    "a, nqd": "latent q_rank (or h), n x (nope_dim + rope_dim)",
    "ix": "cached tokens that an indexer chooses",
    "ih, id, ihd": "heads of the indexer, their size, ih x id",
    "si, so, sx": "outputs into a layer with a state, inputs out of it, of its inner values",
    "ns, z, p": "states of a sequence, keys by values of each, in 32 bits",
    "ch, cw": "channels of a convolution, tokens it spans",
    "wn, wn_kv, wd, wv": "heads of layers that attend to all, where those differ by layer",
    "an, an_kv, ad, av": "the same of layers that attend to a window",
    "nwd, kwd, kwv, nwv": "wn x wd, wn_kv x wd, wn_kv x wv, wn x wv (nad, ... of a window)",
    "kv, wkv": "keys and values of fused attention: 2 s, 2 w",
    "rk, rw": "rank of a projection within such a layer, its outputs",
}


@click.command(
    epilog="Example: medusa-bench operators --model llama-7b -b 1 -s 1024 -q 64 --phase medusa"
)
@click.option(
    "-m", "--model", "models", type=MODELS, help="Presets or config.json paths: print numbers."
)
@ASSUME_BLOCK
@OFFLINE
@click.option("-b", "--batch-size", type=COUNTS, default="1", show_default=True)
@click.option("-s", "--seq-len", type=COUNTS, default="1024", show_default=True)
@click.option(
    "-q",
    "--num-candidates",
    type=COUNTS,
    default="64",
    show_default=True,
    help="Tokens one Medusa pass verifies, the root included.",
)
@click.option("--phase", "phases", type=PHASES, help="prefill, decode, medusa.  [default: all]")
@click.option(
    "--operator", "names", type=OPERATORS, help="Operators or families (mlp).  [default: all]"
)
@click.option("--dtype", type=DTYPE, default="float16", show_default=True)
@WEIGHTS
@CACHE
@JSON
def command(
    *,
    models: tuple[str, ...] | None,
    assume_block: str | None,
    offline: bool,
    batch_size: tuple[int, ...],
    seq_len: tuple[int, ...],
    num_candidates: tuple[int, ...],
    phases: tuple[str, ...] | None,
    names: tuple[str, ...] | None,
    dtype: str,
    weights: str | None,
    kv_dtype: str | None,
    as_json: bool,
) -> None:
    """Print the operator table: shapes, FLOPs, bytes and operational intensity.

    The three phases of the paper's appendix are one table: they differ only in q, the query tokens
    of a sequence. Without --model it is printed in symbols, with --model in numbers.
    """
    chosen_phases = tuple(Phase(word) for word in phases or Phase)
    chosen = select(names or BY_NAME)
    if not models:
        if as_json:
            console.print_json({"operators": [_symbols(op) for op in chosen], "legend": _LEGEND})
        else:
            _print_symbols(chosen, chosen_phases if phases else ())
        return
    grid = list(settings(chosen_phases, batch_size, seq_len, num_candidates))
    model_shapes = [
        hub.load(model, assume_block=assume_block, offline=offline, weights=weights, cache=kv_dtype)
        for model in models
    ]
    rows = points(model_shapes, chosen, grid, [Dtype(dtype)])
    if as_json:
        console.print_json([_numbers(point) for point in rows])
        return
    for shape in model_shapes:
        for note in shape.notes:
            console.warn(note)
        for setting in grid:
            _print_numbers([p for p in rows if p.shape is shape and p.setting is setting])
        console.stdout().print(
            f"{shape.name}'s {shape.num_medusa_heads} Medusa heads add "
            f"{heads_weight_share(shape):.1%} to the weights that a decoding step reads.\n",
            markup=False,
        )


def _print_symbols(chosen: Sequence[Operator], phases: Sequence[Phase]) -> None:
    out = console.stdout()
    for phase in phases or (None,):
        if phase:
            out.print(f"{phase}:", markup=False)
        out.print(
            console.table(
                ("operator", "paper", "", "", "", ""),
                [
                    (
                        operator.name,
                        operator.title,
                        _shape(operator.lhs, phase),
                        "x " + _shape(operator.rhs, phase),
                        "-> " + _shape(operator.out, phase),
                        _remark(operator),
                    )
                    for operator in chosen
                ],
            )
        )
        out.print()
    for operator in chosen:
        if operator.name in _CORRECTED:
            out.print(f"* {operator.name}: {_CORRECTED[operator.name]}.", markup=False)
    out.print(
        "\nFLOPs = 2 x result x contracted dimension; bytes = operands and result, once each."
    )
    out.print("Query heads of a group share its key/value head, which is read once.\n")
    out.print(console.table(("", ""), list(_LEGEND.items()), header=False))


def _print_numbers(rows: Sequence[Point]) -> None:
    first = rows[0]
    setting = first.setting
    title = f"{first.shape.name}, {setting.phase}: batch_size {setting.batch_size}, "
    title += f"seq_len {setting.seq_len}, "
    if setting.phase is Phase.MEDUSA:
        title += f"{setting.num_candidates} candidates, "
    mixed = len({count for _, count in of_model(first.shape)}) > 1  # layers of several kinds
    cells = [
        (
            point.operator.name + ("" if point.operator in BLOCK else " +"),
            *((str(point.operator.num_layers(first.shape)),) if mixed else ()),
            _joined(_sizes(point, point.operator.lhs)),
            _joined(_sizes(point, point.operator.rhs)),
            *_totals([point]),
        )
        for point in rows
    ]
    if len(block := [point for point in rows if point.operator in BLOCK]) == len(BLOCK):
        blank = ("",) * (3 if mixed else 2)
        cells.append(("paper's block", *blank, *_totals(block)))
    out = console.stdout()
    out.print(title + first.dtype, markup=False)
    columns = ("operator", *(("layers",) if mixed else ()), "lhs", "rhs", "FLOPs", "bytes")
    out.print(console.table((*columns, "FLOP/byte"), cells))
    if any(point.operator not in BLOCK for point in rows):
        out.print("+ outside the paper's block")
    out.print()


def _totals(rows: Sequence[Point]) -> tuple[str, str, str]:
    flops = sum(point.product.flops for point in rows)
    moved = sum(point.bytes_moved for point in rows)
    return console.si(flops, "FLOP"), console.si(moved, "B"), f"{flops / moved:.2f}"


def _shape(symbols: str, phase: Phase | None) -> str:
    names = [_QUERY_SYMBOL[phase] if phase and s == "q" else s for s in symbols.split()]
    return f"({', '.join(names)})"


def _remark(operator: Operator) -> str:
    if operator not in BLOCK:
        return "outside"
    return "corrected*" if operator.name in _CORRECTED else ""


def _stored(point: Point) -> list[dict[str, Any]]:
    """How the right operand is stored, by shares of its layers, where it is quantised."""
    return [
        {"scheme": scheme.kernel, "bits": scheme.bits, "share": share}
        for scheme, share in point.operator.formats(point.shape)
        if scheme
    ]


def _joined(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def _sizes(point: Point, symbols: str) -> list[int]:
    size = dimensions(point.shape, point.setting)
    return [size[symbol] for symbol in symbols.split()]


def _symbols(operator: Operator) -> dict[str, Any]:
    return {
        "operator": operator.name,
        "title": operator.title,
        "family": operator.family,
        "in_papers_block": operator in BLOCK,
        "lhs": operator.lhs.split(),
        "rhs": operator.rhs.split(),
        "out": operator.out.split(),
        "corrected": _CORRECTED.get(operator.name),
    }


def _numbers(point: Point) -> dict[str, Any]:
    setting: Setting = point.setting
    shape: ModelShape = point.shape
    product, moved = point.product, point.bytes_moved
    return {
        "model": shape.name,
        "operator": point.operator.name,
        "notes": shape.unmodelled,
        "num_layers": point.operator.num_layers(shape),
        "in_papers_block": point.operator in BLOCK,
        "phase": setting.phase,
        "batch_size": setting.batch_size,
        "seq_len": setting.seq_len,
        "num_candidates": setting.num_candidates,
        "query_len": setting.query_len,
        "dtype": point.dtype,
        "lhs": _sizes(point, point.operator.lhs),
        "rhs": _sizes(point, point.operator.rhs),
        "out": _sizes(point, point.operator.out),
        "flops": product.flops,
        "stored": _stored(point),
        "bytes_moved": moved,
        "operational_intensity": product.flops / moved,
    }
