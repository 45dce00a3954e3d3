"""A judge's model behind a URL that speaks OpenAI's protocol, asked by one careful client."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import TypeVar

import anyio
import httpx2
from pydantic import SecretStr

from sparring.judges import wire
from sparring.judges.address import Address, Resolve, resolved
from sparring.judges.model_judge import Answer, Ask, Heard, unheard
from sparring.judges.wire import LARGEST_BODY, Breaker, Fault, Pace, backoff
from sparring.types import SparringError, Status, UnscoredError, UsageError

_T = TypeVar("_T")
_WAITING = 4
"""Questions in hand for each one under way, so that one that waits to be asked again holds
nobody up."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard and how long a server is asked; times in seconds.

    `timeout` is one request's, `deadline` one question's with all its requests and the pauses
    between them, `round_deadline` one call's of `answer`. `outage_seconds` is how long a server
    may be gone; a question does not age meanwhile, but a round does.
    """

    concurrency: int = 32
    timeout: float = 60.0
    deadline: float = 300.0
    round_deadline: float = 3600.0
    outage_seconds: float = 600.0
    attempts: int = 6
    first_pause: float = 0.5


@dataclass(eq=False)
class Server:
    """`model` at `address`. `key` and `proxy` (a URL, which may hold a password) are never shown.

    With a proxy, names are resolved by it and only literal addresses are checked. `json_schema`:
    the server holds answers to a schema. `rng` spreads pauses and decides nothing else.
    """

    address: Address
    model: str
    revision: str = ""
    key: SecretStr | None = None
    proxy: SecretStr | None = None
    limits: Limits = Limits()
    json_schema: bool = False
    rng: random.Random = field(default_factory=lambda: random.Random("judges/api"), repr=False)
    resolve: Resolve = field(default=resolved, repr=False)
    answered: bool = field(default=False, init=False)
    pace: Pace = field(init=False)
    breaker: Breaker = field(init=False)

    def __post_init__(self) -> None:
        pause = min(2 * self.limits.first_pause, self.limits.outage_seconds)
        self.pace, self.breaker = Pace(self.limits.concurrency), Breaker(first_pause=pause)

    @property
    def identity(self) -> str:
        return f"{self.model}@{self.revision}" if self.revision else self.model

    def answer(self, asked: Sequence[Ask], heard: Heard = unheard) -> list[Answer]:
        """As every engine. Raises UnscoredError after `outage_seconds` without a sign of life."""
        return _run(self._round(asked, heard)) if asked else []

    async def _round(self, asked: Sequence[Ask], heard: Heard) -> list[Answer]:
        late = Answer(status=Status.TIMEOUT, calls=0, why="the round's deadline has passed")
        told, stopped = [late] * len(asked), list[SparringError]()
        places = iter(range(len(asked)))

        async def work(round_: _Round, scope: anyio.CancelScope) -> None:
            try:
                for place in places:
                    told[place] = await round_.answer(asked[place])
                    heard(place, told[place])
            except SparringError as error:
                stopped.append(error)
                scope.cancel()

        with anyio.move_on_after(self.limits.round_deadline):
            async with self._client() as client, anyio.create_task_group() as group:
                round_ = _Round(self, client, anyio.CapacityLimiter(self.pace.limit), anyio.Lock())
                for _ in range(min(len(asked), _WAITING * self.limits.concurrency)):
                    group.start_soon(work, round_, group.cancel_scope)
        if stopped:
            raise stopped[0]
        return told

    def _client(self) -> httpx2.AsyncClient:
        """Reads nothing from the environment, follows nothing, and inflates nothing."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key.get_secret_value()}"
        return httpx2.AsyncClient(
            headers=headers,
            proxy=self.proxy.get_secret_value() if self.proxy else None,
            timeout=httpx2.Timeout(self.limits.timeout, connect=min(10.0, self.limits.timeout)),
            limits=httpx2.Limits(
                max_connections=self.limits.concurrency + 1,
                max_keepalive_connections=self.limits.concurrency,
            ),
            follow_redirects=False,
            trust_env=False,
            http2=False,
        )

    def redacted(self, text: str) -> str:
        """`text` without the key or the proxy's URL, should a server have sent them back."""
        for secret in (self.key, self.proxy):
            if secret and secret.get_secret_value():
                text = text.replace(secret.get_secret_value(), "[redacted]")
        return text


@dataclass(frozen=True)
class _Round:
    """One call of `answer`: the connections, the places under way, who asks whether it is back."""

    server: Server
    client: httpx2.AsyncClient
    places: anyio.CapacityLimiter
    probing: anyio.Lock

    async def answer(self, ask: Ask) -> Answer:
        """An answer, or the status of the last fault when asking again may no longer help."""
        limits, left, sent, fault = self.server.limits, self.server.limits.deadline, 0, Fault("")
        while sent < limits.attempts and left > 0:
            async with self._place(ask):
                began, sent = monotonic(), sent + 1
                told = await self._sent(ask, min(limits.timeout, left))
                left -= monotonic() - began
            if isinstance(told, Answer):
                return replace(told, calls=sent)
            fault = told
            if not fault.again:
                break
            if sent < limits.attempts:
                drawn = backoff(sent - 1, limits.first_pause, self.server.rng)
                pause = max(fault.wait, drawn)
                left -= pause
                await anyio.sleep(pause if left > 0 else 0)
        return Answer(status=fault.status, calls=sent, why=fault.why)

    @asynccontextmanager
    async def _place(self, ask: Ask) -> AsyncIterator[None]:
        """One of the places under way, while the server is not known to be gone."""
        while True:
            await self._back(self.server.breaker, wire.smallest(ask))
            async with self.places:
                if not self.server.breaker.open:
                    yield
                    return

    async def _back(self, breaker: Breaker, hello: Ask) -> None:
        """Returns when the server is there; one small question at a time finds out."""
        limits = self.server.limits
        while breaker.since is not None:
            async with self.probing:
                if breaker.since is None:
                    return
                over = breaker.since + limits.outage_seconds
                await anyio.sleep(max(0.0, min(breaker.pause(), over - monotonic())))
                told = await self._sent(hello, limits.timeout)
                if isinstance(told, Fault) and told.again and monotonic() >= over:
                    raise UnscoredError(
                        f"{self.server.address.field}: {self.server.address.shown} has not "
                        f"answered for {limits.outage_seconds:.0f} s (last: {told.why}); see to "
                        "the server, then run the same command again with --resume"
                    )

    async def _sent(self, ask: Ask, seconds: float) -> Answer | Fault:
        """One request, whatever becomes of it; the pace and the breaker hear of it."""
        server = self.server
        try:
            with anyio.fail_after(seconds):
                told = await self._exchanged(ask)
        except (TimeoutError, httpx2.TimeoutException):
            told = Fault(f"no answer in {seconds:.3g} s", Status.TIMEOUT, pressed=True)
        except (OSError, httpx2.HTTPError, httpx2.StreamError) as error:
            told = Fault(f"{type(error).__name__}: {error}"[:300], pressed=True)
        gone = isinstance(told, Fault) and told.again
        server.breaker.told(gone, monotonic())
        if isinstance(told, Answer):
            server.answered = True
            server.pace.told(pressed=False)
        else:
            told = replace(told, why=server.redacted(told.why))
            server.pace.told(told.pressed)
            self._refuse(told, ask)
        self.places.total_tokens = server.pace.limit
        return told

    def _refuse(self, fault: Fault, ask: Ask) -> None:
        """A server that has never answered and says why is set up wrong; later it is one item."""
        if fault.misconfigured and not self.server.answered:
            where = self.server.address.field.removesuffix(".base_url")
            raise UsageError(
                f"{self.server.address.field}: {self.server.address.named(wire.endpoint(ask))} "
                f"says {fault.why} ({fault.misconfigured.format(field=where)})"
            )

    async def _exchanged(self, ask: Ask) -> Answer | Fault:
        address, path = self.server.address, wire.endpoint(ask)
        content = wire.body(ask, self.server.model, self.server.json_schema)
        if self.server.proxy:
            return await self._posted(address.named(path), content, ask)
        found = await self.server.resolve(address.host, address.port)
        address.check(found)
        for ip in found[:-1]:
            try:
                return await self._posted(address.at(ip, path), content, ask)
            except httpx2.ConnectError:
                continue
        return await self._posted(address.at(found[-1], path), content, ask)

    async def _posted(self, url: str, content: bytes, ask: Ask) -> Answer | Fault:
        """The URL spells the address that was checked; certificate and Host are the name's."""
        address = self.server.address
        async with self.client.stream(
            "POST",
            url,
            content=content,
            headers={"Host": address.authority},
            extensions={"sni_hostname": address.host},
        ) as response:
            told = await _body(response)
            if isinstance(told, Fault):
                return told
            if response.status_code == httpx2.codes.OK:
                return wire.read(told, ask)
            return wire.fault(response.status_code, response.headers, told, datetime.now(UTC))


async def _body(response: httpx2.Response) -> bytes | Fault:
    """The body as it is sent, unless it is compressed (nobody asked for that) or too large."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return Fault("a compressed body, which was not asked for")
    told = bytearray()
    async for piece in response.aiter_raw():
        told += piece
        if len(told) > LARGEST_BODY:
            return Fault(f"a body of more than {LARGEST_BODY // 2**20} MB")
    return bytes(told)


def _run(work: Coroutine[None, None, _T]) -> _T:
    """Run to the end here, or in a thread where this one has a loop already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
