"""Past attackers against past defenders: ASR in every cell, by the clean outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sparring.arena import Cast, play
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
class Recorded:
    """A policy that says again what another one said, so each attacker speaks once per row."""

    said: Mapping[Request, list[Completion]]

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
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

    An attacker meets every defender with the same attacks, drawn once at addresses that do not
    depend on the defender.
    """
    for row, seat in attackers.items():
        with seat() as attacker:
            recorder = _Recorder(attacker, {})
            first: Cast = {Player.ATTACKER: recorder, Player.DEFENDER: _Mute()}
            play(game, openings, first, judge, {}, rng_seed)
        for column, other in defenders.items():
            with other() as defender:
                cast = {Player.ATTACKER: Recorded(recorder.said), Player.DEFENDER: defender}
                episodes = play(game, openings, cast, judge, {}, rng_seed)
            yield row, column, rate([outcome(e.state, succeeded) for e in episodes])


@dataclass(frozen=True, slots=True)
class _Recorder:
    policy: Policy
    said: dict[Request, list[Completion]]

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        replies = self.policy.sample(requests)
        self.said.update(zip(requests, replies, strict=True))
        return replies


class _Mute:
    """Answers nothing, at no cost: stands in while attacks are recorded."""

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return [[Completion("") for _ in request.addresses] for request in requests]
