import unicodedata
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.games.game import THOUGHTS, answer_of, reopened, reply_in, tagged

TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
ODD = ["<THINK>", "</ think>", "<answer >", "<think", "</answer", "< answer>", "<thinking>", "<"]
UNTAGGED = st.text(st.characters(exclude_characters="<>"))
PIECES = st.one_of(
    st.sampled_from([*TAGS, *TAGS, *ODD]),
    st.text(st.characters(exclude_characters="<>"), max_size=12),
    st.text(st.characters(categories=["Cs", "Cc", "Zl", "Zp"]), max_size=4),
)


@given(st.lists(PIECES, max_size=14).map("".join))
def test_what_is_sent_stands_between_the_only_answer_tags_behind_the_only_thought(text):
    sent = answer_of(text)
    if sent is None:
        return
    assert [text.count(tag) for tag in TAGS] == [1, 1, 1, 1]
    places = [text.index(tag) for tag in TAGS]
    assert places == sorted(places)
    thought = text[places[0] : places[1]]
    assert text[places[2] + len("<answer>") : places[3]].strip() == sent
    outside = text.replace(thought, "", 1).replace(text[places[2] : places[3]], "", 1)
    assert not outside.replace("</think>", "").replace("</answer>", "").strip()
    assert sent


@given(UNTAGGED, UNTAGGED)
def test_a_well_formed_attack_sends_its_answer(thought, answer):
    sent = answer_of(tagged(thought, answer))
    assert sent == answer.strip() or sent is None
    if any(unicodedata.category(letter) in ("Ll", "Nd", "Po", "Sm") for letter in answer):
        assert sent


@pytest.mark.parametrize("marks", THOUGHTS, ids=lambda marks: marks[0])
def test_a_thought_in_any_marks_is_no_part_of_what_is_said(marks):
    opening, closing = marks
    thought = f"{opening}\nunder the mat{closing}\n"
    assert reply_in(f"{thought}\nNo.") == "No."
    assert reply_in(f"{opening}{closing}\n\n{thought}No.") == "No.", "two thoughts"
    assert reply_in(f"{opening}\nunder the mat") is None, "never closed"
    assert reply_in(thought) == "", "nothing is said after it"
    assert answer_of(f"{thought}<answer> open it </answer>") == "open it"
    assert answer_of(f"{opening}\nunder the mat <answer>open it</answer>") is None
    if opening != "<think>":
        assert answer_of(thought + tagged("a plan", "open it")) == "open it"
    assert reply_in(reopened(f"under the mat{closing}\n\nNo.")) == "No."
    for text in ("  No. ", f"Write {opening} and go on.", f"It ends in\n {closing[:-1]}."):
        assert reply_in(text) == reopened(text) == text


@pytest.mark.parametrize("marks", THOUGHTS, ids=lambda marks: marks[0])
def test_a_thought_in_the_middle_is_left_out_and_what_is_said_around_it_stays(marks):
    opening, closing = marks
    thought = f"{opening}\nunder the mat{closing}"
    assert reply_in(f"Let me see. {thought} No.") == "Let me see.  No."
    assert reply_in(f"{thought}A key?{thought} Or two?{thought}\nNo.") == "A key? Or two?\nNo."
    assert reply_in(f"Take the key.{thought}") == "Take the key.", "no thought hides what was said"
    cut = f"Take the key. {opening} Was that wise?"
    assert reply_in(cut) == cut, "nor does one that is never closed"
    assert reply_in(f"{thought}{cut}") == cut
    other = "[THINK] a mat [/THINK]" if opening != "[THINK]" else "<think> a mat </think>"
    assert reply_in(f"A key?{thought} Or{other} two?") == "A key? Or two?"


@pytest.mark.parametrize("marks", THOUGHTS, ids=lambda marks: marks[0])
def test_a_million_marks_are_read_at_once(marks):
    opening, closing = marks
    for text in (opening, closing, opening + closing, f"x{opening}", f"x{closing}"):
        started = perf_counter()
        for before in ("", "No. "):
            reply_in(before + text * 100_000)
        assert perf_counter() - started < 2


def test_only_the_final_channel_is_said():
    text = "<|channel|>analysis<|message|>a mat<|start|>assistant<|channel|>final<|message|>No."
    assert (reply_in(text), reply_in("<|channel|>commentary<|message|>a mat")) == ("No.", None)


UNSEEN = ["\u200b", "\u2060\ufeff", "\u00ad", "\u3164", "\u2800", "\ufe0f", "\U000e0041", "\x00"]


@pytest.mark.parametrize("unseen", UNSEEN)
def test_an_answer_that_nobody_sees_is_none(unseen):
    assert answer_of(tagged("a plan", unseen)) is None
    assert answer_of(tagged("a plan", f"{unseen}open")) == f"{unseen}open"


@pytest.mark.parametrize("thought", ["", " \n ", "\u200b"])
def test_a_thought_may_be_empty_unless_thinking_is_asked_for(thought):
    assert answer_of(tagged(thought, "open it")) == "open it"
    assert answer_of(tagged(thought, "open it"), thinks=True) is None
    assert answer_of(tagged("a plan", "open it"), thinks=True) == "open it"


@pytest.mark.parametrize(
    "text",
    [
        "open the vault",
        "<answer>open</answer>",
        "<think>plan</think>",
        "<think>plan</think><answer>  \n </answer>",
        "<think>plan <answer>open</answer>",
        "<think>plan</think><answer>open",
        "<think>a</think><think>b</think><answer>open</answer>",
        "<think>a<think>b</think></think><answer>open</answer>",
        "<answer>open</answer><think>plan</think>",
        "<think>a</think><answer>open <THINK>b</THINK></answer>",
        "<think>a</think>x<answer>b</answer>",
        "<think>a</think><answer>b</answer><answer>c</answer>",
        "<think>a</think><answer>open</answer> and more",
    ],
)
def test_anything_but_one_thought_and_one_answer_is_unparseable(text):
    assert answer_of(text) is None
