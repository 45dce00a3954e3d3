"""How to play a run again: command, configuration, versions, and what it took."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from sparring.report.gather import Story
from sparring.report.layout import Cell, Folded, Section, Table, mapping, name, number
from sparring.settings.config import load_yaml
from sparring.types import UsageError

_PASSWORD = re.compile(r"(://)[^/@\s]+@")
_SECRET = re.compile(r"(?im)^(\s*[\w-]*(?:api_?key|secret|password|token)\s*:[ \t]*)\S.*$")
WITHHELD = "(withheld)"


def reproduce(stories: Sequence[Story], public: bool) -> Section:
    """One table of facts for all runs; the configurations folded."""
    facts = [dict(_facts(story, public)) for story in stories]
    names = list(dict.fromkeys(key for told in facts for key in told))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (key, *(told.get(key, "–") for told in facts)) for key in names
    )
    several = len(stories) > 1
    head = ("", *(name(s.label) for s in stories)) if several else ()
    return Section(
        id="reproduce",
        title="How to play it again",
        lead="Save the configuration below as config.yaml (it lies in the run's folder), then:",
        command="sparring train config.yaml output_dir=runs/again",
        tables=(Table(head, rows, kind="words"),),
        folded=tuple(
            Folded(f"Configuration: {name(story.label)}", config(story, public))
            for story in stories
        ),
    )


def _facts(story: Story, public: bool) -> Iterator[tuple[str, str]]:
    status = mapping(story.summary.status)
    if not public:
        yield "folder", name(str(story.folder), 300)
    yield "status", name(str(status.get("status", "unknown")))
    yield "ended", name(str(status.get("time", "unknown")))
    yield "rounds played", f"{story.rounds:,}"
    yield "judge", name(story.judge.get("name", "unknown"))
    if story.held_out_judge:
        yield "held-out judge", name(story.held_out_judge.get("name", "unknown"))
    phases = ", ".join(f"{name(k)} {duration(v)}" for k, v in story.seconds.items())
    yield "wall time of the rounds", f"{duration(sum(story.seconds.values()))} ({phases})"
    for key, count in story.counts.items():
        yield name(key.replace("/", ", ").replace("_", " ")), f"{count:,.0f}"
    for key, value in story.environment.items():
        if isinstance(value, Mapping):
            yield name(key), " · ".join(f"{name(str(k))} {name(str(v))}" for k, v in value.items())
        else:
            yield name(key), name(str(value))


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the largest two of them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def config(story: Story, public: bool) -> str:
    """The resolved configuration without passwords; in public also without attackers or places."""
    if not public:
        return _without_secrets(story.config)
    try:
        told = load_yaml(story.config, "config.yaml")
    except UsageError:
        return "(not shown: it is not plain YAML)"
    tree = mapping(told)
    base = mapping(tree.get("defender")).get("model_name_or_path")
    shown = _public(tree, "", base)
    return _without_secrets(yaml.safe_dump(shown, sort_keys=False))


def _without_secrets(text: str) -> str:
    return _PASSWORD.sub(rf"\1{WITHHELD}@", _SECRET.sub(rf"\1{WITHHELD}", text))


def _public(told: Any, where: str, base: Any) -> Any:
    """`told` without the attacker's weights, this machine's folders and its endpoints."""
    if isinstance(told, Mapping):
        return {key: _public(value, f"{where}.{key}", base) for key, value in told.items()}
    if isinstance(told, list):
        return [_public(value, where, base) for value in told]
    if not isinstance(told, str):
        return told
    weights = where in (".attacker.model_name_or_path", ".attacker.warm_start")
    other = weights and told not in (base, "sandbox")
    if other or "attacker" in PurePath(told).parts or "://" in told:
        return WITHHELD
    place = told.startswith(("/", "~", ".", "\\")) or told.count("/") > 1 or where == ".output_dir"
    return PurePath(told).name if place else told


def judged(stories: Sequence[Story]) -> list[tuple[str, str, str]]:
    """(role, judge, caveat) of every run, once each; the held-out ones after the others."""
    told = [("judge", s.judge) for s in stories]
    told += [("held-out judge", s.held_out_judge) for s in stories if s.held_out_judge]
    found = {(role, j.get("name", "unknown"), j.get("caveat", "")): None for role, j in told}
    return [(role, name(who), name(caveat, 1000)) for role, who, caveat in found]


def played(story: Story) -> str:
    """One line: how long the run went."""
    seconds = number(sum(story.seconds.values())) or 0.0
    return f"{story.rounds:,} rounds in {duration(seconds)}"
