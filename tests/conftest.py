"""What several test modules share."""

from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Published measurements that are not part of this repository."""
    if not REFERENCE.is_dir():
        pytest.skip("the reference data is not beside this checkout")
    return REFERENCE


@pytest.fixture(autouse=True)
def default_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU of commands that name none is the paper's, whatever card the tests run beside."""
    monkeypatch.setenv("MEDUSA_BENCH_GPU", "paper")
    monkeypatch.delenv("MEDUSA_BENCH_MODEL", raising=False)
