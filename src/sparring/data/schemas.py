"""Published seed files, known by their exact header; nothing is guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
"""One row, by field."""


@dataclass(frozen=True, slots=True)
class Schema:
    """How the records of one published file become seeds; `skip` names why a row is left out."""

    name: str
    columns: frozenset[str]
    text: Callable[[Record], str]
    harmful: Callable[[Record], bool]
    id: Callable[[Record], str] = lambda row: ""
    category: Callable[[Record], str] = lambda row: ""
    skip: Callable[[Record], str] = lambda row: ""


def _always(value: bool) -> Callable[[Record], bool]:
    return lambda row: value


def _request(name: str) -> Callable[[Record], str]:
    """A field that must be text: str() of a JSON null would be the prompt "None"."""

    def told(row: Record) -> str:
        if not isinstance(row[name], str):
            raise ValueError(f"{name} must be text, got {row[name]!r:.40}")
        return str(row[name])

    return told


def _column(name: str) -> Callable[[Record], str]:
    """A field that may be missing (null) or a number."""
    return lambda row: "" if row[name] is None else str(row[name])


def _with_context(row: Record) -> str:
    """HarmBench's own join of a contextual behaviour."""
    context, behavior = _column("ContextString")(row), _request("Behavior")(row)
    return f"{context}\n\n---\n\n{behavior}" if context else behavior


def _copyright(row: Record) -> str:
    return "copyright (needs a hash judge)" if row["FunctionalCategory"] == "copyright" else ""


def _contrast(row: Record) -> bool:
    return str(row["type"]).startswith("contrast_")


_TRUE, _FALSE = {"true", "1", "harmful", "unsafe"}, {"false", "0", "benign", "safe", "harmless"}


def _label(row: Record) -> bool:
    told = str(row["harmful"]).strip().lower()
    if told not in _TRUE | _FALSE:
        raise ValueError(f"harmful must be true or false, got {told!r:.40}")
    return told in _TRUE


def _schema(name: str, columns: str, **ways: Any) -> Schema:
    return Schema(name, frozenset(columns.split(", ")), **ways)


_XSTEST: dict[str, Any] = {"text": _request("prompt"), "harmful": _contrast}
SCHEMAS: Sequence[Schema] = (
    _schema(
        "HarmBench text behaviors",
        "Behavior, FunctionalCategory, SemanticCategory, Tags, ContextString, BehaviorID",
        text=_with_context,
        harmful=_always(True),
        id=_column("BehaviorID"),
        category=_column("SemanticCategory"),
        skip=_copyright,
    ),
    _schema(
        "StrongREJECT",
        "category, source, forbidden_prompt",
        text=_request("forbidden_prompt"),
        harmful=_always(True),
        category=_column("category"),
    ),
    _schema(
        "XSTest v2 (JSON)",
        "id_v1, type, prompt, focus, note, source, id",
        id=_column("id"),
        category=_column("type"),
        **_XSTEST,
    ),
    _schema(
        "XSTest v2 (CSV)",
        "id_v1, id_v2, type, prompt, focus, note",
        id=_column("id_v2"),
        category=_column("type"),
        **_XSTEST,
    ),
    _schema(
        "XSTest",
        "id, prompt, type, label, focus, note",
        id=_column("id"),
        category=_column("type"),
        **_XSTEST,
    ),
    _schema("AdvBench", "goal, target", text=_request("goal"), harmful=_always(True)),
    _schema("seeds", "text, harmful", text=_request("text"), harmful=_label),
    _schema(
        "seeds with ids",
        "id, text, harmful",
        text=_request("text"),
        harmful=_label,
        id=_column("id"),
    ),
    _schema(
        "seeds with ids and categories",
        "id, text, harmful, category",
        text=_request("text"),
        harmful=_label,
        id=_column("id"),
        category=_column("category"),
    ),
)
