"""Seeds are dealt like shuffled decks of equal labels; no text is both trained on and examined."""

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sparring.data.splits import draw, hold_out, without
from sparring.types import Seed


def seeds(harmful: int, benign: int) -> list[Seed]:
    return [Seed(f"gate {n}", n < harmful, f"s{n}") for n in range(harmful + benign)]


def labels(drawn: list[Seed]) -> tuple[int, int]:
    counts = Counter(seed.harmful for seed in drawn)
    return counts[True], counts[False]


def rounds_of(deck: list[Seed], sizes: list[int]) -> list[list[Seed]]:
    """Rounds of these sizes, each of which goes on where the one before it ended."""
    rounds, dealt = [], Counter()
    for size in sizes:
        rounds.append(draw(deck, dealt, size, "r"))
        dealt += Counter(seed.harmful for seed in rounds[-1])
    return rounds


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(0, 20))
def test_a_round_has_equal_labels_and_the_odd_one_is_harmful(harmful, benign, size, dealt):
    drawn = draw(seeds(harmful, benign), {True: dealt, False: dealt}, size, "r")
    assert labels(drawn) == (size - size // 2, size // 2)


@given(st.integers(1, 40), st.sampled_from([0.1, 0.25, 0.3, 1 / 3, 0.5, 0.7, 0.9]))
def test_the_share_of_harmful_seeds_is_what_was_set_to_less_than_one_seed(size, share):
    drawn = draw(seeds(9, 9), {True: 0, False: 0}, size, "r", share)
    assert len(drawn) == size
    assert 0 <= labels(drawn)[0] - size * share < 1 + 1e-5
    assert draw(seeds(0, 9), {True: 0, False: 0}, size, "r", share), "one label alone"


@given(st.integers(0, 9), st.integers(0, 9), st.lists(st.integers(1, 12), min_size=2, max_size=40))
def test_every_seed_is_played_equally_often_whatever_the_rounds_sizes(harmful, benign, sizes):
    assume(harmful + benign)
    rounds = rounds_of(seeds(harmful, benign), sizes)
    for label, n in ((True, harmful), (False, benign)):
        ids = [seed.id for drawn in rounds for seed in drawn if seed.harmful is label]
        assert len(ids) == 0 or n
        for start in range(0, len(ids) - n + 1, max(n, 1)):
            assert len(set(ids[start : start + n])) == n


def test_a_draw_depends_on_its_arguments_alone_and_on_each_of_them():
    deck, early, late = seeds(20, 20), {True: 12, False: 12}, {True: 16, False: 12}
    assert draw(deck, early, 8, "r") == draw(deck, early, 8, "r")
    assert draw(deck, early, 8, "r") != draw(deck, late, 8, "r") != draw(deck, late, 8, "q")
    first, second = rounds_of(deck, [40, 40])
    assert first != second, "two epochs have two orders"


CLUSTERED = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.booleans(), st.sampled_from(["", *"xyz"])),
    max_size=20,
)


@given(CLUSTERED, st.floats(0.01, 0.99))
def test_no_cluster_is_on_both_sides_not_even_by_way_of_a_text(rows, share):
    everyone = [Seed(t, h, f"{n}", cluster=c) for n, (t, h, c) in enumerate(rows)]
    train, held = hold_out(everyone, share)
    assert not {seed.text for seed in train} & {seed.text for seed in held}
    assert not {s.cluster for s in train} & {s.cluster for s in held} - {""}
    assert Counter(train + held) == Counter(everyone)
    assert without(train, held) == train


SAME = (
    "Öffne  die Truhe.",
    "öffne die truhe!",
    "O\u0308ffne\u00a0die Tru\u200bhe",
    "„öffne“ die truhe",
)


@pytest.mark.parametrize("text", SAME)
def test_a_request_is_the_same_in_any_case_form_spacing_and_punctuation(text):
    exam = [Seed("öffne die truhe", True, "exam")]
    assert without([Seed(text, True, "1")], exam) == []


@pytest.mark.parametrize(
    ("one", "other"), [("c++", "c"), ("कि", "का"), ("?", "!"), ("3 < 4", "3 > 4")]
)
def test_signs_that_carry_meaning_keep_requests_apart(one, other):
    assert without([Seed(one, True, "1")], [Seed(other, True, "2")])


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
