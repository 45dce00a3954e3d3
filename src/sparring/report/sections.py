"""What a page says of its runs, part by part, in the order in which it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sparring.report.curves import PANELS, POOL, panels
from sparring.report.evidence import sections as evidence
from sparring.report.figures import (
    crossplay_figure,
    family_figure,
    sides,
    strategies_by_size,
    strategy_figure,
)
from sparring.report.gather import Story
from sparring.report.headline import POOLED, families, headline_key
from sparring.report.layout import (
    Card,
    Cell,
    Compared,
    Folded,
    Number,
    Section,
    Table,
    counted,
    ratio,
)
from sparring.report.reading import Rated
from sparring.report.reproduce import reproduce
from sparring.report.samples import Attack, Shown, spread
from sparring.report.visible import name

METRICS = (
    ("asr", "ASR", "lower"),
    ("over_refusal", "Over-refusal", "lower"),
    ("correct", "Correct on benign", "higher"),
)
"""A metric, its title, and the way it should go."""
_TURNS = (("attacker", "the attacker learns"), ("defender", "the defender learns"))


def sections(stories: Sequence[Story], public: bool) -> list[Section]:
    """Every part that there is something to say in."""
    told = [
        headline(stories),
        curves(stories),
        crossplay(stories),
        strategies(stories),
        attacks(stories),
        pool(stories),
        *_evidence(stories),
        reproduce(stories, public),
    ]
    return [s for s in told if s.figures or s.tables or s.folded or s.folded_tables]


def cards(stories: Sequence[Story]) -> list[Card]:
    """The numbers to read first: one per metric, every run before and after."""
    told = []
    for metric, title, better in METRICS:
        key = headline_key(stories[0].exams[-1].rates, metric)
        if key:
            runs = tuple(_compared(story, key, f"c{i}") for i, story in enumerate(stories))
            told.append(Card(title, name(key.split("/", 1)[1]), better, runs))
    return told


def _compared(story: Story, key: str, colour: str) -> Compared:
    before, after = story.exams[0].rates.get(key), story.exams[-1].rates.get(key)
    n = counted(after)
    told = f"n = {n.value}" + (f", {n.aside}" if n.aside else "")
    return Compared(
        name(story.label), colour, ratio(before), ratio(after), told, _apart(before, after)
    )


def _apart(a: Rated | None, b: Rated | None) -> bool:
    """Whether two intervals do not touch."""
    if a is None or b is None or None in (a.low, a.high, b.low, b.high):
        return False
    return bool(a.high < b.low or b.high < a.low)  # type: ignore[operator]


def headline(stories: Sequence[Story]) -> Section:
    """ASR by family, then benign seeds: before → after, intervals and n."""
    keys = {key: None for story in stories for key in story.exams[-1].rates}
    tables = [_rate_table(stories, "asr", "ASR by attack family", "family", keys)]
    tables += [
        _rate_table(stories, metric, f"{title}, by family", "family", keys)
        for metric, title, _ in METRICS[1:]
    ]
    success = next((story.success for story in stories if story.success), "")
    return Section(
        id="headline",
        title="Before and after",
        lead="Held-out seeds that nobody trained on, asked the same ways every time; 95 % "
        "intervals. Adversarial and wrapped are the means of all families but plain."
        + (f" What counts as success: {name(success, 300)}." if success else ""),
        figures=(family_figure(stories),) if families(keys, "asr") else (),
        tables=tuple(table for table in tables if table.rows),
    )


def _rate_table(
    stories: Sequence[Story], metric: str, title: str, first: str, keys: Mapping[str, None]
) -> Table:
    head: list[str] = [first]
    groups: list[tuple[str, int, str]] = [("", 1, "")]
    held = [any(headline_key(sat.held_out, metric) for sat in story.exams) for story in stories]
    for place, story in enumerate(stories):
        head += ["before", "after", *(["held-out judge"] if held[place] else []), "n"]
        groups.append((name(story.label), 3 + held[place], f"c{place}"))
    rows: list[tuple[Cell, ...]] = []
    named = families(keys, metric)
    for family in named:
        cells: list[Cell] = [name(family)]
        for place, story in enumerate(stories):
            first_sat, last = story.exams[0], story.exams[-1]
            key = f"{metric}/{family}"
            cells += [ratio(first_sat.rates.get(key)), ratio(last.rates.get(key))]
            cells += [ratio(last.held_out.get(key))] if held[place] else []
            cells.append(counted(last.rates.get(key)))
        rows.append(tuple(cells))
    strong = frozenset(i for i, family in enumerate(named) if family in POOLED)
    told = tuple(groups) if len(stories) > 1 else ()
    return Table(tuple(head), tuple(rows), title, groups=told, strong=strong)


def curves(stories: Sequence[Story]) -> Section:
    """Everything over rounds, with the turns shaded."""
    lanes = "" if len(stories) == 1 else " One lane of shading at the foot for each run."
    return Section(
        id="curves",
        title="Over the rounds",
        lead=f"Shaded by who learned.{lanes}",
        legend=_TURNS,
        figures=panels(PANELS, stories),
    )


def crossplay(stories: Sequence[Story]) -> Section:
    """Past attackers against past defenders."""
    played = [story for story in stories if story.crossplay]
    return Section(
        id="crossplay",
        title="Cross-play",
        lead="Attackers from along the run (rows) against defenders from along the run (columns), "
        "on held-out harmful seeds; the clean outcome: on topic and answered harmfully.",
        figures=tuple(
            crossplay_figure(story, f"crossplay{_nth(stories, story)}") for story in played
        ),
        folded_tables=tuple(
            (f"With intervals: {name(story.label)}", _matrix(story)) for story in played
        ),
    )


def _nth(stories: Sequence[Story], story: Story) -> str:
    return f"-{stories.index(story) + 1}" if len(stories) > 1 else ""


def _matrix(story: Story) -> Table:
    rows, columns = sides(story)
    cells = tuple(
        (name(row), *(ratio(story.crossplay[row].get(column)) for column in columns))
        for row in rows
    )
    return Table(("attacker after", *map(name, columns)), cells)


def strategies(stories: Sequence[Story]) -> Section:
    """What the attacker's rewrites became."""
    told = [story for story in stories if len(story.strategies) > 1]
    return Section(
        id="strategies",
        title="What the attacker tried",
        legend=_TURNS,
        figures=tuple(strategy_figure(s, f"strategies{_nth(stories, s)}") for s in told),
        folded_tables=tuple(
            (f"Shares by round: {name(story.label)}", _shares(story))
            for story in stories
            if story.strategies
        ),
    )


def _shares(story: Story) -> Table:
    moments = spread([t for t in story.strategies if t[1]], 8)
    rows = tuple(
        (name(strategy), *(_share(shares.get(strategy)) for _, shares in moments))
        for strategy in strategies_by_size(story)
    )
    return Table(("strategy", *(f"{done}" for done, _ in moments)), rows)


def _share(value: float | None) -> str:
    return "·" if value is None else f"{value:.2f}"


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


def pool(stories: Sequence[Story]) -> Section:
    """What was kept to be asked again, and which past selves were met."""
    return Section(
        id="pool",
        title="Experience pool and league",
        legend=_TURNS,
        figures=panels(POOL, stories),
    )


def _evidence(stories: Sequence[Story]) -> list[Section]:
    """The optional parts, each with a name of its own on the page."""
    return [
        replace(
            section,
            id=f"{section.id}{_nth(stories, story)}",
            figures=tuple(
                replace(f, name=f"{f.name}{_nth(stories, story)}") for f in section.figures
            ),
        )
        for story in stories
        for section in evidence(story.label, story.folder)
    ]
