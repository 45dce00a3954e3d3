"""How the records of published files become seeds: exact columns, and what each is for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from sparring.data.rows import Record

Text = Callable[[Record], str]
Truth = Callable[[Record], bool]
Told = Callable[[Record], bool | None]

NEEDS_HASH = "copyright (needs a hash judge)"
"""Why HarmBench's copyright rows are left out: only a hash of the original tells a copy."""

HARMFUL = {"true": True, "1": True, "harmful": True, "unsafe": True}
BENIGN = {"false": False, "0": False, "benign": False, "safe": False, "harmless": False}
LABELS: Mapping[str, bool] = HARMFUL | BENIGN


def nothing(row: Record) -> str:
    """A field that the file does not have."""
    return ""


def untold(row: Record) -> None:
    """A label that the file does not have."""


def no_judges(row: Record) -> dict[str, bool | None]:
    """No other judge's verdict is stored."""
    return {}


@dataclass(frozen=True, slots=True)
class Replies:
    """Where a file keeps replies and what people, and then other judges, said of them."""

    reply: Text
    harmful: Told = untold
    refused: Told = untold
    judges: Callable[[Record], Mapping[str, bool | None]] = no_judges


@dataclass(frozen=True, slots=True)
class Schema:
    """How the records of one published file become seeds.

    `skip` names why a row is left out. `named` tells files with the same columns apart by their
    own name or a folder's. `optional` columns may be absent; `more` takes any others too.
    """

    name: str
    columns: frozenset[str]
    text: Text
    harmful: Truth
    id: Text = nothing
    category: Text = nothing
    goal: Text = nothing
    context: Text = nothing
    cluster: Text = nothing
    skip: Text = nothing
    named: str = ""
    optional: frozenset[str] = frozenset()
    more: bool = False
    replies: Replies | None = None
    note: str = ""

    def fits(self, columns: Set[str]) -> bool:
        """Whether these are its columns."""
        return self.columns <= columns and (self.more or columns <= self.columns | self.optional)


def schema(name: str, columns: str, **ways: Any) -> Schema:
    """A schema by its columns as they are written down."""
    return Schema(name, frozenset(columns.split(", ")), **ways)


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def always(value: bool) -> Truth:
    """The same label for every row."""
    return lambda row: value


def request(name: str) -> Text:
    """A field that must be text: str() of a JSON null would be the prompt "None"."""

    def told(row: Record) -> str:
        if not isinstance(row[name], str):
            raise ValueError(f"{name} must be text, got {row[name]!r:.40}")
        return str(row[name])

    return told


def column(name: str) -> Text:
    """A field that may be missing (absent, null, NaN) or a number; `3.0` is 3, as pandas has it."""

    def told(row: Record) -> str:
        value = row.get(name)
        if isinstance(value, float):
            value = None if math.isnan(value) else int(value) if value.is_integer() else value
        return "" if value is None else str(value)

    return told


def digested(name: str) -> Text:
    """The digest of a field's text; nothing if it is empty."""
    return lambda row: digest(text) if (text := column(name)(row)) else ""


def missing(name: str) -> Text:
    """A row is left out where this field says nothing."""
    return lambda row: "" if column(name)(row).strip() else f"no {name}"


def maybe(name: str, words: Mapping[str, bool] = LABELS) -> Told:
    """A label in words or as a truth value; None where the field is missing.

    ValueError for any other word.
    """

    def told(row: Record) -> bool | None:
        word = column(name)(row).strip().lower()
        if word and word not in words:
            wanted = "true or false" if words is LABELS else ", ".join(words)
            raise ValueError(f"{name} must be {wanted}, got {word!r:.40}")
        return words.get(word)

    return told


def label(name: str, words: Mapping[str, bool] = LABELS) -> Truth:
    """A label that must be there."""

    def told(row: Record) -> bool:
        value = maybe(name, words)(row)
        if value is None:
            wanted = "true or false" if words is LABELS else " or ".join(words)
            raise ValueError(f"{name} must be {wanted}, got {row.get(name)!r:.40}")
        return value

    return told


def agreeing(told: Truth, other: Told, name: str) -> Truth:
    """A label that the column `name` must not contradict."""

    def checked(row: Record) -> bool:
        value = told(row)
        if other(row) not in (None, value):
            raise ValueError(f"{name} contradicts it: {row.get(name)!r:.40}")
        return value

    return checked
