"""A judge that is a model: a published format, an engine, and nothing made up in between."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from sparring.judges.engine import Answer, Ask, Engine
from sparring.judges.format import Format, Item, item_of
from sparring.types import Harm, State, Status, Verdict

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
