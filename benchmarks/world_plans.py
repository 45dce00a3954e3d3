"""What benchmarks/worlds.py plays: recipes in rows, and which of them meets which attackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Row = Sequence[str]
LATEST = "memory.league.opponents=latest"
FACTORS: Mapping[str, Row] = {
    "magic": ("magic",),
    "last_turn": ("magic", "rounds=170"),
    "both": ("magic", "schedule.kind=both", LATEST, "learner.seeds_per_round=16", "rounds=120"),
    "shared": ("magic", "weights=shared", "warm_up.chat=0.5", "warm_up.steps=375", "rounds=150"),
    "replies": ("magic", "schedule.replies_per_attack=4", "rounds=150"),
    "score": ("magic", "game.payoff=score", "game.helpfulness=0", "rounds=155"),
    "mutated": ("magic", "game.mutation=0.75"),
    "frozen": ("defender_only", "rounds=400"),
    "ssp": ("ssp", "rounds=135"),
    "ssp_separate": ("ssp", "weights=separate", "warm_up.steps=250", "rounds=135"),
    "ssp_no_pool": ("ssp", "memory.experience.sampler=none", "rounds=135"),
    "ssp_alternate": ("ssp", "schedule.kind=alternate", "schedule.every=10", "rounds=180"),
}
"""MAGIC, MAGIC with one thing of SSP's, and SSP, in the computing time of MAGIC's 160 rounds.

`last_turn`: the run ends on the defender's turn. `both`: both roles learn in every round, from a
quarter of the seeds (and without a league, which would need a turn of one player). `shared`: one
model in both roles. `replies`: four replies value an attack. `score`: SSP's payoff, without floors.
`frozen`: the warmed-up attacker does not learn. `mutated`: the defender meets changed wordings.
`ssp_…`: SSP without one thing of its own: the shared weights, the pool of failures, both roles in
every round.
"""
LONG: Mapping[str, Row] = {
    "untrained": ("magic", "rounds=0"),
    "no_game": ("no_game", "rounds=4200"),
    "defender_only": ("defender_only", "rounds=1200"),
    "self_redteam": ("self_redteam", "rounds=215"),
    "magic-long": ("magic", "rounds=470"),
    "ssp-long": ("ssp", "rounds=400"),
    "magic_hardened": ("magic_hardened", "rounds=550"),
    "ssp_hardened": ("ssp_hardened", "rounds=460"),
    "before_hardening": ("magic", "game.mutation=0.75", "rounds=300"),
    "to_its_end": ("magic_hardened",),
    "two_exchanges": ("magic_hardened", "game.exchanges=2", "rounds=550"),
}
"""Recipes in three times that time, at which hardening is cut.

`before_hardening` is the game of `magic_hardened` alone, without the attackers that follow it, in
two thirds of the time. `to_its_end` stops by hardening's own rule. `two_exchanges`, hardening in
which the attacker may answer the first reply, takes longer too.
"""
FOREIGN: Mapping[str, Row] = {"foreign": ("magic", "seed=7")}
"""Another run of `magic`, whose last attacker no row of its world has met."""
ROWS: Mapping[str, Row] = {**FACTORS, **LONG, **FOREIGN}
SEARCHES: Mapping[str, Row] = {
    "draws": ("--queries", "422"),
    "tree": ("--queries", "96"),
    **dict.fromkeys(("plain", "escalation", "prefill", "random-suffix"), ("--queries", "16")),
    "gradient": ("--queries", "16", "--gradient-steps", "3"),
}
"""Attacks that learn nothing, and their queries about each of 96 seeds.

422 draws for each are as many attacks as the enumeration plays. What a search reaches is the share
of seeds about which one of so many attacks succeeds.
"""
LONGER = "longer"
MET = ("magic/0", "magic/1", "magic/2")
OTHERS: Mapping[str, tuple[str, Row]] = {
    "informed": ("foreign", ("--imitate", "12")),
    **{row: (row, ()) for row in ROWS},
}
"""Attackers that trained in another run: its row, and more words of `transfer.py`.

`informed` is `foreign`, shown every attack that gets through of all strategies on training
requests.
"""
OUTSIDE = ("foreign/0", "foreign/1", "foreign/2", "informed/0", "broad/0", "pool/0")
REPORTED = (*OUTSIDE, "own/0", "enumeration/0", "draws/0")
PLANS: Mapping[str, Sequence[tuple[Sequence[int], Row, Row]]] = {
    "tuning": [
        (range(201, 206), (*FACTORS, "magic_hardened"), MET),
        (range(201, 204), ("magic-long", "ssp-long", "ssp_hardened"), MET),
        (range(203, 206), ("magic_hardened",), ("own/0", "broad/0")),
        ((201, 203), ("before_hardening",), MET),
        ((202, 205), ("two_exchanges",), MET),
    ],
    "reported": [
        (range(301, 311), ("magic-long", "magic_hardened"), (*REPORTED, LONGER)),
        (range(301, 306), ("untrained", "ssp-long"), (*REPORTED, LONGER)),
        (range(301, 306), ("defender_only", "self_redteam", "ssp_hardened"), REPORTED),
        (range(301, 306), ("no_game",), (*OUTSIDE, "enumeration/0", "draws/0")),
        (
            range(301, 306),
            ("untrained", "magic-long", "ssp-long", "magic_hardened"),
            [f"{name}/0" for name in SEARCHES],
        ),
        (range(301, 306), ("to_its_end",), REPORTED),
    ],
}
"""What is played for a table: worlds, rows and attacks. Worlds 301 to 310 are for no other use.

`no_game` trains no attacker, so it has none of its own.
"""
