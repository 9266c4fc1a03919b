"""Files of Medusa heads: every published layout read, none of them trusted.

Number of heads, of layers, and whose LM head: from the names and shapes in the file. Where a
config beside it says otherwise, the file is right and a note says so. Layouts, by names:

    FasterDecoding, TGI   {head}.{layer}.linear.weight and .bias,
                          {head}.{num_layers}.weight: an LM head of its own, where there is one
    vLLM                  blocks.{head}.layers.{layer}.weight and .bias, lm_heads.{head}.weight or
                          lm_head.weight (shared), token_map (the tokens that may be proposed)

Written: the first of these, LM head shared with the backbone unless it is its own, plus
`token_map`, and `root.weight` of heads that read the root token.
"""

import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medusa_bench.base import limits
from medusa_bench.base.documents import JsonObject, parse_object
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.base.files import read_bytes, write_whole
from medusa_bench.decode.heads.heads import MedusaHeads

FILE_NAME = "medusa_lm_head.safetensors"
CONFIG_NAME = "config.json"
_NAMES = (FILE_NAME, "medusa_lm_head.pt", "model.safetensors", "pytorch_model.bin")

_MAX_HEADS, _MAX_LAYERS = 32, 16
_MAX_PICKLE_BYTES = 1 << 20
_HINT = "the file is refused and nothing in it was run; was it made for this model?"

# All that a pickle of plain tensors names. Anything else could run code, or claim memory.
_TENSOR_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Float|Half|BFloat16|Long|Int)Storage"
)
_NAMING_OPCODES = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"}
_NAMING_OPCODES |= {"EXT1", "EXT2", "EXT4"}

_BLOCK = re.compile(
    r"(\d+)\.(\d+)\.linear\.(weight|bias)|blocks\.(\d+)\.layers\.(\d+)\.(weight|bias)"
)
_OWN_LM_HEAD = re.compile(r"(\d+)\.(\d+)\.weight|lm_heads\.(\d+)\.weight")
_PREFIX = re.compile(r"^(medusa_head|medusa_heads|medusa)\.")


def load(path: str | Path, model: Any) -> MedusaHeads:
    """The heads in a file, or in a folder that holds one, on a backbone's device and in its dtype.

    `model` is the causal LM of transformers that they belong to. Warnings, as sentences, are in
    `notes`. Raises InvalidFileError for a file that is no such heads or does not fit the model.
    """
    lm_head = model.get_output_embeddings().weight
    file, config = _find(Path(path))
    tensors = _read_tensors(file, _most_bytes(lm_head))
    parts = _sort_out(tensors, str(file))
    _check(parts, lm_head, str(file))
    heads = MedusaHeads(
        parts.num_heads,
        lm_head,
        num_layers=parts.num_layers,
        token_ids=None if parts.token_map is None else parts.token_map.to(lm_head.device),
        own_lm_head=bool(parts.own_lm_heads),
        embedding=None if parts.root is None else model.get_input_embeddings().weight,
    )
    _fill(heads, parts)
    heads.notes = tuple(_contradictions(config, parts))
    return heads.eval().requires_grad_(False)


@dataclass(slots=True)
class _Parts:
    """The tensors of a file by what they are; layers and heads are counted from here."""

    weights: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # (head, layer)
    biases: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    own_lm_heads: dict[int, Tensor] = field(default_factory=dict)
    token_map: Tensor | None = None
    root: Tensor | None = None
    num_heads: int = 0
    num_layers: int = 0


def _find(path: Path) -> tuple[Path, JsonObject]:
    """The file of heads and the config beside it ({} where there is none)."""
    file = path
    if path.is_dir():
        file = next((path / name for name in _NAMES if (path / name).is_file()), path)
    if not file.is_file():
        raise MedusaBenchError(
            f"There are no Medusa heads at {path}.",
            hint=f"give the file, or the folder that holds one of {', '.join(_NAMES)}.",
        )
    config = file.parent / CONFIG_NAME
    if not config.is_file():
        return file, {}
    return file, parse_object(read_bytes(config, limits.CONFIG_BYTES), where=str(config))


def _most_bytes(lm_head: Tensor) -> int:
    """More than any heads of this model take, in float32."""
    vocab_size, hidden_size = lm_head.shape
    one_head = vocab_size * hidden_size + _MAX_LAYERS * (hidden_size + 1) * hidden_size
    return 4 * _MAX_HEADS * one_head + (1 << 20)


def _read_tensors(file: Path, most_bytes: int) -> dict[str, Tensor]:
    """The tensors of a file by name, read without running anything in it."""
    if file.stat().st_size > most_bytes:
        raise InvalidFileError(
            f"{file} has {file.stat().st_size:,} bytes; heads of this model take at most "
            f"{most_bytes:,}.",
            hint=_HINT,
        )
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return _read_pickled(file, most_bytes)
    except SafetensorError as error:
        raise InvalidFileError(
            f"{file} is no whole safetensors file: {error}.", hint=_HINT
        ) from None
    except (zipfile.BadZipFile, EOFError, KeyError, RuntimeError, ValueError, MemoryError) as error:
        sentence = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise InvalidFileError(
            f"{file} is no whole file of torch.save: {sentence[0][:200]}", hint=_HINT
        ) from None
    except pickle.UnpicklingError:
        raise InvalidFileError(f"{file} holds more than tensors.", hint=_HINT) from None


def _read_pickled(file: Path, most_bytes: int) -> dict[str, Tensor]:
    """The state dict in a file of torch.save, once its pickle is seen to name only tensors."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > most_bytes or any(
            entry.compress_type != zipfile.ZIP_STORED for entry in entries
        ):
            raise InvalidFileError(
                f"{file} unpacks to more than heads of this model take.", hint=_HINT
            )
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
            raise InvalidFileError(f"{file} holds no state dict of a few tensors.", hint=_HINT)
        content = archive.read(pickles[0])
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _NAMING_OPCODES and not (
            opcode.name == "GLOBAL" and _TENSOR_GLOBALS.fullmatch(str(argument))
        ):
            named = str(argument or opcode.name)[:80].replace(" ", ".")
            raise InvalidFileError(
                f"{file} is a pickle that names {named}, which no tensor needs.", hint=_HINT
            )
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise InvalidFileError(f"{file} holds no state dict (names and tensors).", hint=_HINT)
    return {name: value.detach() for name, value in loaded.items()}


def _sort_out(tensors: Mapping[str, Tensor], where: str) -> _Parts:
    """What each tensor is, by its name. In a checkpoint of the whole model, only the heads."""
    inside = {name for name in tensors if _PREFIX.match(name)}
    parts = _Parts()
    for name in sorted(inside or tensors):
        tensor, bare = tensors[name], _PREFIX.sub("", name)
        if match := _BLOCK.fullmatch(bare):
            head, layer, kind = (group for group in match.groups() if group is not None)
            kept = parts.weights if kind == "weight" else parts.biases
            kept[_count(head, _MAX_HEADS, where), _count(layer, _MAX_LAYERS, where)] = tensor
        elif match := _OWN_LM_HEAD.fullmatch(bare):
            head = match[1] or match[3]
            parts.own_lm_heads[_count(head, _MAX_HEADS, where)] = tensor
        elif bare == "token_map":
            parts.token_map = tensor
        elif bare == "root.weight":
            parts.root = tensor
        elif bare != "lm_head.weight":  # vLLM's copy of the backbone's own
            raise InvalidFileError(f"{where} holds {name[:80]!r}, which no Medusa heads have.")
    if not parts.weights:
        raise InvalidFileError(f"{where} holds no Medusa heads.")
    parts.num_heads = 1 + max(head for head, _ in parts.weights)
    parts.num_layers = 1 + max(layer for _, layer in parts.weights)
    return parts


def _count(digits: str, limit: int, where: str) -> int:
    if len(digits) > 4 or int(digits) >= limit:
        raise InvalidFileError(
            f"{where} names head or layer {digits[:20]}; at most {limit} are read."
        )
    return int(digits)


def _check(parts: _Parts, lm_head: Tensor, where: str) -> None:
    """Every tensor is there, has the shape this backbone asks for, and holds finite numbers."""
    vocab_size, hidden_size = lm_head.shape
    heads, layers = range(parts.num_heads), range(parts.num_layers)
    if parts.token_map is not None:
        _check_token_map(parts.token_map, vocab_size, where)
    proposable = vocab_size if parts.token_map is None else len(parts.token_map)
    for head in heads:
        for layer in layers:
            name = f"block {layer} of head {head}"
            _check_tensor(parts.weights.get((head, layer)), (hidden_size, hidden_size), name, where)
            if parts.biases:
                _check_tensor(
                    parts.biases.get((head, layer)), (hidden_size,), f"bias of {name}", where
                )
        if parts.own_lm_heads:
            _check_lm_head(parts.own_lm_heads.get(head), proposable, vocab_size, head, where)
            _check_tensor(
                parts.own_lm_heads[head],
                (len(parts.own_lm_heads[head]), hidden_size),
                f"LM head of head {head}",
                where,
            )
    if parts.root is not None:
        _check_tensor(
            parts.root, (parts.num_heads * hidden_size, hidden_size), "root weight", where
        )


def _check_lm_head(
    tensor: Tensor | None, proposable: int, vocab_size: int, head: int, where: str
) -> None:
    if tensor is not None and tensor.ndim == 2 and len(tensor) not in {proposable, vocab_size}:
        raise InvalidFileError(
            f"{where}: the LM head of head {head} has {len(tensor):,} tokens, the model's "
            f"vocabulary {vocab_size:,}.",
            hint="heads belong to one backbone; name the model that these were trained on.",
        )
    if tensor is None or tensor.ndim != 2:
        raise InvalidFileError(f"{where}: head {head} has no LM head of its own, others have.")


def _check_tensor(tensor: Tensor | None, shape: tuple[int, ...], name: str, where: str) -> None:
    if tensor is None:
        raise InvalidFileError(f"{where}: the {name} is missing.")
    if tensor.shape != shape or tensor.layout is not torch.strided:
        raise InvalidFileError(
            f"{where}: the {name} has shape {tuple(tensor.shape)}; this model asks for {shape}.",
            hint="heads belong to one backbone; name the model that these were trained on.",
        )
    if not tensor.is_floating_point():
        raise InvalidFileError(f"{where}: the {name} holds no floating-point numbers.")
    if not bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
        raise InvalidFileError(f"{where}: the {name} holds numbers that are not finite.")


def _check_token_map(token_map: Tensor, vocab_size: int, where: str) -> None:
    if (
        token_map.dtype not in {torch.int32, torch.int64}
        or token_map.ndim != 1
        or not 1 <= len(token_map) <= vocab_size
        or int(token_map.min()) < 0
        or int(token_map.max()) >= vocab_size
        or len(set(token_map.tolist())) != len(token_map)
    ):
        raise InvalidFileError(
            f"{where}: token_map is no list of different token ids below {vocab_size:,}."
        )


@torch.no_grad()
def _fill(heads: MedusaHeads, parts: _Parts) -> None:
    """Copy the tensors of a file, whose shapes have been checked, into heads."""
    size = heads.hidden_size
    for (head, layer), weight in parts.weights.items():
        bias = parts.biases.get((head, layer))
        rows = slice(head * size, (head + 1) * size)
        if layer == 0:
            heads.first.weight[rows] = weight
            if bias is not None:
                heads.first.bias[rows] = bias
        else:
            heads.later_weights[layer - 1, head] = weight
            if bias is not None:
                heads.later_biases[layer - 1, head, 0] = bias
    if heads.own_lm_heads is not None:
        for head, weight in parts.own_lm_heads.items():
            chosen = parts.token_map
            restrict = chosen is not None and len(weight) == heads.vocab_size
            heads.own_lm_heads[head] = weight[chosen] if restrict else weight
    if heads.from_root is not None and parts.root is not None:
        heads.from_root.weight.copy_(parts.root)


def _contradictions(config: JsonObject, parts: _Parts) -> list[str]:
    """Where a config says otherwise than its file, a sentence each: the file is what is used."""
    notes = []
    for keys, found, what in (
        (("medusa_num_heads", "num_heads"), parts.num_heads, "heads"),
        (("medusa_num_layers", "num_hidden_layers"), parts.num_layers, "layers in each head"),
    ):
        said = next((config[key] for key in keys if key in config), found)
        if said != found:
            notes.append(
                f"the config says {str(said)[:20]} {what}, the file holds {found}: "
                "the file is used."
            )
    return notes


def save(heads: MedusaHeads, folder: Path, *, config: JsonObject, dtype: torch.dtype) -> None:
    """Write heads and config into a folder, each whole or not at all.

    The names are those of FasterDecoding and TGI; `config` gains the numbers of heads and layers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = heads.hidden_size
    tensors: dict[str, Tensor] = {}
    for head in range(heads.num_heads):
        rows = slice(head * size, (head + 1) * size)
        tensors[f"{head}.0.linear.weight"] = heads.first.weight[rows]
        tensors[f"{head}.0.linear.bias"] = heads.first.bias[rows]
        for layer in range(heads.num_layers - 1):
            tensors[f"{head}.{layer + 1}.linear.weight"] = heads.later_weights[layer, head]
            tensors[f"{head}.{layer + 1}.linear.bias"] = heads.later_biases[layer, head, 0]
        if heads.own_lm_heads is not None:
            tensors[f"{head}.{heads.num_layers}.weight"] = heads.own_lm_heads[head]
    if heads.from_root is not None:
        tensors["root.weight"] = heads.from_root.weight
    tensors = {
        name: tensor.detach().to("cpu", dtype).clone().contiguous()
        for name, tensor in tensors.items()
    }
    if heads.token_ids is not None:
        tensors["token_map"] = heads.token_ids.to("cpu", torch.int32)
    write_whole(folder / FILE_NAME, safetensors.torch.save(tensors, {"format": "pt"}))
    config = {
        "medusa_num_heads": heads.num_heads,
        "medusa_num_layers": heads.num_layers,
        **config,
    }
    write_whole(
        folder / CONFIG_NAME, (json.dumps(config, indent=2, allow_nan=False) + "\n").encode()
    )
