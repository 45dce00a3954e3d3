"""From returns to advantages: the samples that one player learns from in a finished round."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean, stdev

from sparring.types import Episode, Move, Player, Sample

EPSILON = 1e-6

Affine = tuple[float, float]
"""(centre, scale): an advantage is (return − centre) / scale."""
Estimator = Callable[[Sequence[Sequence[float]]], Sequence[Affine | None]]
"""From the returns of every group to the affine map of each group; None drops the group."""
Fork = list[Episode]
"""One sibling of a group: all episodes that grew from one move."""
Place = tuple[int, tuple[int, ...]]
"""A move's place in a round: the index of its opening, and the siblings that lead to it."""


def _centre(group: Sequence[float]) -> float:
    """The mean; of equal values exactly that value, where rounding could be off by a bit."""
    return group[0] if len(set(group)) == 1 else fmean(group)


def _spread(group: Sequence[float]) -> float:
    """Sample std (n − 1) + 1e-6; infinite where all values are equal.

    A later move may differ from its group's forks: divided by 1e-6 its advantage would drown all
    others.
    """
    return inf if len(set(group)) == 1 else stdev(group) + EPSILON


def _within(group: Sequence[float], scale_of: Callable[[Sequence[float]], float]) -> Affine | None:
    """The map of a group that is compared with itself, which takes at least two siblings."""
    return (_centre(group), scale_of(group)) if len(group) > 1 else None


def standardized(groups: Sequence[Sequence[float]]) -> list[Affine | None]:
    """GRPO, arXiv:2402.03300: (r − mean) / (std + 1e-6) in the group; sample std (n − 1)."""
    return [_within(group, _spread) for group in groups]


def centered(groups: Sequence[Sequence[float]]) -> list[Affine | None]:
    """Dr. GRPO, arXiv:2503.20783: r − mean, so that easy and hard seeds have the same weight."""
    return [_within(group, lambda values: 1.0) for group in groups]


def leave_one_out(groups: Sequence[Sequence[float]]) -> list[Affine | None]:
    """RLOO, arXiv:2402.14740: r minus the mean of the others, (r − mean) · n / (n − 1)."""
    return [_within(group, lambda values: (len(values) - 1) / len(values)) for group in groups]


def role_baseline(groups: Sequence[Sequence[float]]) -> list[Affine | None]:
    """Whitening over all of a player's samples, not per group (Self-RedTeam, arXiv:2506.07468).

    Groups of one sibling count too, so a player can learn from one sample a prompt.
    """
    values = [value for group in groups for value in group]
    shared = _within(values, _spread)
    return [shared if group else None for group in groups]


@dataclass(frozen=True, slots=True)
class Credit:
    """The samples of one player, and what became of its groups.

    `zero_std` counts groups whose advantages are all 0 (the learner skips their samples), `dropped`
    groups with too few scored siblings for the estimator, and `unscored` the siblings that left
    their group because every game that grew from them is unscored or masked.
    """

    samples: tuple[Sample, ...]
    groups: int
    zero_std: int
    dropped: int
    unscored: int


def credit(episodes: Sequence[Episode], player: Player, estimator: Estimator) -> Credit:
    """The samples that `player` learns from in a round's episodes.

    A group is the sibling forks of one state. A fork's return is the mean over the scored
    episodes that grew from it; with none it leaves the group. A later move of the player takes
    the return of its own branch under the statistics of the group it descends from.
    """
    groups = _groups(episodes, player)
    scored = [
        [(fork, value) for fork in group if (value := _mean_return(fork, player)) is not None]
        for group in groups
    ]
    maps = estimator([[value for _, value in group] for group in scored])
    credited = [
        [
            Sample(player, move.completion, (value - affine[0]) / affine[1])
            for fork, _ in group
            for move, value in _moves(fork, player)
        ]
        for group, affine in zip(scored, maps, strict=True)
        if affine is not None
    ]
    return Credit(
        samples=tuple(sample for group in credited for sample in group),
        groups=len(groups),
        zero_std=sum(not any(sample.advantage for sample in group) for group in credited),
        dropped=len(groups) - len(credited),
        unscored=sum(map(len, groups)) - sum(map(len, scored)),
    )


def _groups(episodes: Sequence[Episode], player: Player) -> list[list[Fork]]:
    """The player's forks, by the state that they are siblings of."""
    groups: dict[Place, dict[int, Fork]] = defaultdict(lambda: defaultdict(list))
    for episode in episodes:
        ply = episode.state.first_ply(player)
        if ply is not None:
            path = episode.state.path
            groups[episode.opening, path[:ply]][path[ply]].append(episode)
    return [list(group.values()) for group in groups.values()]


def _moves(fork: Fork, player: Player) -> list[tuple[Move, float]]:
    """Every distinct move that the player sampled in a fork, with the return of its own branch."""
    branches: dict[Place, list[Episode]] = defaultdict(list)
    for episode in fork:
        for ply, move in enumerate(episode.state.moves):
            if move.player is player and ply >= episode.state.dealt:
                branches[episode.opening, episode.state.path[: ply + 1]].append(episode)
    returns = [(path, grown, _mean_return(grown, player)) for (_, path), grown in branches.items()]
    return [
        (grown[0].state.moves[len(path) - 1], value)
        for path, grown, value in returns
        if value is not None
    ]


def _mean_return(episodes: Sequence[Episode], player: Player) -> float | None:
    values = [e.returns[player] for e in episodes if e.returns and player in e.returns]
    return fmean(values) if values else None
