"""The part of a page about single attacks: folded, their text only where it was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from sparring.report.gather import Story
from sparring.report.layout import Cell, Folded, Number, Section, Table
from sparring.report.samples import Attack, Shown
from sparring.report.visible import name


def attacks(stories: Sequence[Story]) -> Section:
    """The most successful attack of each family, folded, and without its text by default."""
    tables: list[tuple[str, Table]] = []
    texts: list[Folded] = []
    for story in stories:
        for told, title in (
            (story.attacks, "Fixed attacks of the exams, by family"),
            (story.own_attacks, "The attacker's own, by recorded round"),
        ):
            if told:
                tables.append((f"{title}: {name(story.label)}", _attack_table(told)))
                texts += _texts(told)
    return Section(
        id="attacks",
        title="The attacks that worked best",
        lead="Of every family the attack that succeeded most often. Its text is replaced by its "
        "hash and its length unless the report was asked for it.",
        folded=tuple(texts),
        folded_tables=tuple(tables),
    )


def _attack_table(told: Sequence[Attack]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for attack in told:
        who = "withheld" if attack.withheld else attack.sha256[:12]
        if not attack.won:
            rows.append((name(attack.family), Number("none worked"), "–", "–", "–"))
            continue
        words = "–" if attack.withheld else f"{attack.words}"
        won = Number(f"{attack.won} of {attack.of}")
        rows.append((name(attack.family), won, f"round {attack.last}", who, words))
    return Table(("family", "worked", "last", "sha256", "words"), tuple(rows))


def _texts(told: Sequence[Attack]) -> list[Folded]:
    return [
        Folded(
            f"{name(attack.family)} · {attack.sha256[:12]}",
            f"attack{_badge(attack.attack)}\n{attack.attack.text}\n\n"
            f"reply{_badge(attack.reply)}\n{attack.reply.text}",
            "harmful",
        )
        for attack in told
        if attack.attack and attack.reply
    ]


def _badge(shown: Shown) -> str:
    return f" ({shown.hidden} characters that hide or reorder are spelled out)" * bool(shown.hidden)
