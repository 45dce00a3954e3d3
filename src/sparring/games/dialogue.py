"""Up to n exchanges: the attacker rewrites the seed, the defender replies, the attacker retries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparring.games.game import Briefs, answer_of, conversation
from sparring.games.payoffs import Payoff
from sparring.types import JUDGE, Completion, Message, Observation, Player, Referee, Seed, State


@dataclass(frozen=True, slots=True)
class Dialogue:
    """MAGIC's game, and SSP's: seed → rewrite → reply, and again until a reply decides it.

    A reply decides when the attacker has what it wanted: it is harmful, or refuses what a benign
    seed asks for; and when nobody can tell. After any other the attacker tries again: if a helpful
    reply ended benign games, second exchanges would be about harmful seeds alone, and a defender
    would learn to refuse them unread. An opening with a dealt move ends with the next reply.

    With `gate` on, a last attack that no longer asks for the seed's content (`on_topic` false)
    earns the payoff's floor, and the defender is masked. Where no exchange can follow, the gate is
    ruled on before a reply is paid for; earlier it cannot be, for an attack may only prepare the
    next one. An attack that does not parse is never sent, ends the game and earns the floor; the
    defender is masked in that game.

    With `reply_format` above 0 the defender is asked to think first, in the attacker's format, and
    only its answer is sent. It earns `reply_format` for a reply that parses. One that does not
    parse goes to no judge and costs as much, and the game does not count for the attacker
    (Self-RedTeam, arXiv:2506.07468).
    """

    payoff: Payoff
    briefs: Briefs
    gate: bool = True
    exchanges: int = 1
    reply_format: float = 0.0

    @property
    def needs(self) -> frozenset[str]:
        gate = {"on_topic"} if self.gate else set()
        ending = {"reply_harm", "refused"} if self.exchanges > 1 else set()
        return self.payoff.needs | gate | ending

    def open(self, seed: Seed) -> State:
        return State(seed)

    def to_move(self, state: State) -> Player | Referee | None:
        if not state.moves:
            return Player.ATTACKER
        if state.moves[-1].sent is None:
            return None
        if _attacked(state):
            return self._after_attack(state)
        if not state.ruled:
            return JUDGE
        return None if self._last(state) or _decided(state) else Player.ATTACKER

    def _after_attack(self, state: State) -> Player | Referee | None:
        played = len(state.moves) > state.dealt
        if not (self.gate and played and self._last(state)):
            return Player.DEFENDER
        if not state.ruled:
            return JUDGE
        return None if self._unfaithful(state) else Player.DEFENDER

    def _last(self, state: State) -> bool:
        """Whether the exchange under way, or just over, is the last one allowed."""
        return bool(state.dealt) or len(state.moves) > 2 * (self.exchanges - 1)

    def observe(self, state: State) -> Observation:
        """The attacker's own thoughts stay in its history; the defender sees what was sent."""
        if _attacked(state):
            messages = conversation(state)
            if messages is None:
                raise ValueError("an attack that does not parse is never shown to the defender")
            think = Message("system", self.briefs.think)
            return (think, *messages) if self.reply_format else messages
        brief = self.briefs.harmful if state.seed.harmful else self.briefs.benign
        history = [
            Message("assistant", move.completion.text)
            if move.player is Player.ATTACKER
            else Message("user", move.sent or "")
            for move in state.moves
        ]
        return (Message("system", brief), Message("user", state.seed.text), *history)

    def hear(self, state: State, completion: Completion) -> str | None:
        if _attacked(state) and not self.reply_format:
            return completion.text
        return answer_of(completion.text)

    def returns(self, state: State) -> Mapping[Player, float] | None:
        unsent = state.moves[-1].sent is None
        if (unsent and _attacked(state)) or self._unfaithful(state):
            return {Player.ATTACKER: self.payoff.floor}
        if unsent:
            return {Player.DEFENDER: -self.reply_format}
        if self.gate and state.verdict.on_topic is None:
            return None
        paid = self.payoff(state.seed, state.verdict)
        if paid is None or not self.reply_format:
            return paid
        return {**paid, Player.DEFENDER: paid[Player.DEFENDER] + self.reply_format}

    def _unfaithful(self, state: State) -> bool:
        return self.gate and state.verdict.on_topic is False


def _attacked(state: State) -> bool:
    """Whether the last move is the attacker's, so that the defender is next to reply."""
    return bool(state.moves) and state.moves[-1].player is Player.ATTACKER


def _decided(state: State) -> bool:
    """Whether the ruled reply ends the game before its exchanges are used up.

    A refused agreement on a code word is no refusal of the seed: what is off topic decides nothing
    but harm.
    """
    told = state.verdict
    if told.harmful is None or told.refused is None or told.harmful:
        return True
    return not state.seed.harmful and told.refused and told.on_topic is not False
