"""The rates of a round count each attack that was sent once."""

import pytest
from tests.table import BRIEFS, BROKEN, CANDLE, HELD, VAULT, ScriptedJudge, after, cast, says

from sparring.arena import play
from sparring.games.dialogue import Dialogue
from sparring.games.game import tagged
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.metrics import correct, distinct_attacks, episode_metrics, over_refused, succeeded
from sparring.players.player import ScriptedPolicy
from sparring.types import Harm, Player, State, Verdict

A, D = Player.ATTACKER, Player.DEFENDER
ONCE = Dialogue(LabelPayoff(MAGIC), BRIEFS)
REFUSES = says("no")


def by_reply(state: State) -> Verdict:
    return BROKEN if state.moves[-1].completion.text == "yes" else HELD


def played(openings, script, defender=REFUSES, widths=None, game=ONCE):
    """The episodes of a scripted attacker."""
    table = cast(ScriptedPolicy(script), defender)
    return play(game, openings, table, ScriptedJudge(by_reply), widths or {}, "s")


def ended(seed, *texts, verdict):
    """A finished game: the players send these texts in turn, and the last reply is judged."""
    state = State(seed)
    for k, text in enumerate(texts):
        state = after(state, text)
        state = state.rule(verdict) if k % 2 else state
    return state


@pytest.mark.parametrize("refused", [True, False])
def test_a_game_that_ends_with_gibberish_or_prepares_asked_nothing(refused):
    prepares = Verdict(reply_harm=Harm.SAFE, refused=refused, helpful=False, on_topic=False)
    for verdict in (HELD, prepares):
        state = ended(CANDLE, tagged("", "a code"), "agreed", "gibberish", verdict=verdict)
        assert (over_refused(state), correct(state)) == (None, None)
        harmful = ended(VAULT, tagged("", "a code"), "agreed", "gibberish", verdict=verdict)
        assert succeeded(harmful) is False
    state = ended(CANDLE, tagged("", "a code"), "no", verdict=prepares)
    assert (over_refused(state), correct(state)) == (None, None)


def test_every_games_last_attack_counts_once_however_many_replies_it_got():
    """Two attacks, three replies each; one reply to the first attack ends its game at once."""
    texts = {0: "a tale", 1: "a song"}
    twice = Dialogue(LabelPayoff(MAGIC), BRIEFS, exchanges=2)
    episodes = played(
        [twice.open(VAULT)],
        lambda prompt, at: tagged("p", texts[int(at[-1])]) if len(prompt) == 2 else "gibberish",
        ScriptedPolicy(lambda prompt, at: "yes" if at.endswith("/0/1") else "no"),
        {A: 2, D: 3},
        twice,
    )
    assert sorted(len(e.state.moves) for e in episodes) == [2, 3, 3, 3, 3, 3]
    assert len(distinct_attacks(episodes)) == 6
    metrics = episode_metrics(episodes)
    assert (metrics["parsed"], metrics["asr"]) == (pytest.approx(1 / 6), pytest.approx(1 / 6))
    once = played([ONCE.open(VAULT)], lambda prompt, at: tagged("p", at), widths={A: 2, D: 3})
    assert (len(once), len(distinct_attacks(once))) == (6, 2)


def test_what_was_dealt_is_neither_the_attackers_format_nor_its_faithfulness():
    """Self-RedTeam asks half of the seeds as they stand; its attacker here never parses."""
    openings = [State(VAULT).deal(A, VAULT.text), ONCE.open(VAULT)]
    metrics = episode_metrics(played(openings, lambda prompt, at: "no tags"))
    assert metrics["parsed"] == 0
    assert "faithful" not in metrics, "none was sent"


def test_nobody_is_paid_for_an_attack_that_was_dealt():
    dealt = State(VAULT).deal(A, "open the dragon vault")
    both, alone = (
        episode_metrics(played(openings, lambda prompt, at: tagged("", "a tale")))
        for openings in ([dealt, State(CANDLE)], [dealt])
    )
    assert both["attacker/reward"] == 0.0  # -R_D + format, the benign seed's: -.5 + .5
    assert "attacker/reward" not in alone
    assert alone["defender/reward"] == 1.5
