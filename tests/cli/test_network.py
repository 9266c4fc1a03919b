"""No command asks the network unless it is given OWNER/NAME of the Hugging Face hub."""

import socket
from pathlib import Path
from typing import Any

import pytest

from medusa_bench import cli
from medusa_bench.base.errors import ExitCode

TINY = ("-b", "1", "-s", "128")
# {} is an empty folder. What fails here fails for want of a model of that name, at once.
WITHOUT_A_HUB_NAME = [
    ("sweep", "--dry-run", "--device", "a40", *TINY),
    ("roofline", "results/paper", "--text"),
    ("compare", *TINY),
    ("compare", "--gpu", "h100-sxm", "-m", "llama-7c", *TINY),
    ("advise", "--gpu", "h100-sxm", "-m", "llama-3-8b"),
    ("generate", "llama-7c", "--heads", "{}"),
    ("generate", "{}"),
    ("serving", "--help"),
    ("serving", "http://serving.example", "--rounds", "1"),
    ("report", "results/paper", "-o", "{}/report.html"),
    ("predict", "-m", "llama-7b", "--operator", "up", "--phase", "decode", *TINY),
    ("calibrate", "--from", "results/paper", "-o", "{}/calibration.json"),
    ("explain", "results/paper"),
    ("cliffs", "results/paper"),
    ("tree", "-q", "16"),
    ("schedule", "--max-batch-size", "2"),
    ("acceptance",),
    ("train", "./no-such-model", "-o", "{}/heads"),
    ("merge", "no-such-model", "{}", "-o", "{}/merged"),
    ("heads", "no-such-model", "{}"),
    ("reproduce", "--help"),
    ("figures", "--help"),
    ("results", "show", "results/paper"),
    ("operators", "-m", "llama-7b"),
    ("profiles", "list"),
    ("doctor", "--help"),
]


class NetworkError(Exception):
    """A connection was tried."""


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    connect = socket.socket.connect

    def refuse(*_: Any, **__: Any) -> None:
        raise NetworkError

    def refuse_internet(own: socket.socket, address: Any) -> None:
        if own.family in {socket.AF_INET, socket.AF_INET6}:
            raise NetworkError(address)
        connect(own, address)  # to a process of this machine

    monkeypatch.setattr(socket.socket, "connect", refuse_internet)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("arguments", WITHOUT_A_HUB_NAME, ids=" ".join)
def test_nobody_is_asked(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = str(tmp_path / "empty")
    code = cli.run([each.replace("{}", folder) for each in arguments])
    assert code in {ExitCode.OK, ExitCode.ERROR}


@pytest.mark.usefixtures("guarded")
def test_the_guard_notices_who_asks() -> None:
    from medusa_bench.decode.engine import hub

    with pytest.raises(NetworkError):
        hub.fetched("owner/model", offline=False)


def test_every_command_is_among_them() -> None:
    assert {arguments[0] for arguments in WITHOUT_A_HUB_NAME} == set(cli.COMMANDS)
