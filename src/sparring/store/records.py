"""What stands in a run's files: each record is written and read by the same model."""

import sys
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
from pydantic import Field, PlainValidator, StrictInt

from sparring.door import checked, read_json
from sparring.stats.bound import Limit
from sparring.stats.rates import Rate
from sparring.store.files import dumps, write_atomic
from sparring.types import Player


def _finite(number: float) -> float:
    if type(number) not in (int, float) or not abs(number) <= sys.float_info.max:
        raise ValueError("wanted a finite number")
    return number


Number = Annotated[int | float, PlainValidator(_finite)]
"""A finite number that stays the integer or the float that it was."""
Count = Annotated[StrictInt, Field(ge=0, le=2**53)]
Rates = dict[str, Rate]
"""Rates by `metric/set`, or by whatever else they are rates of."""
Costs = dict[str, dict[str, Number]]
"""What each judge cost: calls, tokens and so on, by the judge's part."""


class Record(pydantic.BaseModel):
    """One record on disk. Fields that this version does not know are kept as they are."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """Return what is written: the fields that were set, without optional ones that are None."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.model_dump(exclude_unset=True).items()
            if value is not None or name not in fields or fields[name].default is not None
        }

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record that a file holds; CorruptError names the file and the field."""
        return checked(cls, read_json(path), path)

    @classmethod
    def read_if_there(cls, path: Path) -> Self | None:
        """Return what `read` does, or None where there is no such file."""
        return cls.read(path) if path.exists() else None

    def write(self, path: Path) -> None:
        """Write the record as one line of JSON, in one step; makes the folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, dumps(self.to_json()))


class RunStatus(Record):
    """run.json: how a run or an evaluation stands, and since when (ISO 8601 with the zone)."""

    status: str
    time: str


class Environment(Record):
    """env.json: the versions and the machine that a run was begun with."""

    python: str
    system: str
    cpus: int | None
    versions: dict[str, str]
    models: dict[str, dict[str, str]] = Field(default_factory=dict)
    """A digest of every file of a player's model, where that is a folder."""


class RoundRecord(Record):
    """A line of rounds.jsonl; `judge` is what the round's rulings cost, if anything.

    `seconds` are wall time by phase and `cpu_seconds` the process's own.
    """

    round: Count
    learns: list[Player]
    metrics: dict[str, Number]
    seconds: dict[str, Number]
    cpu_seconds: Number = 0.0
    judge: dict[str, Number] | None = None


class JudgeRecord(Record):
    """Who ruled on an exam, and what to keep in mind about it."""

    name: str
    caveat: str = ""


class HeldOutJudge(JudgeRecord):
    """A second judge, which was never the reward: its rates, and how far they lie apart."""

    rates: Rates
    paired: dict[str, Any] = Field(default_factory=dict)
    alpha: dict[str, Any] = Field(default_factory=dict)
    diverged: list[str] = Field(default_factory=list)


class ExamResults(Record):
    """results.json of an exam after `rounds` rounds."""

    rounds: Count
    rates: Rates
    judge: JudgeRecord
    held_out_judge: HeldOutJudge | None = None
    costs: Costs | None = None
    success: str = ""
    cluster: str = ""
    openings_sha256: str = ""


class CrossplayResults(Record):
    """results.json of a cross-play: ASR by attacker (row) and defender (column)."""

    rows: str
    columns: str
    asr: dict[str, Rates]
    costs: Costs | None = None


class AttackerCurve(Record):
    """An attacker's ASR on held-out seeds after so many steps of learning."""

    steps: list[Count]
    asr: list[Rate]
    tried: str


class ExploitResults(Record):
    """evidence/exploit.json: attackers that trained on the defender after `rounds` rounds."""

    rounds: Count
    rng_seed: int
    budget: dict[str, Count]
    attackers: dict[str, AttackerCurve]
    worst: str | None
    overrides: dict[str, Any] | None = None


class AttackedBy(Record):
    """What one family of attacks reached: ASR@k by k, its queries in all, and their seconds."""

    about: str
    asr: Rates
    queries: Count | None = None
    seconds: Number | None = None

    @property
    def most(self) -> float:
        """The highest ASR@k; what could not be scored counts as an attack that failed."""
        return max((rate.bounds[0] for rate in self.asr.values()), default=0.0)


class AttackResults(Record):
    """attack.json: every family of attacks on one finished defender, the worst first."""

    defender: dict[str, Any]
    rng_seed: int
    effort: dict[str, Count]
    families: dict[str, AttackedBy]
    left_out: dict[str, str] = Field(default_factory=dict)
    """Families that could not be played, each with the reason."""

    @property
    def worst(self) -> tuple[str, str, Rate] | None:
        """The family that reached most, the k of its highest ASR@k, and that rate."""
        scored = [
            (name, k, rate)
            for name, family in self.families.items()
            for k, rate in family.asr.items()
            if rate.value is not None
        ]
        return max(scored, key=lambda row: row[2].bounds[0], default=None)


class EvalResults(Record):
    """eval.json: what `sparring eval RUN` measured of the defender, by rounds and name of rate."""

    folder: str
    rates: dict[int, dict[str, Rate]]


class BoundResults(Record):
    """evidence/bound.json: how often an attack of each family can succeed at most."""

    rounds: Count
    families: dict[str, Limit]
    confidence: Number
    method: str
    caveat: str
    upper: Number


class LatestRecord(Record):
    """The first line of checkpoints/latest: the sha256 of every complete checkpoint's manifest."""

    latest: str | None
    manifests: dict[Annotated[str, Field(pattern=r"^round_\d{6,12}$")], str]


class CheckpointState(Record):
    """A checkpoint's state.json: optimizers' counters, and digests of what the rounds rest on."""

    rounds: Count
    counters: dict[str, dict[str, int]]
    sha256: dict[str, str]
    seeds_sha256: str | None = None
