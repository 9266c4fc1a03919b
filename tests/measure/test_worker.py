"""Which failure an exception is, and whether its worker can go on."""

import pytest
import torch

from medusa_bench.base.errors import UnknownNameError
from medusa_bench.measure import worker
from medusa_bench.measure.client import pick_device
from medusa_bench.measure.kernels import WrongResultError
from medusa_bench.results.rows import FailureKind


@pytest.mark.parametrize(
    ("error", "kind", "is_fatal"),
    [
        (MemoryError("needs more"), FailureKind.OUT_OF_MEMORY, False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), FailureKind.OUT_OF_MEMORY, False),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), FailureKind.OUT_OF_MEMORY, False),
        (RuntimeError("CUDA error: device-side assert"), FailureKind.DEVICE_ERROR, True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"), FailureKind.DEVICE_ERROR, True),
        (WrongResultError("not written"), FailureKind.WRONG_RESULT, False),
        (ValueError("shapes"), FailureKind.ERROR, False),
    ],
)
def test_exceptions_are_failures_of_a_kind(
    error: Exception, kind: FailureKind, is_fatal: bool
) -> None:
    assert worker.classify(error) == (kind, is_fatal)


def test_what_torch_really_raises_for_want_of_memory_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 48, dtype=torch.uint8)
    assert worker.classify(caught.value) == (FailureKind.OUT_OF_MEMORY, False)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:3"])
def test_a_device_asked_for_is_taken_at_its_word(name: str) -> None:
    assert pick_device(name) == name


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU ", "tpu", ""])
def test_a_word_that_names_no_device_is_an_error_with_a_hint(name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        pick_device(name)
    assert caught.value.hint


@pytest.mark.parametrize(("is_present", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_measured_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, is_present: bool, device: str
) -> None:
    monkeypatch.setattr("medusa_bench.measure.nvml.is_present", lambda: is_present)
    assert pick_device(None) == device
