"""`medusa-bench doctor` says what spoils a number, with a remedy each."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from medusa_bench import cli
from medusa_bench.base.errors import ExitCode
from medusa_bench.measure import doctor
from medusa_bench.measure.doctor import (
    Check,
    Checkup,
    DeviceReport,
    GpuFacts,
    HostFacts,
    Severity,
)
from medusa_bench.results.rows import Environment
from medusa_bench.specs.dtypes import Dtype

QUIET = HostFacts(
    num_cpus=8,
    num_cores=8,
    busy_cpus=0.1,
    quota=None,
    memory_bytes=64 * 10**9,
    available_bytes=60 * 10**9,
    swap_used_bytes=0,
    governor="performance",
    num_thermal_throttles=0,
    disk_free_bytes=10**12,
)
HEALTHY = GpuFacts("NVIDIA A40", power_limit_w=300.0, default_power_limit_w=300.0, temperature_c=40)
CPU = Environment("EPYC", "cpu", 64 << 30, torch="2.13.0", num_threads=8)


def test_a_quiet_machine_has_no_findings() -> None:
    assert list(doctor.host_findings(QUIET)) == []
    assert list(doctor.gpu_findings("cuda:0", HEALTHY)) == []
    assert list(doctor.nvml_findings("", has_gpu=True)) == []


def only(findings: Sequence[Check]) -> Check:
    (finding,) = findings
    assert finding.message.endswith(".")
    assert finding.remedy
    return finding


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"busy_cpus": 2.04}, "busy processor", "2.0 of 8"),
        ({"num_cores": 1}, "threads", "One physical core"),
        ({"omp_num_threads": "2"}, "threads", "OMP_NUM_THREADS=2, of 8"),
        ({"quota": 1.5}, "CPU quota", "1.5 processors of 8"),
        ({"available_bytes": 10**9}, "memory", "1.0 GB of 64 GB"),
        ({"swap_used_bytes": 9 * 10**9}, "swap", "9.0 GB are swapped out"),
        ({"governor": "powersave"}, "frequency", "powersave"),
        ({"num_thermal_throttles": 12}, "heat", "12 times"),
        ({"disk_free_bytes": 5_000_000}, "disk", "5 MB"),
        ({"is_linux": False}, "system", "Linux"),
    ],
)
def test_what_spoils_a_number_on_the_host_is_said(
    change: dict[str, object], subject: str, words: str
) -> None:
    finding = only(doctor.host_findings(replace(QUIET, **change)))  # type: ignore[arg-type]
    assert finding.subject == subject
    assert words in finding.message


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"processes": ("process 4711 (2.5 GB)",)}, "cuda:0 other processes", "4711"),
        ({"is_mig": True}, "cuda:0 MIG", "instances"),
        ({"power_limit_w": 200.0}, "cuda:0 power", "200 W of 300 W"),
        ({"temperature_c": 91.0}, "cuda:0 heat", "91 C"),
        (
            {"throttle_reasons": ("hardware thermal slow-down",)},
            "cuda:0 heat",
            "hardware thermal slow-down",
        ),
    ],
)
def test_what_spoils_a_number_on_a_gpu_is_said(
    change: dict[str, object], subject: str, words: str
) -> None:
    finding = only(doctor.gpu_findings("cuda:0", replace(HEALTHY, **change)))  # type: ignore[arg-type]
    assert finding.subject == subject
    assert words in finding.message
    assert finding.severity is Severity.WARNING


def test_nvml_that_does_not_answer_is_a_warning_on_a_gpu_and_a_note_without_one() -> None:
    on_gpu = only(doctor.nvml_findings("Driver Not Loaded", has_gpu=True))
    assert on_gpu.severity is Severity.WARNING
    assert "Driver Not Loaded" in on_gpu.message
    assert only(doctor.nvml_findings("no", has_gpu=False)).severity is Severity.NOTE


def test_a_device_that_cannot_be_opened_is_missing_with_its_reason() -> None:
    report = DeviceReport("cuda:0", "NVIDIA A40", None, reason="torch is built without CUDA")
    finding = only(doctor.report_findings(report))
    assert finding.severity is Severity.MISSING
    assert "without CUDA" in finding.message


def test_a_gpu_without_a_profile_is_told_that_it_gets_measured_roofs_only() -> None:
    environment = Environment("NVIDIA Nothing", "cuda", 48 << 30)
    unknown = DeviceReport("cuda:0", "NVIDIA Nothing", environment)
    assert "measured roofs only" in only(doctor.report_findings(unknown)).remedy
    assert list(doctor.report_findings(replace(unknown, profile="a40"))) == []


@pytest.mark.parametrize(
    ("capability", "dtypes"),
    [
        ("7.5", (Dtype.FLOAT32, Dtype.FLOAT16)),
        ("8.6", (Dtype.FLOAT32, Dtype.TF32, Dtype.FLOAT16, Dtype.BFLOAT16)),
        ("8.9", tuple(Dtype)),
        ("12.0", tuple(Dtype)),
    ],
)
def test_dtypes_follow_the_compute_capability(capability: str, dtypes: tuple[Dtype, ...]) -> None:
    environment = Environment("x", "cuda", 1, details={"compute capability": capability})
    assert doctor.measurable_dtypes(environment) == dtypes


# -- the command --------------------------------------------------------------------------------


def found(monkeypatch: pytest.MonkeyPatch, *reports: DeviceReport, busy: float = 0.0) -> None:
    facts = replace(QUIET, busy_cpus=busy)
    result = Checkup(reports, tuple(doctor.host_findings(facts)))
    monkeypatch.setattr(doctor, "look", lambda _: result)


MEASURABLE = DeviceReport("cpu", "EPYC", CPU, dtypes=(Dtype.FLOAT32, Dtype.BFLOAT16))


def test_doctor_prints_devices_findings_and_remedies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, MEASURABLE, busy=2.0)
    assert cli.run(["doctor"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "EPYC, 8 threads" in text
    assert "float32 bfloat16" in text
    assert "warning: busy processor" in text
    assert "Remedy: end them or wait" in text


def test_doctor_says_so_when_nothing_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, MEASURABLE)
    assert cli.run(["doctor"]) == ExitCode.OK
    assert "Nothing was found that would spoil a number." in capsys.readouterr().out


def test_doctor_exits_1_where_nothing_can_be_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, DeviceReport("cpu", "EPYC", None, reason="torch cannot be imported"))
    assert cli.run(["doctor"]) == ExitCode.ERROR
    assert "Nothing can be measured here" in capsys.readouterr().out


def test_doctor_json_is_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, MEASURABLE, busy=2.0)
    assert cli.run(["doctor", "--json"]) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert document["can_measure"] is True
    assert document["devices"][0]["dtypes"] == ["float32", "bfloat16"]
    assert document["findings"][0]["severity"] == "warning"
    assert document["findings"][0]["remedy"]


def test_a_real_look_finds_that_the_processor_can_be_measured(tmp_path: Path) -> None:
    result = doctor.look(tmp_path)
    assert result.can_measure
    cpu = next(report for report in result.devices if report.device == "cpu")
    assert cpu.environment is not None
    assert Dtype.FLOAT32 in cpu.dtypes
