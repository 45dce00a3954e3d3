"""The pool, reflections, league and schedule of a run are resumed to the bit."""

import pytest
from tests import short_run
from tests.short_run import RECALLING, ROUNDS, contents, leftovers

CLOCKED = ("run.json", "rounds.jsonl")
"""Files with the time of day or wall time in them; `config.yaml` has the run's own folder."""


def remembered(run):
    """Every file but for clocks and paths, and the rounds without theirs."""
    files = contents(run)
    files["config.yaml"] = files["config.yaml"].replace(str(run).encode(), b"here")
    bare = {name: data for name, data in files.items() if name not in CLOCKED}
    return bare | {"rounds": short_run.rounds(run)}


@pytest.mark.parametrize("recipe", RECALLING)
def test_the_short_runs_replay_meet_past_selves_and_learn(recipe):
    """Otherwise the test below would compare empty results."""
    records = short_run.rounds(short_run.whole(*RECALLING[recipe]))
    metrics = [record["metrics"] for record in records]
    assert any("replay/held" in values for values in metrics)
    met = {name for values in metrics for name in values if name.startswith("league/")}
    assert any(name.endswith("/grad_norm") for name in metrics[-1])
    if recipe == "ssp":
        assert met == {"league/attacker", "league/defender"}
        ratios = [values.get("defender/importance_sampling_ratio/mean", 1) for values in metrics]
        assert max(abs(ratio - 1) for ratio in ratios) > 1e-3, "nobody reflected"
    else:
        learns = {tuple(record["learns"]) for record in records}
        assert learns == {("attacker",), ("defender",)}
        assert {values[name] for values in metrics for name in met & values.keys()} == {1, 2}


@pytest.mark.parametrize("recipe", RECALLING)
def test_a_run_that_is_stopped_after_every_round_and_resumed_is_the_whole_run(tmp_path, recipe):
    run, settings = tmp_path / "run", RECALLING[recipe]
    for rounds in range(1, ROUNDS):
        short_run.train(run, *settings, f"--max-rounds={rounds}").check()
        assert len(short_run.rounds(run)) == rounds
    short_run.train(run, *settings).check()
    files, expected = remembered(run), remembered(short_run.whole(*settings))
    assert [k for k in {**expected, **files} if files.get(k) != expected.get(k)] == []
    assert leftovers(run) == []
