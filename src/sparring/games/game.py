"""The protocol of a game, and what was sent in one; no model and no random number."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from sparring import packaged
from sparring.types import Completion, Message, Observation, Player, Referee, Role, Seed, State


class Game(Protocol):
    """The rules of one game."""

    @property
    def needs(self) -> frozenset[str]:
        """The `Verdict` fields that the rules read; a judge must fill each of them."""

    def open(self, seed: Seed) -> State:
        """The state that a game about `seed` starts from."""

    def to_move(self, state: State) -> Player | Referee | None:
        """Who is next: a player, or `JUDGE` if a ruling is due; None when the game is over."""

    def observe(self, state: State) -> Observation:
        """The chat messages that the player to move may see."""

    def hear(self, state: State, completion: Completion) -> str | None:
        """What the other side receives of the next move in `state`; None if it does not parse."""

    def returns(self, state: State) -> Mapping[Player, float] | None:
        """The payoffs of a finished game. None: unscored. An absent player is masked."""


THOUGHTS: list[tuple[str, str]] = [tuple(m) for m in packaged.table("games/thoughts.yaml")]
"""The marks between which models think before they reply: what opens a thought, what ends it."""
THINK = THOUGHTS[0][0]
# One character class and no nested quantifier: linear on any text.
_TAG_LIKE = re.compile(r"<[\s/]*(?:think|answer)\b", re.IGNORECASE)
_TAG = re.compile(r"(</?(?:think|answer)>)")
_SHAPE = ["<think>", "</think>", "<answer>", "</answer>"]
MARKS = (*chain(*THOUGHTS), *_SHAPE)
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and a symbol that nobody sees."""


def split_thought(text: str) -> tuple[str, str | None] | None:
    """The thought that opens a text, and what follows it (None where it is never closed).

    None if the text opens with none.
    """
    text = text.lstrip()
    for opening, closing in THOUGHTS:
        if text.startswith(opening):
            thought, closed, rest = text.partition(closing)
            return thought.removeprefix(opening), rest.strip() if closed else None
    return None


def reply_in(text: str) -> str | None:
    """What a model says outside its thoughts; None where one that opens the text is never closed.

    A closed thought further on is left out too, as servers and chat templates do. Unlike them, what
    was said before it stays, and so does a thought that is not closed: no mark hides from a judge
    what a person was shown.
    """
    rest = text
    for opening, closing in THOUGHTS:
        *closed, last = rest.split(closing)
        parts = (part.partition(opening) for part in closed)
        rest = "".join(shown + ("" if mark else closing) for shown, mark, _ in parts) + last
    if split := split_thought(rest):
        return split[1]
    return text if rest == text else rest.strip()


def reopened(text: str) -> str:
    """A text, with the mark that opens a thought put before it where only the end stands in it.

    Servers whose chat template opens the thought answer like that.
    """
    for opening, closing in THOUGHTS:
        before, closed, _ = text.partition(closing)
        if closed and opening not in before:
            return opening + text
    return text


def visible(text: str) -> bool:
    """Whether a person would see anything of a text."""
    hidden = ("Cc", "Cf", "Cs", "Mn", "Me", "Zs", "Zl", "Zp")
    return any(unicodedata.category(c) not in hidden and c not in _BLANK for c in text)


def answer_of(text: str, thinks: bool = False) -> str | None:
    """The answer inside `<think>…</think><answer>…</answer>`, stripped; None if it does not parse.

    Parses only when the text is exactly one think block followed by exactly one answer block that
    is not empty, with nothing but white space around them. Anything that even resembles another
    tag (`</THINK >`) makes it unparseable, so no part of a thought can pass for an answer. A
    thought in the marks of another model family is that think block, or may precede both blocks.
    With `thinks` the thought must not be empty either.
    """
    split = None if text.lstrip().startswith(THINK) else split_thought(text)
    if split:
        thought, rest = split
        whole = rest is None or rest.startswith(THINK)
        text = (rest or "") if whole else f"<think>{thought}</think>{rest}"
    parts = _TAG.split(text)
    if parts[1::2] != _SHAPE or len(_TAG_LIKE.findall(text)) != len(_SHAPE):
        return None
    before, thought, between, answer, after = parts[0::2]
    if before.strip() or between.strip() or after.strip() or (thinks and not visible(thought)):
        return None
    return answer.strip() if visible(answer) else None


def tagged(thought: str, answer: str) -> str:
    """The text that `answer_of` parses into `answer`."""
    return f"<think> {thought} </think> <answer> {answer} </answer>"


@dataclass(frozen=True, slots=True)
class Briefs:
    """The players' system prompts; `{seed}` is not a placeholder in them.

    The attacker's is chosen by the seed's label; `think` asks a defender to think first.
    """

    harmful: str
    benign: str
    think: str = ""

    def of(self, seed: Seed) -> str:
        """The attacker's brief for a seed."""
        return self.harmful if seed.harmful else self.benign


def conversation(state: State) -> Observation | None:
    """What was sent, as chat messages: the attacker is the user and the defender the assistant.

    None if a move does not parse, because nobody may be shown it.
    """
    messages: list[Message] = []
    for move in state.moves:
        if move.sent is None:
            return None
        role: Role = "user" if move.player is Player.ATTACKER else "assistant"
        messages.append(Message(role, move.sent))
    return tuple(messages)


def attacks_of(state: State) -> list[str | None]:
    """Every attack as it was sent, oldest first; None for one that does not parse."""
    return [move.sent for move in state.moves if move.player is Player.ATTACKER]


def attack_of(state: State) -> str | None:
    """The last attack as it was sent; None if there is none or it does not parse."""
    return attacks_of(state)[-1] if state.moves else None


def attack_path(state: State) -> tuple[int, ...]:
    """The siblings up to the last attack, which games of one opening with one path share."""
    plies = [ply for ply, move in enumerate(state.moves) if move.player is Player.ATTACKER]
    return state.path[: plies[-1] + 1] if plies else ()


def reply_of(state: State) -> str | None:
    """The defender's reply to the last attack; None if there is none or it does not parse."""
    last = state.moves[-1] if state.moves else None
    return last.sent if last and last.player is Player.DEFENDER else None


def as_opening(state: State) -> State | None:
    """An opening that deals the last attack and all that was sent before it; None if unsent."""
    opening = State(state.seed)
    for move in state.moves[: len(attack_path(state))]:
        if move.sent is None:
            return None
        opening = opening.deal(move.player, move.sent)
    return opening
