"""Agreement beyond chance: the textbook's numbers, and no certainty where there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.stats.agreement import alpha, alpha_of, kappa
from sparring.stats.rates import estimate


def columns(*raters: str) -> list[tuple[str | None, ...]]:
    """One rater a line, one item a letter; a dot is no rating."""
    return list(zip(*([None if r == "." else r for r in told] for told in raters), strict=True))


@pytest.mark.parametrize(
    ("raters", "value", "n"),
    [
        # Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, examples A, B and C.
        (("0100000010", "1110010000"), 0.095, 10),
        (("aabbdcccedda", "babbbccceddd"), 0.692, 12),
    ],
)
def test_alpha_of_two_observers_is_the_textbooks(raters, value, n):
    told = alpha(columns(*raters))
    assert told.value == pytest.approx(value, abs=5e-4)
    assert told.n == told.clusters == n


FOUR = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def test_alpha_of_four_observers_with_missing_ratings_is_the_textbooks():
    # Example C of the same: 12 units, the last with one rating, which is in no pair: n = 40.
    told = alpha(columns(*FOUR))
    assert told.value == pytest.approx(0.743, abs=5e-4)
    assert told.n == 11


def test_kappa_is_the_hand_worked_one():
    # p_o = (88 + 40 + 12) / 200 = .70; row shares .60 .30 .10, column shares .50 .30 .20, so
    # p_e = .30 + .09 + .02 = .41 and κ = .29 / .59.
    table = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(table[i][j])]
    told = kappa([*pairs, (0, None)])
    assert told.value == pytest.approx(0.29 / 0.59)
    assert told.n == 200
    # Cohen's standard error sqrt(p_o (1 − p_o) / (n (1 − p_e)²)) is .0549: ±.108.
    assert told.ci95 == pytest.approx((0.384, 0.599), abs=0.01)


def test_kappa_and_alpha_differ_where_raters_lean_apart():
    # p_o = 0.6; kappa's chance is 0.3 · 0.7 + 0.7 · 0.3 = 0.42; alpha's pools both raters: 1/2.
    pairs = [(1, 1)] * 3 + [(0, 1)] * 4 + [(0, 0)] * 3
    assert kappa(pairs).value == pytest.approx(0.18 / 0.58)
    assert alpha(pairs).value == pytest.approx(1 - 19 * 8 / (20**2 - 2 * 10**2))


@pytest.mark.parametrize("measure", [alpha, kappa])
def test_one_answer_alone_defines_no_agreement(measure):
    told = measure([(True, True)] * 7)
    assert (told.value, told.ci95, told.n) == (None, None, 7)
    assert str(told) == "undefined (n=7)"
    assert measure([(True, None)]).n == measure([]).n == 0


@pytest.mark.parametrize("measure", [alpha, kappa])
def test_perfect_agreement_is_no_certainty(measure):
    told = measure([(True, True)] * 6 + [(False, False)] * 5)
    assert (told.value, told.ci95) == (1.0, None)
    assert "no interval" in str(told)


def test_counted_votes_give_the_alpha_of_the_items_they_count():
    counts = {(True, True, None): 4, (True, False, True): 3, (False, False, False): 5}
    counts |= {(True, None, None): 9}
    items = [votes for votes, times in counts.items() for _ in range(times)]
    told = alpha(items)
    assert alpha_of(counts) == told
    assert told.n == 12


def test_items_of_one_cluster_are_resampled_together():
    pairs = [(True, True)] * 30 + [(False, False)] * 20 + [(True, False)] * 10
    alone = alpha(pairs)
    told = alpha(pairs, [f"vault-{i // 10}" for i in range(60)])
    assert told.value == alone.value
    assert told.clusters == 6
    assert told.ci95[1] - told.ci95[0] > 2 * (alone.ci95[1] - alone.ci95[0])


ratings = st.lists(st.tuples(*[st.sampled_from(["a", "b", None])] * 3), min_size=1, max_size=25)


@given(ratings)
def test_alpha_is_the_double_sum_of_its_definition(items):
    # D_o: the mean over items of how often two of its m ratings differ, weighted by m;
    # D_e: how often two of all n ratings differ (Krippendorff 2004, eq. 11.1).
    kept = [[r for r in told if r is not None] for told in items]
    kept = [told for told in kept if len(told) > 1]
    every = [r for told in kept for r in told]
    told = alpha(items).value
    if len(set(every)) < 2:
        assert told is None
        return
    n = len(every)
    apart = sum(sum(x != y for x in told for y in told) / (len(told) - 1) for told in kept) / n
    chance = sum(x != y for x in every for y in every) / (n * (n - 1))
    assert told == pytest.approx(1 - apart / chance)


@given(ratings)
def test_the_order_of_raters_and_items_is_irrelevant(items):
    assert alpha([told[::-1] for told in items[::-1]]).value == pytest.approx(alpha(items).value)


def test_the_bootstrap_over_kinds_is_the_bootstrap_over_rows():
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 2, (40, 2)).astype(float)
    told = estimate(rows, lambda r: r[:, 0] / (r[:, 0] + r[:, 1]), 40)
    drawn = rows[rng.integers(0, 40, (10_000, 40))].sum(1)
    wanted = np.quantile(drawn[:, 0] / drawn.sum(1), [0.025, 0.975])
    assert told.ci95 == pytest.approx(wanted, abs=0.01)
