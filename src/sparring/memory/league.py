"""The league: every kept attacker and defender, and which past self a round is played against.

Playing only the latest opponent forgets the earlier ones. A league's opponents are drawn from all
of them: `uniform` (fictitious self-play, Heinrich et al. 2015) or by the equilibrium of their
cross-play matrix (PSRO, Lanctot et al. 2017, arXiv:1711.00832).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sparring.arena import Cast
from sparring.exam import Seat, crossplay
from sparring.games.game import Game
from sparring.games.matrix import zero_sum
from sparring.judges.judge import Judge
from sparring.players.player import Past, Speaker
from sparring.players.weights import Tensors
from sparring.types import Metrics, Player, State, Turn

Matrix = Mapping[int, Mapping[int, float]]
"""ASR of the attacker kept after `row` rounds against the defender kept after `column`."""
Opponents = Callable[[Player, Sequence[int], Callable[[], Matrix]], Mapping[int, float]]
"""(the seat to fill, the kept selves, their cross-play matrix if asked for) → their chances."""


def uniform(
    player: Player, selves: Sequence[int], matrix: Callable[[], Matrix]
) -> Mapping[int, float]:
    """Every kept self alike."""
    return dict.fromkeys(selves, 1.0)


def nash(
    player: Player, selves: Sequence[int], matrix: Callable[[], Matrix]
) -> Mapping[int, float]:
    """The player's mixture at the equilibrium of the zero-sum game that the matrix pays.

    Over the selves whose cells could all be told; where there are none, every self alike.
    """
    paid = matrix()
    order = [s for s in sorted(selves) if all(o in paid[s] and s in paid[o] for o in selves)]
    if not order:
        return uniform(player, selves, matrix)
    rows, columns, _ = zero_sum([[paid[a][d] for d in order] for a in order])
    return dict(zip(order, rows if player is Player.ATTACKER else columns, strict=True))


class Opposition(Protocol):
    """Who sits where in a round, and which present selves are kept for later rounds."""

    def cast(self, number: int, turn: Turn, cast: Cast) -> tuple[Cast, Turn, Metrics]:
        """The round's cast and who still learns in it; metrics start with `league/`."""
        ...

    def keeps(self, number: int) -> bool:
        """Whether the selves after `number` rounds are wanted later."""
        ...

    def keep(self, number: int) -> None:
        """Called before round `number`: keeps the selves after `number` rounds if they are."""
        ...

    def state(self) -> dict[str, Any]:
        """What is known of the kept selves, as JSON can hold it; their weights lie elsewhere."""
        ...

    def load(self, told: Mapping[str, Any], selves: Mapping[int, Mapping[Player, Tensors]]) -> None:
        """Take up where `state()` was taken, with the weights of the kept selves."""
        ...


class Latest:
    """No league: everybody meets the present opponent."""

    def cast(self, number: int, turn: Turn, cast: Cast) -> tuple[Cast, Turn, Metrics]:
        return cast, turn, {}

    def keeps(self, number: int) -> bool:
        return False

    def keep(self, number: int) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, told: Mapping[str, Any], selves: Mapping[int, Mapping[Player, Tensors]]) -> None:
        return None


@dataclass(frozen=True)
class Trial:
    """How kept selves are measured against each other: the clean outcome, never the reward."""

    game: Game
    judge: Judge
    openings: Sequence[State]
    rng_seed: str


@dataclass
class League:
    """Past selves in the seats of those who do not learn; an `Opposition`.

    A share of rounds, drawn by address, is played against one past self. Where both players
    would learn, a coin decides who is replaced, and only the other one learns in that round.
    Cells of the matrix are played when a draw first asks for them; one in which the judge could
    tell nothing stays empty, and is played again.
    """

    policies: Mapping[Player, Speaker]
    opponents: Opponents
    trial: Trial
    every: int
    share: float
    rng_seed: str
    selves: dict[int, Mapping[Player, Tensors]] = field(default_factory=dict)
    matrix: dict[int, dict[int, float]] = field(default_factory=dict)

    def cast(self, number: int, turn: Turn, cast: Cast) -> tuple[Cast, Turn, Metrics]:
        """The cast with one past self in it, if this is such a round."""
        rng = random.Random(f"{self.rng_seed}/{number}")
        if not self.selves or rng.random() >= self.share:
            return cast, turn, {}
        replaced = rng.choice([p for p in Player if turn.learns != {p}])
        chances = self.opponents(replaced, list(self.selves), self.crossed)
        met = rng.choices(list(chances), list(chances.values()))[0]
        past = Past(self.policies[replaced], self.selves[met][replaced])
        learns = turn.learns - {replaced}
        told = {f"league/{replaced}": float(met)}
        return {**cast, replaced: past}, replace(turn, learns=learns), told

    def keeps(self, number: int) -> bool:
        return number % self.every == 0

    def keep(self, number: int) -> None:
        if self.keeps(number):
            self.selves[number] = {p: told.weights.snapshot() for p, told in self.policies.items()}

    def crossed(self) -> Matrix:
        """The matrix over all kept selves; plays what is missing."""
        for row in self.selves:
            known = self.matrix.setdefault(row, {})
            missing = [column for column in self.selves if column not in known]
            if not missing:
                continue
            cells = crossplay(
                self.trial.game,
                self.trial.openings,
                {str(row): self._seat(Player.ATTACKER, row)},
                {str(column): self._seat(Player.DEFENDER, column) for column in missing},
                self.trial.judge,
                self.trial.rng_seed,
            )
            told = {int(column): asr.value for _, column, asr in cells}
            known |= {column: value for column, value in told.items() if value is not None}
        return self.matrix

    def _seat(self, player: Player, number: int) -> Seat:
        return lambda: nullcontext(Past(self.policies[player], self.selves[number][player]))

    def state(self) -> dict[str, Any]:
        """The matrix as JSON can hold it; the selves are the run's kept checkpoints."""
        return {"matrix": [[a, d, v] for a, row in self.matrix.items() for d, v in row.items()]}

    def load(self, told: Mapping[str, Any], selves: Mapping[int, Mapping[Player, Tensors]]) -> None:
        """Take up where `state()` was taken, with the weights of the kept checkpoints."""
        self.selves, self.matrix = dict(selves), {}
        for row, column, value in told["matrix"]:
            self.matrix.setdefault(row, {})[column] = value
