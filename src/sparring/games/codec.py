"""A game as the files of runs, exams and evaluations hold it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sparring.types import Completion, Harm, Move, Player, Seed, State, Status, Verdict


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Its fields; what could not be told is left out."""
    told = {field.name: getattr(verdict, field.name) for field in fields(verdict)}
    return {name: value for name, value in told.items() if value is not None}


def verdict_of(told: Mapping[str, Any]) -> Verdict:
    """What `verdict_json` wrote; KeyError, TypeError or ValueError if that is not what it is."""
    found = dict(told)
    harm = found.get("reply_harm")
    found |= {"reply_harm": harm and Harm(harm), "status": Status(found["status"])}
    return Verdict(**found)


def game_of(row: Mapping[str, Any]) -> State:
    """The state that a row's seed, moves and dealt make, with no ruling on it; errors as above.

    Texts are taken as they are, lone surrogates too; a move without a sibling is the first.
    """
    moves = tuple(
        Move(Player(move["player"]), (), Completion(str(move["text"])), int(move.get("sibling", 0)))
        for move in row["moves"]
    )
    return State(Seed(**row["seed"]), moves, int(row["dealt"]))
