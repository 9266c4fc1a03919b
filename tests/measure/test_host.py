"""What the operating system tells, from made-up /proc and /sys trees."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from medusa_bench.measure import host
from medusa_bench.measure.cpu import Threads, choose_threads
from medusa_bench.measure.host import CpuTimes, Usage


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_clock_set_back_does_not_turn_times_round() -> None:
    wall_s, passed_s = [1_000.0], [50.0]
    steady = host.SteadyTime(lambda: wall_s[0], lambda: passed_s[0])
    assert steady() == 1_000.0
    wall_s[0], passed_s[0] = 400.0, 60.0
    assert steady() == 1_010.0


def test_a_copy_of_a_steady_time_in_another_process_tells_the_same() -> None:
    steady = host.SteadyTime()
    copy = pickle.loads(pickle.dumps(steady))
    before, told, after = steady(), copy(), steady()
    assert before <= told <= after


def test_hyper_threads_of_one_core_count_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            f"devices/system/cpu/cpu{cpu}/topology/{name}": value
            for cpu in range(8)
            for name, value in (("physical_package_id", "0\n"), ("core_id", f"{cpu % 4}\n"))
        },
    )
    assert host.num_physical_cores(frozenset(range(8)), tmp_path) == 4
    assert host.num_physical_cores(frozenset({0, 4}), tmp_path) == 1


def test_without_a_topology_every_processor_is_a_core(tmp_path: Path) -> None:
    assert host.num_physical_cores(frozenset(range(3)), tmp_path) == 3


def test_a_cache_that_cores_share_counts_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            f"devices/system/cpu/cpu{cpu}/cache/index3/{name}": value
            for cpu in range(4)
            for name, value in (
                ("size", "32768K"),
                ("shared_cpu_list", "0-1" if cpu < 2 else "2-3"),
            )
        },
    )
    assert host.l3_bytes(frozenset(range(4)), tmp_path) == 64 << 20
    assert host.l3_bytes(frozenset({0}), tmp_path) == 32 << 20
    assert host.l3_bytes(frozenset({9}), tmp_path) is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            {
                "fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        ({"fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, None),
        ({"fs/cgroup/cpu.max": "nonsense\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_read_in_both_versions_of_cgroups(
    tmp_path: Path, files: Mapping[str, str], quota: float | None
) -> None:
    assert host.cpu_quota(write(tmp_path, files)) == quota


def test_available_memory_is_what_the_container_leaves(tmp_path: Path) -> None:
    proc = write(tmp_path / "proc", {"meminfo": "MemTotal: 64000 kB\nMemAvailable: 32000 kB\n"})
    sys = write(
        tmp_path / "sys",
        {"fs/cgroup/memory.max": "20480000\n", "fs/cgroup/memory.current": "10240000\n"},
    )
    empty = tmp_path / "empty"
    assert host.available_memory_bytes(proc, empty) == 32000 * 1024
    assert host.available_memory_bytes(proc, sys) == 10240000
    assert host.available_memory_bytes(empty, empty) is None
    assert host.total_memory_bytes(proc, empty) == 64000 * 1024
    assert host.total_memory_bytes(proc, sys) == 20480000


def test_processor_times_leave_out_idleness_and_keep_steal_apart(tmp_path: Path) -> None:
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    proc = write(
        tmp_path,
        {"stat": "cpu 9 9 9 9 9 9 9 9 0 0\ncpu0 10 20 30 400 5 1 2 7 10 0\nintr 1 2\ncpu1 bad\n"},
    )
    assert host.cpu_times(proc) == {
        0: CpuTimes(
            busy_s=pytest.approx(63 * tick_s),
            idle_s=pytest.approx(405 * tick_s),
            steal_s=pytest.approx(7 * tick_s),
        )
    }


def test_busy_shares_are_of_the_window_and_of_allowed_processors() -> None:
    readings = iter(
        [
            {0: CpuTimes(1.0, 1.0, 0.0), 1: CpuTimes(5.0, 5.0, 0.0), 2: CpuTimes(0, 0, 0)},
            {0: CpuTimes(1.05, 1.15, 0.0), 1: CpuTimes(5.0, 5.2, 0.0), 2: CpuTimes(9, 0, 0)},
        ]
    )
    slept: list[float] = []
    shares = host.busy_shares(
        frozenset({0, 1}), window_s=0.2, sleep=slept.append, times=lambda: next(readings)
    )
    assert shares == pytest.approx({0: 0.25, 1: 0.0})
    assert slept == [0.2]


@pytest.mark.parametrize(
    ("elapsed_s", "waited_s", "steal_s", "contended"),
    [
        (0.05, 0.0, 0.0, False),
        (0.05, 0.0004, 0.0, False),
        (0.05, 0.002, 0.0, False),
        (0.05, 0.006, 0.0, True),
        (1.0, 0.015, 0.0, False),
        (1.0, 0.13, 0.0, True),
        (1.0, 0.03, 0.0, False),
        (0.05, 0.0, 0.01, False),  # one tick says nothing
        (0.05, 0.0, 0.02, True),
        (10.0, 0.0, 0.05, False),
    ],
)
def test_contention_is_time_in_the_run_queue_or_stolen(
    elapsed_s: float, waited_s: float, steal_s: float, contended: bool
) -> None:
    before = Usage(100.0, 7.0, 3.0)
    after = Usage(100.0 + elapsed_s, 7.0 + waited_s, 3.0 + steal_s)
    assert before.was_contended(after) is contended


def test_time_in_the_run_queue_is_summed_over_threads(tmp_path: Path) -> None:
    for thread, text in {"7": "900 2000000 5", "8": "900 500000 5", "9": "off"}.items():
        folder = tmp_path / "self" / "task" / thread
        folder.mkdir(parents=True)
        (folder / "schedstat").write_text(text)
    assert host.waited_s(tmp_path) == pytest.approx(0.0025)
    assert host.waited_s(tmp_path / "nothing") == 0


# -- threads ------------------------------------------------------------------------------------


def threads(
    requested: int | None = None,
    from_environment: str | None = None,
    quota: float | None = None,
    busy: Mapping[int, float] | None = None,
) -> Threads:
    return choose_threads(
        requested,
        from_environment=from_environment,
        cpus=frozenset(range(8)),
        num_cores=4,
        quota=quota,
        busy_shares=lambda: busy or dict.fromkeys(range(8), 0.01),
    )


def test_threads_are_the_physical_cores_allowed() -> None:
    assert threads() == Threads(4, None, "the physical cores allowed")
    assert threads(quota=2.5).count == 2
    assert threads(quota=0.5).count == 1


def test_what_is_asked_for_comes_before_the_environment_and_before_the_cores() -> None:
    assert threads(requested=3, from_environment="2").count == 3
    assert threads(from_environment="2").count == 2
    assert threads(from_environment="many").count == 4


def test_where_others_are_busy_one_thread_is_pinned_to_the_quietest_processor() -> None:
    chosen = threads(busy={0: 0.9, 1: 0.02, 2: 0.9})
    assert (chosen.count, chosen.pinned_to) == (1, 1)
    assert "1.8 of 8" in chosen.reason
