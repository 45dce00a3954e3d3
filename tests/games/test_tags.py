import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.games.game import answer_of, tagged

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
    assert answer_of(tagged(thought, answer)) == (answer.strip() or None)


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
