"""The time on a device: what was given to a GPU counts once it is done."""

from collections.abc import Callable

import torch

Clock = Callable[[], float]  # seconds; injected by tests


def now_s(device: torch.device, clock: Clock) -> float:
    """Seconds on `clock` once a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()
