"""`medusa-bench report`: one self-contained HTML page from any mix of results."""

import shlex
from pathlib import Path

import click

from medusa_bench.cli import console
from medusa_bench.errors import StorageError


@click.command(epilog="Example: medusa-bench report results/paper -o report.html")
@click.argument("folders", metavar="RESULTS...", nargs=-1, required=True)
@click.option("-o", "--output", default="report.html", show_default=True, help="The page to write.")
@click.pass_obj
def command(arguments: tuple[str, ...], folders: tuple[str, ...], output: str) -> None:
    """Write one page: what was measured, where it stands under the roof, and whether it pays.

    RESULTS are folders of measured, predicted or reported results. The page holds its data and
    its scripts, asks for nothing from anywhere, and opens in any browser.
    """
    from medusa_bench import store
    from medusa_bench.cli.doubts import WORDS
    from medusa_bench.report import page

    sources = [store.load(folder) for folder in folders]
    text = page.render(sources, command=shlex.join(("medusa-bench", *arguments)), doubt_words=WORDS)
    path = Path(output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from None
    console.stderr().print(f"Wrote {path}", markup=False)
