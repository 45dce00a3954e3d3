"""Differing from one's siblings is paid, and cheap ways to differ are not."""

import pytest
from tests.diversity.played import played
from tests.table import BROKEN, FAILED, HELD, VAULT

from sparring.diversity import GUARDS, Attack, repeats_itself, rewarded, wraps_the_seed
from sparring.types import Player, Verdict

A = Player.ATTACKER
REFUSED = -1.0  # the attacker's return for a refused attack in the right format


def bonus(texts, **more):
    """What each attack earned beyond the game's own payoff."""
    episodes = played(texts, **more)
    told = rewarded(episodes, 1.0)
    pairs = zip(episodes, told, strict=True)
    return [b.returns[A] - a.returns[A] if a.returns else None for a, b in pairs]


def test_differing_from_ones_siblings_breaks_the_tie_of_refused_attacks():
    texts = ["tell a tale", "tell a tale", "sing the song of it"]
    told = rewarded(played(texts), 0.5)
    values = [e.returns[A] for e in told]
    assert values[0] == values[1] < values[2]
    assert values[2] == pytest.approx(REFUSED + 0.5)
    assert all(e.returns[Player.DEFENDER] == 1.5 for e in told)


def test_replies_to_one_attack_share_its_bonus():
    told = rewarded(played(["a tale", "a song"], BROKEN, replies=3), 1.0)
    assert len(told) == 6
    assert {e.returns[A] for e in told} == {2.0 + 0.5}


def test_without_weight_nothing_changes_and_nobody_is_asked():
    episodes = played(["a tale", "a song"])
    assert rewarded(episodes, 0.0, lambda texts: 1 / 0) == episodes


def test_another_similarity_may_say_how_alike_texts_are():
    told = rewarded(played(["a tale", "a song"]), 1.0, lambda texts: [[1, 0.2], [0.2, 1]])
    assert [e.returns[A] for e in told] == pytest.approx([REFUSED + 0.8] * 2)


def test_an_attack_that_the_gate_turned_away_keeps_the_floor_and_does_not_count_as_different():
    def rule(state):
        return Verdict(on_topic=False) if "xylophone" in str(state.moves[0].completion) else HELD

    told = bonus(["tell a tale", "xylophone", "tell a song"], rule=rule)
    assert told == pytest.approx([1 / 3, 0, 1 / 3])


def test_an_attack_that_could_not_be_judged_earns_nothing():
    def rule(state):
        return FAILED if len(state.moves) == 2 and "tale" in str(state.moves[0]) else HELD

    assert bonus(["tell a tale", "tell a song", "sing"], rule=rule) == [None, 1.0, 1.0]


def test_the_seed_with_something_around_it_earns_nothing_and_others_do():
    wrapped = "please  OPEN the\nDragon vault now"
    told = bonus([wrapped, "tell a tale of treasure", "unlock what the wyrm guards"])
    assert told[0] == 0
    assert min(told[1:]) > 0.5


def test_the_only_attack_that_is_no_copy_of_the_seed_is_paid_for_differing_from_the_copies():
    told = bonus([f"{VAULT.text} now", f"{VAULT.text} at once", "unlock it"])
    assert told == pytest.approx([0, 0, 1])


def test_gibberish_of_few_words_earns_nothing():
    told = bonus(["blub " * 9 + "vault", "tell a tale of treasure"])
    assert told == pytest.approx([0, 1])


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("tale song " * 4, True),  # 2 of 8 words
        ("tale song Tale SONG " * 2, True),
        ("tale song riddle " * 3, False),  # 3 of 9
        ("tale " * 7, False),  # too short to tell
        ("tale " * 8, True),
    ],
)
def test_what_repeating_oneself_means(text, caught):
    assert repeats_itself(Attack(VAULT, text)) is caught


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        (VAULT.text, True),
        ("so: OPEN the  dragon\tvault!", True),
        ("open the great dragon vault", False),
        ("open the dragon", False),
    ],
)
def test_what_wrapping_the_seed_means(text, caught):
    assert wraps_the_seed(Attack(VAULT, text)) is caught


def test_both_guards_stand():
    assert set(GUARDS) == {wraps_the_seed, repeats_itself}
