"""Games with known equilibria are solved exactly, and learning in the arena finds them."""

import math
import random
from dataclasses import dataclass, field
from statistics import fmean

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.table import ScriptedJudge, cast, says

from sparring.arena import play
from sparring.coevolve import Plan, coevolve
from sparring.credit import centered
from sparring.games.matrix import KNOWN, MatrixGame, exploitability, subgame_perfect, zero_sum
from sparring.schedules import always
from sparring.types import Completion, Player, Seed, Turn

A, D = Player.ATTACKER, Player.DEFENDER
SEED = Seed("choose", True, "game")
PENNIES = KNOWN["matching pennies"].game
matrices = st.integers(1, 5).flatmap(
    lambda columns: st.lists(
        st.lists(st.floats(-50, 50), min_size=columns, max_size=columns), min_size=1, max_size=5
    )
)


def nobody(state):
    raise AssertionError("a matrix game needs no referee")


def played(game, attacker, defender, widths=None):
    table = cast(says(*attacker), says(*defender))
    return play(game, [game.open(SEED)], table, ScriptedJudge(nobody), widths or {}, "s")


@pytest.mark.parametrize("name", KNOWN)
def test_the_textbooks_equilibrium_is_found(name):
    known = KNOWN[name]
    row, column, value = zero_sum(known.game.payoff)
    assert value == pytest.approx(known.value)
    assert max(exploitability(known.game.payoff, row, column)) < 1e-12
    assert max(exploitability(known.game.payoff, known.row, known.column)) < 1e-12
    if name != "convoy":  # which has others as well
        assert (row, column) == (pytest.approx(known.row), pytest.approx(known.column))
    if name == "pursuit":  # "Holmes is as good as 48 % dead": both get off at one station
        assert sum(x * y for x, y in zip(row, column, strict=True)) == pytest.approx(0.48)


@given(matrices)
@example([[0.0, 1.0], [3e-8, 1.0]])
@example([[0.5, 0.5 + 3e-8], [0.0, 1.0]])
@example([[1.0, 0.0, 0.5 - 2e-8], [0.0, 1.0, 0.5 - 2e-8]])
def test_no_pure_deviation_gains(matrix):
    row, column, _ = zero_sum(matrix)
    span = max(map(max, matrix)) - min(map(min, matrix))
    assert max(exploitability(matrix, row, column)) <= 1e-9 * (span or 1)
    assert sum(row) == pytest.approx(1) == sum(column)
    assert min(*row, *column, 1) >= 0


@given(matrices, st.floats(-20, 20))
def test_values_turn_with_the_table_and_move_with_a_constant(matrix, constant):
    turned = [[-value for value in column] for column in zip(*matrix, strict=True)]
    moved = [[value + constant for value in row] for row in matrix]
    value = zero_sum(matrix)[2]
    assert zero_sum(turned)[2] == pytest.approx(-value, abs=1e-7)
    assert zero_sum(moved)[2] == pytest.approx(value + constant, abs=1e-7)


def test_worked_exploitability():
    # Rows 3/4, 1/4 against columns 1/2, 1/2 in pursuit: A y = (50, 25), x A = (62.5, 25), and
    # x A y = 43.75; the row player would gain 6.25, the column player 18.75.
    gains = exploitability(KNOWN["pursuit"].game.payoff, (0.75, 0.25), (0.5, 0.5))
    assert gains == pytest.approx((6.25, 18.75))


@given(matrices)
def test_who_moves_second_never_loses_by_it(matrix):
    row, answers, value = subgame_perfect(matrix)
    assert value == matrix[row][answers[row]] == max(map(min, matrix))
    assert value <= zero_sum(matrix)[2] + 1e-9 * 100
    assert [matrix[i][j] for i, j in enumerate(answers)] == [min(row) for row in matrix]


@given(matrices)
def test_with_a_safe_column_for_every_row_no_answer_to_any_row_costs_anything(matrix):
    # MAGIC, Theorem 3.2: r_D = −payoff, and the fallback column pays the defender 0 or more.
    safe = [[*row, -abs(row[0])] for row in matrix]
    _, answers, _ = subgame_perfect(safe)
    assert all(-safe[i][j] >= 0 for i, j in enumerate(answers))


def test_the_theorem_is_about_replies_and_not_about_simultaneous_moves():
    # Every row of matching pennies has a column that pays the defender +1. Who sees the row
    # always plays it; who does not still pays for half of the rounds at the equilibrium.
    row, column, _ = zero_sum(PENNIES.payoff)
    lost = sum(row[i] * column[j] for i in (0, 1) for j in (0, 1) if PENNIES.payoff[i][j] > 0)
    assert lost == pytest.approx(1 / 2)
    assert subgame_perfect(PENNIES.payoff) == (0, (1, 0), -1)


@pytest.mark.parametrize("matrix", [[], [[]], [[1, 2], [3]], [[1, math.nan]], [[math.inf]]])
def test_a_table_with_holes_is_refused(matrix):
    with pytest.raises(ValueError, match="matrix has"):
        zero_sum(matrix)


def test_the_arena_pays_what_the_table_says():
    episodes = played(KNOWN["pursuit"].game, ["Dover", " Canterbury\n"], ["Dover"], {A: 2})
    assert [e.returns for e in episodes] == [{A: 100, D: -100}, {A: -50, D: 50}]


@pytest.mark.parametrize("visible", [False, True])
def test_the_defender_sees_the_attackers_move_only_where_it_may(visible):
    game = MatrixGame(("castle", "bridge"), ("tower", "ford"), ((1, 2), (3, 4)), visible)
    episodes = played(game, ["castle", "bridge"], ["tower"], {A: 2})
    shown = [e.state.moves[1].observation for e in episodes]
    assert (shown[0] != shown[1]) is visible
    assert ("castle" in str(shown[0])) is visible
    assert "tower, ford" in str(shown[0])


def test_a_move_that_names_nothing_loses_and_masks_the_other():
    game = KNOWN["pursuit"].game
    (alone,) = played(game, ["London"], ["Dover"])
    (other,) = played(game, ["Dover"], ["Dover or Canterbury"])
    assert (alone.returns, len(alone.state.moves)) == ({A: -51}, 1)
    assert other.returns == {D: -101}


def test_names_that_do_not_fit_the_table_are_refused():
    with pytest.raises(ValueError, match=r"lengths \[2, 1\], expected 2 of 2"):
        MatrixGame(("a", "b"), ("c", "d"), ((1, 2), (3,)))


@dataclass
class Tabular:
    """Multiplicative weights over named moves with step 1 / √n (Freund and Schapire, 1999)."""

    moves: tuple[str, ...]
    span: float
    scores: dict[str, float]
    past: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def mixture(self) -> tuple[float, ...]:
        rate = 1 / self.span / math.sqrt(1 + len(self.past))
        weights = [math.exp(rate * self.scores.get(move, 0.0)) for move in self.moves]
        return tuple(weight / sum(weights) for weight in weights)

    def sample(self, requests):
        draw = lambda at: random.Random(at).choices(self.moves, self.mixture)[0]  # noqa: E731
        return [[Completion(draw(at)) for at in request.addresses] for request in requests]

    def update(self, samples):
        self.past.append(self.mixture)
        for move in self.moves:
            advantages = [s.advantage for s in samples if s.completion.text == move]
            self.scores[move] = self.scores.get(move, 0.0) + fmean(advantages or [0.0])
        return {}

    def average(self, rounds):
        return tuple(fmean(weights) for weights in zip(*self.past[:rounds], strict=True))


@pytest.mark.parametrize("name", ["matching pennies", "pursuit"])
def test_the_average_play_of_two_learners_approaches_the_textbooks_equilibrium(name):
    known, game = KNOWN[name], KNOWN[name].game
    span = max(map(max, game.payoff)) - min(map(min, game.payoff))
    # They start from different beliefs, so that the average has somewhere to come from.
    row = Tabular(known.game.rows, span, {known.game.rows[0]: span})
    column = Tabular(known.game.columns, span, {known.game.columns[0]: span})
    plan = Plan(
        game=known.game,
        judge=ScriptedJudge(nobody),
        openings=lambda number, turn, past: [known.game.open(SEED)],
        schedule=always(Turn(frozenset(Player), {A: 6, D: 6})),
        cast={A: row, D: column},
        learners={A: row, D: column},
        estimator=centered,
        rounds=300,
        rng_seed="matrix",
        measure=lambda episodes: {},
    )
    assert len(list(coevolve(plan))) == 300
    gains = [
        sum(exploitability(game.payoff, row.average(n), column.average(n))) / span
        for n in (1, 20, 300)
    ]
    assert gains[0] > 2 * gains[1] > 4 * gains[2]
    assert gains[2] < 0.05
    assert row.average(300) == pytest.approx(known.row, abs=0.05)
    assert column.average(300) == pytest.approx(known.column, abs=0.05)
