"""Packed weights give the same products, in every place a model has a linear layer."""

import pytest
import torch
from torch import nn

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.decode.engine.engine import Engine
from medusa_bench.decode.engine.model import DecoderModel
from medusa_bench.decode.engine.packing import PackedLinear, Packing, pack
from medusa_bench.decode.methods.lookup import Lookup
from medusa_bench.decode.methods.vanilla import Vanilla
from tests.builders.tiny_models import tiny_llama


@pytest.mark.parametrize("packing", [Packing.ONEDNN, Packing.FLOAT16])
@pytest.mark.parametrize("num_rows", [1, 3, 17])
@torch.inference_mode()
def test_a_packed_layer_multiplies_as_the_layer_did(packing: Packing, num_rows: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 40)
    rows = torch.randn(2, num_rows, 48)
    weight = linear.weight.half().float() if packing is Packing.FLOAT16 else linear.weight
    expected = nn.functional.linear(rows, weight, linear.bias)
    torch.testing.assert_close(PackedLinear(linear, packing)(rows), expected)


@pytest.mark.parametrize("packing", [Packing.ONEDNN, Packing.FLOAT16])
def test_a_packed_model_decodes_alike_by_every_method(packing: Packing) -> None:
    model = tiny_llama(tie_word_embeddings=True)
    embedding = model.get_input_embeddings().weight.clone()
    pack(model, packing)
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    engine = Engine(DecoderModel(model))
    texts = {
        engine.generate([[1, 2, 3, 1, 2]], method, max_new_tokens=20).sequences
        for method in (Vanilla(), Lookup(4))
    }
    ids = torch.tensor([[1, 2, 3, 1, 2]])
    generated = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert texts == {(tuple(generated[0, 5:].tolist()),)}


def test_weights_that_float16_cannot_hold_are_refused() -> None:
    model = tiny_llama(tie_word_embeddings=True)
    model.lm_head.weight.data[0, 0] = 1e5
    with pytest.raises(MedusaBenchError, match=r"lm_head has weights past 65504"):
        pack(model, Packing.FLOAT16)


def test_float16_packing_asks_for_float32_rows() -> None:
    with pytest.raises(MedusaBenchError, match="the model is bfloat16"):
        pack(tiny_llama(tie_word_embeddings=True).bfloat16(), Packing.FLOAT16)
