"""`medusa-bench doctor`: what this machine can measure, what is missing, what spoils a number."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medusa_bench.base.errors import ExitCode
from medusa_bench.cli import console
from medusa_bench.cli.options import JSON

if TYPE_CHECKING:
    from medusa_bench.measure.doctor import Check, Checkup, DeviceReport


@click.command(epilog="Example: medusa-bench doctor")
@JSON
def command(as_json: bool) -> int:
    """Say what this machine can measure, what is missing, and what would spoil a number.

    Looks at the processor, the GPUs, memory and disk, and opens each device once; nothing is
    measured. Exit code 1 if nothing can be.
    """
    from medusa_bench.measure import doctor

    found = doctor.look(Path.cwd())
    if as_json:
        console.print_json(_as_json(found))
    else:
        _print(found)
    return ExitCode.OK if found.can_measure else ExitCode.ERROR


def _print(found: "Checkup") -> None:
    out = console.stdout()
    rows = [_row(report) for report in found.devices]
    title = "This machine can measure" if found.can_measure else "Nothing can be measured here"
    out.print(console.table(("--device", "name", "memory", "dtypes", "profile"), rows, title))
    if not found.findings:
        out.print("\nNothing was found that would spoil a number.")
    for finding in found.findings:
        _print_finding(finding)


def _row(report: "DeviceReport") -> tuple[str, ...]:
    environment = report.environment
    if environment is None:
        return (report.device, report.name, "", "none", "")
    memory = f"{environment.memory_bytes / 2**30:.1f} GiB"
    if environment.device_type == "cpu":
        threads = environment.num_threads or 1
        name = f"{report.name}, {threads} {'thread' if threads == 1 else 'threads'}"
        return (report.device, name, memory, " ".join(report.dtypes), "")
    return (report.device, report.name, memory, " ".join(report.dtypes), report.profile or "none")


def _print_finding(finding: "Check") -> None:
    out = console.stdout()
    out.print(f"\n{finding.severity}: {finding.subject}", markup=False, style="bold")
    out.print(f"  {finding.message}", markup=False)
    out.print(f"  Remedy: {finding.remedy}", markup=False)


def _as_json(found: "Checkup") -> dict[str, Any]:
    return {
        "can_measure": found.can_measure,
        "devices": [
            {
                "device": report.device,
                "name": report.name,
                "can_measure": report.environment is not None,
                "reason": report.reason or None,
                "memory_bytes": report.environment and report.environment.memory_bytes,
                "num_threads": report.environment and report.environment.num_threads,
                "torch": report.environment and report.environment.torch,
                "driver": (report.environment and report.environment.driver) or None,
                "dtypes": list(report.dtypes),
                "profile": report.profile,
                "details": dict(report.environment.details) if report.environment else {},
            }
            for report in found.devices
        ],
        "findings": [
            {
                "severity": finding.severity,
                "subject": finding.subject,
                "message": finding.message,
                "remedy": finding.remedy,
            }
            for finding in found.findings
        ],
    }
