"""How the records of published files become seeds: the table `schemas.yaml`, and its steps.

A file is known by its exact columns. Where two files have the same columns, only its name can tell
which one it is; where even that is missing, nothing is guessed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import yaml

from sparring.data.rows import Record
from sparring.types import UsageError

Text = Callable[[Record], str]
Label = Callable[[Record], bool | None]

NEEDS_HASH = "copyright (needs a hash judge)"
"""Why HarmBench's copyright rows are left out: only a hash of the original text shows a copy."""


@dataclass(frozen=True, slots=True)
class Replies:
    """Where a file keeps replies, and what people and other judges said of them."""

    reply: Text
    harmful: Label
    refused: Label
    judges: Callable[[Record], Mapping[str, bool | None]]


@dataclass(frozen=True, slots=True)
class Schema:
    """How the records of one published file become seeds; `schemas.yaml` describes the fields."""

    name: str
    columns: frozenset[str]
    text: Text
    harmful: Label
    id: Text
    category: Text
    goal: Text
    context: Text
    cluster: Text
    skip: Text
    group: str = "seeds"
    named: str = ""
    optional: frozenset[str] = frozenset()
    more: bool = False
    replies: Replies | None = None
    note: str = ""

    def fits(self, columns: Set[str]) -> bool:
        """Whether a file with these columns is of this schema."""
        return self.columns <= columns and (self.more or columns <= self.columns | self.optional)

    @property
    def header(self) -> str:
        """The columns in words; those that may be absent stand in brackets."""
        names = [*sorted(self.columns), *(f"[{name}]" for name in sorted(self.optional))]
        return ", ".join([*names, "…"] if self.more else names)


def digest(text: str) -> str:
    """The first 16 hexadecimal digits of a text's sha256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def nothing(row: Record) -> str:
    """The value of a field that the file does not have."""
    return ""


def request(row: Record, name: str) -> str:
    """A column that must hold text: str() of a JSON null would be the prompt "None"."""
    if not isinstance(row[name], str):
        raise ValueError(f"{name} must be text, got {row[name]!r:.40}")
    return str(row[name])


def column(row: Record, name: str) -> str:
    """A column that may be missing (absent, null, NaN) or a number; `3.0` is 3, as in pandas."""
    value = row.get(name)
    if isinstance(value, float):
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    return "" if value is None else str(value)


def label(row: Record, name: str, words: Mapping[str, bool], needed: bool = False) -> bool | None:
    """A label in words or as a truth value; None where the column is empty.

    ValueError for any other word, and for an empty column where the label is `needed`.
    """
    word = column(row, name).strip().lower()
    if (word and word not in words) or (needed and not word):
        between = " or " if needed and not word else ", "
        choices = "true or false" if words is LABELS else between.join(words)
        value = repr(row.get(name)) if needed and not word else repr(word)
        raise ValueError(f"{name} must be {choices}, got {value:.40}")
    return words.get(word)


def behavior_with_context(row: Record) -> str:
    """HarmBench's own join of a contextual behavior."""
    context, behavior = column(row, "ContextString"), request(row, "Behavior")
    return f"{context}\n\n---\n\n{behavior}" if context else behavior


def behavior_in_context(row: Record) -> str:
    """The behavior alone, where `behavior_with_context` joins it to a context."""
    return request(row, "Behavior") if column(row, "ContextString") else ""


def only_turn(row: Record) -> str:
    """SORRY-Bench's question, without the nulls beside it."""
    if not isinstance(row["turns"], list):
        raise ValueError(f"turns must be a list, got {row['turns']!r:.40}")
    turns = [turn for turn in row["turns"] if turn is not None]
    if len(turns) != 1 or not isinstance(turns[0], str):
        raise ValueError(f"turns must hold one text, got {len(turns)}")
    return turns[0]


def request_of_its_kind(row: Record) -> str:
    """WildJailbreak leaves `adversarial` empty where the request is asked as it stands."""
    return request(row, "adversarial" if _is_adversarial(row) else "vanilla")


def plain_of_adversarial(row: Record) -> str:
    """The plain request behind an adversarial one."""
    return request(row, "vanilla") if _is_adversarial(row) else ""


def _is_adversarial(row: Record) -> bool:
    return column(row, "data_type").startswith("adversarial_")


def labels_listed(row: Record) -> str:
    """TrustLLM's label, which may be a list."""
    labels = row["label"]
    return ", ".join(map(str, labels)) if isinstance(labels, list) else column(row, "label")


def majority(row: Record) -> bool | None:
    """The label of most of three people; None where they are undecided or there is no label."""
    labels = [label(row, f"human_{i}", LABELS) for i in range(3)]
    balance = labels.count(True) - labels.count(False)
    return None if balance == 0 else balance > 0


def stored_verdicts(row: Record) -> dict[str, bool | None]:
    """The verdict of every judge that stands beside the people's, in a column of its own."""
    own = next(s for s in SCHEMAS if s.name == "HarmBench labelled completions").columns
    verdicts = {name: row[name] for name in sorted(row.keys() - own)}
    return {
        name: bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None
        for name, value in verdicts.items()
    }


def label_of_either_split(row: Record, field: str) -> bool | None:
    """XSTest-Response's two splits label the same column in different words."""
    word, known = column(row, "label"), WORDS["harm"] | WORDS["refusal"]
    if word not in known:
        raise ValueError(f"label must be {', '.join(known)}, got {word!r:.40}")
    return WORDS[field].get(word)


STEPS: Mapping[str, Callable[[Record], Any]] = {
    "behavior_with_context": behavior_with_context,
    "behavior_in_context": behavior_in_context,
    "copyright": lambda row: NEEDS_HASH if row["FunctionalCategory"] == "copyright" else "",
    # Both of JailbreakBench's files count from 0.
    "harmful_index": lambda row: f"harmful-{column(row, 'Index')}",
    "benign_index": lambda row: f"benign-{column(row, 'Index')}",
    # StrongREJECT's small file spells one category with another capital.
    "capitalized_category": lambda row: column(row, "category").capitalize(),
    "only_turn": only_turn,
    "rewritten": lambda row: (
        "" if row["prompt_style"] == "base" else "a prompt_style other than base"
    ),
    # q_id starts again with every policy.
    "policy_question": lambda row: f"{column(row, 'content_policy_id')}-{column(row, 'q_id')}",
    "request_of_its_kind": request_of_its_kind,
    "plain_of_adversarial": plain_of_adversarial,
    "labels_listed": labels_listed,
    # XSTest names its unsafe kinds so.
    "contrast": lambda row: request(row, "type").startswith("contrast_"),
    "harm_of_either_split": lambda row: label_of_either_split(row, "harm"),
    "refusal_of_either_split": lambda row: label_of_either_split(row, "refusal"),
    # The same attack stands there with the replies of several models.
    "digest_of_reply": lambda row: digest(
        f"{request(row, 'test_case')}\n{column(row, 'generation')}"
    ),
    "majority": majority,
    "stored_verdicts": stored_verdicts,
}
"""Functions of a whole row, by the name that `schemas.yaml` has for them."""


def text_of(way: Any) -> Text:
    """A text field as the table describes it: a column, or one step applied to a column."""
    if not way:
        return nothing
    if isinstance(way, str):
        return lambda row: column(row, way)
    [(step, name)] = way.items()
    steps: dict[str, Text] = {
        "text": lambda row: request(row, name),
        "digest": lambda row: digest(text) if (text := column(row, name)) else "",
        "missing": lambda row: "" if column(row, name).strip() else f"no {name}",
    }
    return STEPS[name] if step == "step" else steps[step]


def label_of(way: Any, needed: bool) -> Label:
    """A label as the table describes it: fixed, words in a column, or a step of the whole row."""
    if way is None or isinstance(way, bool):
        return lambda row: way
    words = way.get("words", LABELS)
    own: Label = (
        STEPS[way["step"]]
        if "step" in way
        else lambda row: label(row, way["column"], words, needed)
    )
    other = way.get("agrees_with")
    if not other:
        return own
    other_words = words if "step" in way else LABELS

    def agreeing(row: Record) -> bool | None:
        value = own(row)
        if label(row, other, other_words) not in (None, value):
            raise ValueError(f"{other} contradicts it: {row.get(other)!r:.40}")
        return value

    return agreeing


def _replies(row: Mapping[str, Any]) -> Replies:
    return Replies(
        reply=text_of(row["reply"]),
        harmful=label_of(row.get("harmful"), needed=False),
        refused=label_of(row.get("refused"), needed=False),
        judges=STEPS[row["judges"]["step"]] if "judges" in row else lambda _: {},
    )


def schema_of(row: Mapping[str, Any]) -> Schema:
    """The schema that one entry of the table describes."""
    text = row["text"]
    names = ("id", "category", "goal", "context", "cluster", "skip")
    fields: dict[str, Any] = {name: text_of(row.get(name)) for name in names}
    fields |= {key: row[key] for key in ("name", "group", "named", "more", "note") if key in row}
    return Schema(
        columns=frozenset(row["columns"].split(", ")),
        text=text_of({"text": text} if isinstance(text, str) else text),
        harmful=label_of(row["harmful"], needed=True),
        optional=frozenset(filter(None, row.get("optional", "").split(", "))),
        replies=_replies(row["replies"]) if "replies" in row else None,
        **fields,
    )


_TABLE = yaml.safe_load((files("sparring.data") / "schemas.yaml").read_text("utf-8"))
WORDS: dict[str, dict[str, bool]] = _TABLE["words"]
LABELS = WORDS["labels"]
SCHEMAS: Sequence[Schema] = [schema_of(row) for row in _TABLE["schemas"]]
REFUSED = {frozenset(columns.split(", ")): why for columns, why in _TABLE["refused"].items()}
_MAP = "or say what its columns are: --map prompt=COLUMN,harmful=COLUMN|true|false,…"


def match(path: PurePath, columns: Set[str]) -> Schema:
    """The schema of a file with these columns; UsageError lists the known ones."""
    if why := REFUSED.get(frozenset(columns)):
        raise UsageError(f"{path}: {why}")
    fitting = [schema for schema in SCHEMAS if schema.fits(columns)]
    if not fitting:
        known = "\n".join(f"  {schema.name}: {schema.header}" for schema in SCHEMAS)
        header = ", ".join(sorted(map(str, columns)))
        raise UsageError(f"{path}: unknown columns: {header}\nknown headers:\n{known}\n{_MAP}")
    names = {path.name.split(".")[0], *path.parts[-3:-1]}  # NAME/train/0000.parquet
    matching = [schema for schema in fitting if not schema.named or schema.named in names]
    if len(matching) != 1:
        alike = " or ".join(schema.name for schema in fitting)
        names_wanted = " or ".join(schema.named for schema in fitting)
        raise UsageError(
            f"{path}: {alike}? The columns are the same, so that only its name can tell its "
            f"labels; call the file, or its folder, {names_wanted}, {_MAP}"
        )
    return matching[0]
