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
