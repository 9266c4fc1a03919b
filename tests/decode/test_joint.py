"""Medusa-2: what a joint step computes, that the frozen model stays, that a kill loses nothing."""

import copy
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.decode.heads import adapters
from medusa_bench.decode.heads import texts as training_texts
from medusa_bench.decode.heads.heads import MedusaHeads
from medusa_bench.decode.heads.joint import (
    Joint,
    JointCurve,
    JointRecipe,
    Passages,
    Rise,
    Target,
    hidden_states,
    teacher_log_probs,
    train_jointly,
    with_adapter,
)
from medusa_bench.decode.heads.quality import answer_difference, quality
from medusa_bench.decode.heads.texts import Texts
from tests.builders.tiny_models import SIZES, tiny_llama

pytest.importorskip("peft")

RECIPE = JointRecipe(
    rank=4, alpha=8, dropout=0.1, steps=6, texts=4, texts_at_a_time=2, warmup_steps=2,
    backbone_rate=1e-2, heads_weight=0.5, precision="no",
)  # fmt: skip
PROMPTS = [(3, 5, 7), (4, 6, 8), (5, 7, 9, 11), (9, 9), (1, 2, 3), (8, 6), (12, 13), (20, 21, 22)]


def written(model: Any, prompts: Sequence[tuple[int, ...]] = PROMPTS, tokens: int = 6) -> Texts:
    found = training_texts.write(model, prompts, tokens, ())
    assert found is not None
    return found


def heads_of(model: Any, **more: Any) -> MedusaHeads:
    heads = MedusaHeads(2, model.get_output_embeddings().weight.detach(), **more).train()
    torch.manual_seed(1)
    nn.init.normal_(heads.first.weight, std=0.2)
    return heads


def trained(tmp_path: Path, recipe: JointRecipe = RECIPE, **more: Any) -> Any:
    model = tiny_llama()
    texts = written(model)
    heads = heads_of(model)
    adapted = with_adapter(model, recipe)
    curves = train_jointly(adapted, heads, texts, recipe, tmp_path / "joint.pt", **more)
    return adapted, heads, curves


def lora(adapted: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for n, p in adapted.named_parameters() if "lora_" in n]


def test_passage_predicts_each_token_from_what_stands_before_it() -> None:
    model = tiny_llama()
    texts = written(model)
    passages = Passages(texts, heads_of(model), RECIPE)
    passage = passages.passage([2, 0, 3])
    states = hidden_states(model, passage)
    # Written greedily: the LM head on the state before a token says that token.
    assert torch.equal(model.get_output_embeddings()(states).argmax(-1), passage.tokens)
    assert torch.allclose(states, passage.hidden.float(), atol=0.05)


def test_an_adapter_that_is_fresh_or_off_leaves_the_model_to_the_bit(tmp_path: Path) -> None:
    ids = torch.tensor([PROMPTS[2]])
    frozen = tiny_llama()(ids).logits
    adapted = with_adapter(tiny_llama(), RECIPE).eval()
    assert torch.equal(adapted(ids).logits, frozen)
    moved, _, _ = trained(tmp_path)
    assert not torch.equal(moved(ids).logits, frozen)
    with moved.disable_adapter():
        assert torch.equal(moved(ids).logits, frozen)


def test_without_weight_on_the_heads_the_backbone_has_no_reason_to_move(tmp_path: Path) -> None:
    recipe = replace(RECIPE, heads_weight=0.0, dropout=0.0)
    model = tiny_llama()
    texts = written(model)
    teacher = Texts(
        texts.tokens, torch.empty(0, 32), texts.starts, texts.categories, texts.prompt_ids
    )
    adapted = with_adapter(model, recipe)
    passages = Passages(teacher, heads_of(model), recipe)
    passage = passages.passage([0, 1])
    joint = Joint(adapted, heads_of(model), recipe)
    loss, backbone, _ = joint(passage, teacher_log_probs(adapted, passage), 0)
    assert backbone.item() == pytest.approx(0, abs=1e-5)
    loss.backward()
    assert all(p.grad.abs().max() < 1e-6 for n, p in adapted.named_parameters() if "lora_B" in n)


def test_loss_is_the_weighted_sum_worked_out_by_hand() -> None:
    model = tiny_llama()
    texts, heads = written(model), heads_of(model)
    recipe = replace(RECIPE, target=Target.TEXT, rise=Rise.CONSTANT, dropout=0.0)
    passage = Passages(texts, heads, recipe).passage([1, 3])
    joint = Joint(with_adapter(model, recipe), heads, recipe).eval()
    loss, backbone, _ = joint(passage, None, 3)
    logits = model(passage.ids, attention_mask=passage.mask).logits.flatten(0, 1)[passage.rows]
    nll = -logits.log_softmax(-1)[range(len(passage.tokens)), passage.tokens].sum()
    assert backbone.item() == pytest.approx(nll.item(), rel=1e-5)
    wanted = 0.0
    for text in (1, 3):
        own = texts.tokens[texts.starts[text] : texts.starts[text + 1]].tolist()
        alone = Passages(texts, heads, recipe).passage([text])
        guesses = heads(hidden_states(model, alone), alone.tokens).log_softmax(-1)
        for head in (0, 1):
            for at in range(len(own) - 1 - head):
                wanted -= 0.8**head * guesses[head, at, own[at + 1 + head]].item()
    assert loss.item() == pytest.approx(nll.item() + 0.5 * wanted, rel=1e-5)


def test_gradient_of_an_adapter_is_that_of_finite_differences() -> None:
    model = tiny_llama().double()
    texts, heads = written(tiny_llama()), heads_of(model).double()
    recipe = replace(RECIPE, target=Target.TEXT, rise=Rise.CONSTANT, dropout=0.0)
    adapted = with_adapter(model, recipe).double()
    joint = Joint(adapted, heads, recipe)
    passage = Passages(texts, heads, recipe).passage([0, 2])
    weight = next(p for n, p in adapted.named_parameters() if "lora_B" in n and "q_proj" in n)
    for parameter, place in ((weight, (1, 2)), (heads.first.weight, (3, 4))):
        joint.zero_grad()
        joint(passage, None, 0)[0].backward()
        assert parameter.grad is not None
        found, step = parameter.grad[place].item(), 1e-3
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * step
                values.append(joint(passage, None, 0)[0].item())
                parameter[place] -= sign * step
        assert found == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2, abs=1e-4)


def test_heads_weight_rises_as_a_sine_to_its_peak_at_the_end() -> None:
    recipe = replace(RECIPE, steps=100, heads_weight=0.2)
    assert recipe.weight(99) == pytest.approx(0.2)
    assert recipe.weight(49) == pytest.approx(0.2 * math.sqrt(0.5))
    assert recipe.weight(0) < 0.004
    assert replace(recipe, rise=Rise.CONSTANT).weight(0) == 0.2


def test_rates_warm_up_then_fall_as_a_cosine_and_heads_learn_faster(tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=102, warmup_steps=2)
    assert [recipe.rate(0), recipe.rate(1), recipe.rate(2)] == [0.5, 1.0, 1.0]
    assert recipe.rate(52) == pytest.approx(0.5)
    assert recipe.rate(27) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    from medusa_bench.decode.heads.joint import _Work

    model = tiny_llama()
    work = _Work(with_adapter(model, RECIPE), heads_of(model), written(model), RECIPE)
    first, second = (group["initial_lr"] for group in work._optimizer.param_groups)
    assert second == pytest.approx(4 * first)


def test_training_lowers_the_loss_and_moves_heads_and_adapter(tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=40, rise=Rise.CONSTANT, dropout=0.0, heads_weight=1.0)
    adapted, _, curves = trained(tmp_path, recipe)
    assert sum(curves[-1].heads) < 0.8 * sum(curves[0].heads)
    assert all(weight.abs().max() > 0 for weight in lora(adapted))


def test_a_step_in_two_passes_is_the_step_in_one(tmp_path: Path) -> None:
    recipe = replace(RECIPE, dropout=0.0, steps=2)
    one, _, _ = trained(tmp_path / "one", replace(recipe, texts_at_a_time=4))
    two, _, _ = trained(tmp_path / "two", replace(recipe, texts_at_a_time=1))
    for a, b in zip(lora(one), lora(two), strict=True):
        assert torch.allclose(a, b, atol=2e-4)


def test_stopped_anywhere_it_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, whole_heads, curves = trained(tmp_path / "whole", checkpoint_every=3)
    for stop_after in (1, 3, 4):
        folder = tmp_path / str(stop_after)
        seen = 0

        def progress(step: int, _loss: float, stop_after: int = stop_after) -> bool:
            nonlocal seen
            seen += 1
            return seen != stop_after

        assert trained(folder, progress=progress, checkpoint_every=3)[2] is None
        adapted, heads, again = trained(folder, progress=progress, checkpoint_every=3)
        assert again == curves
        assert all(torch.equal(a, b) for a, b in zip(lora(whole), lora(adapted), strict=True))
        assert torch.equal(whole_heads.first.weight, heads.first.weight)


def test_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.raises(MedusaBenchError, match="heads_weight"):
        trained(tmp_path, replace(RECIPE, heads_weight=0.1))


def test_texts_without_prompts_are_refused_with_the_way_out() -> None:
    model = tiny_llama()
    bare = replace(written(model), prompt_ids=())
    with pytest.raises(MedusaBenchError, match="without their prompts"):
        Passages(bare, heads_of(model), RECIPE)


def test_prompts_survive_their_file(tmp_path: Path) -> None:
    texts = written(tiny_llama())
    training_texts.save(texts, ["chat"] * len(texts), tmp_path / "a.safetensors")
    assert training_texts.read([tmp_path / "a.safetensors"]).prompt_ids == tuple(PROMPTS)


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, pathlib\n"
        "from dataclasses import replace\n"
        "import torch\n"
        "from tests.decode.test_joint import RECIPE, lora, trained\n"
        "adapted, _, _ = trained(pathlib.Path(sys.argv[1]), replace(RECIPE, dropout=0, steps=2))\n"
        "torch.save(lora(adapted), pathlib.Path(sys.argv[1]) / 'lora.pt')\n"
    )
    root = Path(__file__).resolve().parents[2]
    folder = tmp_path / "two"
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    subprocess.run(
        [*command, str(script), str(folder)],
        check=True, cwd=root, capture_output=True, timeout=120,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
    )  # fmt: skip
    one, _, _ = trained(tmp_path / "one", replace(RECIPE, dropout=0.0, steps=2))
    for a, b in zip(lora(one), torch.load(folder / "lora.pt", weights_only=True), strict=True):
        assert torch.allclose(a, b, atol=2e-4)


# --- adapters -----------------------------------------------------------------------------------


def saved(tmp_path: Path) -> tuple[Any, Path]:
    adapted, _, _ = trained(tmp_path)
    adapters.save(adapted, tmp_path / "adapter", base_name="tiny")
    return adapted, tmp_path / "adapter"


def test_adapter_read_again_gives_the_same_logits_and_names_no_path(tmp_path: Path) -> None:
    adapted, folder = saved(tmp_path)
    again = adapters.load(folder, tiny_llama())
    ids = torch.tensor([PROMPTS[0]])
    assert torch.allclose(again(ids).logits, adapted.eval()(ids).logits, atol=2e-2)
    config = json.loads((folder / adapters.CONFIG_NAME).read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [adapters.CONFIG_NAME, adapters.WEIGHTS_NAME]
    )


def test_merged_model_is_plain_and_says_the_same(tmp_path: Path) -> None:
    _, folder = saved(tmp_path)
    ids = torch.tensor([PROMPTS[0]])
    before = adapters.load(folder, tiny_llama())(ids).logits
    merged = adapters.merged(adapters.load(folder, tiny_llama()))
    assert torch.allclose(merged(ids).logits, before, atol=1e-3)
    assert not any("lora" in name for name, _ in merged.named_parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_lm_head_is_adapted_and_merged_rightly_or_refused(tmp_path: Path, tied: bool) -> None:
    recipe = replace(RECIPE, adapts_lm_head=True)
    model = tiny_llama(tie_word_embeddings=tied)
    if tied:
        with pytest.raises(MedusaBenchError, match="shares its weight"):
            with_adapter(model, recipe)
        return
    texts = written(model)
    adapted = with_adapter(model, recipe)
    train_jointly(adapted, heads_of(model), texts, recipe, tmp_path / "joint.pt")
    adapters.save(adapted, tmp_path / "adapter", base_name="tiny")
    ids = torch.tensor([PROMPTS[0]])
    loaded = adapters.load(tmp_path / "adapter", tiny_llama())
    before = loaded(ids).logits
    assert any(n.startswith("base_model.model.lm_head") and "lora_B" in n and p.abs().max() > 0
               for n, p in loaded.named_parameters())  # fmt: skip
    assert torch.allclose(adapters.merged(loaded)(ids).logits, before, atol=1e-3)


def test_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    _, folder = saved(tmp_path)
    with pytest.raises(InvalidFileError, match="another backbone"):
        adapters.load(folder, tiny_llama(seed=5))
    with pytest.raises(InvalidFileError, match="another backbone"):
        adapters.load(folder, tiny_llama(hidden_size=48))


def test_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, folder = saved(tmp_path)
    config = json.loads((folder / adapters.CONFIG_NAME).read_text())
    for change in (
        {"use_dora": True}, {"peft_type": "IA3"}, {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"]}, {"target_modules": ["nothing"]}, {"r": 2}, {"r": "many"},
    ):  # fmt: skip
        (folder / adapters.CONFIG_NAME).write_text(json.dumps(config | change))
        with pytest.raises(InvalidFileError):
            adapters.load(folder, tiny_llama())


def test_pickled_and_damaged_adapters_are_not_opened(tmp_path: Path) -> None:
    _, folder = saved(tmp_path)
    weights = folder / adapters.WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(InvalidFileError, match="cannot be read"):
        adapters.load(folder, tiny_llama())
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(InvalidFileError, match="pickle"):
        adapters.load(folder, tiny_llama())
    with pytest.raises(MedusaBenchError, match="no adapter"):
        adapters.load(tmp_path / "none", tiny_llama())


# --- quality ------------------------------------------------------------------------------------


def test_quality_of_a_model_that_did_not_move_is_whole() -> None:
    model = tiny_llama()
    texts = written(model)
    adapted = with_adapter(model, RECIPE).eval()
    found = quality(adapted, texts, Passages(texts, heads_of(model), RECIPE))
    assert found.num_tokens == 48
    assert found.perplexity_before == found.perplexity_after
    assert (found.kl_nats, found.greedy_equal) == (pytest.approx(0, abs=1e-6), 1.0)


def test_quality_of_a_model_that_moved_is_what_its_logits_say(tmp_path: Path) -> None:
    adapted, heads, _ = trained(tmp_path, replace(RECIPE, steps=30, heads_weight=5.0))
    texts = written(tiny_llama())
    found = quality(adapted, texts, Passages(texts, heads, RECIPE))
    after, before = copy.deepcopy(adapted).merge_and_unload(), tiny_llama()
    nll, kl, equal = 0.0, 0.0, 0
    for text in range(len(texts)):
        tokens = texts.tokens[texts.starts[text] : texts.starts[text + 1]].long()
        ids = torch.cat([torch.tensor(texts.prompt_ids[text]), tokens])[None]
        place = slice(len(texts.prompt_ids[text]) - 1, -1)
        new = after(ids).logits[0, place].log_softmax(-1)
        old = before(ids).logits[0, place].log_softmax(-1)
        nll -= new[range(len(tokens)), tokens].sum().item()
        kl += (old.exp() * (old - new)).sum().item()
        equal += int((new.argmax(-1) == tokens).sum())
    assert found.perplexity_after == pytest.approx(math.exp(nll / 48), rel=1e-3)
    assert found.kl_nats == pytest.approx(kl / 48, rel=1e-3)
    assert found.greedy_equal == equal / 48
    assert found.kl_nats > 0


def test_answers_are_equal_or_differ_from_a_first_token_on() -> None:
    def texts(*answers: list[int]) -> Texts:
        lengths = torch.tensor([0, *map(len, answers)])
        flat = torch.tensor([token for answer in answers for token in answer])
        return Texts(flat, torch.empty(0, 2), lengths.cumsum(0), ("",) * len(answers))

    found = answer_difference(
        texts([1, 2, 3], [4, 5], [6, 7, 8, 9], [1]), texts([1, 2, 3], [4, 5, 5], [6, 0, 8, 9], [1])
    )
    assert (found.num_answers, found.num_equal, found.median_first_difference) == (4, 2, 1.5)
    assert (found.mean_tokens_before, found.mean_tokens_after) == (2.5, 2.75)


def test_curve_is_the_mean_of_its_steps(tmp_path: Path) -> None:
    _, _, curves = trained(tmp_path, checkpoint_every=2)
    assert [curve.step for curve in curves] == [2, 4, 6]
    assert all(isinstance(curve, JointCurve) and len(curve.heads) == 2 for curve in curves)
    assert SIZES["vocab_size"] == 29


def test_a_torn_checkpoint_is_a_sentence_and_not_a_start_from_nothing(tmp_path: Path) -> None:
    trained(tmp_path)
    path = tmp_path / "joint.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InvalidFileError, match="no whole checkpoint"):
        trained(tmp_path)
