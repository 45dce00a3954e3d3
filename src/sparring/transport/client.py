"""One client for every HTTP server: paced, guarded, patient with failures and with outages."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import count
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import httpx2
from pydantic import SecretStr

from sparring.pulse import beat
from sparring.transport import guard
from sparring.transport.guard import Address, Health, Limits
from sparring.types import SparringError, Status, UnscoredError, UsageError

T = TypeVar("T")
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Maps (host, port) to IP addresses. OSError where there are none."""
_GREETING = Limits(timeout=8.0, deadline=8.0, round_deadline=9.0, attempts=1)
_WAITING = 4
"""Requests in hand for each one under way, so that one that pauses holds nobody up."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A JSON body to post to `path` below the base URL; without a body, a GET."""

    path: str
    body: bytes | None = None


@dataclass(eq=False)
class Fault(Exception):
    """Why a request brought no answer.

    `again`: sending it again may help. `pressed`: the server had too much to do. `wait`: the
    seconds it asks for. `hint`: the settings to look at, if the server has never answered.
    """

    why: str
    status: Status = Status.HTTP_ERROR
    again: bool = True
    pressed: bool = False
    wait: float = 0.0
    hint: str = ""


_AGAIN = {408, 409, 425, 429}
PRESSED = frozenset({429, 502, 503, 504})
"""Statuses of a server that has too much to do."""
NEUTRAL = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
NEUTRAL |= {"presence_penalty": 0, "frequency_penalty": 0}
"""Sampling without a bias. What a request leaves out, a server takes from the model's
generation_config.json: Qwen2.5's has top_p 0.8, top_k 20 and a repetition penalty, and the
log-probabilities would be of another policy."""
_HINTS = {
    401: "the server does not know the key; see {field}.server.api_key_env",
    403: "the server refuses the key; see {field}.server.api_key_env",
    404: "no such endpoint or model; see {field}.base_url (it ends in /v1) and {field}.model",
}


_TOO_LONG = re.compile(
    r"context[ _](?:length|window|size)|maximum model length|(?:prompt|input) is too long"
    r"|too many (?:input )?tokens|token count [^.]*exceeds|must have less than \d+ tokens",
    re.IGNORECASE,
)


def too_long(why: str) -> bool:
    """Whether a server refuses a request because its prompt is longer than the context."""
    return bool(_TOO_LONG.search(why))


Read = Callable[[int | None, httpx2.Response], T]
"""Reads the response to the request at a place (None: that of `hello`), or raises its Fault."""
Finish = Callable[[int, T | Fault, int], None]
"""Takes what came of the request at a place, and how many requests that took."""


@dataclass(eq=False)
class Client:
    """One server. `key` is sent as a bearer token; `proxy` is a URL that may hold a password.

    Nothing is read from the environment, no redirect is followed, nothing is inflated. With a
    proxy, names are resolved by it and only literal addresses are checked. `rng` spreads pauses
    and decides nothing else.
    """

    address: Address
    key: SecretStr | None = None
    proxy: SecretStr | None = None
    limits: Limits = field(default_factory=Limits)
    outage_error: type[SparringError] = UnscoredError
    rng: random.Random = field(default_factory=lambda: random.Random("transport"), repr=False)
    resolve: Resolve = field(default=guard.resolved, repr=False)
    answered: bool = field(default=False, init=False)
    health: Health = field(init=False, repr=False)

    def __post_init__(self) -> None:
        where = self.address.field
        if self.key:
            self.key = guard.printable(self.key.get_secret_value(), f"{where}: the key")
        if self.proxy:
            self.proxy = guard.proxy_url(self.proxy.get_secret_value(), where)
        self.health = Health(self.limits)

    def send(
        self, requests: Sequence[HttpRequest], read: Read[T], finish: Finish[T], hello: HttpRequest
    ) -> None:
        """Send them all, paced, and call `finish` with each outcome as it comes, in any order.

        Those that `round_deadline` cuts off are not finished. While the server seems to be gone
        `hello` asks whether it is back; `outage_error` is raised when that takes too long, and
        UsageError where a server that has never answered says that it is set up wrong.
        """
        if requests:
            _run(self._send(requests, read, finish, hello))

    def responses(
        self,
        requests: Sequence[HttpRequest],
        busy: frozenset[int] = frozenset(),
        hello: HttpRequest | None = None,
    ) -> list[httpx2.Response]:
        """The responses in order, whatever their status, unless it is one of `busy`, which is a
        fault. SparringError if one did not come.
        """
        outcomes: dict[int, httpx2.Response | Fault] = {}

        def read(_: int | None, response: httpx2.Response) -> httpx2.Response:
            if response.status_code in busy:
                raise self.fault(response)
            return response

        def finish(place: int, outcome: httpx2.Response | Fault, _: int) -> None:
            outcomes[place] = outcome

        self.send(requests, read, finish, hello or requests[0])
        responses = []
        for place, request in enumerate(requests):
            outcome = outcomes.get(place, Fault("no answer in time"))
            if isinstance(outcome, Fault):
                where = self.address.named(request.path.partition("?")[0])  # a query may be signed
                raise SparringError(f"{self.address.field}: {where}: {outcome.why}")
            responses.append(outcome)
        return responses

    def greet(self) -> None:
        """Raise UsageError where nobody answers in 9 s; any answer shows that somebody does.

        What comes later is waited for instead: a server may be away for `outage_seconds`.
        """
        try:
            replace(self, limits=_GREETING).responses([HttpRequest("models")])
        except UsageError:
            raise
        except SparringError as error:
            raise UsageError(f"{error}; start the server, or mend its URL") from None

    async def _send(
        self, requests: Sequence[HttpRequest], read: Read[T], finish: Finish[T], hello: HttpRequest
    ) -> None:
        places, errors = iter(range(len(requests))), list[SparringError]()
        done = 0

        async def work(round_: _Round, scope: anyio.CancelScope) -> None:
            nonlocal done
            try:
                for place in places:
                    finish(place, *await round_.ask(requests[place], partial(read, place)))
                    done += 1
            except SparringError as error:
                errors.append(error)
            if errors or done == len(requests):
                scope.cancel()

        async def give_signs_of_life() -> None:
            while True:
                beat(f"answers of {self.address.shown}", done, len(requests))
                await anyio.sleep(1)

        with anyio.move_on_after(self.limits.round_deadline):
            async with self._connections() as connections, anyio.create_task_group() as group:
                under_way = anyio.CapacityLimiter(int(self.health.limit))
                greeting = hello, partial(read, None)
                round_ = _Round(self, connections, under_way, anyio.Lock(), greeting)
                group.start_soon(give_signs_of_life)
                for _ in range(min(len(requests), _WAITING * self.limits.concurrency)):
                    group.start_soon(work, round_, group.cancel_scope)
        if errors:
            raise errors[0]

    def _connections(self) -> httpx2.AsyncClient:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key.get_secret_value()}"
        most, timeout = self.limits.concurrency, self.limits.timeout
        return httpx2.AsyncClient(
            headers=headers,
            proxy=self.proxy.get_secret_value() if self.proxy else None,
            timeout=httpx2.Timeout(timeout, connect=min(10.0, timeout)),
            limits=httpx2.Limits(max_connections=most + 1, max_keepalive_connections=most),
            follow_redirects=False,
            trust_env=False,
        )

    @cached_property
    def _secrets(self) -> list[re.Pattern[str]]:
        texts = [secret.get_secret_value() for secret in (self.key, self.proxy) if secret]
        password = urlsplit(texts[-1]).password if self.proxy else None
        return [guard.spellings(text) for text in [*texts, password] if text]

    def redacted(self, text: str) -> str:
        """`text` without the key and the proxy's URL, however they are escaped in it."""
        for secret in self._secrets:
            text = secret.sub("[redacted]", text)
        return text

    def shown(self, text: str) -> str:
        """The start of a server's text, for errors."""
        return guard.excerpt(self.redacted(text))

    def fault(self, response: httpx2.Response) -> Fault:
        """The meaning of a status other than 200."""
        code, headers = response.status_code, response.headers
        text = self.shown(response.content.decode("utf-8", "replace"))
        why = f"{code}: {text}" if text else f"status {code}"
        if code in _AGAIN or code >= 500:
            wait = guard.retry_after(headers.get("retry-after"), datetime.now(UTC))
            return Fault(why, pressed=code in PRESSED, wait=wait)
        if 300 <= code < 400:
            to = self.shown(headers.get("location", "nowhere"))
            why = f"{code}: a redirect to {to}; redirects are not followed"
        return Fault(why, again=False, hint=_HINTS.get(code, ""))


@dataclass(frozen=True)
class _Round:
    """One call of `send`: its connections, the places under way, and the turn to say `hello`."""

    client: Client
    connections: httpx2.AsyncClient
    under_way: anyio.CapacityLimiter
    trying: anyio.Lock
    hello: tuple[HttpRequest, Callable[[httpx2.Response], Any]]

    async def ask(
        self, request: HttpRequest, read: Callable[[httpx2.Response], T]
    ) -> tuple[T | Fault, int]:
        """What came of a request in the end, and how many attempts that took."""
        limits, age = self.client.limits, 0.0  # seconds asked and paused, not waited for a place
        for attempt in count(1):
            async with self._place():
                began, seconds = monotonic(), min(limits.timeout, limits.deadline - age)
                try:
                    return await self._sent(request, read, seconds), attempt
                except Fault as error:  # without the frames, which would hold a body until gc runs
                    fault = error.with_traceback(None)
                age += monotonic() - began
            # Full jitter (Brooker, AWS Architecture Blog, 2015), or longer if the server asks.
            most = min(guard.LONGEST_PAUSE, limits.first_pause * 2.0 ** (attempt - 1))
            pause = max(fault.wait, self.client.rng.uniform(0, most))
            age += pause
            if not fault.again or attempt >= limits.attempts or age >= limits.deadline:
                break
            await anyio.sleep(pause)
        return fault, attempt

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the places under way, while the server is not known to be gone."""
        health = self.client.health
        while True:
            while health.gone_since is not None:
                async with self.trying:
                    if health.gone_since is not None:
                        await self._try(health.gone_since + self.client.limits.outage_seconds)
            async with self.under_way:
                if health.gone_since is None:
                    yield
                    return

    async def _try(self, over: float) -> None:
        """Ask a server that seems to be gone whether it is back, until the time `over`."""
        client = self.client
        await anyio.sleep(max(0.0, min(client.health.pause(), over - monotonic())))
        try:
            await self._sent(*self.hello, client.limits.timeout)
        except Fault as fault:
            if fault.again and monotonic() >= over:
                raise client.outage_error(
                    f"{client.address.field}: {client.address.shown} has not answered for "
                    f"{client.limits.outage_seconds:.0f} s (last: {fault.why}); see to the server, "
                    "then run the same command again with --resume"
                ) from None

    async def _sent(
        self, request: HttpRequest, read: Callable[[httpx2.Response], T], seconds: float
    ) -> T:
        """One attempt, which the client's health counts; raises Fault."""
        try:
            result = read(await self._exchanged(request, seconds))
        except Fault as fault:
            self._record(request, fault)
            raise
        self._record(request, None)
        return result

    def _record(self, request: HttpRequest, fault: Fault | None) -> None:
        client, address = self.client, self.client.address
        failed, pressed = (fault.again, fault.pressed) if fault else (False, False)
        client.health.record(failed, pressed, monotonic())
        self.under_way.total_tokens = int(client.health.limit)
        client.answered |= fault is None
        if fault and fault.hint and not client.answered:  # later it is one request that is wrong
            hint = fault.hint.format(field=address.field.removesuffix(".base_url"))
            raise UsageError(
                f"{address.field}: {address.named(request.path)} says {fault.why} ({hint})"
            )

    async def _exchanged(self, request: HttpRequest, seconds: float) -> httpx2.Response:
        """The response to one request; whatever the network does instead is a Fault."""
        try:
            with anyio.fail_after(seconds):
                return await self._connected(request)
        except (TimeoutError, httpx2.TimeoutException):
            raise Fault(f"no answer in {seconds:.3g} s", Status.TIMEOUT, pressed=True) from None
        except (OSError, httpx2.HTTPError, httpx2.StreamError) as error:
            why = self.client.shown(f"{type(error).__name__}: {error}")
            raise Fault(why, pressed=True) from None

    async def _connected(self, request: HttpRequest) -> httpx2.Response:
        """From the first address of the host that takes the connection, or from the proxy."""
        client, address = self.client, self.client.address
        if client.proxy:
            return await self._response(address.named(request.path), request)
        ips = await client.resolve(address.host, address.port)
        address.check(ips)
        for ip in ips[:-1]:
            with suppress(httpx2.ConnectError):
                return await self._response(address.at(ip, request.path), request)
        return await self._response(address.at(ips[-1], request.path), request)

    async def _response(self, url: str, request: HttpRequest) -> httpx2.Response:
        """The URL spells the address that was checked; certificate and Host are the name's."""
        address, largest = self.client.address, self.client.limits.largest_body
        async with self.connections.stream(
            "GET" if request.body is None else "POST",
            url,
            content=request.body,
            headers={"Host": address.authority},
            extensions={"sni_hostname": address.host},
        ) as response:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise Fault("a compressed body, which was not asked for")
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > largest:
                    raise Fault(f"a body of more than {largest // 2**20} MB")
        return httpx2.Response(response.status_code, headers=response.headers, content=bytes(body))


def _run(work: Coroutine[None, None, None]) -> None:
    """Run to the end here, or in a thread where this one has a loop already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
    else:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, work).result()


def get(
    url: str, field: str, allow_insecure: bool, timeout: float, largest_body: int = 8 * 2**20
) -> httpx2.Response:
    """The response to a single GET of any URL, which may have a query; SparringError if none."""
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    address = Address(f"{scheme}://{host}", field, allow_insecure, "allow_insecure")
    limits = Limits(timeout=timeout, deadline=timeout, attempts=1, largest_body=largest_body)
    return Client(address, limits=limits).responses([HttpRequest(path)])[0]
