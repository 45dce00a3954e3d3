"""Agreement beyond chance is the textbook's, and a judge's errors are taken out of a rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring import Outcome, Rate, rate
from sparring.stats import agreement
from sparring.stats.agreement import alpha, corrected, kappa, lang_reiczigel
from sparring.stats.rates import estimate


@pytest.mark.parametrize(
    ("raters", "value", "n"),
    [
        # Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, examples A, B and C; in
        # C the last of the 12 units has one rating, which is in no pair: n = 40.
        (("0100000010", "1110010000"), 0.095, 10),
        (("aabbdcccedda", "babbbccceddd"), 0.692, 12),
        (("123321412...", "1233224125.3", ".3332342251.", "12332441251."), 0.743, 11),
    ],
)
def test_alpha_is_the_textbooks_also_with_missing_ratings(raters, value, n):
    ratings = ([None if rating == "." else rating for rating in rater] for rater in raters)
    result = alpha(list(zip(*ratings, strict=True)))
    assert result.value == pytest.approx(value, abs=5e-4)
    assert result.n == result.clusters == n


def test_kappa_is_the_hand_worked_one():
    # p_o = (88 + 40 + 12) / 200 = .70; row shares .60 .30 .10, column shares .50 .30 .20, so
    # p_e = .30 + .09 + .02 = .41 and κ = .29 / .59.
    table = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(table[i][j])]
    result = kappa([*pairs, (0, None)])
    assert (result.value, result.n) == (pytest.approx(0.29 / 0.59), 200)
    # Cohen's standard error sqrt(p_o (1 − p_o) / (n (1 − p_e)²)) is .0549: ±.108.
    assert result.ci95 == pytest.approx((0.384, 0.599), abs=0.01)


@pytest.mark.parametrize("measure", [alpha, kappa])
def test_one_answer_alone_defines_no_agreement_and_perfect_agreement_is_no_certainty(measure):
    result = measure([(True, True)] * 7)
    assert (result.value, result.ci95, str(result)) == (None, None, "undefined (n=7)")
    assert measure([(True, None)]).n == measure([]).n == 0
    perfect = measure([(True, True)] * 6 + [(False, False)] * 5)
    assert (perfect.value, perfect.ci95) == (1.0, None)


def test_counted_votes_give_the_alpha_of_the_items_they_count():
    counts = {(True, True, None): 4, (True, False, True): 3, (False, False, False): 5}
    counts |= {(True, None, None): 9}
    result = alpha([votes for votes, times in counts.items() for _ in range(times)])
    assert agreement.alpha_of(counts) == result
    assert result.n == 12


def test_items_of_one_cluster_are_resampled_together():
    pairs = [(True, True)] * 30 + [(False, False)] * 20 + [(True, False)] * 10
    alone, result = alpha(pairs), alpha(pairs, [f"vault-{i // 10}" for i in range(60)])
    assert (result.value, result.clusters) == (alone.value, 6)
    assert result.ci95[1] - result.ci95[0] > 2 * (alone.ci95[1] - alone.ci95[0])


ratings = st.lists(st.tuples(*[st.sampled_from(["a", "b", None])] * 3), min_size=1, max_size=25)


@given(ratings)
def test_alpha_is_the_double_sum_of_its_definition_in_any_order(items):
    # D_o: the mean over items of how often two of its m ratings differ, weighted by m;
    # D_e: how often two of all n ratings differ (Krippendorff 2004, eq. 11.1).
    rated = [[r for r in item if r is not None] for item in items]
    rated = [item for item in rated if len(item) > 1]
    everything = [r for item in rated for r in item]
    value, n = alpha(items).value, len(everything)
    assert alpha([item[::-1] for item in items[::-1]]).value == pytest.approx(value)
    if len(set(everything)) < 2:
        assert value is None
        return
    apart = sum(sum(x != y for x in item for y in item) / (len(item) - 1) for item in rated) / n
    chance = sum(x != y for x in everything for y in everything) / (n * (n - 1))
    assert value == pytest.approx(1 - apart / chance)


def test_the_bootstrap_over_kinds_is_the_bootstrap_over_rows():
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 2, (40, 2)).astype(float)
    result = estimate(rows, lambda r: r[:, 0] / (r[:, 0] + r[:, 1]), 40)
    drawn = rows[rng.integers(0, 40, (10_000, 40))].sum(1)
    quantiles = np.quantile(drawn[:, 0] / drawn.sum(1), [0.025, 0.975])
    assert result.ci95 == pytest.approx(quantiles, abs=0.01)


def of(hits: int, n: int, size: int = 1) -> Rate:
    """A rate of n clusters of `size` equal outcomes each, of which the first `hits` happened."""
    return rate([Outcome(c < hits, f"vault-{c}") for c in range(n) for _ in range(size)])


# The HarmBench classifier against the majority of three people: 264 of 273, 283 of 329.
SE, SP = of(264, 273), of(283, 329)


def test_a_true_rate_of_5_percent_that_reads_18_is_corrected_back():
    # 0.05 · 0.967 + 0.95 · 0.140 = 0.181
    result = corrected(of(181, 1000), SE, SP)
    assert result.value == pytest.approx((0.181 + 283 / 329 - 1) / (264 / 273 + 283 / 329 - 1))
    assert result.ci95[0] < 0.01 < 0.09 < result.ci95[1] < 0.12
    assert result.raw.value == 0.181
    near = corrected(of(120, 1000), SE, SP)  # below the share that the judge errs by
    assert near.value == near.ci95[0] == 0.0
    assert near.ci95[1] > 0.01


def test_the_corrected_interval_is_the_published_one():
    # Lang and Reiczigel's formulas by hand at z = 1.959964, z² = 3.841459, with 30 of 120
    # observed, Se 54/60, Sp 45/50: p_obs' = 31.920729 / 123.841459 = .257755, Se' = 55/62,
    # Sp' = 46/52, Youden' = .771712, p' = .184488; Se'(1−Se')/62 = .001615727,
    # Sp'(1−Sp')/52 = .001962904; δ = 7.682918 (.000298084 − .001600771) = −.010008;
    # variance = .001544835 + .000054993 + .001305446 = .002905274, half = .136893.
    low, high = lang_reiczigel((0.25, 120), (0.9, 60), (0.9, 50))
    assert (low, high) == pytest.approx((0.037586, 0.311373), abs=2e-5)


def coverage(p: float, se: float, sp: float, labels: tuple[int, int], exact: bool = False) -> float:
    """How often the interval holds p in 3,000 simulated exams of 320 items."""
    rng = np.random.default_rng(11)
    (n_se, n_sp), more = labels, 10**7 if exact else 1
    observed_R = rng.binomial(320, p * se + (1 - p) * (1 - sp), 3000) / 320
    se_R = rng.binomial(n_se, se, 3000) / n_se
    sp_R = rng.binomial(n_sp, sp, 3000) / n_sp
    limits = [
        lang_reiczigel((a, 320), (b, n_se * more), (c, n_sp * more))
        for a, b, c in zip(observed_R, se_R, sp_R, strict=True)
    ]
    return float(np.mean([low <= p <= high for low, high in limits]))


@pytest.mark.parametrize(("se", "sp"), [(0.967, 0.860), (0.791, 0.587), (0.333, 0.954)])
@pytest.mark.parametrize("p", [0.02, 0.1, 0.4])
def test_the_corrected_interval_covers_the_truth_as_often_as_it_says(p, se, sp):
    # The stored judges of HarmBench's validation set: best, strings, Llama Guard.
    assert 0.94 <= coverage(p, se, sp, (273, 329)) <= 0.98


def test_ignoring_the_errors_of_sensitivity_and_specificity_would_not_cover():
    assert coverage(0.1, 0.9, 0.8, (40, 40)) > 0.93
    assert coverage(0.1, 0.9, 0.8, (40, 40), exact=True) < 0.75


@pytest.mark.parametrize(
    ("raw", "se", "sp", "why"),
    [
        (of(30, 100), of(40, 100), of(60, 100), "is 1.000, which cannot be told from a coin's 1"),
        (of(30, 100), of(20, 100), of(70, 100), "cannot be told from a coin's 1"),
        # Se = Sp = .6: 1.2 has a standard error of .15 from 20 labels of each kind
        (of(90, 200), of(12, 20), of(12, 20), "cannot be told from a coin's 1"),
        (rate([]), SE, SP, "nothing was scored"),
        (of(3, 9), rate([]), SP, "people labelled no item"),
        # Specificity .86 finds 14 % where there is nothing; 1 % of 2,000 is no such population.
        (of(20, 2000), SE, SP, "would not give"),
    ],
)
def test_what_cannot_be_corrected_says_why(raw, se, sp, why):
    result = corrected(raw, se, sp)
    assert (result.value, result.ci95) == (None, None)
    assert why in str(result)


def test_clustered_items_are_worth_the_independent_ones_with_their_interval():
    assert agreement.independent_n(of(7, 50)) == 50
    assert agreement.independent_n(of(20, 80, size=5)) == pytest.approx(80, rel=0.06)
    assert agreement.independent_n(of(0, 80, size=5)) == 80
    alone, result = corrected(of(100, 400), SE, SP), corrected(of(20, 80, size=5), SE, SP)
    assert result.value == pytest.approx(alone.value)
    assert result.ci95[1] - result.ci95[0] > 1.5 * (alone.ci95[1] - alone.ci95[0])


@given(st.integers(0, 200), st.integers(55, 100), st.integers(55, 100))
def test_a_corrected_rate_is_a_share_within_its_interval_or_none(hits, se, sp):
    result = corrected(of(hits, 200), of(se, 100), of(sp, 100))
    if result.value is None:
        assert result.why
    else:
        assert 0 <= result.ci95[0] < result.ci95[1] <= 1
        assert 0 <= result.value <= 1
