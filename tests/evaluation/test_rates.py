import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.stats.rates import Outcome, rate, resampled, wilson


def outcomes(*told, cluster=None):
    return [
        Outcome(t, cluster or str(i), "ok" if t is not None else "timeout")
        for i, t in enumerate(told)
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
    got = wilson(round(n * share), n)
    assert got == pytest.approx((low, high), abs=1.5e-3)


def test_each_item_its_own_cluster_gives_wilson():
    told = rate(outcomes(True, False, False, False))
    assert (told.value, told.method, told.n_scored, told.clusters) == (0.25, "wilson", 4, 4)
    assert told.ci95 == pytest.approx(wilson(1, 4))


def test_unscored_items_leave_the_rate_and_are_counted_and_bounded():
    told = rate(outcomes(True, False, None, None, None))
    assert (told.value, told.n_total, told.n_scored) == (0.5, 5, 2)
    assert told.unscored == {"timeout": 3}
    assert told.bounds == (0.2, 0.8)


def test_nothing_scored_is_no_number():
    told = rate(outcomes(None, None))
    assert (told.value, told.ci95, told.bounds) == (None, None, (0.0, 1.0))
    assert str(told) == "unscored (n=2)"


def test_repeated_seeds_widen_the_interval_to_what_their_clusters_can_tell():
    rows = [Outcome(c < 3, f"c{c}") for c in range(10) for _ in range(20)]
    told = rate(rows)
    assert told.method == "cluster bootstrap"
    low, high = told.ci95
    alone = wilson(60, 200)
    assert high - low > 2 * (alone[1] - alone[0])
    assert (low, high) == rate(rows).ci95


def test_resampling_in_pieces_draws_what_it_draws_at_once(monkeypatch):
    """An array of 10,000 x clusters would be gigabytes for the larger benchmarks."""
    hits, sizes = [3, 0, 2, 1, 4], [4, 1, 2, 3, 5]
    whole = resampled(hits, sizes)
    monkeypatch.setattr("sparring.stats.rates._HELD", 35)
    assert resampled(hits, sizes) == whole
    assert 0.2 < whole[0] < 10 / 15 < whole[1] < 1.0


@pytest.mark.parametrize("all_hit", [True, False])
def test_clusters_that_all_agree_do_not_pretend_to_be_certain(all_hit):
    told = rate([Outcome(all_hit, f"c{i % 16}") for i in range(192)])
    assert told.method == "wilson over clusters"
    width = told.ci95[1] - told.ci95[0]
    assert width == pytest.approx(0.194, abs=2e-3)  # Wilson at 0 of 16


def test_clusters_that_agree_in_the_middle_do_not_either():
    told = rate([Outcome(i % 2 == 0, f"c{i // 2}") for i in range(6)])
    assert (told.value, told.method) == (0.5, "wilson over clusters")
    assert told.ci95[0] < 0.25 < 0.75 < told.ci95[1]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
def test_no_interval_is_a_point_however_the_items_cluster(told):
    got = rate([Outcome(hit, f"c{cluster}") for hit, cluster in told])
    assert got.ci95[0] < got.ci95[1]


@given(st.lists(st.one_of(st.booleans(), st.none()), min_size=1, max_size=30))
def test_the_value_lies_within_interval_and_bounds(told):
    got = rate(outcomes(*told))
    if got.value is not None:
        assert got.ci95[0] - 1e-9 <= got.value <= got.ci95[1] + 1e-9
        assert got.bounds[0] <= got.value <= got.bounds[1]
