"""What stands in a run's files: each record is written and read by the same model."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictFloat,
    StrictInt,
    ValidationError,
)

from sparring.stats.bound import Limit
from sparring.stats.rates import Rate
from sparring.store.files import dumps, read_json, write_atomic
from sparring.types import CorruptError, Message, Player, Seed


def _finite(number: float) -> float:
    try:
        finite = isfinite(number)
    except OverflowError:
        finite = False
    if not finite:
        raise ValueError("wanted a finite number")
    return number


def _finite_rate(rate: Rate) -> Rate:
    for number in (rate.value, *(rate.ci95 or ()), *rate.bounds):
        _finite(number or 0.0)
    return rate


Number = Annotated[StrictInt | StrictFloat, AfterValidator(_finite)]
"""A finite number that stays the integer or the float that it was."""
Count = Annotated[StrictInt, Field(ge=0, le=2**53)]
Rates = dict[str, Annotated[Rate, AfterValidator(_finite_rate)]]
"""Rates by `metric/set`, or by whatever else they are rates of."""
SeedField = Annotated[Seed, PlainSerializer(Seed.to_json)]
Costs = dict[str, dict[str, Number]]
"""What each judge cost: calls, tokens and so on, by the judge's part."""


class Record(BaseModel):
    """One record on disk. Fields that this version does not know are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> dict[str, Any]:
        """Return what is written: the fields that were set, without optional ones that are None."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.model_dump(exclude_unset=True).items()
            if value is not None or name not in fields or fields[name].default is not None
        }


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


class PoolEntry(Record):
    """One attack of the experience pool, as the defender was shown it."""

    seed: SeedField
    seen: Annotated[list[Message], Field(min_length=1)]
    mean: Number
    visits: Count
    asleep: bool


class Pool(Record):
    """What a checkpoint's memory.json holds of the experience pool."""

    visits: Count
    entries: list[PoolEntry]


class AttackerCurve(Record):
    """An attacker's ASR on held-out seeds after so many steps of learning."""

    steps: list[Count]
    asr: list[Annotated[Rate, AfterValidator(_finite_rate)]]
    tried: str


class ExploitResults(Record):
    """evidence/exploit.json: attackers that trained on the defender after `rounds` rounds."""

    rounds: Count
    rng_seed: int
    budget: dict[str, Count]
    attackers: dict[str, AttackerCurve]
    worst: str | None


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


class Manifest(Record):
    """A checkpoint's MANIFEST.json: the sha256 of every other file in its folder."""

    sha256: dict[str, str]


class CheckpointState(Record):
    """A checkpoint's state.json: optimizers' counters, and digests of what the rounds rest on."""

    rounds: Count
    counters: dict[str, dict[str, int]]
    sha256: dict[str, str]
    seeds_sha256: str | None = None


R = TypeVar("R", bound=Record)


def checked(model: type[R], value: Any, where: object) -> R:
    """Return `value` as a record; CorruptError says `where` and which field is not what it was."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        why = f"{field}: {first['msg']}" if field else first["msg"]
        raise CorruptError(f"{where}: is not what was written: {why:.300}") from error


def read_record(model: type[R], path: Path) -> R:
    """Return the record that a file holds; CorruptError names the file and the field."""
    return checked(model, read_json(path), path)


def write_record(path: Path, record: Record) -> None:
    """Write a record as one line of JSON, in one step; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, dumps(record.to_json()))
