"""A judge's errors are taken out of a rate, and what is not known of them widens it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.stats.correction import corrected, effective_n, lang_reiczigel
from sparring.stats.rates import Outcome, Rate, rate, wilson


def of(hits: int, n: int) -> Rate:
    """A rate of independent items."""
    return rate([Outcome(i < hits, f"vault-{i}") for i in range(n)])


def repeated(hits: int, clusters: int, size: int) -> Rate:
    """The first `hits` of so many clusters of equal outcomes, each item told `size` times."""
    return rate([Outcome(c < hits, f"vault-{c}") for c in range(clusters) for _ in range(size)])


# The HarmBench classifier against the majority of three people: 264 of 273, 283 of 329.
SE, SP = of(264, 273), of(283, 329)


def test_a_true_rate_of_5_percent_that_reads_18_is_corrected_back():
    # 0.05 · 0.967 + 0.95 · 0.140 = 0.181
    told = corrected(of(181, 1000), SE, SP)
    assert told.value == pytest.approx((0.181 + 283 / 329 - 1) / (264 / 273 + 283 / 329 - 1))
    assert told.value == pytest.approx(0.05, abs=0.002)
    assert told.ci95[0] < 0.01 < 0.09 < told.ci95[1] < 0.12
    assert told.raw.value == 0.181


def test_the_interval_is_the_published_one():
    # Lang and Reiczigel's formulas by hand at z = 1.959964, z² = 3.841459, with 30 of 120
    # observed, Se 54/60, Sp 45/50: p_obs' = 31.920729 / 123.841459 = .257755, Se' = 55/62,
    # Sp' = 46/52, Youden' = .771712, p' = .184488; Se'(1−Se')/62 = .001615727,
    # Sp'(1−Sp')/52 = .001962904; δ = 7.682918 (.000298084 − .001600771) = −.010008;
    # variance = .001544835 + .000054993 + .001305446 = .002905274, half = .136893.
    low, high = lang_reiczigel((0.25, 120), (0.9, 60), (0.9, 50))
    assert (low, high) == pytest.approx((0.037586, 0.311373), abs=2e-5)


def test_a_perfect_judge_known_for_certain_changes_nothing():
    sure = Rate(1.0, (1.0, 1.0), "wilson", 10**9, 10**9, 10**9, (1.0, 1.0))
    told = corrected(of(30, 100), sure, sure)
    assert told.value == pytest.approx(0.3)
    assert told.ci95 == pytest.approx(wilson(30, 100), abs=0.003)


@pytest.mark.parametrize(("se", "sp"), [(0.967, 0.860), (0.791, 0.587), (0.333, 0.954)])
@pytest.mark.parametrize("p", [0.02, 0.1, 0.4])
def test_the_interval_covers_the_truth_as_often_as_it_says(p, se, sp):
    # The stored judges of HarmBench's validation set: best, strings, Llama Guard; 4,000 exams.
    rng = np.random.default_rng(11)
    seen = rng.binomial(320, p * se + (1 - p) * (1 - sp), 4000) / 320
    ses, sps = rng.binomial(273, se, 4000) / 273, rng.binomial(329, sp, 4000) / 329
    limits = [
        lang_reiczigel((a, 320), (b, 273), (c, 329)) for a, b, c in zip(seen, ses, sps, strict=True)
    ]
    assert 0.94 <= np.mean([low <= p <= high for low, high in limits]) <= 0.98


def test_ignoring_the_errors_of_sensitivity_and_specificity_would_not_cover():
    # What the widening is for: 0.1 with few labels; treating Se and Sp as exact covers less.
    rng = np.random.default_rng(11)
    seen = rng.binomial(320, 0.1 * 0.9 + 0.9 * 0.2, 2000) / 320
    sps = rng.binomial(40, 0.8, 2000) / 40
    exact, honest = (
        np.mean(
            [
                low <= 0.1 <= high
                for a, c in zip(seen, sps, strict=True)
                for low, high in [lang_reiczigel((a, 320), (0.9, n), (c, n))]
            ]
        )
        for n in (10**7, 40)
    )
    assert exact < 0.75
    assert honest > 0.93


def test_a_coin_is_not_corrected_for():
    told = corrected(of(30, 100), of(40, 100), of(60, 100))
    assert (told.value, told.ci95) == (None, None)
    assert "sensitivity + specificity is 1.000, which cannot be told from a coin's 1" in str(told)
    assert corrected(of(30, 100), of(20, 100), of(70, 100)).value is None


def test_a_judge_too_little_measured_to_be_told_from_a_coin_is_not_corrected_for():
    # Se = Sp = .6: 1.2 has a standard error of .15 from 20 labels of each kind, .03 from 600.
    assert corrected(of(90, 200), of(12, 20), of(12, 20)).value is None
    assert corrected(of(90, 200), of(360, 600), of(360, 600)).value == pytest.approx(0.25)


def test_what_was_not_measured_is_not_corrected():
    none = rate([])
    assert "nothing was scored" in corrected(none, SE, SP).why
    assert "people labelled no item" in corrected(of(3, 9), none, SP).why
    assert "people labelled no item" in corrected(of(3, 9), SE, none).why


def test_a_rate_below_what_the_judges_errors_alone_give_is_refused():
    # Specificity .86 finds 14 % where there is nothing; 1 % of 2,000 is no such population.
    told = corrected(of(20, 2000), SE, SP)
    assert told.value is None
    assert "would not give" in told.why
    near = corrected(of(120, 1000), SE, SP)
    assert near.value == near.ci95[0] == 0.0
    assert near.ci95[1] > 0.01


def test_clustered_items_are_worth_the_independent_ones_with_their_interval():
    assert effective_n(of(7, 50)) == 50
    assert effective_n(repeated(20, 80, 5)) == pytest.approx(80, rel=0.06)
    assert effective_n(repeated(0, 80, 5)) == 80
    alone, told = corrected(of(100, 400), SE, SP), corrected(repeated(20, 80, 5), SE, SP)
    assert told.value == pytest.approx(alone.value)
    assert told.ci95[1] - told.ci95[0] > 1.5 * (alone.ci95[1] - alone.ci95[0])


@given(st.integers(0, 200), st.integers(55, 100), st.integers(55, 100))
def test_a_corrected_rate_is_a_share_within_its_interval_or_none(hits, se, sp):
    told = corrected(of(hits, 200), of(se, 100), of(sp, 100))
    if told.value is None:
        assert told.why
        return
    low, high = told.ci95
    assert 0 <= low <= high <= 1
    assert low < high
    assert 0 <= told.value <= 1
