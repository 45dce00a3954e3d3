"""How the records of published files become seeds: the table `schemas.yaml`, and its steps.

A file is known by its exact columns. Where two files have the same columns, only its name can tell
which one it is; where even that is missing, nothing is guessed.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict

from sparring import packaged
from sparring.data.rows import Record
from sparring.types import Seed, UsageError

Way = bool | str | Mapping[str, Any] | None
"""How a field is made of a row, as `schemas.yaml` spells it: a value, a column, or one step."""
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
    on_target: Way = None
    judges: str = ""


class Schema(BaseModel):
    """How the records of one published file become seeds; `schemas.yaml` describes the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    columns: frozenset[str]
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
    optional: frozenset[str] = frozenset()
    more: bool = False
    replies: Replies | None = None
    note: str = ""

    def fits(self, columns: Set[str]) -> bool:
        """Whether a file with these columns is of this schema."""
        return self.columns <= columns and (self.more or columns <= self.columns | self.optional)

    def misfit(self, columns: Set[str], header: Set[str] = frozenset()) -> str:
        """What a file with these columns lacks, or has too much; see `shown` on the `header`."""
        lacks = ", ".join(sorted(self.columns - columns))
        odd = columns - self.columns - self.optional
        return f"lacks {lacks}" if lacks else f"has also {shown(odd, header)}"

    @property
    def header(self) -> str:
        """The columns in words; those that may be absent stand in brackets."""
        names = [*sorted(self.columns), *(f"[{name}]" for name in sorted(self.optional))]
        return ", ".join([*names, "…"] if self.more else names)

    def seed(self, row: Record, left_out: Counter[str], every_row: bool = False) -> Seed | None:
        """A row's seed, or None where the schema leaves the row out, which `left_out` counts.

        With `every_row` none is left out, and a request without a label is taken for harmful.
        ValueError says what a row holds that it should not, but never the cell itself.
        """
        if not every_row and (reason := text_of(self.skip, row)):
            left_out[reason] += 1
            return None
        text = request(row, self.text) if isinstance(self.text, str) else text_of(self.text, row)
        if not text.strip():
            raise ValueError("the request is empty")
        return Seed(
            text=text,
            harmful=label_of(self.harmful, row, needed=not every_row) is not False,
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
    own, hint = "step" in way, way.get("hint", "")
    value = STEPS[way["step"]](row) if own else label(row, way["column"], words, needed, hint)
    other = way.get("agrees_with")
    if other and label(row, other, words if own else LABELS) not in (None, value):
        raise ValueError(f"{other} contradicts the label that its other columns give")
    return value


def digest(text: str) -> str:
    """The first 16 hexadecimal digits of a text's sha256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def request(row: Record, name: str) -> str:
    """A column that must hold text: str() of a JSON null would be the prompt "None"."""
    if not isinstance(row[name], str):
        raise ValueError(f"{name} must be text, got {kind_of(row[name])}")
    return str(row[name])


def kind_of(value: Any) -> str:
    """What stands in a cell, for errors, which never show the cell itself."""
    if isinstance(value, str) and value.strip():
        return f"another text ({len(value)} characters)"
    return "nothing" if value is None or value == "" else f"a value of type {type(value).__name__}"


def column(row: Record, name: str) -> str:
    """A column that may be missing (absent, null, NaN) or a number; `3.0` is 3, as in pandas."""
    value = row.get(name)
    if isinstance(value, float):
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    return "" if value is None else str(value)


def label(
    row: Record, name: str, words: Mapping[str, bool | None], needed: bool = False, hint: str = ""
) -> bool | None:
    """A label in words or as a truth value; None where the column is empty.

    ValueError, which ends in the `hint`, for any other word, and for an empty column where the
    label is `needed`.
    """
    word = column(row, name).strip().lower()
    if (word and word not in words) or (needed and not word):
        choices = "true or false" if "true" in words else " or ".join(words)
        raise ValueError(f"{name} must be {choices}, got {kind_of(row.get(name))}{hint}")
    return words.get(word)


def behavior_with_context(row: Record) -> str:
    """HarmBench's own join of a contextual behavior."""
    context, behavior = column(row, "ContextString"), request(row, "Behavior")
    return f"{context}\n\n---\n\n{behavior}" if context else behavior


def only_turn(row: Record) -> str:
    """SORRY-Bench's question, without the nulls beside it."""
    if not isinstance(row["turns"], list):
        raise ValueError(f"turns must be a list, got {kind_of(row['turns'])}")
    turns = [turn for turn in row["turns"] if turn is not None]
    if len(turns) != 1 or not isinstance(turns[0], str):
        raise ValueError(f"turns must hold one text, got {len(turns)}")
    return turns[0]


def is_adversarial(row: Record) -> bool:
    """Whether WildJailbreak wraps the request; else it leaves `adversarial` empty."""
    return column(row, "data_type").startswith("adversarial_")


def labels_listed(row: Record) -> str:
    """TrustLLM's label, which may be a list."""
    categories = row["label"]
    return ", ".join(map(str, categories)) if isinstance(categories, list) else column(row, "label")


def majority(row: Record) -> bool | None:
    """The label of most of three people; None where they are undecided or there is no label."""
    labels = [label(row, f"human_{i}", LABELS) for i in range(3)]
    balance = labels.count(True) - labels.count(False)
    return None if balance == 0 else balance > 0


def stored_verdicts(row: Record) -> dict[str, bool | None]:
    """The verdict of every judge that stands beside the people's, in a column of its own."""
    own = next(s for s in SCHEMAS if s.name == "HarmBench labelled completions").columns
    return {
        name: LABELS.get(column(row, name).strip().lower()) for name in sorted(row.keys() - own)
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

_TABLE = packaged.table("data/schemas.yaml")
LABELS: Mapping[str, bool] = _TABLE["words"]["labels"]
TRUTHS = {word: LABELS[word] for word in ("true", "1", "yes", "false", "0", "no")}
POLARITY: Mapping[str, bool] = _TABLE["words"]["names"]
SCHEMAS: Sequence[Schema] = [Schema(**entry) for entry in _TABLE["schemas"]]
REFUSED = {frozenset(columns.split(", ")): why for columns, why in _TABLE["refused"].items()}
_NAMES = {name for s in SCHEMAS for name in s.columns | s.optional} | {"instruction", "question"}
"""Names that no cell is likely to be: a first row that has one of them is a header."""
_MAP = (
    "name the columns that it has: --map prompt=COLUMN,harmful=COLUMN|true|false, or in a run "
    "data.train=[{path: FILE, map: {prompt: COLUMN, harmful: COLUMN}}]"
)


def shown(columns: Set[str], header: Set[str] = frozenset()) -> str:
    """The names of columns, for errors; what may be a cell of a file without a header is counted.

    A name is one word, and stands in a `header` of which another name at least is a usual one.
    """
    names = sorted(map(str, columns))
    usual = {str(name).lower() for name in header or columns} & _NAMES - LABELS.keys()
    single = [name for name in names if usual and re.fullmatch(r"[^\W\d][\w.:-]{0,39}", name)]
    hidden = len(names) - len(single)
    others = f"{hidden} that may be data and are not shown (has the file a header?)"
    return ", ".join([*single, *([others] if hidden else [])])


def match(path: PurePath, columns: Set[str]) -> Schema:
    """The schema of a file with these columns; UsageError says what its own file would have."""
    if why := REFUSED.get(frozenset(columns)):
        raise UsageError(f"{path}: {why}")
    fitting = [schema for schema in SCHEMAS if schema.fits(columns)]
    if not fitting:
        raise UsageError(
            f"{path}: unknown columns: {shown(columns)}\n{_compared(columns)}\nOr "
            f"{_MAP}. `sparring data list` shows the {len(SCHEMAS)} known files"
        )
    places = [path.name.split(".")[0], *path.parts[-3:-1]]  # NAME/train/0000.parquet
    matching = [s for s in fitting if not s.named or any(_spells(p, s.named) for p in places)]
    if len(matching) != 1:
        alike = " or ".join(schema.name for schema in fitting)
        names = " or ".join(schema.named for schema in fitting)
        raise UsageError(
            f"{path}: {alike}? The columns are the same, so that only its name can tell its "
            f"labels; call the file, or its folder, {names}. Or {_MAP}"
        )
    return matching[0]


def _spells(place: str, name: str) -> bool:
    """Whether a file or folder has that name, whatever stands between its letters and around it."""
    letters = r"[\W_]*".join(re.sub(r"[\W_]", "", name))
    pattern = rf"(?<![^\W_])(?<!non[\W_])(?<!not[\W_]){letters}(?![^\W_])"
    return bool(re.search(pattern, place, re.IGNORECASE))


def _compared(columns: Set[str]) -> str:
    """What a file lacks, or has too much, to be of the known file that it resembles most."""
    nearest = max(SCHEMAS, key=lambda s: len(s.columns & columns) / len(s.columns | columns))
    if 2 * len(nearest.columns & columns) < len(nearest.columns | columns):
        nearest = next(schema for schema in SCHEMAS if schema.name == "seeds")
    wrong = nearest.misfit(columns, columns)
    own = "" if nearest.name == "seeds" else " Seeds of your own need the columns text and harmful."
    return (
        f"The nearest, {nearest.name!r}, has the columns {nearest.header}; this one {wrong}.{own}"
    )
