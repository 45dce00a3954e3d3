"""A judge that fails its start-up questions is refused before any work, with its answers."""

from collections import Counter
from dataclasses import replace

import pytest
from tests.table import FILLS, ScriptedJudge

from sparring.judges.judge import KeywordJudge
from sparring.judges.probe import KNOWN, admit, probe
from sparring.types import Harm, Status, UsageError, Verdict

BY_TEXT = {(known.state.moves[0].sent, known.reply): known for known in KNOWN}
FIELDS = ("reply_harm", "refused", "helpful", "prompt_harmful", "on_topic", "score")


def right(state, **others) -> Verdict:
    """A perfect judge's verdict but for `others`; fields that are not known of it are empty."""
    known = BY_TEXT[state.moves[0].sent, state.moves[1].sent].known
    fields = {name: known.get(name) for name in FIELDS}
    fields["reply_harm"] = Harm.UNSAFE if known["reply_harm"] else Harm.SAFE
    fields["score"] = {True: 4.0, False: 2.0, None: None}[known.get("score")]
    return replace(Verdict(**fields), **others)


def guard(script, fills=FILLS) -> ScriptedJudge:
    return ScriptedJudge(script, name="guard", fills=fills)


def test_what_is_known_has_both_sides_of_every_field_and_names_of_its_own():
    sides = Counter(side for known in KNOWN for side in known.known.items())
    assert min(sides[name, value] for name in FIELDS for value in (True, False)) >= 2
    assert len({known.name for known in KNOWN}) == len(KNOWN)


def test_a_judge_that_is_right_is_let_in_and_so_is_the_stand_in():
    result = admit(guard(right))
    assert not result.wrong
    assert (result.right["reply_harm", True], result.right["reply_harm", False]) == ((3, 3), (8, 8))
    assert not admit(KeywordJudge()).wrong


@pytest.mark.parametrize("harm", Harm)
def test_one_that_always_says_the_same_is_refused_by_name(harm):
    judge = guard(lambda _: Verdict(reply_harm=harm), frozenset({"reply_harm"}))
    with pytest.raises(UsageError) as error:
        admit(judge, "exam.judge")
    side, n = ("true", 3) if harm is Harm.SAFE else ("false", 8)
    assert str(error.value).startswith("exam.judge: guard fails its start-up questions")
    assert f"reply_harm is right on 0 of {n} where it is {side}" in str(error.value)
    assert f"burglary, told: reply_harm {harm}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in FIELDS[1:-1] for value in (True, False, None)]
    + [("score", value) for value in (1.0, 5.0, None)],
)
def test_one_field_that_never_changes_is_enough_to_be_refused(name, value):
    with pytest.raises(UsageError, match=f"{name} is right on 0 of"):
        admit(guard(lambda state: right(state, **{name: value})))


def test_the_opposite_is_refused_and_one_wrong_answer_of_three_is_let_through():
    def opposite(state):
        return right(state, reply_harm=Harm.SAFE if right(state).harmful else Harm.UNSAFE)

    def shaky(state):
        return right(state, **({"reply_harm": Harm.SAFE} if "bank" in state.seed.text else {}))

    assert len(probe(guard(opposite)).wrong) == 2
    result = probe(guard(shaky))
    assert (result.right["reply_harm", True], result.wrong) == ((2, 3), [])


def test_all_is_asked_at_once_about_the_fields_that_are_filled_and_answers_stand_by_item():
    judge = guard(
        lambda state: right(state, on_topic="egg" in state.seed.text or None),
        frozenset({"on_topic"}),
    )
    result = probe(judge)
    assert len(judge.states) == len(KNOWN)
    assert {name for name, _ in result.right} == {"on_topic"}
    names = [known.name for known in KNOWN if "on_topic" in known.known]
    assert [name for name, _, _ in result.items] == names
    assert "lantern, refused" not in names
    assert [text for _, good, text in result.items if good] == ["egg, told: on_topic True"]
    assert ("egg, not asked for", False, "egg, not asked for: on_topic True") in result.items


def test_one_that_cannot_tell_is_refused_with_the_reason_whatever_label_stands_beside_it():
    failing = guard(lambda state: right(state, status=Status.PARSE_ERROR))
    with pytest.raises(UsageError, match="egg, told: parse_error"):
        admit(failing)
    assert all(n == 0 for n, _ in probe(failing).right.values())
