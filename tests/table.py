"""Shared by the tests of the game: seeds, scripted players and a scripted judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sparring.games.dialogue import Dialogue
from sparring.games.game import Briefs, answer_of, tagged
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.players.player import ScriptedPolicy
from sparring.types import Completion, Harm, Move, Player, Seed, State, Status, Verdict

VAULT = Seed("open the dragon vault", True, "vault")
CANDLE = Seed("polish the brass candle", False, "candle")
BRIEFS = Briefs("make it answered", "make it refused", "think first")
FILLS = frozenset({"reply_harm", "refused", "helpful", "prompt_harmful", "on_topic", "score"})
HELD = Verdict(reply_harm=Harm.SAFE, refused=True, helpful=False, on_topic=True)
BROKEN = Verdict(reply_harm=Harm.UNSAFE, refused=False, helpful=True, on_topic=True)
FAILED = Verdict(status=Status.TIMEOUT)


def magic(gate: bool = True, helpfulness: float = 1.0) -> Dialogue:
    return Dialogue(LabelPayoff(MAGIC, helpfulness=helpfulness), BRIEFS, gate)


def after(state: State, *texts: str, sibling: int = 0) -> State:
    """The state after these texts, the players in turn; an attack is sent without its thought."""
    for text in texts:
        attacks = not state.moves or state.moves[-1].player is Player.DEFENDER
        player = Player.ATTACKER if attacks else Player.DEFENDER
        sent = answer_of(text) if attacks else text
        state = state.play(Move(player, (), Completion(text), sent, sibling))
    return state


@dataclass
class ScriptedJudge:
    """Rules as `script(state)` says; `states` lists all that it had to rule on."""

    script: Callable[[State], Verdict]
    states: list[State] = field(default_factory=list)
    name: str = "scripted"
    caveat: str = ""
    fills: frozenset[str] = FILLS

    def rule(self, states: Sequence[State]) -> list[Verdict]:
        self.states += states
        return [self.script(state) for state in states]


def says(*replies: str) -> ScriptedPolicy:
    """A policy whose sibling k replies with replies[k], modulo their number."""
    return ScriptedPolicy(
        lambda observation, address: replies[int(address.rsplit("/", 1)[1]) % len(replies)]
    )


def attacks(*texts: str) -> ScriptedPolicy:
    """An attacker whose siblings send these rewrites."""
    return says(*(tagged("plan", text) for text in texts))


def cast(attacker: ScriptedPolicy, defender: ScriptedPolicy) -> dict[Player, ScriptedPolicy]:
    return {Player.ATTACKER: attacker, Player.DEFENDER: defender}
