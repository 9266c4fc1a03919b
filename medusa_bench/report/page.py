"""One HTML page of any mix of results: self-contained, offline, every name shown as text.

The charts are Bokeh's, drawn by page_*.js from the columns of page_data; the words and tables are
in the HTML itself. Nothing on the page is asked for from anywhere: its policy allows the scripts
that stand in it, by their hashes, and no connection.
"""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.base.quantities import si
from medusa_bench.compare import studies
from medusa_bench.compare.studies import GrownTree, Study
from medusa_bench.predict.latency import LatencyModel
from medusa_bench.report import page_data
from medusa_bench.report.page_data import Folder
from medusa_bench.results.rows import QualityFlag
from medusa_bench.specs.ceilings import Bound

_HERE = Path(__file__).parent
_SCRIPTS = (  # in this order: later ones use the earlier
    "page_chart.js", "page_roofline.js", "page_decoding.js", "page.js",
)  # fmt: skip
_BOKEH_COMPONENTS = ["bokeh", "bokeh-api"]


def render(
    folders: Sequence[Folder],
    compared: Sequence[Study] = (),
    *,
    command: str,
    flag_words: Mapping[QualityFlag, tuple[str, str]],
    latencies: Sequence[LatencyModel | None] = (),
    losses: Sequence[Sequence[str]] = (),
    tree: GrownTree | None = None,
) -> str:
    """The page as text, the same for the same input.

    latencies: of each folder, the model that splits its slowest points, where there is one.
    losses: of each folder, in words, what its points lose time to, and what helps.
    flag_words: what each flag means, and the remedy. Raises MedusaBenchError where the plotting
    library is not installed.
    """
    titles = page_data.titles(folders)
    data = {
        **page_data.columns(folders),
        "studies": [studies.columns(study) for study in compared],
        "slowest": [
            {"title": title, **page_data.slowest(folder, latency)}
            for title, folder, latency in zip(titles, folders, latencies, strict=False)
            if latency is not None
        ],
        "tree": tree and studies.tree_columns(tree),
    }
    scripts = [*_bokeh(), *map(_read, _SCRIPTS)]
    template = _environment().from_string(_read("page.html"))
    return str(
        template.render(
            policy=_policy(scripts),
            style=_read("page.css"),
            scripts=scripts,
            data=_json(data),
            command=command,
            answer=_answer(compared, folders),
            folders=[
                _FolderText.of(folder, title, flag_words)
                for folder, title in zip(folders, titles, strict=True)
            ],
            studies=[(study, studies.method_table(study)) for study in compared],
            has_points=any(each.summary for folder in folders for each in folder.points),
            has_split=any(latencies),
            losses=[pair for pair in zip(titles, losses, strict=False) if pair[1]],
            tree=tree,
        )
    )


# -- what stands in the page --------------------------------------------------------------------


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise MedusaBenchError(
            f"The report needs {name.partition('.')[0]}, which is not installed.",
            hint="pip install 'medusa-bench[report]', or pip install bokeh jinja2; the results "
            "folder can also be copied to a machine that has them.",
        ) from None


def _environment() -> Any:
    """Templates in which every value is escaped unless it says otherwise."""
    jinja2 = _import("jinja2")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["portable"] = portable
    return environment


_FOLDERS = re.compile(r"(?<![\w.~/:)])(?:~|\.{1,2})?/(?:[\w.@+~-]+/)+(?=[\w.@+~-])")


def portable(text: str) -> str:
    """The text without the folders of absolute paths: a page for others tells no machine's."""
    return _FOLDERS.sub("", text)


def _bokeh() -> list[str]:
    resources = _import("bokeh.resources").Resources(mode="inline", components=_BOKEH_COMPONENTS)
    # The HTML parser would end a script at these letters, wherever they stand.
    return [script.replace("</script", "<\\/script") for script in resources.js_raw]


def _without_folders(value: Any) -> Any:
    match value:
        case str():
            return portable(value) if "/" in value else value
        case dict():
            return {name: _without_folders(each) for name, each in value.items()}
        case list() | tuple() if any(isinstance(each, str | dict | list) for each in value):
            return [_without_folders(each) for each in value]
    return value


def _json(value: Any) -> str:
    """JSON that can stand in a script element: no letter in it can end one."""
    text = json.dumps(
        _without_folders(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _policy(scripts: Sequence[str]) -> str:
    """No connection, no frame, no form, no evaluated text, no script but those that stand here.

    Bokeh sets styles as it draws; without a source to load from they can ask for nothing.
    """
    allowed = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(content: str) -> str:
    # What a browser hashes: a parser turns every line end into \n.
    text = re.sub(r"\r\n?", "\n", content)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# -- words --------------------------------------------------------------------------------------


def _answer(compared: Sequence[Study], folders: Sequence[Folder]) -> str:
    """The sentence that the page begins with: the first verdict's, or how much was measured."""
    if compared:
        return compared[0].verdict[0]
    return _roofline_words(folders[0])[0] if folders else ""


@dataclass(frozen=True)
class _FolderText:
    """A results folder in words."""

    title: str
    provenance: str
    verdict: Sequence[str]
    reasons: Sequence[str]
    environment: Sequence[tuple[str, str]]
    flags: Sequence[tuple[int, str, str, str]]
    missing: Sequence[tuple[int, str]]
    damages: Sequence[str]
    commands: Sequence[str]

    @classmethod
    def of(
        cls, folder: Folder, title: str, flag_words: Mapping[QualityFlag, tuple[str, str]]
    ) -> "_FolderText":
        results = folder.results
        counts = Counter(flag for each in folder.points for flag in each.flags)
        missing = Counter(each.reason for each in folder.points if each.summary is None)
        damages = [f"line {each.line_number}: {each.reason}" for each in results.damages]
        if results.torn_bytes:
            damages.append(f"half a last line ({results.torn_bytes} bytes): a writer was stopped")
        return cls(
            title=title,
            provenance=results.provenance,
            verdict=_roofline_words(folder),
            reasons=(),
            environment=_environment_of(folder),
            flags=[(n, flag, *flag_words[flag]) for flag, n in counts.most_common()],
            missing=[(n, reason) for reason, n in missing.most_common()],
            damages=damages,
            commands=results.run.commands,
        )


def _environment_of(folder: Folder) -> list[tuple[str, str]]:
    results = folder.results
    environment = results.environment
    known = {
        "device": environment.device,
        "results": str(results.path),
        "provenance": results.provenance,
        "source": next((each.summary.source for each in folder.points if each.summary), ""),
        "datasheet": f"{folder.profile.name}: {folder.profile.source}" if folder.profile else "",
        "memory": si(environment.memory_bytes, "B") if environment.memory_bytes else "",
        "SMs": str(environment.num_sms or ""),
        "L2 cache": si(environment.l2_bytes, "B") if environment.l2_bytes else "",
        "power limit": f"{environment.power_limit_w:.0f} W" if environment.power_limit_w else "",
        "driver": environment.driver,
        "torch": environment.torch,
        "CUDA": environment.cuda,
        "threads": str(environment.num_threads or ""),
        **environment.details,
    }
    if roof := results.roof:
        peaks = [f"{si(peak, 'FLOP/s')} {name}" for name, peak in roof.peak_flops_per_s.items()]
        known["measured roofs"] = ", ".join([*peaks, si(roof.memory_bandwidth_bytes_per_s, "B/s")])
    return [(name, value) for name, value in known.items() if value]


def _roofline_words(folder: Folder) -> list[str]:
    """How many points there are, and how far under the roof each group of operators stands."""
    have = [each for each in folder.points if each.summary]
    sentences = [f"{len(have):,} of {len(folder.points):,} points have a number."]
    which = "measured roof" if folder.results.roof else "datasheet's roof"
    shares: dict[str, list[float]] = {}
    bounds: Counter[str] = Counter()
    known: dict[int, tuple[float | None, Bound | None]] = {}  # points of one task share a summary
    for each in have:
        share, bound = each.roof_fraction, each.bound
        if folder.results.roof is None:
            if (key := id(each.summary)) not in known:
                known[key] = page_data.of_datasheet(folder.profile, each)
            share, bound = known[key]
        if share is not None and bound is not None:
            shares.setdefault(each.point.operator.family, []).append(share)
            bounds[bound] += 1
    if not shares:
        return [*sentences, "No roof is known for this device, so no share of one is given."]
    sentences.append(
        f"{bounds['memory'] / bounds.total():.0%} of them are bound by memory, the others by "
        f"compute, by the {which}."
    )
    parts = [
        f"{family} {median(values):.0%} ({min(values):.0%} to {max(values):.0%})"
        for family, values in shares.items()
    ]
    sentences.append(f"Share of the {which} reached, median and range: {'; '.join(parts)}.")
    return sentences
