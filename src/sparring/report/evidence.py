"""Optional parts of a page: one function for each file that may lie in a run's `evidence/`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparring.report.figures import exploit_figure
from sparring.report.layout import (
    Number,
    Rated,
    Section,
    Table,
    listed,
    mapping,
    name,
    number,
    rated,
    ratio,
    whole,
)
from sparring.types import CorruptError

EXPLOIT = "exploit"


def sections(folder: Path) -> list[Section]:
    """What the evidence beside a run comes to; CorruptError names a file that cannot be read."""
    told = ((read, _kept(folder, file)) for file, read in EVIDENCE.items())
    return [read(kept) for read, kept in told if kept is not None]


def best_response(folder: Path) -> Rated | None:
    """What the strongest of the attackers that were tried on the run's defender came to."""
    told = _kept(folder, f"{EXPLOIT}.json") or {}
    curve = mapping(mapping(told.get("attackers")).get(str(told.get("worst"))))
    asr = listed(curve.get("asr"))
    return rated(asr[-1]) if asr else None


def asked(folder: Path) -> str:
    """Of which defender the best response is, by which attackers, after how many steps."""
    told = _kept(folder, f"{EXPLOIT}.json") or {}
    tried = ", ".join(name(str(who)) for who in mapping(told.get("attackers")))
    steps = whole(mapping(told.get("budget")).get("steps"))
    trained = f", {steps:,} steps" if steps else ""
    return f"defender{_after(told)}; of {tried}{trained}"


def _kept(folder: Path, file: str) -> Mapping[str, Any] | None:
    path = folder / "evidence" / file
    if not path.is_file():
        return None
    try:
        return mapping(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptError(f"{path}: is not JSON: {error!r:.200}") from error


def exploit(told: Mapping[str, Any]) -> Section:
    """How far fresh attackers came against a frozen defender, by steps of training."""
    attackers = mapping(told.get("attackers"))
    curves, rows = {}, []
    for who, curve in attackers.items():
        steps = [number(step) for step in listed(mapping(curve).get("steps"))]
        asr = [rated(value) for value in listed(mapping(curve).get("asr"))]
        points = [(s, r) for s, r in zip(steps, asr, strict=False) if s is not None and r]
        curves[str(who)] = points
        last = points[-1] if points else None
        steps_told = f"{last[0]:,.0f}" if last and len(points) > 1 else "–"
        tried = name(str(mapping(curve).get("tried", "–")))
        rows.append((name(str(who)), ratio(last[1] if last else None), steps_told, tried))
    spent = _spent(mapping(told.get("budget")))
    worst = told.get("worst")
    return Section(
        id=EXPLOIT,
        title="Best responses",
        lead=f"The defender{_after(told)} is frozen; each attacker is trained against it alone. "
        + (f"Strongest: {name(str(worst))}. " if worst else "")
        + spent,
        figures=(exploit_figure(curves),) if any(curves.values()) else (),
        beside=(Table(("attacker", "ASR at the end", "steps", "tried"), tuple(rows), kind="told"),),
    )


def bound(told: Mapping[str, Any]) -> Section:
    """How often an attack of each family can at most succeed, at a confidence."""
    rows = tuple(
        (
            name(str(family)),
            f"{whole(row.get('n')):,}",
            f"{whole(row.get('failures')):,}",
            _decimal(row.get("effective_n"), ",.1f"),
            Number(_decimal(row.get("upper"), ".4f")),
        )
        for family, row in (
            (family, mapping(told_of)) for family, told_of in mapping(told.get("families")).items()
        )
    )
    confidence = number(told.get("confidence"))
    upper = f"upper bound, {100 * confidence:g} %" if confidence is not None else "upper bound"
    says_not, after = told.get("caveat"), _after(told)
    return Section(
        id="bound",
        title="Upper limit on attacks like the exam's",
        lead=(f"The exam{after}. " if after else "")
        + (f"What this does not say: {name(says_not, 1000)}" if isinstance(says_not, str) else ""),
        tables=(Table(("family", "n", "failures", "effective n", upper), rows),),
    )


def _spent(budget: Mapping[str, Any]) -> str:
    """An attacker's budget in a sentence; '' where it is not known whole."""
    keys = ("steps", "seeds", "num_generations", "n", "tries")
    steps, seeds, attacks, n, tries = (whole(budget.get(key)) for key in keys)
    if not all((steps, seeds, attacks, n, tries)):
        return ""
    return (
        f"Budget: {steps:,} steps of {seeds:,} seeds × {attacks:,} attacks, examined on {n:,} "
        f"games about held-out seeds; an enumeration tries each strategy {tries:,} times."
    )


EVIDENCE: Mapping[str, Callable[[Mapping[str, Any]], Section]] = {
    f"{EXPLOIT}.json": exploit,
    "bound.json": bound,
}
"""The file, and what makes a section of its contents; one line here is a new part of the page."""


def _after(told: Mapping[str, Any]) -> str:
    """Which of a run's defenders was measured: another than its last one, if that was asked for."""
    rounds = number(told.get("rounds"))
    return "" if rounds is None else f" after {rounds:,.0f} rounds"


def _decimal(told: Any, form: str) -> str:
    value = number(told)
    return "–" if value is None else format(value, form)
