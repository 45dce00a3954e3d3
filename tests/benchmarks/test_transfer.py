"""An attacker of another run learns on against a defender, and may be shown what works first."""

import re
from pathlib import Path

import pytest
from benchmarks import transfer

from sparring import magic, train
from sparring.runs.train import Watch
from sparring.store.folder import RunDir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose defender has hardly learned anything, so that most attacks get through."""
    folder = tmp_path_factory.mktemp("transfer") / "run"
    exam = {"every": 0, "crossplay": 0, "n": 4}
    small = {"warm_up": {"steps": 2}, "learner": {"seeds_per_round": 2}}
    train(magic("sandbox", rounds=1, exam=exam, output_dir=str(folder), **small), watch=Watch())
    return RunDir.open(Path(folder))


@pytest.mark.parametrize("tries", [0, 1], ids=["as it is", "shown what works"])
def test_an_attacker_is_examined_before_and_after_it_learns_on(run, tries, capsys):
    rates = transfer.curve(run, run, seed=0, steps=1, tries=tries)
    assert [rate["n_total"] for rate in rates] == [192, 192]
    if not tries:
        # It has imitated for two steps, so it does not know the format yet.
        assert rates[0]["value"] < 0.1
        return
    got_through, total = map(int, re.findall(r"(\d+) of (\d+) attacks", capsys.readouterr().err)[0])
    assert total == 844
    assert got_through > 0.5 * total
    assert rates[0]["value"] > 0.2
