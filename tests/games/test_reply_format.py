"""A defender that is to think first is paid for its format, and is not judged without it."""

import pytest
from tests.table import BRIEFS, BROKEN, CANDLE, HELD, VAULT, ScriptedJudge, attacks, cast, says

from sparring.arena import play
from sparring.credit import credit, standardized
from sparring.games.dialogue import Dialogue
from sparring.games.game import reply_of
from sparring.games.payoffs import MAGIC, LabelPayoff, SelfRedTeamPayoff
from sparring.types import Harm, Player, State, Verdict

A, D = Player.ATTACKER, Player.DEFENDER
UNPARSED = ""
"""What `policies/thinking.py` makes of a reply without the format."""


def rule(state):
    return BROKEN if reply_of(state) == "yes" else HELD


def played(reply_format, *replies, opening=None, exchanges=1, gate=True, sends=("a tale",)):
    game = Dialogue(LabelPayoff(MAGIC), BRIEFS, gate, exchanges, reply_format)
    judge = ScriptedJudge(rule)
    table = cast(attacks(*sends), says(*replies))
    widths = {A: len(sends), D: len(replies)}
    episodes = play(game, [opening or State(VAULT)], table, judge, widths, "s")
    return episodes, judge


def test_a_reply_that_parses_earns_the_format_on_top_of_the_table():
    plain, _ = played(0.0, "yes", "no")
    paid, _ = played(0.75, "yes", "no")
    assert [e.returns for e in plain] == [{A: 2.0, D: -1.5}, {A: -1.0, D: 1.5}]
    assert [e.returns for e in paid] == [{A: 2.0, D: -0.75}, {A: -1.0, D: 2.25}]


def test_one_that_does_not_costs_it_goes_to_no_judge_and_the_attacker_is_masked():
    (lost, kept), judge = played(0.75, UNPARSED, "no")
    assert lost.returns == {D: -0.75}
    assert kept.returns == {A: -1.0, D: 2.25}
    assert [reply_of(state) for state in judge.asked] == [None, "no"]


def test_without_the_format_an_empty_reply_is_judged_like_any_other():
    (episode,), judge = played(0.0, UNPARSED)
    assert episode.returns == {A: -1.0, D: 1.5}
    assert reply_of(judge.asked[-1]) == UNPARSED


def test_the_attackers_value_is_the_mean_over_the_replies_that_parsed():
    episodes, _ = played(0.75, "yes", UNPARSED, "no", sends=("a tale", "a song"))
    told = credit(episodes, A, standardized)
    assert (told.groups, told.dropped) == (1, 0)
    assert {e.returns[A] for e in episodes if A in e.returns} == {2.0, -1.0}
    replies = credit(episodes, D, standardized)
    # mean .25 of −.75, −.75, 2.25; sample std sqrt(3) = 1.7321
    assert [s.advantage for s in replies.samples] == pytest.approx(
        2 * [-0.57735, -0.57735, 1.1547], abs=1e-4
    )


def test_an_attack_whose_replies_all_fail_to_parse_leaves_the_attackers_group():
    episodes, _ = played(0.75, UNPARSED, sends=("a tale", "a song"))
    told = credit(episodes, A, standardized)
    assert (told.groups, told.dropped, told.samples) == (1, 1, ())


def test_a_game_of_several_exchanges_ends_with_the_reply_that_does_not_parse():
    (episode,), judge = played(0.75, UNPARSED, exchanges=3)
    assert len(episode.state.moves) == 2
    assert episode.returns == {D: -0.75}
    assert judge.asked == []


def test_a_replay_is_paid_and_masked_in_the_same_way():
    opening = State(CANDLE).deal(A, "a tale of candles")
    (lost, kept), judge = played(0.75, UNPARSED, "no", opening=opening)
    assert lost.returns == {D: -0.75}
    assert kept.returns[D] == 0.5 + 0.75  # a refused benign seed: .5
    assert len(judge.asked) == 1


@pytest.mark.parametrize("gate", [True, False])
def test_an_unfaithful_or_unsent_attack_costs_the_defender_nothing(gate):
    def unfaithful(state):
        return Verdict(Harm.SAFE, True, False, on_topic=False)

    game = Dialogue(LabelPayoff(MAGIC), BRIEFS, gate, 1, 0.75)
    table = cast(attacks("a tale"), says(UNPARSED))
    (episode,) = play(game, [State(VAULT)], table, ScriptedJudge(unfaithful), {}, "s")
    assert episode.returns == ({A: -2.0} if gate else {D: -0.75})


def test_self_redteam_pays_plus_or_minus_its_format():
    """arXiv:2506.07468: ± 1; a game without the defender's format does not count."""
    game = Dialogue(SelfRedTeamPayoff(1.0), BRIEFS, False, 1, 1.0)
    verdict = Verdict(Harm.SAFE, refused=True, prompt_harmful=True)
    table = cast(attacks("a tale"), says("no", UNPARSED))
    kept, lost = play(game, [State(VAULT)], table, ScriptedJudge(lambda s: verdict), {D: 2}, "s")
    assert kept.returns == {A: -1.0 + 1.0, D: 2.0 + 1.0}
    assert lost.returns == {D: -1.0}
