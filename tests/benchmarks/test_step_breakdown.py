"""Every part of a step that the breakdown times is a function that there is."""

import pkgutil

import pytest
from benchmarks.step_breakdown import PARTS


@pytest.mark.parametrize("where", [name for name in PARTS.values() if name])
def test_a_timed_part_is_there(where):
    assert pkgutil.resolve_name(where) is not None
