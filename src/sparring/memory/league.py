"""The league: every kept attacker and defender, and which past self a round is played against.

Playing only the latest opponent forgets the earlier ones. A league's opponents are drawn from all
of them: `uniform` (fictitious self-play, Heinrich et al. 2015) or by the equilibrium of their
cross-play matrix (PSRO, Lanctot et al. 2017, arXiv:1711.00832).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparring.arena import Cast
from sparring.exam import Trial, crossplay
from sparring.games.matrix import zero_sum
from sparring.memory.memory import Opposition
from sparring.players.trainer import Trainer
from sparring.types import Metrics, Player, Turn

Matrix = Mapping[tuple[int, int], float]
"""By (row, column), the ASR of the attacker kept after `row` rounds against the defender kept after
`column`."""
Crossed = Callable[[], Matrix]
"""Plays the cross-play matrix of all kept selves, as far as it was not played before."""
Opponents = Callable[[Player, Sequence[int], Crossed], Mapping[int, float]]
"""(the player to replace, its kept selves, what plays their matrix) → the selves' chances."""


def uniform(player: Player, selves: Sequence[int], play_matrix: Crossed) -> Mapping[int, float]:
    """Every kept self is equally likely."""
    return dict.fromkeys(selves, 1.0)


def nash(player: Player, selves: Sequence[int], play_matrix: Crossed) -> Mapping[int, float]:
    """The player's mixture at the equilibrium of the zero-sum game that the matrix holds.

    Over the selves whose cells were all scored; where there are none, every self alike.
    """
    paid = play_matrix()
    order = [s for s in sorted(selves) if all({(s, o), (o, s)} <= paid.keys() for o in selves)]
    if not order:
        return uniform(player, selves, play_matrix)
    rows, columns, _ = zero_sum([[paid[a, d] for d in order] for a in order])
    return dict(zip(order, rows if player is Player.ATTACKER else columns, strict=True))


@dataclass
class League(Opposition):
    """A past self stands in for a player that does not learn in a round.

    A share of rounds, drawn by address, is played against one past self. Where both players
    would learn, a coin decides who is replaced, and only the other one learns in that round.
    Cells of the matrix are played when a draw first needs them; one in which the judge could
    score nothing stays empty, and is played again. Only the numbers of past selves are held here:
    each player reads its own weights back when it plays.
    """

    players: Mapping[Player, Trainer]
    opponents: Opponents
    trial: Trial
    every: int
    share: float
    rng_seed: str
    selves: list[int] = field(default_factory=list)
    matrix: dict[tuple[int, int], float] = field(default_factory=dict)

    def cast(
        self, number: int, turn: Turn, cast: Cast, past: Sequence[Metrics]
    ) -> tuple[Cast, Turn, Metrics]:
        """The cast with one past self in it, if this is such a round."""
        rng = random.Random(f"{self.rng_seed}/{number}")
        if not self.selves or rng.random() >= self.share:
            return cast, turn, {}
        replaced = rng.choice([p for p in Player if turn.learns != {p}])
        chances = self.opponents(replaced, self.selves, self.crossed)
        drawn = rng.choices(list(chances), list(chances.values()))[0]
        present = replace(turn, learns=turn.learns - {replaced})
        metrics = {f"league/{replaced}": float(drawn)}
        return {**cast, replaced: self.players[replaced].at(drawn)}, present, metrics

    def keeps(self, number: int, past: Sequence[Metrics]) -> bool:
        return number % self.every == 0

    def keep(self, number: int, past: Sequence[Metrics]) -> None:
        if self.keeps(number, past):
            for trainer in {id(trainer): trainer for trainer in self.players.values()}.values():
                trainer.keep(number)
            self.selves.append(number)

    def crossed(self) -> Matrix:
        """The matrix over all kept selves; plays what is missing."""
        attackers, defenders = (
            {number: self.players[player].at(number) for number in self.selves} for player in Player
        )
        for row, column, asr in crossplay(self.trial, attackers, defenders, skip=self.matrix):
            if asr.value is not None:
                self.matrix[row, column] = asr.value
        return self.matrix

    def state(self) -> dict[str, Any]:
        """The matrix as JSON can hold it; the selves are the run's kept checkpoints."""
        return {"matrix": [[*cell, value] for cell, value in sorted(self.matrix.items())]}

    def load(self, state: Mapping[str, Any], selves: Sequence[int]) -> None:
        """Go on from what `state()` returned, `selves` says after how many rounds each was kept."""
        self.selves = list(selves)
        self.matrix = {(row, column): value for row, column, value in state["matrix"]}
