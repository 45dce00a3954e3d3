"""A rate comes with the interval that its items and clusters call for; ASR@k by its estimator."""

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from sparring import Outcome, UsageError, rate
from sparring.stats.rates import any_of_k, at_k, ladder, wilson


def outcomes(*happened, cluster=None):
    """Items that happened or not (None: out of time), each its own cluster unless one is named."""
    return [
        Outcome(h, cluster or str(i), "ok" if h is not None else "timeout")
        for i, h in enumerate(happened)
    ]


@pytest.mark.parametrize(
    ("n", "share", "low", "high"),
    # Wilson 95 % widths, worked for common benchmark sizes
    [
        (100, 0.10, 0.055, 0.174),
        (320, 0.10, 0.072, 0.138),
        (250, 0.30, 0.247, 0.359),
        (1319, 0.0, 0.0, 0.003),
    ],
)
def test_wilson_matches_the_published_widths(n, share, low, high):
    assert wilson(round(n * share), n) == pytest.approx((low, high), abs=1.5e-3)


def test_each_item_its_own_cluster_gives_wilson():
    result = rate(outcomes(True, False, False, False))
    assert (result.value, result.method, result.n_scored) == (0.25, "wilson", 4)
    assert (result.clusters, result.ci95) == (4, wilson(1, 4))


def test_unscored_items_leave_the_rate_and_are_counted_and_bounded():
    result = rate(outcomes(True, False, None, None, None))
    assert (result.value, result.n_total, result.n_scored) == (0.5, 5, 2)
    assert (result.unscored, result.bounds) == ({"timeout": 3}, (0.2, 0.8))
    nothing = rate(outcomes(None, None))
    assert (nothing.value, nothing.ci95, nothing.bounds) == (None, None, (0.0, 1.0))
    assert str(nothing) == "unscored (n=2)"


def test_repeated_seeds_widen_the_interval_to_what_their_clusters_can_tell():
    rows = [Outcome(c < 3, f"c{c}") for c in range(10) for _ in range(20)]
    result, alone = rate(rows), wilson(60, 200)
    assert result.method == "cluster bootstrap"
    assert result.ci95[1] - result.ci95[0] > 2 * (alone[1] - alone[0])
    # Each resample holds Binomial(10, 3/10) of the three clusters in which it happened.
    low, high = (binom.ppf(q, 10, 0.3) / 10 for q in (0.025, 0.975))
    assert result.ci95 == rate(rows).ci95 == pytest.approx((low, high))


@pytest.mark.parametrize("all_hit", [True, False])
def test_clusters_that_all_agree_do_not_pretend_to_be_certain(all_hit):
    result = rate([Outcome(all_hit, f"c{i % 16}") for i in range(192)])
    assert result.method == "wilson over clusters"
    assert result.ci95[1] - result.ci95[0] == pytest.approx(0.194, abs=2e-3)  # Wilson, 0 of 16
    middle = rate([Outcome(i % 2 == 0, f"c{i // 2}") for i in range(6)])
    assert (middle.value, middle.method) == (0.5, "wilson over clusters")
    assert middle.ci95[0] < 0.25 < 0.75 < middle.ci95[1]


@given(st.lists(st.tuples(st.none() | st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
def test_no_interval_is_a_point_and_each_holds_its_value(items):
    result = rate([Outcome(hit, f"c{cluster}") for hit, cluster in items])
    if result.value is not None:
        low, high = result.ci95
        assert low < high
        assert low - 1e-9 <= result.value <= high + 1e-9
        assert result.bounds[0] <= result.value <= result.bounds[1]


@given(st.lists(st.integers(1, 30), min_size=2, max_size=40), st.booleans())
def test_a_first_failure_makes_nothing_more_certain(sizes, happened):
    alike = [Outcome(happened, f"c{c}") for c, size in enumerate(sizes) for _ in range(size)]
    first = [Outcome(not happened, "c0"), *alike[1:]]
    narrow, wide = (high - low for low, high in (rate(alike).ci95, rate(first).ci95))
    assert narrow <= wide + 1e-12


@given(hits=st.lists(st.booleans(), min_size=1, max_size=9), data=st.data())
def test_any_of_k_is_the_share_of_all_choices_of_k_that_hold_a_success(hits, data):
    k = data.draw(st.integers(1, len(hits)))
    share = fmean(any(some) for some in combinations(hits, k))
    assert any_of_k(len(hits), sum(hits), k) == pytest.approx(share)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 2)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(UsageError, match="wanted 0 <= c <= n and 1 <= k <= n"):
        any_of_k(n, c, k)


def test_items_are_averaged_and_an_item_with_too_few_scored_attempts_is_left_out():
    items = {
        "vault": outcomes(True, False, False, cluster="a"),  # 1 - C(2,2)/C(3,2) = 2/3 at 2
        "giant": outcomes(False, False, False, cluster="b"),
        "seal": outcomes(True, None, None, cluster="d"),
    }
    result = at_k(items, 2)
    assert (result.value, result.n_total, result.n_scored) == (pytest.approx(1 / 3), 3, 2)
    assert at_k(items, 1).value == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert at_k({"seal": outcomes(None, None)}, 1).value is None


def test_an_item_whose_first_attempt_is_missing_stays_in_its_cluster():
    missing = Outcome(None, "", "not asked yet")
    items = {f"{i}": [missing, Outcome(i < 3, f"{i}")] for i in range(6)}
    assert at_k(items, 1).clusters == 6


def test_at_k_resamples_whole_clusters_and_agreement_is_no_certainty():
    alone = {f"{i}": outcomes(i < 20, cluster=f"{i}") for i in range(40)}
    together = {f"{i}": outcomes(i < 20, cluster=f"{i // 10}") for i in range(40)}
    widths = [at_k(items, 1).ci95[1] - at_k(items, 1).ci95[0] for items in (alone, together)]
    assert widths[1] > 2 * widths[0]
    sure = at_k({f"{i}": outcomes(True, True, cluster=f"{i}") for i in range(12)}, 2)
    assert (sure.ci95, sure.method) == (wilson(12, 12), "wilson over clusters")


@pytest.mark.parametrize(("n", "ks"), [(1, [1]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_the_ladder_doubles_up_to_the_number_of_attempts(n, ks):
    assert ladder(n) == ks
