"""Schedules: who learns in a round, from its number and the metrics of the rounds before it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sparring.types import Metrics, Player, Turn

Schedule = Callable[[int, Sequence[Metrics]], Turn | None]
"""From a round's number and the metrics of all rounds before it to its turn; None ends the game."""


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


STEP, ITERATION, MEMBER = "oracle/step", "oracle/iteration", "league/attacker"
"""Metrics of an attacker's round: which of its rounds, of which attacker; and of a defender's:
which member of the league it met."""


@dataclass(frozen=True, slots=True)
class BestResponse:
    """An attacker that has had its rounds: how many rounds the run had then, and its mean ASR on
    training seeds over the last of its rounds."""

    after: int
    asr: float


@dataclass(frozen=True, slots=True)
class OracleRules:
    """After the first `after` rounds an attacker has `steps` rounds, then another one.

    The mean ASR of an attacker's last `window` rounds is its result. Above `limit` it has got
    through. The defender then plays at least `fewest` and at most `most` rounds, until it is at
    `limit` or below against every member when it last met it. The game is over when `restarts`
    attackers in a row have not got through, or where too few of `rounds` are left for another
    attacker and its answer.
    """

    after: int
    steps: int
    window: int
    limit: float
    fewest: int
    most: int
    restarts: int
    rounds: int

    def responses(self, past: Sequence[Metrics]) -> list[BestResponse]:
        """The best responses that were finished in these rounds."""
        finished, asrs = list[BestResponse](), list[float]()
        for number, metrics in enumerate(past):
            if STEP not in metrics:
                continue
            asrs = asrs if metrics[STEP] > 1 else []
            asrs += [metrics["asr"]] if "asr" in metrics else []
            if metrics[STEP] == self.steps:
                # Where the judge could score nothing, an attacker counts as one that got through.
                asr = fmean(asrs[-self.window :]) if asrs else 1.0
                finished.append(BestResponse(number + 1, asr))
        return finished

    def members(self, past: Sequence[Metrics]) -> list[int]:
        """After how many rounds each attacker of the league was kept."""
        return [response.after for response in self.responses(past) if response.asr > self.limit]

    def over(self, past: Sequence[Metrics]) -> bool:
        """Whether it is an attacker's turn to begin, and none may."""
        if len(past) < self.after or self.step(past) != 1:
            return False
        failed = [response.asr <= self.limit for response in self.responses(past)[-self.restarts :]]
        enough = len(failed) == self.restarts and all(failed)
        return enough or self.rounds - len(past) < self.steps + self.fewest

    def attacks(self, past: Sequence[Metrics]) -> bool:
        """Whether the next round is one of an attacker against the frozen defender."""
        return len(past) >= self.after and self.step(past) > 0

    def step(self, past: Sequence[Metrics]) -> int:
        """Which of its `steps` rounds the attacker has next; 0 where it is the defender's turn."""
        responses, members = self.responses(past), self.members(past)
        if past and past[-1].get(STEP, self.steps) < self.steps:
            return int(past[-1][STEP]) + 1
        if not responses or responses[-1].asr <= self.limit:
            return 1
        rounds = defended(past)
        held = {int(m[MEMBER]): m.get("asr", 1.0) <= self.limit for m in rounds}
        holds = len(rounds) >= self.fewest and all(held.get(member) for member in members)
        return 1 if holds or len(rounds) >= self.most else 0


def defended(past: Sequence[Metrics]) -> Sequence[Metrics]:
    """The rounds of the defender since the last one of an attacker."""
    attacked = max((n for n, metrics in enumerate(past) if STEP in metrics), default=-1)
    return past[attacked + 1 :]
