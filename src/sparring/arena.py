"""The arena: policies play a game from its openings, fork by fork, and a judge rules on it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from sparring.games.game import Game
from sparring.judges.judge import Judge
from sparring.players.player import Policy, Request
from sparring.types import JUDGE, Completion, Episode, Move, Player, State, Status, Verdict

Cast = Mapping[Player, Policy]
"""The policy that plays each side."""
Branch = tuple[int, State]
"""A game under way: the index of the opening that it grew from, and its state."""


def play(
    game: Game,
    openings: Sequence[State],
    cast: Cast,
    judge: Judge,
    widths: Mapping[Player, int],
    rng_seed: str,
) -> list[Episode]:
    """Play every opening to its end; the episodes are in the order of openings and siblings.

    A player forks into `widths[player]` siblings (1 if absent) at its first sampled move and makes
    one move at a time after it. Every completion is drawn at an address made of `rng_seed`, the
    opening, the player, the ply and the siblings so far, so the order of a batch does not matter.
    """
    named = dict(zip(opening_names(openings), openings, strict=True))
    return play_named(game, named, cast, judge, widths, rng_seed)


def play_named(
    game: Game,
    openings: Mapping[str, State],
    cast: Cast,
    judge: Judge,
    widths: Mapping[Player, int],
    rng_seed: str,
) -> list[Episode]:
    """Like `play`, with the openings' names given.

    So a subset of the openings gets the same random draws as the full set.
    """
    names = list(openings)
    live: list[Branch] = list(enumerate(openings.values()))
    finished: list[Branch] = []
    while live:
        movers = [(branch, game.to_move(branch[1])) for branch in live]
        finished += [branch for branch, mover in movers if mover is None]
        due = [branch for branch, mover in movers if mover is JUDGE]
        verdicts = judge.rule([state for _, state in due]) if due else []
        live = [(o, state.rule(verdict)) for (o, state), verdict in zip(due, verdicts, strict=True)]
        for player in Player:
            due = [branch for branch, mover in movers if mover is player]
            requests = [
                _request(game, state, player, widths.get(player, 1), f"{rng_seed}/{names[opening]}")
                for opening, state in due
            ]
            groups = cast[player].sample(requests) if due else []
            live += [
                (opening, _after(game, state, player, request, completion, sibling))
                for (opening, state), request, group in zip(due, requests, groups, strict=True)
                for sibling, completion in enumerate(group)
            ]
    finished.sort(key=lambda branch: (branch[0], branch[1].path))
    return [Episode(state, opening, _returns(game, state)) for opening, state in finished]


def opening_names(openings: Sequence[State]) -> list[str]:
    """The name of each opening in addresses; it depends on no other, but repeats are numbered."""
    repeats: dict[str, Iterator[int]] = defaultdict(count)
    names = ("/".join((o.seed.id, *(m.completion.text for m in o.moves))) for o in openings)
    return [f"{name}#{next(repeats[name])}" for name in names]


def _request(game: Game, state: State, player: Player, width: int, address: str) -> Request:
    """The request for the next move in a state, or for all its siblings if it is a first one."""
    siblings = range(width if state.first_ply(player) is None else 1)
    where = f"{address}/{player}/{len(state.moves)}/{'.'.join(map(str, state.path))}"
    return Request(game.observe(state), tuple(f"{where}/{sibling}" for sibling in siblings))


def _after(
    game: Game, state: State, player: Player, request: Request, completion: Completion, sibling: int
) -> State:
    """The state after a completion; if its policy failed, its status is the ruling."""
    failed = completion.status is not Status.OK
    sent = None if failed else game.hear(state, completion)
    after = state.play(Move(player, request.observation, completion, sent, sibling))
    return after.rule(Verdict(status=completion.status)) if failed else after


def _returns(game: Game, state: State) -> Mapping[Player, float] | None:
    """What the game pays; None where a policy could not be asked, so that no failure is paid."""
    answered = all(move.completion.status is Status.OK for move in state.moves)
    return game.returns(state) if answered else None
