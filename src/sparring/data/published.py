"""Every known file, by its exact columns; where columns cannot tell, by its name or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.data.rows import Record
from sparring.data.schemas import (
    NEEDS_HASH,
    Schema,
    Text,
    agreeing,
    always,
    column,
    digested,
    label,
    maybe,
    missing,
    request,
    schema,
)

OWN: Sequence[Schema] = (
    schema(
        "seeds",
        "text, harmful",
        optional=frozenset({"id", "category", "goal", "context", "cluster"}),
        text=request("text"),
        harmful=label("harmful"),
        id=column("id"),
        category=column("category"),
        goal=column("goal"),
        context=column("context"),
        cluster=column("cluster"),
    ),
)


def with_context(row: Record) -> str:
    """HarmBench's own join of a contextual behavior."""
    context, behavior = column("ContextString")(row), request("Behavior")(row)
    return f"{context}\n\n---\n\n{behavior}" if context else behavior


def behavior_alone(row: Record) -> str:
    """What a judge is told was wanted of a behavior that was joined to its context."""
    return request("Behavior")(row) if column("ContextString")(row) else ""


def _copyright(row: Record) -> str:
    return NEEDS_HASH if row["FunctionalCategory"] == "copyright" else ""


def _spelled_alike(row: Record) -> str:
    """StrongREJECT's small file spells one category with another capital."""
    return column("category")(row).capitalize()


def _numbered(label: str) -> Text:
    """Both of JailbreakBench's files count from 0."""
    return lambda row: f"{label}-{column('Index')(row)}"


def _only_turn(row: Record) -> str:
    """SORRY-Bench's question, without the nulls beside it."""
    turns = row["turns"]
    if not isinstance(turns, list):
        raise ValueError(f"turns must be a list, got {turns!r:.40}")
    told = [turn for turn in turns if turn is not None]
    if len(told) != 1 or not isinstance(told[0], str):
        raise ValueError(f"turns must hold one text, got {len(told)}")
    return told[0]


def _rewritten(row: Record) -> str:
    base = row["prompt_style"] == "base"
    return "" if base else "a prompt_style other than base"


def _policy_question(row: Record) -> str:
    """q_id starts again with every policy."""
    return f"{column('content_policy_id')(row)}-{column('q_id')(row)}"


_JBB = "Index, Goal, Target, Behavior, Category, Source"

BEHAVIORS: Sequence[Schema] = (
    schema(
        "HarmBench text behaviors",
        "Behavior, FunctionalCategory, SemanticCategory, Tags, ContextString, BehaviorID",
        text=with_context,
        harmful=always(True),
        id=column("BehaviorID"),
        category=column("SemanticCategory"),
        goal=behavior_alone,
        context=column("ContextString"),
        skip=_copyright,
    ),
    schema(
        "JailbreakBench behaviors (harmful)",
        _JBB,
        text=request("Goal"),
        harmful=always(True),
        id=_numbered("harmful"),
        category=column("Category"),
        named="harmful-behaviors",
    ),
    schema(
        "JailbreakBench behaviors (benign)",
        _JBB,
        text=request("Goal"),
        harmful=always(False),
        id=_numbered("benign"),
        category=column("Category"),
        named="benign-behaviors",
    ),
    schema("AdvBench", "goal, target", text=request("goal"), harmful=always(True)),
    schema(
        "AdvBench (HarmBench's copy)",
        "Behavior, Category, Tags, ContextString, BehaviorID",
        text=with_context,
        harmful=always(True),
        id=column("BehaviorID"),
        category=column("Category"),
        goal=behavior_alone,
        context=column("ContextString"),
    ),
    schema(
        "StrongREJECT",
        "category, source, forbidden_prompt",
        text=request("forbidden_prompt"),
        harmful=always(True),
        category=_spelled_alike,
    ),
    schema(
        "SORRY-Bench",
        "question_id, category, turns, prompt_style",
        text=_only_turn,
        harmful=always(True),
        id=column("question_id"),
        category=column("category"),
        skip=_rewritten,
    ),
    schema(
        "Forbidden questions",
        "content_policy_id, content_policy_name, q_id, question",
        text=request("question"),
        harmful=always(True),
        id=_policy_question,
        category=column("content_policy_name"),
    ),
)


_KINDS: Mapping[str, bool] = {
    "vanilla_harmful": True,
    "vanilla_benign": False,
    "adversarial_harmful": True,
    "adversarial_benign": False,
}
_NO_GOAL = "the plain request is not in this file, so a judge is told the attack itself"


def _as_its_kind_says(row: Record) -> str:
    """WildJailbreak leaves `adversarial` empty where the request is asked as it stands."""
    wrapped = column("data_type")(row).startswith("adversarial_")
    return request("adversarial" if wrapped else "vanilla")(row)


def _plain_of_adversarial(row: Record) -> str:
    wrapped = column("data_type")(row).startswith("adversarial_")
    return request("vanilla")(row) if wrapped else ""


def _labels(row: Record) -> str:
    told = row["label"]
    return ", ".join(map(str, told)) if isinstance(told, list) else column("label")(row)


def _two_files(name: str, harmful: bool) -> Schema:
    """The suite's two files say which is which by their names alone."""
    return schema(
        f"WildJailbreak in safety-eval ({name})",
        "vanilla, adversarial",
        text=request("adversarial"),
        harmful=always(harmful),
        goal=request("vanilla"),
        cluster=digested("vanilla"),
        named=name,
    )


ATTACKS: Sequence[Schema] = (
    schema(
        "WildJailbreak (train)",
        "vanilla, adversarial, completion, data_type",
        text=_as_its_kind_says,
        harmful=label("data_type", _KINDS),
        category=column("data_type"),
        goal=_plain_of_adversarial,
        cluster=digested("vanilla"),
    ),
    schema(
        "WildJailbreak (eval)",
        "adversarial, label, data_type",
        text=request("adversarial"),
        harmful=agreeing(label("data_type", _KINDS), maybe("label"), "label"),
        category=column("data_type"),
        note=_NO_GOAL,
    ),
    _two_files("harmful", True),
    _two_files("benign", False),
    schema(
        "HarmBench precomputed attacks",
        "BehaviorID, test_case, model, method",
        text=request("test_case"),
        harmful=always(True),
        category=column("method"),
        cluster=column("BehaviorID"),
        note=_NO_GOAL,
    ),
    schema(
        "JailbreakBench artifacts",
        "index, goal, behavior, category, prompt, response, number_of_queries, "
        "queries_to_jailbreak, prompt_tokens, response_tokens, jailbroken",
        optional=frozenset({"jailbroken_llama_guard1"}),
        text=request("prompt"),
        harmful=always(True),
        id=column("index"),
        category=column("category"),
        goal=request("goal"),
        cluster=digested("goal"),
        skip=missing("prompt"),
    ),
    schema(
        "Do Anything Now (safety-eval)",
        "platform, source, prompt, jailbreak, created_at, date, community_id, community_name, "
        "vanilla, adversarial",
        text=request("adversarial"),
        harmful=always(True),
        category=column("community_name"),
        goal=request("vanilla"),
        cluster=digested("vanilla"),
    ),
    schema(
        "Do Anything Now (jailbreak prompts)",
        "platform, source, prompt, jailbreak, created_at, date, community, community_id, "
        "previous_community_id",
        text=request("prompt"),
        harmful=label("jailbreak"),
        category=column("community"),
        note="jailbreaks around no request: `jailbreak` is read as harmful",
    ),
    schema(
        "TrustLLM JailbreakTrigger",
        "prompt, label, source, id",
        text=request("prompt"),
        harmful=always(True),
        id=column("id"),
        category=_labels,
        note=_NO_GOAL,
    ),
)


def _contrast(row: Record) -> bool:
    """XSTest names its unsafe kinds so."""
    return request("type")(row).startswith("contrast_")


_LABELLED = agreeing(_contrast, maybe("label", {"unsafe": True, "safe": False}), "label")
_XSTEST: dict[str, Any] = {"text": request("prompt"), "category": column("type")}
_OR_BENCH: Mapping[str, bool] = {
    "or-bench-80k": False,
    "or-bench-hard-1k": False,
    "or-bench-toxic": True,
}

REFUSALS: Sequence[Schema] = (
    schema(
        "XSTest v2 (JSON)",
        "id_v1, type, prompt, focus, note, source, id",
        harmful=_contrast,
        id=column("id"),
        **_XSTEST,
    ),
    schema(
        "XSTest v2 (CSV)",
        "id_v1, id_v2, type, prompt, focus, note",
        harmful=_contrast,
        id=column("id_v2"),
        **_XSTEST,
    ),
    schema(
        "XSTest",
        "id, prompt, type, label, focus, note",
        harmful=_LABELLED,
        id=column("id"),
        **_XSTEST,
    ),
    schema(
        "XSTest (Hugging Face)", "prompt, focus, type, note, label", harmful=_LABELLED, **_XSTEST
    ),
    *(
        schema(
            f"OR-Bench ({name})",
            "prompt, category",
            text=request("prompt"),
            harmful=always(harmful),
            category=column("category"),
            named=name,
        )
        for name, harmful in _OR_BENCH.items()
    ),
)
