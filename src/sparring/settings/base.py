"""What settings are made of: frozen models that refuse unknown keys, one number for each player."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from sparring.types import Player


class Model(BaseModel):
    """Frozen; refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


Number = TypeVar("Number", int, float)


class PerPlayer(Model, Generic[Number]):
    """One number for each player; a bare number means both."""

    attacker: Number
    defender: Number

    @model_validator(mode="before")
    @classmethod
    def _both(cls, told: Any) -> Any:
        # YAML 1.1 reads 1e-5 as text.
        return {p.value: told for p in Player} if isinstance(told, int | float | str) else told

    def __getitem__(self, player: Player) -> Number:
        return self.attacker if player is Player.ATTACKER else self.defender
