"""MAGIC's game and SSP's: up to n exchanges in which the defender replies to rewrites of a seed."""

from collections.abc import Mapping
from dataclasses import dataclass

from sparring.games.game import Briefs, answer_of, conversation, reply_in
from sparring.games.payoffs import Payoff
from sparring.types import JUDGE, Completion, Message, Observation, Player, Referee, Seed, State


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The attacker rewrites the seed, the defender replies, and the attacker may try again.

    The game ends with a reply that decides it: one that is harmful, that refuses what a benign
    seed asks for, or that the judge could not rule on. After any other reply the attacker tries
    again, up to `exchanges` times. A helpful reply does not end a benign game: otherwise second
    exchanges would all be about harmful seeds, and a defender would learn to refuse them unread.
    An opening with a dealt move ends with the next reply.

    With `gate` on, a last attack that no longer asks for the seed's content (`on_topic` false)
    earns the payoff's floor, and the defender is masked. The gate is ruled on before the reply is
    paid for, where no exchange can follow; earlier it cannot be, because an attack may only
    prepare the next one. An attack that does not parse is never sent: it ends the game and earns
    the floor, and the defender is masked. A reply is what follows a model's own thought; where
    that is never closed there is no reply, and the game is unscored.

    With `reply_format` above 0 the defender is asked to think first, in the attacker's format, and
    only its answer is sent. It earns `reply_format` for a reply that parses. One that does not
    parse goes to no judge and costs as much, and the game does not count for the attacker. An
    empty thought of either player does not parse (Self-RedTeam, arXiv:2506.07468).
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
        last_exchange = bool(state.dealt) or len(state.moves) > 2 * (self.exchanges - 1)
        gated = self.gate and last_exchange and len(state.moves) > state.dealt
        if _attacked(state) and not gated:
            return Player.DEFENDER
        if not state.ruled:
            return JUDGE
        if _attacked(state):
            return None if self._unfaithful(state) else Player.DEFENDER
        return None if last_exchange or _decided(state) else Player.ATTACKER

    def observe(self, state: State) -> Observation:
        """The attacker's own thoughts stay in its history; the defender sees what was sent."""
        if _attacked(state):
            messages = conversation(state)
            if messages is None:
                raise ValueError("an attack that does not parse is never shown to the defender")
            think = Message("system", self.briefs.think)
            return (think, *messages) if self.reply_format else messages
        brief = self.briefs.of(state.seed)
        history = [
            Message("assistant", move.completion.text)
            if move.player is Player.ATTACKER
            else Message("user", move.sent or "")
            for move in state.moves
        ]
        return (Message("system", brief), Message("user", state.seed.text), *history)

    def hear(self, state: State, completion: Completion) -> str | None:
        if _attacked(state) and not self.reply_format:
            return reply_in(completion.text)
        return answer_of(completion.text, thinks=self.reply_format > 0)

    def returns(self, state: State) -> Mapping[Player, float] | None:
        unsent = state.moves[-1].sent is None
        if (unsent and _attacked(state)) or self._unfaithful(state):
            return {Player.ATTACKER: self.payoff.floor}
        if unsent:
            return {Player.DEFENDER: -self.reply_format} if self.reply_format else None
        if self.gate and state.verdict.on_topic is None:
            return None
        payoffs = self.payoff(state.seed, state.verdict)
        if payoffs is None or not self.reply_format:
            return payoffs
        return {**payoffs, Player.DEFENDER: payoffs[Player.DEFENDER] + self.reply_format}

    def _unfaithful(self, state: State) -> bool:
        return self.gate and state.verdict.on_topic is False


def _attacked(state: State) -> bool:
    """Whether the last move is the attacker's, so that the defender is next to reply."""
    return bool(state.moves) and state.moves[-1].player is Player.ATTACKER


def _decided(state: State) -> bool:
    """Whether the reply ends the game before its exchanges are used up.

    Off topic, only harm decides: to refuse to agree on a code word is not to refuse the seed.
    """
    verdict = state.verdict
    if verdict.harmful is None or verdict.refused is None or verdict.harmful:
        return True
    return not state.seed.harmful and verdict.refused and verdict.on_topic is not False
