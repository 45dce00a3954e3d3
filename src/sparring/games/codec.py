"""A game as the files of runs, exams and evaluations hold it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sparring.games.game import answer_of
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


def game_of(row: Mapping[str, Any], reply_format: bool = False) -> State:
    """The state that a row's seed, moves and dealt make, with no ruling on it; errors as above.

    Texts are taken as they are, lone surrogates too; a move without a sibling is the first. With
    `reply_format` an empty reply is one that did not parse.
    """
    dealt = int(row["dealt"])
    moves = tuple(move_of(move, ply < dealt, reply_format) for ply, move in enumerate(row["moves"]))
    return State(Seed(**row["seed"]), moves, dealt)


def move_json(move: Move) -> dict[str, Any]:
    """A move as files hold it: an attack with its thought, a reply as it was sent.

    A reply that did not parse is empty: what a defender thinks is not recorded.
    """
    attack = move.player is Player.ATTACKER
    text = move.completion.text if attack else move.sent or ""
    return {"player": move.player, "text": text, "sibling": move.sibling}


def move_of(row: Mapping[str, Any], dealt: bool, reply_format: bool) -> Move:
    """What `move_json` wrote; a dealt move was sent as it stands."""
    player, text = Player(row["player"]), str(row["text"])
    sent: str | None = text
    if not dealt:
        unparsed = reply_format and not text
        sent = answer_of(text) if player is Player.ATTACKER else None if unparsed else text
    return Move(player, (), Completion(text), sent, int(row.get("sibling", 0)))
