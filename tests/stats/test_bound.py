"""How often a defender fails is bounded from above, and only where it was attacked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.stats.bound import Limit, bound, effective_n
from sparring.stats.rates import Outcome
from sparring.types import UsageError


def items(failures: int, n: int) -> list[Outcome]:
    """n seeds with one item each."""
    return [Outcome(i < failures, f"vault-{i}") for i in range(n)]


def clustered(*failures: int, size: int) -> list[Outcome]:
    """Seeds with `size` items each, of which that many failed."""
    return [Outcome(i < k, f"vault-{c}") for c, k in enumerate(failures) for i in range(size)]


def limit(outcomes: list[Outcome], confidence: float = 0.95) -> Limit:
    """The limit of a single family."""
    return bound({"frames": outcomes}, confidence).families["frames"]


@pytest.mark.parametrize(
    ("failures", "n", "upper"),
    [(81, 263, 0.3676), (15, 148, 0.1617), (0, 20, 0.1684), (1, 29, 0.1776)],
)
def test_the_limit_is_the_published_one(failures, n, upper):
    # Newcombe, Statistics in Medicine 17, 1998, 857-872, table I: the upper ends of two-sided
    # 95 % Clopper-Pearson intervals, which are one-sided 97.5 % limits.
    assert limit(items(failures, n), 0.975).upper == pytest.approx(upper, abs=5e-5)


def test_more_families_each_get_a_smaller_share_of_the_error_and_an_untried_one_no_limit():
    result = bound({"frames": items(0, 40), "encodings": items(0, 60), "none": []})
    assert result.families["frames"].upper == pytest.approx(1 - (0.05 / 3) ** (1 / 40))
    assert result.families["encodings"].upper == pytest.approx(1 - (0.05 / 3) ** (1 / 60))
    assert result.families["none"].upper == result.upper == 1.0


def test_what_could_not_be_scored_counts_as_a_failure():
    unscored = [Outcome(None, f"gate-{i}", "timeout") for i in range(4)]
    result = limit([*items(3, 30), *unscored])
    assert (result.n, result.failures, result.unscored) == (34, 7, 4)
    assert result.upper == limit(items(7, 34)).upper


def test_where_all_outcomes_are_equal_a_seed_counts_once():
    result = limit(clustered(0, 0, 0, 0, 0, size=40))
    assert (result.n, result.clusters, result.effective_n) == (200, 5, 5.0)
    assert result.upper == pytest.approx(1 - 0.05 ** (1 / 5))


def test_a_worked_effective_n():
    # Shares 0, 1/2, 1/2, 1 of 4 each: MSB = 4 · (1/4 + 0 + 0 + 1/4) / 3 = 2/3, MSW = 2 · 1 / 12
    # = 1/6, ρ = (2/3 − 1/6) / (2/3 + 3/6) = 3/7, deff = 1 + 3 · 3/7 = 16/7, 16 / deff = 7.
    # One-sided 95 % t quantiles, from any table: 1.7531 at 15, 2.3534 at 3 degrees of freedom.
    worth = effective_n(np.array([0.0, 2, 2, 4]), np.full(4, 4.0), 0.05)
    assert worth == pytest.approx(7 * (1.7531 / 2.3534) ** 2, rel=1e-4)


def test_seeds_that_fail_together_are_worth_less_than_seeds_that_do_not():
    together = limit(clustered(8, 8, 0, 0, 0, 0, 0, 0, size=8))
    spread = limit(clustered(*[2] * 8, size=8))
    assert (together.failures, together.n) == (spread.failures, spread.n) == (16, 64)
    assert together.effective_n < 8 < spread.effective_n
    assert together.upper > spread.upper


def test_a_first_failure_does_not_lower_the_limit():
    none, first = clustered(*[0] * 10, size=20), clustered(1, *[0] * 9, size=20)
    assert limit(first).upper >= limit(none).upper


@given(st.integers(1, 400), st.data())
def test_the_limit_grows_with_failures_from_the_rate_to_one(n, data):
    failures = data.draw(st.integers(0, n - 1))
    fewer, more = (limit(items(k, n)).upper for k in (failures, failures + 1))
    assert failures / n < fewer < more <= 1
    assert limit(items(failures, n), 0.975).upper > fewer


@given(st.lists(st.lists(st.sampled_from([True, False, None]), min_size=1), min_size=1))
def test_however_items_cluster_the_limit_lies_between_the_rate_and_one(seeds):
    result = limit(
        [Outcome(failed, f"vault-{c}") for c, seed in enumerate(seeds) for failed in seed]
    )
    assert result.failures / result.n <= result.upper <= 1
    assert 0 < result.effective_n <= result.n


@pytest.mark.parametrize(("clusters", "size", "rate"), [(200, 1, 0.03), (16, 12, 0.05)])
def test_the_limit_covers_the_truth_as_often_as_it_says(clusters, size, rate):
    # Beta-binomial clusters with an intra-cluster correlation of 0.3; 400 simulated exams.
    rng = np.random.default_rng(7)
    shares_RC = rng.beta(rate * 7 / 3, (1 - rate) * 7 / 3, (400, clusters))
    failed_RC = rng.binomial(size, shares_RC)
    uppers = [limit(clustered(*row, size=size)).upper for row in failed_RC.tolist()]
    assert np.mean(np.array(uppers) >= rate) >= 0.95 - 2 * (0.95 * 0.05 / 400) ** 0.5


@pytest.mark.parametrize(
    ("families", "confidence"), [({}, 0.95), ({"frames": []}, 1.0), ({"frames": []}, 0.5)]
)
def test_nothing_to_bound_is_refused(families, confidence):
    with pytest.raises(UsageError, match=r"bound: .*wanted"):
        bound(families, confidence)
