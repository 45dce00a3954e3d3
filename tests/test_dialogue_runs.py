"""`sparring train magic game.exchanges=2`, in the sandbox and with a user's own model."""

import gzip
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sparring.exam import Exam
from sparring.games.dialogue import Dialogue
from sparring.games.game import tagged
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.players.player import ScriptedPolicy
from sparring.runs.run import Run
from sparring.store.folder import RunDir
from sparring.types import Player, State
from tests import short_run
from tests.table import BRIEFS, HELD, VAULT, ScriptedJudge, cast, says
from tests.test_any_model import SHORT, models, train
from tests.tiny import GEMMA, write_pool, write_seeds

TWICE = "game.exchanges=2"
SETS = ("harmful/two-exchange", "harmful/combination")


def games(folder, pattern):
    """Every recorded game in the files of that pattern."""
    for path in sorted(folder.glob(pattern)):
        yield from map(json.loads, gzip.decompress(path.read_bytes()).splitlines())


@pytest.mark.parametrize("more", [(), (TWICE,)])
def test_a_sandbox_exam_has_attacks_of_two_exchanges_whatever_is_trained_on(more):
    run = short_run.whole(*more)
    rates = RunDir.open(run).exam(0).rates
    families = [name for name in rates if name.startswith("asr/") and "adversarial" not in name]
    sizes = {name: rates[name].n_total for name in families}
    assert rates["asr/adversarial"].n_total == sum(sizes.values()) - sizes["asr/plain"]
    rows = [*games(run, "exams/round_*/samples.jsonl.gz")]
    lengths = {name: {len(row["moves"]) for row in rows if row["set"] == name} for name in SETS}
    assert max(lengths["harmful/two-exchange"]) == 4
    assert lengths["harmful/combination"] == {2}


def test_a_resumed_dialogue_is_the_whole_one(tmp_path):
    short_run.train(tmp_path / "run", TWICE, "--max-rounds=1").check()
    short_run.train(tmp_path / "run", TWICE).check()
    assert short_run.outcome(tmp_path / "run") == short_run.outcome(short_run.whole(TWICE))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A family whose template wants its roles to alternate, and one model for both players."""
    folder = tmp_path_factory.mktemp("own")
    start = models(folder, GEMMA, GEMMA)
    seeds, pool = write_seeds(folder / "seeds.csv"), write_pool(folder / "pool.jsonl")
    data = json.dumps([{"path": str(seeds)}])
    more = (*SHORT, f"data.train={data}", f"attacker.warm_start={pool}", TWICE)
    return train(folder, start, "shared", *more)


def test_a_model_of_ones_own_plays_on_and_meets_its_past_self_though_they_share_weights(own):
    assert max(len(game["moves"]) for game in games(own.folder, "transcripts/*.gz")) > 2
    assert own.crossplay().asr.keys() == {"0", "2"}


def test_recorded_attacks_are_dealt_with_the_replies_they_answer():
    game = Dialogue(LabelPayoff(MAGIC), BRIEFS, exchanges=2)
    attacker = ScriptedPolicy(
        lambda observation, address: tagged("plan", f"try {len(observation) // 2}")
    )
    judge, table = ScriptedJudge(lambda state: HELD), cast(attacker, says("no"))
    plan = SimpleNamespace(game=game, judge=judge, cast=table, learners=table)
    plain = {"harmful/plain": [State(VAULT).deal(Player.ATTACKER, VAULT.text)]}
    run = Run(None, plan, Exam(game, judge, plain, {}, "exam"), [], lambda: iter(()))
    sets = run.exam_openings()
    moves = sets["harmful/rewritten"][0].moves
    assert [move.completion.text for move in moves] == ["try 1", "no", "try 2"]
    rates = run.examine(replace(run.exam, sets=sets)).rates
    assert rates["asr/rewritten"].n_scored == 1
