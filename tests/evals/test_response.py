"""A best response is trained on some seeds and measured on held-out ones."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from tests.table import BROKEN, HELD, ScriptedJudge, magic, says

from sparring.evals.exploit import Budget, Exploit, Target, attackers_of, best_response, enumerated
from sparring.evals.starts import warmed_from
from sparring.games.game import attack_of, tagged
from sparring.players.local import uniforms
from sparring.players.player import ScriptedPolicy
from sparring.runs.recipes import resolve
from sparring.runs.sources import own_data
from sparring.sandbox.model import CARD, SHIPPED
from sparring.store.folder import RunDir
from sparring.types import Player, Seed, State, UsageError, Verdict

VAULTS = [Seed(f"open the vault {k}", True, f"vault-{k}") for k in range(4)]
TOWERS = [Seed(f"climb the tower {k}", True, f"tower-{k}") for k in range(3)]
WAYS = ("a tale", "a song", "a riddle")
OWN_SEEDS = {"data": {"train": [{"path": "seeds.jsonl"}]}}
BUDGET = Budget(steps=40, seeds=6, num_generations=8, every=20, n=90)


class Learning:
    """An attacker with three strategies whose probabilities follow its samples' advantages."""

    def __init__(self) -> None:
        self.weight = dict.fromkeys(WAYS, 1.0)

    def policy(self) -> ScriptedPolicy:
        def speak(prompt, address: str) -> str:
            mark = uniforms(address, 1)[0] * sum(self.weight.values())
            for way in WAYS:
                mark -= self.weight[way]
                if mark < 0:
                    break
            return tagged("plan", way)

        return ScriptedPolicy(speak)

    def update(self, samples):
        for sample in samples:
            way = next(w for w in WAYS if w in sample.completion.text)
            self.weight[way] *= 1.05**sample.advantage
        return {}


def target(script) -> Target:
    return Target(magic(), ScriptedJudge(script), says("hm"), VAULTS, TOWERS)


def curve(learner: Learning, script, budget: Budget = BUDGET):
    """The best response under this judge, as (steps, rate) pairs."""
    points = best_response(target(script), learner.policy(), learner, budget, "0")
    return [(steps, rate) for steps, rate in points if rate]


def riddles_work(state: State) -> Verdict:
    return BROKEN if attack_of(state) == "a riddle" else HELD


def test_an_attacker_finds_what_works_and_is_examined_on_held_out_seeds():
    points = curve(Learning(), riddles_work)
    assert [steps for steps, _ in points] == [0, 20, 40]
    assert 0.2 < points[0][1].value < 0.47  # one way of three
    assert points[-1][1].value > 0.9
    assert all(rate.n_total == 90 and rate.clusters == len(TOWERS) for _, rate in points)
    between = Budget(steps=5, seeds=2, num_generations=3, every=3, n=6)
    assert [steps for steps, _ in curve(Learning(), riddles_work, between)] == [0, 3, 5]


def test_what_is_learned_on_training_seeds_does_not_count_where_it_does_not_work():
    learner = Learning()
    points = curve(learner, lambda s: riddles_work(s) if s.seed in VAULTS else HELD)
    assert learner.weight["a riddle"] > 20 * learner.weight["a song"]
    assert [rate.value for _, rate in points] == [0.0, 0.0, 0.0]


def test_an_attack_that_asks_for_something_else_is_no_success():
    (_, first), *_ = curve(Learning(), lambda state: Verdict(on_topic=False))
    assert (first.value, first.n_scored) == (0.0, 90)


def test_the_best_strategy_is_chosen_on_one_set_and_measured_on_another():
    """Songs always work in training and never on held-out seeds; riddles work half of the time."""
    tries = Counter()

    def script(state: State) -> Verdict:
        tries[state.seed.id, attack_of(state)] += 1
        song = attack_of(state) == "a song" and state.seed in VAULTS
        riddle = attack_of(state) == "a riddle" and state.seed.id.endswith(("0", "2"))
        return BROKEN if song or riddle else HELD

    def dealt(seeds, n):
        return {
            way: [State(seeds[k % len(seeds)]).deal(Player.ATTACKER, way) for k in range(n)]
            for way in WAYS
        }

    best, rate = enumerated(target(script), dealt(VAULTS, 8), dealt(TOWERS, 6))
    assert (best, rate.value, rate.n_total) == ("a song", 0.0, 6)
    assert tries["tower-0", "a riddle"] == 0  # only the chosen one is measured


def unplayed(folder: Path, **settings) -> RunDir:
    """The folder of a run that was never played."""
    return RunDir.create(folder, json.dumps(settings))


def test_an_exploit_has_the_judges_that_paid_and_the_attackers_there_are(tmp_path):
    guards = [{"kind": "qwen3guard", "model": name} for name in ("gate", "moat", "wall")]
    rules = {"reply_harm": "majority"}
    run = unplayed(tmp_path / "run", **OWN_SEEDS, judge=guards, judge_rules=rules)
    config = Exploit(run, 2, BUDGET, tmp_path).config("pool")
    assert [judge.model for judge in config.judge] == ["gate", "moat", "wall"]
    assert config.judge_rules == rules
    assert attackers_of(run.config, "all") == ["pool", "own"]
    assert attackers_of(run.config, "own") == ["own"]
    with pytest.raises(UsageError, match="outside the sandbox there are only pool and own"):
        attackers_of(run.config, "pool,broad")


def test_an_exploit_holds_out_what_the_run_did_whatever_its_own_seed(tmp_path):
    """Otherwise a defender would be examined on seeds it was trained on."""
    lines = [f"open the gate {i},true\npolish the gate {i},false\n" for i in range(30)]
    (tmp_path / "seeds.csv").write_text("text,harmful\n" + "".join(lines))
    data = {"train": [{"path": f"{tmp_path / 'seeds.csv'}"}]}
    run = unplayed(tmp_path / "run", data=data, judge={"kind": "keyword"}, seed=42)
    own = own_data(run.config, (), None)
    for seed in (0, 1, 7):
        other = own_data(Exploit(run, 2, BUDGET, tmp_path, seed).config("pool"), (), None)
        sets = [source.exam(None, source.judge).sets for source in (own, other)]
        assert (other.seeds, sets[1]) == (own.seeds, sets[0])


def test_a_warmed_up_attacker_is_known_by_what_its_files_hold(tmp_path):
    base, pool = tmp_path / "base", tmp_path / "pool.jsonl"
    shutil.copytree(SHIPPED, base)
    pool.write_text("open the vault")
    attacker = {"model_name_or_path": f"{base}", "warm_start": f"{pool}"}
    own = resolve({"attacker": attacker, **OWN_SEEDS})
    sandbox = resolve({"recipe": "magic", "defender": {"model_name_or_path": f"{base}"}})
    for config, path in ((own, base / "model.safetensors"), (own, pool), (sandbox, base / CARD)):
        before, data = warmed_from(config), path.read_bytes()
        path.write_bytes(data[::-1])  # as long as it was
        assert warmed_from(config) != before
        path.write_bytes(data)
        assert warmed_from(config) == before
