"""An OpenAI-compatible server in a thread, with counters like vLLM's and any fault asked for."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeServer:
    """tokens: of an answer; a step brings one, and accepted of `drafted` drafted ones."""

    tokens: int = 13
    accepted: int = 0
    drafted: int = 0
    fault: str = ""  # see _fault
    faulty: int = 1_000_000  # so many requests have the fault
    has_metrics: bool = True
    owned_by: str = "vllm"
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_a_time: int = 0
    steps: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def metrics(self) -> str:
        name, steps = "vllm:spec_decode_num", self.steps
        lines = [
            f'{name}_drafts_total{{engine="0"}} {steps}.0',
            f'{name}_draft_tokens_total{{engine="0"}} {steps * self.drafted}.0',
            f'{name}_accepted_tokens_total{{engine="0"}} {steps * self.accepted}.0',
        ]
        lines += [
            f'{name}_accepted_tokens_per_pos_total{{position="{place}"}} {steps}.0'
            for place in range(self.accepted)
        ]
        return "\n".join(lines)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models" and self.fake.fault == "models":
            return self._send(200, b"[")
        if self.path == "/v1/models":
            models = [{"id": "fake", "owned_by": self.fake.owned_by}]
            return self._send(200, json.dumps({"data": models}).encode())
        if self.path == "/version":
            return self._send(200, b'{"version": "0.33.0"}')
        if self.path == "/metrics" and self.fake.has_metrics:
            return self._send(200, self.fake.metrics.encode())
        return self._send(404, b"no such page")

    def do_POST(self) -> None:
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with fake._lock:
            fake.bodies.append(body)
            fake._now += 1
            fake.most_at_a_time = max(fake.most_at_a_time, fake._now)
            fault = fake.fault if fake.faulty > 0 else ""
            fake.faulty -= bool(fault)
        try:
            self._answer(min(body["max_tokens"], fake.tokens), fault)
        except OSError:
            pass  # the client has gone
        finally:
            with fake._lock:
                fake._now -= 1

    def _answer(self, tokens: int, fault: str) -> None:
        fake = self.fake
        if fault == "500":
            return self._send(500, b"out of\nmemory")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if fault == "hang":
            threading.Event().wait(1.0)
            return None
        sent = 0
        while sent < tokens:
            size = 1 if sent == 0 else min(1 + fake.accepted, tokens - sent)
            self._event({"choices": [{"delta": {"content": "x" * size}}]})
            with fake._lock:
                fake.steps += sent > 0
            sent += size
            threading.Event().wait(0.002)
            if fault == "cut":
                self.close_connection = True
                return self.connection.close()
            if fault == "json":
                self._piece(b"data: {oops\n\n")
            if fault == "error":
                self._event({"error": {"message": "the model is gone"}})
        usage = {"prompt_tokens": 7, "completion_tokens": tokens}
        if fault == "counts":
            usage["completion_tokens"] = -1
        if fault != "uncounted":
            self._event({"choices": [], "usage": usage})
        if fault != "unfinished":
            self._piece(b"data: [DONE]\n\n")
        self._piece(b"")
        return None

    def _event(self, event: dict[str, Any]) -> None:
        self._piece(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _piece(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(fake: FakeServer) -> Iterator[FakeServer]:
    """The same, listening at its url meanwhile."""
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
