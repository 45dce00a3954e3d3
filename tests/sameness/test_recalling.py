"""What a run remembers is resumed to the bit: pool, reflections, league and schedule."""

import pytest
from tests import short_run
from tests.short_run import RECALLING, ROUNDS, contents, leftovers

CLOCKED = ("run.json", "rounds.jsonl")
"""Files with the time of day or wall time in them; `config.yaml` has the run's own folder."""


def remembered(run):
    """Every file but for clocks and paths, and the rounds without theirs."""
    told = contents(run)
    told["config.yaml"] = told["config.yaml"].replace(str(run).encode(), b"here")
    for name in CLOCKED:
        told.pop(name)
    return told | {"rounds": short_run.rounds(run)}


def metrics(recipe):
    return [record["metrics"] for record in short_run.rounds(short_run.whole(*RECALLING[recipe]))]


@pytest.mark.parametrize("recipe", RECALLING)
def test_the_short_runs_replay_meet_past_selves_and_learn(recipe):
    """Otherwise the tests below would compare nothing with nothing."""
    told = metrics(recipe)
    assert any("replay/held" in each for each in told)
    met = {name for each in told for name in each if name.startswith("league/")}
    assert met
    assert any(name.endswith("/grad_norm") for name in told[-1])
    if recipe == "ssp":
        assert met == {"league/attacker", "league/defender"}
        ratios = [each.get("defender/importance_sampling_ratio/mean", 1) for each in told]
        assert max(abs(ratio - 1) for ratio in ratios) > 1e-3, "nobody reflected"
    else:
        learns = [record["learns"] for record in short_run.rounds(whole(recipe))]
        assert {*map(tuple, learns)} == {("attacker",), ("defender",)}
        assert {each[name] for each in told for name in met & each.keys()} == {1, 2}


def whole(recipe):
    return short_run.whole(*RECALLING[recipe])


@pytest.mark.parametrize("recipe", RECALLING)
def test_a_run_that_is_stopped_after_every_round_and_resumed_is_the_whole_run(tmp_path, recipe):
    run = tmp_path / "run"
    for rounds in range(1, ROUNDS):
        short_run.train(run, *RECALLING[recipe], f"--max-rounds={rounds}").check()
        assert len(short_run.rounds(run)) == rounds
    short_run.train(run, *RECALLING[recipe]).check()
    told, wanted = remembered(run), remembered(whole(recipe))
    assert [name for name in {**wanted, **told} if told.get(name) != wanted.get(name)] == []
    assert leftovers(run) == []
