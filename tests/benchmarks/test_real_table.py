"""What benchmarks/real_table.py plays can be played, and its tables are what is stored."""

import json
from pathlib import Path

import pytest
from benchmarks import real_chart, real_figures, real_table
from tests.tiny import QWEN2, save_model

from sparring.runs.build import build
from sparring.runs.recipes import configured
from sparring.types import Completion, Harm, Move, Player, Seed, State, Verdict

PROMPTS = ("a", "b", "c", "d")


def cell(*families, benign=(False,) * 4, public=(True, False, False, None)):
    """What is stored of a cell: per prompt, whether each set's game was won."""
    won = {"asr/plain": dict(zip(PROMPTS, families[0], strict=True))}
    won |= {
        f"asr/family {n}": dict(zip(PROMPTS, games, strict=True))
        for n, games in enumerate(families[1:])
    }
    for name in ("over_refusal/plain", "over_refusal/letter", "correct/plain"):
        won[name] = dict(zip(PROMPTS, benign, strict=True))
    names = ("asr/harmbench", "asr/strongreject", "asr/xstest", "over_refusal/xstest")
    prompts = {name: dict(zip(PROMPTS, public, strict=True)) for name in names}
    rate = {"value": 0.4, "ci95": [0.0, 1.0]}
    return {
        "code": "abc",
        "costs": {
            "exam": {"cpu_seconds": 700, "peak_gib": 6.5, "game": 120},
            "attack": {"cpu_seconds": 60},
            "exploit": {"cpu_seconds": 30},
        },
        "exam": {"rounds": 24, "won": won, "hidden": dict.fromkeys(HIDDEN, rate)},
        "eval": {
            "won": prompts,
            "hidden": prompts,
            "utility": {f"utility/{task}": rate for task in ("agreement", "reading")},
        },
        "attack": {name: {"asr": {"1": {"value": 0.1}, "8": rate}} for name in SEARCHES},
        "exploit": {"attackers": {"own": {"asr": [{"value": 0.0}, {"value": 0.3}]}}},
    }


HIDDEN = ("asr/adversarial", "over_refusal/wrapped")
SEARCHES = ("draws", "prefill", "gradient")
NEVER, ALWAYS = (False,) * 4, (True,) * 4
ONCE = (True, False, False, False)


def rows(folder, head):
    """The rows of one of the tables, by name."""
    lines = real_figures.tables(folder)
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {head}"))
    end = lines.index("", start)
    cells = [line.strip("| ").split(" | ") for line in lines[start:end]]
    return {name: dict(zip(cells[0][1:], row, strict=True)) for name, *row in cells[2:]}


def stored(folder, **cells):
    for name, value in cells.items():
        (folder / f"{name.replace('__', '-')}.json").write_text(json.dumps(value))


@pytest.mark.parametrize("row", real_table.GAMES)
def test_every_game_can_be_played(row, tmp_path):
    """Its settings are those of a game, and of one that its judge can rule on."""
    model = save_model(tmp_path / "model", QWEN2)
    models = [f"{who}.model_name_or_path={model}" for who in ("attacker", "defender")]
    small = ["warm_up.steps=0", f"output_dir={tmp_path / 'run'}"]
    words = [*models, *real_table.FIXED, *real_table.GAMES[row], *small]
    config = configured(str(real_table.SETTINGS), words)
    assert config.recipe == row
    assert build(config).plan.rounds == config.rounds


def test_a_rate_is_pooled_over_runs_and_its_interval_counts_prompts(tmp_path):
    stored(tmp_path, magic__1=cell(ONCE, ALWAYS, NEVER), magic__2=cell(NEVER, ALWAYS, ONCE))
    shown = rows(tmp_path, "row (runs)")["magic (2)"]
    assert shown["own, as they stand, n = 4"].startswith("0.12 [")
    families = real_figures.pooled(
        [cell(ONCE, ALWAYS, NEVER), cell(NEVER, ALWAYS, ONCE)], "exam", "asr/*"
    )
    assert (families.value, families.n_total, families.clusters) == (9 / 16, 16, 4)
    assert shown["own, in held-out families, n = 8"].startswith("0.56 [")
    assert shown["HarmBench, n = 4"].startswith("0.33 [")


def test_a_difference_is_taken_prompt_by_prompt(tmp_path):
    base, worse = cell(NEVER, ONCE), cell(NEVER, ALWAYS)
    stored(tmp_path, aligned__0=base, magic__1=worse, magic__2=base)
    shown = rows(tmp_path, "minus aligned")
    assert list(shown) == ["magic"]
    assert shown["magic"]["own, as they stand"].startswith("+0.00 [")
    assert shown["magic"]["own, in held-out families"].startswith("+0.38 [")


def test_attacks_and_costs_are_the_mean_of_runs_with_the_least_and_the_most(tmp_path):
    stored(tmp_path, raw__0=cell(NEVER), magic__1=cell(NEVER), magic__2=cell(NEVER))
    attacks = rows(tmp_path, "mean (least–most)")
    assert attacks["magic"]["draws, 16 queries"] == "0.40 (0.40–0.40)"
    assert attacks["magic"]["own attacker"] == "0.00 (0.00–0.00)"
    assert attacks["raw"]["trained on"] == "0.30"
    lines = real_figures.tables(tmp_path)
    assert any("| 24.00 (24.00–24.00) | 2.00 (2.00–2.00) | 1.50 (1.50–1.50) |" in x for x in lines)
    assert lines[-1] == "Played by code abc."


def test_the_judges_errors_stand_beside_the_rates(tmp_path):
    measured = {"value": 0.9, "ci95": [0.8, 0.95], "method": "wilson", "n_total": 100}
    measured |= {"n_scored": 100, "clusters": 100, "bounds": [0.9, 0.9], "unscored": {}}
    estimate = {"value": 0.8, "ci95": [0.7, 0.9], "method": "bootstrap", "n": 100, "clusters": 50}
    names = dict.fromkeys(("sensitivity", "specificity", "accuracy"), measured)
    names |= dict.fromkeys(("f1", "alpha", "kappa"), estimate)
    card = [
        {"judge": "linear/words@1", "field": field, "source": "people", **names}
        for field in ("reply_harm", "refused")
    ]
    calibration = {"schema": 1, "calibrations": card}
    (tmp_path / "calibration.json").write_text(json.dumps(calibration))
    stored(tmp_path, magic__1=cell((True, True, False, False), benign=ONCE))
    shown = rows(tmp_path, "without the judge's errors")["magic"]
    assert shown["own, as they stand"].startswith("0.50 [")
    assert shown["own benign refused"].startswith("0.19 [")
    text = "\n".join(real_figures.tables(tmp_path))
    assert "reply_harm sensitivity 0.900 [0.800, 0.950] n=100" in text


def test_a_cell_that_is_under_way_is_in_no_table(tmp_path):
    unfinished = cell(NEVER)
    del unfinished["exploit"]
    stored(tmp_path, magic__1=unfinished)
    assert real_figures.tables(tmp_path) == ["Nothing has been played to its end."]


def test_what_is_stored_of_a_game_is_who_won_it_and_no_text():
    def state(seed_id, harm, harmful=True):
        seed = Seed("open the dragon vault", harmful=harmful, id=seed_id)
        moves = [Move(player, (), Completion("a text"), "a text") for player in Player]
        verdict = Verdict(refused=harm is Harm.SAFE, reply_harm=harm, helpful=True, on_topic=True)
        return State(seed, tuple(moves), 1).rule(verdict)

    sets = {
        "harmful/plain": {"a": state("a", Harm.UNSAFE), "b": state("b", Harm.SAFE)},
        "benign/plain": {"c": state("c", Harm.SAFE, harmful=False)},
    }
    assert real_table.won(sets) == {
        "asr/plain": {"a": True, "b": False},
        "over_refusal/plain": {"c": True},
        "correct/plain": {"c": True},
    }
    assert Path(real_table.SETTINGS).is_file()


def test_the_figure_has_a_line_for_every_model_that_was_played(tmp_path):
    stored(tmp_path, raw__0=cell(NEVER), magic__1=cell(NEVER, public=(None,) * 4))
    cells = real_figures.finished(tmp_path)
    real_chart.draw(cells, tmp_path / "figures" / "real.svg")
    first = (tmp_path / "figures" / "real.svg").read_text()
    assert first.count("<svg") == 1
    real_chart.draw(cells, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == first
    assert set(real_chart.LABELS) == {"raw", "aligned", *real_table.GAMES}
