"""A model of a given shape with random weights: what it costs, where weights cannot be had."""

from typing import Any

import torch

from medusa_bench.base.errors import MedusaBenchError
from medusa_bench.specs.shapes import ModelShape


def random_model(
    shape: ModelShape,
    *,
    dtype: torch.dtype,
    device: str,
    attention: str,
    seed: int,
    context_limit: int,
) -> Any:
    """A Llama of these dimensions, in evaluation. Raises MedusaBenchError if it does not fit."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        max_position_embeddings=context_limit,
    )
    config._attn_implementation = attention
    torch.manual_seed(seed)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: Any = LlamaForCausalLM(config)
    except RuntimeError as error:
        raise MedusaBenchError(
            f"{shape.name} cannot be put on {device}: {str(error).strip().splitlines()[0][:200]}"
        ) from None
    finally:
        torch.set_default_dtype(usual)
    return model.eval().requires_grad_(False)
