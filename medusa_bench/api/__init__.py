"""What `import medusa_bench as mb` offers: results, predictions and comparisons as pandas frames.

Columns carry their units in their names (SI), and every row its provenance or source. Whatever the
user can mend is a MedusaBenchError with a sentence and a hint. Nothing heavy is imported before a
function is called.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.results.reading import Results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from medusa_bench.specs.dtypes import Dtype

__all__ = ["MedusaBenchError", "Results", "compare", "load", "predict", "roofline"]

Counts = Sequence[int]


def load(folder: str | Path) -> Results:
    """A results folder, as `sweep`, `predict -o` and `calibrate` write it; or results/paper.

    `.to_frame()` gives one row a logical point. Raises InvalidFileError for what is none.
    """
    from medusa_bench.results import folders

    return folders.load(folder)


def predict(
    *models: str,
    gpu: str | Path,
    operators: Sequence[str] = (),
    phases: Sequence[str] = ("prefill", "decode", "medusa"),
    batch_sizes: Counts = (1,),
    seq_lens: Counts = (1024,),
    num_candidates: Counts = (64,),
    dtype: str = "float16",
    timing: str = "kernel",
) -> "pd.DataFrame":
    """The latency of each operator of models on a GPU: a row a logical point.

    gpu: a profile's name or file, or a results folder. operators: names or families; none for each
    model's own block. Columns: the point's setting; latency_s with the ends of its 90 % interval,
    low_s and high_s; its parts launch_s, bandwidth_s, compute_s, tile_s and unexplained_s; what
    binds it; source and provenance ("predicted").
    """
    import pandas as pd

    from medusa_bench.predict import choosing
    from medusa_bench.results.rows import Grid, Provenance, Timing
    from medusa_bench.specs import models as model_specs
    from medusa_bench.specs.columns import Products
    from medusa_bench.specs.operators import of_block, select
    from medusa_bench.specs.settings import Phase

    shapes = tuple(map(model_specs.load, models))
    own = dict.fromkeys(operator for shape in shapes for operator, _ in of_block(shape))
    named = _dtype(dtype)
    grid = Grid(
        shapes=shapes,
        operators=select(operators) if operators else tuple(own),
        phases=tuple(map(Phase, phases)),
        batch_sizes=tuple(batch_sizes),
        seq_lens=tuple(seq_lens),
        num_candidates=tuple(num_candidates),
        dtypes=(named,),
        timings=(Timing(timing),),
    )
    points = grid.points()
    latency = choosing.model_for(gpu, Timing(timing))
    predicted = latency.predict(Products.of([point.product for point in points]), named)
    frame = pd.DataFrame([point.as_dict() for point in points]).assign(
        timing=timing,
        latency_s=predicted.latency_s,
        low_s=predicted.low_s,
        high_s=predicted.high_s,
    )
    for part in ("launch_s", "bandwidth_s", "compute_s", "tile_s", "unexplained_s"):
        frame[part] = getattr(predicted.parts, part)
    return frame.assign(
        bound=predicted.bound,
        device=latency.device,
        source=predicted.source,
        provenance=str(Provenance.PREDICTED),
    )


def compare(
    model: str,
    *,
    gpu: str | Path,
    methods: Sequence[str] = (),
    batch_sizes: Counts = (1, 2, 4, 8, 16, 32, 64),
    seq_lens: Counts = (1024,),
    drafts: Sequence[str] = (),
    acceptance: Sequence[str] = (),
    engine: str | None = None,
    dtype: str = "float16",
) -> "pd.DataFrame":
    """Decoding methods beside vanilla decoding: a row a method, size and setting, simulated.

    As `medusa-bench compare` counts it: methods are medusa and the draft model unless named;
    acceptance as on its command line; engine None for one of unknown name. speedup =
    acceleration_rate / overhead, with the ends of its 90 % interval; each row tells the source of
    its latencies and of its acceptance. `frame.loc[frame.groupby("batch_size").speedup.idxmax()]`
    is the best of each batch size.
    """
    import pandas as pd

    from medusa_bench.compare import choosing, named
    from medusa_bench.compare.simulation import simulate
    from medusa_bench.specs import models as model_specs

    target = model_specs.load(model)
    name = str(gpu)
    request = choosing.Request(
        methods,
        drafts,
        acceptance,
        engine=named.engine_name(engine, gpu=name),
        papers=named.is_papers(name),
    )
    (latency,) = named.latency_models((name,))
    rows = simulate(
        choosing.variants(request, target),
        target,
        latency,
        _dtype(dtype),
        [(batch_size, seq_len) for seq_len in seq_lens for batch_size in batch_sizes],
        engine=named.engine_cost(engine, None, None, gpu=name),
        block=named.counted_block(None, gpu=name),
    )
    return pd.DataFrame([row.as_dict() for row in rows])


def roofline(*results: Results | str | Path, by: str = "operator") -> "Figure":
    """Results under the roofs of their device, each point at its operational intensity.

    by: what colours tell apart, "operator" or "candidates". Measured points are filled, predicted
    ones hollow, reported ones half-filled. Raises MedusaBenchError where nothing can be drawn.
    """
    from medusa_bench.report import roofline as drawing
    from medusa_bench.report import series, style
    from medusa_bench.specs import profiles

    sources = []
    for each in results:
        read = each if isinstance(each, Results) else load(each)
        environment = read.environment
        sources.append(
            series.Source(
                device=environment.device,
                points=read.points(),
                roofs=read.roof,
                profile=profiles.match(environment.device, environment.memory_bytes),
                l2_bytes=environment.l2_bytes,
            )
        )
    panels = series.panels(sources, series.By(by), series.Selection())
    with style.applied():
        return drawing.draw(panels, "one" if len(panels) == 1 else "two")


def _dtype(name: str) -> "Dtype":
    from medusa_bench.base.errors import UnknownNameError
    from medusa_bench.specs.dtypes import Dtype

    try:
        return Dtype.named(name)
    except ValueError:
        raise UnknownNameError("dtype", name, map(str, Dtype)) from None
