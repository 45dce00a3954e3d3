"""The one codec of games: seeds, verdicts, openings, states and episodes as JSON, and back.

Every file that holds a game is written with `…_json` and read with `…_of`. What is read is
untrusted: it raises KeyError, TypeError or ValueError where it is not what was written. Texts are
taken as they are, lone surrogates too.

- opening: `{"seed", "moves": [{"player", "text"}]}`, every move of it dealt
- state: `{"seed", "dealt", "moves": [{"player", "text", "sibling"}]}`
- episode: a state with its `opening`, its `verdict` and its `returns`
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from sparring.games.game import answer_of, reply_in
from sparring.types import Completion, Episode, Move, Player, Seed, State, Verdict

Row = Mapping[str, Any]
_VERDICT = TypeAdapter(Verdict)


def seed_of(row: Row) -> Seed:
    """What `Seed.to_json` wrote."""
    seed = Seed(**row)
    texts = [value for name, value in asdict(seed).items() if name != "harmful"]
    if not (isinstance(seed.harmful, bool) and all(isinstance(text, str) for text in texts)):
        raise TypeError("a seed's `harmful` must be true or false, and its other fields texts")
    return seed


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """The fields that are not None, and the status."""
    return {name: value for name, value in asdict(verdict).items() if value is not None}


def verdict_of(row: Row) -> Verdict:
    """What `verdict_json` wrote; a field that no verdict has is refused by the class itself."""
    verdict = Verdict(**{**row, "status": row["status"]})
    return _VERDICT.validate_python(asdict(verdict))


def opening_json(opening: State) -> dict[str, Any]:
    """A state of which every move is dealt."""
    moves = [{"player": move.player, "text": move.sent} for move in opening.moves]
    return {"seed": opening.seed.to_json(), "moves": moves}


def opening_of(row: Row) -> State:
    """What `opening_json` wrote."""
    return state_of({**row, "dealt": len(row["moves"])}, ruling=None)


def state_json(state: State) -> dict[str, Any]:
    """The game so far, without its rulings: an attack with its thought, a reply as it was sent.

    What a defender thinks is not recorded: a reply that did not parse is empty; a missing one,
    whose thought was never closed, is null.
    """
    moves = [
        {
            "player": move.player,
            "text": move.completion.text if move.player is Player.ATTACKER else _reply(move),
            "sibling": move.sibling,
        }
        for move in state.moves
    ]
    return {"seed": state.seed.to_json(), "dealt": state.dealt, "moves": moves}


def _reply(move: Move) -> str | None:
    return None if reply_in(move.completion.text) is None else move.sent or ""


def state_of(row: Row, ruling: str | None = "verdict", reply_format: bool = False) -> State:
    """What `state_json` wrote, ruled on by the verdict in the field `ruling`, if there is one.

    With `reply_format` an empty reply is one that did not parse. `sibling` is 0 if absent.
    """
    dealt = int(row["dealt"])
    moves = [_move(move, ply < dealt, reply_format) for ply, move in enumerate(row["moves"])]
    state = State(seed_of(row["seed"]), tuple(moves), dealt)
    verdict = verdict_of(row[ruling]) if ruling and row.get(ruling) else state.verdict
    return state if verdict == state.verdict else state.rule(verdict)


def _move(row: Row, dealt: bool, reply_format: bool) -> Move:
    player, text = Player(row["player"]), row["text"]
    unsaid = text is None and player is Player.DEFENDER and not dealt
    if not (isinstance(text, str) or unsaid):
        raise TypeError(f"the text of a move must be a text, got {text!r:.40}")
    sent: str | None = text
    if not dealt and player is Player.ATTACKER:
        sent = answer_of(text, thinks=reply_format)
    elif not dealt and reply_format and not text:
        sent = None
    return Move(player, (), Completion(text or ""), sent, int(row.get("sibling", 0)))


def episode_of(row: Row, reply_format: bool = False) -> Episode:
    """What `episode_json` wrote; the returns may be missing, as those of an unscored game are."""
    returns = row.get("returns")
    paid = None if returns is None else {Player(k): float(v) for k, v in returns.items()}
    return Episode(state_of(row, reply_format=reply_format), int(row.get("opening", 0)), paid)


def episode_json(episode: Episode) -> dict[str, Any]:
    """A finished game with its last ruling and its returns by player (null: unscored)."""
    return {
        "opening": episode.opening,
        **state_json(episode.state),
        "verdict": verdict_json(episode.state.verdict),
        "returns": episode.returns and {str(k): v for k, v in episode.returns.items()},
    }
