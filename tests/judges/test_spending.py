"""What judges cost, from one reading to the next, in all processes of a run."""

from dataclasses import dataclass

from tests.judges.test_model_judge import asked, toy

from sparring.judges.judge import KeywordJudge
from sparring.judges.model_judge import Answer, ModelJudge
from sparring.judges.panel import Member, Meter, Panel, Wrapped
from sparring.players.ranks import ALONE, Ranks


class Paid:
    """An engine whose every answer costs 7 tokens in and 2 out."""

    identity = "paid"

    def answer(self, asks, heard=None):
        return [Answer("safe", prompt_tokens=7, completion_tokens=2) for _ in asks]


def judge():
    return ModelJudge(toy(), Paid())


def replies(n):
    return [asked(f"reply {i}") for i in range(n)]


def test_a_reading_tells_what_was_spent_since_the_last_one_by_judge():
    paying, held_out = judge(), judge()
    paying.rule(replies(5))
    meter = Meter({"judge": paying, "held_out_judge": held_out}, ALONE)
    assert meter.read() == {}, "what was spent before is not told"
    paying.rule(replies(3))
    held_out.rule(replies(2))
    told = {"calls": 3, "prompt_tokens": 21, "completion_tokens": 6}
    other = {"calls": 2, "prompt_tokens": 14, "completion_tokens": 4}
    assert meter.read() == {"judge": told, "held_out_judge": other}
    held_out.rule(replies(2))
    assert meter.read() == {"held_out_judge": other}


@dataclass(frozen=True)
class Twins(Ranks):
    """Two processes that do the same."""

    def gather(self, mine):
        return [mine, mine]


def test_every_member_and_every_process_counts():
    members = judge(), judge(), KeywordJudge()
    panel = Wrapped(Panel([Member(one) for one in members]), None)
    meter = Meter({"judge": panel}, Twins())
    panel.judge.rule(replies(3))
    first, second, _ = members
    assert (first.usage["calls"], second.usage["calls"]) == (3, 3)
    assert meter.read() == {"judge": {"calls": 12, "prompt_tokens": 84, "completion_tokens": 24}}
