"""A judge describes itself, wrappers pass that on, and the cost of all judges is counted."""

import copy
from dataclasses import dataclass

import pytest
from tests.judges.test_model_judge import Recorder, exchange, toy

from sparring import FunctionJudge, KeywordJudge, Panel, UsageError
from sparring.judges.judge import describe, spent
from sparring.judges.model_judge import Answer, ModelJudge, ScriptedEngine
from sparring.judges.panel import Member, Meter, Wrapped
from sparring.players.ranks import ALONE, Ranks
from sparring.types import Verdict

GUARD = ModelJudge(toy(), ScriptedEngine("model@abc", {}), "safe", caveat="Mind the moat.")


def rule(state) -> Verdict:
    return Verdict(refused=state.moves[-1].completion.text == "no")


@dataclass
class Plain:
    """A minimal judge of a user: a class with a name, a caveat and the fields that it fills."""

    name: str = "plain"
    caveat: str = ""
    fills: frozenset[str] = frozenset({"refused"})

    def rule(self, states):
        return [rule(state) for state in states]


def test_a_model_judges_card_has_model_revision_template_and_policy():
    card = describe(GUARD)
    assert card.to_json() == {
        "name": "toy:model@abc",
        "caveat": "Mind the moat.",
        "model": "model",
        "revision": "abc",
        "template_sha256": toy().template_sha256,
        "controversial": "safe",
    }
    assert set(card.identity()) == {"name", "fills", "template_sha256", "controversial"}


def test_a_panel_describes_its_members_and_a_wrapper_what_it_wraps():
    panel = Panel([Member(GUARD), Member(Plain(), frozenset({"refused"}))])
    wrapped = Wrapped(panel, panel.rule)
    assert describe(wrapped) == describe(panel)
    assert (wrapped.name, wrapped.caveat) == ("toy:model@abc + plain", "Mind the moat.")
    assert wrapped.fills == {"reply_harm", "refused"}
    members = describe(panel).identity()["members"]
    assert [member["takes"] for member in members] == [["reply_harm"], ["refused"]]
    assert members[0]["controversial"] == "safe"
    names = [member["name"] for member in describe(panel).to_json()["members"]]
    assert names == ["toy:model@abc", "plain"]


def test_a_wrapped_judge_is_copied_like_any_other():
    wrapped = copy.deepcopy(Wrapped(GUARD, GUARD.rule))
    assert (wrapped.name, wrapped.fills) == (GUARD.name, GUARD.fills)


@pytest.mark.parametrize("judge", [FunctionJudge(rule, {"refused"}), Plain()])
def test_a_function_and_a_plain_class_are_judges_that_cost_nothing(judge):
    assert [verdict.refused for verdict in judge.rule([exchange("like so"), exchange("no")])] == [
        False,
        True,
    ]
    assert describe(judge).identity() == {"name": judge.name, "fills": ["refused"]}
    assert spent(Panel([Member(judge), Member(KeywordJudge())])) == {}


def test_a_function_is_named_after_itself_and_fills_fields_of_a_verdict():
    assert FunctionJudge(rule, {"refused"}).name == "rule"
    with pytest.raises(UsageError, match="luck is no field"):
        FunctionJudge(rule, {"luck"})


PAID = Answer("safe", prompt_tokens=7, completion_tokens=2)


def judge() -> ModelJudge:
    return ModelJudge(toy(), Recorder(*[PAID] * 9))


def replies(n):
    return [exchange(f"reply {i}") for i in range(n)]


def test_a_reading_holds_what_was_spent_since_the_last_one_by_judge():
    paying, held_out = judge(), judge()
    paying.rule(replies(5))
    meter = Meter({"judge": paying, "held_out_judge": held_out}, ALONE)
    assert meter.read() == {}, "what was spent before does not count"
    paying.rule(replies(3))
    held_out.rule(replies(2))
    other = {"calls": 2, "prompt_tokens": 14, "completion_tokens": 4}
    assert meter.read() == {
        "judge": {"calls": 3, "prompt_tokens": 21, "completion_tokens": 6},
        "held_out_judge": other,
    }
    held_out.rule(replies(2))
    assert meter.read() == {"held_out_judge": other}


@dataclass(frozen=True)
class Twins(Ranks):
    """Ranks of two processes whose results are the same."""

    def gather(self, value):
        return [value, value]


def test_every_member_and_every_process_counts():
    members = judge(), judge(), KeywordJudge()
    panel = Panel([Member(member) for member in members])
    meter = Meter({"judge": Wrapped(panel, panel.rule)}, Twins())
    panel.rule(replies(3))
    assert [member.usage["calls"] for member in members[:2]] == [3, 3]
    assert meter.read() == {"judge": {"calls": 12, "prompt_tokens": 84, "completion_tokens": 24}}
