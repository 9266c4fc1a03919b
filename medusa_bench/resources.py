"""Files that ship with the package: profiles/ and results/paper/, in a wheel or a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(relative: str) -> Path:
    """The path of a shipped file or folder, given as in the repository ("profiles")."""
    in_wheel = _PACKAGE / "_data" / relative
    return in_wheel if in_wheel.exists() else _PACKAGE.parent / relative
