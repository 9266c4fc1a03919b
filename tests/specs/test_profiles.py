"""GPU profiles hold together, match exactly, and refuse what is damaged or sparse."""

import random
from pathlib import Path

import pytest

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError, UnknownNameError
from medusa_bench.base.files import shipped
from medusa_bench.specs import profiles
from medusa_bench.specs.dtypes import Dtype

NAMES = (
    "a100-40gb a100-80gb-pcie a100-80gb-sxm a40 a6000 b200 h100-nvl h100-pcie h100-sxm h200-sxm "
    "l4 l40s mi300x rtx-3090 rtx-4090 rtx-5090 rtx-6000-ada"
).split()
GIB = 1 << 30
A6000 = (shipped("profiles") / "a6000.toml").read_text()


def parse(text: str) -> profiles.DeviceProfile:
    return profiles.parse(text.encode(), name="mine", where="mine.toml")


def with_line(text: str, key: str, line: str) -> str:
    """The text with the first line that sets `key` replaced."""
    lines = text.splitlines()
    index = next(i for i, old in enumerate(lines) if old.startswith(f"{key} = "))
    return "\n".join([*lines[:index], line, *lines[index + 1 :]])


def test_there_is_one_profile_for_each_promised_gpu() -> None:
    assert set(NAMES) <= set(profiles.names())
    assert [profile.name for profile in profiles.all_profiles()] == profiles.names()


@pytest.mark.parametrize(
    ("name", "float16_tflops", "tf32_tflops", "gb_per_s", "gib"),
    [
        ("a100-80gb-pcie", 312, 156, 1935, 80),
        ("a100-80gb-sxm", 312, 156, 2039, 80),
        ("a40", 149.7, 74.8, 696, 48),
        ("a6000", 154.8, 77.4, 768, 48),
        ("h100-sxm", 989.4, 494.7, 3350, 80),
        ("rtx-4090", 165.2, 82.6, 1008, 24),
        ("mi300x", 1307.4, 653.7, 5300, 192),
    ],
)
def test_a_profile_gives_the_datasheets_dense_figures_in_si_units(
    name: str, float16_tflops: float, tf32_tflops: float, gb_per_s: float, gib: int
) -> None:
    profile = profiles.load(name)
    assert profile.peak(Dtype.FLOAT16) == pytest.approx(float16_tflops * 1e12)
    assert profile.peak(Dtype.TF32) == pytest.approx(tf32_tflops * 1e12)
    assert profile.memory_bandwidth_bytes_per_s == pytest.approx(gb_per_s * 1e9)
    assert profile.memory_bytes == gib * GIB


def test_every_shipped_profile_recomputes_from_its_units_and_clock() -> None:
    for profile in profiles.all_profiles():
        assert profiles.check(profile) == [], profile.name
        if profile.family not in ("volta", "turing"):  # which have no bfloat16
            assert profile.peak(Dtype.BFLOAT16) == profile.peak(Dtype.FLOAT16)
        computed = profile.num_sms * profile.clock_hz
        computed *= profile.flops_per_clock_per_sm[Dtype.FLOAT16]
        tolerance = 0.013 if profile.name == "l40s" else 0.002
        assert profile.peak(Dtype.FLOAT16) == pytest.approx(computed, rel=tolerance), profile.name


def test_float32_is_without_tensor_cores_and_tf32_with_them() -> None:
    a100 = profiles.load("a100-80gb-pcie")
    assert a100.peak(Dtype.FLOAT32) == pytest.approx(19.5e12)
    assert a100.peak(Dtype.TF32) == pytest.approx(156e12)


def test_a_peak_the_card_does_not_have_is_an_error_with_those_it_has() -> None:
    with pytest.raises(MedusaBenchError, match="no peak of float8 for a40") as caught:
        profiles.load("a40").peak(Dtype.FLOAT8)
    assert "bfloat16" in str(caught.value.hint)


def test_the_roofline_is_bandwidth_below_the_ridge_point_and_the_peak_above() -> None:
    a100 = profiles.load("a100-80gb-pcie")
    ridge = a100.ridge_point(Dtype.FLOAT16)
    assert ridge == pytest.approx(312e12 / 1935e9)
    assert a100.attainable_flops_per_s(ridge / 2, Dtype.FLOAT16) == pytest.approx(156e12)
    assert a100.attainable_flops_per_s(ridge * 2, Dtype.FLOAT16) == 312e12


@pytest.mark.parametrize(
    ("device_name", "memory_bytes", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", 79.15 * GIB, "a100-80gb-sxm"),
        ("NVIDIA A100-SXM4-40GB", 39.39 * GIB, "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", 79.25 * GIB, "a100-80gb-pcie"),
        ("NVIDIA L4", 22.03 * GIB, "l4"),  # with ECC
        ("NVIDIA A40", 44.43 * GIB, "a40"),  # with ECC
        ("NVIDIA H100 80GB HBM3", 79.1 * GIB, "h100-sxm"),
        ("NVIDIA H200", 139.8 * GIB, "h200-sxm"),
        ("NVIDIA B200", 178.35 * GIB, "b200"),
        ("AMD Instinct MI300X", 191.98 * GIB, "mi300x"),
        ("NVIDIA A100-SXM4-80GB", 39.4 * GIB, None),  # the name alone is not enough
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 39.5 * GIB, None),
        ("NVIDIA RTX A4000", 15.7 * GIB, None),  # not an A40
        ("NVIDIA A10", 22.0 * GIB, "a10"),
        ("A10", 22.0 * GIB, "a10"),
        ("NVIDIA A1", 22.0 * GIB, None),
        ("nvidia l4", 22.03 * GIB, None),
        ("NVIDIA L40", 44.4 * GIB, "l40"),
        ("NVIDIA L40G", 44.4 * GIB, None),  # neither an L4 nor an L40S
        ("", 80 * GIB, None),
    ],
)
def test_a_card_is_matched_by_exact_name_and_memory_alone(
    device_name: str, memory_bytes: float, expected: str | None
) -> None:
    profile = profiles.match(device_name, int(memory_bytes))
    assert (profile and profile.name) == expected


def test_no_two_profiles_claim_the_same_device_name() -> None:
    claimed = [name for profile in profiles.all_profiles() for name in profile.device_names]
    assert len(claimed) == len(set(claimed))


@pytest.mark.parametrize(
    ("name", "sparse_tflops"), [("a6000", 309.7), ("h100-sxm", 1979), ("l4", 242)]
)
def test_a_sparse_figure_given_as_dense_is_refused_with_the_reason(
    name: str, sparse_tflops: float
) -> None:
    text = (shipped("profiles") / f"{name}.toml").read_text()
    profile = parse(with_line(text, "float16", f"float16 = {sparse_tflops}"))
    (finding,) = profiles.check(profile)
    assert finding.field == "peak_tflop_per_s.float16"
    assert "structured sparsity" in finding.message
    assert f"{sparse_tflops:.1f} is stated" in finding.message


def test_sparse_flops_per_clock_do_not_make_a_sparse_peak_pass() -> None:
    text = with_line(A6000, "float16", "float16 = 309.7").replace(
        "float16 = 1024\nbfloat16 = 1024", "float16 = 2048\nbfloat16 = 1024"
    )
    (finding,) = profiles.check(parse(text))
    assert finding.field == "flops_per_clock_per_sm.float16"
    assert "structured sparsity" in finding.message


def test_a_profile_marked_sparse_is_refused() -> None:
    with pytest.raises(InvalidFileError, match="density is 'sparse'"):
        parse(with_line(A6000, "density", 'density = "sparse"'))


def test_compute_of_one_card_with_bandwidth_of_another_is_found() -> None:
    text = with_line(A6000, "bandwidth_gb_per_s", "bandwidth_gb_per_s = 1008")
    (finding,) = profiles.check(parse(text))
    assert finding.field == "memory.bandwidth_gb_per_s"
    assert "make 768" in finding.message


def test_load_refuses_what_check_finds(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(with_line(A6000, "float16", "float16 = 309.7"))
    assert profiles.read(str(path)).peak(Dtype.FLOAT16) == pytest.approx(309.7e12)
    with pytest.raises(InvalidFileError, match="sparsity"):
        profiles.load(str(path))


def test_a_users_profile_is_loaded_by_path_and_named_for_its_file(tmp_path: Path) -> None:
    path = tmp_path / "my-card.toml"
    path.write_text(A6000)
    assert profiles.load(str(path)).name == "my-card"


def test_an_unknown_name_is_an_error_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="No profile named 'h100'") as caught:
        profiles.load("h100")
    assert "h100-nvl" in str(caught.value.hint)
    with pytest.raises(UnknownNameError):
        profiles.load("../profiles"[3:])
    with pytest.raises(InvalidFileError, match="cannot be read"):
        profiles.load("/nowhere/card.toml")


@pytest.mark.parametrize(
    ("key", "line", "message"),
    [
        ("num_sms", "", "num_sms is missing"),
        ("num_sms", "num_sms = 84.5", "num_sms is 84.5; it must be a whole number"),
        ("num_sms", "num_sms = true", "num_sms is True"),
        ("num_sms", "num_sms = 0", "num_sms is 0"),
        ("power_w", "power_w = inf", "power_w is inf"),
        ("power_w", "power_w = nan", "power_w is nan"),
        ("power_w", 'power_w = "300"', "power_w is '300'; it must be a number"),
        ("power_w", "power_w = -1", "power_w is -1"),
        ("power_w", "power_w = 300\npower_watts = 300", "no field 'power_watts'"),
        ("power_w", "power_w = 300\npower_w = 300", "not valid TOML"),
        ("title", 'title = ""', "title must be one line"),
        ("title", 'title = "a\\u0007b"', "title must be one line"),
        ("device_names", "device_names = []", "device_names must be a list"),
        ("device_names", "device_names = [1]", "device_names must be a list"),
        ("size_gib", "size_gib = 0", "memory.size_gib is 0"),
        ("bus_bits", "bus_bits = 384\nbuss = 1", "no field memory.'buss'"),
        ("float16", "float61 = 154.8", "no field peak_tflop_per_s.'float61'"),
    ],
)
def test_a_damaged_field_is_refused_by_file_and_field(key: str, line: str, message: str) -> None:
    with pytest.raises(InvalidFileError, match="mine") as caught:
        parse(with_line(A6000, key, line))
    assert message in caught.value.message


def test_a_misspelt_field_gets_the_near_name() -> None:
    with pytest.raises(InvalidFileError) as caught:
        parse(with_line(A6000, "power_w", "power_w = 300\ntensor_clock = 3"))
    assert caught.value.hint == "did you mean tensor_clock_mhz?"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"a = " + b"[" * 8000,
        b"a = " + b"{a=" * 5000,
        b"a." * 8000 + b"a = 1",
        b"[" + b"a." * 8000 + b"a]",
        b"a = " + b"9" * 5000,
        b"num_sms = 0x" + b"f" * 15000,
        b"x" * (1 << 20),
    ],
)
def test_hostile_toml_is_refused_at_once(raw: bytes) -> None:
    with pytest.raises(InvalidFileError):
        profiles.parse(raw, name="x", where="x.toml")


def mutant(raw: bytes, rng: random.Random) -> bytes:
    """A copy with one to four random cuts, insertions, doublings or swapped bytes."""
    pieces = (b"=", b"\n", b"[", b"]]", b'"', b"nan", b"-", b"1e999", b"\x00", b"\xff", b"9" * 40)
    for _ in range(rng.randint(1, 4)):
        at, end = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
        match rng.randrange(5):
            case 0:
                raw = raw[:at] + raw[end:]
            case 1:
                raw = raw[:at] + rng.choice(pieces) + raw[at:]
            case 2:
                raw = raw[:end] + raw[at:]
            case 3:
                raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
            case _:
                raw = raw[:at]
        raw = raw or b"\n"
    return raw


def test_mutants_of_a_profile_parse_or_are_refused_in_words() -> None:
    rng = random.Random(0)
    originals = [path.read_bytes() for path in shipped("profiles").glob("*.toml")]
    refused = 0
    for _ in range(400):
        raw = mutant(rng.choice(originals), rng)
        try:
            profiles.check(profiles.parse(raw, name="x", where="x.toml"))
        except InvalidFileError as error:
            refused += 1
            assert "x.toml" in error.message
    assert refused > 200
