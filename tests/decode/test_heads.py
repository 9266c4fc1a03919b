"""Medusa heads: what they compute, and files of them that cannot be trusted."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.decode.heads import files
from medusa_bench.decode.heads.heads import MedusaHeads

VOCAB, HIDDEN = 40, 8


class TinyModel(nn.Module):
    """All that head files ask of a causal LM of transformers."""

    def __init__(self, vocab_size: int = VOCAB, hidden_size: int = HIDDEN) -> None:
        super().__init__()
        self.lm_head = nn.Linear(hidden_size, vocab_size, bias=False)
        self.embedding = nn.Embedding(vocab_size, hidden_size)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding


@pytest.fixture
def model() -> TinyModel:
    torch.manual_seed(0)
    return TinyModel()


def published(num_heads: int = 3, num_layers: int = 1, *, own: bool = True) -> dict[str, Tensor]:
    """A state dict as FasterDecoding publishes them."""
    torch.manual_seed(1)
    tensors = {}
    for head in range(num_heads):
        for layer in range(num_layers):
            tensors[f"{head}.{layer}.linear.weight"] = torch.randn(HIDDEN, HIDDEN)
            tensors[f"{head}.{layer}.linear.bias"] = torch.randn(HIDDEN)
        if own:
            tensors[f"{head}.{num_layers}.weight"] = torch.randn(VOCAB, HIDDEN)
    return tensors


def by_hand(tensors: dict[str, Tensor], hidden: Tensor, lm_head: Tensor | None = None) -> Tensor:
    """The published definition, head by head and layer by layer."""
    num_heads = 1 + max(int(name.split(".")[0]) for name in tensors)
    logits = []
    for head in range(num_heads):
        out, layer = hidden, 0
        while f"{head}.{layer}.linear.weight" in tensors:
            name = f"{head}.{layer}.linear"
            out = out + nn.functional.silu(
                out @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
            )
            layer += 1
        logits.append(out @ tensors.get(f"{head}.{layer}.weight", lm_head).T)
    return torch.stack(logits)


# --- what heads compute -------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_untrained_heads_repeat_the_lm_head(own: bool, num_layers: int) -> None:
    lm_head, hidden = torch.randn(VOCAB, HIDDEN), torch.randn(5, HIDDEN)
    heads = MedusaHeads(3, lm_head, num_layers=num_layers, own_lm_head=own)
    torch.testing.assert_close(heads(hidden), (hidden @ lm_head.T).expand(3, -1, -1))


def test_restricted_heads_propose_only_tokens_of_their_list() -> None:
    lm_head, hidden = torch.randn(VOCAB, HIDDEN), torch.randn(5, HIDDEN)
    allowed = torch.tensor([3, 7, 8, 21])
    token_ids, _ = MedusaHeads(2, lm_head, token_ids=allowed).top(hidden, 4)
    assert sorted(token_ids[0, 0].tolist()) == allowed.tolist()
    whole = (hidden @ lm_head.T)[:, allowed]
    assert token_ids[1, :, 0].tolist() == allowed[whole.argmax(-1)].tolist()


def test_log_probabilities_are_of_a_distribution_best_first() -> None:
    heads = MedusaHeads(2, torch.randn(VOCAB, HIDDEN))
    token_ids, log_probs = heads.top(torch.randn(3, HIDDEN), VOCAB)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 3))
    assert (log_probs.diff(dim=-1) <= 0).all()
    assert token_ids[0, 0].unique().numel() == VOCAB


def test_rank_beyond_what_a_head_gives_is_an_error_not_another_heads_token() -> None:
    heads = MedusaHeads(3, torch.randn(VOCAB, HIDDEN), token_ids=torch.arange(10))
    with pytest.raises(MedusaBenchError, match="rank 11, but these heads propose 10"):
        heads.top(torch.randn(1, HIDDEN), 11)


def test_heads_that_read_the_root_depend_on_it_and_ask_for_it() -> None:
    embedding = torch.randn(VOCAB, HIDDEN)
    heads = MedusaHeads(2, torch.randn(VOCAB, HIDDEN), embedding=embedding)
    assert heads.from_root is not None
    nn.init.normal_(heads.from_root.weight)
    hidden = torch.randn(1, HIDDEN).expand(2, -1)
    logits = heads(hidden, torch.tensor([4, 5]))
    assert not torch.allclose(logits[:, 0], logits[:, 1])
    with pytest.raises(ValueError, match="root_ids"):
        heads(hidden)


# --- published layouts --------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 2])
def test_pickled_file_of_fasterdecoding_gives_the_published_logits(
    tmp_path: Path, model: TinyModel, num_layers: int
) -> None:
    tensors = published(num_layers=num_layers)
    torch.save(tensors, tmp_path / "medusa_lm_head.pt")
    hidden = torch.randn(4, HIDDEN)
    heads = files.load(tmp_path, model)
    torch.testing.assert_close(heads(hidden), by_hand(tensors, hidden))
    assert (heads.num_heads, heads.num_layers, heads.notes) == (3, num_layers, ())


def test_tgi_file_without_lm_heads_shares_the_backbones(tmp_path: Path, model: TinyModel) -> None:
    tensors = published(own=False)
    save_file(tensors, tmp_path / "medusa_lm_head.safetensors")
    hidden = torch.randn(4, HIDDEN)
    heads = files.load(tmp_path, model)
    expected = by_hand(tensors, hidden, model.lm_head.weight.detach())
    torch.testing.assert_close(heads(hidden), expected)
    assert heads.own_lm_heads is None


@pytest.mark.parametrize("shared", [True, False])
def test_vllm_file_with_a_token_map_proposes_mapped_tokens(
    tmp_path: Path, model: TinyModel, shared: bool
) -> None:
    theirs = published(2)
    token_map = torch.tensor([5, 0, 17, 30])
    tensors: dict[str, Tensor] = {"token_map": token_map}
    for head in range(2):
        for kind in ("weight", "bias"):
            tensors[f"blocks.{head}.layers.0.{kind}"] = theirs[f"{head}.0.linear.{kind}"]
        if not shared:
            tensors[f"lm_heads.{head}.weight"] = theirs[f"{head}.1.weight"][token_map].clone()
    if shared:
        tensors["lm_head.weight"] = model.lm_head.weight.detach().clone()
        theirs = {name: value for name, value in theirs.items() if not name.endswith(".1.weight")}
    save_file(tensors, tmp_path / "model.safetensors")
    hidden = torch.randn(4, HIDDEN)
    heads = files.load(tmp_path, model)
    expected = by_hand(theirs, hidden, model.lm_head.weight.detach())[..., token_map]
    torch.testing.assert_close(heads(hidden), expected)
    assert heads.top(hidden, 1)[0][0, :, 0].tolist() == token_map[expected[0].argmax(-1)].tolist()


def test_heads_inside_a_whole_models_checkpoint_are_found(tmp_path: Path, model: TinyModel) -> None:
    tensors = {f"medusa_head.{name}": value for name, value in published().items()}
    save_file({**tensors, "model.norm.weight": torch.ones(HIDDEN)}, tmp_path / "model.safetensors")
    assert files.load(tmp_path, model).num_heads == 3


def test_file_wins_over_its_config_and_a_note_says_so(tmp_path: Path, model: TinyModel) -> None:
    # The published 7B says 2 heads and has 5.
    torch.save(published(5), tmp_path / "medusa_lm_head.pt")
    config = {"medusa_num_heads": 2, "medusa_num_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    heads = files.load(tmp_path, model)
    assert heads.num_heads == 5
    assert heads.notes == ("the config says 2 heads, the file holds 5: the file is used.",)


@pytest.mark.parametrize("reads_root", [True, False])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("restricted", [True, False])
def test_saved_heads_read_back_alike(
    tmp_path: Path, model: TinyModel, own: bool, restricted: bool, reads_root: bool
) -> None:
    heads = MedusaHeads(
        2,
        model.lm_head.weight,
        num_layers=2,
        token_ids=torch.tensor([1, 4, 9]) if restricted else None,
        own_lm_head=own,
        embedding=model.embedding.weight if reads_root else None,
    )
    for parameter in heads.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    files.save(heads, tmp_path, config={"base": "tiny"}, dtype=torch.float32)
    again = files.load(tmp_path, model)
    hidden, roots = torch.randn(3, HIDDEN), torch.tensor([1, 2, 3])
    torch.testing.assert_close(again(hidden, roots), heads(hidden, roots))
    assert again.notes == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "medusa_lm_head.safetensors",
    ]


# --- files that cannot be trusted ---------------------------------------------------------------


class Payload:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def refused(path: Path, model: TinyModel) -> str:
    with pytest.raises(MedusaBenchError) as caught:
        files.load(path, model)
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_with_a_payload_is_refused_and_not_run(
    tmp_path: Path, model: TinyModel, legacy: bool
) -> None:
    file, proof = tmp_path / "medusa_lm_head.pt", tmp_path / "run"
    content = {"0.0.linear.weight": Payload(proof)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    message = refused(file, model)
    assert not proof.exists()
    assert legacy or "names" in message


def test_bare_pickle_is_refused_and_not_run(tmp_path: Path, model: TinyModel) -> None:
    file, proof = tmp_path / "medusa_lm_head.pt", tmp_path / "run"
    file.write_bytes(pickle.dumps(Payload(proof)))
    refused(file, model)
    assert not proof.exists()


def rewritten(file: Path, change: Any, *, compression: int = zipfile.ZIP_STORED) -> None:
    """Change the pickle inside a file of torch.save."""
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


def test_storage_that_claims_more_than_the_file_has_is_refused(
    tmp_path: Path, model: TinyModel
) -> None:
    file = tmp_path / "medusa_lm_head.pt"
    torch.save({"0.0.linear.weight": torch.zeros(HIDDEN, HIDDEN)}, file)
    elements = b"K" + bytes([HIDDEN * HIDDEN])
    claimed = b"J\xff\xff\xff\x7f"
    rewritten(file, lambda content: content.replace(elements, claimed))
    refused(file, model)


def test_compressed_archive_is_refused_before_it_is_unpacked(
    tmp_path: Path, model: TinyModel
) -> None:
    file = tmp_path / "medusa_lm_head.pt"
    torch.save(published(), file)
    rewritten(file, bytes, compression=zipfile.ZIP_DEFLATED)
    assert "unpacks to more" in refused(file, model)


def test_tensor_blown_up_by_its_strides_is_refused(tmp_path: Path, model: TinyModel) -> None:
    tensors = published()
    tensors["0.0.linear.weight"] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(tensors, tmp_path / "medusa_lm_head.pt")
    assert "shape (1048576, 1048576)" in refused(tmp_path, model)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_file_is_refused(tmp_path: Path, model: TinyModel, suffix: str) -> None:
    file = tmp_path / f"medusa_lm_head.{suffix}"
    if suffix == "pt":
        torch.save(published(), file)
    else:
        save_file(published(), file)
    whole = file.read_bytes()
    for keep in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:keep])
        assert "no whole" in refused(file, model)


def test_header_that_claims_a_huge_tensor_is_refused(tmp_path: Path, model: TinyModel) -> None:
    header = json.dumps(
        {"0.0.linear.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    ).encode()
    file = tmp_path / "medusa_lm_head.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)
    assert "no whole safetensors" in refused(file, model)


def test_file_larger_than_any_heads_is_refused_unread(tmp_path: Path, model: TinyModel) -> None:
    file = tmp_path / "medusa_lm_head.safetensors"
    with file.open("wb") as opened:
        opened.truncate(1 << 40)  # sparse: takes no room
    assert "bytes; heads of this model take at most" in refused(file, model)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("1.1.weight", torch.zeros(VOCAB + 1, HIDDEN), "has 41 tokens, the model's vocabulary 40"),
        ("0.0.linear.weight", torch.zeros(HIDDEN, HIDDEN + 1), "has shape (8, 9)"),
        ("2.0.linear.bias", torch.zeros(HIDDEN + 1), "bias of block 0 of head 2 has shape (9,)"),
        ("0.0.linear.weight", torch.full((HIDDEN, HIDDEN), torch.nan), "not finite"),
        ("0.0.linear.weight", torch.zeros(HIDDEN, HIDDEN, dtype=torch.long), "no floating-point"),
        ("999.0.linear.weight", torch.zeros(HIDDEN, HIDDEN), "at most 32"),
        ("4.0.linear.weight", torch.zeros(HIDDEN, HIDDEN), "block 0 of head 3 is missing"),
        ("lm.secret", torch.zeros(1), "which no Medusa heads have"),
        ("token_map", torch.tensor([1, 1]), "token_map"),
        ("token_map", torch.tensor([VOCAB]), "token_map"),
        ("token_map", torch.tensor([-1]), "token_map"),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    tmp_path: Path, model: TinyModel, name: str, value: Tensor, said: str
) -> None:
    save_file({**published(), name: value}, tmp_path / "medusa_lm_head.safetensors")
    assert said in refused(tmp_path, model)


def test_missing_lm_head_among_own_ones_is_refused(tmp_path: Path, model: TinyModel) -> None:
    tensors = published()
    del tensors["1.1.weight"]
    save_file(tensors, tmp_path / "medusa_lm_head.safetensors")
    assert "head 1 has no LM head of its own" in refused(tmp_path, model)


def test_damaged_config_is_refused(tmp_path: Path, model: TinyModel) -> None:
    save_file(published(), tmp_path / "medusa_lm_head.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidFileError, match=r"config\.json is not valid JSON"):
        files.load(tmp_path, model)


def test_no_heads_where_asked_is_said_with_a_hint(tmp_path: Path, model: TinyModel) -> None:
    assert "There are no Medusa heads at" in refused(tmp_path, model)
    assert "There are no Medusa heads at" in refused(tmp_path / "none", model)
    save_file({"lm_head.weight": torch.zeros(VOCAB, HIDDEN)}, tmp_path / "model.safetensors")
    assert "holds no Medusa heads" in refused(tmp_path, model)
