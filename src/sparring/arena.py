"""Policies meet under rules: forks, waves and rulings; nothing here knows what a game pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparring.games.game import Game
from sparring.judges.judge import Judge
from sparring.players.player import Policy, Request
from sparring.types import JUDGE, Completion, Episode, Move, Player, State, Status, Verdict

Cast = Mapping[Player, Policy]


@dataclass(frozen=True, slots=True)
class Branch:
    """A game under way: which opening it grew from, and how far it is."""

    opening: int
    state: State


def play(
    game: Game,
    openings: Sequence[State],
    cast: Cast,
    judge: Judge,
    widths: Mapping[Player, int],
    rng_seed: str,
) -> list[Episode]:
    """Play every opening to its end and settle it, in the order of openings and siblings.

    A player forks into `widths[player]` siblings (1 if absent) at its first undealt move and
    plays on with one. Every completion is drawn at an address made of `rng_seed`, the opening,
    the player, the ply and the siblings so far; the order of the batch does not matter.
    """
    named = dict(zip(names_of(openings), openings, strict=True))
    return play_named(game, named, cast, judge, widths, rng_seed)


def play_named(
    game: Game,
    named: Mapping[str, State],
    cast: Cast,
    judge: Judge,
    widths: Mapping[Player, int],
    rng_seed: str,
) -> list[Episode]:
    """`play` where the openings have their names already: some of a larger set play as in it."""
    names = list(named)
    live = [Branch(i, state) for i, state in enumerate(named.values())]
    over: list[Branch] = []
    while live:
        due = [game.to_move(branch.state) for branch in live]
        over += [branch for branch, who in zip(live, due, strict=True) if who is None]
        moved = _ruled(judge, [b for b, who in zip(live, due, strict=True) if who is JUDGE])
        for player in Player:
            mine = [b for b, who in zip(live, due, strict=True) if who is player]
            if mine:
                asked = [
                    _request(game, branch, player, widths, f"{rng_seed}/{names[branch.opening]}")
                    for branch in mine
                ]
                moved += _moved(game, cast[player], player, mine, asked)
        live = moved
    over.sort(key=lambda branch: (branch.opening, branch.state.path))
    return [Episode(b.state, b.opening, _returns(game, b.state)) for b in over]


def _returns(game: Game, state: State) -> Mapping[Player, float] | None:
    """What the game pays; nothing where a policy could not be asked, so that no failure is paid."""
    asked = all(move.completion.status is Status.OK for move in state.moves)
    return game.returns(state) if asked else None


def names_of(openings: Sequence[State]) -> list[str]:
    """A name for each opening that does not depend on the others, but for exact repeats."""
    seen: Counter[str] = Counter()
    names: list[str] = []
    for state in openings:
        told = name(state)
        names.append(f"{told}#{seen[told]}")
        seen[told] += 1
    return names


def name(opening: State) -> str:
    """What an opening is called in the addresses below it: its seed and what was dealt."""
    return "/".join((opening.seed.id, *(move.completion.text for move in opening.moves)))


def _request(
    game: Game, branch: Branch, player: Player, widths: Mapping[Player, int], rng_seed: str
) -> Request:
    state = branch.state
    width = widths.get(player, 1) if state.first_ply(player) is None else 1
    ply, path = len(state.moves), ".".join(map(str, state.path))
    where = f"{rng_seed}/{player}/{ply}/{path}"
    return Request(game.observe(state), tuple(f"{where}/{k}" for k in range(width)))


def _moved(
    game: Game,
    policy: Policy,
    player: Player,
    branches: Sequence[Branch],
    requests: Sequence[Request],
) -> list[Branch]:
    completions = policy.sample(requests)
    return [
        Branch(branch.opening, _after(game, branch.state, player, request, completion, sibling))
        for branch, request, group in zip(branches, requests, completions, strict=True)
        for sibling, completion in enumerate(group)
    ]


def _after(
    game: Game, state: State, player: Player, request: Request, completion: Completion, sibling: int
) -> State:
    """The state after one completion; where the policy could not be asked, its status rules."""
    failed = completion.status is not Status.OK
    sent = None if failed else game.hear(state, completion)
    after = state.play(Move(player, request.observation, completion, sent, sibling))
    return after.rule(Verdict(status=completion.status)) if failed else after


def _ruled(judge: Judge, branches: Sequence[Branch]) -> list[Branch]:
    if not branches:
        return []
    verdicts = judge.rule([branch.state for branch in branches])
    return [
        Branch(branch.opening, branch.state.rule(verdict))
        for branch, verdict in zip(branches, verdicts, strict=True)
    ]
