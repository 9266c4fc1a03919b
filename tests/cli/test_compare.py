"""`compare`, `tree`, `schedule` and `acceptance` as a user calls them."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from medusa_bench.cli import run
from medusa_bench.compare import named
from tests.builders.latencies import SmoothLatency

TABLE = """\
method  batch size    step tokens speedup 90 %
vanilla     1    1  523 us   1.00    1.00
medusa      1   96  585 us   3.18    2.84 2.48-3.25
vanilla    64    1 1.26 ms   1.00    1.00
medusa     64   16 2.77 ms   2.32    1.06 0.92-1.21 ?
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on GPUs whose latencies can be worked out; its exit code, stdout, stderr."""

    def latency_models(names: Sequence[str], **_: object) -> list[SmoothLatency]:
        speeds = {"fast": 2.0, "slow": 0.2}
        return [
            SmoothLatency(
                device=name,
                spread=0.1,
                bandwidth_bytes_per_s=1.5e12 * speeds.get(name, 1.0),
                peak_flops_per_s=2.3e14 * speeds.get(name, 1.0),
            )
            for name in names
        ]

    monkeypatch.setattr(named, "latency_models", latency_models)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*args: str) -> tuple[int, str, str]:
        code = run(list(args))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_compare_answers_first_then_shows_its_table_and_says_why(mb: Run) -> None:
    code, out, _ = mb("compare", "--batch-size", "1,16", "--why")
    assert code == 0
    starts = (
        "At 1024 cached tokens, use ",
        "How sure: ",
        "What would change it: ",
        "method",
        "Simulated: ",
        "Up to where: ",
        "Stands on ",
    )
    found = [out.index(start) for start in starts]
    assert found == sorted(found)
    assert found[0] == 0


@pytest.mark.parametrize("gpu", ["paper", "h100-sxm"])
def test_table_of_every_method_fits_80_columns(
    capsys: pytest.CaptureFixture[str], gpu: str
) -> None:
    from medusa_bench.compare.methods import METHODS

    options = ["--acceptance", "chain:0.9", "-m", "llama-33b", "-b", "1,256", "--engine", "none"]
    assert run(["compare", "--gpu", gpu, "--method", ",".join(METHODS), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("method"))
    table = lines[start : lines.index(next(line for line in lines if "Simulated" in line))]
    assert len(table) == 1 + 2 * len(METHODS)
    assert max(map(len, table)) <= 80


@pytest.mark.parametrize(
    "args",
    [
        ["compare", "--method", "medusa", "--batch-size", "1"],
        ["schedule", "--draft", "llama-68m", "--max-batch-size", "2"],
        ["tree", "--gpu", "fast", "--num-candidates", "8"],
    ],
)
def test_what_is_not_counted_of_a_model_stands_in_every_output(mb: Run, args: list[str]) -> None:
    noted = Path(__file__).parents[1] / "fixtures/sees-images"
    code, out, err = mb(*args, "--model", str(noted), "--json")
    assert code == 0
    assert "vision model" in err
    assert any("vision model" in words for words in json.loads(out)["warnings"])


def test_what_acceptance_must_be_is_solved_and_a_reported_speedup_turned_round(mb: Run) -> None:
    options = ["-m", "mistral-7b", "--method", "eagle-3", "--gpu", "fast"]
    code, out, _ = mb("compare", *options, "--solve", "acceptance", "-b", "1")
    assert code == 0
    assert "tokens a step" in out.splitlines()[1]
    code, out, _ = mb("compare", *options, "--reported-speedup", "1.5", "-b", "1,64", "--json")
    first, second = json.loads(out)["devices"][0]["comparisons"]
    assert first["speedup"] == pytest.approx(1.5)
    assert second["acceleration_rate"] == first["acceleration_rate"]
    assert "reported speedup of 1.5" in first["acceptance_source"]
    code, _, err = mb("compare", *options, "--reported-speedup", "60", "-b", "1")
    assert (code, "more than the 60 that are verified" in " ".join(err.split())) == (1, True)


def test_what_the_model_or_the_engine_cannot_is_never_recommended(mb: Run) -> None:
    options = ["-m", "llama-3-8b", "--gpu", "fast", "-b", "1", "--json"]
    more = ["--method", "mtp,medusa,draft-model,eagle-3", "--draft", "llama-68m"]
    more += ["--engine", "vllm", "--acceptance", "chain:0.9"]
    (device,) = json.loads(mb("compare", *options, *more)[1])["devices"]
    reasons = {row["method"]: row["unfit"] for row in device["comparisons"]}
    assert "no layers" in reasons["mtp"]
    assert "vocabulary of 32000" in reasons["draft-model"]
    assert "vllm does not serve it; text-generation-inference can" in reasons["medusa"]
    assert reasons["eagle-3"] is None
    assert "use eagle-3 at" in device["verdict"][0]
    assert {row["draft_len"] for row in device["comparisons"] if row["method"] == "eagle-3"} > {3}


def test_compares_table_text(mb: Run) -> None:
    _, out, _ = mb("compare", "--method", "vanilla,medusa", "--batch-size", "1,64")
    lines = [line.rstrip() for line in out.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("method"))
    assert lines[start : start + 5] == TABLE.splitlines()


def test_compare_json_holds_every_row_with_its_sources(mb: Run) -> None:
    code, out, _ = mb("compare", "--batch-size", "1,4", "--num-candidates", "1,64", "--json")
    assert code == 0
    (device,) = json.loads(out)["devices"]
    assert len(device["comparisons"]) == 2 * (2 + 15)
    for row in device["comparisons"]:
        assert row["speedup"] == pytest.approx(row["acceleration_rate"] / row["overhead"], abs=1e-9)
        assert row["source"] == "simulated"
        assert row["latency_source"] == "smooth"
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
    assert [end["method"] for end in device["break_even"]] == ["medusa", "draft-model"]
    assert len(device["verdict"]) == 3
    assert device["why"][0].startswith("Up to where: ")


def test_engines_costs_and_whole_steps_count_unless_it_is_the_papers_gpu(mb: Run) -> None:
    def row(*options: str) -> dict[str, object]:
        sizes = ["--batch-size", "64", "--num-candidates", "4", "--method", "medusa", "--json"]
        (device,) = json.loads(mb("compare", *sizes, *options)[1])["devices"]
        return dict(device["comparisons"][0])

    papers, served = row(), row("--gpu", "fast")
    assert (papers["engine"], papers["block"], papers["half_width"]) == ("none", "paper", None)
    assert served["block"] == "full"
    assert served["engine"] == "a serving engine of unknown name"
    named = row("--gpu", "fast", "--engine", "vllm", "--engine-version", "0.11")
    assert named["engine"] == "vllm V1"
    assert named["half_width"] < served["half_width"]  # type: ignore[operator]
    alone = row("--gpu", "fast", "--engine", "none")
    assert alone["speedup"] > served["speedup"]  # type: ignore[operator]
    code, _, err = mb("compare", "--engine", "vlm")
    assert (code, "did you mean vllm" in err) == (1, True)


def test_against_scores_published_speedups(tmp_path: Path, mb: Run) -> None:
    file = tmp_path / "published.csv"
    head = "setting,gpu,model,engine,method,shape,draft_len,batch_size,tokens_per_step,speedup\n"
    good = "{0},h100-sxm,llama-3-8b,vllm,eagle-3,chain,3,{1},2.5,{2}\n"
    rows = [good.format("a", 1, 1.7), good.format("a", 64, 0.9), good.format("b", 8, 1.5)]
    file.write_text(head + "".join(rows) + good.format("b", 8, "none"))
    code, out, _ = mb("compare", "--against", str(file), "--leave-out", "setting", "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["rows"], document["scored"]) == (4, 3)
    assert document["refused"] == {"no speedup": 1}
    assert set(document["groups"]) == {"setting", "engine", "method", "gpu"}
    assert document["groups"]["setting"]["a"]["rows"] == 2
    assert document["break_even"][0]["reported"] == [1, 64]
    code, out, _ = mb("compare", "--against", str(file), "--fit-on", str(file))
    assert code == 0
    assert "3 of 4 published speedups can be simulated" in out
    assert max(map(len, out.splitlines())) <= 80
    file.write_text(head)
    assert json.loads(mb("compare", "--against", str(file), "--json")[1])["scored"] == 0
    assert mb("compare", "--against", str(tmp_path / "none.csv"))[0] == 1
    assert mb("compare", "--fit-on", str(file))[0] == 2


def test_several_contexts_make_a_map_in_the_terminal_and_as_a_file(mb: Run, tmp_path: Path) -> None:
    code, out, err = mb(
        "compare", "--method", "medusa", "--seq-len", "128,8192", "--batch-size", "1,64",
        "--map", str(tmp_path / "map.svg"), "--curves", str(tmp_path / "curves.png"),
    )  # fmt: skip
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["128", "2.87@96", "1.00-@1"] in rows
    assert ["8192", "2.65@64", "1.74@16"] in rows
    assert (tmp_path / "map.svg").read_text().startswith("<?xml")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert err.count("Wrote") == 2


def test_the_default_is_the_papers_gpu_with_its_harness_and_finds_64_candidates(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["compare", "--method", "medusa", "--num-candidates", "1..128:+1", "--batch-size", "1"]
    assert run([*args, "--json"]) == 0
    (device,) = json.loads(capsys.readouterr().out)["devices"]
    (best,) = device["best"]
    assert (device["device"], best["num_candidates"]) == ("a100-80gb-pcie", 64)
    assert "2401.10774" in best["latency_source"]


def test_a_results_folder_gives_its_own_numbers_and_says_where_it_has_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["compare", "--gpu", "results/paper", "--model", "llama-33b", "--method", "medusa"]
    assert run([*args, "--batch-size", "16", "--json"]) == 0
    (device,) = json.loads(capsys.readouterr().out)["devices"]
    sources = {row["latency_source"] for row in device["comparisons"]}
    assert all("reported" in source for source in sources)


def test_several_gpus_are_set_side_by_side(mb: Run) -> None:
    code, out, _ = mb("compare", "--gpu", "fast,slow", "--block", "full", "--batch-size", "1")
    assert code == 0
    assert "The best of each GPU" in out
    assert out.startswith("fast: At 1024 cached tokens, ")
    assert "\nslow: At 1024 cached tokens, " in out
    line = next(
        line
        for line in out.splitlines()
        if line.startswith("1024 ".rjust(8)) or "tokens/s," in line
    )
    assert line.count("tokens/s,") == 2


def test_draft_grid_is_a_figure_and_needs_draft_models(mb: Run, tmp_path: Path) -> None:
    file = tmp_path / "grid.png"
    drafts = "llama-68m,llama-160m,tinyllama-1b"
    code, out, _ = mb(
        "compare", "--method", "draft-model", "--draft", drafts, "--draft-len", "1..15:+1",
        "--acceptance", "llama-160m=chain:0.65", "--batch-size", "1", "--block", "full",
        "--draft-grid", str(file),
    )  # fmt: skip
    assert code == 0
    assert "acceptance  draft llama-160m: chain, each token accepted with 0.65" in out
    assert file.stat().st_size > 10_000
    code, _, err = mb("compare", "--method", "medusa", "--draft-grid", str(file))
    assert code == 2
    assert "draft-model" in err


def test_drafts_with_one_acceptance_are_warned_of(mb: Run) -> None:
    drafts = ["compare", "--method", "draft-model", "--draft", "llama-68m,llama-160m"]
    assert "the smallest looks best" in " ".join(mb(*drafts)[2].split())
    own = mb(*drafts, "--acceptance", "llama-160m=chain:0.7")
    assert own[2] == ""


def test_printed_form_is_warned_of(mb: Run) -> None:
    _, _, err = mb("compare", "--method", "medusa", "--acceptance", "printed")
    assert "every step yields at least 1" in " ".join(err.split())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["compare", "--method", "medussa"], "did you mean medusa"),
        (["compare", "-m", "mistral-7b", "--method", "eagle-3"], "--acceptance eagle-3=tokens:N"),
        (["compare", "-m", "mistral-7b", "--method", "draft-model"], "--draft"),
        (["compare", "--acceptance", "chain:2"], "chain:P"),
        (["compare", "--model", "lama-7b"], "did you mean"),
        (["compare", "--lock-step"], "only its mean"),
        (["compare", "--map", "nowhere/x.txt"], "ending chooses"),
        (["tree", "--load", "vicuna_7b_stage3"], "did you mean"),
        (["tree", "--accuracy", "vicuna"], "did you mean"),
        (["schedule", "--engine", "sglang"], "eagle-3"),
        (["schedule", "--check", "nowhere.json"], "cannot be read"),
        (["schedule", "--method", "eagle-2", "--acceptance", "tokens:3"], "chain:P"),
        (["acceptance", "nowhere.json"], "chain:P"),
    ],
)
def test_what_a_user_can_mend_is_an_error_with_a_hint(
    mb: Run, args: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = mb(*args)
    assert (code, out) == (1, "")
    assert says in err
    assert "Traceback" not in err


def test_tree_shows_grows_and_exports(mb: Run, tmp_path: Path) -> None:
    code, out, _ = mb("tree", "--num-candidates", "4")
    assert code == 0
    assert [line.rstrip() for line in out.splitlines()] == [
        "root",
        "├─ 0                     0.5604",
        "│  └─ 0                  0.1773",
        "└─ 1                     0.1113",
        "4 candidates, 2 deep: 1.849 tokens a step expected (head accuracies: vicuna-7b-v1.3)",
    ]
    code, out, _ = mb("tree", "--num-candidates", "4", "--json")
    tree = json.loads(out)
    assert tree["paths"] == [[0], [1], [0, 0]]
    assert tree["positions"] == [0, 1, 1, 2]
    assert tree["mask"] == ["1000", "1100", "1010", "1101"]
    file = tmp_path / "t.json"
    assert mb("tree", "--num-candidates", "64", "-o", str(file))[0] == 0
    _, again, _ = mb("tree", "--load", str(file), "--json")
    assert json.loads(again)["num_candidates"] == 64
    assert mb("tree", "--num-candidates", "64", "-o", str(tmp_path / "t.png"))[0] == 0
    assert (tmp_path / "t.png").stat().st_size > 10_000


def test_tree_for_a_gpu_is_no_slower_than_the_likeliest_of_any_size(mb: Run) -> None:
    for extra in ([], ["--draft", "llama-68m"]):
        _, out, _ = mb("tree", "--gpu", "slow", "--batch-size", "8", "--json", *extra)
        tree = json.loads(out)
        assert 1 < tree["num_candidates"] < 64
        assert tree["speedup"] > tree["speedup_of_largest_tree"]


def test_published_trees_are_listed_and_unknown_ranks_are_warned_of(mb: Run) -> None:
    _, out, _ = mb("tree", "--list", "--json")
    assert "vicuna_7b_stage2" in json.loads(out)["trees"]
    _, _, err = mb("tree", "--load", "vicuna_7b_stage2")
    assert "never right" in " ".join(err.split())


@pytest.mark.parametrize("engine", ["vllm", "tensorrt-llm", "llama.cpp", "json"])
def test_schedule_is_written_and_checked_again(mb: Run, engine: str, tmp_path: Path) -> None:
    file = tmp_path / "schedule"
    options = ["--acceptance", "chain:0.3", "--max-batch-size", "32"]
    code, out, err = mb("schedule", "--engine", engine, "-o", str(file), *options)
    assert code == 0
    assert file.read_text() == out
    assert "mean speedup over batch sizes 1 to 32" in " ".join(err.split())
    code, out, _ = mb("schedule", "--engine", engine, "--check", str(file), "--json", *options)
    assert code == 0
    replay = json.loads(out)["replay"]
    assert [point["batch_size"] for point in replay] == list(range(1, 33))
    for point in replay:
        assert point["speedup"] >= max(1.0, 0.98 * point["always_on_speedup"])


def test_schedule_names_what_the_engine_loads(mb: Run) -> None:
    _, out, _ = mb(
        "schedule", "--method", "eagle-3", "--acceptance", "chain:0.7", "--max-batch-size", "4",
        "--served-model", "org/target", "--served-draft", "org/eagle3",
    )  # fmt: skip
    assert out.startswith("vllm serve org/target ")
    assert '"model": "org/eagle3"' in out


def test_compare_and_schedule_agree_on_what_an_engine_counted(mb: Run, tmp_path: Path) -> None:
    counted = tmp_path / "metrics.txt"
    positions = [(0, 70), (1, 45), (2, 30), (3, 22), (4, 15)]
    counted.write_text(
        "vllm:spec_decode_num_drafts_total 100.0\n"
        + "".join(
            f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{position="{place}"}} {count}.0\n'
            for place, count in positions
        )
    )
    common = ["--acceptance", str(counted), "--gpu", "slow", "--draft-len", "1..5:+1", "--json"]
    for method in ("draft-model", "eagle-3", "mtp"):
        _, out, _ = mb(
            "schedule", "--method", method, "--max-batch-size", "32", "--tolerance", "0", *common
        )
        planned = {point["batch_size"]: point for point in json.loads(out)["replay"]}
        batches = ["-b", "1,2,8,32", "--engine", "vllm"]
        (device,) = json.loads(mb("compare", "--method", method, *batches, *common)[1])["devices"]
        for row in device["best"]:
            point = planned[row["batch_size"]]
            assert point["speedup"] == pytest.approx(max(1.0, row["speedup"]))
            assert point["draft_len"] == (row["draft_len"] if row["speedup"] > 1 else 0)


def test_acceptance_reads_what_vllm_counted(mb: Run, tmp_path: Path) -> None:
    file = tmp_path / "metrics.txt"
    file.write_text(
        "vllm:spec_decode_num_drafts_total 10.0\n"
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 8.0\n'
    )
    _, out, _ = mb("acceptance", str(file), "--num-candidates", "2", "--json")
    (model,) = json.loads(out)["models"]
    assert model["acceleration_rate"] == {"2": 1.8}


@pytest.mark.parametrize("command", ["compare", "tree", "schedule", "acceptance"])
def test_help_loads_neither_numpy_nor_torch(command: str) -> None:
    code = (
        "import sys\nfrom medusa_bench.cli import run\n"
        f"run(['{command}', '--help'])\n"
        "assert not {'numpy', 'torch', 'matplotlib'} & set(sys.modules)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Example: medusa-bench" in done.stdout


def cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """A command on the GPUs that ship."""
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


def test_compare_says_what_quantised_weights_do_to_verification(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("compare", "--gpu", "a100-80gb-sxm", "-m", "llama-3-8b", "--method", "medusa", "-b",
             "1", "-q", "1,64", "--engine", "none", "--json")  # fmt: skip
    speedups, words = {}, {}
    for weights in ("none", "int4"):
        code, out, _ = cli(capsys, *asked, "--weights", weights)
        assert code == 0
        (device,) = json.loads(out)["devices"]
        row = next(each for each in device["comparisons"] if each["num_candidates"] == 64)
        speedups[weights], words[weights] = row, device["verdict"]
    narrow, wide = speedups["int4"], speedups["none"]
    assert narrow["step_latency_s"] < wide["step_latency_s"]
    assert narrow["overhead"] > wide["overhead"] * 1.15
    assert not any("Weights in" in each for each in words["none"])
    (said,) = [each for each in words["int4"] if "Weights in int4" in each]
    assert "verification costs more of it" in said
    assert f"takes {narrow['overhead']:.2f} vanilla steps, {wide['overhead']:.2f}" in said


def test_a_narrow_cache_pays_where_there_is_much_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("compare", "--gpu", "h100-sxm", "-m", "llama-3-8b", "--method", "medusa", "-b", "64",
             "-s", "8192", "-q", "1", "--engine", "none", "--json")  # fmt: skip
    steps = []
    for cache in ("as-dtype", "fp8"):
        code, out, _ = cli(capsys, *asked, "--kv-dtype", cache)
        assert code == 0
        steps.append(json.loads(out)["devices"][0]["comparisons"][0]["step_latency_s"])
    assert steps[1] < 0.85 * steps[0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("--weights int5", 1, "No scheme named 'int5'"),
        ("--ep 2", 2, "llama-7b has no experts"),
        ("-m qwen3-30b-a3b --tp 4 --ep 8 --block full", 1, "do not spread over 8 of 4 GPUs"),
        ("-m qwen3-30b-a3b --expert-locality 2", 2, "not in the range 0<=x<=1"),
        ("--generate tiny --weights int4", 2, "--generate runs real weights, or random ones"),
    ],
)
def test_storage_and_routing_that_cannot_be_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: str, code: int, words: str
) -> None:
    gpu = () if "--generate" in arguments else ("--gpu", "h100-sxm")
    found, out, err = cli(capsys, "compare", *gpu, "--solve", "acceptance", *arguments.split())
    assert found == code
    assert words in err
    assert not out


def test_more_alike_candidates_of_experts_cost_less(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("compare", "--gpu", "h100-sxm", "-m", "qwen3-30b-a3b", "--method", "medusa", "-b",
             "1", "-q", "8", "--engine", "none", "--acceptance", "tokens:2", "--json")  # fmt: skip
    overheads = []
    for more in ((), ("--expert-skew", "1"), ("--expert-locality", "1")):
        code, out, _ = cli(capsys, *asked, *more)
        assert code == 0
        overheads.append(json.loads(out)["devices"][0]["comparisons"][0]["overhead"])
    assert overheads[0] > overheads[1] > overheads[2]
