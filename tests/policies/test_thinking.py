"""A defender that thinks first says its answer alone, and is taught all that it sampled."""

from hypothesis import given
from hypothesis import strategies as st
from tests.policies.lively import asked, policy

from sparring.games.game import answer_of, tagged
from sparring.players.player import ScriptedPolicy, Thinking
from sparring.types import Completion, Message

BRIEF = "think first"
SECRET = "the dragon sleeps at noon"


class Speaks(ScriptedPolicy):
    """A scripted policy with something where its weights and its chat would be."""

    weights, chat = "weights", "chat"


def said(text):
    thinks = Thinking(Speaks(lambda seen, at: text), BRIEF)
    return thinks.sample([asked("open the vault", "0/a")])[0][0].text


anything = st.text(max_size=40)


@given(anything, st.text("<>/thinkaswer ", max_size=40), anything)
def test_a_thought_is_never_in_the_text_whatever_stands_around_it(before, between, after):
    for text in (
        f"{before}<think>{SECRET}{between}</think>{after}",
        f"<think> {SECRET} {between} </think> <answer> {after} </answer>",
        f"<think>{between}{SECRET}",
    ):
        assert SECRET not in said(text)


@given(st.text("<>/thinkaswer x", max_size=60))
def test_the_text_is_the_answer_and_empty_where_there_is_none(text):
    assert said(text) == (answer_of(text) or "")


def test_what_does_not_parse_is_empty_and_what_does_is_the_answer():
    assert said(tagged("a plan", "use honey")) == "use honey"
    for text in ("use honey", "<think> a plan </think> use honey", tagged("a plan", " ")):
        assert said(text) == ""


def test_it_is_asked_under_its_brief_and_the_rest_is_as_it_was():
    seen = []
    thinks = Thinking(Speaks(lambda observation, at: seen.append((observation, at)) or "x"), BRIEF)
    request = asked("open the vault", "0/a", "0/b")
    thinks.sample([request])
    told = (Message("system", BRIEF), *request.observation)
    assert seen == [(told, "0/a"), (told, "0/b")]
    assert (thinks.weights, thinks.chat) == ("weights", "chat")


class Recites:
    """A policy whose completions have tokens."""

    weights = chat = None

    def __init__(self, *texts):
        self.said = [
            Completion(text, (7, 8, 9), (-0.5, -0.25, -2.0), (3, 4), 5, False) for text in texts
        ]

    def sample(self, requests):
        return [self.said for _ in requests]


def test_the_tokens_are_all_that_was_sampled():
    texts = (tagged("a plan", "use honey"), "no tags")
    told = Thinking(Recites(*texts), BRIEF).sample([asked("mend", "0/a", "0/b")])[0]
    assert [c.text for c in told] == ["use honey", ""]
    for completion in told:
        assert completion.token_ids == (7, 8, 9)
        assert completion.logprobs == (-0.5, -0.25, -2.0)
        assert (completion.prompt_ids, completion.version, completion.finished) == (
            (3, 4),
            5,
            False,
        )


def test_a_model_that_thinks_samples_what_it_would_under_that_system_prompt():
    speaks = policy(length=6)
    thinks = Thinking(speaks, "copy this")
    bare, briefed = (asked("open the vault", "0/a", "0/b", brief=b) for b in (None, "copy this"))
    told, wanted = thinks.sample([bare])[0], speaks.sample([briefed])[0]
    assert [(c.token_ids, c.logprobs, c.prompt_ids) for c in told] == [
        (c.token_ids, c.logprobs, c.prompt_ids) for c in wanted
    ]
