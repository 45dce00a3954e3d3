import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.credit import centered, credit, leave_one_out, role_baseline, standardized
from sparring.types import Completion, Episode, Move, Player, State
from tests.table import VAULT

A, D = Player.ATTACKER, Player.DEFENDER


def episode(opening: int, path: tuple[int, ...], returns, players=(A, D, A, D)) -> Episode:
    state = State(VAULT)
    for ply, sibling in enumerate(path):
        text = f"{opening}/{path[: ply + 1]}"
        state = state.play(Move(players[ply], (), Completion(text), text, sibling))
    return Episode(state, opening, returns)


def advantages(earned) -> list[float]:
    return [sample.advantage for sample in earned.samples]


def test_a_defenders_group_is_the_replies_to_one_attack():
    rows = [episode(0, (0, k), {D: value, A: 0.0}) for k, value in enumerate([1.5, -1.5, 0.5, 1.5])]
    # mean .5; sample deviation sqrt((1 + 4 + 0 + 1) / 3) = 1.41421
    earned = credit(rows, D, standardized)
    assert advantages(earned) == pytest.approx([0.70711, -1.41421, 0.0, 0.70711], abs=1e-4)
    assert (earned.groups, earned.dropped, earned.zero_std) == (1, 0, 0)


def test_an_attacks_value_is_the_mean_over_its_scored_replies():
    rows = [
        episode(0, (0, 0), {A: 2.0, D: -1.5}),
        episode(0, (0, 1), {A: -1.0, D: 1.5}),
        episode(0, (1, 0), {A: -1.0, D: 1.5}),
        episode(0, (1, 1), None),
    ]
    earned = credit(rows, A, centered)
    assert advantages(earned) == [0.75, -0.75]  # values .5 and -1, mean -.25
    assert earned.unscored == 0


def test_a_fork_without_a_scored_episode_leaves_its_group():
    rows = [episode(0, (k, 0), returns) for k, returns in enumerate([{A: 2.0}, None, {A: -1.0}])]
    earned = credit(rows, A, centered)
    assert (advantages(earned), earned.unscored) == ([1.5, -1.5], 1)


@pytest.mark.parametrize("estimator", [standardized, centered, leave_one_out])
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=8), st.data())
def test_the_others_get_exactly_the_advantages_of_the_group_without_the_missing(
    estimator, values, data
):
    gone = data.draw(st.integers(0, len(values) - 1))
    with_hole = [episode(0, (0, k), None if k == gone else {D: v}) for k, v in enumerate(values)]
    without = [episode(0, (0, k), {D: v}) for k, v in enumerate(values) if k != gone]
    assert advantages(credit(with_hole, D, estimator)) == advantages(credit(without, D, estimator))


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8), st.randoms())
def test_advantages_of_a_group_sum_to_zero_and_do_not_depend_on_the_order(values, random):
    rows = [episode(0, (0, k), {D: v}) for k, v in enumerate(values)]
    for estimator in (standardized, centered, leave_one_out):
        earned = credit(rows, D, estimator)
        assert math.fsum(advantages(earned)) == pytest.approx(0, abs=1e-6)
        shuffled = random.sample(rows, len(rows))
        again = {s.completion.text: s.advantage for s in credit(shuffled, D, estimator).samples}
        assert again == pytest.approx({s.completion.text: s.advantage for s in earned.samples})


def test_fewer_than_two_scored_siblings_drop_the_group_and_it_is_counted():
    rows = [episode(0, (0, 0), {D: 1.5}), episode(0, (0, 1), None), episode(1, (0, 0), {D: 0.5})]
    earned = credit(rows, D, standardized)
    assert (earned.samples, earned.groups, earned.dropped, earned.unscored) == ((), 2, 2, 1)


def test_an_all_equal_group_is_counted_and_teaches_nothing():
    rows = [episode(0, (0, k), {D: 1.5}) for k in range(4)]
    earned = credit(rows, D, standardized)
    assert (advantages(earned), earned.zero_std) == ([0.0] * 4, 1)


@pytest.mark.parametrize(("value", "n"), [(0.1, 3), (0.7, 6), (-0.8, 12)])
def test_values_whose_mean_rounds_are_equal_all_the_same(value, n):
    rows = [episode(0, (0, k), {D: value}) for k in range(n)]
    for estimator in (standardized, centered, leave_one_out):
        assert advantages(credit(rows, D, estimator)) == [0.0] * n


def test_a_masked_defender_is_neither_paid_nor_taught():
    rows = [episode(0, (0, k), {A: -2.0}) for k in range(3)]
    assert credit(rows, D, standardized).samples == ()


def test_groups_of_different_attacks_are_never_compared():
    rows = [episode(0, (a, d), {D: 10.0 * a + d}) for a in (0, 1) for d in (0, 1)]
    assert advantages(credit(rows, D, centered)) == [-0.5, 0.5, -0.5, 0.5]


def test_a_later_move_takes_its_own_branchs_return_under_the_first_groups_statistics():
    values = {(0, 0, 0): 4.0, (0, 1, 0): 2.0, (1, 0, 0): 1.0, (1, 1, 0): 1.0}
    rows = [episode(0, path, {A: value}) for path, value in values.items()]
    earned = {s.completion.text: s.advantage for s in credit(rows, A, centered).samples}
    # first moves: values 3 and 1, mean 2; later moves keep their branch's 4, 2, 1, 1
    assert (earned["0/(0,)"], earned["0/(1,)"]) == (1.0, -1.0)
    assert [earned[f"0/{path}"] for path in values] == [2.0, 0.0, -1.0, -1.0]


@pytest.mark.parametrize("estimator", [standardized, role_baseline])
def test_a_later_move_learns_nothing_where_the_first_groups_returns_are_equal(estimator):
    values = {(0, 0, 0): 4.0, (0, 1, 0): 2.0, (1, 0, 0): 3.0}  # first moves: 3 and 3
    rows = [episode(0, path, {A: value}) for path, value in values.items()]
    assert set(advantages(credit(rows, A, estimator))) == {0.0}


def test_worked_numbers_of_the_estimators():
    groups = [[1.0, 2.0, 6.0], [4.0, 4.0, 7.0]]
    assert centered(groups) == [(3.0, 1.0), (5.0, 1.0)]
    assert leave_one_out(groups) == [(3.0, pytest.approx(2 / 3)), (5.0, pytest.approx(2 / 3))]
    (centre, scale), again = role_baseline(groups)
    assert (centre, scale) == again == (4.0, pytest.approx(2.28035, abs=1e-4))
    assert standardized(groups)[0] == (3.0, pytest.approx(2.64575, abs=1e-4))
