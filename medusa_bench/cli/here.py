"""What stands where no option says it: the GPU of this machine, its results, a folder's dtype."""

import os
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.cli import console
from medusa_bench.specs import paper_grid

RESULTS = Path("results")
GPU_VARIABLE = "MEDUSA_BENCH_GPU"
_DEFAULT_DTYPE = "float16"


def newest_results(device: str | None = None) -> Path | None:
    """The folder under ./results that was last written to, of a device; never the paper's."""
    found = [run.parent for run in RESULTS.glob("*/run.json") if run.parent.name != "paper"]
    for folder in sorted(found, key=_written_at, reverse=True):
        if device is None or _device_of(folder) == device:
            return folder
    return None


def newest() -> str:
    """The newest results, said on stderr. Raises MedusaBenchError where there are none."""
    folder = newest_results()
    if folder is None:
        raise MedusaBenchError(
            f"There are no results under ./{RESULTS}.",
            hint="`medusa-bench sweep` measures some; results/paper holds the paper's; "
            "`roofline --gpu h100-sxm` draws datasheet roofs alone.",
        )
    console.stderr().print(f"The newest results: {folder}", markup=False)
    return str(folder)


def _written_at(folder: Path) -> float:
    files = (folder / name for name in ("run.json", "points.jsonl"))
    return max(file.stat().st_mtime for file in files if file.exists())


def _device_of(folder: Path) -> str | None:
    from medusa_bench.results import folders

    try:
        return folders.load(folder).environment.device
    except InvalidFileError:
        return None


def gpu(asked: str | None) -> str:
    """The GPU asked for, else that of $MEDUSA_BENCH_GPU, the one here, or the newest results.

    Says on stderr what it took where it was not told. Of the GPU that is here its newest results,
    where there are any, else its profile. Raises MedusaBenchError where there is none of these.
    """
    if told := asked or os.environ.get(GPU_VARIABLE):
        return _existing(told)
    device = present()
    if device:
        measured = newest_results(device)
        if measured:
            return _taken(str(measured), f"the newest results of the {device} in this machine")
        if _has_profile(device):
            return _taken(device, "the GPU in this machine, predicted from its profile")
    newest = newest_results()
    if newest:
        return _taken(str(newest), "the newest results here")
    raise MedusaBenchError(
        f"{'No profile is known of ' + device if device else 'No GPU is in this machine'}, and "
        f"there are no results under ./{RESULTS}: for which GPU?",
        hint="name one: --gpu h100-sxm (`medusa-bench profiles` lists them), --gpu paper, or "
        f"{GPU_VARIABLE}; or measure this machine with `medusa-bench sweep`.",
    )


def _existing(name: str) -> str:
    """The same, unless it is a folder's path with nothing there. Raises InvalidFileError."""
    path = Path(name)
    is_path = len(path.parts) > 1 or name.startswith((".", "~"))
    if not is_path or path.exists() or name == paper_grid.RESULTS:
        return name
    folders = {str(run.parent): run.parent.name for run in RESULTS.glob("*/run.json")}
    near = get_close_matches(path.name, folders.values(), n=2, cutoff=0.5)
    found = [folder for folder, last in folders.items() if last in near]
    raise InvalidFileError(
        f"There is no results folder and no profile at {name}.",
        hint=f"did you mean {' or '.join(found)}?"
        if found
        else "`medusa-bench sweep` makes a results folder; `medusa-bench profiles` lists the GPUs "
        "that can be named instead.",
    )


def gpus(asked: Sequence[str]) -> tuple[str, ...]:
    """The same of a list; in the variable, with commas."""
    return tuple(map(_existing, asked or gpu(None).split(",")))


def _taken(name: str, what: str) -> str:
    console.stderr().print(f"GPU: {name}, {what} (--gpu names another).", markup=False)
    return name


def present() -> str | None:
    """The exact name of the first GPU of this machine; None without one, or where none tells."""
    from medusa_bench.measure.client import device_name, pick_device

    return device_name("cuda") if pick_device(None) == "cuda" else None


def _has_profile(device: str) -> bool:
    from medusa_bench.specs import profiles

    try:
        profiles.profile_of(device)
    except MedusaBenchError:
        return False
    return True


def dtype(asked: str | None, gpu: str) -> str:
    """The dtype asked for, else that of most of a results folder's numbers, else float16."""
    if asked:
        return asked
    if not Path(gpu).is_dir():
        return _DEFAULT_DTYPE
    from medusa_bench.results import folders

    counts = Counter(str(task.dtype) for task in folders.load(gpu).summaries)
    return counts.most_common(1)[0][0] if counts else _DEFAULT_DTYPE
