"""Which weights a checkpoint's own config says are quantised, and how: read offline.

The ways of saying so are those of AWQ, GPTQ, compressed-tensors, fine-grained and fbgemm float8,
ModelOpt (hf_quant_config.json too), MXFP4 and bitsandbytes. Lists of what is left out are names,
globs or `re:` patterns, for single layers or for all: each is matched against the modules that a
model's operators stand for, so that what is counted is the share of layers.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from medusa_bench.base.documents import JsonObject
from medusa_bench.base.errors import InvalidFileError
from medusa_bench.specs.operators import Operator, find, of_model
from medusa_bench.specs.schemes import SCHEMES, Part, Quantisation, Scheme, integer
from medusa_bench.specs.shapes import ModelShape

# What checkpoints call the module of an operator, below its layer; fused ones stand for each part.
_KINDS = ("whole", "near")
_E, _MIXTRAL = "mlp.experts.0", "block_sparse_moe.experts.0"
_MODULES: Mapping[str, tuple[str, ...]] = {
    "q": ("self_attn.q_proj", "self_attn.qkv_proj", "mixer.q_proj"),
    "k": ("self_attn.k_proj", "self_attn.qkv_proj", "mixer.k_proj"),
    "v": ("self_attn.v_proj", "self_attn.qkv_proj", "mixer.v_proj"),
    "o": ("self_attn.o_proj", "mixer.o_proj"),
    "up": ("mlp.up_proj", "mlp.gate_up_proj", "mixer.up_proj"),
    "gate": ("mlp.gate_proj", "mlp.gate_up_proj"),
    "down": ("mlp.down_proj", "mixer.down_proj"),
    "router": ("mlp.gate", "mlp.router", "block_sparse_moe.gate"),
    "expert_up": (f"{_E}.up_proj", "mlp.experts.gate_up_proj", f"{_MIXTRAL}.w3"),
    "expert_gate": (f"{_E}.gate_proj", "mlp.experts.gate_up_proj", f"{_MIXTRAL}.w1"),
    "expert_down": (f"{_E}.down_proj", "mlp.experts.down_proj", f"{_MIXTRAL}.w2"),
    "shared_up": ("mlp.shared_experts.up_proj", "mlp.shared_expert.up_proj"),
    "shared_gate": ("mlp.shared_experts.gate_proj", "mlp.shared_expert.gate_proj"),
    "shared_down": ("mlp.shared_experts.down_proj", "mlp.shared_expert.down_proj"),
    "q_a": ("self_attn.q_a_proj",),
    "q_b": ("self_attn.q_b_proj", "self_attn.q_proj"),
    "kv_a": ("self_attn.kv_a_proj_with_mqa",),
    "o_latent": ("self_attn.o_proj",),
    **{f"{part}_{kind}": (f"self_attn.{part}_proj",) for part in "qkvo" for kind in _KINDS},
    "o_gate": ("self_attn.q_proj", "self_attn.gate_proj"),
    "index_q": ("self_attn.indexer.wq_b",),
    "index_k": ("self_attn.indexer.wk",),
    "expert_in": ("mixer.fc1_latent_proj",),
    "expert_out": ("mixer.fc2_latent_proj",),
    "state_in": ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv", "mamba.in_proj",
                 "mixer.in_proj", "self_attn.qkv_proj", "conv.in_proj"),
    "state_inner": ("mamba.x_proj",),
    "state_rank": ("mamba.dt_proj", "self_attn.f_b_proj"),
    "state_out": ("linear_attn.out_proj", "mamba.out_proj", "mixer.out_proj",
                  "self_attn.out_proj", "conv.out_proj"),
}  # fmt: skip
_PREFIXES = ("model.", "model.language_model.", "language_model.model.", "backbone.")
# What people's ways of leaving things out could make slow: a pattern beyond this is not read.
_PATTERN_LENGTH = 300
_MOST_REPEATS = 4
_MOST_LAYERS = 1024


def read(config: JsonObject, shape: ModelShape, *, where: str) -> tuple[Quantisation | None, str]:
    """What a config's quantization says, and that in words: a note for the reader.

    config: of the whole checkpoint, or what hf_quant_config.json holds. (None, "") where nothing is
    quantised; (None, note) for a way that is not known. Raises InvalidFileError for senseless
    numbers.
    """
    said = config.get("quantization_config") or config.get("quantization")
    if not isinstance(said, dict):
        inner = config.get("text_config")
        said = inner.get("quantization_config") if isinstance(inner, dict) else None
    if not isinstance(said, dict):
        return None, ""
    method = str(said.get("quant_method") or ("modelopt" if "quant_algo" in said else "unnamed"))
    rules = _rules(method, said, where)
    cache_bits = _cache_bits(said)
    if not rules.chosen and cache_bits is None:
        return None, (
            f"quantised weights ({method[:40]}): counted, and measured, in the dtype you name"
        )
    found = Quantisation(method, tuple(_parts(shape, rules)), cache_bits)
    return found, note(found, len(rules.kept.unread))


@dataclass(frozen=True, slots=True)
class _Rules:
    """chosen: which modules each scheme takes, the first that fits; none for all. kept: modules
    that are not quantised. unread: patterns that were not understood."""

    chosen: Sequence[tuple["_Modules | None", Scheme]]
    kept: "_Modules"
    head: bool = False


def _rules(method: str, said: JsonObject, where: str) -> _Rules:
    kept = _Modules.of(
        *(
            said.get(key)
            for key in (
                "modules_to_not_convert",
                "ignore",
                "exclude_modules",
                "ignored_layers",
                "llm_int8_skip_modules",
            )
        )
    )
    chosen: list[tuple[_Modules | None, Scheme]] = []
    match method.lower():
        case "awq" | "gptq" | "auto-round" | "intel/auto-round" | "gptqmodel":
            zero = bool(said.get("zero_point", not said.get("sym", False)))
            group = _whole(said, "group_size", where, default=128, least=-1)
            bits = _whole(said, "bits", where, default=4, least=2, most=16)
            chosen = [(None, integer(bits, max(group, 0), zero_point=zero))]
            dynamic = said.get("dynamic")
            if isinstance(dynamic, dict):  # GPTQModel leaves out what begins with -:
                left_out = [f"re:{key[2:]}" for key in dynamic if str(key).startswith("-:")]
                kept = kept.with_more(left_out)
        case "fp8" | "fbgemm_fp8" | "finegrained_fp8":
            chosen = [(None, SCHEMES["fp8-block" if said.get("weight_block_size") else "fp8"])]
        case "mxfp4":
            chosen = [(_Modules.of(["re:.*experts.*"]), SCHEMES["mxfp4"])]
        case "bitsandbytes":
            twice = said.get("bnb_4bit_use_double_quant")
            four = Scheme("nf4", 4 + (8 + 32 / 256) / 64) if twice else SCHEMES["nf4"]
            if said.get("load_in_8bit") or said.get("load_in_4bit"):
                chosen = [(None, SCHEMES["int8"] if said.get("load_in_8bit") else four)]
        case "compressed-tensors" | "modelopt" | "modelopt_fp4" | "modelopt_mixed":
            chosen = list(_groups(said, where))
        case _:  # one of which no more is known than that it is there
            pass
    return _Rules(chosen, kept, head=said.get("lm_head") is True)


def _groups(said: JsonObject, where: str) -> Iterator[tuple["_Modules | None", Scheme]]:
    """The groups of compressed-tensors, or ModelOpt's one algorithm, or its one for each module."""
    layers = said.get("quantized_layers")
    if isinstance(layers, dict):
        by_scheme: dict[Scheme, list[str]] = {}
        for name, layer in layers.items():
            scheme = _of_algorithm(layer if isinstance(layer, dict) else {}, where)
            if scheme:
                by_scheme.setdefault(scheme, []).append(str(name))
        yield from ((_Modules.of(names), scheme) for scheme, names in by_scheme.items())
        return
    groups = said.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else []:
        if not isinstance(group, dict) or not isinstance(weights := group.get("weights"), dict):
            continue
        targets = group.get("targets")
        named = [each for each in targets if each != "Linear"] if isinstance(targets, list) else []
        activations = group.get("input_activations")
        scheme = _of_numbers(weights, where, quantises_activations=isinstance(activations, dict))
        is_all = not isinstance(targets, list) or "Linear" in targets
        yield (None if is_all else _Modules.of(named)), scheme
    if not groups and (scheme_of_all := _of_algorithm(said, where)):
        yield None, scheme_of_all


def _of_algorithm(said: JsonObject, where: str) -> Scheme | None:
    """ModelOpt's name of a scheme."""
    algorithm = str(said.get("quant_algo") or "").upper()
    group = _whole(said, "group_size", where, default=128)
    if algorithm.startswith("FP8"):
        return SCHEMES["fp8-block" if "PB" in algorithm or "BLOCK" in algorithm else "fp8"]
    if "NVFP4" in algorithm:
        return SCHEMES["nvfp4"]
    if "MXFP4" in algorithm:
        return SCHEMES["mxfp4"]
    if algorithm.startswith(("W4A16", "W4A8", "INT4")):
        return integer(4, group, zero_point=False)
    return SCHEMES["int8"] if algorithm.startswith(("W8A16", "W8A8", "INT8")) else None


def _of_numbers(weights: JsonObject, where: str, *, quantises_activations: bool) -> Scheme:
    """compressed-tensors: a scheme by its bits, type and group."""
    bits = _whole(weights, "num_bits", where, default=8, least=2, most=16)
    group = _whole(weights, "group_size", where, default=0, least=-1)
    if weights.get("type") == "float":
        if bits > 4:
            name = "fp8-block" if weights.get("strategy") == "block" else "fp8"
            scheme = SCHEMES[name]
            if quantises_activations:
                return scheme
            return Scheme(scheme.kernel, scheme.bits)
        return SCHEMES["mxfp4" if group == 32 else "nvfp4"]
    return integer(bits, max(group, 0), zero_point=weights.get("symmetric") is False)


def _cache_bits(said: JsonObject) -> int | None:
    """8 where cached keys and values are quantised to that."""
    scheme = said.get("kv_cache_scheme")
    algorithm = str(said.get("kv_cache_quant_algo") or "").upper()
    if algorithm in {"FP8", "INT8"}:
        return 8
    if isinstance(scheme, dict) and scheme.get("num_bits") == 8:
        return 8
    return 8 if isinstance(scheme, str) and "fp8" in scheme.lower() else None


# -- which modules ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Modules:
    """Names and patterns of modules."""

    names: frozenset[str] = frozenset()
    globs: tuple[str, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()
    unread: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, *lists: Any) -> "_Modules":
        entries = [str(each) for part in lists if isinstance(part, list) for each in part]
        return cls().with_more(entries)

    def with_more(self, entries: Iterable[str]) -> "_Modules":
        names, globs = set(self.names), [*self.globs]
        patterns, unread = [*self.patterns], [*self.unread]
        for entry in entries:
            if entry.startswith("re:"):
                found = _pattern(entry[3:])
                if found is None:
                    unread.append(entry)
                else:
                    patterns.append(found)
            elif "*" in entry or "?" in entry:
                globs.append(entry)
            else:
                names.add(_from_layers(entry))
        return _Modules(frozenset(names), tuple(globs), tuple(patterns), tuple(unread))

    def hold(self, module: str) -> bool:
        """Whether it, or something that it lies in, is among them. module: from `layers` on."""
        parts = module.split(".")
        count = len(parts)
        if self.names and any(
            ".".join(parts[first:last]) in self.names
            for first in range(count)
            for last in range(first + 1, count + 1)
        ):
            return True
        if not self.globs and not self.patterns:
            return False
        full = [prefix + module for prefix in _PREFIXES] if parts[0] == "layers" else [module]
        return any(
            any(fnmatchcase(name, each) for each in self.globs)
            or any(each.match(name) for each in self.patterns)
            for name in full
        )


def _pattern(text: str) -> "re.Pattern[str] | None":
    """A regular expression that takes no longer than its length allows; None for any other."""
    repeats = len(re.findall(r"(?<!\\)[*+{]", text))
    if len(text) > _PATTERN_LENGTH or repeats > _MOST_REPEATS or re.search(r"\)[*+{]", text):
        return None
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return None


def _from_layers(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[parts.index("layers") :]) if "layers" in parts else name


def _parts(shape: ModelShape, rules: _Rules) -> Iterator[Part]:
    """Of each operator with weights, the scheme of its layers and the share that has one."""
    for operator, count in of_model(shape):
        if operator.name in _MODULES:
            yield from _of_operator(operator, count, shape.num_layers, rules)
    head = find("lm_head")
    kept = not rules.head and all(modules is None for modules, _ in rules.chosen)
    if not kept and rules.chosen and not rules.kept.hold("lm_head"):
        scheme = next((s for modules, s in rules.chosen if _takes(modules, "lm_head")), None)
        if scheme:
            yield Part(head.name, scheme)


def _of_operator(operator: Operator, count: int, num_layers: int, rules: _Rules) -> Iterator[Part]:
    looked_at = min(num_layers, _MOST_LAYERS)
    taken: dict[Scheme, int] = {}
    kept = 0
    for layer in range(looked_at):
        modules = [f"layers.{layer}.{each}" for each in _MODULES[operator.name]]
        if any(rules.kept.hold(each) for each in modules):
            kept += 1
            continue
        scheme = next(
            (s for wanted, s in rules.chosen if any(_takes(wanted, each) for each in modules)),
            None,
        )
        if scheme:
            taken[scheme] = taken.get(scheme, 0) + 1
    if operator.name == "router" and not any(wanted for wanted, _ in rules.chosen):
        return  # no engine quantises one that is not named
    # Lists name the layers that an operator stands in, so of many left out none may be left.
    share = max(0.0, 1 - kept * num_layers / looked_at / count)
    total = sum(taken.values())
    for scheme, layers in taken.items():
        found = min(1.0, layers * num_layers / looked_at / count) if kept == 0 else share
        portion = found * (layers / total if len(taken) > 1 else 1.0)
        if portion > 0:
            yield Part(operator.name, scheme, portion)


def _takes(wanted: _Modules | None, module: str) -> bool:
    return wanted is None or wanted.hold(module)


def note(found: Quantisation, unread: int = 0) -> str:
    """What is quantised, for a reader. unread: patterns of what is left out that were not read."""
    schemes = dict.fromkeys(str(part.scheme) for part in found.parts)
    head = "quantised" if any(part.operator == "lm_head" for part in found.parts) else "in 16 bits"
    words = [f"quantised weights ({found.name[:40]}): {', '.join(schemes) or 'none'}"]
    words.append(f"the LM head {head}")
    if found.cache_bits:
        words.append(f"the cache in {found.cache_bits} bits")
    if unread:
        words.append(f"{unread} patterns of what is left out were not read")
    return "; ".join(words)


def _whole(
    said: JsonObject, key: str, where: str, *, default: int, least: int = 1, most: int = 1 << 16
) -> int:
    value = said.get(key)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise InvalidFileError(
            f"{where}: {key} of the quantisation is {str(value)[:40]!r}; it must be a whole number "
            f"of {least} to {most}."
        )
    return value
