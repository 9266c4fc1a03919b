"""What stands where no option says it: GPU, results, dtype, models of the hub, words of habit."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.shell_completion import ShellComplete

from medusa_bench.base.errors import ExitCode, MedusaBenchError
from medusa_bench.cli import group, here, run
from medusa_bench.cli.options import parse_counts
from medusa_bench.results.folders import Writer
from medusa_bench.results.rows import Environment, Measurement, Task, Timing
from medusa_bench.specs.dtypes import Dtype
from medusa_bench.specs.products import Product

CARD = "NVIDIA H100 80GB HBM3"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEDUSA_BENCH_GPU", raising=False)
    monkeypatch.setattr(here, "present", lambda: None)
    monkeypatch.chdir(tmp_path)


def write_results(folder: str, device: str, *dtypes: Dtype) -> None:
    environment = Environment(device, "cuda", 80 << 30)
    with Writer(Path(folder), environment) as writer:
        for index, dtype in enumerate(dtypes):
            task = Task(Product(1, 1 + index, 64, 64), dtype, Timing.KERNEL)
            writer.append(Measurement(task, 0, 1e-5, 1e-5, 1e-5, 1e-5, 10))


# -- the GPU and the dtype -----------------------------------------------------------------------


def test_gpu_is_the_one_asked_for_then_the_variable_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "present", lambda: CARD)
    assert here.gpu("a40") == "a40"
    monkeypatch.setenv("MEDUSA_BENCH_GPU", "l40s,a40")
    assert here.gpus(()) == ("l40s", "a40")
    assert here.gpus(("h100-sxm",)) == ("h100-sxm",)


def test_gpu_is_the_one_here_by_its_newest_results_or_its_profile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(here, "present", lambda: CARD)
    write_results("results/other", "NVIDIA A40", Dtype.FLOAT16)
    assert here.gpu(None) == CARD
    assert "predicted from its profile" in " ".join(capsys.readouterr().err.split())
    write_results("results/mine", CARD, Dtype.FLOAT16)
    assert here.gpu(None) == "results/mine"
    assert "GPU: results/mine" in capsys.readouterr().err


def test_gpu_without_a_card_is_the_newest_results_but_the_papers() -> None:
    write_results("results/paper", CARD, Dtype.FLOAT16)
    with pytest.raises(MedusaBenchError):
        here.gpu(None)
    write_results("results/old", CARD, Dtype.FLOAT16)
    write_results("results/new", CARD, Dtype.FLOAT16)
    for name in ("run.json", "points.jsonl"):
        os.utime(f"results/old/{name}", (1, 1))
    assert here.gpu(None) == "results/new"


@pytest.mark.parametrize("command", ["compare", "schedule", "predict", "advise"])
def test_nothing_here_asks_for_a_gpu_and_the_hint_works(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "-m", "llama-3-8b"]) == ExitCode.ERROR
    err = capsys.readouterr().err
    assert "for which GPU?" in err
    assert "--gpu h100-sxm" in err
    narrow = ["-b", "1"] if command != "schedule" else ["--max-batch-size", "1"]
    assert run([command, "-m", "llama-3-8b", "--gpu", "h100-sxm", *narrow]) == ExitCode.OK


@pytest.mark.parametrize("command", ["roofline", "report"])
def test_no_results_here_is_said_and_the_hint_works(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command]) == ExitCode.ERROR
    assert "There are no results under ./results." in capsys.readouterr().err
    assert run([command, "results/paper"]) == ExitCode.OK


def test_dtype_follows_the_folder() -> None:
    write_results("results/cpu", "a CPU", Dtype.FLOAT32, Dtype.FLOAT32, Dtype.BFLOAT16)
    assert here.dtype(None, "results/cpu") == "float32"
    assert here.dtype("bfloat16", "results/cpu") == "bfloat16"
    assert here.dtype(None, "h100-sxm") == "float16"


# -- models of the hub ---------------------------------------------------------------------------

CONFIG = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000,
}  # fmt: skip


class _Hub(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        body = json.dumps(CONFIG).encode()
        found = self.path == "/owner/Tiny-1B/resolve/main/config.json"
        self.send_response(200 if found else 404)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "0123456789012345678901234567890123456789")
        if not found:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body) if found else 0))
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 -- the name that http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    _Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def medusa_bench(hub: ThreadingHTTPServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads where the hub is when it is imported."""
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(Path.cwd() / "cache"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-m", "medusa_bench", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def asked_of_models() -> list[str]:
    """Without what huggingface_hub asks the hub about itself."""
    return [line for line in _Hub.asked if " /owner/" in line]


def test_a_model_of_the_hub_is_its_config_alone_and_then_of_the_cache(
    hub: ThreadingHTTPServer,
) -> None:
    first = medusa_bench(hub, "operators", "-m", "owner/Tiny-1B", "--json")
    assert first.returncode == 0, first.stderr
    assert {row["model"] for row in json.loads(first.stdout)} == {"tiny-1b"}
    assert {line.split()[1] for line in asked_of_models()} == {
        "/owner/Tiny-1B/resolve/main/config.json"
    }
    assert {path.name for path in Path("cache").rglob("snapshots/*/*")} == {"config.json"}
    _Hub.asked.clear()
    again = medusa_bench(hub, "operators", "-m", "owner/Tiny-1B", "--json", "--offline")
    assert again.stdout == first.stdout
    assert _Hub.asked == []


def test_offline_and_an_unknown_name_end_with_a_sentence(hub: ThreadingHTTPServer) -> None:
    offline = medusa_bench(hub, "compare", "--gpu", "a40", "-m", "owner/Tiny-1B", "--offline")
    assert offline.returncode == 1
    assert "not in the local cache" in offline.stderr
    assert _Hub.asked == []
    unknown = medusa_bench(hub, "compare", "--gpu", "a40", "-m", "owner/nothing")
    assert unknown.returncode == 1
    assert "the hub does not give its config.json" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    assert len(asked_of_models()) == 1


# -- words of habit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("8k", (8192,)),
        ("1-64", (1, 2, 4, 8, 16, 32, 64)),
        ("1..100", (1, 2, 4, 8, 16, 32, 64, 100)),
        ("4k-10k", (4096, 8192, 10240)),
    ],
)
def test_counts_as_people_write_them(text: str, counts: tuple[int, ...]) -> None:
    assert parse_counts(text) == counts


def test_half_a_name_of_a_gpu_asks_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--gpu", "h100"]) == ExitCode.ERROR
    err = capsys.readouterr().err
    assert all(name in err for name in ("h100-sxm", "h100-pcie", "h100-nvl"))


def test_an_engine_by_its_other_name(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["schedule", "--gpu", "a40", "-m", "llama-7b", "--max-batch-size", "2"]
    assert run([*asked, "--engine", "trtllm"]) == ExitCode.OK
    short = capsys.readouterr().out
    assert run([*asked, "--engine", "tensorrt-llm"]) == ExitCode.OK
    assert capsys.readouterr().out == short


def test_the_models_variable_names_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDUSA_BENCH_MODEL", "llama-13b")
    assert run(["compare", "--gpu", "a40", "-b", "1", "--json"]) == ExitCode.OK
    (device,) = json.loads(capsys.readouterr().out)["devices"]
    assert {row["model"] for row in device["comparisons"]} == {"llama-13b"}


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["compare", "--gpu", "h100-s"], "h100-sxm"),
        (["compare", "--gpu", "a40,h100-s"], "a40,h100-sxm"),
        (["compare", "-m", "llama-3-8"], "llama-3-8b"),
        (["predict", "-m", "llama-3-8"], "llama-3-8b"),
        (["schedule", "--method", "eagle-"], "eagle-3"),
    ],
)
def test_a_shell_completes_gpus_models_and_methods(words: list[str], completed: str) -> None:
    complete = ShellComplete(group, {}, "medusa-bench", "_MEDUSA_BENCH_COMPLETE")
    items = complete.get_completions(words[:-1], words[-1])
    assert completed in [item.value for item in items]


# -- advise --------------------------------------------------------------------------------------


def test_advise_recommends_only_what_the_engine_serves(capsys: pytest.CaptureFixture[str]) -> None:
    from medusa_bench.compare.methods import METHODS

    asked = ["advise", "--gpu", "h100-sxm", "-m", "llama-3-8b", "-b", "1,8", "--json"]
    assert run([*asked, "--engine", "sglang"]) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    for row in document["best"]:
        assert row["source"] == "simulated"
        assert row["method"] == "vanilla" or "sglang" in METHODS[row["method"]].engines
    assert "sglang.launch_server" in document["launch"]
    assert all(name in METHODS for name in document["left_out"])


def test_advise_names_the_weights_as_the_engine_loads_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["advise", "--gpu", "h100-sxm", "-m", "llama-3-8b", "-b", "1"]
    served = ["--served-model", "meta/Llama", "--served-draft", "someone/Drafter"]
    assert run([*asked, *served]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "vllm serve meta/Llama " in out
    assert '"someone/Drafter"' in out


def test_advise_calibrates_a_card_without_results_for_20_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medusa_bench.cli import calibrate

    limits = []

    def measured(*arguments: object) -> tuple[Path, None]:
        limits.append(arguments[-1])
        write_results("results/mine", CARD, *[Dtype.FLOAT16] * 12)
        return Path("results/mine"), None

    monkeypatch.setattr(here, "present", lambda: CARD)
    monkeypatch.setattr(calibrate, "measured", measured)
    for _ in range(2):
        assert run(["advise", "-m", "llama-3-8b", "-b", "1"]) == ExitCode.OK
    assert limits == [20.0]
    assert "Calibrating the NVIDIA H100" in capsys.readouterr().err


# -- mistakes ------------------------------------------------------------------------------------


def test_a_mistyped_folder_is_said_with_the_one_that_is_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_results("results/my-h100", CARD, *[Dtype.FLOAT16] * 12)
    assert run(["compare", "--gpu", "results/my-h10", "-b", "1"]) == ExitCode.ERROR
    err = capsys.readouterr().err
    assert "There is no results folder and no profile at results/my-h10." in err
    assert "did you mean results/my-h100?" in err
    assert run(["compare", "--gpu", "results/my-h100", "-b", "1"]) == ExitCode.OK


def test_half_a_name_with_a_slip_still_names_the_cards_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["compare", "--gpu", "a100x"]) == ExitCode.ERROR
    assert "a100-" in capsys.readouterr().err


def test_a_sweep_that_cannot_be_written_starts_no_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medusa_bench.measure import client

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(client, "WorkerBackend", never)
    Path("file").write_text("")
    for folder in ("file/results", "/proc/nowhere"):
        assert run(["sweep", "--quick", "--device", "cpu", "-o", folder]) == ExitCode.STORAGE
        assert f"{folder} cannot be written" in capsys.readouterr().err
