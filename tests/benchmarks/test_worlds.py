"""The table of benchmarks/worlds.py: what counts, and where another world is expected."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from benchmarks import worlds

ROOT = Path(__file__).parents[2]


def curve(*rates):
    return {"asr": [{"value": rate} for rate in rates]}


def cell(end, exam, **attacks):
    rates = {"asr/adversarial": exam, "asr/two-exchange": exam, "correct/wrapped": 1 - exam}
    curves = {name.replace("_", "/"): curve(0.0, asr) for name, asr in attacks.items()}
    return {"rounds": 9, "seconds": 2.0, "exams": {"9": rates}, "attacks": curves, "code": end}


def test_the_worst_of_all_restarts_counts_and_searches_and_more_steps_do_not():
    attacked = cell("a", 0.1, magic_0=0.2, magic_1=0.4, own_0=0.3, draws_0=0.8, longer=0.9)
    assert worlds.ends(attacked, "magic") == [0.2, 0.4]
    assert worlds.ends(attacked, "longer") == [0.9]
    assert worlds.attacked([attacked], *worlds.WORST) == "0.400 / 0.400 (1)"


def test_more_steps_are_for_the_attacker_that_got_furthest():
    ends = {"foreign/0": (0.9, 0.1), "own/0": (0.1, 0.3), "draws/0": (0.8,), "pool/0": (0.0, None)}
    assert worlds.strongest({name: curve(*asr) for name, asr in ends.items()}) == "own/0"


def test_of_attackers_that_end_alike_the_one_with_the_higher_peak_goes_on():
    ends = {"foreign/0": (0.0, 0.0), "own/0": (0.0, 0.1, 0.0), "pool/0": (0.0, 0.05, 0.0)}
    assert worlds.strongest({name: curve(*asr) for name, asr in ends.items()}) == "own/0"


def test_what_could_not_be_scored_is_no_rate():
    attacked = cell("a", 0.1, own_0=None, broad_0=0.2)
    assert worlds.ends(attacked, *worlds.LEARNED) == [0.2]
    assert worlds.attacked([attacked], "own") == "–"


def test_another_world_is_expected_by_students_t_of_the_angles():
    """Angles .322 and .580 twice, mean .451, s .149, n 4: .451 + 3.182 × .149 × √1.25."""
    assert worlds.next_world([0.1, 0.3, 0.1, 0.3]) == "0–0.69"
    assert worlds.next_world([0.0, 1.0]) == "0–1.00"
    assert worlds.next_world([0.5]) == "–"


def test_worlds_that_agree_are_not_taken_for_certainty():
    """s = 1/(2 √96) = .051 where all agree; n 5: 2.776 × .051 × √1.2 = .155."""
    assert worlds.next_world([0.0] * 5) == "0–0.02"
    assert worlds.next_world([0.4] * 5) == "0–0.55"


@pytest.mark.parametrize(("seen", "shape"), [(5, (0.5, 15)), (10, (0.5, 15)), (10, (1, 60))])
def test_the_next_world_is_inside_as_often_as_it_says(seen, shape):
    """Skewed rates near 0, with the sampling error of 192 games; the share is ± .011 by chance."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1500):
        *there, following = rng.binomial(192, rng.beta(*shape, seen + 1)) / 192
        inside += round(following, 2) <= float(worlds.next_world(there).removeprefix("0–"))
    assert inside / 1500 >= 0.95


def test_a_difference_stays_where_rates_can_differ():
    assert worlds.difference([-0.1, -0.7]) == "-0.40 [-1.00, +1.00]"
    assert worlds.difference([-0.40, -0.42, -0.38]) == "-0.40 [-0.45, -0.35]"
    assert worlds.difference([0.0, 0.0]) == worlds.difference([0.3]) == "–"


def test_the_table_has_a_row_for_every_recipe_and_a_difference_by_world(tmp_path):
    rows = {
        "magic-1": cell("a", 0.1, magic_0=0.6, magic_1=0.8),
        "magic-2": cell("a", 0.3, magic_0=0.2),
        "ssp-1": cell("b", 0.1, magic_0=0.5, broad_0=0.9),
    }
    for name, stored in rows.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(stored))
    head, _, magic, ssp, _, codes = worlds.table(tmp_path)
    assert "| magic | broad | worst | next world | − magic |" in head
    assert magic.startswith(
        "| magic | 1, 2 | 0.200 / 0.300 | 0.200 / 0.300 | 0.800 / 0.700 | 0.500 / 0.800 (2) | – |"
    )
    assert "| 0.500 / 0.500 (1) | 0.900 / 0.900 (1) | 0.900 / 0.900 (1) | – | – |" in ssp
    assert codes == "Played by code a, b."


def test_searches_have_a_table_of_their_own(tmp_path):
    (tmp_path / "magic-1.json").write_text(json.dumps(cell("a", 0.1, magic_0=0.6, draws_0=0.2)))
    (tmp_path / "magic-2.json").write_text(json.dumps(cell("a", 0.1, draws_0=0.4)))
    (tmp_path / "ssp-1.json").write_text(json.dumps(cell("a", 0.1, magic_0=0.6)))
    head, _, magic = worlds.searches(tmp_path)
    assert head.startswith("| mean / worst, queries | draws, 422 | tree, 96 |")
    assert magic.startswith("| magic | 0.300 / 0.400 (2) | – |")
    assert "draws" not in worlds.table(tmp_path)[0]


@pytest.mark.parametrize("wrong", ["magic-x.json", "earlier.json"])
def test_other_files_are_no_cells(tmp_path, wrong):
    (tmp_path / wrong).write_text("{}")
    assert worlds.read_results(tmp_path, "magic") == {}


def test_the_published_table_is_the_stored_one():
    lines = worlds.table(ROOT / "benchmarks" / "results" / "tuning")[:-2]
    assert "\n".join(lines) in (ROOT / "docs" / "results.md").read_text("utf-8")


def test_the_figures_of_the_readme_are_in_the_table_of_results():
    table = worlds.table(ROOT / "benchmarks" / "results" / "tuning")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in table}
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = re.findall(r"^\| `(\w+)` \| (.* s) \|$", readme, re.MULTILINE)
    assert [name for name, _ in shown] == ["magic", "ssp", "magic_hardened"]
    for name, figures in shown:
        for figure in figures.split(" | "):
            assert f"| {re.sub(r'(?<![0-9])[.]', '0.', figure)} " in rows[name], (name, figure)


@pytest.mark.parametrize("words", [["--worlds", "4x4"], ["--rows", "magik"]])
def test_worlds_and_rows_that_are_none_are_refused(monkeypatch, words):
    monkeypatch.setattr("sys.argv", ["worlds.py", "--plan", "reported", *words])
    with pytest.raises(SystemExit) as refused:
        worlds.main()
    assert refused.value.code == 2


def test_a_cell_is_attacked_again_where_the_budget_is_another(tmp_path, monkeypatch):
    """Whatever else is stored stays; the attacker that goes on is the strongest of the others."""
    rate = {"value": 0.25, "ci95": [0, 1], "n_total": 4, "n_scored": 4, "bounds": [0, 1], "x": 1}
    played = []

    def attacked(self, attack, budget):
        played.append((attack, *budget))
        return [rate], {"cpu_seconds": 2.0}

    cell = worlds.Cell("magic", 7001, tmp_path, tmp_path / "results")
    cell.base.mkdir()
    (cell.base / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(worlds.Cell, "train", lambda self: None)
    monkeypatch.setattr(worlds.Cell, "_attack", attacked)
    monkeypatch.setattr(worlds, "read_off", lambda run: {"rounds": 1, "seconds": 1.0})
    for _ in range(2):
        cell.play(["own/0", "draws/0", "longer"])
    record = json.loads(cell.result.read_bytes())
    assert played == [
        ("own/0", "--steps", "80"),
        ("draws/0", "--queries", "422"),
        ("own/0", "--steps", "320"),
    ]
    assert record["attacks"]["own/0"]["asr"] == [{k: v for k, v in rate.items() if k != "x"}]
    assert record["attacks"]["longer"]["attacker"] == "own/0"
    record["attacks"]["draws/0"]["budget"] = ["--queries", "100"]
    cell.result.write_text(json.dumps(record))
    cell.play(["own/0", "draws/0", "longer"])
    assert played[3:] == [("draws/0", "--queries", "422")]
