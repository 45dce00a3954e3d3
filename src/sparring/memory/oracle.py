"""The double oracle: attackers that answer the present defender, which then learns to hold them.

McMahan, Gordon & Blum 2003 alternate best responses; PSRO (Lanctot et al. 2017, arXiv:1711.00832)
learns them. Here an attacker gets a stated number of rounds against the frozen defender. If it gets
through, it joins a league, and the defender plays its members in turn until it holds each of them.
The game is over once so many attackers in a row have failed, so the defender has the last word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.arena import Cast
from sparring.memory.memory import Opposition
from sparring.players.trainer import Trainer
from sparring.schedules import ITERATION, MEMBER, STEP, OracleRules, Schedule, defended
from sparring.types import Metrics, Player, Turn


@dataclass
class DoubleOracle(Opposition):
    """Both the schedule of a run and its league, since each follows from the recorded rounds.

    The first rounds go by the schedule and the league of the game that is hardened. Then every
    third attacker begins where the warm-up left it, and the others where the game did: an attacker
    that has been trained against a frozen defender has settled on one attack, and seldom finds
    another.
    """

    players: Mapping[Player, Trainer]
    turns: Mapping[Player, Turn]
    rules: OracleRules
    schedule: Schedule
    league: Opposition
    attacking: bool = False
    """Whether the present round is one of an attacker against the frozen defender."""

    def __call__(self, number: int, past: Sequence[Metrics]) -> Turn | None:
        """The turn of a round; None where the game is over."""
        past = past[:number]
        if number < self.rules.after:
            return self.schedule(number, past)
        if self.rules.over(past):
            return None
        return self.turns[Player.ATTACKER if self.rules.step(past) else Player.DEFENDER]

    def cast(
        self, number: int, turn: Turn, cast: Cast, past: Sequence[Metrics]
    ) -> tuple[Cast, Turn, Metrics]:
        """An attacker may begin anew; the defender meets the league's next member."""
        past = past[:number]
        self.attacking = self.rules.attacks(past)
        if number < self.rules.after:
            return self.league.cast(number, turn, cast, past)
        begun = len(self.rules.responses(past))
        if step := self.rules.step(past):
            if step == 1:
                start = 0 if begun % 3 == 2 else self.rules.after
                self.players[Player.ATTACKER].restart(start)
            return cast, turn, {STEP: float(step), ITERATION: float(begun + 1)}
        members = self.rules.members(past)
        # The newest first: it is the one that the defender has not met.
        member = members[-1 - len(defended(past)) % len(members)]
        met = {**cast, Player.ATTACKER: self.players[Player.ATTACKER].at(member)}
        return met, turn, {MEMBER: float(member)}

    def keeps(self, number: int, past: Sequence[Metrics]) -> bool:
        if number <= self.rules.after and self.league.keeps(number, past):
            return True
        return number in {0, self.rules.after, *self.rules.members(past[:number])}

    def keep(self, number: int, past: Sequence[Metrics]) -> None:
        if number < self.rules.after:
            self.league.keep(number, past)
        if self.keeps(number, past):
            self.players[Player.ATTACKER].keep(number)

    def state(self) -> dict[str, Any]:
        return self.league.state()

    def load(self, state: Mapping[str, Any], selves: Sequence[int]) -> None:
        first = [number for number in selves if number < self.rules.after]
        self.league.load(state, [n for n in first if self.league.keeps(n, ())])
