"""What NVML tells, on a fake NVML: also what it refuses to tell."""

from types import SimpleNamespace
from typing import Any

import pytest

from medusa_bench.measure import nvml as gpu
from medusa_bench.measure.nvml import Gpu, Recorder, Sample
from medusa_bench.results.rows import QualityFlag
from tests.builders.fakes import FakeClock

MHZ = 1e6


class FakeNvml:
    """The functions of pynvml that are used; `refused` ones raise as NVML does."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, refused: set[str] = frozenset(), **values: Any) -> None:  # type: ignore[assignment]
        self._refused = refused
        self._values = {
            "nvmlDeviceGetName": "NVIDIA A40",
            "nvmlDeviceGetUUID": b"GPU-1234",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=48 << 30, free=47 << 30),
            "nvmlDeviceGetEnforcedPowerLimit": 300_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 300_000,
            "nvmlDeviceGetMigMode": (0, 0),
            "nvmlDeviceGetMaxClockInfo": 1740,
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetTotalEnergyConsumption": 5_000,
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetClockInfo": 1700,
            "nvmlDeviceGetPowerUsage": 250_000,
            "nvmlDeviceGetTemperature": 61,
            **values,
        }

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "550.54.15"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in ("GPU-1234", "MIG-5678"):
            raise self.NVMLError("Not Found")
        return uuid

    def __getattr__(self, name: str) -> Any:
        if name not in self._values:
            raise AttributeError(name)

        def answer(*_: Any) -> Any:
            if name in self._refused:
                raise self.NVMLError("Insufficient Permissions")
            return self._values[name]

        return answer

    def allow(self, **values: Any) -> None:
        self._values.update(values)


def test_a_gpu_says_who_it_is_in_si_units() -> None:
    each = Gpu(FakeNvml(), 0)
    assert each.name == "NVIDIA A40"
    assert each.uuid == "GPU-1234"
    assert each.memory_bytes == 48 << 30
    assert each.driver == "550.54.15"
    assert each.power_limit_w == 300.0
    assert each.max_sm_clock_hz == 1740 * MHZ
    assert each.energy_j() == 5.0
    assert not each.is_mig
    assert each.sample() == Sample(1700 * MHZ, 1700 * MHZ, 250.0, 61.0, 0)


def test_what_nvml_refuses_is_unknown_and_no_error() -> None:
    names = {name for name in vars(FakeNvml())["_values"] if name.startswith("nvmlDeviceGet")}
    each = Gpu(FakeNvml(refused=names), 0)
    assert each.name is each.uuid is each.memory_bytes is each.power_limit_w is None
    assert each.energy_j() is None
    assert not each.is_mig
    assert each.processes() == ()
    assert each.sample() == Sample(None, None, None, None, 0)
    with Recorder(each) as recorder:
        pass
    assert recorder.telemetry.sm_clock_hz is None
    assert recorder.flags == ()


def test_bindings_older_than_the_event_reasons_still_tell_why_clocks_are_down() -> None:
    nvml = FakeNvml(nvmlDeviceGetCurrentClocksThrottleReasons=0x40)
    del nvml._values["nvmlDeviceGetCurrentClocksEventReasons"]
    assert Gpu(nvml, 0).sample().reasons == 0x40


def test_a_gpu_is_found_by_its_uuid_also_as_an_instance() -> None:
    assert gpu.find(FakeNvml(), "1234") is not None
    assert gpu.find(FakeNvml(), "5678") is not None
    assert gpu.find(FakeNvml(), "9999") is None
    assert len(gpu.all_gpus(FakeNvml())) == 2


def test_other_processes_are_named_with_their_memory() -> None:
    processes = [
        SimpleNamespace(pid=4711, usedGpuMemory=2_500_000_000),
        SimpleNamespace(pid=4712, usedGpuMemory=None),
    ]
    found = Gpu(FakeNvml(nvmlDeviceGetComputeRunningProcesses=processes), 0).processes()
    assert found == ("process 4711 (2.5 GB)", "process 4712")


def sample(
    clock_mhz: float | None = 1700, reasons: int = 0, since_start_s: float = gpu.SETTLED_S
) -> Sample:
    clock_hz = None if clock_mhz is None else clock_mhz * MHZ
    return Sample(clock_hz, 7000 * MHZ, 250.0, 61.0, reasons, since_start_s)


@pytest.mark.parametrize(
    ("samples", "throttled"),
    [
        ([sample()], False),
        ([sample(), sample(reasons=0x20)], True),  # heat, seen by software
        ([sample(reasons=0x40)], True),  # heat, seen by hardware
        ([sample(1300), sample(1300)], True),  # 74.7 %
        ([sample(1306), sample(1306)], False),  # 75.06 %
        ([sample(1300)], False),  # one odd clock
        ([sample(1300), sample(), sample(1300)], False),  # never two in a row
        ([sample(1300, since_start_s=0.02), sample(1300)], False),  # the clock still climbs
        ([sample(900, reasons=0x4)] * 2, False),  # a power cap is normal on large products
        ([sample(210, reasons=0x1)] * 2, False),  # idle between two points
        ([sample(None)], False),
        ([], False),
    ],
)
def test_heat_and_an_unexplained_low_clock_are_throttling(
    samples: list[Sample], throttled: bool
) -> None:
    assert gpu.is_throttled(samples, 1740 * MHZ) is throttled


def test_telemetry_is_means_and_every_reason_but_idleness() -> None:
    telemetry = gpu.summarise([sample(1600, 0x5), sample(1700, 0x20), sample(None, 0)], 12.5)
    assert telemetry.sm_clock_hz == 1650 * MHZ
    assert telemetry.memory_clock_hz == 7000 * MHZ
    assert telemetry.power_w == 250.0
    assert telemetry.temperature_c == 61.0
    assert telemetry.energy_j == 12.5
    assert telemetry.throttle_reasons == ("power cap", "software thermal slow-down")


@pytest.mark.parametrize(("block_s", "energy_j", "power_w"), [(0.5, 12.5, 250), (0.02, None, None)])
def test_a_block_records_energy_where_it_is_long_and_at_least_one_sample(
    block_s: float, energy_j: float | None, power_w: float | None
) -> None:
    nvml, clock = FakeNvml(), FakeClock()
    with Recorder(Gpu(nvml, 0), period_s=60.0, clock=clock) as recorder:
        clock.now_s += block_s
        nvml.allow(nvmlDeviceGetTotalEnergyConsumption=17_500)
    assert recorder.telemetry.energy_j == energy_j
    assert recorder.telemetry.power_w == power_w
    assert recorder.telemetry.sm_clock_hz == 1700 * MHZ
    assert recorder.flags == ()


def test_the_highest_clock_is_asked_for_once() -> None:
    nvml = FakeNvml()
    each = Gpu(nvml, 0)
    assert each.max_sm_clock_hz == 1740 * MHZ
    nvml.allow(nvmlDeviceGetMaxClockInfo=1)
    assert each.max_sm_clock_hz == 1740 * MHZ


def test_a_hot_block_is_throttled() -> None:
    nvml = FakeNvml(nvmlDeviceGetCurrentClocksEventReasons=0x40)
    with Recorder(Gpu(nvml, 0), period_s=60.0) as recorder:
        pass
    assert recorder.flags == (QualityFlag.THROTTLED,)
    assert recorder.telemetry.throttle_reasons == ("hardware thermal slow-down",)


def test_hidden_gpus_are_not_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "load_nvml", lambda: (FakeNvml(), ""))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu.is_present()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert not gpu.is_present()
