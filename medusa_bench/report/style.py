"""The one look of all matplotlib figures: sizes, fonts, colours, and files that are the same twice.

Colours are told apart by colour-blind readers and by lightness in grey print; markers repeat what
they say. Use: `with style.applied(): figure, axes = style.figure(...); ...; style.save(...)`.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.base.files import write_whole
from medusa_bench.results.rows import Provenance
from medusa_bench.specs.operators import SERIES
from medusa_bench.specs.settings import Phase

# Text widths of common two-column styles (ICML, NeurIPS, ACM are within 5 %).
WIDTHS_IN = {"one": 3.35, "two": 6.9}
SUFFIXES = (".png", ".svg", ".pdf")

# Paul Tol's "high contrast" scheme, made to survive grey print (lightness 29, 47, 72), and what
# stands outside the paper's block in greys, then of his "bright", "vibrant" and "muted" schemes.
# Source: SRON technical note 09-002.
DARK, MIDDLE, LIGHT = "#004488", "#BB5566", "#DDAA33"
_SERIES_COLORS = (
    DARK, LIGHT, MIDDLE, "#222222", "#777777", "#997700", "#66CCEE", "#228833", "#AA3377",
    "#EE7733", "#0077BB", "#44AA99", "#999933", "#882255", "#332288", "#CC6677", "#DDCC77",
    "#117733", "#661100", "#6699CC", "#AA4499", "#4477AA",
)  # fmt: skip
SERIES_COLORS = dict(zip(SERIES, itertools.cycle(_SERIES_COLORS), strict=False))
VANILLA_COLOR = "#8C8C8C"
ROOF_COLOR = "#222222"
FAINT = "#B0B0B0"
PHASE_MARKERS = dict.fromkeys(Phase, "D") | {
    Phase.PREFILL: "s",
    Phase.DECODE: "o",
    Phase.MEDUSA: "^",
}
# Measured numbers are filled, others never: hollow, half, crossed out by their label.
FILL_STYLES = {
    Provenance.MEASURED: "full",
    Provenance.GENERATED: "full",
    Provenance.SERVED: "full",
    Provenance.PREDICTED: "none",
    Provenance.SIMULATED: "none",
    Provenance.REPORTED: "bottom",
}
_SEQUENCE_MARKERS = "oDsv^<>pP*X"

_RC: dict[Any, Any] = {  # matplotlib types each key
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 7,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.which": "major",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.0,
    "lines.markersize": 4,
    "savefig.dpi": 200,
    "figure.dpi": 200,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "medusa-bench",
    "pdf.fonttype": 42,
    "pdf.compression": 6,
}
_NO_DATES: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": "medusa-bench"},
    ".pdf": {"CreationDate": None, "ModDate": None, "Creator": "medusa-bench", "Producer": None},
}


@contextmanager
def applied() -> Iterator[None]:
    """Everything drawn and saved inside looks alike, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def figure(
    width: str = "one",
    *,
    height_in: float | None = None,
    rows: int = 1,
    columns: int = 1,
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure one or two columns wide, and its axes row by row. Closes by itself: no pyplot."""
    width_in = WIDTHS_IN[width]
    height_in = height_in or rows * 0.8 * width_in / columns
    made = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False, **subplots)
    return made, [ax for row in axes for ax in row]


def sequence(count: int) -> list[str]:
    """So many colours from light to dark, each with its own lightness."""
    # The ends of cividis are near white and near black; both are left out.
    return [
        mpl.colors.to_hex(color)
        for color in mpl.colormaps["cividis"](np.linspace(0.88, 0.02, max(count, 1)))
    ]


def sequence_marker(index: int) -> str:
    """A marker that goes with the index-th colour of a sequence."""
    return _SEQUENCE_MARKERS[index % len(_SEQUENCE_MARKERS)]


def save(figure: Figure, path: str | Path) -> Path:
    """Write PNG, SVG or PDF by the file's ending: the same bytes each time, without a date.

    Raises MedusaBenchError for another ending, StorageError where it cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MedusaBenchError(
            f"{path} ends in none of {', '.join(SUFFIXES)}.",
            hint="the ending chooses the format.",
        )
    content = io.BytesIO()
    figure.savefig(content, format=suffix[1:], metadata=_NO_DATES[suffix])
    write_whole(path, content.getvalue())
    return path


def plain_log_ticks(axes: Sequence[Axes], *, minor: bool = True) -> None:
    """Decades as people write them (1, 10, 1k, 1T); ticks in between if minor, without labels."""
    engineering = mpl.ticker.EngFormatter(sep="")
    formatter = mpl.ticker.FuncFormatter(
        lambda value, _: f"{value:g}" if value < 1 else engineering(value)
    )
    for ax in axes:
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(mpl.ticker.LogLocator(numticks=12))
            axis.set_minor_locator(
                mpl.ticker.LogLocator(subs=range(2, 10), numticks=12)
                if minor
                else mpl.ticker.NullLocator()
            )
            axis.set_major_formatter(formatter)
            axis.set_minor_formatter(mpl.ticker.NullFormatter())
