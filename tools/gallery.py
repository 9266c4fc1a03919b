"""The figures in docs/gallery.md, and that of the Medusa-2 trainings, drawn from committed files by

    make figures

and checked by a test, which draws them again and compares them byte by byte. That holds for the
libraries they were drawn with, which versions.json names.
"""

import json
import shlex
from importlib.metadata import version
from pathlib import Path

from medusa_bench import cli
from medusa_bench.report import style
from tools import trade_off
from tools.readme import ROOT

FOLDER = ROOT / "docs" / "figures"
COMMANDS = (  # FOLDER stands for where to write
    "figures 6 9 18 22 --format png -o FOLDER",
    "compare --gpu paper --method medusa --seq-len 128..8192 --map FOLDER/break-even.png",
)
MEDUSA_2 = "medusa-2.png"  # shown beside its trainings, not in the gallery
IMAGES = ("figure-6.png", "figure-9.png", "figure-18.png", "figure-22.png", "break-even.png")
VERSIONS = "versions.json"


def draw(folder: Path) -> None:
    """Draws the gallery into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for command in COMMANDS:
        arguments = shlex.split(command.replace("FOLDER", shlex.quote(str(folder))))
        assert cli.run(arguments) == 0, command
    style.save(trade_off.trade_off_figure(trade_off.read()), folder / MEDUSA_2)


def versions() -> dict[str, str]:
    """Of the libraries that pixels depend on."""
    return {name: version(name) for name in ("matplotlib", "pillow")}


if __name__ == "__main__":
    draw(FOLDER)
    (FOLDER / VERSIONS).write_text(json.dumps(versions(), indent=1) + "\n")
