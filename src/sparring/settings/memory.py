"""What a run remembers: failures to revisit, past selves to meet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sparring.settings.base import Model


class ExperienceSettings(Model):
    """The experience pool: failures to revisit (docs/ssp.md)."""

    sampler: Literal["none", "uniform", "ucb", "thompson"] = Field(
        "none", description="how replays are drawn; none: no pool"
    )
    capacity: int = Field(10_000, ge=1, description="entries; the best defended leave first")
    ucb_c: float = Field(0.5, ge=0, description="ucb: weight of the term for rare visits")
    replay_share: float = Field(0.25, ge=0, lt=1, description="of the defender's groups, at most")
    reexamine: float = Field(0.1, ge=0, le=1, description="share of replays spent on retired ones")
    admit_below: float = Field(0.5, ge=0, le=1, description="mean defence that admits an attack")
    retire_at: float = Field(0.9, ge=0, le=1, description="mean defence that retires one")
    retire_after: int = Field(2, ge=1, description="fewest visits before it may retire")
    reflect: bool = Field(
        False, description="half of a replay group first sees its earlier reply and the ruling"
    )


class LeagueSettings(Model):
    """Past selves as opponents."""

    opponents: Literal["latest", "uniform", "nash"] = Field(
        "latest", description="the present one | any past self | by the cross-play's equilibrium"
    )
    share: float = Field(0.5, ge=0, le=1, description="of rounds that meet a past self")
    keep_every: int = Field(20, ge=1, description="rounds between kept selves")
    trials: int = Field(48, ge=1, description="nash: games of a cell of the matrix")


class MemorySettings(Model):
    """What a run remembers."""

    experience: ExperienceSettings = ExperienceSettings()
    league: LeagueSettings = LeagueSettings()
