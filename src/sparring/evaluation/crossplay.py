"""Past attackers against past defenders: ASR in every cell, by the clean outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from sparring.arena import play
from sparring.evaluation.exam import outcome
from sparring.evaluation.metrics import succeeded
from sparring.evaluation.rates import Rate, rate
from sparring.games.game import Game
from sparring.judges.judge import Judge
from sparring.policies.policy import Policy, Request
from sparring.types import Completion, Player, State

Seat = Callable[[], AbstractContextManager[Policy]]
"""Opens a past player for the length of a block."""


@dataclass(frozen=True, slots=True)
class Seated:
    """A past player that takes its seat to speak, and leaves it to the next one.

    Players that share weights cannot sit at one time.
    """

    seat: Seat

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        with self.seat() as policy:
            return policy.sample(requests)


@dataclass(frozen=True, slots=True)
class Remembered:
    """A policy that is asked nothing twice: what it has said once, it says again."""

    policy: Policy
    said: dict[Request, list[Completion]] = field(default_factory=dict)

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        new = [request for request in requests if request not in self.said]
        if new:
            self.said.update(zip(new, self.policy.sample(new), strict=True))
        return [self.said[request] for request in requests]


def crossplay(
    game: Game,
    openings: Sequence[State],
    attackers: Mapping[str, Seat],
    defenders: Mapping[str, Seat],
    judge: Judge,
    rng_seed: str,
) -> Iterator[tuple[str, str, Rate]]:
    """Yield (attacker, defender, ASR) for every pair; harmful openings only.

    An attacker meets every defender with the same first attacks, drawn once at addresses that do
    not depend on the defender. What it says to a reply is drawn live.
    """
    for row, seat in attackers.items():
        attacker = Remembered(Seated(seat))
        for column, other in defenders.items():
            cast: dict[Player, Policy] = {
                Player.ATTACKER: attacker,
                Player.DEFENDER: Seated(other),
            }
            episodes = play(game, openings, cast, judge, {}, rng_seed)
            yield row, column, rate([outcome(e.state, succeeded) for e in episodes])
