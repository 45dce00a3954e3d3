"""Figures that a study stores are kept while they rest on the same settings and model."""

import pytest
from benchmarks import study


def test_a_cell_goes_on_where_it_was_stopped(tmp_path):
    path = tmp_path / "results" / "magic-1.json"
    record = study.begun(path, {"settings": "a"})
    assert record == {"settings": "a", "code": study.code_digest()}
    study.store(path, record | {"rounds": 3})
    assert study.begun(path, {"settings": "a"})["rounds"] == 3


def test_figures_of_other_settings_are_refused(tmp_path):
    path = tmp_path / "magic-1.json"
    study.store(path, {"settings": "a", "base": "b", "code": "c"})
    with pytest.raises(SystemExit, match=r"magic-1\.json rests on other base: move it away"):
        study.begun(path, {"settings": "a", "base": "x"})


def test_names_are_chosen_in_the_order_of_the_plan():
    assert study.chosen(["magic", "ssp", "no_game"], "no_game,magic") == ["magic", "no_game"]
    assert study.chosen([301, 302], None) == ["301", "302"]
