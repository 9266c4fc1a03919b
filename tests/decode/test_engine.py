"""Every greedy method's text is that of the model alone and of transformers' generate()."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from medusa_bench.base.errors import MedusaBenchError, UnsupportedModelError
from medusa_bench.decode.engine.cache import SlabCache
from medusa_bench.decode.engine.engine import DecodingMethod, Engine, Finish, Session
from medusa_bench.decode.engine.layout import TreeLayout
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.decode.engine.rules import Proposal
from medusa_bench.decode.methods.lookup import Lookup
from medusa_bench.decode.methods.medusa import Medusa
from medusa_bench.decode.methods.self_speculative import SelfSpeculative
from medusa_bench.decode.methods.speculative import Speculative
from medusa_bench.decode.methods.vanilla import Vanilla
from tests.builders.tiny_models import SIZES

VOCAB_SIZE = SIZES["vocab_size"]
NEW_TOKENS = 16
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**{**SIZES, "num_key_value_heads": 4})),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=None)),
    "qwen": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
}


def random_model(family: str, seed: int = 0, **changes: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    model, config = FAMILIES[family]
    return model(type(config)(**{**config.to_dict(), **changes})).eval()


@dataclass
class Case:
    """A model, prompts, and what generate() makes of them."""

    model: torch.nn.Module
    decoder: DecoderModel
    draft: DecoderModel
    prompts: list[list[int]]
    texts: list[list[int]]


def generate(model: torch.nn.Module, prompt: list[int], **options: object) -> list[int]:
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": NEW_TOKENS, "eos_token_id": None, **options}
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **settings
    )
    return output[0, len(prompt) :].tolist()


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)


def make_case(family: str) -> Case:
    model = random_model(family)
    dice = random.Random(family)
    prompts = [
        [dice.randrange(VOCAB_SIZE) for _ in range(length)] for length in (1, 2, 3, 5, 8, 13)
    ]
    draft = random_model(family, seed=1)
    texts = [generate(model, prompt) for prompt in prompts]
    return Case(model, DecoderModel(model), DecoderModel(draft), prompts, texts)


class RandomHeads:
    """Heads that were never trained: with 29 tokens they are right often enough by chance."""

    num_heads, num_proposable, reads_root = 4, VOCAB_SIZE, False

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(self.num_heads, 32, VOCAB_SIZE, generator=generator)

    def top(
        self, hidden: Tensor, max_rank: int, root_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        log_probs = torch.log_softmax(hidden @ self.weight, dim=-1)
        values, tokens = log_probs.topk(max_rank, dim=-1)
        return tokens, values


class HalfRight:
    """Fills a tree from known texts, with errors: accepts long paths through inner nodes."""

    name = "half right"

    def __init__(self, full_texts: list[list[int]], layout: TreeLayout, dice: random.Random):
        self.full_texts, self.layout, self.dice = full_texts, layout, dice
        self.max_nodes = layout.num_nodes

    def begin(self, session: Session) -> None:
        pass

    def keep(self, rows: list[int]) -> None:
        pass

    def propose(self, session: Session) -> Proposal:
        return Proposal(torch.tensor([self.fill(text) for text in session.texts]), self.layout)

    def fill(self, text: list[int]) -> list[int]:
        known = next(full for full in self.full_texts if full[: len(text)] == text)
        nodes = [text[-1]]
        for parent, depth in zip(self.layout.parents[1:], self.layout.node_depths[1:], strict=True):
            taken = [
                nodes[node] for node in range(1, len(nodes)) if self.layout.parents[node] == parent
            ]
            position = len(text) - 1 + depth
            right = known[position] if position < len(known) else 0
            guess = right if self.dice.random() < 0.5 else self.dice.randrange(VOCAB_SIZE)
            while guess in taken:
                guess = (guess + 1) % VOCAB_SIZE
            nodes.append(guess)
        return nodes


def random_tree(dice: random.Random, num_nodes: int, max_depth: int = 4) -> list[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = []
    children: dict[tuple[int, ...], int] = {}
    while len(paths) < num_nodes - 1:
        parent = dice.choice([(), *(path for path in paths if len(path) < max_depth)])
        rank = children.get(parent, 0)
        if rank < VOCAB_SIZE:
            children[parent] = rank + 1
            paths.append((*parent, rank))
    return paths


def until(text: Sequence[int], eos: Sequence[int], limit: int) -> tuple[int, ...]:
    """What generate() gives: the same text up to the limit or the first EOS, which is included."""
    end = next((index + 1 for index, token in enumerate(text) if token in eos), len(text))
    return tuple(text[: min(end, limit)])


def methods(case: Case, rows: list[int], dice: random.Random) -> list[DecodingMethod]:
    """A method of each kind, of random size."""
    full = [case.prompts[row] + case.texts[row] for row in rows]
    # A text may go on a little past what generate() was asked for.
    tree = random_tree(dice, dice.choice([1, 2, 4, 8, 16, 32, 64, dice.randint(1, 64)]))
    return [
        Vanilla(),
        Lookup(dice.randint(1, 10), max_ngram=dice.randint(1, 3)),
        Speculative(case.draft, dice.randint(1, 6)),
        Speculative(case.decoder, dice.randint(1, 6)),
        SelfSpeculative(DecoderModel(case.model, num_layers=1), dice.randint(1, 6)),
        Medusa(RandomHeads(dice.randrange(1000)), tree),
        HalfRight(full, TreeLayout(tree), dice),
    ]


@pytest.mark.parametrize("seed", range(16))
def test_every_method_gives_the_text_of_generate(case: Case, seed: int) -> None:
    """3 models x 16 seeds x 7 methods = 336 cases of random trees, batches, EOS and limits."""
    dice = random.Random(seed)
    rows = dice.sample(range(len(case.prompts)), dice.randint(1, 4))
    limit = dice.randint(1, NEW_TOKENS)
    eos = dice.choice([(), tuple(dice.sample(range(VOCAB_SIZE), dice.randint(1, 3)))])
    prompts = [case.prompts[row] for row in rows]
    expected = tuple(until(case.texts[row], eos, limit) for row in rows)
    for method in methods(case, rows, dice):
        output = Engine(case.decoder).generate(
            prompts, method, max_new_tokens=limit, eos_token_ids=eos
        )
        assert output.sequences == expected, method.name
        assert output.num_tokens == sum(len(text) - 1 for text in expected)


def test_an_eos_at_every_place_ends_the_text_there(case: Case) -> None:
    """With everything accepted, EOS stands at every place inside an accepted run."""
    row = 3
    text = case.texts[row]
    for place in range(NEW_TOKENS):
        expected = until(text, [text[place]], NEW_TOKENS)
        assert generate(case.model, case.prompts[row], eos_token_id=text[place]) == list(expected)
        output = Engine(case.decoder).generate(
            [case.prompts[row]],
            Speculative(case.decoder, 5),
            max_new_tokens=NEW_TOKENS,
            eos_token_ids=[text[place]],
        )
        assert output.sequences == (expected,)
        assert output.finishes == (Finish.EOS,)


def test_a_draft_equal_to_the_target_accepts_everything(case: Case) -> None:
    for draft_len in (1, 3, 5):
        output = Engine(case.decoder).generate(
            case.prompts[:3],
            Speculative(case.decoder, draft_len),
            max_new_tokens=1 + 2 * (draft_len + 1),
        )
        assert output.acceleration_rate == draft_len + 1
        assert all(count == draft_len for step in output.steps for count in step.accepted)


def test_a_draft_that_is_always_wrong_accepts_nothing(case: Case) -> None:
    class Wrong(HalfRight):
        def fill(self, text: list[int]) -> list[int]:
            known = next(full for full in self.full_texts if full[: len(text)] == text)
            following = [*known[len(text) :], *[0] * 9]
            return [text[-1], *((token + 1) % VOCAB_SIZE for token in following[:3])]

    full = [case.prompts[row] + case.texts[row] for row in range(3)]
    output = Engine(case.decoder).generate(
        case.prompts[:3],
        Wrong(full, TreeLayout.chain(3), random.Random(0)),
        max_new_tokens=NEW_TOKENS,
    )
    assert output.acceleration_rate == 1
    assert output.num_sequence_steps == 3 * (NEW_TOKENS - 1)


def test_sequences_of_a_batch_advance_by_what_each_accepts(case: Case) -> None:
    """A row whose draft is right does not wait for one whose draft is wrong."""

    class FirstRight(HalfRight):
        def fill(self, text: list[int]) -> list[int]:
            known = next(full for full in self.full_texts if full[: len(text)] == text)
            following = [*known[len(text) :], *[0] * 9][:3]
            if known is not self.full_texts[0]:
                following = [(token + 1) % VOCAB_SIZE for token in following]
            return [text[-1], *following]

    full = [case.prompts[row] + case.texts[row] for row in range(2)]
    output = Engine(case.decoder).generate(
        case.prompts[:2],
        FirstRight(full, TreeLayout.chain(3), random.Random(0)),
        max_new_tokens=13,
    )
    assert [step.rows for step in output.steps] == [(0, 1)] * 3 + [(1,)] * 9
    assert output.steps[0].kept == (4, 1)
    assert output.acceleration_rate == 24 / (3 + 12)


def test_a_text_ends_at_the_context_limit() -> None:
    model = random_model("llama", max_position_embeddings=12)
    decoder = DecoderModel(model)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9]]
    alone = [generate(model, prompt, max_new_tokens=12 - len(prompt)) for prompt in prompts]
    for method in (Vanilla(), Speculative(decoder, 4), Medusa(RandomHeads(1), [(0,), (0, 0)])):
        output = Engine(decoder).generate(prompts, method, max_new_tokens=50)
        assert [list(text) for text in output.sequences] == alone
        assert output.finishes == (Finish.CONTEXT, Finish.CONTEXT)


def test_a_prompt_that_fills_the_context_is_refused(case: Case) -> None:
    with pytest.raises(MedusaBenchError, match="has 64 tokens; the model's context holds 64"):
        Engine(case.decoder).generate([[1] * 64], Vanilla(), max_new_tokens=1)


def test_token_ids_of_another_vocabulary_are_refused(case: Case) -> None:
    with pytest.raises(MedusaBenchError, match="outside the model's vocabulary of 29"):
        Engine(case.decoder).generate([[29]], Vanilla(), max_new_tokens=1)


def test_sliding_windows_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"sliding_attention.*window 8"):
        DecoderModel(
            random_model(
                "qwen",
                sliding_window=8,
                use_sliding_window=True,
                max_window_layers=0,
                layer_types=None,
            )
        )
    with pytest.raises(UnsupportedModelError, match=r"sliding_attention.*window 8"):
        DecoderModel(random_model("mistral", sliding_window=8))


def test_a_model_that_is_blind_to_the_mask_is_refused() -> None:
    model = random_model("llama")
    backbone = model.model
    seeing = backbone.forward

    def blind(**arguments: object) -> object:
        return seeing(**{**arguments, "attention_mask": None})

    blind.__signature__ = None  # type: ignore[attr-defined]
    backbone.forward = blind
    with pytest.raises(UnsupportedModelError, match="other logits for a tree"):
        DecoderModel(model)


def test_a_head_or_rank_that_is_not_there_is_an_error() -> None:
    with pytest.raises(MedusaBenchError, match="5 tokens deep, but there are 4 heads"):
        Medusa(RandomHeads(0), [(0,) * depth for depth in range(1, 6)])
    with pytest.raises(MedusaBenchError, match="guess number 30"):
        Medusa(RandomHeads(0), [(29,)])


def test_times_of_a_step_add_up_on_the_injected_clock(case: Case) -> None:
    ticks: Callable[[], float] = itertools.count().__next__
    output = Engine(case.decoder, clock=ticks).generate(
        case.prompts[:1], Speculative(case.decoder, 2), max_new_tokens=4
    )
    (step,) = output.steps
    assert (step.draft_s, step.verify_s, step.step_s) == (1, 1, 3)
    assert (output.prefill_s, output.decode_s) == (1, 5)


def test_a_mask_has_a_multiple_of_8_columns_and_cudnn_is_never_asked(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, columns = DecoderModel(case.model), []
    make_mask = decoder._mask

    def seen(start: Tensor, layout: TreeLayout, cache: SlabCache) -> Tensor:
        mask = make_mask(start, layout, cache)
        columns.append((mask.shape[-1], cache.capacity))
        return mask

    monkeypatch.setattr(decoder, "_mask", seen)
    output = Engine(decoder).generate(case.prompts[3:5], Lookup(3), max_new_tokens=NEW_TOKENS)
    assert output.sequences == tuple(until(text, (), NEW_TOKENS) for text in case.texts[3:5])
    assert columns
    assert all(visible % 8 == 0 or visible == capacity for visible, capacity in columns)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_compiled_steps_keep_their_shapes_and_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Texts of any length share one graph for each number of candidates; batches stay ragged."""
    case, graphs = make_case("mistral"), []

    def count_graphs(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    inductor = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda step, **_: inductor(step, dynamic=False, backend=count_graphs)
    )
    decoder = DecoderModel(case.model, compiled=True)
    for rows in ([0, 3], [1, 4]):
        for method in (
            Vanilla(),
            Lookup(3),
            Medusa(RandomHeads(0), [(0,), (1,), (0, 0)]),
            Speculative(decoder, 3),
            SelfSpeculative(DecoderModel(case.model, num_layers=1, compiled=True), 3),
        ):
            output = Engine(decoder).generate(
                [case.prompts[row] for row in rows],
                method,
                max_new_tokens=NEW_TOKENS,
                eos_token_ids=[case.texts[rows[0]][7]],
            )
            expected = [
                until(case.texts[row], [case.texts[rows[0]][7]], NEW_TOKENS) for row in rows
            ]
            assert list(output.sequences) == expected, method.name
    # 1 and 4 candidates, the draft's second token after a whole draft, the first layer alone.
    assert len(graphs) <= 4
