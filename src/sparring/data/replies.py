"""Requests with replies that people have labelled: for calibrating judges, and as seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.data.rows import Record
from sparring.data.schemas import (
    Replies,
    Schema,
    always,
    column,
    digest,
    label,
    maybe,
    missing,
    request,
    schema,
)

_HARM = {"harmful": True, "unharmful": False}
_REFUSAL = {"refusal": True, "compliance": False}
_PROMPTS: Mapping[str, bool] = {
    "prompt_harmful": True,
    "prompt_unharmful": False,
    "prompt_benign": False,
    "prompt_safe": False,
}
_HUMANS = ("human_0", "human_1", "human_2")
_NO_JUDGES = "test_case, generation, model, method, experiment, behavior_id"

_WILDGUARD: dict[str, Any] = {
    "text": request("prompt"),
    "harmful": label("prompt_harm_label", _HARM),
    "category": column("subcategory"),
    "skip": missing("prompt_harm_label"),
    "replies": Replies(
        column("response"),
        maybe("response_harm_label", _HARM),
        maybe("response_refusal_label", _REFUSAL),
    ),
}
_WILDGUARD_COLUMNS = (
    "prompt, adversarial, response, response_harm_label, response_refusal_label, subcategory, "
    "prompt_harm_label"
)


def _majority(row: Record) -> bool | None:
    """What most of the three people said; None if they said as much of each, or nothing."""
    told = [maybe(name)(row) for name in _HUMANS]
    balance = told.count(True) - told.count(False)
    return None if balance == 0 else balance > 0


def _stored(row: Record) -> dict[str, bool | None]:
    """Every judge whose verdict stands beside the people's, in a column of its own."""
    names = row.keys() - {*_NO_JUDGES.split(", "), *_HUMANS}
    return {name: _verdict(row[name]) for name in sorted(names)}


def _verdict(told: Any) -> bool | None:
    """A stored verdict, 0 or 1; anything else is none."""
    return bool(told) if isinstance(told, bool | int | float) and told in (0, 1) else None


def _one_reply(row: Record) -> str:
    """The same attack stands there with the replies of several models."""
    return digest(f"{request('test_case')(row)}\n{column('generation')(row)}")


def _one_label(word: str, meaning: Mapping[str, bool]) -> bool | None:
    """XSTest-Response's two splits label the same column in different words."""
    known = _HARM | _REFUSAL
    if word not in known:
        raise ValueError(f"label must be {', '.join(known)}, got {word!r:.40}")
    return meaning.get(word)


REPLIES: Sequence[Schema] = (
    schema("WildGuardMix (train)", _WILDGUARD_COLUMNS, **_WILDGUARD),
    schema(
        "WildGuardMix (test)",
        f"{_WILDGUARD_COLUMNS}, prompt_harm_agreement, response_refusal_agreement, "
        "response_harm_agreement",
        **_WILDGUARD,
    ),
    schema(
        "XSTest-Response",
        "prompt, response, label, prompt_type",
        optional=frozenset({"prompt_harm_category"}),
        text=request("prompt"),
        harmful=label("prompt_type", _PROMPTS),
        category=column("prompt_harm_category"),
        replies=Replies(
            column("response"),
            lambda row: _one_label(column("label")(row), _HARM),
            lambda row: _one_label(column("label")(row), _REFUSAL),
        ),
    ),
    schema(
        "HarmBench labelled completions",
        f"{_NO_JUDGES}, {', '.join(_HUMANS)}",
        more=True,
        text=request("test_case"),
        harmful=always(True),
        id=_one_reply,
        category=column("method"),
        cluster=column("behavior_id"),
        replies=Replies(column("generation"), _majority, judges=_stored),
        note="the plain request is not in this file, so a judge is told the attack itself",
    ),
    schema(
        "labelled replies",
        "text, harmful, reply, reply_harmful, reply_refused",
        optional=frozenset({"id", "category", "goal", "context", "cluster"}),
        text=request("text"),
        harmful=label("harmful"),
        id=column("id"),
        category=column("category"),
        goal=column("goal"),
        context=column("context"),
        cluster=column("cluster"),
        replies=Replies(column("reply"), maybe("reply_harmful"), maybe("reply_refused")),
    ),
)
