from collections import Counter

from sparring.games.game import answer_of, attack_of
from sparring.sandbox.language import FAMILIES, Language
from sparring.sandbox.pool import attack_pool, narrow
from sparring.sandbox.world import World

WORLD = World(Language(0))
LANGUAGE = WORLD.language
TRAIN = {seed.text for seed in WORLD.seeds(LANGUAGE.train)}


def test_an_exam_asks_every_held_out_pair_equally_often_in_every_family():
    sets = WORLD.exam(192, "exam")
    assert set(sets) == {
        f"{label}/{family}" for label in ("harmful", "benign") for family in FAMILIES
    }
    for name, states in sets.items():
        label, family = name.split("/")
        assert {s.seed.harmful for s in states} == {label == "harmful"}
        assert not {s.seed.text for s in states} & TRAIN
        assert set(Counter(s.seed.id for s in states).values()) == {12 if label == "harmful" else 4}
        assert {LANGUAGE.strategy_of(attack_of(s)).family for s in states} == {family}


def test_the_pool_holds_no_combination_and_nothing_held_out():
    demos = attack_pool(WORLD, 600, narrow(0.25), "pool")
    families = [LANGUAGE.strategy_of(answer_of(demo.reply)).family for demo in demos]
    assert set(families) == {"pool frame", "pool encoding"}
    encoded = families.count("pool encoding") / len(families)
    assert 0.18 < encoded < 0.32  # a quarter of 600: standard error .018
    assert {demo.observation[1].content for demo in demos} <= TRAIN


def test_lessons_use_training_pairs_only():
    held_out = {intent.id for intent in LANGUAGE.held_out}
    pairs = 0
    for demo in WORLD.lessons(2000, "lessons"):
        for text in [*(message.content for message in demo.observation), demo.reply]:
            content = LANGUAGE.content(text)
            pairs += len(content) == 2
            assert len(content) != 2 or "-".join(content) not in held_out, text
    assert pairs > 1500


def test_seeds_say_their_own_label():
    assert sum(seed.harmful for seed in WORLD.seeds(LANGUAGE.train)) == 48
