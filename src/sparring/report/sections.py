"""What a page says of its runs, part by part, in the order in which it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sparring.report.curves import PANELS, POOL, differ, panels
from sparring.report.evidence import EXPLOIT, asked, best_response
from sparring.report.evidence import sections as evidence
from sparring.report.figures import by_size, crossplay_figure, family_figure, sides, strategy_figure
from sparring.report.gather import Story
from sparring.report.layout import (
    POOLED,
    Card,
    Cell,
    Compared,
    Folded,
    Number,
    Rated,
    Section,
    Table,
    counted,
    families,
    headline_key,
    missing,
    name,
    ratio,
    share,
)
from sparring.report.reproduce import reproduce
from sparring.report.samples import Attack, Shown, spread


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


METRICS = (
    ("asr", "ASR", "lower"),
    ("over_refusal", "Over-refusal", "lower"),
    ("correct", "Correct on benign", "higher"),
)
"""A metric, its title, and the way it should go."""
_TURNS = (("attacker", "the attacker learns"), ("defender", "the defender learns"))


def sections(stories: Sequence[Story], public: bool) -> list[Section]:
    """Every part that there is something to say in."""
    found = _evidence(stories)
    exploited = [part for part in found if part.id.startswith(EXPLOIT)]
    told = [
        headline(stories),
        *exploited,
        curves(stories),
        crossplay(stories),
        strategies(stories),
        attacks(stories),
        pool(stories),
        *(part for part in found if part not in exploited),
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
    met = {i: rate for i, story in enumerate(stories) if (rate := best_response(story.folder))}
    if met:
        runs = tuple(_met(story, met.get(i), f"c{i}") for i, story in enumerate(stories))
        told.append(Card("Best response", "strongest attacker trained on it", "lower", runs))
    return told


def _met(story: Story, rate: Rated | None, colour: str) -> Compared:
    """What the strongest attacker that trained on the frozen defender came to."""
    n = "not measured: sparring exploit"
    if rate:
        n = f"n = {counted(rate)}; {asked(story.folder)}"
    return Compared(name(story.label), colour, None, ratio(rate), n, apart=True, held_out=None)


def _compared(story: Story, key: str, colour: str) -> Compared:
    before, after = story.exams[0].rates.get(key), story.exams[-1].rates.get(key)
    other = story.exams[-1].held_out.get(key)
    return Compared(
        run=name(story.label),
        colour=colour,
        before=ratio(before),
        after=ratio(after),
        n=f"n = {counted(after)}",
        apart=_apart(before, after),
        held_out=ratio(other) if other else None,
    )


def _apart(a: Rated | None, b: Rated | None) -> bool:
    """Whether two intervals do not touch."""
    if a is None or b is None or None in (a.low, a.high, b.low, b.high):
        return False
    return bool(a.high < b.low or b.high < a.low)  # type: ignore[operator]


def headline(stories: Sequence[Story]) -> Section:
    """ASR by family, then benign seeds: before → after, intervals and n."""
    keys = {key: None for story in stories for key in story.exams[-1].rates}
    tables = [_rate_table(stories, metric, title, keys) for metric, title, _ in METRICS]
    told = tuple(table for table in tables if table.rows)
    figures = tuple(
        family_figure(stories, metric, title)
        for metric, title, _ in METRICS
        if families(stories[0].exams[-1].rates, metric)
    )
    several = len(stories) > 1
    pooled = {"asr/adversarial", "over_refusal/wrapped"} & keys.keys()
    success = next((story.success for story in stories if story.success), "")
    return Section(
        id="headline",
        title="Before and after",
        lead="Held-out seeds that nobody trained on, asked the same ways every time; 95 % "
        "intervals."
        + (" Adversarial and wrapped: all families but plain." if pooled else "")
        + (f" What counts as success: {name(success, 300)}." if success else ""),
        figures=figures[:2] if several else figures[:1],
        beside=() if several else told,
        tables=told if several else (),
    )


def _rate_table(
    stories: Sequence[Story], metric: str, title: str, keys: Mapping[str, None]
) -> Table:
    head: list[str] = ["family"]
    groups: list[tuple[str, int, str]] = [("", 1, "")]
    held = [any(headline_key(sat.held_out, metric) for sat in story.exams) for story in stories]
    named = families(keys, metric)
    counts = [
        [counted(story.exams[-1].rates.get(f"{metric}/{family}")) for family in named]
        for story in stories
    ]
    same = all(told == counts[0] for told in counts)  # then n stands once, and more runs fit
    for place, story in enumerate(stories):
        own = ["before", "after", *["held-out judge"] * held[place], *["n"] * (not same)]
        groups.append((name(story.label), len(own), f"c{place}"))
        head += own
    rows: list[tuple[Cell, ...]] = []
    for row, family in enumerate(named):
        cells: list[Cell] = [name(family)]
        for place, story in enumerate(stories):
            first_sat, last = story.exams[0], story.exams[-1]
            key = f"{metric}/{family}"
            cells += [ratio(first_sat.rates.get(key)), ratio(last.rates.get(key))]
            cells += [ratio(last.held_out.get(key))] if held[place] else []
            cells += [] if same else [counts[place][row]]
        rows.append((*cells, counts[0][row]) if same else tuple(cells))
    if same:
        head.append("n")
        groups.append(("", 1, ""))
    strong = frozenset(i for i, family in enumerate(named) if family in POOLED)
    told = tuple(groups) if len(stories) > 1 else ()
    left = [
        (name(family), missing(story.exams[-1].rates.get(f"{metric}/{family}")))
        for story in stories
        for family in named
    ]
    note = "; ".join(f"{family}: {why}" for family, why in left if why)
    kind = "narrow" if any(held) else ""
    return Table(tuple(head), tuple(rows), title, note, groups=told, strong=strong, kind=kind)


def curves(stories: Sequence[Story]) -> Section:
    """Everything over rounds, with the turns shaded."""
    lanes = " One lane at the foot for each run." if differ(stories) else ""
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
        beside=(_matrix(played[0]),) if len(stories) == 1 and played else (),
        folded_tables=tuple(
            (f"With intervals: {name(story.label)}", _matrix(story))
            for story in played
            if len(stories) > 1
        ),
    )


def _nth(stories: Sequence[Story], story: Story) -> str:
    return f"-{stories.index(story) + 1}" if len(stories) > 1 else ""


def _matrix(story: Story) -> Table:
    rows, columns = sides(story.crossplay)
    cells: tuple[tuple[Cell, ...], ...] = tuple(
        (_moment(row), *(ratio(story.crossplay[row].get(column)) for column in columns))
        for row in rows
    )
    head = ("attacker after", *map(_moment, columns))
    groups = (("", 1, ""), ("defender after", len(columns), ""))
    return Table(head, cells, "With 95 % intervals", groups=groups, kind="narrow")


def _moment(rounds: str) -> str:
    return "start" if rounds == "0" else name(rounds)


def strategies(stories: Sequence[Story]) -> Section:
    """What the attacker's rewrites became."""
    told = [story for story in stories if len(story.strategies) > 1]
    named = by_size([shares for story in told for _, shares in story.strategies])
    return Section(
        id="strategies",
        title="What the attacker tried",
        legend=_TURNS,
        figures=tuple(strategy_figure(s, f"strategies{_nth(stories, s)}", named) for s in told),
        beside=(_shares(told[0]),) if len(stories) == 1 and told else (),
        folded_tables=tuple(
            (f"Shares by round: {name(story.label)}", _shares(story))
            for story in told
            if len(stories) > 1
        ),
    )


def _shares(story: Story) -> Table:
    moments = spread(story.strategies, 7)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (name(strategy), *(share(shares.get(strategy)) for _, shares in moments))
        for strategy in by_size([shares for _, shares in story.strategies])
    )
    return Table(("strategy", *(f"{done}" for done, _ in moments)), rows, "Shares by round")


def pool(stories: Sequence[Story]) -> Section:
    """What was kept to be asked again, and which past selves were met."""
    return Section(
        id="pool", title="Experience pool and league", legend=_TURNS, figures=panels(POOL, stories)
    )


def _evidence(stories: Sequence[Story]) -> list[Section]:
    """The optional parts; with several runs each says whose it is."""
    found = [(story, part) for story in stories for part in evidence(story.folder)]
    if len(stories) == 1:
        return [part for _, part in found]
    return [
        replace(
            part,
            id=f"{part.id}{_nth(stories, story)}",
            title=f"{part.title}: {name(story.label)}",
            figures=tuple(replace(f, name=f"{f.name}{_nth(stories, story)}") for f in part.figures),
        )
        for story, part in found
    ]
