"""Every known file, by its exact columns; where columns cannot tell, by its name or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import PurePath

from sparring.data.published import ATTACKS, BEHAVIORS, OWN, REFUSALS
from sparring.data.replies import REPLIES
from sparring.data.schemas import Schema
from sparring.types import UsageError

SCHEMAS: Sequence[Schema] = (*BEHAVIORS, *ATTACKS, *REFUSALS, *REPLIES, *OWN)

REFUSED: Mapping[frozenset[str], str] = {
    frozenset(columns.split(", ")): why
    for columns, why in {
        "Behavior, BehaviorID, FunctionalCategory, SemanticCategory, ImageFileName, Source, "
        "ImageDescription, RedactedImageDescription, Tags": (
            "HarmBench's multimodal behaviors, which ask about images: only text is read"
        ),
        "target": (
            "AdvBench's harmful strings: replies that an attack aims for, and no requests; "
            "give harmful_behaviors.csv"
        ),
    }.items()
}

_MAP = "or say what its columns are: --map prompt=COLUMN,harmful=COLUMN|true|false,…"


def match(path: PurePath, columns: Set[str]) -> Schema:
    """The schema of a file with these columns; UsageError lists the known ones."""
    if why := REFUSED.get(frozenset(columns)):
        raise UsageError(f"{path}: {why}")
    fitting = [schema for schema in SCHEMAS if schema.fits(columns)]
    if not fitting:
        known = "\n".join(f"  {schema.name}: {listed(schema)}" for schema in SCHEMAS)
        got = ", ".join(sorted(map(str, columns)))
        raise UsageError(f"{path}: unknown columns: {got}\nknown headers:\n{known}\n{_MAP}")
    called = {path.name.split(".")[0], *path.parts[-3:-1]}  # NAME/train/0000.parquet
    found = [schema for schema in fitting if not schema.named or schema.named in called]
    if len(found) != 1:
        alike = " or ".join(schema.name for schema in fitting)
        names = " or ".join(schema.named for schema in fitting)
        raise UsageError(
            f"{path}: {alike}? The columns are the same, so that only its name can tell its "
            f"labels; call the file, or its folder, {names}, {_MAP}"
        )
    return found[0]


def listed(schema: Schema) -> str:
    """Its columns in words; those that may be absent stand in brackets."""
    told = [*sorted(schema.columns), *(f"[{name}]" for name in sorted(schema.optional))]
    return ", ".join([*told, "…"] if schema.more else told)
