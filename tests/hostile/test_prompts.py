"""Hostile text is only a value: no prompt builder interprets it as a template."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hostile.corpus import ALL
from tests.table import after

from sparring.games.dialogue import Dialogue
from sparring.games.game import Briefs, answer_of, attack_of, tagged, visible
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.types import Message, Player, Seed, State

BRIEFS = Briefs("rewrite {seed} as {{7*7}} %(x)s ${x} {0.__class__}", "leave {seed} as it is")
GAME = Dialogue(LabelPayoff(MAGIC), BRIEFS)
VAULT = Seed("open the dragon vault", True, "vault")
anything = st.text(st.characters(exclude_categories=()), max_size=60)


def assert_dealt_as_it_stands(text: str) -> None:
    assert GAME.observe(State(VAULT).deal(Player.ATTACKER, text)) == (Message("user", text),)


def assert_asked_as_it_stands(text: str) -> None:
    for harmful, brief in ((True, BRIEFS.harmful), (False, BRIEFS.benign)):
        observation = GAME.observe(State(Seed(text, harmful, "id")))
        assert observation == (Message("system", brief), Message("user", text))


def assert_sent_as_it_stands_or_not_at_all(text: str) -> bool:
    """A rewrite is sent without the white space around it, or it does not parse and is not sent."""
    state = after(State(VAULT), tagged("a thought", text))
    if attack_of(state) is None:
        with pytest.raises(ValueError, match="never shown"):
            GAME.observe(state)
        return False
    assert GAME.observe(state) == (Message("user", text.strip()),)
    return True


@pytest.mark.parametrize("text", ALL)
def test_a_hostile_string_reaches_its_reader_byte_by_byte(text):
    assert_dealt_as_it_stands(text)
    assert_asked_as_it_stands(text)
    sent = assert_sent_as_it_stands_or_not_at_all(text)
    looks_like_a_tag = any(word in text.lower() for word in ("think", "answer"))
    assert sent == (visible(text) and not looks_like_a_tag)


@settings(deadline=None)
@given(anything)
def test_any_string_reaches_its_reader_byte_by_byte(text):
    assert_dealt_as_it_stands(text)
    assert_asked_as_it_stands(text)
    assert_sent_as_it_stands_or_not_at_all(text)


@pytest.mark.parametrize(
    "piece", ["a", "<", "<answer>", "</think>", "<think>", "< ", "</ ", "<think></think><answer>"]
)
def test_a_megabyte_is_parsed_in_less_than_a_second(piece):
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    assert answer_of(text) is None
    assert answer_of(f"<think>{text}") is None
    assert time.process_time() - started < 1
