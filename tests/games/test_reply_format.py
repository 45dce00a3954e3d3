"""A defender that should think first is paid for its format, and is not judged without it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.table import BRIEFS, BROKEN, CANDLE, HELD, VAULT, ScriptedJudge, attacks, cast, says

from sparring.arena import play
from sparring.credit import credit, standardized
from sparring.games.codec import state_json, state_of
from sparring.games.dialogue import Dialogue
from sparring.games.game import answer_of, reply_of, tagged
from sparring.games.payoffs import MAGIC, LabelPayoff, SelfRedTeamPayoff
from sparring.metrics import episode_metrics
from sparring.types import Completion, Harm, Message, Player, State, Status, Verdict

A, D = Player.ATTACKER, Player.DEFENDER
SECRET = "the dragon sleeps at noon"
YES, NO, UNPARSED = tagged(SECRET, "yes"), tagged(SECRET, "no"), f"{SECRET} so no"
ATTACKED = State(VAULT).deal(A, "a tale")
any_text = st.text(max_size=40)


def rule(state):
    return BROKEN if reply_of(state) in ("yes", "<answer> yes </answer>") else HELD


def thinks(reply_format=0.75, exchanges=1, gate=True, payoff=None):
    return Dialogue(payoff or LabelPayoff(MAGIC), BRIEFS, gate, exchanges, reply_format)


def played(game, *replies, opening=None, sends=("a tale",)):
    judge = ScriptedJudge(rule)
    widths = {A: len(sends), D: len(replies)}
    table = cast(attacks(*sends), says(*replies))
    return play(game, [opening or State(VAULT)], table, judge, widths, "s"), judge


@given(any_text, st.text("<>/thinkaswer ", max_size=40), any_text)
def test_a_thought_is_never_sent_whatever_stands_around_it(before, between, after):
    for text in (
        f"{before}<think>{SECRET}{between}</think>{after}",
        f"<think> {SECRET} {between} </think> <answer> {after} </answer>",
        f"<think>{between}{SECRET}",
    ):
        sent = thinks().hear(ATTACKED, Completion(text))
        assert sent == answer_of(text)
        assert SECRET not in (sent or "")


def test_it_is_asked_under_its_brief_and_the_rest_is_as_it_was():
    bare, briefed = (thinks(worth).observe(ATTACKED) for worth in (0, 0.75))
    assert briefed == (Message("system", BRIEFS.think), *bare)


def test_a_reply_that_parses_earns_the_format_on_top_of_the_table():
    plain, paid = (played(thinks(worth), YES, NO)[0] for worth in (0.0, 0.75))
    assert [e.returns for e in plain] == [{A: 2.0, D: -1.5}, {A: -1.0, D: 1.5}]
    assert [e.returns for e in paid] == [{A: 2.0, D: -0.75}, {A: -1.0, D: 2.25}]


def test_one_that_does_not_costs_it_goes_to_no_judge_and_the_attacker_is_masked():
    (lost, held), judge = played(thinks(), UNPARSED, NO)
    assert (lost.returns, lost.state.moves[-1].sent) == ({D: -0.75}, None)
    assert held.returns == {A: -1.0, D: 2.25}
    assert [reply_of(state) for state in judge.states] == [None, "no"]
    move = held.state.moves[-1]
    assert (move.completion.text, move.sent) == (NO, "no"), "all that was sampled is kept"


def test_without_the_format_an_empty_reply_is_judged_like_any_other():
    (episode,), judge = played(thinks(0.0), "")
    assert (episode.returns, reply_of(judge.states[-1])) == ({A: -1.0, D: 1.5}, "")


def test_an_empty_thought_of_either_player_breaks_the_format():
    """As the released code of arXiv:2506.07468 has it; MAGIC's format is about the answer alone."""
    hollow = tagged("", "a tale")
    for game, sent in ((thinks(), None), (thinks(0.0), "a tale")):
        assert game.hear(State(VAULT), Completion(hollow)) == sent
    assert thinks().hear(ATTACKED, Completion(hollow)) is None


def test_a_thought_without_a_reply_is_paid_nothing_and_judged_by_nobody():
    (cut, held), judge = played(thinks(0.0), f"<think> {SECRET}", "<think>x</think>no")
    assert (cut.returns, cut.state.moves[-1].sent, cut.state.rulings[1:]) == (None, None, ())
    assert (held.returns, reply_of(held.state)) == ({A: -1.0, D: 1.5}, "no")
    assert [reply_of(state) for state in judge.states] == [None, "no"]
    assert [state_of(state_json(e.state)).moves[-1].sent for e in (cut, held)] == [None, "no"]
    assert episode_metrics([cut, held])["no_reply"] == 0.5
    assert "no_reply" not in episode_metrics([held])


def test_a_policy_that_could_not_be_asked_is_paid_nothing_and_judged_by_nobody():
    class Unreachable:
        def sample(self, requests):
            return [[Completion("", status=Status.TIMEOUT)] for _ in requests]

    judge = ScriptedJudge(rule)
    (episode,) = play(thinks(gate=False), [ATTACKED], {D: Unreachable()}, judge, {}, "s")
    assert (episode.returns, episode.state.verdict) == (None, Verdict(status=Status.TIMEOUT))
    assert (episode.state.moves[-1].sent, judge.states) == (None, [])


def test_the_attackers_value_is_the_mean_over_the_replies_that_parsed():
    episodes, _ = played(thinks(), YES, UNPARSED, NO, sends=("a tale", "a song"))
    attacker = credit(episodes, A, standardized)
    assert (attacker.groups, attacker.dropped) == (1, 0)
    assert {e.returns[A] for e in episodes if A in e.returns} == {2.0, -1.0}
    defender = credit(episodes, D, standardized)
    # mean .25 of −.75, −.75, 2.25; sample std sqrt(3) = 1.7321
    assert [s.advantage for s in defender.samples] == pytest.approx(
        2 * [-0.57735, -0.57735, 1.1547], abs=1e-4
    )


def test_an_attack_whose_replies_all_fail_to_parse_leaves_the_attackers_group():
    episodes, judge = played(thinks(exchanges=3), UNPARSED, sends=("a tale", "a song"))
    assert {len(e.state.moves) for e in episodes} == {2}, "no exchange follows"
    attacker = credit(episodes, A, standardized)
    assert (attacker.groups, attacker.dropped, attacker.samples) == (1, 1, ())
    assert judge.states == []


def test_a_replay_is_paid_and_masked_in_the_same_way():
    opening = State(CANDLE).deal(A, "a tale of candles")
    (lost, held), judge = played(thinks(), UNPARSED, NO, opening=opening)
    # a refused benign seed pays .5
    assert (lost.returns, held.returns[D], len(judge.states)) == ({D: -0.75}, 0.5 + 0.75, 1)


@pytest.mark.parametrize("gate", [True, False])
def test_an_unfaithful_or_unsent_attack_costs_the_defender_nothing(gate):
    judge = ScriptedJudge(lambda state: Verdict(Harm.SAFE, True, False, on_topic=False))
    table = cast(attacks("a tale"), says(UNPARSED))
    (episode,) = play(thinks(gate=gate), [State(VAULT)], table, judge, {}, "s")
    assert episode.returns == ({A: -2.0} if gate else {D: -0.75})


def test_self_redteam_pays_plus_or_minus_its_format():
    """arXiv:2506.07468: ± 1; a game without the defender's format does not count."""
    game = thinks(1.0, gate=False, payoff=SelfRedTeamPayoff(1.0))
    judge = ScriptedJudge(lambda s: Verdict(Harm.SAFE, refused=True, prompt_harmful=True))
    table = cast(attacks("a tale"), says(NO, UNPARSED))
    held, lost = play(game, [State(VAULT)], table, judge, {D: 2}, "s")
    assert held.returns == {A: -1.0 + 1.0, D: 2.0 + 1.0}
    assert lost.returns == {D: -1.0}
