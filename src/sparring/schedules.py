"""Schedules: who learns in a round, from its number and the metrics of the rounds before it."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from sparring.types import Metrics, Player, Turn

Schedule = Callable[[int, Sequence[Metrics]], Turn]
"""From a round's number and the metrics of all rounds before it to its turn."""


def solo(player: Player, num_generations: int, replies_per_attack: int = 1) -> Turn:
    """One player learns: the defender from G replies, the attacker from G attacks x K replies."""
    attacks, replies = num_generations, replies_per_attack
    if player is Player.DEFENDER:
        attacks, replies = 1, num_generations
    return Turn(frozenset({player}), {Player.ATTACKER: attacks, Player.DEFENDER: replies})


def always(turn: Turn) -> Schedule:
    """The same turn every round, as in SSP, or in a run that trains one player."""
    return lambda number, past: turn


def alternate(turns: Mapping[Player, Turn], every: Mapping[Player, int]) -> Schedule:
    """`every[player]` rounds of each player in turn, the defender first (MAGIC: 15 and 15)."""
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
    """Train the defender until the defence is good enough, then the attacker until it is not.

    The defence is the mean over `window` rounds of 1 − `asr`. The defender's turn ends when it is
    at least limits[1], the attacker's when it is at most limits[0]; a turn takes at least dwell[0]
    and at most dwell[1] rounds. Rounds against a past self (`league/…`) do not count, and the
    window is cleared at a switch. All is computed from the recorded rounds, so a resumed run
    switches where the whole run did.
    """
    low, high = limits
    shortest, longest = dwell

    def turn(number: int, past: Sequence[Metrics]) -> Turn:
        player, rounds, defences = Player.DEFENDER, 0, list[float]()
        for metrics in past[:number]:
            rounds += 1
            present = not any(name.startswith("league/") for name in metrics)
            defences += [1 - metrics["asr"]] if "asr" in metrics and present else []
            defence = fmean(defences[-window:]) if len(defences) >= window else None
            defends = player is Player.DEFENDER
            done = defence is not None and (defence >= high if defends else defence <= low)
            if rounds >= longest or (rounds >= shortest and done):
                player = Player.ATTACKER if defends else Player.DEFENDER
                rounds, defences = 0, []
        return turns[player]

    return turn
