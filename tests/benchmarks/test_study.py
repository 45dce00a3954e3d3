"""Figures that a study stores are kept while they rest on the same settings and model."""

import sys

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
    with pytest.raises(RuntimeError, match=r"magic-1\.json rests on other base: move it away"):
        study.begun(path, {"settings": "a", "base": "x"})


def test_names_are_chosen_in_the_order_of_the_plan():
    assert study.chosen(["magic", "ssp", "no_game"], "no_game,magic") == ["magic", "no_game"]
    assert study.chosen([301, 302], None) == ["301", "302"]


def test_a_cell_that_fails_stops_no_other(capsys):
    done = []

    def fails():
        raise RuntimeError("the judge is away")

    cells = [("a", fails), ("b", lambda: done.append("b"))]
    with pytest.raises(SystemExit) as failed:
        study.play(cells, jobs=1)
    assert (failed.value.code, done) == (1, ["b"])
    assert "a: the judge is away" in capsys.readouterr().err


def test_a_command_is_run_with_what_it_costs(tmp_path):
    log = tmp_path / "logs" / "a.log"
    code = "import os, sys; print(os.environ['WHERE']); print('a note', file=sys.stderr)"
    words = (sys.executable, "-c", code)
    output, cost = study.call(*words, log=log, environment={"WHERE": "here"})
    assert output == "here\n"
    assert log.read_text() == "a note\n"
    assert cost["cpu_seconds"] >= 0
    assert cost["peak_gib"] > 0
    with pytest.raises(RuntimeError, match=r"ended with 3; see .*a\.log"):
        study.call(sys.executable, "-c", "raise SystemExit(3)", log=log)
