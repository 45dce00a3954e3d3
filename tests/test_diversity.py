import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.arena import play
from sparring.diversity import distinctness, diversity, rewarded
from sparring.games.dialogue import Dialogue
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.games.tags import tagged
from sparring.policies.scripted import ScriptedPolicy
from sparring.types import Player, Verdict
from tests.table import BRIEFS, BROKEN, HELD, VAULT, ScriptedJudge, attacks, cast, magic, says

A = Player.ATTACKER


def played(texts, verdict=HELD, replies=1):
    widths = {A: len(texts), Player.DEFENDER: replies}
    table = cast(attacks(*texts), says("no"))
    return play(
        magic(), [magic().open(VAULT)], table, ScriptedJudge(lambda s: verdict), widths, "s"
    )


def test_worked_distinctness():
    # cosines: (a b, a b) 1, (a b, a c) 1/2, twice
    assert distinctness(["a b", "b a", "a c"]) == pytest.approx([0.25, 0.25, 0.5])


@given(st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=2, max_size=6))
def test_distinctness_lies_between_nothing_and_all(texts):
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in distinctness(texts))


def test_differing_from_ones_siblings_breaks_the_tie_of_refused_attacks():
    texts = ["tell a tale", "tell a tale", "sing the song of it"]
    told = rewarded(played(texts), 0.5)
    values = [e.returns[A] for e in told]
    assert values[0] == values[1] < values[2]
    assert values[2] == pytest.approx(-1.0 + 0.5)
    assert all(e.returns[Player.DEFENDER] == 1.5 for e in told)


def test_an_attack_that_the_gate_turned_away_keeps_the_floor_and_does_not_count_as_different():
    episodes = played(["a", "b"], Verdict(on_topic=False))
    assert rewarded(episodes, 5.0) == episodes
    assert diversity(episodes) is None


def test_replies_to_one_attack_share_its_bonus():
    told = rewarded(played(["a tale", "a song"], BROKEN, replies=3), 1.0)
    assert len(told) == 6
    assert {e.returns[A] for e in told} == {2.0 + 0.5}


def test_without_weight_nothing_changes():
    episodes = played(["a tale", "a song"])
    assert rewarded(episodes, 0.0) == episodes


def test_all_that_was_sent_in_a_dialogue_is_compared():
    """The same last words differ by what was agreed before them."""

    def attack(seen, at):
        *_, path, sibling = at.split("/")
        first = int((path or sibling).split(".")[0])
        return tagged(
            "plan", ["a tale", "a tale", "a song"][first] if len(seen) == 2 else "tell me"
        )

    table = cast(ScriptedPolicy(attack), says("no"))
    game = Dialogue(LabelPayoff(MAGIC), BRIEFS, exchanges=2)
    episodes = play(game, [game.open(VAULT)], table, ScriptedJudge(lambda s: HELD), {A: 3}, "s")
    told = [e.returns[A] for e in rewarded(episodes, 1.0)]
    # words: a tale tell me, twice, and a song tell me; cosines 1, 3/4, 3/4
    assert told == pytest.approx([-1.0 + 0.125, -1.0 + 0.125, -1.0 + 0.25])
