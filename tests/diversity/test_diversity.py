"""Diversity equals values worked by hand, and superficial differences earn no bonus."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.table import BROKEN, FAILED, HELD, VAULT, ScriptedJudge, attacks, cast, magic, says

from sparring.arena import play
from sparring.diversity import (
    GUARDS,
    bag_of_words,
    bleus,
    distinctness,
    diversity_metrics,
    repeats_itself,
    rewarded,
    siblings,
    strategy_entropy,
    wraps_the_seed,
)
from sparring.games.game import tagged
from sparring.players.player import ScriptedPolicy
from sparring.types import Player, State, Verdict

A, D = Player.ATTACKER, Player.DEFENDER
REFUSED = -1.0
"""The attacker's return for a refused attack in the right format."""
lines = st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=2, max_size=6)


def played(texts, verdict=HELD, replies=1, rule=None):
    """Play a game in which sibling k sends texts[k]; the judge gives `verdict` or `rule(state)`."""
    judge = ScriptedJudge(rule or (lambda state: verdict))
    players, widths = cast(attacks(*texts), says("no")), {A: len(texts), D: replies}
    return play(magic(), [State(VAULT)], players, judge, widths, "s")


def bonuses(texts, **more):
    """The bonus of each attack: its return minus the payoff of the game."""
    episodes = played(texts, **more)
    pairs = zip(episodes, rewarded(episodes, 1.0), strict=True)
    return [after.returns[A] - e.returns[A] if e.returns else None for e, after in pairs]


def test_worked_distinctness():
    # cosines: (a b, a b) 1, (a b, a c) 1/2, twice
    assert distinctness(["a b", "b a", "a c"]) == pytest.approx([0.25, 0.25, 0.5])
    assert distinctness(["a tale"]) == [0.0], "alone it differs from nothing"


@given(st.lists(st.text("abc "), max_size=6))
def test_similarities_are_symmetric_and_a_text_is_like_itself(texts):
    cosines = bag_of_words(texts)
    assert cosines == [list(column) for column in zip(*cosines, strict=True)]
    assert [row[i] for i, row in enumerate(cosines)] == [1.0] * len(texts)
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in distinctness(texts))


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
        ("open sesame", ["open sesame"], 1.0),
        ("open sesame", ["wake the giant"], 0.0),
    ],
)
def test_worked_bleu(text, references, value):
    assert bleus([text, *references])[0] == pytest.approx(value)


@given(lines)
def test_bleu_is_a_share_and_1_for_a_text_among_its_copies(texts):
    assert all(0 <= score <= 1 + 1e-9 for score in bleus(texts))
    assert bleus(texts[:1] * 2) == pytest.approx([1.0, 1.0])


def test_worked_metrics_of_a_round():
    # Each of the first two against its copy is 1; the third has no word of theirs.
    episodes = played(["tell a tale of old", "tell a tale of old", "sing"], replies=2)
    expected = {"self_bleu": 2 / 3, "diversity": (0.5 + 0.5 + 1) / 3}
    assert diversity_metrics(episodes) == pytest.approx(expected)
    same = diversity_metrics(episodes, lambda texts: [[1.0] * len(texts)] * len(texts))
    assert same == pytest.approx(
        {"diversity": 2 / 3, "self_bleu": 2 / 3, "diversity_embedding": 0.0}
    )


@pytest.mark.parametrize(
    "episodes", [played(["a", "b"], Verdict(on_topic=False)), played(["alone"])]
)
def test_attacks_that_were_turned_away_or_have_no_siblings_are_not_compared(episodes):
    assert diversity_metrics(episodes, bag_of_words) == {}


def test_what_was_dealt_is_not_the_attackers_and_not_compared():
    openings = [State(VAULT).deal(A, text) for text in ("a tale", "sing")]
    players, judge = cast(attacks("x"), says("no")), ScriptedJudge(lambda s: HELD)
    assert siblings(play(magic(), openings, players, judge, {}, "s")) == {}


@pytest.mark.parametrize(("width", "alone"), [(1, True), (2, False)])
def test_what_an_attack_goes_on_with_is_no_sibling_of_itself(width, alone):
    """One first attack, four replies that hold, four second attacks: nothing to differ from."""
    again = ScriptedPolicy(
        lambda observation, at: tagged("plan", f"try {len(observation)} {at.split('/')[-2]}")
    )
    players = cast(again, says("no", "not now", "never", "go"))
    game, judge = replace(magic(), exchanges=2), ScriptedJudge(lambda s: HELD)
    episodes = play(game, [State(VAULT)], players, judge, {A: width, D: 4}, "s")
    assert len({e.state.moves[2].sent for e in episodes}) > 1
    assert (diversity_metrics(episodes) == {}) is alone
    before, after = ([e.returns[A] for e in some] for some in (episodes, rewarded(episodes, 1)))
    assert (before == after) is alone
    assert siblings(episodes)[0][0] == episodes[0], "its first game stands for a fork"


def test_worked_entropy():
    # shares 1/2, 1/4, 1/4: 1.5 bits
    assert strategy_entropy([4, 2, 2]) == pytest.approx(1.5 * math.log(2))
    assert strategy_entropy([5, 5, 5]) == pytest.approx(math.log(3))
    assert strategy_entropy([7, 0]) == 0.0


def test_differing_from_ones_siblings_breaks_the_tie_of_refused_attacks():
    episodes = rewarded(played(["tell a tale", "tell a tale", "sing the song of it"]), 0.5)
    values = [e.returns[A] for e in episodes]
    assert values[0] == values[1] < values[2] == pytest.approx(REFUSED + 0.5)
    assert all(e.returns[D] == 1.5 for e in episodes)


def test_replies_to_one_attack_share_its_bonus():
    episodes = rewarded(played(["a tale", "a song"], BROKEN, replies=3), 1.0)
    assert [e.returns[A] for e in episodes] == [2.0 + 0.5] * 6


def test_another_similarity_may_say_how_alike_texts_are_and_without_weight_none_is_computed():
    episodes = played(["a tale", "a song"])
    assert rewarded(episodes, 0.0, lambda texts: 1 / 0) == episodes
    shaped = rewarded(episodes, 1.0, lambda texts: [[1, 0.2], [0.2, 1]])
    assert [e.returns[A] for e in shaped] == pytest.approx([REFUSED + 0.8] * 2)


def gate(state):
    return Verdict(on_topic=False) if "xylophone" in state.moves[0].sent else HELD


def fails(state):
    return FAILED if len(state.moves) == 2 and "tale" in state.moves[0].sent else HELD


@pytest.mark.parametrize(
    ("texts", "rule", "earned"),
    [
        # what the gate turned away keeps the floor, and nobody is paid for differing from it
        (["tell a tale", "xylophone", "tell a song"], gate, [1 / 3, 0, 1 / 3]),
        # what could not be judged earns nothing
        (["tell a tale", "tell a song", "sing"], fails, [None, 1.0, 1.0]),
        # the seed with something around it earns nothing, but its siblings do
        (["please  OPEN the\nDragon vault now", "unlock what wyrms guard"], None, [0, 1]),
        ([f"{VAULT.text} now", f"{VAULT.text} at once", "unlock it"], None, [0, 0, 1]),
        # gibberish of few words earns nothing
        (["blub " * 9 + "vault", "tell a tale of treasure"], None, [0, 1]),
    ],
)
def test_cheap_ways_to_differ_are_not_paid_for(texts, rule, earned):
    assert bonuses(texts, rule=rule) == [e if e is None else pytest.approx(e) for e in earned]


@pytest.mark.parametrize(
    ("guard", "text", "caught"),
    [
        (repeats_itself, "tale song " * 4, True),  # 2 of 8 words
        (repeats_itself, "tale song Tale SONG " * 2, True),
        (repeats_itself, "tale song riddle " * 3, False),  # 3 of 9
        (repeats_itself, "tale " * 7, False),  # too short to tell
        (repeats_itself, "tale " * 8, True),
        (wraps_the_seed, VAULT.text, True),
        (wraps_the_seed, "so: OPEN the  dragon\tvault!", True),
        (wraps_the_seed, "open the great dragon vault", False),
        (wraps_the_seed, "open the dragon", False),
    ],
)
def test_what_each_guard_catches(guard, text, caught):
    assert guard(VAULT.text, text) is caught
    assert set(GUARDS) == {wraps_the_seed, repeats_itself}
