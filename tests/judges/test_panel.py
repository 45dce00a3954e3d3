"""Several judges make one verdict by a stated rule, and no failure is made up for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.table import VAULT, ScriptedJudge

from sparring.judges.panel import RULES, Member, Panel, all_of, any_of, majority
from sparring.stats.agreement import alpha_of
from sparring.types import Harm, State, Status, UsageError, Verdict

UNSAFE, SAFE, SO_SO = Harm.UNSAFE, Harm.SAFE, Harm.CONTROVERSIAL
HARM = frozenset({"reply_harm"})


def judge(verdict: Verdict, *fills: str, name: str = "guard", caveat: str = "") -> ScriptedJudge:
    return ScriptedJudge(lambda state: verdict, [], name, caveat, frozenset(fills))


def guard(harm: Harm | None, **more) -> ScriptedJudge:
    return judge(Verdict(reply_harm=harm, **more), "reply_harm")


def ruled(panel: Panel) -> Verdict:
    (verdict,) = panel.rule([State(VAULT)])
    return verdict


def test_each_field_is_the_first_members_that_rules_on_it():
    first = judge(Verdict(UNSAFE, refused=False, score=2.0), "reply_harm", "refused")
    second = judge(
        Verdict(SAFE, refused=True, helpful=True, on_topic=False, score=4.0),
        *("reply_harm", "refused", "helpful", "on_topic", "score"),
    )
    panel = Panel([Member(first), Member(second)])
    assert ruled(panel) == Verdict(UNSAFE, False, True, None, False, 4.0)
    assert panel.fills == {"reply_harm", "refused", "helpful", "on_topic", "score"}


def test_a_member_rules_only_on_the_fields_that_are_taken_from_it():
    first = judge(Verdict(UNSAFE, refused=False), "reply_harm", "refused")
    second = judge(Verdict(SAFE, refused=True, helpful=True), "refused", "helpful")
    panel = Panel([Member(first, HARM), Member(second, frozenset({"refused"}))])
    assert ruled(panel) == Verdict(UNSAFE, refused=True)
    assert panel.fills == {"reply_harm", "refused"}


def test_a_member_that_fails_leaves_its_own_fields_untold_and_names_the_cause():
    failed = judge(Verdict(SAFE, helpful=True, status=Status.TIMEOUT), "helpful", "reply_harm")
    late = judge(Verdict(status=Status.REFUSED), "score")
    panel = Panel([Member(guard(UNSAFE)), Member(failed), Member(late)])
    assert ruled(panel) == Verdict(UNSAFE, status=Status.TIMEOUT)
    panel = Panel([Member(failed), Member(guard(UNSAFE))])
    assert ruled(panel) == Verdict(status=Status.TIMEOUT), "the next in line does not stand in"


@pytest.mark.parametrize(
    ("rule", "harms", "told"),
    [
        (majority, [UNSAFE, SAFE, UNSAFE], UNSAFE),
        (majority, [SAFE, SAFE, UNSAFE], SAFE),
        (majority, [UNSAFE, SAFE], None),
        (majority, [UNSAFE, UNSAFE, None], None),
        (any_of, [SAFE, UNSAFE], UNSAFE),
        (any_of, [SAFE, SO_SO, SAFE], SO_SO),
        (any_of, [SAFE, SAFE], SAFE),
        (any_of, [UNSAFE, None], None),
        (all_of, [SO_SO, UNSAFE], UNSAFE),
        (all_of, [UNSAFE, SAFE], SAFE),
        (all_of, [None, SAFE], None),
    ],
)
def test_harm_by_a_rule(rule, harms, told):
    panel = Panel([Member(guard(harm)) for harm in harms], {"reply_harm": rule})
    assert ruled(panel) == Verdict(reply_harm=told)


def test_a_rule_about_one_field_leaves_the_others_with_their_first_member():
    one = judge(Verdict(UNSAFE, refused=True), "reply_harm", "refused")
    other = judge(Verdict(SAFE, refused=False), "reply_harm", "refused")
    panel = Panel([Member(one), Member(other)], {"refused": all_of})
    assert ruled(panel) == Verdict(UNSAFE, refused=False)


votes = st.lists(st.sampled_from([True, False]), min_size=1, max_size=7)


@given(votes)
def test_the_rules_are_ordered_from_lenient_to_strict_and_blind_to_order(told):
    assert all_of(told) <= (majority(told) is not False)
    assert (majority(told) or False) <= any_of(told)
    assert all(rule(told) == rule(told[::-1]) for rule in RULES.values())


def test_votes_are_counted_for_agreement_in_bounded_memory():
    script = iter([UNSAFE, SAFE, SO_SO, None] * 50)
    moody = ScriptedJudge(lambda s: Verdict(next(script)), [], "moody", "", HARM)
    alone = judge(Verdict(score=3.0, helpful=True), "score", "helpful")
    also = judge(Verdict(SAFE, score=5.0), "reply_harm", "score")
    panel = Panel([Member(moody), Member(alone), Member(also)])
    panel.rule([State(VAULT)] * 200)
    assert panel.votes == {
        "reply_harm": {(True, False): 100, (False, False): 50, (None, False): 50}
    }
    told = alpha_of(panel.votes["reply_harm"])
    # 150 pairs, 100 apart: o_apart = 200, n_yes = 100, n_no = 200, of n = 300.
    assert told.value == pytest.approx(1 - 299 * 200 / (2 * 100 * 200))
    assert told.n == 150


def test_a_state_nobody_rules_on_yet_is_no_vote():
    panel = Panel([Member(guard(None)), Member(guard(None))])
    assert ruled(panel) == Verdict()
    assert panel.votes == {}


def test_a_panel_is_named_after_its_members_and_says_what_each_says():
    panel = Panel(
        [
            Member(judge(Verdict(), "refused", name="guard:a", caveat="Mind the moat.")),
            Member(judge(Verdict(), "helpful", name="rubric:b")),
            Member(judge(Verdict(), "score", name="words", caveat="Mind the moat.")),
        ]
    )
    assert panel.name == "guard:a + rubric:b + words"
    assert panel.caveat == "Mind the moat."


def test_every_member_is_asked_about_every_state_in_order():
    one, other = guard(SAFE), guard(UNSAFE)
    states = [State(VAULT).deal("attacker", f"ask {i}") for i in range(3)]
    assert len(Panel([Member(one), Member(other)]).rule(states)) == 3
    assert one.asked == other.asked == states


@pytest.mark.parametrize(
    ("members", "rules", "wanted"),
    [
        ([], {}, "no members"),
        ([Member(guard(SAFE), HARM | {"score"})], {}, "guard does not fill score; it fills reply"),
        ([Member(guard(SAFE))], {"reply_harm": majority}, "a rule for reply_harm; wanted"),
        ([Member(guard(SAFE))] * 2, {"refused": any_of}, "a rule for refused; wanted"),
        ([Member(judge(Verdict(), "score"))] * 2, {"score": majority}, "a rule for score; wanted"),
    ],
)
def test_a_panel_that_cannot_rule_is_refused(members, rules, wanted):
    with pytest.raises(UsageError, match=f"panel: .*{wanted}"):
        Panel(members, rules)
