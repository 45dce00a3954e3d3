"""What benchmarks/real_table.py plays is a configuration, and its tables are what is stored."""

import json

import pytest
from benchmarks import real_table

from sparring.runs.recipes import configured

MODEL = "a/model"


def rate(value):
    return {"value": value, "ci95": [0.0, 1.0]}


def cell(value=0.5):
    names = ["harmbench", "strongreject", "xstest"]
    public = {f"asr/{name}": rate(value) | {"corrected": rate(0.25)} for name in names}
    public["over_refusal/xstest"] = rate(0.1) | {"corrected": None}
    public |= {f"utility/{task}": rate(0.75) for task in ("agreement", "reading")}
    exam = {
        name: rate(value)
        for name in ("asr/plain", "asr/adversarial", "over_refusal/plain", "over_refusal/wrapped")
    }
    return {
        "code": "abc",
        "costs": {
            "exam": {"cpu_seconds": 700, "peak_gib": 6.5, "game": 120},
            "attack": {"cpu_seconds": 60},
            "exploit": {"cpu_seconds": 30},
        },
        "exam": {"words": exam | {"correct/plain": rate(0.2)}},
        "eval": public,
        "attack": {name: {"asr": {"1": rate(0.1), "8": rate(0.4)}} for name in FAMILIES},
        "exploit": {"attackers": {"own": {"asr": [rate(0.0), rate(0.3)]}}},
    }


FAMILIES = ("plain", "draws", "prefill", "gradient")


@pytest.mark.parametrize("row", real_table.GAMES)
def test_every_game_is_a_configuration_of_its_recipe(row):
    models = [f"{who}.model_name_or_path={MODEL}" for who in ("attacker", "defender")]
    words = [*models, *real_table.FIXED, *real_table.GAMES[row]]
    config = configured(str(real_table.SETTINGS), words)
    assert config.recipe == row
    assert config.exam.every == 0


def test_the_tables_show_the_mean_over_seeds_and_the_least_and_the_most(tmp_path):
    for name, value in {"raw-0": 0.75, "magic-1": 0.25, "magic-2": 0.5}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(cell(value=value)))
    lines = real_table.tables(tmp_path)
    attacks, costs, corrected = (
        [line for line in table.splitlines() if line.startswith("| magic ")]
        for table in "\n".join(lines).split("\n\n")[:3]
    )
    assert attacks[0].startswith("| magic | 2 | 0.38 (0.25–0.50) | 0.38 (0.25–0.50) | 0.30 (0.30")
    assert "| 2.00 (2.00–2.00) | 1.50 (1.50–1.50) | 6.50 (6.50–6.50) |" in costs[0]
    assert corrected == [
        "| magic | 2 | 0.25 (0.25–0.25) | 0.25 (0.25–0.25) | 0.25 (0.25–0.25) | – |"
    ]
    assert any(line.startswith("| raw | 1 | 0.75 | 0.75 | 0.30 | 0.40 ") for line in lines)
    assert lines[-1] == "Played by code abc."


def test_a_cell_that_is_under_way_is_in_no_table(tmp_path):
    unfinished = cell()
    del unfinished["exploit"]
    (tmp_path / "magic-1.json").write_text(json.dumps(unfinished))
    assert not any(line.startswith("| magic ") for line in real_table.tables(tmp_path))


def test_a_public_rate_is_stored_without_the_texts_about_its_judges():
    second = {"alpha": {}, "first": rate(0.1), "second": rate(0.2) | {"method": "wilson"}}
    row = {"name": "asr/xstest", **rate(0.1), "judge": {"caveat": "long"}, "second": second}
    stored = real_table.public(row)
    assert stored["second"] == {"value": 0.2, "ci95": [0.0, 1.0]}
    assert stored["corrected"] is None
    assert "judge" not in stored
