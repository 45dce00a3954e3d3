"""What holds a client back: where it may connect, what it never shows, how hard it may press."""

import asyncio
import html
import ipaddress
import re
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from sparring.types import UsageError

_METADATA = {"fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"}
"""Amazon, Alibaba, Azure, Oracle: they hand credentials to any caller and are not link-local."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's base URL, checked.

    Errors name the setting `field`, and `permit`, which may allow plain http to other machines.
    """

    url: str
    field: str = "judge.base_url"
    allow_insecure: bool = False
    permit: str = "server.allow_insecure"

    def __post_init__(self) -> None:
        parts = self._parts
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.field}: wanted http(s)://HOST[:PORT], got {self.shown}")
        if parts.username is not None or parts.password is not None:
            raise UsageError(
                f"{self.field}: {self.shown} held a user name or password; name the variable that "
                "holds the key in server.api_key_env instead"
            )
        if parts.query or parts.fragment:
            raise UsageError(f"{self.field}: {self.shown} must end at its path, without ? or #")
        if _is_ip(parts.hostname):
            self.check([parts.hostname])
        elif parts.hostname != "localhost":
            self._check_clear(loopback=False)

    @property
    def _parts(self) -> SplitResult:
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError:
            raise UsageError(f"{self.field}: not a URL; wanted http(s)://HOST[:PORT]") from None
        return parts

    @property
    def host(self) -> str:
        return self._parts.hostname or ""

    @property
    def port(self) -> int:
        return self._parts.port or (443 if self._parts.scheme == "https" else 80)

    @property
    def authority(self) -> str:
        """`host[:port]` as the URL spells it, for the Host header."""
        return self._parts.netloc.rpartition("@")[2]

    @property
    def shown(self) -> str:
        """The URL without the parts that may hold a secret, for errors."""
        return shown(self.url)

    def named(self, path: str) -> str:
        """The URL of an endpoint, as it was configured."""
        return f"{self.shown.rstrip('/')}/{path}"

    def at(self, ip: str, path: str) -> str:
        """The URL of an endpoint with an IP address that was checked in the place of the host."""
        host = f"[{ip}]" if ":" in ip else ip
        return f"{self._parts.scheme}://{host}:{self.port}{self._parts.path.rstrip('/')}/{path}"

    def check(self, ips: Sequence[str]) -> None:
        """Refuse IP addresses that must not be sent prompts or a key."""
        for text in ips:
            ip = _unwrapped(text.partition("%")[0])
            if ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) in _METADATA:
                raise UsageError(
                    f"{self.field}: {self.shown} leads to {text}, a link-local, metadata or "
                    "multicast address; no model is served there"
                )
            self._check_clear(ip.is_loopback)

    def _check_clear(self, loopback: bool) -> None:
        if self._parts.scheme == "http" and not (loopback or self.allow_insecure):
            way = f", or set {self.permit}: true on a network you trust" if self.permit else ""
            raise UsageError(
                f"{self.field}: {self.shown} would send prompts and key in the clear to another "
                f"machine; use https://{way}"
            )


def shown(url: str) -> str:
    """The URL's scheme, host, port and path: nothing that may hold a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _is_ip(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _unwrapped(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address, or the IPv4 address that an IPv6 address carries."""
    ip = ipaddress.ip_address(text)
    if ip.version == 4:
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


async def resolved(host: str, port: int) -> list[str]:
    """The addresses of `host` according to the system's resolver; OSError if there are none."""
    if _is_ip(host):
        return [host]
    loop = asyncio.get_running_loop()
    try:
        entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # the name has letters that no host name has
        raise OSError(f"{host}: {error}") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in entries))


_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,39}")
"""What a variable of a key is usually called; a pasted key is hardly ever like this."""


def from_environment(name: str | None, environ: Mapping[str, str], field: str) -> SecretStr | None:
    """The secret in the environment variable `name`, without white space at its ends.

    UsageError if the variable is not set or its value cannot stand in a header. Neither the value
    nor a `name` unlike a variable's, which may be the secret itself, is shown.
    """
    if name is None:
        return None
    variable = name if _VARIABLE.fullmatch(name) else "of that name"
    value = environ.get(name, "").strip()
    if not value:
        raise UsageError(f"{field}: the environment variable {variable} is not set, or it is empty")
    return printable(value, f"{field}: the environment variable {variable}")


def printable(value: str, where: str) -> SecretStr:
    """The value without white space at its ends, if a header can carry it."""
    text = value.strip()
    if not (text.isascii() and text.isprintable()):
        raise UsageError(
            f"{where} holds a character that no header can; wanted printable ASCII (the value is "
            "not shown)"
        )
    return SecretStr(text)


def proxy_url(value: str, field: str) -> SecretStr:
    """The URL of a proxy, which may hold a password and is not shown where it is refused."""
    secret = printable(value, f"{field}: the proxy's URL")
    if not re.fullmatch(r"https?://[^/?#]+/?", secret.get_secret_value()):
        raise UsageError(f"{field}: the proxy's URL (not shown) is not http(s)://HOST:PORT")
    return secret


def spellings(secret: str) -> re.Pattern[str]:
    """Matches a secret, whichever of its characters JSON, a URL, HTML or a language escapes."""
    return re.compile("\0{0,3}".join(map(_spelling, secret)))


def _spelling(char: str) -> str:
    code, digits = ord(char), f"(?i:{ord(char):02x})"
    names = {html.escape(char), "+" if char == " " else char} - {char}
    named = "".join(f"|{re.escape(name)}" for name in names)
    return (
        rf"(?:\\{{0,4}}{re.escape(char)}|\\{{1,4}}(?:u00|u\{{0{{0,4}}|x){digits}\}}?"
        rf"|%(?:25){{0,3}}{digits}|&#0{{0,5}}{code};|&#[xX]0{{0,4}}{digits};{named})"
    )


_EXCERPT = 300


def excerpt(text: str) -> str:
    """The start of foreign text on one line, for errors; redact secrets first."""
    line = " ".join(text[: 4 * _EXCERPT].split())
    return "".join(c if c.isprintable() else "\ufffd" for c in line)[:_EXCERPT]


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard and how long a server is asked; times in seconds.

    `timeout` bounds one request, `deadline` one question with its requests and the pauses between
    them, `round_deadline` one call of `send`. `outage_seconds` is how long a server may be gone
    once `open_after` requests in a row have failed; meanwhile only `round_deadline` keeps counting.
    """

    concurrency: int = 32
    timeout: float = 60.0
    deadline: float = 300.0
    round_deadline: float = 3600.0
    outage_seconds: float = 600.0
    attempts: int = 6
    first_pause: float = 0.5
    open_after: int = 20
    largest_body: int = 8 * 2**20


_WINDOW = 8
LONGEST_PAUSE = 30.0
_LONGEST_WAIT = 60.0


class Health:
    """What a server's last responses say: how much it bears, and whether it seems to be gone.

    `limit` requests may be under way: additive increase, multiplicative decrease. It halves when
    half of the last 8 responses were "too many" (429, 502 to 504, or none), so that a few stray
    failures cost nothing, and grows by one for every 4 that were not. `gone_since` is when
    `open_after` requests in a row had failed (a circuit breaker), None while the server answers.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.limit = limits, float(limits.concurrency)
        self.gone_since: float | None = None
        self._recent: deque[bool] = deque(maxlen=_WINDOW)
        self._failures, self._next_pause = 0, 0.0

    def record(self, failed: bool, pressed: bool, now: float) -> None:
        """Count one response; any success shows that the server is there."""
        self._recent.append(pressed)
        if 2 * sum(self._recent) >= _WINDOW:
            self.limit = max(1, self.limit / 2)
            self._recent.clear()
        elif not pressed:
            self.limit = min(self.limits.concurrency, self.limit + 0.25)
        self._failures = self._failures + 1 if failed else 0
        if not failed:
            self.gone_since = None
        elif self.gone_since is None and self._failures >= self.limits.open_after:
            self.gone_since = now
            self._next_pause = min(2 * self.limits.first_pause, self.limits.outage_seconds)

    def pause(self) -> float:
        """Seconds to wait before the server is tried again; they double each time, up to 30."""
        pause, self._next_pause = self._next_pause, min(2 * self._next_pause, LONGEST_PAUSE)
        return pause


def retry_after(header: str | None, now: datetime) -> float:
    """The wait that a Retry-After header asks for (RFC 9110, 10.2.3), at most 60 s; else 0."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_WAIT)
    try:
        wait = (parsedate_to_datetime(text) - now) / timedelta(seconds=1)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(wait, 0.0), _LONGEST_WAIT)
