"""Seeds are dealt like shuffled decks of equal labels; no text is both trained on and examined."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.data.splits import draw, hold_out, without
from sparring.types import Seed


def seeds(harmful: int, benign: int) -> list[Seed]:
    return [Seed(f"gate {n}", n < harmful, f"s{n}") for n in range(harmful + benign)]


def labels(drawn: list[Seed]) -> tuple[int, int]:
    counts = Counter(seed.harmful for seed in drawn)
    return counts[True], counts[False]


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(0, 20))
def test_a_round_has_equal_labels_and_the_odd_one_is_harmful(harmful, benign, size, number):
    drawn = draw(seeds(harmful, benign), number, size, "r")
    assert labels(drawn) == (size - size // 2, size // 2)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12))
def test_every_seed_of_a_label_is_seen_once_an_epoch(harmful, benign, size):
    deck = seeds(harmful, benign)
    rounds = [draw(deck, number, size, "r") for number in range(40)]
    for label, n in ((True, harmful), (False, benign)):
        ids = [seed.id for drawn in rounds for seed in drawn if seed.harmful is label]
        for start in range(0, len(ids) - n + 1, n):
            assert len(set(ids[start : start + n])) == n


@pytest.mark.parametrize("harmful", [6, 0])
def test_with_one_label_alone_every_seed_is_still_seen_once_an_epoch(harmful):
    deck = seeds(harmful, 6 - harmful)
    drawn = [seed for number in range(3) for seed in draw(deck, number, 4, "r")]
    assert len({seed.id for seed in drawn[:6]}) == len({seed.id for seed in drawn[6:]}) == 6


def test_a_draw_depends_on_its_arguments_alone_and_on_each_of_them():
    deck = seeds(20, 20)
    assert draw(deck, 3, 8, "r") == draw(deck, 3, 8, "r")
    assert draw(deck, 3, 8, "r") != draw(deck, 4, 8, "r") != draw(deck, 4, 8, "q")
    assert draw(deck, 0, 40, "r") != draw(deck, 1, 40, "r"), "two epochs have two orders"


CLUSTERED = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.booleans(), st.sampled_from(["", *"xyz"])),
    max_size=20,
)


@settings(deadline=None)
@given(CLUSTERED, st.floats(0.01, 0.99))
def test_no_cluster_is_on_both_sides_not_even_by_way_of_a_text(rows, share):
    everyone = [Seed(t, h, f"{n}", cluster=c) for n, (t, h, c) in enumerate(rows)]
    train, held = hold_out(everyone, share)
    assert not {seed.text for seed in train} & {seed.text for seed in held}
    assert not {s.cluster for s in train} & {s.cluster for s in held} - {""}
    assert Counter(train + held) == Counter(everyone)
    assert without(train, held) == train


def test_a_share_of_the_clusters_is_held_out_whole():
    deck = [Seed(f"gate {n}", True, f"{n}", cluster=f"c{n % 10}") for n in range(50)]
    train, held = hold_out(deck, 0.3)
    assert (len(held), len({seed.cluster for seed in held})) == (15, 3)
    assert len(train) == 35


def test_without_drops_what_shares_text_or_cluster_with_the_held_out():
    deck = [Seed("a", True, "1"), Seed("b", True, "2", cluster="x"), Seed("c", True, "3")]
    assert without(deck, [Seed("a", False, "9"), Seed("d", True, "8", cluster="x")]) == deck[2:]


@pytest.mark.parametrize(
    ("n", "share", "held"), [(10, 0.2, 2), (10, 0.25, 2), (10, 0.01, 1), (10, 0.99, 9), (1, 0.5, 0)]
)
def test_each_label_holds_out_its_share_at_least_one_and_never_all(n, share, held):
    train, examined = hold_out(seeds(n, n), share)
    assert labels(examined) == (held, held)
    assert labels(train) == (n - held, n - held)


def test_what_is_held_out_depends_on_the_seeds_alone():
    deck = seeds(40, 40)
    _, held = hold_out(deck, 0.3)
    _, again = hold_out(deck[::-1], 0.3)
    assert {s.text for s in held} == {s.text for s in again}
    first = {s.text for s in deck[:12]}
    assert {s.text for s in held if s.harmful} != first  # not merely the first ones
