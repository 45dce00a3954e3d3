"""An entry of the experience pool: an attack that beat the defender, as JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sparring.evaluation.recorded import verdict_of
from sparring.types import Message, Observation, Player, Seed, State, Verdict


@dataclass(frozen=True, slots=True)
class Entry:
    """An attack that beat the defender, what it saw and said then, and how it has fared since.

    `seen` is the defender's observation: the attack, after any exchanges before it.
    """

    seed: Seed
    seen: Observation
    reply: str
    ruling: Verdict
    mean: float
    visits: int = 0
    asleep: bool = False

    @property
    def key(self) -> tuple[str, Observation]:
        """Exact repeats of an attack on a seed are one entry."""
        return (self.seed.id, self.seen)

    @property
    def opening(self) -> State:
        """The state in which the defender answers this attack again."""
        state = State(self.seed)
        for message in self.seen:
            who = Player.DEFENDER if message.role == "assistant" else Player.ATTACKER
            state = state.deal(who, message.content)
        return state

    def to_json(self) -> dict[str, Any]:
        """Its fields, as `entry_of` reads them."""
        return asdict(self) | {"seed": self.seed.to_json()}


def entry_of(row: Mapping[str, Any]) -> Entry:
    """What `to_json` wrote."""
    return Entry(
        seed=Seed(**row["seed"]),
        seen=tuple(Message(**message) for message in row["seen"]),
        reply=row["reply"],
        ruling=verdict_of(row["ruling"]),
        mean=row["mean"],
        visits=row["visits"],
        asleep=row["asleep"],
    )
