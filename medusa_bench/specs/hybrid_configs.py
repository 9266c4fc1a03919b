"""Hybrids: which layers of a config.json keep a state in place of a cache, and of which dimensions.

Each type's weights are checked against those that transformers 5.24 builds.
"""

from collections.abc import Callable, Mapping
from typing import Any

from medusa_bench.base.documents import JsonObject
from medusa_bench.base.errors import InvalidFileError, UnsupportedModelError
from medusa_bench.specs.config_values import count, dimension
from medusa_bench.specs.shapes import Recurrence

DELTA_NETS = frozenset("qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next".split())
_MAMBA_2 = frozenset("bamba falcon_h1 granitemoehybrid nemotron_h".split())
TYPES = DELTA_NETS | _MAMBA_2 | {"jamba", "kimi_linear", "lfm2", "minimax"}
UNGATED = frozenset({"nemotron_h"})
LAYERS = {"linear_attention", "mamba", "conv", "hybrid"}
_RECURRENT = {"linear_attention", "mamba", "conv"}
WITH_EXPERTS_BY_LAYER = frozenset({"jamba", "nemotron_h"})


# What says of a type how large its states are, or which layers have them.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "jamba": ("attn_layer_period",),
    "nemotron_h": ("mamba_num_heads", "mamba_head_dim", "ssm_state_size"),
}


def mixers(config: JsonObject, where: str, kind: str) -> dict[str, Any]:
    """The fields of a ModelShape that say which layers have a state; none where no layer has.

    config: under standard names. Raises InvalidFileError for senseless dimensions.
    """
    missing = [key for key in _NEEDED.get(kind, ()) if config.get(key) is None]
    if missing:
        raise UnsupportedModelError(
            f"{where} describes recurrent layers and leaves their {missing[0]} to its class.",
            hint="write it out: it is not guessed here.",
        )
    num_layers = dimension(config, "num_hidden_layers", where)
    recurrent = _num_recurrent(config, where, kind, num_layers)
    found: dict[str, Any] = {}
    if recurrent:
        build = _BUILDERS.get(kind, _delta_net if kind in DELTA_NETS else _mamba_2)
        found["recurrence"] = build(config, where, recurrent)
    if kind == "falcon_h1":  # both beside each other
        found["attention_layers"] = num_layers
    if kind == "nemotron_h":  # one sublayer a layer
        pattern = _pattern(config, where)
        found |= {"attention_layers": pattern.count("*"), "mlp_layers": pattern.count("-")}
    return found


def num_expert_layers(config: JsonObject, where: str, kind: str) -> int:
    """Of types that say it layer by layer in their own way."""
    if kind == "nemotron_h":
        return _pattern(config, where).count("E")
    return _periodic(config, where, "expert_layer")


def intermediate_size(config: JsonObject, where: str, kind: str) -> int:
    """The width of the MLP, and some number where experts are in all its places."""
    if kind == "granitemoehybrid" and config.get("shared_intermediate_size"):
        return dimension(config, "shared_intermediate_size", where)
    key = "intermediate_size"
    if config.get(key) is None and config.get("moe_intermediate_size"):
        key = "moe_intermediate_size"
    width = dimension(config, key, where)
    if kind == "lfm2" and config.get("block_auto_adjust_ff_dim", True):
        multiple = dimension(config, "block_multiple_of", where, default=256)
        factor = config.get("block_ffn_dim_multiplier")
        scale = float(factor) if isinstance(factor, int | float) and 0 < factor < 64 else 1.0
        adjusted = int(scale * (2 * width // 3))
        return -(-adjusted // multiple) * multiple
    return width


def _num_recurrent(config: JsonObject, where: str, kind: str, num_layers: int) -> int:
    types = config.get("layer_types") or config.get("layers_block_type")
    if isinstance(types, list) and len(types) not in {0, num_layers}:
        raise InvalidFileError(f"{where}: layer_types names {len(types)} of {num_layers} layers.")
    match kind:
        case "falcon_h1":
            return num_layers
        case "nemotron_h":
            return _pattern(config, where).count("M")
        case _ if isinstance(types, list) and types:
            return sum(str(each) in _RECURRENT for each in types)
        case "jamba":
            return num_layers - _periodic(config, where, "attn_layer")
        case _:
            return _named_recurrent(config, where, kind, num_layers)


def _named_recurrent(config: JsonObject, where: str, kind: str, num_layers: int) -> int:
    """Of types that list the numbers of some layers, or have a rule."""
    attending = config.get("attn_layer_indices") or config.get("full_attn_idxs")
    by_layer, linear = config.get("attn_type_list"), config.get("linear_attn_config")
    with_state = linear.get("kda_layers") if isinstance(linear, dict) else None
    if isinstance(with_state, list):
        return min(num_layers, len(with_state))
    if isinstance(by_layer, list):  # 1 attends
        return min(num_layers, by_layer.count(0))
    if isinstance(attending, list):
        return max(0, num_layers - len(set(map(str, attending))))
    interval = dimension(config, "full_attention_interval", where, default=4)
    return num_layers - num_layers // interval if kind in DELTA_NETS else num_layers


def _periodic(config: JsonObject, where: str, name: str) -> int:
    """How many layers are the `offset`th of a period."""
    period = dimension(config, f"{name}_period", where)
    offset = count(config, f"{name}_offset", where)
    return len(range(offset, dimension(config, "num_hidden_layers", where), period))


def _pattern(config: JsonObject, where: str) -> str:
    """nemotron_h's layers by letter: M mamba, * attention, - MLP, E experts."""
    pattern = config.get("hybrid_override_pattern")
    num_layers = dimension(config, "num_hidden_layers", where)
    if not isinstance(pattern, str) or len(pattern) != num_layers or set(pattern) - set("M*-E"):
        raise InvalidFileError(
            f"{where}: hybrid_override_pattern must name each of {num_layers} layers by M, *, -, E."
        )
    return pattern


def _delta_net(config: JsonObject, where: str, num_layers: int) -> Recurrence:
    keys = dimension(config, "linear_num_key_heads", where)
    values = dimension(config, "linear_num_value_heads", where)
    key_dim = dimension(config, "linear_key_head_dim", where, default=128)
    value_dim = dimension(config, "linear_value_head_dim", where, default=128)
    convolved = 2 * keys * key_dim + values * value_dim
    return Recurrence(
        num_layers,
        in_width=convolved + values * value_dim + 2 * values,
        out_width=values * value_dim,
        conv_channels=convolved,
        conv_width=dimension(config, "linear_conv_kernel_dim", where, default=4),
        num_states=values,
        key_dim=key_dim,
        value_dim=value_dim,
    )


def _mamba_2(config: JsonObject, where: str, num_layers: int) -> Recurrence:
    names = _NEMOTRON if "mamba_num_heads" in config else _GRANITE
    heads = dimension(config, names["heads"], where)
    state = dimension(config, names["state"], where)
    groups = dimension(config, names["groups"], where, default=1)
    if type(config.get(names["head_dim"])) is int:
        head_dim = dimension(config, names["head_dim"], where)
    else:  # "auto"
        expand = dimension(config, "mamba_expand", where, default=2)
        head_dim = expand * dimension(config, "hidden_size", where) // heads
    inner = heads * head_dim
    return Recurrence(
        num_layers,
        in_width=2 * inner + 2 * groups * state + heads,
        out_width=inner,
        conv_channels=inner + 2 * groups * state,
        conv_width=dimension(config, names["conv"], where, default=4),
        num_states=heads,
        key_dim=state,
        value_dim=head_dim,
    )


_GRANITE: Mapping[str, str] = {
    "heads": "mamba_n_heads", "head_dim": "mamba_d_head", "state": "mamba_d_state",
    "groups": "mamba_n_groups", "conv": "mamba_d_conv",
}  # fmt: skip
_NEMOTRON: Mapping[str, str] = {
    "heads": "mamba_num_heads", "head_dim": "mamba_head_dim", "state": "ssm_state_size",
    "groups": "n_groups", "conv": "conv_kernel",
}  # fmt: skip


def _mamba_1(config: JsonObject, where: str, num_layers: int) -> Recurrence:
    hidden_size = dimension(config, "hidden_size", where)
    inner = hidden_size * dimension(config, "mamba_expand", where, default=2)
    state = dimension(config, "mamba_d_state", where, default=16)
    rank = config.get("mamba_dt_rank")
    rank = rank if type(rank) is int and rank > 0 else -(-hidden_size // 16)  # "auto"
    return Recurrence(
        num_layers,
        in_width=2 * inner,
        out_width=inner,
        conv_channels=inner,
        conv_width=dimension(config, "mamba_d_conv", where, default=4),
        num_states=inner,
        key_dim=state,
        value_dim=1,
        inner_width=rank + 2 * state,
        rank=rank,
        rank_width=inner,
    )


def _kimi_delta(config: JsonObject, where: str, num_layers: int) -> Recurrence:
    """A decay for each channel and an output gate, both by way of a low rank."""
    linear = config.get("linear_attn_config")
    own = {"linear_num_heads": "num_heads", "linear_head_dim": "head_dim",
           "linear_conv_kernel_dim": "short_conv_kernel_size"}  # fmt: skip
    if isinstance(linear, dict):
        config = {**config, **{ours: linear.get(theirs) for ours, theirs in own.items()}}
    heads = dimension(config, "linear_num_heads", where)
    head_dim = dimension(config, "linear_head_dim", where)
    width = heads * head_dim
    return Recurrence(
        num_layers,
        in_width=3 * width + heads + 2 * head_dim,
        out_width=width,
        conv_channels=3 * width,
        conv_width=dimension(config, "linear_conv_kernel_dim", where, default=4),
        num_states=heads,
        key_dim=head_dim,
        value_dim=head_dim,
        rank=head_dim,
        rank_width=2 * width,
    )


def _lightning(config: JsonObject, where: str, num_layers: int) -> Recurrence:
    heads = dimension(config, "num_attention_heads", where)
    hidden_size = dimension(config, "hidden_size", where)
    head_dim = dimension(config, "head_dim", where, default=max(1, hidden_size // heads))
    width = heads * head_dim
    return Recurrence(
        num_layers, 4 * width, width, num_states=heads, key_dim=head_dim, value_dim=head_dim
    )


def _short_convolution(config: JsonObject, where: str, num_layers: int) -> Recurrence:
    hidden_size = dimension(config, "hidden_size", where)
    return Recurrence(
        num_layers,
        in_width=3 * hidden_size,
        out_width=hidden_size,
        conv_channels=hidden_size,
        conv_width=dimension(config, "conv_L_cache", where, default=3),
    )


_BUILDERS: Mapping[str, Callable[[JsonObject, str, int], Recurrence]] = {
    "jamba": _mamba_1,
    "kimi_linear": _kimi_delta,
    "lfm2": _short_convolution,
    "minimax": _lightning,
}
