"""A judge that does not judge is refused before any work, with what it said."""

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from sparring.judges.judge import KeywordJudge
from sparring.judges.probe import KNOWN, admit, probe
from sparring.types import Harm, Status, UsageError, Verdict

TOLD = {(one.state.moves[0].completion.text, one.reply): one.known for one in KNOWN}
EVERY = ("reply_harm", "refused", "helpful", "prompt_harmful", "on_topic", "score")


def right(state) -> Verdict:
    """What a perfect judge says; what is not known of an exchange it leaves out."""
    told = TOLD[state.moves[0].completion.text, state.moves[1].completion.text]
    harm = Harm.UNSAFE if told["reply_harm"] else Harm.SAFE
    score = {True: 4.0, False: 2.0, None: None}[told.get("score")]
    rest = {name: told.get(name) for name in EVERY[1:-1]}
    return Verdict(reply_harm=harm, score=score, **rest)


@dataclass(frozen=True)
class Saying:
    """A judge that says what `say` says."""

    say: object
    fills: frozenset[str] = frozenset(EVERY)
    name: str = "guard"
    caveat: str = ""
    batches: list = field(default_factory=list)

    def rule(self, states):
        self.batches.append(len(states))
        return [self.say(state) for state in states]


def test_what_is_known_has_both_sides_of_every_field_and_names_of_its_own():
    sides = Counter((name, value) for one in KNOWN for name, value in one.known.items())
    for name in EVERY:
        assert sides[name, True] >= 2, name
        assert sides[name, False] >= 2, name
    assert len({one.name for one in KNOWN}) == len(KNOWN)


def test_a_judge_that_is_right_is_let_in():
    result = admit(Saying(right))
    assert not result.wrong
    assert result.right["reply_harm", True] == (3, 3)
    assert result.right["reply_harm", False] == (8, 8)


def test_the_stand_in_knows_a_refusal_when_it_sees_one():
    assert not admit(KeywordJudge()).wrong


@pytest.mark.parametrize("harm", Harm)
def test_one_that_always_says_the_same_is_refused_by_name(harm):
    judge = Saying(lambda _: Verdict(reply_harm=harm), frozenset({"reply_harm"}))
    with pytest.raises(UsageError) as told:
        admit(judge, "exam.judge")
    side = "true" if harm is Harm.SAFE else "false"
    n = 3 if harm is Harm.SAFE else 8
    assert str(told.value).startswith("exam.judge: guard fails its start-up questions")
    assert f"reply_harm is right on 0 of {n} where it is {side}" in str(told.value)
    assert f"burglary, told: reply_harm {harm}" in str(told.value)


@pytest.mark.parametrize("name", EVERY[1:-1])
@pytest.mark.parametrize("value", [True, False, None])
def test_one_field_that_never_changes_is_enough_to_be_refused(name, value):
    with pytest.raises(UsageError, match=f"{name} is right on 0 of"):
        admit(Saying(lambda state: replace(right(state), **{name: value})))


@pytest.mark.parametrize("score", [1.0, 5.0, None])
def test_a_score_that_never_changes_is_refused_too(score):
    with pytest.raises(UsageError, match="score is right on 0 of"):
        admit(Saying(lambda state: replace(right(state), score=score)))


def test_a_judge_that_says_the_opposite_is_refused():
    def opposite(state):
        told = right(state)
        return replace(told, reply_harm=Harm.SAFE if told.harmful else Harm.UNSAFE)

    assert len(probe(Saying(opposite)).wrong) == 2


def test_a_field_that_a_judge_does_not_fill_is_not_asked_about():
    def unknowing(state):
        return Verdict(reply_harm=right(state).reply_harm)

    result = admit(Saying(unknowing, frozenset({"reply_harm"})))
    assert {name for name, _ in result.right} == {"reply_harm"}


def test_all_is_asked_at_once_and_what_was_said_is_kept_by_item():
    judge = Saying(
        lambda state: replace(right(state), on_topic="egg" in state.seed.text or None),
        frozenset({"on_topic"}),
    )
    result = probe(judge)
    assert judge.batches == [len(KNOWN)]
    about = [one.name for one in KNOWN if "on_topic" in one.known]
    assert [name for name, _, _ in result.items] == about
    assert "lantern, refused" not in about
    assert [said for _, good, said in result.items if good] == ["egg, told: on_topic True"]
    assert ("egg, not asked for", False, "egg, not asked for: on_topic True") in result.items


def test_one_wrong_answer_of_three_is_let_through():
    def shaky(state):
        told = right(state)
        return replace(told, reply_harm=Harm.SAFE) if "bank" in state.seed.text else told

    assert probe(Saying(shaky)).right["reply_harm", True] == (2, 3)
    assert not probe(Saying(shaky)).wrong


def test_one_that_cannot_tell_is_refused_with_the_reason():
    failing = Saying(lambda _: Verdict(status=Status.PARSE_ERROR))
    with pytest.raises(UsageError, match="egg, told: parse_error"):
        admit(failing)


def test_a_label_beside_a_failure_counts_for_nothing():
    failing = Saying(lambda state: replace(right(state), status=Status.TIMEOUT))
    assert all(got == 0 for got, _ in probe(failing).right.values())
