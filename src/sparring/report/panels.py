"""Which figures over rounds a page has: the metrics of each, their names, and how to read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One small figure: live metrics as (name, label), and a rate of the exams beside them.

    `share`: the values lie between 0 and 1. `dots`: points that are no curve.
    """

    name: str
    title: str
    live: tuple[tuple[str, str], ...]
    exam: str = ""
    caption: str = ""
    share: bool = True
    dots: bool = False


PANELS = (
    Panel(
        "asr",
        "Attack success (ASR)",
        live=(("asr", "live"),),
        exam="asr",
        caption="Live: the round's attacker against its defender (in a league sometimes a past "
        "self), so it moves with both. "
        "Exam: fixed attacks on held-out seeds, with 95 % intervals.",
    ),
    Panel(
        "over-refusal",
        "Over-refusal of benign seeds",
        live=(("over_refusal", "live"),),
        exam="over_refusal",
        caption="A low ASR beside a high over-refusal is a broken assistant.",
    ),
    Panel(
        "correct",
        "Benign seeds answered correctly",
        live=(("correct", "live"),),
        exam="correct",
        caption="The reply holds what the seed asked for, and nothing else.",
    ),
    Panel(
        "format",
        "Attacks that parse, and stay faithful",
        live=(("parsed", "parsed"), ("faithful", "faithful")),
        caption="Parsed: the attacker kept its format. Faithful: the rewrite still asks for the "
        "seed's content.",
    ),
    Panel(
        "diversity",
        "Diversity of attacks",
        live=(
            ("diversity", "1 − mean cosine"),
            ("self_bleu", "self-BLEU"),
            ("strategy_entropy", "strategy entropy"),
        ),
        caption="Among sibling attacks, so only where the attacker forked. Self-BLEU rises where "
        "the others fall: towards a few attacks.",
        share=False,
    ),
    Panel(
        "unscored",
        "Unscored share",
        live=(("unscored", "live"),),
        exam="unscored",
        caption="Games that the judge could not tell; they teach nothing.",
    ),
)
POOL = (
    Panel(
        "pool-size",
        "Experience pool",
        live=(("replay/size", "size"), ("replay/asleep", "retired")),
        caption="Failures kept to be asked again; retired ones sleep.",
        share=False,
    ),
    Panel("pool-visits", "Visits", live=(("replay/visits", "visits"),), share=False),
    Panel("pool-share", "Share of replayed openings", live=(("replay/share", "replayed"),)),
    Panel(
        "league",
        "League: which past self played",
        live=(("league/attacker", "attacker"), ("league/defender", "defender")),
        caption="The round that a past self stems from; no dot: the present one played.",
        share=False,
        dots=True,
    ),
)
