"""The small random Llama, and its words, that several test modules decode with."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 29,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,  # wide, so that the texts are not one token repeated
}


def tiny_llama(*, seed: int = 0, attention: str | None = None, **changes: Any) -> LlamaForCausalLM:
    """In evaluation; the same weights for the same arguments."""
    torch.manual_seed(seed)
    config = LlamaConfig(**{**SIZES, **changes})
    if attention:
        config._attn_implementation = attention
    return LlamaForCausalLM(config).eval()


WORDS = {"<unk>": 0, "a": 1, "b": 2}


def tiny_tokenizer() -> Any:
    """Of WORDS, between spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
