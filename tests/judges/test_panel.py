"""Several judges make one verdict by a stated rule, and a failed judge is not replaced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.table import VAULT, ScriptedJudge

from sparring.judges.panel import RULES, Member, Panel, all_of, any_of, majority
from sparring.stats.agreement import alpha_of
from sparring.types import Harm, State, Status, UsageError, Verdict

UNSAFE, SAFE, SO_SO = Harm.UNSAFE, Harm.SAFE, Harm.CONTROVERSIAL
HARM, REFUSED = frozenset({"reply_harm"}), frozenset({"refused"})


def judge(verdict: Verdict, *fills: str, name: str = "guard", caveat: str = "") -> ScriptedJudge:
    return ScriptedJudge(lambda state: verdict, [], name, caveat, frozenset(fills))


def guard(harm: Harm | None) -> ScriptedJudge:
    return judge(Verdict(reply_harm=harm), "reply_harm")


def ruled(*members, rules=None) -> Verdict:
    """The verdict of a panel of these judges, each of which may fill only some fields."""
    panel = Panel([m if isinstance(m, Member) else Member(m) for m in members], rules or {})
    (verdict,) = panel.rule([State(VAULT)])
    return verdict


def test_each_field_is_the_first_members_that_rules_on_it():
    first = judge(Verdict(UNSAFE, refused=False, score=2.0), "reply_harm", "refused")
    both = Verdict(SAFE, refused=True, helpful=True, on_topic=False, score=4.0)
    second = judge(both, "reply_harm", "refused", "helpful", "on_topic", "score")
    assert ruled(first, second) == Verdict(UNSAFE, False, True, None, False, 4.0)
    assert Panel([Member(first), Member(second)]).fills == second.fills
    some = Member(first, HARM), Member(second, REFUSED)
    assert ruled(*some) == Verdict(UNSAFE, refused=True)
    assert Panel(some).fills == HARM | REFUSED


def test_a_member_that_fails_leaves_its_own_fields_empty_and_names_the_cause():
    failed = judge(Verdict(SAFE, helpful=True, status=Status.TIMEOUT), "helpful", "reply_harm")
    late = judge(Verdict(status=Status.REFUSED), "score")
    assert ruled(guard(UNSAFE), failed, late) == Verdict(UNSAFE, status=Status.TIMEOUT)
    empty = Verdict(status=Status.TIMEOUT)
    assert ruled(failed, guard(UNSAFE)) == empty, "the next in line does not stand in"


@pytest.mark.parametrize(
    ("rule", "harms", "harm"),
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
def test_harm_by_a_rule(rule, harms, harm):
    assert ruled(*map(guard, harms), rules={"reply_harm": rule}) == Verdict(reply_harm=harm)


def test_a_rule_about_one_field_leaves_the_others_with_their_first_member():
    first = judge(Verdict(UNSAFE, refused=True), "reply_harm", "refused")
    second = judge(Verdict(SAFE, refused=False), "reply_harm", "refused")
    assert ruled(first, second, rules={"refused": all_of}) == Verdict(UNSAFE, refused=False)


@given(st.lists(st.booleans(), min_size=1, max_size=7))
def test_the_rules_are_ordered_from_lenient_to_strict_and_blind_to_order(votes):
    assert all_of(votes) <= (majority(votes) is not False)
    assert (majority(votes) or False) <= any_of(votes)
    assert all(rule(votes) == rule(votes[::-1]) for rule in RULES.values())


def test_votes_are_counted_for_agreement_in_bounded_memory():
    script = iter([UNSAFE, SAFE, SO_SO, None] * 50)
    moody = ScriptedJudge(lambda s: Verdict(next(script)), [], "moody", "", HARM)
    alone = judge(Verdict(score=3.0, helpful=True), "score", "helpful")
    also = judge(Verdict(SAFE, score=5.0), "reply_harm", "score")
    panel = Panel([Member(moody), Member(alone), Member(also)])
    panel.rule([State(VAULT)] * 200)
    votes = {(True, False): 100, (False, False): 50, (None, False): 50}
    assert panel.votes == {"reply_harm": votes}
    alpha = alpha_of(votes)
    # 150 pairs, 100 apart: o_apart = 200, n_yes = 100, n_no = 200, of n = 300.
    assert alpha.value == pytest.approx(1 - 299 * 200 / (2 * 100 * 200))
    assert alpha.n == 150


def test_a_state_nobody_rules_on_yet_is_no_vote():
    panel = Panel([Member(guard(None)), Member(guard(None))])
    assert panel.rule([State(VAULT)]) == [Verdict()]
    assert panel.votes == {}


def test_a_panel_is_named_after_its_members_and_asks_each_about_every_state_in_order():
    first = judge(Verdict(), "refused", name="guard:a", caveat="Mind the moat.")
    second = judge(Verdict(), "helpful", name="rubric:b")
    third = judge(Verdict(), "score", name="words", caveat="Mind the moat.")
    panel = Panel([Member(first), Member(second), Member(third)])
    assert (panel.name, panel.caveat) == ("guard:a + rubric:b + words", "Mind the moat.")
    states = [State(VAULT).deal("attacker", f"ask {i}") for i in range(3)]
    assert len(panel.rule(states)) == 3
    assert first.states == second.states == third.states == states


@pytest.mark.parametrize(
    ("members", "rules", "message"),
    [
        ([], {}, "no members"),
        ([Member(guard(SAFE), HARM | {"score"})], {}, "guard does not fill score; it fills reply"),
        ([Member(guard(SAFE))], {"reply_harm": majority}, "a rule for reply_harm; wanted"),
        ([Member(guard(SAFE))] * 2, {"refused": any_of}, "a rule for refused; wanted"),
        ([Member(judge(Verdict(), "score"))] * 2, {"score": majority}, "a rule for score; wanted"),
    ],
)
def test_a_panel_that_cannot_rule_is_refused(members, rules, message):
    with pytest.raises(UsageError, match=f"panel: .*{message}"):
        Panel(members, rules)
