"""Loading a model runs nothing of it, asks nobody, and takes no half of one."""

import io
import json
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.decode.engine import hub, loading
from medusa_bench.decode.study import prompts
from tests.builders.tiny_models import tiny_llama, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model with a tokenizer, as saved by transformers."""
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    tiny_llama().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def changed(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def in_config(folder: Path) -> None:
    own = {"AutoModelForCausalLM": "own.Model", "AutoConfig": "own.Config"}
    changed(folder / "config.json", auto_map=own)


def in_config_of_an_unknown_type(folder: Path) -> None:
    changed(folder / "config.json", model_type="ours", auto_map={"AutoConfig": "own.Config"})


def in_tokenizer(folder: Path) -> None:
    own = {"AutoTokenizer": ["own.Tokenizer", None]}
    changed(folder / "tokenizer_config.json", auto_map=own, tokenizer_class="OwnTokenizer")


def in_processor(folder: Path) -> None:
    own = {"auto_map": {"AutoProcessor": "own.Processor"}}
    (folder / "processor_config.json").write_text(json.dumps(own))


def in_generation(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("raise SystemExit('ran')\n")


@pytest.mark.parametrize(
    "plant",
    [in_config, in_config_of_an_unknown_type, in_tokenizer, in_processor, in_generation],
)
def test_code_that_comes_with_a_model_is_refused_and_never_run(
    folder: Path, plant: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    plant(folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    with pytest.raises(MedusaBenchError, match=r"code of its own, which is not run") as caught:
        loading.load(str(folder))
    assert "own." in caught.value.message or "generate.py" in caught.value.message
    assert not (tmp_path / "ran").exists()
    assert sys.stdin.read() == "y\n" * 100


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", r"unsafe|access"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "ended",
        ),
        ("{% for message in messages %}", "cannot be used"),
        ("{{ messages[7].content.upper() }}", "cannot be used"),
    ],
    ids=["reaches", "loops", "unfinished", "of others"],
)
def test_a_template_that_does_more_than_lay_out_the_text_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, template: str, said: str
) -> None:
    monkeypatch.setattr(prompts, "_TEMPLATE_S", 0.05)
    changed(folder / "tokenizer_config.json", chat_template=template)
    _, tokenizer = loading.load(str(folder))
    with pytest.raises(InvalidFileError, match=said):
        prompts.token_ids(tokenizer, [{"role": "user", "content": "a"}])
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_missing_weights_are_named_and_not_made_up(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(weights, path, {"format": "pt"})
    with pytest.raises(MedusaBenchError, match=r"lacks weights.*layers\.1\.mlp\.up_proj\.weight"):
        loading.load(str(folder))


def test_weights_that_no_file_can_hold_are_not_made_up(folder: Path) -> None:
    """Without hidden_size Llama's class makes matrices of 4096, a gigabyte in two layers."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["hidden_size"], config["intermediate_size"]
    path.write_text(json.dumps(config))
    with pytest.raises(InvalidFileError, match=r"asks for 2\d\d,\d{3},\d{3} weights"):
        loading.load(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "list"])
def test_damaged_files_are_one_sentence(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "garbage": b"\xff\x00" * 40,
            "list": b"[1]",
        }[damage]
    )
    with pytest.raises(MedusaBenchError) as caught:
        loading.load(str(folder))
    assert "\n" not in caught.value.message


class NoNetworkError(Exception):
    pass


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Any connection is an error, and the cache is empty."""
    from huggingface_hub import constants

    def refuse(*_: Any, **__: Any) -> None:
        raise NoNetworkError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["llama-7c", "modle", "./here", "a/b/c", "../up", "~/x", "x.gguf"])
def test_a_name_that_is_none_of_the_hubs_asks_no_network(name: str) -> None:
    with pytest.raises(MedusaBenchError, match="There is no model at"):
        loading.load(name)


@pytest.mark.usefixtures("no_network")
def test_offline_asks_no_network_and_says_how_to_fetch() -> None:
    with pytest.raises(MedusaBenchError, match="not in the local cache") as caught:
        loading.load("owner/model", offline=True)
    assert "hf download owner/model" in str(caught.value.hint)


@pytest.mark.usefixtures("no_network")
def test_a_local_folder_is_loaded_without_the_network(folder: Path) -> None:
    model, tokenizer = loading.load(str(folder))
    assert model(torch.tensor([[1, 2]])).logits.shape == (1, 2, 29)
    assert tokenizer("a b")["input_ids"] == [1, 2]


@pytest.mark.usefixtures("no_network")
def test_what_is_cached_is_loaded_without_the_network(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "models--owner--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir()
    folder.rename(snapshot)
    assert hub.fetched("owner/model", offline=True) == snapshot
    (snapshot / "model.safetensors").unlink()  # half a download is none
    with pytest.raises(MedusaBenchError, match="not in the local cache"):
        hub.fetched("owner/model", offline=True)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("meta-llama/Llama-3.1-8B", True), ("a", False), ("a/b/c", False), ("/a", False),
     ("../a", False), ("a/..", False), ("a b/c", False), ("owner/" + "x" * 200, False)],
)  # fmt: skip
def test_names_of_the_hub(name: str, is_one: bool) -> None:
    assert hub.is_name(name) is is_one
