"""Mutation: attacks that the defender meets in a shaken wording, and that nobody learns from."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import short_run
from tests.command import sparring_command

from sparring.games.game import answer_of, attack_of, tagged
from sparring.memory.memory import Opposition
from sparring.memory.mutation import GROWTH, WORDS, Mutating, Mutation, mutated
from sparring.players.player import Request
from sparring.schedules import solo
from sparring.store.folder import RunDir, read_games
from sparring.types import Completion, Player, Status, Turn

A, D = Player.ATTACKER, Player.DEFENDER
TEXTS = st.text(max_size=80).filter(str.strip)


class Fixed:
    """A player that always writes the same."""

    def __init__(self, *texts):
        self.completions = [Completion(text, token_ids=(1, 2)) for text in texts]

    def sample(self, requests):
        return [self.completions for _ in requests]


def request(*names):
    return Request((), names)


@given(TEXTS, st.integers(0, 10**6))
def test_a_mutated_text_has_no_word_that_was_not_there_and_is_never_empty(text, seed):
    changed = mutated(text, ["another", text], random.Random(seed))
    assert changed
    assert {*changed.split()} <= {"another", *text.split()}
    assert changed == mutated(text, ["another", text], random.Random(seed))
    assert len(changed.split()) <= GROWTH * len(text.split())


def test_every_change_occurs_words_are_repeated_lost_and_moved():
    words = [f"w{k}" for k in range(12)]
    lengths, orders = Counter(), Counter()
    for seed in range(2000):
        changed = mutated(" ".join(words), ["w0"], random.Random(seed)).split()
        lengths[(len(changed) > 12) - (len(changed) < 12)] += 1
        once = Counter(changed) == Counter(words)
        orders["moved" if once and changed != words else "whole" if once else "other"] += 1
    assert min(lengths[1], lengths[-1], lengths[0]) > 20
    assert orders["moved"] > 20


def test_words_are_said_again_many_times_and_never_without_end():
    text = " ".join(f"w{k}" for k in range(12))
    counts = [mutated(text, ["w0"], random.Random(n)).split().count("w3") for n in range(400)]
    assert 8 < max(counts) <= 12 * GROWTH


def test_words_of_other_attacks_are_borrowed():
    borrowed = [mutated("a b c d", ["x y z"], random.Random(n)).split() for n in range(200)]
    assert 20 < sum(bool({*words} & {"x", "y", "z"}) for words in borrowed) < 180


def test_white_space_inside_a_text_stays_where_its_words_go():
    assert "".join(WORDS.findall(" a\n\n  b\tc")) == " a\n\n  b\tc"


def test_the_share_of_attacks_is_mutated_and_what_does_not_parse_is_left():
    attack = tagged("my plan", "please open the dragon vault with the golden key")
    mutating = Mutating(Fixed(attack, "no tags at all"), 0.5)
    texts = [mutating.sample([request(f"{n}/0", f"{n}/1")])[0] for n in range(400)]
    changed = sum(one.text != attack for one, _ in texts)
    assert 140 < changed <= 200
    assert {other.text for _, other in texts} == {"no tags at all"}
    assert all(one.text.startswith("<think> my plan </think>") for one, _ in texts)
    assert all(answer_of(one.text) for one, _ in texts)
    assert texts == [mutating.sample([request(f"{n}/0", f"{n}/1")])[0] for n in range(400)]


def test_a_failed_attack_keeps_its_status():
    player = Fixed("")
    player.completions = [Completion("", status=Status.TOO_LONG)]
    assert Mutating(player, 1.0).sample([request("0")]) == [player.completions]


@pytest.mark.parametrize("learns", [{A}, {D}, {A, D}])
def test_an_attacker_that_learns_is_never_mutated(learns):
    cast = {A: Fixed("attack"), D: Fixed("reply")}
    turn = Turn(frozenset(learns), dict(solo(D, 4).widths))
    played, after, metrics = Mutation(Opposition(), 0.5).cast(3, turn, cast, [])
    assert (played[D], after, metrics) == (cast[D], turn, {})
    assert (played[A] is cast[A]) is (A in learns)


WARM = ("warm_up.steps=80", "warm_up.batch_size=16", "warm_up.pool_size=512", "rounds=2")
MUTATED = ("game.mutation=1", "warm_up.learning_rate=2e-3", "saving.transcripts_every=1", *WARM)


def attacks(words, number):
    """What the attacker sent in a round of a short run."""
    run = RunDir.open(short_run.whole(*words))
    games = [episode.state for _, episode in read_games(run.transcript(number))]
    return [attack for game in games if (attack := attack_of(game))]


def test_a_run_meets_mutated_attacks_in_the_defenders_turn():
    """Its first round is the defender's, in which the same attacker writes the same attacks."""
    plain = attacks(("game.mutation=0", *MUTATED[1:]), 0)
    assert plain
    changed = attacks(MUTATED, 0)
    assert changed != plain
    assert {*" ".join(changed).split()} <= {*" ".join(plain).split()}


def test_a_run_with_mutation_goes_on_bit_by_bit(tmp_path):
    short_run.train(tmp_path / "run", *MUTATED, "--max-rounds=1").check()
    short_run.train(tmp_path / "run", *MUTATED).check()
    assert short_run.outcome(tmp_path / "run") == short_run.outcome(short_run.whole(*MUTATED))


def test_a_run_in_which_nothing_would_be_mutated_is_refused(tmp_path):
    ended = sparring_command("train", "ssp", "game.mutation=0.5", f"output_dir={tmp_path}/run")
    assert ended.code == 2
    assert "game.mutation: only attacks of rounds in which the defender alone learns" in ended.err
    assert "schedule.kind=alternate" in ended.err
    league = ("memory.league.opponents=uniform", "--dry-run")
    assert sparring_command("train", "ssp", "game.mutation=0.5", *league).code == 0
    ended = sparring_command("train", "no_game", "game.mutation=0.5", "--dry-run")
    assert ended.code == 2
    assert "game.mutation: there are no attacks to change" in ended.err
