"""Columns of a file that no schema knows, as the user maps them to the fields of a seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from sparring.data.schemas import LABELS, POLARITY, TRUTHS, Schema, Way, shown
from sparring.types import UsageError, near

FIELDS = ("prompt", "harmful", "id", "category", "goal", "context", "cluster")
_FIXED = {"true": True, "false": False}
_NEGATED = re.compile(r"(?:!|not )\s*(.+)")


def parsed(words: Sequence[str], field: str = "--map") -> dict[str, str]:
    """`prompt=COLUMN,harmful=true` as a mapping; UsageError for any other form."""
    mapping: dict[str, str] = {}
    for word in (word for text in words for word in text.split(",") if word.strip()):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not value or name not in FIELDS or name in mapping:
            raise UsageError(
                f"{field}: {word!r:.60}: wanted FIELD=COLUMN, each field once, of: "
                f"{', '.join(FIELDS)} (harmful may be true or false for every row, or !COLUMN "
                "where the column says what is not harmful)"
            )
        mapping[name] = value
    return mapping


def mapped(path: Path, mapping: Mapping[str, str], columns: Set[str]) -> Schema:
    """A schema for a file with these columns, other columns ignored.

    `harmful` names a column of labels, with `!` or `not ` before it one whose true means harmless,
    or is `true` or `false` for every row; `id` and the rest may be left out. UsageError where the
    file has no such column, or where its name says the opposite of what is read from it.
    """
    unknown = [name for name in mapping if name not in FIELDS]
    absent = [name for name in FIELDS[:2] if name not in mapping]
    if unknown or absent:
        raise UsageError(
            f"{path}: map: {'no such field' if unknown else 'wanted also'}: "
            f"{', '.join(unknown or absent)} (fields: {', '.join(FIELDS)})"
        )
    harmful = mapping["harmful"]
    fixed = None if harmful in columns else _FIXED.get(harmful.lower())
    negated = None if harmful in columns else _NEGATED.fullmatch(harmful)
    used = {**mapping, "harmful": negated[1] if negated else harmful}
    if fixed is not None:
        del used["harmful"]
    for name, value in used.items():
        if value not in columns:
            hint = near(value, columns, f"it has {shown(columns)}")
            raise UsageError(f"{path}: map: {name}: no column {value!r:.60}; {hint}")
    return Schema(
        name=f"mapped columns ({', '.join(f'{k}={v}' for k, v in mapping.items())})",
        columns=frozenset(used.values()),
        text=mapping["prompt"],
        harmful=_labels_of(path, used["harmful"], bool(negated)) if fixed is None else fixed,
        more=True,
        **{name: mapping[name] for name in FIELDS[2:] if name in mapping},
    )


def _labels_of(path: Path, name: str, negated: bool) -> Way:
    """How a mapped column is read: words such as `unsafe` as they are, a truth value by its name.

    A truth value of `is_safe` would be read as its opposite, and so would one of `!is_harmful`.
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    means = {POLARITY[word] for word in words if word in POLARITY}
    turned = not {"not", "non", "no"}.isdisjoint(words)
    harm = (True in means) != turned if len(means) == 1 else None
    if negated and harm:
        raise UsageError(
            f"{path}: map: harmful=!{name} reads what is {name} as not harmful; write "
            f"harmful={name}, or rename the column if its true means harmless"
        )
    if negated:
        return {"column": name, "words": {word: not true for word, true in TRUTHS.items()}}
    if harm is not False:
        return {"column": name}
    return {
        "column": name,
        "words": {word: true for word, true in LABELS.items() if word not in TRUTHS},
        "hint": f": a true in {name} seems to mean harmless; write harmful=!{name} (in quotes), or "
        "rename the column if it means harmful",
    }
