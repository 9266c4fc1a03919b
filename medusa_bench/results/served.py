"""What running servers answered: one block a server, concurrency and round, in served.jsonl.

A block is one line, sealed and appended as the rows of points.jsonl are, so that a stopped command
goes on. Seconds, tokens and counts are kept; rates and speedups are computed on reading.
"""

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medusa_bench.base import limits, ranges
from medusa_bench.base.documents import JsonObject
from medusa_bench.base.errors import InvalidFileError
from medusa_bench.base.files import opened
from medusa_bench.results.codec import MAX_LINE_BYTES, sealed, unsealed
from medusa_bench.results.folders import lock, storing

FILE = "served.jsonl"
_MOST_TEXT = 300  # characters of a name or a reason
MOST_ANSWERS = 256  # of a block, so that a line holds them


class Role(StrEnum):
    """Which side of a comparison a server is."""

    VANILLA = "vanilla"
    SPECULATING = "speculating"


@dataclass(frozen=True, slots=True)
class Counters:
    """What a server has counted since it started, or between two looks.

    drafts: verifications of drafted tokens. by_position: accepted at the 1st, 2nd, ... place; ()
    where that is not counted.
    """

    drafts: int | None
    drafted: int
    accepted: int
    by_position: tuple[int, ...] = ()

    def __sub__(self, before: "Counters") -> "Counters":
        places = [*before.by_position, *[0] * len(self.by_position)]
        drafts = None
        if self.drafts is not None:
            drafts = self.drafts - (before.drafts or 0)
        return Counters(
            drafts,
            self.drafted - before.drafted,
            self.accepted - before.accepted,
            tuple(now - was for now, was in zip(self.by_position, places, strict=False)),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered request. decode_s: from its first token to its last, tokens - 1 of them."""

    prompt: int
    prompt_tokens: int
    cached_tokens: int
    tokens: int
    first_token_s: float
    decode_s: float
    drafted: int | None = None  # where the answer itself tells
    accepted: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request without a whole answer, and why."""

    prompt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Server:
    """Who answered, as it says itself; label: the user's name for it."""

    role: Role
    label: str
    model: str
    engine: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """All prompts once, so many at a time. busy_share: of the processors before it, by others."""

    server: Server
    setting: str  # what else makes blocks comparable: prompts, lengths
    concurrency: int
    round_index: int
    answers: tuple[Answer, ...]
    refusals: tuple[Refusal, ...]
    elapsed_s: float
    counted: Counters | None  # by the server itself, on its metrics page
    busy_share: float | None
    started_at_s: float

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What is not measured twice."""
        server = self.server
        return server.role, server.label, self.setting, self.concurrency, self.round_index

    @property
    def acceptance(self) -> Counters | None:
        """The metrics page's counters; else the sum of what the answers say; else None."""
        if self.counted is not None:
            return self.counted
        told = [one for one in self.answers if one.accepted is not None]
        if not told:
            return None
        return Counters(
            None, sum(one.drafted or 0 for one in told), sum(one.accepted or 0 for one in told)
        )


# -- counters on a metrics page --------------------------------------------------------------------

_PROMETHEUS = re.compile(
    r"^(?:vllm|llamacpp):spec_decode_num_(drafts|draft_tokens|accepted_tokens(?:_per_pos)?)"
    r"(?:_total)?(\{[^}]*\})?\s+(\S+)\s*$",
    flags=re.MULTILINE,
)
_POSITION = re.compile(r'position="(\d{1,9})"')


def counters_of(page: str) -> Counters | None:
    """vLLM's and llama.cpp's counters of speculation, summed over labels; None without any.

    Raises ValueError for a value that is no count.
    """
    sums: dict[str, float] = {}
    places: dict[int, float] = {}
    for name, labels, text in _PROMETHEUS.findall(page):
        value = ranges.COUNT.of_text(text)
        if name != "accepted_tokens_per_pos":
            sums[name] = sums.get(name, 0.0) + value
        elif position := _POSITION.search(labels):
            index = int(position[1])
            if index >= limits.CANDIDATES:
                raise ValueError(f"{index:,} positions are over {limits.CANDIDATES:,}")
            places[index] = places.get(index, 0.0) + value
    if "accepted_tokens" not in sums and not places:
        return None
    return Counters(
        int(sums["drafts"]) if "drafts" in sums else None,
        int(sums.get("draft_tokens", 0)),
        int(sums.get("accepted_tokens", sum(places.values()))),
        tuple(int(places.get(index, 0)) for index in range(max(places, default=-1) + 1)),
    )


# -- lines -----------------------------------------------------------------------------------------


def encode(block: Block) -> bytes:
    """The block as one sealed line."""
    record = asdict(block)
    record["server"] = {name: value[:_MOST_TEXT] for name, value in record["server"].items()}
    for refusal in record["refusals"]:
        refusal["reason"] = refusal["reason"][:_MOST_TEXT]
    return sealed({"kind": "served", **record})


def decode(line: bytes) -> Block:
    """The block of a line without its newline. Raises InvalidFileError."""
    record = unsealed(line)
    try:
        if record.pop("kind") != "served":
            raise ValueError("it is no block of a server")
        return _block(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidFileError(f"the line is no block of a server: {str(error)[:200]}") from None


def _block(record: JsonObject) -> Block:
    server = record["server"]
    counted, busy_share = record["counted"], record["busy_share"]
    return Block(
        Server(Role(server["role"]), *(str(server[name]) for name in _NAMES)),
        str(record["setting"]),
        _count(record["concurrency"], 1),
        _count(record["round_index"]),
        tuple(_answer(one) for one in record["answers"]),
        tuple(Refusal(_count(one["prompt"]), str(one["reason"])) for one in record["refusals"]),
        ranges.LATENCY_S.of(record["elapsed_s"]),
        None if counted is None else _counters(counted),
        None if busy_share is None else ranges.SHARE.of(busy_share),
        ranges.TIME_S.of(record["started_at_s"]),
    )


_NAMES = ("label", "model", "engine", "version")


def _answer(record: JsonObject) -> Answer:
    return Answer(
        _count(record["prompt"]),
        _count(record["prompt_tokens"]),
        _count(record["cached_tokens"]),
        _count(record["tokens"], 1),
        ranges.TIME_S.of(record["first_token_s"]),
        ranges.TIME_S.of(record["decode_s"]),
        _count_or_none(record["drafted"]),
        _count_or_none(record["accepted"]),
    )


def _counters(record: JsonObject) -> Counters:
    return Counters(
        _count_or_none(record["drafts"]),
        _count(record["drafted"]),
        _count(record["accepted"]),
        tuple(map(_count, record["by_position"])),
    )


def _count(value: Any, least: int = 0) -> int:
    return ranges.whole(value, least, int(ranges.COUNT.high))


def _count_or_none(value: Any) -> int | None:
    return None if value is None else _count(value)


# -- folders ---------------------------------------------------------------------------------------


def load(path: Path) -> list[Block]:
    """The blocks of a folder or of a served.jsonl, one for each key: a whole one before one with
    refusals, else the last. A torn last line is left out. Raises InvalidFileError."""
    file = path / FILE if path.is_dir() else path
    found: dict[tuple[str, str, str, int, int], Block] = {}
    for block, _ in _lines(file):
        _put(found, block)
    if not found:
        raise InvalidFileError(
            f"{path} holds nothing that a server answered.",
            hint="`medusa-bench serving URL -o FOLDER` measures one.",
        )
    return list(found.values())


def _put(blocks: dict[tuple[str, str, str, int, int], Block], block: Block) -> None:
    there = blocks.get(block.key)
    if there is None or there.refusals or not block.refusals:
        blocks[block.key] = block


def _lines(file: Path) -> Iterable[tuple[Block, int]]:
    """Each whole line's block, and where the line ends."""
    end = 0
    with opened(file, limits.POINTS_BYTES) as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES + 2), b""), 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                yield decode(line[:-1]), end
            except InvalidFileError as error:
                raise InvalidFileError(f"{file}, line {number}: {error.message}.") from None


class Writer:
    """The one writer of a folder's served.jsonl, as a context manager.

    Raises BusyError while another process writes there, InvalidFileError where its lines are
    damaged, and StorageError where it cannot be written; earlier blocks are intact then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blocks: dict[tuple[str, str, str, int, int], Block] = {}

    def __enter__(self) -> Self:
        path = self.folder / FILE
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, mode=0o644)
        try:
            lock(self._fd, self.folder)
            end = 0
            for block, end in _lines(path):  # noqa: B007  # the last line's end
                _put(self.blocks, block)
            with storing(self.folder):
                os.ftruncate(self._fd, end)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def has(self, key: tuple[str, str, str, int, int]) -> bool:
        """Whether a whole block of this key is there."""
        there = self.blocks.get(key)
        return there is not None and not there.refusals

    def append(self, block: Block) -> None:
        """Keep a block: when this returns it is on the disk."""
        data = encode(block)
        size = os.fstat(self._fd).st_size
        with storing(self.folder):
            try:
                if os.write(self._fd, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._fd)
            except BaseException:
                os.ftruncate(self._fd, size)
                raise
        _put(self.blocks, block)
