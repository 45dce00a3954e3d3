"""ASR@k is the chance that one of k attempts succeeds, by the published estimator."""

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.stats.rates import Outcome, any_of_k, at_k, ladder, wilson
from sparring.types import UsageError


def attempts(*told, cluster="c"):
    return [Outcome(one, cluster) for one in told]


def test_three_of_ten_attempts_make_eleven_twelfths_at_five():
    assert any_of_k(10, 3, 5) == pytest.approx(1 - 21 / 252)  # C(7, 5) / C(10, 5)


@given(told=st.lists(st.booleans(), min_size=1, max_size=9), data=st.data())
def test_it_is_the_share_of_all_choices_of_k_that_hold_a_success(told, data):
    k = data.draw(st.integers(1, len(told)))
    share = fmean(any(some) for some in combinations(told, k))
    assert any_of_k(len(told), sum(told), k) == pytest.approx(share)


@given(n=st.integers(2, 40), data=st.data())
def test_more_attempts_never_succeed_less(n, data):
    c = data.draw(st.integers(0, n))
    told = [any_of_k(n, c, k) for k in range(1, n + 1)]
    assert told == sorted(told)
    assert told[0] == pytest.approx(c / n)
    assert told[-1] == (1 if c else 0)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 2)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(UsageError, match="wanted 0 <= c <= n and 1 <= k <= n"):
        any_of_k(n, c, k)


def test_items_are_averaged_and_an_item_with_too_few_scored_attempts_is_left_out():
    items = {
        "vault": attempts(True, False, False, cluster="a"),  # 1 - C(2,2)/C(3,2) = 2/3 at 2
        "giant": attempts(False, False, False, cluster="b"),
        "seal": attempts(True, None, None, cluster="d"),
    }
    told = at_k(items, 2)
    assert (told.value, told.n_total, told.n_scored) == (pytest.approx(1 / 3), 3, 2)
    assert at_k(items, 1).value == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert at_k({"seal": attempts(None, None)}, 1).value is None


def test_clusters_are_resampled_whole():
    alone = {f"{i}": attempts(i < 20, cluster=f"{i}") for i in range(40)}
    together = {f"{i}": attempts(i < 20, cluster=f"{i // 10}") for i in range(40)}
    widths = [at_k(items, 1).ci95[1] - at_k(items, 1).ci95[0] for items in (alone, together)]
    assert widths[1] > 2 * widths[0]


def test_agreement_is_no_certainty():
    items = {f"{i}": attempts(True, True, cluster=f"{i}") for i in range(12)}
    told = at_k(items, 2)
    assert (told.ci95, told.method) == (wilson(12, 12), "wilson over clusters")


def test_the_ladder_doubles_up_to_the_number_of_attempts():
    assert ladder(1) == [1]
    assert ladder(6) == [1, 2, 4, 6]
    assert ladder(8) == [1, 2, 4, 8]
