"""A judge's server on loopback that misbehaves on purpose, by a script and a seed."""

import contextlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HUGE = 50 * 2**20
PIECE = b"x" * 2**16
RATES = {"error": 0.20, "too_many": 0.10, "huge": 0.01}
RATES |= dict.fromkeys(("hang", "reset", "empty", "garbage", "cut"), 0.05)
"""A judge server's bad day, as shares of questions (or of calls)."""


def verdict(prompt: str) -> str:
    """The right answer to any prompt: half of them are unsafe."""
    return "unsafe" if sum(prompt.encode()) % 2 else "safe"


@dataclass
class Script:
    """What the server does. Seconds are the server's own, so that tests need not wait long.

    `rates` are faults; with `once` a question meets at most one, at its first call, else every
    call may. `outage` is (the call it begins with, seconds). `reply` makes a whole response of
    its own: (status, headers, body).
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    once: bool = True
    seed: str = "bad day"
    latency: float = 0.0
    hang: float = 60.0
    retry_after: str = "1"
    outage: tuple[int, float] = (0, 0.0)
    answer: Callable[[str], str] = verdict
    reply: Callable[[dict], tuple[int, dict, bytes]] | None = None


@dataclass
class Received:
    """The requests that reached the server, and counts of them."""

    calls: int = 0
    together: int = 0
    most_together: int = 0
    faults: Counter = field(default_factory=Counter)
    prompts: Counter = field(default_factory=Counter)
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    sent: int = 0
    down_since: float | None = None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        script, received = self.server.script, self.server.received
        with self.server.lock:
            received.calls += 1
            received.together += 1
            received.most_together = max(received.most_together, received.together)
            received.prompts[prompt] += 1
            received.bodies.append(body)
            received.headers.append(dict(self.headers))
            received.paths.append(self.path)
            fault = self._down() or self._fault(prompt, received.prompts[prompt])
            received.faults[fault] += 1
        try:
            time.sleep(script.latency)
            getattr(self, f"_{fault}")(body, prompt)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.server.lock:
                received.together -= 1

    def _down(self) -> str | None:
        (at, seconds), received = self.server.script.outage, self.server.received
        if not at or received.calls < at:
            return None
        received.down_since = received.down_since or time.monotonic()
        return "reset" if time.monotonic() - received.down_since < seconds else None

    def _fault(self, prompt: str, nth: int) -> str:
        script = self.server.script
        if script.once and nth > 1:
            return "right"
        rng = random.Random(f"{script.seed}/{prompt}/{nth}")
        weights = [*script.rates.values(), 1 - sum(script.rates.values())]
        return rng.choices([*script.rates, "right"], weights)[0]

    def _send(self, status: int, payload: bytes, length: int | None = None, **headers: str):
        self.send_response(status)
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(payload) if length is None else length)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self._write(payload)

    def _write(self, payload: bytes):
        self.wfile.write(payload)
        self.server.received.sent += len(payload)

    def _completion(self, body: dict, prompt: str) -> bytes:
        text = self.server.script.answer(prompt)
        choice = {"index": 0, "finish_reason": "stop"}
        choice |= {"text": text} if "prompt" in body else {"message": {"content": text}}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        return json.dumps({"choices": [choice], "usage": usage}).encode()

    def _right(self, body, prompt):
        reply = self.server.script.reply
        status, headers, payload = (
            reply(body) if reply else (200, {}, self._completion(body, prompt))
        )
        self._send(status, payload, **headers)

    def _error(self, *_):
        self._send(500, b'{"error": {"message": "out of memory"}}')

    def _too_many(self, *_):
        self._send(429, b"{}", Retry_After=self.server.script.retry_after)

    def _hang(self, *_):
        self.server.over.wait(self.server.script.hang)
        self.close_connection = True

    def _reset(self, *_):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _empty(self, *_):
        self._send(200, b"")

    def _garbage(self, *_):
        self._send(200, b"<html><body>502 Bad Gateway: safe</body></html>")

    def _cut(self, body, prompt):
        whole = self._completion(body, prompt)
        self._send(200, whole[: len(whole) // 2])

    def _drip(self, *_):
        self._send(200, b"", length=9999)
        while not self.server.over.wait(0.05):
            self._write(b" ")

    def _huge(self, *_):
        self._send(200, b"", length=HUGE)
        for _ in range(HUGE // len(PIECE)):
            self._write(PIECE)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, script: Script):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.received = script, Received()
        self.lock, self.over = threading.Lock(), threading.Event()

    def handle_error(self, *_):
        pass


@contextlib.contextmanager
def serving(script: Script) -> Iterator[tuple[str, Received]]:
    """(base URL, what reached it) of a server that runs within the block."""
    server = _Server(script)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", server.received
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
