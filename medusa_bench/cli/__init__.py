"""The command line: one file per command here, loaded only when it is called."""

import errno
import importlib
import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import click

from medusa_bench import __version__
from medusa_bench.base.errors import ExitCode, MedusaBenchError, StorageError
from medusa_bench.base.exits import printable

# name -> one line of help, by what one wants; the module medusa_bench.cli.<name> holds the command.
_GROUPS = {
    "Decide": {
        "advise": "What to launch on this GPU for a model: a sentence, a table, the launch line.",
        "compare": "Compare vanilla, Medusa and speculative decoding: where does it pay?",
        "schedule": "Write the draft length by batch size as a serving engine reads it.",
        "tree": "Grow, show and export candidate trees, for a GPU's cost curve too.",
        "report": "Write one HTML page that shows results, for a colleague without this tool.",
    },
    "Measure": {
        "sweep": "Measure this machine's operators; stop and resume at will.",
        "results": "Show, export, merge, compare and verify results folders.",
        "roofline": "Set results under the roofline, as a figure or in the terminal.",
        "explain": "Why measured points are below their roof, ranked by lost time.",
        "cliffs": "Find the steps of latency over rows: how many rows to choose.",
        "calibrate": "Fit a few parameters to a few points, and this device can be predicted.",
        "doctor": "Say what this machine can measure, and what would spoil a number.",
    },
    "Predict": {
        "predict": "Predict latencies on any GPU, and score predictions against measurements.",
        "operators": "Print the operator table, with symbols and with numbers.",
        "profiles": "List, show and check the GPU profiles.",
        "acceptance": "Show acceptance models, and read what vLLM counted.",
    },
    "Generate": {
        "generate": "Compare by generating text with a real model, beside what is simulated.",
        "serving": "Measure a running server, beside a vanilla one and what is simulated.",
        "train": "Train Medusa heads for a model on text that it writes itself.",
        "heads": "Measure how often a file of Medusa heads is right, on your own prompts.",
        "merge": "Add a LoRA adapter into a model's weights: a plain checkpoint.",
    },
    "The paper": {
        "reproduce": "Set the Medusa paper beside ours: tables, figures, each finding.",
        "figures": "Redraw the paper's figures 6, 7 and 9 to 23 for a paper of yours.",
    },
}
COMMANDS = {name: words for group in _GROUPS.values() for name, words in group.items()}


class LazyGroup(click.Group):
    """Loads a command's module when it is called, so that --help loads none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"medusa_bench.cli.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), words) for name, words in commands.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: medusa-bench compare --gpu h100-sxm -m llama-3-8b",
)
@click.version_option(__version__, "-V", "--version", prog_name="medusa-bench")
def group() -> None:
    """Does parallel decoding pay here: Medusa heads, a draft model, or nothing?

    Measures a transformer block's matrix products on this machine, sets them under its roofline,
    and compares vanilla, speculative and Medusa decoding.
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with an ExitCode."""
    _open_closed_streams()
    _hang_up_as_interrupt()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name from a file must not end in a traceback where the locale cannot write it.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(args))


def _open_closed_streams() -> None:
    """Where stdout or stderr was closed (`>&-`), what is written goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
            setattr(sys, name, nowhere)


def _hang_up_as_interrupt() -> None:
    """A closed terminal stops a command as Ctrl-C does; under nohup it goes on."""
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) is signal.SIG_DFL:
        signal.signal(hang_up, signal.default_int_handler)


def run(args: list[str] | None = None) -> int:
    """Run one command; its exit code. Errors that the user can mend become two lines."""
    try:
        arguments = sys.argv[1:] if args is None else args
        result: Any = group.main(
            arguments,
            prog_name="medusa-bench",
            standalone_mode=False,
            obj=tuple(arguments),  # a sweep records the command line, and prints the one to go on
        )
        return int(result) if isinstance(result, int) else ExitCode.OK
    except (click.exceptions.Abort, KeyboardInterrupt):
        with suppress(OSError):
            click.echo("Interrupted.", err=True)
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except MedusaBenchError as error:
        return _say(error)
    except BrokenPipeError:
        from medusa_bench.cli import console

        console.stop_writing()
        return ExitCode.OK
    except OSError as error:
        if error.strerror is None:
            raise  # not the system's word on a file
        return _say(_of_system(error))


def _say(error: MedusaBenchError) -> ExitCode:
    click.echo(printable(f"Error: {error.message}"), err=True)
    if error.hint:
        click.echo(printable(f"Hint: {error.hint}"), err=True)
    return error.exit_code


def _of_system(error: OSError) -> MedusaBenchError:
    sentence = f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
        return StorageError(sentence, hint="make room, or write elsewhere, and repeat the command.")
    return MedusaBenchError(sentence)
