"""Diversity is logged as numbers that can be worked by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.diversity.played import played
from tests.table import BRIEFS, HELD, VAULT, ScriptedJudge, attacks, cast, magic, says

from sparring.arena import play
from sparring.diversity import (
    _matched,
    bag_of_words,
    bleus,
    distinctness,
    diversity,
    grams,
    rewarded,
    self_bleu,
    siblings,
    strategy_entropy,
)
from sparring.games.dialogue import Dialogue
from sparring.games.game import attacks_of, tagged
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.metrics import of_episodes
from sparring.players.player import ScriptedPolicy
from sparring.types import Player, State, Verdict

lines = st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=2, max_size=6)


def score(text: str, *references: str) -> float:
    return bleus([text, *references])[0]


def test_worked_distinctness():
    # cosines: (a b, a b) 1, (a b, a c) 1/2, twice
    assert distinctness(["a b", "b a", "a c"]) == pytest.approx([0.25, 0.25, 0.5])


def test_a_text_alone_differs_from_nothing():
    assert distinctness(["a tale"]) == [0.0]


@given(lines)
def test_distinctness_lies_between_nothing_and_all(texts):
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in distinctness(texts))


@given(st.lists(st.text("abc "), max_size=6))
def test_similarities_are_symmetric_and_a_text_is_like_itself(texts):
    told = bag_of_words(texts)
    assert told == [list(column) for column in zip(*told, strict=True)]
    assert [row[i] for i, row in enumerate(told)] == pytest.approx([1.0] * len(texts))


@pytest.mark.parametrize(
    ("text", "references", "value"),
    [
        # precisions 5/7, 4/6, 3/5, 2/4; as long as the reference
        ("tell a tale of the old dragon", ["tell a tale of the young giant"], (1 / 7) ** (1 / 4)),
        # 3 words of 4: BP = exp(1 − 4/3); precisions 3/3, 1/2, and 0.1/1 for no match in one
        ("sing a song", ["sing of a song"], math.exp(-1 / 3) * 0.05 ** (1 / 3)),
        # the first reference holds "the" twice, so 2 of 4 count; BP = exp(1 − 6/4)
        (
            "the the the the",
            ["the cat is on the mat", "there is a cat on the mat"],
            math.exp(-1 / 2) * (2 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1 / 1) ** (1 / 4),
        ),
        # n-grams of both references count; of lengths 2 and 4 the shorter is as near as the other
        ("a red fox", ["a red", "the red fox ran"], 0.1 ** (1 / 3)),
    ],
)
def test_worked_bleu(text, references, value):
    assert score(text, *references) == pytest.approx(value)


def test_a_short_copy_is_a_copy_and_nothing_in_common_is_nothing():
    assert score("open sesame", "open sesame") == 1.0
    assert score("open sesame", "wake the giant") == 0.0


@given(lines)
def test_bleu_lies_between_nothing_and_all(texts):
    assert 0 <= score(*texts) <= 1 + 1e-9


@given(lines)
def test_an_n_gram_counts_at_most_as_often_as_one_other_text_has_it(texts):
    told = [grams(text) for text in texts]
    for n in range(4):
        for i, own in enumerate(told):
            others = [text[n] for j, text in enumerate(told) if j != i]
            clipped = sum(min(k, max(o[gram] for o in others)) for gram, k in own[n].items())
            assert _matched([text[n] for text in told])[i] == clipped


def test_worked_self_bleu():
    # Each of the first two against its copy is 1; the third has no word of theirs.
    told = played(["tell a tale of old", "tell a tale of old", "sing"])
    assert self_bleu(told) == pytest.approx(2 / 3)
    assert diversity(told) == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_attacks_that_were_turned_away_are_not_compared():
    episodes = played(["a", "b"], Verdict(on_topic=False))
    assert (diversity(episodes), self_bleu(episodes)) == (None, None)


def test_what_was_dealt_is_no_attackers_and_not_compared():
    sent = [State(VAULT).deal(Player.ATTACKER, text) for text in ("a tale", "sing")]
    table = cast(attacks("x"), says("no"))
    assert siblings(play(magic(), sent, table, ScriptedJudge(lambda s: HELD), {}, "s")) == {}


def test_what_an_attack_goes_on_with_is_no_sibling_of_itself():
    """One first attack, four replies that hold, four second attacks: nobody to differ from."""
    game = Dialogue(LabelPayoff(MAGIC), BRIEFS, exchanges=2)
    judge = ScriptedJudge(lambda state: HELD)
    again = ScriptedPolicy(lambda seen, at: tagged("plan", f"try {len(seen)} {at.split('/')[-2]}"))
    table = cast(again, says("no", "not now", "never", "go"))
    for attacks_made, alone in ((1, True), (2, False)):
        widths = {Player.ATTACKER: attacks_made, Player.DEFENDER: 4}
        episodes = play(game, [State(VAULT)], table, judge, widths, "s")
        assert len({e.state.moves[2].completion.text for e in episodes}) > 1
        assert (diversity(episodes) is None) is alone
        paid = [e.returns[Player.ATTACKER] for e in rewarded(episodes, 1.0)]
        assert (paid == [e.returns[Player.ATTACKER] for e in episodes]) is alone
        first = " ".join(attacks_of(episodes[0].state))
        assert siblings(episodes)[0][0,].text == first, "its first game stands for a fork"


def test_both_are_logged_every_round_in_which_siblings_were_sent():
    told = of_episodes(played(["tell a tale", "tell a tale", "sing the song of it"], replies=2))
    assert 0 < told["diversity"] < 1
    assert 0 < told["self_bleu"] < 1
    assert not {"diversity", "self_bleu"} & of_episodes(played(["alone"])).keys()


def test_worked_entropy():
    # shares 1/2, 1/4, 1/4: 1.5 bits
    assert strategy_entropy([4, 2, 2]) == pytest.approx(1.5 * math.log(2))
    assert strategy_entropy([5, 5, 5]) == pytest.approx(math.log(3))
    assert strategy_entropy([7, 0]) == 0.0
