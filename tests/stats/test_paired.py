"""Two runs are compared item by item, and what cannot be paired is never guessed."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sparring.stats.paired import compare, newcombe, sign_flip
from sparring.stats.rates import Outcome
from sparring.types import UsageError


def runs(*pairs, cluster=str):
    """Two runs that answered item i with pairs[i]; by default every item is its own cluster."""
    return [
        {f"{i}": Outcome(pair[side], cluster(i)) for i, pair in enumerate(pairs)} for side in (0, 1)
    ]


@pytest.mark.parametrize(
    ("cells", "p", "interval"),
    [
        # Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables, 2017, ch. 8
        # (Cavo et al. 2012), as their R package contingencytables prints them; signs turned,
        # because theirs is the first rate minus the second.
        ((59, 6, 16, 80), 0.052479, (0.0046, 0.1186)),
        # Bentur et al. 2009: the same authors, BMC Med. Res. Methodology 13:91, 2013 (p), and
        # Statistics in Medicine 33, 2014, 2850-2875 (interval).
        ((1, 1, 7, 12), 0.0703, (0.0256, 0.5069)),
    ],
)
def test_independent_items_give_the_published_test_and_interval(cells, p, interval):
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    pairs = [kind for kind, times in zip(kinds, cells, strict=True) for _ in range(times)]
    paired = compare(*runs(*pairs))
    assert paired.p == pytest.approx(p, abs=5e-5)
    assert paired.ci95 == pytest.approx(interval, abs=5e-5)
    assert (paired.n, paired.only_a, paired.only_b) == (sum(cells), cells[1], cells[2])
    assert paired.difference == pytest.approx((cells[2] - cells[1]) / sum(cells))
    assert paired.method.startswith("exact McNemar")


@given(st.integers(0, 60), st.integers(0, 60))
def test_sign_flips_of_single_items_are_mcnemars_test(first, second):
    p = binomtest(first, first + second).pvalue if first + second else 1.0
    assert sign_flip([-1] * first + [0] * 5 + [1] * second) == pytest.approx(p)


@given(st.lists(st.integers(-6, 6), max_size=8))
def test_the_convolution_is_the_enumeration_of_all_signs(changes):
    flipped = [
        abs(sum(s * d for s, d in zip(signs, changes, strict=True)))
        for signs in product((-1, 1), repeat=len(changes))
    ]
    assert sign_flip(changes) == pytest.approx(np.mean(np.array(flipped) >= abs(sum(changes))))


def test_items_of_one_seed_change_together_and_are_one_piece_of_evidence():
    # 6 seeds of 10 items, all 10 better in 5 of them: the signs of 5 clusters, not of 50 items.
    pairs = [(True, i >= 50) for i in range(60)]
    alone = compare(*runs(*pairs))
    together = compare(*runs(*pairs, cluster=lambda i: f"vault-{i // 10}"))
    assert together.p == pytest.approx(2 / 2**5)
    assert alone.p < 1e-14
    assert together.difference == alone.difference == pytest.approx(-50 / 60)
    assert together.method == "cluster sign flips, cluster bootstrap"
    # Two clusters of 4 with changes −4 and 0: resampling them gives −1, −1/2 or 0, and two
    # clusters without any difference would give ± 0.6.
    two = compare(*runs(*pairs[46:54], cluster=lambda i: f"vault-{i // 4}"))
    assert two.ci95 == pytest.approx((-1.0, 0.096), abs=5e-4)


def test_clusters_that_agree_do_not_pretend_to_be_certain():
    pairs = [(False, False)] * 30
    paired = compare(*runs(*pairs, cluster=lambda i: f"vault-{i // 3}"))
    assert paired.method == "cluster sign flips, Newcombe over clusters"
    assert paired.ci95 == newcombe([(False, False)] * 10, 10)
    assert (paired.p, paired.ci95[0] < -0.2, paired.ci95[1] > 0.2) == (1.0, True, True)


@pytest.mark.parametrize("hit", [False, True])
@pytest.mark.parametrize("clusters", [5, 16, 96])
def test_a_first_difference_makes_nothing_more_certain(hit, clusters):
    equal = [(hit, hit)] * (12 * clusters)
    results = [
        compare(*runs(*pairs, cluster=lambda i: f"vault-{i // 12}"))
        for pairs in (equal, [(hit, not hit), *equal[1:]])
    ]
    widths = [high - low for low, high in (result.ci95 for result in results)]
    assert widths[0] <= widths[1] + 1e-3  # the rate itself has moved by an item


def test_pairs_with_an_unscored_side_leave_and_are_counted_and_nothing_scored_is_no_number():
    whole, holes = [(True, False), (False, False), (True, True)], [(None, True), (False, None)]
    paired = compare(*runs(*whole, *holes))
    assert (paired.n, paired.unscored) == (3, 2)
    assert paired.ci95 == compare(*runs(*whole)).ci95
    assert (paired.rate_a, paired.rate_b) == (2 / 3, 1 / 3)
    empty = compare(*runs(*holes))
    assert (empty.n, empty.unscored, empty.difference, empty.ci95, empty.p) == (0, 2, *[None] * 3)
    assert str(empty) == "unscored (n=2)"


def test_items_that_do_not_match_or_changed_cluster_are_refused_with_their_numbers():
    a, b = runs(*[(True, False)] * 5)
    with pytest.raises(UsageError, match="1 items belong to another cluster"):
        compare(a, b | {"1": Outcome(True, "candle")})
    del a["4"], b["0"], b["1"]
    with pytest.raises(UsageError, match=r"2 items are only in the first run and 1 only in the"):
        compare(a, b)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4)), min_size=1, max_size=30)
)
def test_exchanging_the_runs_turns_the_sign_and_no_interval_is_a_point(items):
    a, b = runs(*[pair[:2] for pair in items], cluster=lambda i: f"vault-{items[i][2]}")
    paired, exchanged = compare(a, b), compare(b, a)
    assert exchanged.difference == pytest.approx(-paired.difference)
    assert exchanged.ci95 == pytest.approx((-paired.ci95[1], -paired.ci95[0]))
    assert exchanged.p == pytest.approx(paired.p)
    assert -1 <= paired.ci95[0] < paired.ci95[1] <= 1
    assert paired.ci95[0] - 1e-9 <= paired.difference <= paired.ci95[1] + 1e-9
    assert 0 < paired.p <= 1
