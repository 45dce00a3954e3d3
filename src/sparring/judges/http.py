"""A judge's model behind a URL: the OpenAI-compatible protocol over the one HTTP client."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from sparring.judges.model_judge import Answer, OnAnswer, Question, Raw, ignore
from sparring.transport.client import Client, Fault, HttpRequest
from sparring.types import Message, Status

_UNPAIRED = re.compile("[\ud800-\udfff]")
"""Half characters, which JSON can spell and servers choke on."""
_TOO_LONG = ("context_length", "context length", "maximum model length")
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

    @property
    def identity(self) -> str:
        return f"{self.model}@{self.revision}" if self.revision else self.model

    def answer(self, questions: Sequence[Question], on_answer: OnAnswer = ignore) -> list[Answer]:
        """As every engine. Raises UnscoredError after `outage_seconds` without a sign of life."""
        if not questions:
            return []
        hello = _smallest(questions[0])
        answers = [_LATE] * len(questions)

        def read(place: int | None, response: httpx2.Response) -> Answer:
            if response.status_code != httpx2.codes.OK:
                raise _named(self.client.fault(response))
            return self.read(response.content, hello if place is None else questions[place])

        def finish(place: int, outcome: Answer | Fault, calls: int) -> None:
            if isinstance(outcome, Fault):
                outcome = Answer(status=outcome.status, why=outcome.why)
            answers[place] = replace(outcome, calls=calls)
            on_answer(place, answers[place])

        requests = [self.request(question) for question in questions]
        self.client.send(requests, read, finish, self.request(hello))
        return answers

    def request(self, question: Question) -> HttpRequest:
        """A question as JSON: greedy, with a fixed seed, unless its `sampling` says otherwise.

        Chat messages go where a chat template is applied, raw prompts where none is.
        """
        body: dict[str, Any] = {"model": self.model, "temperature": 0, "seed": 0}
        body |= {"max_tokens": question.max_tokens, "stream": False}
        if isinstance(question.prompt, Raw):
            path, body["prompt"] = "completions", _paired(question.prompt.text)
        else:
            messages = [{"role": m.role, "content": _paired(m.content)} for m in question.prompt]
            path, body["messages"] = "chat/completions", messages
        body |= question.sampling or {}
        if question.schema is not None and self.json_schema:
            form = {"name": "verdict", "strict": True, "schema": dict(question.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
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
        content, refusal = (
            text if isinstance(text := texts.get(name), str) else ""
            for name in ("content", "refusal")
        )
        ended = choice.get("finish_reason")
        if ended == "length" and not question.is_label:
            return Answer(content, Status.TRUNCATED, why="the answer was cut by the length limit")
        if ended == "content_filter":
            return Answer(status=Status.BLOCKED, why="the server's content filter cut the answer")
        if refusal:
            why = f"the model refuses: {self.client.shown(refusal)}"
            return Answer(refusal, Status.REFUSED, why=why)
        if content.strip() or question.sampling is not None:
            return Answer(content)
        raise Fault("a choice without text")


def _named(fault: Fault) -> Fault:
    """A refusal of one question whose reason is known: too long, or filtered."""
    too_long = any(words in fault.why.lower() for words in _TOO_LONG)
    if fault.again or not (too_long or "content_filter" in fault.why):
        return fault
    return replace(fault, status=Status.TRUNCATED if too_long else Status.BLOCKED, hint="")


def _smallest(question: Question) -> Question:
    """A harmless question of one token to the same endpoint, which asks whether it is there."""
    raw = isinstance(question.prompt, Raw)
    return Question(Raw(("Hello.",)) if raw else (Message("user", "Hello."),), max_tokens=1)


def _count(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count <= _MOST_TOKENS else 0


def _paired(text: str) -> str:
    return _UNPAIRED.sub("\ufffd", text)
