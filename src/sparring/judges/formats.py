"""Every published judge by its kind: what it is shown and how its answer is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sparring.judges import graders as harmbench
from sparring.judges import graders as jbb
from sparring.judges import graders as sorry_bench
from sparring.judges import graders as strongreject
from sparring.judges import graders as xstest
from sparring.judges import guards as llama_guard
from sparring.judges import guards as md_judge
from sparring.judges import guards as qwen3guard
from sparring.judges import guards as shieldgemma
from sparring.judges import guards as wildguard
from sparring.judges import template
from sparring.judges.model_judge import Format
from sparring.judges.rubric import rubric
from sparring.judges.template import Published
from sparring.types import UsageError

__all__ = ["FORMATS", "PUBLISHED", "format_named", "from_file", "rubric"]

_CHAT = (qwen3guard.QWEN3GUARD, qwen3guard.QWEN3GUARD_PROMPT, *llama_guard.LLAMA_GUARDS)
_BROUGHT = (
    wildguard.WILDGUARD,
    harmbench.HARMBENCH_LLAMA,
    harmbench.HARMBENCH_MISTRAL,
    shieldgemma.SHIELDGEMMA,
    strongreject.STRONGREJECT,
    sorry_bench.SORRY_BENCH,
    md_judge.MD_JUDGE,
    jbb.JBB,
    xstest.XSTEST,
)
PUBLISHED: Mapping[str, Published] = MappingProxyType({told.name: told for told in _BROUGHT})
"""The formats whose published text the user brings, or which is found among `templates/`."""


def _ready() -> dict[str, Format]:
    found = {told.name: template.shipped(told) for told in _BROUGHT}
    return {told.name: told for told in _CHAT} | {k: v for k, v in found.items() if v}


FORMATS: Mapping[str, Format] = MappingProxyType(_ready())
"""The formats that need nothing but their kind. `rubric` makes one for any set of fields."""


def format_named(kind: str, texts: Path | None = None) -> Format:
    """The format of that kind, with its published texts from `texts` if it needs them.

    An unknown kind, a text that is needed and not given, or given and not needed, is a
    `UsageError` that says what there is, where to find it, or that it has no use.
    """
    if texts is not None:
        return from_file(kind, texts)
    if kind in FORMATS:
        return FORMATS[kind]
    published = _published(kind)
    files = ", ".join(f"{name}.txt" for name in published.texts)
    raise UsageError(
        f"judge kind {kind!r} needs the text its authors published, which does not come with "
        f"sparring: copy {published.where} of {published.source} ({published.licence}), word for "
        f"word, into {files}, and name the file or its folder as template"
    )


def from_file(kind: str, path: Path) -> Format:
    """The format of that kind with its published texts from a file, or a folder of several."""
    return template.from_file(_published(kind), path)


def _published(kind: str) -> Published:
    if kind in PUBLISHED:
        return PUBLISHED[kind]
    if kind in FORMATS:
        raise UsageError(f"template: judge kind {kind!r} uses its model's own chat template")
    brought = (name for name in PUBLISHED if name not in FORMATS)
    known = ", ".join([*FORMATS, *brought, "rubric"])
    raise UsageError(f"judge kind {kind!r} is not known; there are {known}")
