"""`medusa-bench profiles`: list, show and check the GPU profiles."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base.errors import ExitCode
from medusa_bench.cli import console
from medusa_bench.cli.options import JSON
from medusa_bench.specs import profiles as gpu_profiles
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.profiles import DeviceProfile

if TYPE_CHECKING:
    from rich.table import Table


@click.group(
    invoke_without_command=True,
    epilog="Example: medusa-bench profiles show h100-sxm",
)
@JSON
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List, show and check the GPU profiles: vendor facts, all dense.

    A card is matched by its exact name and memory. For another card, write a .toml like these and
    give its path wherever a profile's name is asked for; without one, it gets measured roofs only.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, as_json=as_json)
    elif as_json:  # `profiles --json show NAME` as well as `profiles show NAME --json`
        ctx.default_map = {ctx.invoked_subcommand: {"as_json": True}}


@command.command("list")
@JSON
def list_(as_json: bool) -> None:
    """Every shipped profile in one table."""
    profiles = gpu_profiles.all_profiles()
    if as_json:
        console.print_json([_as_json(profile) for profile in profiles])
        return
    console.stdout().print(_overview(profiles))
    console.stdout().print(
        "Dense peaks with tensor cores, TFLOP/s. FP32 is without them.", markup=False
    )


@command.command()
@click.argument("name")
@JSON
def show(name: str, as_json: bool) -> None:
    """One profile, by NAME or path: every figure, and the ridge points."""
    profile = gpu_profiles.load(name)
    if as_json:
        console.print_json(_as_json(profile))
        return
    out = console.stdout()
    out.print(f"{profile.name}: {profile.title}", markup=False)
    out.print(console.table(("", ""), _facts(profile), header=False))
    out.print()
    out.print(
        console.table(
            ("dtype", "peak", "FLOPs per clock, SM", "ridge point"),
            [
                (
                    dtype,
                    console.si(peak, "FLOP/s", 4),
                    str(profile.flops_per_clock_per_sm[dtype]),
                    f"{profile.ridge_point(dtype):.1f} FLOP/byte",
                )
                for dtype, peak in profile.peak_flops_per_s.items()
            ],
        )
    )


@command.command()
@click.argument("name", required=False)
@JSON
def check(name: str | None, as_json: bool) -> ExitCode:
    """Recompute peaks and bandwidth of one profile, by NAME or path, or of all shipped ones.

    A figure "with sparsity" given as dense is refused, as is any other that its SMs, clock and
    memory bus do not make. Exit code 1 if anything is found.
    """
    results = [
        (each, gpu_profiles.check(gpu_profiles.read(each)))
        for each in ([name] if name else gpu_profiles.names())
    ]
    if as_json:
        console.print_json(
            [
                {"profile": each, "findings": [dataclasses.asdict(f) for f in findings]}
                for each, findings in results
            ]
        )
    else:
        out = console.stdout()
        for each, findings in results:
            out.print(f"{each}: {'refused' if findings else 'holds'}", markup=False)
            for finding in findings:
                out.print(f"  {finding.field}: {finding.message}", markup=False)
    return ExitCode.ERROR if any(findings for _, findings in results) else ExitCode.OK


def _overview(profiles: Sequence[DeviceProfile]) -> "Table":
    def tera(profile: DeviceProfile, dtype: Dtype) -> str:
        peak = profile.peak_flops_per_s.get(dtype)
        return f"{peak / 1e12:.1f}" if peak else "-"

    return console.table(
        ("name", "FP16", "TF32", "FP8", "FP32", "GB/s", "GiB", "L2 MiB", "SMs", "W"),
        [
            (
                profile.name,
                tera(profile, Dtype.FLOAT16),
                tera(profile, Dtype.TF32),
                tera(profile, Dtype.FLOAT8),
                tera(profile, Dtype.FLOAT32),
                f"{profile.memory_bandwidth_bytes_per_s / 1e9:.0f}",
                f"{profile.memory_bytes / (1 << 30):g}",
                f"{profile.l2_bytes / (1 << 20):g}",
                str(profile.num_sms),
                f"{profile.power_w:.0f}",
            )
            for profile in profiles
        ],
    )


def _facts(profile: DeviceProfile) -> list[tuple[str, str]]:
    return [
        ("device names", ", ".join(profile.device_names)),
        ("architecture", f"{profile.architecture} ({profile.family})"),
        ("SMs", f"{profile.num_sms}, tensor peaks at {profile.clock_hz / 1e6:.0f} MHz"),
        (
            "memory",
            f"{profile.memory_bytes / (1 << 30):g} GiB, "
            f"{console.si(profile.memory_bandwidth_bytes_per_s, 'B/s', 4)} "
            f"({profile.memory_bus_bits} bits x "
            f"{profile.memory_data_rate_bits_per_s / 1e9:g} Gbit/s)",
        ),
        ("L2 cache", f"{profile.l2_bytes / (1 << 20):g} MiB"),
        ("power", f"{profile.power_w:.0f} W"),
        ("figures", "dense, as the vendor states them"),
        ("source", profile.source),
    ]


def _as_json(profile: DeviceProfile) -> dict[str, Any]:
    return {
        **dataclasses.asdict(profile),
        "density": "dense",
        "ridge_point_flops_per_byte": {
            dtype: profile.ridge_point(dtype) for dtype in profile.peak_flops_per_s
        },
    }
