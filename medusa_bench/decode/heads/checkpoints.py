"""What a training needs to go on after a kill, in one file, whole or absent."""

import io
from pathlib import Path
from typing import Any

import torch

from medusa_bench.base.errors import MedusaBenchError, told_as
from medusa_bench.base.files import write_whole


def write(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Keep plain values and tensors, and which training they are of. Raises StorageError."""
    # By way of memory: torch.save hides a full disk behind an error of its own.
    content = io.BytesIO()
    torch.save({"identity": identity, **state}, content)
    write_whole(path, content.getvalue())


def read(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state that was kept, on the CPU; None where none was.

    Raises MedusaBenchError where it is of another training, InvalidFileError where it is damaged.
    """
    if not path.exists():
        return None
    with told_as(f"{path} is no whole checkpoint", hint="delete it to train from the start."):
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = dict(saved["identity"])
    if before != identity:
        other = sorted(key for key in identity if before.get(key) != identity[key])
        raise MedusaBenchError(
            f"{path} is of a training with other {', '.join(other)}.",
            hint="repeat the first command to go on with it, or choose another folder.",
        )
    return saved
