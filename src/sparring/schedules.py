"""Whose turn it is: pure functions of the round number and the metrics of past rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from sparring.types import Metrics, Player, Turn

Schedule = Callable[[int, Sequence[Metrics]], Turn]
"""(round number, metrics of rounds 0 … number − 1) → who learns and how wide."""


def solo(player: Player, num_generations: int, replies_per_attack: int = 1) -> Turn:
    """One player learns: the defender from G replies, the attacker from G attacks x K replies."""
    if player is Player.DEFENDER:
        widths: Mapping[Player, int] = {Player.ATTACKER: 1, Player.DEFENDER: num_generations}
    else:
        widths = {Player.ATTACKER: num_generations, Player.DEFENDER: replies_per_attack}
    return Turn(frozenset({player}), widths)


def always(turn: Turn) -> Schedule:
    """The same turn every round: SSP's, or a run in which only one player learns."""
    return lambda number, past: turn


def alternate(turns: Mapping[Player, Turn], every: Mapping[Player, int]) -> Schedule:
    """Blocks of `every[player]` rounds in turn, defender first (MAGIC: 15 and 15)."""
    first = every[Player.DEFENDER]
    cycle = first + every[Player.ATTACKER]

    def turn(number: int, past: Sequence[Metrics]) -> Turn:
        return turns[Player.DEFENDER if number % cycle < first else Player.ATTACKER]

    return turn


def by_metric(
    turns: Mapping[Player, Turn],
    limits: tuple[float, float] = (0.8, 0.9),
    window: int = 3,
    dwell: tuple[int, int] = (3, 30),
) -> Schedule:
    """Switch when the defence is good enough, and back when it is not.

    The watched number is the mean over `window` rounds of 1 − `asr` (harmful seeds only). The
    defender hands over at >= limits[1], the attacker at <= limits[0]; nobody stays fewer than
    dwell[0] or more than dwell[1] rounds. Rounds against a past self (`league/…`) say nothing of
    the present ones and do not count. The window is cleared at a switch. The state is recomputed
    from the recorded rounds, so a resumed run switches where the whole one did.
    """
    low, high = limits
    shortest, longest = dwell

    def turn(number: int, past: Sequence[Metrics]) -> Turn:
        player, since, seen = Player.DEFENDER, 0, list[float]()
        for metrics in past[:number]:
            since += 1
            present = not any(name.startswith("league/") for name in metrics)
            seen += [1 - metrics["asr"]] if "asr" in metrics and present else []
            held = fmean(seen[-window:]) if len(seen) >= window else None
            defended = held is not None and held >= high and player is Player.DEFENDER
            broken = held is not None and held <= low and player is Player.ATTACKER
            if since >= longest or (since >= shortest and (defended or broken)):
                player = _other(player)
                since, seen = 0, []
        return turns[player]

    return turn


def _other(player: Player) -> Player:
    return Player.ATTACKER if player is Player.DEFENDER else Player.DEFENDER
