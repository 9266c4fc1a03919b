"""The outputs shown in README.md are what the commands print: checked by a test, written by

    python -m tests.readme

A block whose first line is `$ medusa-bench ...` is run, in the repository's root, 80 columns wide.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
_BLOCK = re.compile(r"```console\n(\$ medusa-bench [^\n]*)\n.*?```", re.DOTALL)


def render(text: str) -> str:
    """The text with the output of each block's command in its place."""
    return _BLOCK.sub(lambda match: f"```console\n{match[1]}\n{_output(match[1])}```", text)


def commands(text: str) -> list[str]:
    return [match[1] for match in _BLOCK.finditer(text)]


def _output(line: str) -> str:
    command, _, pipe = line.removeprefix("$ medusa-bench ").partition(" | head -")
    done = subprocess.run(
        [sys.executable, "-m", "medusa_bench", *shlex.split(command)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
    )
    lines = [each.rstrip() for each in done.stdout.splitlines()]
    return "".join(f"{each}\n" for each in (lines[: int(pipe)] if pipe else lines))


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
