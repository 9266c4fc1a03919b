"""The roofline: two lines that meet at the ridge, whoever's ceilings they are."""

import pytest

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.results.rows import Roofs
from medusa_bench.specs import profiles
from medusa_bench.specs.ceilings import Bound, Ceiling
from medusa_bench.specs.dtypes import Dtype


def test_the_lines_meet_at_the_ridge_which_is_computes() -> None:
    ceiling = Ceiling(312e12, 1935e9)
    ridge = 312e12 / 1935e9
    assert ceiling.ridge_point == ridge
    assert ceiling.attainable_flops_per_s(ridge / 2) == pytest.approx(156e12)
    assert ceiling.attainable_flops_per_s(ridge) == ceiling.attainable_flops_per_s(2 * ridge)
    assert [ceiling.bound(ridge * share) for share in (0.999, 1, 1.001)] == [
        Bound.MEMORY,
        Bound.COMPUTE,
        Bound.COMPUTE,
    ]


def test_a_profile_and_measured_roofs_have_the_same_roofline() -> None:
    profile = profiles.load("a100-80gb-pcie")
    roofs = Roofs(profile.peak_flops_per_s, profile.memory_bandwidth_bytes_per_s)
    assert profile.ceiling(Dtype.FLOAT16) == roofs.ceiling(Dtype.FLOAT16)
    for intensity in (1.0, 1000.0):
        assert profile.bound(intensity, Dtype.FLOAT16) is roofs.bound(intensity, Dtype.FLOAT16)
        assert profile.attainable_flops_per_s(
            intensity, Dtype.FLOAT16
        ) == roofs.attainable_flops_per_s(intensity, Dtype.FLOAT16)


def test_a_dtype_without_a_peak_is_named_with_those_there_are() -> None:
    with pytest.raises(MedusaBenchError, match="no peak of float8 for a40") as caught:
        profiles.load("a40").peak(Dtype.FLOAT8)
    assert "float16" in str(caught.value.hint)
