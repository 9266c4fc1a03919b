"""Attention of grouped heads without copying keys and values for each head.

transformers' sdpa repeats them as soon as a mask is given, which every tree needs; torch's kernel
does not need that. Registered under a name of our own, as transformers lets one; no model is
patched.
"""

from typing import Any

from torch import Tensor, nn

GROUPED = "grouped_sdpa"


def grouped_attention(  # noqa: PLR0917 - the signature is transformers'
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (b, n, q, d), key and value (b, n_kv, s, d) to (b, q, n, d)."""
    causal = attention_mask is None and query.shape[2] > 1
    if causal:  # a prefill, of an empty cache: torch aligns its causal mask to the upper left
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    output = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
        is_causal=causal,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


def register() -> str:
    """Make transformers know the name GROUPED; gives the name."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, sdpa_mask)
    return GROUPED
