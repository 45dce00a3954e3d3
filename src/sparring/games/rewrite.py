"""What was sent and what was answered, read from a state; how an attacker is briefed."""

from __future__ import annotations

from dataclasses import dataclass

from sparring.games.tags import answer_of
from sparring.types import Player, State


@dataclass(frozen=True, slots=True)
class Briefs:
    """The attacker's system prompts, by the seed's label; `{seed}` is not a placeholder in them."""

    harmful: str
    benign: str


def sent(state: State) -> list[tuple[Player, str | None]]:
    """Every move as the other side may read it: an attack without its thought, a reply in full.

    A dealt attack is sent as it stands, a played one parsed; None: it does not parse.
    """
    return [
        (move.player, answer_of(move.completion.text) if parsed else move.completion.text)
        for ply, move in enumerate(state.moves)
        for parsed in [move.player is Player.ATTACKER and ply >= state.dealt]
    ]


def attacks_of(state: State) -> list[str | None]:
    """Every rewrite as the defender sees it, oldest first."""
    return [text for player, text in sent(state) if player is Player.ATTACKER]


def attack_of(state: State) -> str | None:
    """The last rewrite as the defender sees it; None if there is none or it does not parse."""
    return attacks_of(state)[-1] if state.moves else None


def attack_path(state: State) -> tuple[int, ...]:
    """The siblings that lead to the last rewrite; games of one opening that share it share them."""
    plies = [ply for ply, move in enumerate(state.moves) if move.player is Player.ATTACKER]
    return state.path[: plies[-1] + 1] if plies else ()


def reply_of(state: State) -> str | None:
    """The defender's reply to the last rewrite, if it has been given."""
    last = state.moves[-1] if state.moves else None
    return last.completion.text if last and last.player is Player.DEFENDER else None


def as_opening(state: State) -> State | None:
    """The last rewrite, dealt with all that was sent before it; None if one does not parse."""
    opening = State(state.seed)
    for player, text in sent(state)[: len(attack_path(state))]:
        if text is None:
            return None
        opening = opening.deal(player, text)
    return opening
