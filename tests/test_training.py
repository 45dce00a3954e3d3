from hypothesis import given
from hypothesis import strategies as st

from sparring.runs.train import _spread


@given(st.integers(1, 60), st.integers(1, 12))
def test_a_crossplay_meets_the_last_checkpoint_and_from_two_on_the_first(count, wanted):
    numbers = [20 * i for i in range(count)]
    told = _spread(numbers, wanted)
    assert told == sorted(set(told))
    assert len(told) <= wanted
    assert told[-1] == numbers[-1]
    assert wanted == 1 or told[0] == 0


def test_its_checkpoints_are_denser_where_a_run_begins():
    assert _spread(list(range(0, 180, 20)), 5) == [0, 20, 40, 80, 160]
