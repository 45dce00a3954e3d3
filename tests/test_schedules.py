from hypothesis import given
from hypothesis import strategies as st

from sparring.schedules import alternate, always, by_metric, solo
from sparring.types import Player

A, D = Player.ATTACKER, Player.DEFENDER
TURNS = {D: solo(D, 4), A: solo(A, 8, 3)}


def letters(schedule, rounds, past=()) -> str:
    turns = [schedule(number, past) for number in range(rounds)]
    return "".join("D" if D in turn.learns else "A" for turn in turns)


def test_widths_of_magics_turns():
    assert TURNS[D].widths == {A: 1, D: 4}
    assert TURNS[A].widths == {A: 8, D: 3}


def test_alternation_starts_with_the_defender_and_keeps_the_ratio():
    assert letters(alternate(TURNS, {D: 3, A: 2}), 11) == "DDDAADDDAAD"


def test_always_is_one_turn():
    assert letters(always(TURNS[D]), 4) == "DDDD"


def run(schedule, asrs) -> str:
    past = [{} if asr is None else {"asr": asr} for asr in asrs]
    return "".join(letters(lambda n, p: schedule(len(p), p), 1, past[:n]) for n in range(len(past)))


def test_the_defender_hands_over_once_it_holds_and_gets_the_turn_back_when_it_breaks():
    schedule = by_metric(TURNS, (0.8, 0.9), window=2, dwell=(2, 9))
    #                      held: .7 .95 .95 | .85 .5 .. mean .675 | ..
    asrs = [0.3, 0.05, 0.05, 0.15, 0.5, 0.9, 0.9, 0.0, 0.0, 0.0]
    assert run(schedule, asrs) == "DDDAADDDDA"


def test_nobody_leaves_before_the_shortest_or_after_the_longest_stay():
    schedule = by_metric(TURNS, (0.8, 0.9), window=1, dwell=(3, 4))
    assert run(schedule, [0.0] * 8) == "DDDAAAAD"
    assert run(schedule, [1.0] * 9) == "DDDDAAADD"


def test_the_window_is_cleared_at_a_switch():
    schedule = by_metric(TURNS, (0.8, 0.9), window=3, dwell=(1, 9))
    # held: 1 1 1 | .6 .6 .6, a mean of .6 after three; a window that went on has .73 after two
    assert run(schedule, [0.0, 0.0, 0.0, 0.4, 0.4, 0.4, 0.4]) == "DDDAAAD"


def test_rounds_without_a_rate_on_harmful_seeds_do_not_move_the_average():
    schedule = by_metric(TURNS, (0.8, 0.9), window=2, dwell=(1, 9))
    assert run(schedule, [0.0, None, None, 0.0, 0.0]) == "DDDDA"


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(0, 39))
def test_a_schedule_is_a_pure_function_of_the_rounds_before(asrs, cut):
    schedule = by_metric(TURNS, window=3, dwell=(2, 6))
    past = [{"asr": asr} for asr in asrs]
    n = min(cut, len(past))
    assert schedule(n, past[:n]) == schedule(n, past)


def test_rounds_against_a_past_self_do_not_count_towards_a_switch():
    turn = by_metric(TURNS, window=2, dwell=(1, 9))
    present, league = {"asr": 0.05}, {"asr": 0.05, "league/attacker": 20.0}
    assert turn(2, [present, present]) == TURNS[A]
    assert turn(2, [present, league]) == TURNS[D]
    assert turn(3, [present, league, present]) == TURNS[A]
