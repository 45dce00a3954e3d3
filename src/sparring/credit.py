"""Rewards to advantages: what a finished round teaches one player."""

from __future__ import annotations

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
"""From the returns of every group to one affine map a group; None drops the group."""


def _centre(group: Sequence[float]) -> float:
    """The mean; of equal values exactly that value, which rounding could miss by a bit."""
    return group[0] if len(set(group)) == 1 else fmean(group)


def _spread(group: Sequence[float]) -> float:
    """Sample std (n − 1) + 1e-6; infinite where all values are equal.

    A later move may differ from its group's forks; divided by 1e-6 it would drown all others.
    """
    return inf if len(set(group)) == 1 else stdev(group) + EPSILON


def _within(group: Sequence[float], scale: Callable[[Sequence[float]], float]) -> Affine | None:
    """The map of a group that is compared with itself; one sibling alone says nothing."""
    return (_centre(group), scale(group)) if len(group) > 1 else None


def standardized(groups: Sequence[Sequence[float]]) -> list[Affine | None]:
    """GRPO, arXiv:2402.03300: (r − mean) / (std + 1e-6) in the group; sample std (n − 1)."""
    return [_within(group, _spread) for group in groups]


def centered(groups: Sequence[Sequence[float]]) -> list[Affine | None]:
    """Dr. GRPO, arXiv:2503.20783: r − mean, so that easy and hard seeds weigh alike."""
    return [_within(group, lambda told: 1.0) for group in groups]


def leave_one_out(groups: Sequence[Sequence[float]]) -> list[Affine | None]:
    """RLOO, arXiv:2402.14740: r minus the mean of the others, (r − mean) · n / (n − 1)."""
    return [_within(group, lambda told: (len(told) - 1) / len(told)) for group in groups]


def role_baseline(groups: Sequence[Sequence[float]]) -> list[Affine | None]:
    """Whitening over all of a player's samples, not per group (Self-RedTeam, arXiv:2506.07468).

    Groups of one count, so a player can learn from one sample a prompt.
    """
    everyone = [value for group in groups for value in group]
    shared = (_centre(everyone), _spread(everyone)) if len(everyone) > 1 else None
    return [shared if group else None for group in groups]


@dataclass(frozen=True, slots=True)
class Credit:
    """The samples of one player, and what became of its groups.

    `zero_std` groups are kept with advantage 0 (the learner skips them); `dropped` groups had too
    few scored siblings for the estimator; `unscored` counts siblings that left, unscored or masked.
    """

    samples: tuple[Sample, ...]
    groups: int
    zero_std: int
    dropped: int
    unscored: int


def credit(episodes: Sequence[Episode], player: Player, estimator: Estimator) -> Credit:
    """What `player` learns from a round's episodes.

    A group is the sibling forks of one state. A fork's return is the mean over the scored
    episodes that grew from it; with none it leaves the group. A later move of the player takes
    the return of its own branch under the statistics of the group it descends from.
    """
    groups = _groups(episodes, player)
    scored = [[fork for fork in group if fork.value is not None] for group in groups]
    maps = estimator([[fork.value for fork in g if fork.value is not None] for g in scored])
    kept = [(g, told) for g, told in zip(scored, maps, strict=True) if told is not None]
    taught = [_samples(player, group, *told) for group, told in kept]
    return Credit(
        samples=tuple(sample for samples in taught for sample in samples),
        groups=len(groups),
        zero_std=sum(not any(sample.advantage for sample in samples) for samples in taught),
        dropped=len(groups) - len(kept),
        unscored=sum(map(len, groups)) - sum(map(len, scored)),
    )


def _samples(player: Player, group: Sequence[_Fork], centre: float, scale: float) -> list[Sample]:
    return [
        Sample(player, move.completion, (value - centre) / scale)
        for fork in group
        for move, value in fork.moves()
    ]


@dataclass(frozen=True, slots=True)
class _Fork:
    """One sibling: the player's move at `ply` and all episodes that grew from it."""

    player: Player
    ply: int
    episodes: tuple[Episode, ...]

    @property
    def value(self) -> float | None:
        return _mean_return(self.episodes, self.player)

    def moves(self) -> list[tuple[Move, float]]:
        """Every distinct move of the player in this branch with its own branch's return."""
        by_path: dict[tuple[int, ...], list[Episode]] = defaultdict(list)
        for episode in self.episodes:
            for ply, move in enumerate(episode.state.moves[self.ply :], self.ply):
                if move.player is self.player:
                    by_path[episode.state.path[: ply + 1]].append(episode)
        told = [(path, _mean_return(grown, self.player)) for path, grown in by_path.items()]
        return [
            (by_path[path][0].state.moves[len(path) - 1], value)
            for path, value in told
            if value is not None
        ]


def _mean_return(episodes: Sequence[Episode], player: Player) -> float | None:
    values = [e.returns[player] for e in episodes if e.returns and player in e.returns]
    return fmean(values) if values else None


def _groups(episodes: Sequence[Episode], player: Player) -> list[list[_Fork]]:
    """The player's forks, by the state they are siblings of."""
    forks: dict[tuple[int, tuple[int, ...]], list[Episode]] = defaultdict(list)
    for episode in episodes:
        ply = episode.state.first_ply(player)
        if ply is not None:
            forks[episode.opening, episode.state.path[: ply + 1]].append(episode)
    groups: dict[tuple[int, tuple[int, ...]], list[_Fork]] = defaultdict(list)
    for (opening, path), grown in forks.items():
        groups[opening, path[:-1]].append(_Fork(player, len(path) - 1, tuple(grown)))
    return list(groups.values())
