"""A judge's model behind a URL: the OpenAI-compatible protocol over the one HTTP client."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from sparring.judges.model_judge import Answer, OnAnswer, Question, Raw, ignore
from sparring.players.chat import paired
from sparring.transport.client import NEUTRAL, Client, Fault, HttpRequest, too_long
from sparring.types import Message, Status

_RENAMED = {"max_tokens": "max_completion_tokens"}
_NAMES = "|".join((*NEUTRAL, *_RENAMED, "temperature", "seed", "stream"))
_OPTIONAL = re.compile(rf"\b(?:{_NAMES})\b")
"""What a request goes without, or says by another name, where a server does not take it."""
_REFUSED = re.compile(
    r"un(?:supported|recogni[sz]ed|known|expected)|not (?:supported|permitted|allowed)"
    r"|does(?: not|n't) support|extra (?:inputs|fields)",
    re.IGNORECASE,
)
_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
_WHOLE = ("stop", "length", "content_filter", "eos", "eos_token", "stop_sequence", "end_turn")
"""Finish reasons of usable answers; not `tool_calls`, not `abort`."""
_MOST_TOKENS = 10**9
"""A larger count of tokens is no count."""
_LATE = Answer(status=Status.TIMEOUT, calls=0, why="the round's deadline has passed")


@dataclass(frozen=True)
class Server:
    """A `JudgeEngine`: `model` on the server of `client`.

    `json_schema` says that the server can hold an answer to a JSON schema.
    """

    client: Client
    model: str
    revision: str = ""
    json_schema: bool = False
    refused: set[str] = field(default_factory=set, compare=False, repr=False)
    """The parameters that this server was found not to take."""

    @property
    def identity(self) -> str:
        return f"{self.model}@{self.revision}" if self.revision else self.model

    def answer(self, questions: Sequence[Question], on_answer: OnAnswer = ignore) -> list[Answer]:
        """As every engine. Raises UnscoredError after `outage_seconds` without a sign of life."""
        if not questions:
            return []
        hello, known = _smallest(questions[0]), frozenset(self.refused)
        answers, again = [_LATE] * len(questions), list[int]()

        def read(place: int | None, response: httpx2.Response) -> Answer:
            if response.status_code != httpx2.codes.OK:
                raise _named(self.client.fault(response))
            return self.read(response.content, hello if place is None else questions[place])

        def finish(place: int, outcome: Answer | Fault, calls: int) -> None:
            if isinstance(outcome, Fault):
                if refused := _refused(outcome, questions[place]) - known:
                    self.refused.update(refused)
                    again.append(place)
                    return
                outcome = Answer(status=outcome.status, why=outcome.why)
            answers[place] = replace(outcome, calls=calls)
            on_answer(place, answers[place])

        requests = [self.request(question) for question in questions]
        self.client.send(requests, read, finish, self.request(hello))
        others = [questions[place] for place in again]  # they go without what was refused
        for place, answer in zip(again, self.answer(others, ignore), strict=True):
            answers[place] = answer
            on_answer(place, answer)
        return answers

    def request(self, question: Question) -> HttpRequest:
        """A question as JSON: greedy, with a fixed seed, unless its `sampling` says otherwise.

        Chat messages go where a chat template is applied, raw prompts where none is.
        """
        body: dict[str, Any] = {"model": self.model, "temperature": 0, "seed": 0, **NEUTRAL}
        body |= {"max_tokens": question.max_tokens, "stream": False}
        if isinstance(question.prompt, Raw):
            path, body["prompt"] = "completions", paired(question.prompt.text)
        else:
            messages = [{"role": m.role, "content": paired(m.content)} for m in question.prompt]
            path, body["messages"] = "chat/completions", messages
        body |= question.sampling or {}
        if question.schema is not None and self.json_schema:
            form = {"name": "verdict", "strict": True, "schema": dict(question.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        for name in self.refused & body.keys():
            value = body.pop(name)
            if name in _RENAMED:
                body[_RENAMED[name]] = value
        return HttpRequest(path, json.dumps(body).encode())

    def read(self, payload: bytes, question: Question) -> Answer:
        """The one choice of a body of status 200, without the client's secrets; or a Fault."""
        if not payload.strip():
            raise Fault("an empty body")
        try:
            body = json.loads(payload)
        except (ValueError, RecursionError):
            raise Fault("a body that is not JSON") from None
        choices = body.get("choices") if isinstance(body, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise Fault("not exactly one choice")
        answer, usage = self._choice(choices[0], question), body.get("usage")
        return replace(
            answer,
            text=self.client.redacted(answer.text),
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
        )

    def _choice(self, choice: Mapping[str, Any], question: Question) -> Answer:
        message = choice.get("message")
        if isinstance(question.prompt, Raw):
            message = {"content": choice.get("text")}
        texts = message if isinstance(message, dict) else {}
        content, refusal, *thoughts = (_text(texts.get(name)) for name in _TEXTS)
        ended = choice.get("finish_reason") or "stop"
        if ended == "length" and not question.is_label:
            return Answer(content, Status.TRUNCATED, why="the answer was cut by the length limit")
        if ended == "content_filter":
            return Answer(status=Status.BLOCKED, why="the server's content filter cut the answer")
        if refusal:
            why = f"the model refuses: {self.client.shown(refusal)}"
            return Answer(refusal, Status.REFUSED, why=why)
        sampled = question.sampling is not None
        empty = sampled and texts.get("content") == "" and not any(thoughts)
        whole = str(ended).lower() in _WHOLE and not texts.get("tool_calls")
        if whole and (empty or content.strip()):
            return Answer(content)
        if sampled:
            return Answer(status=Status.NO_REPLY, why=f"no text, and the end is {ended!r:.40}")
        raise Fault(f"a choice without text, or cut ({ended!r:.40})")


def _named(fault: Fault) -> Fault:
    """A refusal of one question whose reason is known: too long, or filtered."""
    long = too_long(fault.why)
    if fault.again or not (long or "content_filter" in fault.why):
        return fault
    return replace(fault, status=Status.TOO_LONG if long else Status.BLOCKED, hint="")


def _refused(fault: Fault, question: Question) -> set[str]:
    """The parameters that a server says it does not take, as far as a question may lack them.

    A temperature other than the usual 1 cannot be left to the server.
    """
    unnamed = fault.status is Status.HTTP_ERROR and not fault.again
    names = set(_OPTIONAL.findall(fault.why)) if unnamed and _REFUSED.search(fault.why) else set()
    warm = question.sampling is not None and question.sampling.get("temperature") != 1
    return names - {"temperature"} if warm else names


def _text(content: Any) -> str:
    """A message's text, of which some servers send the parts: a thought, and the text."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(str(part.get("text", "")) for part in parts)
    return content if isinstance(content, str) else ""


def _smallest(question: Question) -> Question:
    """A harmless question of one token to the same endpoint, which asks whether it is there."""
    raw = isinstance(question.prompt, Raw)
    return Question(Raw(("Hello.",)) if raw else (Message("user", "Hello."),), max_tokens=1)


def _count(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count <= _MOST_TOKENS else 0
