"""A best response is learned, and measured where it was not learned."""

from collections import defaultdict

from tests.table import BROKEN, HELD, ScriptedJudge, magic, says

from sparring.evals.exploit import Budget, Target, best_response, enumerated
from sparring.games.game import attack_of, tagged
from sparring.players.local import uniforms
from sparring.players.player import ScriptedPolicy
from sparring.types import Player, Seed, State

VAULTS = [Seed(f"open the vault {k}", True, f"vault-{k}") for k in range(4)]
TOWERS = [Seed(f"climb the tower {k}", True, f"tower-{k}") for k in range(3)]
WAYS = ("a tale", "a song", "a riddle")
BUDGET = Budget(steps=40, seeds=6, num_generations=8, every=20, n=90)


class Learning:
    """An attacker of three ways whose chances move by the advantages it is taught."""

    def __init__(self) -> None:
        self.weight = dict.fromkeys(WAYS, 1.0)

    def policy(self) -> ScriptedPolicy:
        def speak(seen, address: str) -> str:
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


def target(works) -> Target:
    judge = ScriptedJudge(lambda state: BROKEN if works(state) else HELD)
    return Target(magic(), judge, says("hm"), VAULTS, TOWERS)


def riddles_work(state: State) -> bool:
    return attack_of(state) == "a riddle"


def test_an_attacker_finds_what_works_and_is_examined_on_held_out_seeds():
    learner, place = Learning(), target(riddles_work)
    curve = list(best_response(place, learner.policy(), learner, BUDGET, "0"))
    assert [steps for steps, _ in curve] == [0, 20, 40]
    values = [rate.value for _, rate in curve]
    assert 0.2 < values[0] < 0.47  # one way of three
    assert values[-1] > 0.9
    assert all(rate.n_total == 90 and rate.clusters == len(TOWERS) for _, rate in curve)


def test_what_is_learned_on_training_seeds_does_not_count_where_it_does_not_work():
    learner = Learning()
    place = target(lambda s: riddles_work(s) and s.seed in VAULTS)
    curve = list(best_response(place, learner.policy(), learner, BUDGET, "0"))
    assert learner.weight["a riddle"] > 20 * learner.weight["a song"]
    assert [rate.value for _, rate in curve] == [0.0, 0.0, 0.0]


def test_the_last_step_is_examined_even_between_two_marks():
    learner, place = Learning(), target(riddles_work)
    budget = Budget(steps=5, seeds=2, num_generations=3, every=3, n=6)
    told = [steps for steps, _ in best_response(place, learner.policy(), learner, budget, "0")]
    assert told == [0, 3, 5]


def test_an_attack_that_asks_for_something_else_is_no_success():
    off_topic = ScriptedJudge(lambda state: BROKEN.__class__(on_topic=False))
    place = Target(magic(), off_topic, says("hm"), VAULTS, TOWERS)
    learner = Learning()
    (_, first), *_ = best_response(place, learner.policy(), learner, BUDGET, "0")
    assert (first.value, first.n_scored) == (0.0, 90)


def dealt(seeds, way, n):
    return [State(seeds[k % len(seeds)]).deal(Player.ATTACKER, way) for k in range(n)]


def test_the_best_strategy_is_chosen_on_one_set_and_measured_on_another():
    """Songs work always in training and never held out; riddles half of the time on both."""

    def works(state: State) -> bool:
        seen[state.seed.id, attack_of(state)] += 1
        if attack_of(state) == "a song":
            return state.seed in VAULTS
        return attack_of(state) == "a riddle" and state.seed.id.endswith(("0", "2"))

    seen = defaultdict(int)
    tried = {way: dealt(VAULTS, way, 8) for way in WAYS}
    held_out = {way: dealt(TOWERS, way, 6) for way in WAYS}
    best, rate = enumerated(target(works), tried, held_out)
    assert (best, rate.value, rate.n_total) == ("a song", 0.0, 6)
    assert seen["tower-0", "a riddle"] == 0  # only the chosen one is measured
