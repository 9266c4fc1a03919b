"""Damaged files of every kind that is read, in this process: `make fuzz`.

A mutant is a file that we write ourselves, with bytes, numbers, words or parts of its JSON changed,
sometimes under a checksum that fits again. The command that reads such a file must say what is
wrong in a sentence and a documented exit code, or answer with finite numbers. A finding is a
traceback, over 5 s, over 500 MB, another exit code, or a control character that is shown.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from medusa_bench import cli
from medusa_bench.base import limits
from medusa_bench.base.deadlines import within
from medusa_bench.base.errors import ExitCode, MedusaBenchError
from medusa_bench.base.exits import printable
from medusa_bench.base.files import read_text
from medusa_bench.compare import schedule_files, studies
from medusa_bench.decode.study import prompts
from medusa_bench.predict import calibration_files

COUNT = 50_000
LIMIT_S, LIMIT_BYTES = 5, 500 << 20
_EXTREMES = (
    "0", "-1", "1e308", "5e-324", "-0.0", "NaN", "Infinity", "1e400", "true", "null", '"nan"',
    "[]", "{}", '""', '"\\u001b[2J"', "9" * 30, "9" * 5000, "4000", "3000000001", "[[[[]]]]",
    '{"a": 1, "a": 2}', '"=HYPERLINK(1)"', '"../../etc/passwd"', "0.5", "2", '"\\ud800"',
)  # fmt: skip
_PIECES = (
    b"\0", b"\x1b[31m", b"\xff\xfe", b"\r", b"\n", b",", b'"', b"{", b"}", b"[", b"]", b"9" * 400,
    "\u202e".encode(), b"nan", b"inf", b"-", b"1e999", b"=cmd", b"\xef\xbb\xbf", b"'", b"#", b"=",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: whole ones that we wrote, and the ways in which a command reads one.

    `files` are laid into a folder by their names; the one named `target` is damaged. A reader takes
    that folder. `seal` makes a checksum fit again.
    """

    name: str
    files: Mapping[str, bytes]
    target: str
    readers: Sequence[Callable[[Path], object]]
    seal: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A mutant that broke a promise: the name that makes it again, and what happened."""

    mutant: str
    what: str


def read_mutants(kind: Kind, seed: int, numbers: Iterable[int]) -> list[Finding]:
    """What was found wrong with those mutants of a kind."""
    findings = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "mutant")
        for number in numbers:
            content, read = damaged(kind, seed, number)
            shutil.rmtree(folder, ignore_errors=True)
            lay(kind, folder)
            (folder / kind.target).write_bytes(content)
            if what := judged(read, folder):
                findings.append(Finding(f"{seed}:{kind.name}:{number}", what))
    return findings


def damaged(kind: Kind, seed: int, number: int) -> tuple[bytes, Callable[[Path], object]]:
    """One mutant, the same for the same numbers, and who reads it."""
    chance = random.Random(f"{seed}:{kind.name}:{number}")
    content = mutant(kind.files[kind.target], chance)
    if kind.seal and chance.random() < 0.7:
        content = kind.seal(content)
    return content, chance.choice(kind.readers)


def lay(kind: Kind, folder: Path) -> None:
    """Write the whole files of a kind into a folder."""
    for file, content in kind.files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# -- mutants ------------------------------------------------------------------------------------


def mutant(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        content = chance.choice(_CHANGES)(content, chance)
    return content


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _flipped(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return content
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def _without(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    return content[:start] + content[start + chance.randrange(1, 40) :]


def _twice(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    end = start + chance.randrange(1, 200)
    return content[:end] + content[start:end] * chance.choice((1, 1, 50)) + content[end:]


def _with_piece(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.choice(_PIECES) + content[at:]


def _other_number(content: bytes, chance: random.Random) -> bytes:
    digits = [index for index, byte in enumerate(content[:200_000]) if 48 <= byte <= 57]
    if not digits:
        return _with_piece(content, chance)
    start = end = chance.choice(digits)
    number = b"0123456789.eE+-"
    while start and content[start - 1] in number:
        start -= 1
    while end < len(content) and content[end] in number:
        end += 1
    return content[:start] + chance.choice(_EXTREMES).encode() + content[end:]


def _other_value(content: bytes, chance: random.Random) -> bytes:
    """One value of a JSON document, or of one of its lines, replaced, dropped or renamed."""
    lines = content.split(b"\n") if content[:1] == b"{" and content.count(b"\n{") else [content]
    index = chance.randrange(len(lines))
    try:
        document = json.loads(lines[index])
    except ValueError:
        return _other_number(content, chance)
    places = list(_places(document))
    if not places:
        return _with_piece(content, chance)
    holder, key = chance.choice(places)
    match chance.randrange(4):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[f"{key}?"] = holder.pop(key)
        case _:
            holder[key] = mark = "\0value\0"
            lines[index] = (
                json.dumps(document)
                .replace(json.dumps(mark), chance.choice(_EXTREMES))
                .encode("utf-8", "surrogatepass")
            )
            return b"\n".join(lines)
    lines[index] = json.dumps(document).encode()
    return b"\n".join(lines)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from _places(inner)


_CHANGES = (
    _cut, _flipped, _without, _twice, _with_piece, _other_number, _other_number, _other_value,
    _other_value, _other_value,
)  # fmt: skip


def sealed_rows(content: bytes) -> bytes:
    """points.jsonl with checksums that fit."""
    mark = b',"check":"'
    parts = [line.partition(mark) for line in content.split(b"\n")]
    return b"\n".join(
        body + mark + hashlib.sha256(body).hexdigest()[:16].encode() + b'"}' if found else body
        for body, found, _ in parts
    )


# -- judging ------------------------------------------------------------------------------------


class _TooLong(BaseException):
    """Not an Exception: no reader may catch it."""


def judged(read: Callable[[Path], object], folder: Path) -> str:
    """What a reader does wrong with a mutant; nothing where it does right."""
    most_bytes = _most_bytes()
    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(),
            within(LIMIT_S, _TooLong()),
        ):
            warnings.simplefilter("error", RuntimeWarning)  # NumPy's of what is not finite
            code = read(folder)
    except (MedusaBenchError, click.ClickException) as error:
        code, _ = 1, said.write(printable(error.message))
    except _TooLong:
        return f"took over {LIMIT_S} s"
    except Exception:
        return traceback.format_exc(limit=-4)
    if (grown := _most_bytes() - most_bytes) > LIMIT_BYTES:
        return f"took {grown / 1e6:.0f} MB"
    if isinstance(code, int) and code not in set(ExitCode) - {ExitCode.INTERRUPTED}:
        return f"ended with {code}"
    raw = {character for character in said.getvalue() if not character.isprintable()} - {"\n"}
    return f"showed {sorted(raw)!r}" if raw else ""


def _most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -- kinds --------------------------------------------------------------------------------------


def command(*arguments: str) -> Callable[[Path], int]:
    """Reads a mutant as the command line does; {} in an argument is the mutant's folder."""
    return lambda folder: cli.run([each.replace("{}", str(folder)) for each in arguments])


def output_of(*arguments: str) -> bytes:
    """What a command prints of whole files."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        assert cli.run(list(arguments)) == ExitCode.OK, arguments
    return said.getvalue().encode()


_ROOT = Path(__file__).resolve().parents[1]
_BEFORE = _ROOT / "tests/fixtures/before-packages"
_A100 = ("--gpu", "a100-80gb-pcie")
_ONE = ("-b", "1", "-s", "128")
_VLLM_LOG = (
    "SpecDecoding metrics: Mean acceptance length: 2.60, Accepted throughput: 9.1 tokens/s, "
    "Drafted throughput: 17.1 tokens/s, Accepted: 91 tokens, Drafted: 171 tokens, Per-position "
    "acceptance rate: 0.800, 0.500, 0.300, Avg Draft acceptance rate: 53.2%\n"
)
_METRICS = "".join(
    f"vllm:spec_decode_num_{name} {count}\n"
    for name, count in (
        ("drafts_total", 100.0),
        ("draft_tokens_total", 300.0),
        ("accepted_tokens_total", 150.0),
        ('accepted_tokens_per_pos_total{position="0"}', 80.0),
        ('accepted_tokens_per_pos_total{position="1"}', 50.0),
        ('accepted_tokens_per_pos_total{position="2"}', 20.0),
    )
)
_ENGINES_SAY = {
    "vllm.log": _VLLM_LOG * 2,
    "metrics.prom": _METRICS,
    "vllm_v0.log": "Speculative metrics: Draft acceptance rate: 0.500, System efficiency: 0.625, "
    "Number of speculative tokens: 3, Number of accepted tokens: 150, Number of draft tokens: "
    "300, Number of emitted tokens: 250.\n",
    "tensorrt.log": '{"iter": 1, "specDecodingStats": {"numDraftTokens": 24, '
    '"numAcceptedTokens": 16, "numRequestsWithDraftTokens": 8}}\n',
    "sglang.log": "Decode batch. #running-req: 1, accept len: 2.50, cuda graph: True\n",
    "llamacpp.log": "draft acceptance = 0.50000 (  150 accepted /   300 generated), mean "
    "acceptance length =  2.50, acceptance rate per position = (0.800, 0.500, 0.200)\n",
}
_COUNTED = {
    "survival": {"survival": [0.8, 0.5, 0.2]},
    "histogram": {"histogram": {"0": 10, "1": 5, "3": 2}},
    "rates": {"acceleration_rate": {"1": 1.0, "4": 2.2, "16": 3.1}},
    "joint": {"path_probability": {"0": 0.6, "1": 0.1, "0,0": 0.3, "0,1": 0.1, "0,0,0": 0.1}},
    "heads": {"accuracy": [[0.6, 0.1, 0.05], [0.4, 0.1]]},
    "cumulative": {"cumulative_accuracy": [[0.6, 0.7, 0.75], [0.4, 0.5]]},
    "bench": {"spec_decode_per_position_acceptance_rates": [0.8, 0.5, 0.2], "completed": 9},
    "sglang": {"internal_states": [{"avg_spec_accept_length": 3.0}]},
    "timings": {"timings": {"predicted_n": 50, "draft_n": 90, "draft_n_accepted": 30}},
}
_SPEEDUPS = (
    "gpu,num_gpus,model,dtype,engine,engine_version,method,shape,draft,draft_len,num_candidates,"
    "seq_len,batch_size,tokens_per_step,speedup\n"
    "h100-sxm,1,llama-3-8b,bfloat16,vllm,0.10.0,eagle-3,chain,,3,4,1024,1,2.3,1.8\n"
    "a100-80gb-sxm,1,llama-7b,float16,transformers,,medusa,tree,,4,64,512,4,2.9,1.6\n"
)
_LATENCIES = (
    "dtype,m,n,k,latency_us,batch,gpu,source,model,op\n"
    "float16,1,4096,4096,21.5,1,a100-80gb-pcie,ours,llama-7b,o\n"
    "bfloat16,64,11008,4096,65.25,1,h100-sxm,ours,llama-7b,up\n"
)
_CONFIGS: Mapping[str, Mapping[str, object]] = {
    "llama": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    },
    "gemma": {
        "model_type": "gemma3", "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4,
            "head_dim": 256, "vocab_size": 262208, "sliding_window": 1024,
        },
    },
}  # fmt: skip
_PROMPTS = (
    '{"question_id": 81, "category": "writing", "turns": ["Write a letter.", "Shorter."]}\n'
    '{"question_id": 82, "category": "math", "turns": ["What is 2 + 2?"]}\n'
)


def quick_kinds() -> Iterator[Kind]:
    """The kinds that are read without torch."""
    for name in ("swept", "predicted"):
        files = {f"{name}/{each.name}": each.read_bytes() for each in (_BEFORE / name).iterdir()}
        readers = [
            command("results", "show", f"{{}}/{name}", "--json"),
            command("results", "verify", f"{{}}/{name}"),
            command("results", "export", f"{{}}/{name}", "-f", "markdown"),
            command("results", "diff", f"{{}}/{name}", str(_BEFORE / name)),
            command("roofline", f"{{}}/{name}", "--text"),
            command("roofline", f"{{}}/{name}", "--json"),
        ]
        if name == "swept":
            readers += [
                command("explain", f"{{}}/{name}"),
                command("compare", "--gpu", f"{{}}/{name}", "--dtype", "float32", *_ONE, "--json"),
            ]
        yield Kind(f"{name} rows", files, f"{name}/points.jsonl", readers, sealed_rows)
        yield Kind(f"{name} run.json", files, f"{name}/run.json", readers)
    printed = {
        f"paper/{each.name}": each.read_bytes() for each in (_ROOT / "results/paper").iterdir()
    }
    for target in ("paper/run.json", "paper/tables_6_7_8_llama33b_a100_80gb_pcie.csv"):
        readers = [command("results", "show", "{}/paper"), command("results", "export", "{}/paper")]
        yield Kind(f"printed {target}", printed, target, readers)
    yield Kind(
        "profile",
        {"card.toml": (_ROOT / "profiles/h100-sxm.toml").read_bytes()},
        "card.toml",
        [
            command("profiles", "show", "{}/card.toml", "--json"),
            command("profiles", "check", "{}/card.toml"),
            command("predict", "--gpu", "{}/card.toml", "--operator", "up", *_ONE, "--json"),
            command("compare", "--gpu", "{}/card.toml", *_ONE),
        ],
    )
    yield from _of_files(
        "config",
        {f"{name}.json": json.dumps(config).encode() for name, config in _CONFIGS.items()},
        command("operators", "-m", "{}", *_ONE, "--json"),
        command("operators", "-m", "{}"),
        command("compare", "--gpu", "paper", "-m", "{}", *_ONE),
        command("sweep", "-m", "{}", *_ONE, "--dry-run", "--device", "cpu"),
    )
    yield from _of_files(
        "acceptance",
        {f"{name}.json": json.dumps(content).encode() for name, content in _COUNTED.items()}
        | {name: text.encode() for name, text in _ENGINES_SAY.items()}
        | {"rates.csv": b"num_candidates,acceleration_rate\n1,1.0\n4,2.2\n16,3.1\n"},
        command("acceptance", "{}", "--json"),
        command(
            "compare", "--gpu", "paper", "--acceptance", "{}", "--method", "medusa", *_ONE, "--json"
        ),
    )
    yield from _of_files(
        "accuracy",
        {
            f"{name}.json": json.dumps(_COUNTED[name]).encode()
            for name in ("joint", "heads", "cumulative")
        }
        | {
            "heads.csv": b"head,top_k,cumulative_accuracy\n1,1,0.6\n1,2,0.7\n2,1,0.4\n",
        },
        command("tree", "--accuracy", "{}", "-q", "16", "--json"),
        command(
            "compare", "--gpu", "paper", "--acceptance", "tree:{}", "--method", "medusa", *_ONE
        ),
        command("schedule", *_A100, "--acceptance", "{}", "--method", "medusa", "--engine", "json"),
    )
    yield from _of_files(
        "tree",
        {"tree.json": b"[[0], [1], [0, 0], [0, 1], [0, 0, 0]]"},
        command("tree", "--load", "{}", "--json"),
    )
    yield from _of_files(
        "schedule",
        {
            f"{engine}.json": output_of(
                "schedule", *_A100, "--engine", engine, "--method", method, "--max-batch-size", "8"
            )
            for engine, method in (
                ("vllm", "draft-model"),
                ("tensorrt-llm", "draft-model"),
                ("sglang", "eagle-3"),
                ("llama.cpp", "draft-model"),
                ("json", "medusa"),
            )
        },
        _read_schedule,
        command("schedule", *_A100, "--check", "{}", "--max-batch-size", "4"),
    )
    yield from _of_files(
        "calibration",
        {"calibration.json": (_BEFORE / "calibration.json").read_bytes()},
        calibration_files.read,
    )
    yield from _of_files(
        "comparison",
        {"compare.json": output_of("compare", "--gpu", "paper", *_ONE, "--json")},
        lambda path: [studies.columns(study) and None for study in studies.read(path)],
    )
    yield from _of_files(
        "speedups",
        {"speedups.csv": _SPEEDUPS.encode()},
        command("compare", "--against", "{}", "--json"),
        command("compare", "--against", "{}"),
    )
    yield from _of_files(
        "latencies",
        {"latencies.csv": _LATENCIES.encode(), "latencies.parquet": _as_parquet(_LATENCIES)},
        command("predict", "--against", "{}", "--json"),
        command("predict", "--against", "{}"),
    )
    yield from _of_files("prompts", {"prompts.jsonl": _PROMPTS.encode()}, prompts.read)


def _read_schedule(path: Path) -> None:
    schedule_files.read(read_text(path, limits.COMPARISON_BYTES), where=str(path))


def _of_files(
    name: str, files: Mapping[str, bytes], *readers: Callable[[Path], object]
) -> Iterator[Kind]:
    """A kind for each of several forms of one thing, each a file that is read by its path."""
    for file, content in files.items():
        of_file = [partial(_read_file, reader, file) for reader in readers]
        yield Kind(f"{name} {file}", {file: content}, file, of_file)


def _read_file(reader: Callable[[Path], object], file: str, folder: Path) -> object:
    return reader(folder / file)


def _as_gguf() -> bytes:
    """A tiny Llama with random weights and a tokenizer, as llama.cpp keeps them."""
    import gguf
    import numpy as np

    hidden, ffn, heads, kv_heads, layers = 32, 48, 4, 2, 2
    tokens = [b"<unk>", *(bytes([97 + i]) for i in range(24)), b"ab", b"cd", b"<s>", b"</s>"]
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd": (len(tokens), hidden),
        "output_norm": (hidden,),
        "output": (len(tokens), hidden),
    }
    for layer in range(layers):
        of_layer = {
            "attn_q": (hidden, hidden),
            "attn_k": (hidden * kv_heads // heads, hidden),
            "attn_v": (hidden * kv_heads // heads, hidden),
            "attn_output": (hidden, hidden),
            "ffn_gate": (ffn, hidden),
            "ffn_up": (ffn, hidden),
            "ffn_down": (hidden, ffn),
            "attn_norm": (hidden,),
            "ffn_norm": (hidden,),
        }
        tensors |= {f"blk.{layer}.{name}": shape for name, shape in of_layer.items()}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "tiny.gguf")
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(layers)
        writer.add_context_length(64)
        writer.add_embedding_length(hidden)
        writer.add_feed_forward_length(ffn)
        writer.add_head_count(heads)
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(len(tokens))
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_merges(["a b", "c d"])
        writer.add_token_types([1] * len(tokens))
        writer.add_bos_token_id(len(tokens) - 2)
        writer.add_eos_token_id(len(tokens) - 1)
        for name, shape in tensors.items():
            writer.add_tensor(f"{name}.weight", np.full(shape, 0.1, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _as_parquet(table: str) -> bytes:
    import pandas as pd

    content = io.BytesIO()
    pd.read_csv(io.StringIO(table)).to_parquet(content)
    return content.getvalue()


def slow_kinds() -> Iterator[Kind]:
    """What is read with torch: models, tokenizers, heads, adapters, states of a training."""
    from transformers.utils import logging

    from medusa_bench.decode.engine import loading
    from medusa_bench.decode.heads import adapters, checkpoints, files, joint
    from medusa_bench.decode.heads.heads import MedusaHeads
    from tests.builders.tiny_models import tiny_llama, tiny_tokenizer

    logging.set_verbosity_error()
    model = tiny_llama()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        loading.save(model, tiny_tokenizer(), root / "model")
        adapters.save(
            joint.with_adapter(tiny_llama(), joint.JointRecipe()), root / "adapter", base_name="x"
        )
        heads = MedusaHeads(2, model.get_output_embeddings().weight.detach())
        files.save(heads, root / "heads", config={"base": "tiny"}, dtype=model.dtype)
        checkpoints.write(root / "state.pt", {"seed": 1}, {"step": 3, "w": heads.state_dict()})
        saved = {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }
    readers: Mapping[str, Callable[[Path], object]] = {
        "model": lambda folder: loading.load(str(folder / "model"), offline=True) and None,
        "heads": lambda folder: files.load(folder / "heads", model) and None,
        "adapter": lambda folder: adapters.load(folder / "adapter", tiny_llama()) and None,
        "state.pt": lambda folder: checkpoints.read(folder / "state.pt", {"seed": 1}) and None,
    }
    for part, reader in readers.items():
        of_part = {name: data for name, data in saved.items() if Path(name).parts[0] == part}
        for target in sorted(of_part):
            yield Kind(target, of_part, target, [reader])

    if importlib.util.find_spec("gguf"):
        yield from _of_files(
            "GGUF",
            {"tiny.gguf": _as_gguf()},
            lambda path: loading.load(str(path), offline=True) and None,
        )


# -- the program --------------------------------------------------------------------------------


@click.command()
@click.option("--seed", default=0, show_default=True, help="Another seed makes other mutants.")
@click.option("--count", default=COUNT, show_default=True, help="Mutants in all.")
@click.option("--only", default="", metavar="TEXT", help="Kinds whose name holds this.")
@click.option("--again", metavar="MUTANT", help="One mutant again, by the name in a finding.")
def main(seed: int, count: int, only: str, again: str | None) -> None:
    """Read damaged files of every kind, and list what ends otherwise than with a sentence."""
    kinds = [kind for kind in (*quick_kinds(), *slow_kinds()) if only in kind.name]
    if again:
        number, name, index = again.split(":")
        kind = next(kind for kind in kinds if kind.name == name)
        for finding in read_mutants(kind, int(number), [int(index)]):
            click.echo(finding.what)
        return
    if not kinds:
        raise click.UsageError(f"No kind's name holds {only!r}.")
    each, started_s = -(-count // len(kinds)), time.monotonic()
    findings = []
    for kind in kinds:
        began_s = time.monotonic()
        found = read_mutants(kind, seed, range(each))
        findings += found
        took_s = time.monotonic() - began_s
        click.echo(f"{kind.name}: {each} mutants, {len(found)} findings, {took_s:.1f} s")
    for finding in findings:
        click.echo(f"\n{finding.mutant}\n{finding.what}")
    click.echo(
        f"{each * len(kinds):,} mutants of {len(kinds)} kinds, {len(findings)} findings, "
        f"{time.monotonic() - started_s:.0f} s"
    )
    sys.exit(ExitCode.ERROR if findings else ExitCode.OK)


if __name__ == "__main__":
    main()
