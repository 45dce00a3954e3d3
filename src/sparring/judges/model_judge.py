"""A judge that is a model: a published format, an engine, and nothing made up in between."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from sparring.games.game import conversation
from sparring.types import Harm, Observation, State, Status, Verdict


@dataclass(frozen=True, slots=True)
class Untrusted:
    """A span written by a model or a dataset: it never yields a special token, only text."""

    text: str


@dataclass(frozen=True, slots=True)
class Raw:
    """A prompt outside any chat template: published text as `str`, what it is about `Untrusted`.

    Special tokens spelt in a `str` part are tokens, as the format's authors meant them.
    """

    parts: tuple[str | Untrusted, ...]

    @property
    def text(self) -> str:
        """The prompt as one string, as a server is sent it."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


Prompt = Observation | Raw
"""Chat messages, which the model's own template renders; or raw text, taken as it stands."""


@dataclass(frozen=True, slots=True)
class Item:
    """What there is to judge: what was wanted, and what was said.

    `request` is what the seed asks for, never the attack; `messages` are the exchanges as both
    sides read them, user and assistant in turn, without the attacker's thoughts. The last is the
    reply, or the attack where nobody has replied yet. `harmful` is the dataset's label of the
    request, which SSP's 1-5 score reads; a guard is never told it.
    """

    request: str
    messages: Observation
    context: str = ""
    harmful: bool = True

    @property
    def attack(self) -> str:
        """The last thing the defender was asked."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")

    @property
    def reply(self) -> str | None:
        """The defender's reply to it, if it has been given."""
        last = self.messages[-1]
        return last.content if last.role == "assistant" else None


def upto_attack(item: Item) -> Observation:
    """The exchanges up to the last thing the defender was asked, as a prompt's judge reads them."""
    return item.messages if item.reply is None else item.messages[:-1]


def item_of(state: State) -> Item | None:
    """What a judge may see of a state; None while nothing has been sent."""
    messages = conversation(state)
    if not messages:
        return None
    return Item(state.seed.requested, messages, state.seed.context, state.seed.harmful)


@dataclass(frozen=True, slots=True)
class Format:
    """One judge's published input format and the grammar of its answer.

    `prompts` are the questions about one item (ShieldGemma asks one for each guideline); `read`
    takes their answers, in order, and gives None where one is not in the grammar. `about` says
    when it can tell: once there is a reply, or once there is an attack. `template` is the text
    that was published, word for word, and `source` where; its digest is part of every result.
    `schema` is the JSON schema an answer is asked to follow, where a server can hold it to one.
    `presumes_harm` says that it takes every request for a forbidden one: of a request that is not,
    it tells no `reply_harm`.
    """

    name: str
    fills: frozenset[str]
    prompts: Callable[[Item], Sequence[Prompt]]
    read: Callable[[Sequence[str]], Verdict | None]
    max_tokens: int
    template: str
    source: str
    about: Literal["reply", "attack"] = "reply"
    schema: Mapping[str, Any] | None = None
    presumes_harm: bool = False


LABEL_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to a judge's model; `attempt` tells a re-ask from a question never asked.

    `sampling` is what else the request says, such as the temperature; None asks greedily, as
    judges are. Only a sampled answer may be empty.
    """

    prompt: Prompt
    max_tokens: int
    schema: Mapping[str, Any] | None = None
    attempt: int = 0
    sampling: Mapping[str, Any] | None = None

    @property
    def label(self) -> bool:
        """Whether the answer is but a label, such as HarmBench's one token or SORRY-Bench's four.

        There the length limit is meant to end it; anywhere else an answer cut by it is truncated.
        """
        return self.max_tokens <= LABEL_TOKENS


@dataclass(frozen=True, slots=True)
class Answer:
    """The generated continuation alone, or a status other than ok and no text to rely on.

    A truncated answer keeps what there is of it, a refused one the refusal.

    Token counts are the server's own where it tells them, else 0; both are 0 for a cached answer.
    `calls` are the requests it took, also those that failed. `why` is for people: what failed.
    """

    text: str = ""
    status: Status = Status.OK
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False
    calls: int = 1
    why: str = ""


Heard = Callable[[int, Answer], None]
"""Told each answer when it comes, with its place among the questions; in any order."""


def unheard(_place: int, _answer: Answer) -> None:
    """For whoever waits for all of them."""


class Engine(Protocol):
    """Where a judge's model runs: in this process, behind a URL, or in a cache in front."""

    @property
    def identity(self) -> str:
        """Which model at which revision; part of every cache key and every result."""
        ...

    def answer(self, asked: Sequence[Ask], heard: Heard = unheard) -> list[Answer]:
        """One answer for each question, in order. Failures are statuses, never exceptions,
        but for an outage that makes going on pointless (UnscoredError) and misuse (UsageError).
        What was `heard` before one of them need not be asked again.
        """
        ...


@dataclass(frozen=True)
class ScriptedEngine:
    """Answers by rule, for tests and for trying a format without a model."""

    identity: str
    rule: Mapping[Prompt, str]
    otherwise: Answer = Answer(status=Status.HTTP_ERROR)

    def answer(self, asked: Sequence[Ask], heard: Heard = unheard) -> list[Answer]:
        told = [
            Answer(self.rule[ask.prompt]) if ask.prompt in self.rule else self.otherwise
            for ask in asked
        ]
        for place, answer in enumerate(told):
            heard(place, answer)
        return told


Controversial = Literal["unsafe", "safe", "separate"]
_THOUGHT = re.compile(r"\A\s*<think>(?:[^<]|<(?!/think>))*</think>")


@dataclass
class Usage:
    """What a judge has cost: `calls` are requests, those that failed and were sent again too."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    """The latest reason of each status that is not ok, for people."""


@dataclass(frozen=True)
class ModelJudge:
    """`format` asked of `engine`; equal items are asked once.

    An answer outside the grammar is read once more without white space and a leading
    `<think>…</think>`, and asked for once more; then it is a `parse_error`. `controversial` says
    what a guard's middle label counts as; `separate` leaves `reply_harm` untold.
    """

    format: Format
    engine: Engine
    controversial: Controversial = "unsafe"
    caveat: str = ""
    usage: Usage = field(default_factory=Usage)

    @property
    def name(self) -> str:
        return f"{self.format.name}:{self.engine.identity}"

    @property
    def fills(self) -> frozenset[str]:
        return self.format.fills

    @property
    def template_sha256(self) -> str:
        return hashlib.sha256(self.format.template.encode()).hexdigest()

    def rule(self, states: Sequence[State]) -> list[Verdict]:
        items = [item_of(state) for state in states]
        due = [i for i in items if i and (i.reply is not None or self.format.about == "attack")]
        unique = list(dict.fromkeys(due))
        told = dict(zip(unique, self._judged(unique), strict=True))
        return [told[item] if item in told else Verdict() for item in items]

    def _judged(self, items: Sequence[Item]) -> list[Verdict]:
        verdicts = self._asked(items, attempt=0)
        again = [i for i, v in enumerate(verdicts) if v.status is Status.PARSE_ERROR]
        for i, verdict in zip(again, self._asked([items[i] for i in again], 1), strict=True):
            verdicts[i] = verdict
        if self.format.presumes_harm:
            verdicts = [_known(item, v) for item, v in zip(items, verdicts, strict=True)]
        return [self._mapped(verdict) for verdict in verdicts]

    def _asked(self, items: Sequence[Item], attempt: int) -> list[Verdict]:
        prompts = [self.format.prompts(item) for item in items]
        asks = [
            Ask(prompt, self.format.max_tokens, self.format.schema, attempt)
            for some in prompts
            for prompt in some
        ]
        answers = iter(self.engine.answer(asks) if asks else [])
        return [self._read([next(answers) for _ in some]) for some in prompts]

    def _read(self, answers: Sequence[Answer]) -> Verdict:
        for answer in answers:
            self.usage.calls += answer.calls
            self.usage.cached += answer.cached
            self.usage.prompt_tokens += answer.prompt_tokens
            self.usage.completion_tokens += answer.completion_tokens
        failed = next((a for a in answers if a.status is not Status.OK), None)
        if failed:
            self.usage.reasons[failed.status] = failed.why
            return Verdict(status=failed.status)
        texts = [answer.text for answer in answers]
        verdict = self.format.read(texts)
        if verdict is None:
            verdict = self.format.read([_THOUGHT.sub("", text).strip() for text in texts])
        return verdict or Verdict(status=Status.PARSE_ERROR)

    def _mapped(self, verdict: Verdict) -> Verdict:
        if verdict.reply_harm is not Harm.CONTROVERSIAL or self.controversial == "unsafe":
            return verdict
        return replace(verdict, reply_harm=Harm.SAFE if self.controversial == "safe" else None)


def _known(item: Item, verdict: Verdict) -> Verdict:
    """What a judge that presumes harm can tell of this item."""
    return verdict if item.harmful else replace(verdict, reply_harm=None)
