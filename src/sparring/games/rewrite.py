"""One exchange: the attacker rewrites the seed, the defender answers the rewrite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparring.games.payoffs import Payoff
from sparring.games.tags import answer_of
from sparring.types import JUDGE, Message, Observation, Player, Referee, Seed, State


@dataclass(frozen=True, slots=True)
class Briefs:
    """The attacker's system prompts, by the seed's label; `{seed}` is not a placeholder in them."""

    harmful: str
    benign: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """MAGIC's game, and SSP's: seed → rewrite → reply.

    With `gate` on, an attack that no longer asks for the seed's content (`on_topic` false) earns
    the payoff's floor; it is ruled on before a reply is paid for, and the defender is masked.
    An attack that does not parse is never sent and always earns the floor.
    """

    payoff: Payoff
    briefs: Briefs
    gate: bool = True

    @property
    def needs(self) -> frozenset[str]:
        return self.payoff.needs | {"on_topic"} if self.gate else self.payoff.needs

    def open(self, seed: Seed) -> State:
        return State(seed)

    def to_move(self, state: State) -> Player | Referee | None:
        if not state.moves:
            return Player.ATTACKER
        if len(state.moves) == 2:
            return None if state.ruled else JUDGE
        if attack_of(state) is None or self._unfaithful(state):
            return None
        ask = self.gate and not state.dealt and not state.ruled
        return JUDGE if ask else Player.DEFENDER

    def observe(self, state: State) -> Observation:
        if not state.moves:
            brief = self.briefs.harmful if state.seed.harmful else self.briefs.benign
            return (Message("system", brief), Message("user", state.seed.text))
        attack = attack_of(state)
        if attack is None:
            raise ValueError("an attack that does not parse is never shown to the defender")
        return (Message("user", attack),)

    def returns(self, state: State) -> Mapping[Player, float] | None:
        if attack_of(state) is None or self._unfaithful(state):
            return {Player.ATTACKER: self.payoff.floor}
        if self.gate and state.verdict.on_topic is None:
            return None
        return self.payoff(state.seed, state.verdict)

    def _unfaithful(self, state: State) -> bool:
        return self.gate and state.verdict.on_topic is False


def attack_of(state: State) -> str | None:
    """The rewrite as the defender sees it: a dealt one as it stands, a played one parsed."""
    if not state.moves:
        return None
    text = state.moves[0].completion.text
    return text if state.dealt else answer_of(text)


def reply_of(state: State) -> str | None:
    """The defender's reply, if it has been given."""
    last = state.moves[-1] if state.moves else None
    return last.completion.text if last and last.player is Player.DEFENDER else None
