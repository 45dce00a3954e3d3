"""The OpenAI-compatible protocol: what is sent, how answers are read, how a server is paced.

Nothing here sleeps or reads a clock: times come in as arguments, in seconds.
"""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from sparring.judges.model_judge import Answer, Ask, Raw
from sparring.types import Message, Observation, Status

_WINDOW = 8
_OPEN_AFTER = 20
_LONGEST_PAUSE = 30.0
_LONGEST_WAIT = 60.0


@dataclass
class Pace:
    """How many questions may be under way at once: additive increase, multiplicative decrease.

    It halves when half of the last 8 answers were "too many" (429, 502 to 504, or none at all), so
    that a few stray failures cost nothing, and grows by one for every 4 that were not.
    """

    most: int
    least: int = 1
    _limit: float = field(init=False)
    _recent: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW), init=False)

    def __post_init__(self) -> None:
        self._limit = self.most

    @property
    def limit(self) -> int:
        """Questions under way at once, between `least` and `most`."""
        return int(self._limit)

    def told(self, pressed: bool) -> None:
        """Hear of one answer."""
        self._recent.append(pressed)
        if 2 * sum(self._recent) >= _WINDOW:
            self._limit = max(self.least, self._limit / 2)
            self._recent.clear()
        elif not pressed:
            self._limit = min(self.most, self._limit + 0.25)


@dataclass
class Breaker:
    """Open after 20 failures in a row: then one small question at a time asks whether it is back.

    `since` is when it opened; None while closed.
    """

    after: int = _OPEN_AFTER
    first_pause: float = 1.0
    since: float | None = None
    failures: int = 0
    _pause: float = 0.0

    @property
    def open(self) -> bool:
        return self.since is not None

    def told(self, failed: bool, now: float) -> None:
        """Hear of one answer; the last of 20 failures opens it and any success closes it."""
        self.failures = self.failures + 1 if failed else 0
        if not failed:
            self.since = None
        elif self.since is None and self.failures >= self.after:
            self.since, self._pause = now, self.first_pause

    def pause(self) -> float:
        """How long to wait before the next small question; twice as long each time, to 30 s."""
        told, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return told


def backoff(attempt: int, first: float, rng: random.Random) -> float:
    """Full jitter: uniform between 0 and first·2^attempt, at most 30 s.

    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return rng.uniform(0, min(_LONGEST_PAUSE, first * 2.0**attempt))


def retry_after(told: str | None, now: datetime) -> float:
    """What a Retry-After header asks for (RFC 9110, 10.2.3), at most 60 s; 0 if nothing legible."""
    if not told:
        return 0.0
    if told.strip().isascii() and told.strip().isdigit():
        return min(float(told.strip()[:9]), _LONGEST_WAIT)
    try:
        wait = parsedate_to_datetime(told) - now
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(wait / timedelta(seconds=1), 0.0), _LONGEST_WAIT)


LARGEST_BODY = 8 * 2**20
"""Bytes; no judge has more to say."""
_EXCERPT = 300
_UNPAIRED = re.compile("[\ud800-\udfff]")
"""Half characters, which JSON can spell and servers choke on."""
_AGAIN = {408, 409, 425, 429}
_PRESSED = {429, 502, 503, 504}
_MISCONFIGURED = {
    401: "the server does not know the key; see {field}.server.api_key_env",
    403: "the server refuses the key; see {field}.server.api_key_env",
    404: "no such endpoint or model; see {field}.base_url (it ends in /v1) and {field}.model",
}
_TOO_LONG = ("context_length", "context length", "maximum model length")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request gave no answer.

    `again`: asking again may help. `pressed`: the server had too much to do. `wait`: the seconds
    it asked for. `misconfigured`: what to see to, if no answer has ever come from there.
    """

    why: str
    status: Status = Status.HTTP_ERROR
    again: bool = True
    pressed: bool = False
    wait: float = 0.0
    misconfigured: str = ""


def endpoint(ask: Ask) -> str:
    """Chat messages go where a chat template is applied, raw prompts where none is."""
    return "completions" if isinstance(ask.prompt, Raw) else "chat/completions"


def body(ask: Ask, model: str, json_schema: bool = False) -> bytes:
    """A question as JSON: greedy, with a fixed seed, unless its `sampling` says otherwise."""
    told: dict[str, Any] = {
        "model": model,
        "temperature": 0,
        "seed": 0,
        "max_tokens": ask.max_tokens,
        "stream": False,
    }
    if isinstance(ask.prompt, Raw):
        told["prompt"] = _paired(ask.prompt.text)
    else:
        told["messages"] = [{"role": m.role, "content": _paired(m.content)} for m in ask.prompt]
    told |= ask.sampling or {}
    if ask.schema is not None and json_schema:
        form = {"name": "verdict", "strict": True, "schema": dict(ask.schema)}
        told["response_format"] = {"type": "json_schema", "json_schema": form}
    return json.dumps(told).encode()


def smallest(ask: Ask) -> Ask:
    """A harmless question of one token to the same endpoint: is anybody there?"""
    hello: Observation = (Message("user", "Hello."),)
    return Ask(Raw(("Hello.",)) if isinstance(ask.prompt, Raw) else hello, max_tokens=1)


def read(payload: bytes, ask: Ask) -> Answer | Fault:
    """The one choice of a body of status 200."""
    if not payload.strip():
        return Fault("an empty body")
    try:
        told = json.loads(payload)
    except (ValueError, RecursionError):
        return Fault("a body that is not JSON")
    choices = told.get("choices") if isinstance(told, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return Fault("not exactly one choice")
    answer, usage = _choice(choices[0], ask), told.get("usage")
    if isinstance(answer, Fault):
        return answer
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return replace(answer, prompt_tokens=prompt, completion_tokens=completion)


def _choice(choice: Mapping[str, Any], ask: Ask) -> Answer | Fault:
    text, refusal = _said(choice, ask)
    ended = choice.get("finish_reason")
    if ended == "length" and not ask.label:
        why = "the answer was cut by the length limit"
        return Answer(text or "", Status.TRUNCATED, why=why)
    if ended == "content_filter":
        return Answer(status=Status.BLOCKED, why="the server's content filter cut the answer")
    if refusal:
        why = f"the model refuses: {_excerpt(refusal)}"
        return Answer(refusal, Status.REFUSED, why=why)
    if ask.sampling is not None:
        return Answer(text or "")
    return Answer(text) if text and text.strip() else Fault("a choice without text")


def fault(code: int, headers: Mapping[str, str], payload: bytes, now: datetime) -> Fault:
    """What any other status means."""
    said = _excerpt(payload.decode("utf-8", "replace"))
    why = f"{code}: {said}" if said else f"status {code}"
    if code in _AGAIN or code >= 500:
        wait = retry_after(headers.get("retry-after"), now)
        return Fault(why, pressed=code in _PRESSED, wait=wait)
    if 300 <= code < 400:
        to = _excerpt(headers.get("location", "nowhere"))
        return Fault(f"{code}: a redirect to {to}; redirects are not followed", again=False)
    if any(words in said.lower() for words in _TOO_LONG):
        return Fault(why, Status.TRUNCATED, again=False)
    if "content_filter" in said:
        return Fault(why, Status.BLOCKED, again=False)
    return Fault(why, again=False, misconfigured=_MISCONFIGURED.get(code, ""))


def _said(choice: Mapping[str, Any], ask: Ask) -> tuple[str | None, str | None]:
    """The text of a choice and its refusal, where it has them."""
    if isinstance(ask.prompt, Raw):
        text, refusal = choice.get("text"), None
    else:
        message = choice.get("message")
        told = message if isinstance(message, dict) else {}
        text, refusal = told.get("content"), told.get("refusal")
    return (text if isinstance(text, str) else None, refusal if isinstance(refusal, str) else None)


def _count(usage: Any, name: str) -> int:
    told = usage.get(name) if isinstance(usage, dict) else None
    return told if isinstance(told, int) and not isinstance(told, bool) and told >= 0 else 0


def _paired(text: str) -> str:
    return _UNPAIRED.sub("\ufffd", text)


def _excerpt(text: str) -> str:
    """The start of foreign text on one line, for errors."""
    shown = " ".join(text[: 4 * _EXCERPT].split())
    return "".join(c if c.isprintable() else "\ufffd" for c in shown)[:_EXCERPT]
