"""One request to an OpenAI-compatible server, streamed and timed, and what the server tells.

By Python's own HTTP client: it follows no redirect, asks no proxy and keeps no cookies. Every
answer is bounded in bytes and in time.
"""

import http.client
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from medusa_bench.base import ranges
from medusa_bench.base.documents import JsonObject, parse_object
from medusa_bench.base.errors import InvalidFileError, MedusaBenchError
from medusa_bench.base.exits import printable
from medusa_bench.results import served
from medusa_bench.results.served import Answer, Counters

_CHUNK_BYTES = 1 << 16
_MOST_BYTES = 64 << 20  # of one answer
_LOOK_S = 5.0  # for a metrics page, a list of models
Clock = Callable[[], float]


class Api(StrEnum):
    """Which of the two ways to ask: with the model's chat template, or plain text."""

    CHAT = "chat"
    COMPLETIONS = "completions"


_PATHS = {Api.CHAT: "/chat/completions", Api.COMPLETIONS: "/completions"}


class RequestError(Exception):
    """Why there is no whole answer, in words."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: the URL without a path, or with the one before /chat/completions."""

    scheme: str
    host: str
    port: int
    path: str  # of the API, "/v1" as a rule

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Raises MedusaBenchError for what is no URL of a server."""
        hint = "write it as http://127.0.0.1:8000"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise MedusaBenchError(f"{url[:200]} is no URL.", hint=hint) from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise MedusaBenchError(f"{url[:200]} is no URL of a server.", hint=hint)
        if parts.username or parts.query or parts.fragment:
            raise MedusaBenchError(f"{url[:200]} holds more than an address.", hint=hint)
        usual = 443 if parts.scheme == "https" else 80
        return cls(parts.scheme, parts.hostname, port or usual, parts.path.rstrip("/") or "/v1")

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def root(self) -> str:
        """The path under which engines keep what is not OpenAI's."""
        return self.path.removesuffix("/v1")

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """An open connection. Raises RequestError."""
        if self.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self.host, self.port, timeout=timeout_s, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        with _said():
            connection.connect()
        return connection

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@contextmanager
def _said() -> Iterator[None]:
    """Turns what the system, HTTP and TLS raise into a RequestError."""
    try:
        yield
    except ConnectionRefusedError:
        raise RequestError("the connection was refused") from None
    except TimeoutError:
        raise RequestError("no answer in time") from None
    except socket.gaierror:
        raise RequestError("the name of the host is not known") from None
    except (http.client.IncompleteRead, http.client.RemoteDisconnected):
        raise RequestError("the answer was cut off") from None
    except http.client.HTTPException as error:
        raise RequestError(f"no HTTP answer ({type(error).__name__})") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RequestError(f"the connection failed: {reason}") from None


def get(address: Address, path: str) -> bytes | None:
    """A page; None where there is none of that name. Raises RequestError."""
    connection = address.connect(_LOOK_S)
    try:
        with _said():
            connection.request("GET", path)
            response = connection.getresponse()
            body = b"".join(_pieces(connection, response, time.monotonic, _LOOK_S))
    finally:
        connection.close()
    return body if response.status == 200 else None


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server says it serves, and who it is; "" for what it does not tell."""

    model: str
    engine: str
    version: str


# By "owned_by" in the list of models.
_ENGINES = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "llama.cpp": "llama.cpp"}


def identify(address: Address, model: str = "") -> Identity:
    """The model (the first, unless one is named), engine and version of a server.

    Raises RequestError where it does not answer, or lists no models.
    """
    body = get(address, f"{address.path}/models")
    if body is None:
        raise RequestError(f"it has no {address.path}/models")
    try:
        listed = parse_object(body, where="its list of models").get("data")
        named = {str(each["id"]): each for each in listed or () if isinstance(each, dict)}
    except (InvalidFileError, KeyError, TypeError) as error:
        message = error.message if isinstance(error, InvalidFileError) else "it is no such list"
        raise RequestError(f"its list of models cannot be read: {message}") from None
    if not named or (model and model not in named):
        known = ", ".join(named) or "none"
        raise RequestError(f"it serves no model {printable(model)!r}, but {printable(known)[:200]}")
    chosen = model or next(iter(named))
    engine = _ENGINES.get(str(named[chosen].get("owned_by", "")).lower(), "")
    return Identity(chosen, engine, _version(address))


def _version(address: Address) -> str:
    """vLLM's /version; "" elsewhere."""
    try:
        body = get(address, f"{address.root}/version")
        return str(parse_object(body or b"{}", where="the version").get("version", ""))[:80]
    except (RequestError, InvalidFileError):
        return ""


def counters(address: Address) -> Counters | None:
    """What the server's metrics page counts of speculation; None without one that can be read."""
    try:
        body = get(address, f"{address.root}/metrics")
        return served.counters_of((body or b"").decode("utf-8", "replace"))
    except (RequestError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Asking:
    """How every prompt of a run is put."""

    model: str
    api: Api
    max_new_tokens: int
    temperature: float
    ignore_eos: bool
    timeout_s: float

    def body(self, prompt: str) -> bytes:
        """The request's JSON. ignore_eos: as vLLM, SGLang and llama.cpp read it."""
        asked: JsonObject = {
            "model": self.model,
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            asked["ignore_eos"] = True
        if self.api is Api.CHAT:
            asked["messages"] = [{"role": "user", "content": prompt}]
        else:
            asked["prompt"] = prompt
        return json.dumps(asked).encode()


def ask(
    address: Address,
    asking: Asking,
    number: int,
    prompt: str,
    *,
    clock: Clock = time.perf_counter,
) -> Answer:
    """Put one prompt and read its answer to the end. Raises RequestError.

    Tokens are those the server counts (usage), never pieces of the stream: a speculating server
    sends several tokens in one.
    """
    connection = address.connect(asking.timeout_s)
    try:
        with _said():
            start_s = clock()
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
            path = address.path + _PATHS[asking.api]
            connection.request("POST", path, asking.body(prompt), headers)
            response = connection.getresponse()
            pieces = _pieces(connection, response, clock, asking.timeout_s)
            if response.status != 200:
                raise RequestError(_refused(response.status, b"".join(pieces)))
            read = _Stream(clock)
            for event in _events(pieces):
                read.take(event)
            return read.answer(number, start_s)
    finally:
        connection.close()


def _refused(status: int, body: bytes) -> str:
    words = printable(" ".join(body.decode("utf-8", "replace").split()))[:160]
    return f"HTTP {status}: {words}" if words else f"HTTP {status}"


def _pieces(
    connection: http.client.HTTPConnection,
    response: http.client.HTTPResponse,
    clock: Clock,
    timeout_s: float,
) -> Iterator[bytes]:
    """The body as it comes, until timeout_s from here on. Raises RequestError, TimeoutError."""
    end_s, total = clock() + timeout_s, 0
    while True:
        left_s = end_s - clock()
        if left_s <= 0:
            raise RequestError(f"no whole answer within {timeout_s:g} s")
        if connection.sock is not None:  # closed already where the server sends "close"
            connection.sock.settimeout(left_s)
        piece = response.read1(_CHUNK_BYTES)
        if not piece:
            if response.length:
                raise RequestError("the answer was cut off")
            return
        total += len(piece)
        if total > _MOST_BYTES:
            raise RequestError(f"the answer is over {_MOST_BYTES >> 20} MiB")
        yield piece


def _events(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The data of each server-sent event. Source: WHATWG, Server-sent events, of one data line."""
    held = b""
    for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[len(b"data:") :].strip()


class _Stream:
    """What the events of one answer come to."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first_s: float | None = None
        self._last_s = 0.0
        self._told: JsonObject = {}
        self._done = False

    def take(self, data: bytes) -> None:
        """One event. Raises RequestError for one that is no JSON, or an error of the server's."""
        now_s = self._clock()
        if data == b"[DONE]":
            self._done = True
            return
        try:
            event = parse_object(data, where="a piece of the answer")
        except InvalidFileError as error:
            raise RequestError(error.message.rstrip(".")) from None
        if "error" in event:
            raise RequestError(f"the server says: {printable(str(event['error']))[:160]}")
        self._told |= {name: event[name] for name in ("usage", "timings") if event.get(name)}
        if any(_has_text(choice) for choice in event.get("choices") or ()):
            self._first_s = now_s if self._first_s is None else self._first_s
            self._last_s = now_s

    def answer(self, number: int, start_s: float) -> Answer:
        """Raises RequestError where the answer is not whole, or its tokens were not counted."""
        if not self._done:
            raise RequestError("the answer was cut off")
        if self._first_s is None:
            raise RequestError("the answer is empty")
        usage = self._told.get("usage")
        if not isinstance(usage, dict):
            raise RequestError("the server counts no tokens (no usage in its answer)")
        details = usage.get("prompt_tokens_details")
        timings = self._told.get("timings")
        timings = timings if isinstance(timings, dict) else {}
        try:
            return Answer(
                number,
                _count(usage.get("prompt_tokens", 0)),
                _count((details if isinstance(details, dict) else {}).get("cached_tokens") or 0),
                ranges.whole(usage.get("completion_tokens"), 1, 1 << 24),
                self._first_s - start_s,
                self._last_s - self._first_s,
                _count(timings["draft_n"]) if "draft_n" in timings else None,
                _count(timings["draft_n_accepted"]) if "draft_n_accepted" in timings else None,
            )
        except ValueError as error:
            raise RequestError(f"the server's counts cannot be read: {error}") from None


def _count(value: Any) -> int:
    return ranges.whole(value, 0, 1 << 24)


def _has_text(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    said = delta if isinstance(delta, dict) else choice
    return any(said.get(name) for name in ("content", "reasoning_content", "reasoning", "text"))
