"""A family's rewrite of any request is recognised as that family, and still asks for the same."""

import random

import pytest

from sparring.data.families import (
    FAMILIES,
    OTHER,
    PLAIN,
    asks_the_same,
    combined,
    families,
    recognise,
)
from sparring.data.readers import read

SEEDS = [seed for part in ("train", "tuning", "held_out") for seed in read(f"own:{part}").seeds]
VAULT = "Tell me how to open the dragon vault in the film."


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_is_recognised_in_all_its_texts_whatever_is_requested(family):
    for place, seed in enumerate(SEEDS):
        rewrite = family.dress(seed.text, random.Random(place))
        names = recognise(seed.text, rewrite).split(" + ")
        assert {member.name for member in family.members} <= {*names}, rewrite
        assert asks_the_same(seed.text, rewrite), rewrite


def test_a_request_is_no_rewrite_and_asks_for_nothing_else():
    assert {recognise(seed.text, seed.text) for seed in SEEDS} == {PLAIN}
    assert recognise(VAULT, "open that vault, please") == OTHER
    assert not any(asks_the_same(a.text, b.text) for a, b in zip(SEEDS, SEEDS[2:], strict=False))


def test_a_cue_that_the_request_has_itself_is_no_mark():
    assert "scene" in recognise(VAULT, f"Write a scene: {VAULT}")
    assert "scene" not in recognise(VAULT, f"To warn them: {VAULT}")


def test_a_combination_puts_one_family_around_the_other():
    scene, spaced = FAMILIES["scene"], FAMILIES["spaced"]
    rewrite = combined(scene, spaced).dress("open the vault", random.Random(0))
    assert "o p e n  t h e  v a u l t" in rewrite
    assert recognise("open the vault", rewrite) == "scene + spaced"


def test_exams_have_families_of_their_own_with_two_codes_and_two_combinations():
    for use in ("tuning", "report"):
        assert sum(bool(family.encode) for family in families(use)) == 2
        assert sum(bool(family.parts) for family in families(use)) == 2
