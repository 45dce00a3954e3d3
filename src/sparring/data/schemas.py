"""How the records of published files become seeds: the table `schemas.yaml`, and its steps.

A file is known by its exact columns. Where two files have the same columns, only its name can tell
which one it is; where even that is missing, nothing is guessed.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict

from sparring.data.rows import Record
from sparring.types import Seed, UsageError

Way = bool | str | Mapping[str, Any] | None
"""How a field is made of a row, as `schemas.yaml` spells it: a value, a column, or one step."""
Columns = Annotated[
    frozenset[str],
    BeforeValidator(lambda names: names.split(", ") if isinstance(names, str) else names),
]

NEEDS_HASH = "copyright (needs a hash judge)"
"""Why HarmBench's copyright rows are left out: only a hash of the original text shows a copy."""


class Replies(BaseModel):
    """Where a file keeps replies, and what people and other judges said of them.

    `judges` names the step that reads the other judges' verdicts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reply: Way
    harmful: Way = None
    refused: Way = None
    judges: str = ""


class Schema(BaseModel):
    """How the records of one published file become seeds; `schemas.yaml` describes the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    columns: Columns
    text: Way
    harmful: Way
    id: Way = None
    category: Way = None
    goal: Way = None
    context: Way = None
    cluster: Way = None
    skip: Way = None
    group: str = "seeds"
    named: str = ""
    optional: Columns = frozenset()
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

    def seed(self, row: Record, left_out: Counter[str], hash_judge: bool = False) -> Seed | None:
        """A row's seed, or None where the schema leaves the row out, which `left_out` counts.

        ValueError says what a row holds that it should not.
        """
        reason = text_of(self.skip, row)
        if reason and not (reason == NEEDS_HASH and hash_judge):
            left_out[reason] += 1
            return None
        text = request(row, self.text) if isinstance(self.text, str) else text_of(self.text, row)
        if not text.strip():
            raise ValueError("the request is empty")
        return Seed(
            text=text,
            harmful=bool(label_of(self.harmful, row, needed=True)),
            id=text_of(self.id, row) or digest(text),
            category=text_of(self.category, row),
            goal=text_of(self.goal, row),
            context=text_of(self.context, row),
            cluster=text_of(self.cluster, row),
        )


def text_of(way: Way, row: Record) -> str:
    """A text field of a row, made as the table says."""
    if way is None:
        return ""
    if isinstance(way, str):
        return column(row, way)
    assert isinstance(way, Mapping)
    [(kind, name)] = way.items()
    return WAYS[kind](row, name)


def label_of(way: Way, row: Record, needed: bool = False) -> bool | None:
    """A label of a row, made as the table says: fixed, words in a column, or a step."""
    if not isinstance(way, Mapping):
        return bool(way) if way is not None else None
    words, needed = way.get("words", LABELS), way.get("needed", needed)
    own = "step" in way
    value = STEPS[way["step"]](row) if own else label(row, way["column"], words, needed)
    other = way.get("agrees_with")
    if other and label(row, other, words if own else LABELS) not in (None, value):
        raise ValueError(f"{other} contradicts it: {row.get(other)!r:.40}")
    return value


def digest(text: str) -> str:
    """The first 16 hexadecimal digits of a text's sha256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


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


def label(
    row: Record, name: str, words: Mapping[str, bool | None], needed: bool = False
) -> bool | None:
    """A label in words or as a truth value; None where the column is empty.

    ValueError for any other word, and for an empty column where the label is `needed`.
    """
    word = column(row, name).strip().lower()
    if (word and word not in words) or (needed and not word):
        between = " or " if needed and not word else ", "
        choices = "true or false" if words == LABELS else between.join(words)
        value = repr(row.get(name)) if needed and not word else repr(word)
        raise ValueError(f"{name} must be {choices}, got {value:.40}")
    return words.get(word)


def behavior_with_context(row: Record) -> str:
    """HarmBench's own join of a contextual behavior."""
    context, behavior = column(row, "ContextString"), request(row, "Behavior")
    return f"{context}\n\n---\n\n{behavior}" if context else behavior


def only_turn(row: Record) -> str:
    """SORRY-Bench's question, without the nulls beside it."""
    if not isinstance(row["turns"], list):
        raise ValueError(f"turns must be a list, got {row['turns']!r:.40}")
    turns = [turn for turn in row["turns"] if turn is not None]
    if len(turns) != 1 or not isinstance(turns[0], str):
        raise ValueError(f"turns must hold one text, got {len(turns)}")
    return turns[0]


def is_adversarial(row: Record) -> bool:
    """Whether WildJailbreak wraps the request; else it leaves `adversarial` empty."""
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


STEPS: Mapping[str, Callable[[Record], Any]] = {
    "behavior_with_context": behavior_with_context,
    # The behavior alone, where the text joins it to a context.
    "behavior_in_context": lambda row: (
        request(row, "Behavior") if column(row, "ContextString") else ""
    ),
    "copyright": lambda row: NEEDS_HASH if row["FunctionalCategory"] == "copyright" else "",
    # StrongREJECT's small file spells one category with another capital.
    "capitalized_category": lambda row: column(row, "category").capitalize(),
    "only_turn": only_turn,
    "rewritten": lambda row: (
        "" if row["prompt_style"] == "base" else "a prompt_style other than base"
    ),
    "request_of_its_kind": lambda row: request(
        row, "adversarial" if is_adversarial(row) else "vanilla"
    ),
    "plain_of_adversarial": lambda row: request(row, "vanilla") if is_adversarial(row) else "",
    "labels_listed": labels_listed,
    # XSTest names its unsafe kinds so.
    "contrast": lambda row: request(row, "type").startswith("contrast_"),
    # The same attack stands there with the replies of several models.
    "digest_of_reply": lambda row: digest(
        f"{request(row, 'test_case')}\n{column(row, 'generation')}"
    ),
    "majority": majority,
    "stored_verdicts": stored_verdicts,
}
"""Functions of a whole row, by the name that `schemas.yaml` has for them."""
WAYS: Mapping[str, Callable[[Record, str], str]] = {
    "text": request,
    "digest": lambda row, name: digest(column(row, name)) if column(row, name) else "",
    "missing": lambda row, name: "" if column(row, name).strip() else f"no {name}",
    "join": lambda row, pattern: pattern.format_map({name: column(row, name) for name in row}),
    "step": lambda row, name: STEPS[name](row),
}
"""The steps that `schemas.yaml` applies to a column, to several, or to the whole row."""

_TABLE = yaml.safe_load((files("sparring.data") / "schemas.yaml").read_text("utf-8"))
LABELS: Mapping[str, bool] = _TABLE["words"]["labels"]
SCHEMAS: Sequence[Schema] = [Schema(**entry) for entry in _TABLE["schemas"]]
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
