"""Who sits in which seat when past selves are kept, and how they are measured."""

import gc
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tests.players.lively import everything, policy, request_of, same_bits, train, trainer
from tests.table import BROKEN, CANDLE, FAILED, HELD, VAULT, ScriptedJudge, cast, magic, says

from sparring.coevolve import Plan, coevolve
from sparring.credit import standardized
from sparring.exam import Trial
from sparring.games.game import attack_of, reply_of, tagged
from sparring.games.matrix import KNOWN
from sparring.memory.league import League, nash, uniform
from sparring.memory.memory import Latest
from sparring.metrics import episode_metrics
from sparring.schedules import always, solo
from sparring.types import Completion, Player, State, Turn

A, D = Player.ATTACKER, Player.DEFENDER
TURNS = {p: solo(p, 4) for p in Player}
BOTH = Turn(frozenset({A, D}), {A: 4, D: 3})


@dataclass
class Aging:
    """A player whose every completion is its age; kept selves by number."""

    player: Player
    age: int = 0
    kept: dict = field(default_factory=dict)

    def sample(self, requests):
        completion = Completion(
            tagged("plan", f"{self.age}") if self.player is A else f"{self.age}"
        )
        return [[completion for _ in request.addresses] for request in requests]

    def keep(self, number):
        self.kept[number] = self.age

    def at(self, number):
        return Aging(self.player, self.kept[number])


def ages(state):
    """How old the players of a finished game were."""
    return int(attack_of(state)), int(reply_of(state))


def older_wins(state):
    return HELD if reply_of(state) is None else (HELD, BROKEN)[ages(state)[0] > ages(state)[1]]


def league(opponents=uniform, share=1.0, every=1, script=older_wins, trials=2, players=None):
    judge = ScriptedJudge(script)
    trial = Trial(magic(), judge, [State(VAULT)] * trials, "league")
    players = players or {p: Aging(p) for p in Player}
    return League(players, opponents, trial, every, share, "7")


def grown(told, *numbers):
    """The league after keeping selves of these ages."""
    for number in numbers:
        for player in told.players.values():
            player.age = number
        told.keep(number)
    return told


def present(told):
    return dict(told.players)


def test_without_a_league_everybody_meets_the_present_opponent():
    table, turn, told = cast(says("a"), says("b")), TURNS[D], Latest()
    for number in range(20):
        assert not told.keeps(number)
        told.keep(number)
        sits, goes, metrics = told.cast(number, turn, table)
        assert (sits is table, goes is turn, metrics) == (True, True, {})
    assert told.state() == {}


def test_a_league_that_has_kept_nobody_or_draws_nobody_leaves_everything():
    for told in (league(), grown(league(share=0), 0, 1)):
        table = present(told)
        assert all(told.cast(n, BOTH, table) == (table, BOTH, {}) for n in range(20))


def test_selves_are_kept_every_so_many_rounds_from_the_start():
    told = grown(league(every=3), 0, 1, 2, 3, 4, 5, 6)
    assert told.selves == [0, 3, 6]
    assert told.players[A].kept == told.players[D].kept == {0: 0, 3: 3, 6: 6}


def test_a_share_of_rounds_meets_a_past_self_each_as_likely_under_uniform():
    told = grown(league(share=0.4), 0, 1, 2, 3)
    met = [told.cast(n, TURNS[D], present(told))[2] for n in range(1000)]
    counts = Counter(m["league/attacker"] for m in met if m)
    assert sum(counts.values()) == pytest.approx(400, abs=47)  # three standard errors of 15.5
    assert set(counts) == {0, 1, 2, 3}
    assert all(70 < n < 130 for n in counts.values()), counts


def test_whom_a_round_meets_depends_on_its_number_alone():
    one, other = (grown(league(share=0.5), 0, 1, 2) for _ in range(2))
    forwards = {n: one.cast(n, BOTH, present(one))[2] for n in range(40)}
    backwards = {n: other.cast(n, BOTH, present(other))[2] for n in reversed(range(40))}
    assert forwards == backwards
    assert len({tuple(m.items()) for m in forwards.values()}) > 4


@pytest.mark.parametrize(("learns", "replaced"), [(A, D), (D, A)])
def test_in_a_turn_of_one_player_the_past_self_sits_opposite(learns, replaced):
    told = grown(league(), 0, 1, 2)
    for number in range(30):
        table, turn, metrics = told.cast(number, TURNS[learns], present(told))
        assert turn == TURNS[learns]
        assert table[learns] is told.players[learns]
        assert table[replaced] == Aging(replaced, metrics[f"league/{replaced}"])


def test_where_both_would_learn_only_the_one_who_stayed_does():
    told = grown(league(), 0, 1, 2)
    seen = Counter()
    for number in range(200):
        table, turn, metrics = told.cast(number, BOTH, present(told))
        ((name, _),) = metrics.items()
        replaced = Player(name.removeprefix("league/"))
        assert turn.learns == set(Player) - {replaced}
        assert turn.widths == BOTH.widths
        assert table[replaced] is not told.players[replaced]
        seen[replaced] += 1
    assert min(seen.values()) > 75  # 100, standard error 7


def paid(rows, order=(0, 10, 20)):
    """A matrix as `crossed` tells it."""
    return lambda: {
        a: dict(zip(order, row, strict=False)) for a, row in zip(order, rows, strict=False)
    }


def test_nash_gives_each_player_its_own_side_of_the_equilibrium():
    """Moriarty after Holmes, 100 0 / −50 100, moved into 0 … 1: rows 3/5 2/5, columns 2/5 3/5."""
    rows = [[(value + 50) / 150 for value in row] for row in KNOWN["pursuit"].game.payoff]
    assert nash(A, [0, 10], paid(rows)) == pytest.approx({0: 0.6, 10: 0.4})
    assert nash(D, [10, 0], paid(rows)) == pytest.approx({0: 0.4, 10: 0.6})
    dominated = [[0.3, 0.2, 0.1], [0.8, 0.6, 0.4], [0.7, 0.5, 0.3]]
    assert nash(A, [0, 10, 20], paid(dominated)) == pytest.approx({0: 0, 10: 1, 20: 0})
    assert nash(D, [0, 10, 20], paid(dominated)) == pytest.approx({0: 0, 10: 0, 20: 1})


def test_nash_leaves_out_a_self_that_could_not_be_measured_rather_than_call_it_0():
    known = {0: {0: 0.5, 10: 0.1}, 10: {0: 0.9, 10: 0.5}, 20: {}}
    assert nash(A, [0, 10, 20], lambda: known) == {0: 1.0, 10: 1.0, 20: 1.0}
    known = {0: {0: 0.5, 10: 0.1, 20: 0.3}, 10: {0: 0.9, 10: 0.5}, 20: {0: 0.1, 10: 0.2, 20: 0.1}}
    assert nash(A, [0, 10, 20], lambda: known) == {0: 1.0}


def test_a_cell_of_the_matrix_is_played_once():
    told = grown(league(nash), 0, 1)
    assert told.crossed() == {a: {d: float(a > d) for d in range(2)} for a in range(2)}
    told.trial.judge.asked.clear()
    told.crossed()
    assert told.trial.judge.asked == []
    grown(told, 2).crossed()
    pairs = {ages(state) for state in told.trial.judge.asked if reply_of(state)}
    assert pairs == {(2, 0), (2, 1), (2, 2), (0, 2), (1, 2)}


def test_a_cell_that_nobody_could_rule_on_stays_empty_and_is_played_again():
    script = ScriptedJudge(lambda state: FAILED)
    told = grown(league(nash), 0, 1)
    told.trial.judge.script = script.script
    assert told.crossed() == {0: {}, 1: {}}
    told.trial.judge.script = older_wins
    assert told.crossed() == {0: {0: 0, 1: 0}, 1: {0: 1, 1: 0}}


def test_nash_is_asked_for_the_matrix_and_uniform_is_not():
    for opponents, judged in ((nash, True), (uniform, False)):
        told = grown(league(opponents), 0, 1)
        told.cast(5, TURNS[D], present(told))
        assert bool(told.trial.judge.asked) is judged


def test_a_league_takes_up_where_its_state_was_taken():
    told = grown(league(nash, share=0.6), 0, 1, 2)
    told.crossed()
    state = json.loads(json.dumps(told.state()))
    again = league(nash, share=0.6)
    again.players = told.players
    again.load(state, told.selves)
    assert again.matrix == told.matrix
    rounds = [[one.cast(n, BOTH, present(told)) for n in range(30)] for one in (told, again)]
    assert [r[1:] for r in rounds[0]] == [r[1:] for r in rounds[1]]
    assert again.trial.judge.asked == [], "known cells were played again"


def test_a_past_self_speaks_with_its_old_weights_and_the_present_ones_are_back():
    speaks = trainer(policy(length=8))
    request = request_of("open the vault", "0/a", "0/b", "0/c")
    young = speaks.sample([request])
    told = league(players={A: speaks, D: speaks})
    told.keep(0)
    train(speaks.weights, steps=4, rate=3e-2)
    old, before = speaks.sample([request]), everything(speaks.weights.model)
    assert [c.token_ids for c in old[0]] != [c.token_ids for c in young[0]]
    table, _, _ = told.cast(1, TURNS[D], {A: speaks, D: speaks})
    met = table[A].sample([request])
    assert [(c.token_ids, c.logprobs) for c in met[0]] == [
        (c.token_ids, c.logprobs) for c in young[0]
    ]
    assert same_bits(before, everything(speaks.weights.model))
    assert table[D].sample([request]) == old


def test_kept_selves_take_no_memory_and_their_files_go_with_the_trainer():
    speaks = trainer(policy(length=8))
    told = league(nash, players={A: speaks, D: speaks})

    def tensors():
        gc.collect()
        alive = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
        return len(alive), sum(t.nbytes for t in alive)

    sizes = []
    for number in range(6):
        told.keep(number)
        train(speaks.weights, steps=1, rate=3e-2)
        for kept in told.selves:
            speaks.at(kept).sample([request_of("open the vault", "0/a")])
        sizes.append(tensors())
    assert sizes[1:] == sizes[:1] * 5
    folder = Path(speaks._temporary.name)
    assert len(list(folder.iterdir())) == 6
    del speaks, told
    gc.collect()
    assert not folder.exists()


class Counts:
    def __init__(self):
        self.updates = 0

    def update(self, samples):
        self.updates += 1
        return {}


def test_in_the_loop_only_who_stayed_is_updated_and_the_record_says_whom_it_met():
    told = league(share=0.5)
    learners = {A: Counts(), D: Counts()}
    told.players[A].age = 1
    plan = Plan(
        game=magic(),
        judge=ScriptedJudge(older_wins),
        openings=lambda number, turn: [State(VAULT), State(CANDLE)],
        schedule=always(BOTH),
        cast=present(told),
        learners=learners,
        estimator=standardized,
        measure=episode_metrics,
        rounds=12,
        rng_seed="run",
        league=told,
    )
    rounds = list(coevolve(plan))
    met = [{k for k in r.metrics if k.startswith("league/")} for r in rounds]
    assert {frozenset(m) for m in met} == {
        frozenset(),
        frozenset({"league/attacker"}),
        frozenset({"league/defender"}),
    }
    for number, (played, names) in enumerate(zip(rounds, met, strict=True)):
        absent = {Player(name.removeprefix("league/")) for name in names}
        assert played.turn.learns == set(Player) - absent
        assert all(played.metrics[name] <= number for name in names)
    assert learners[A].updates == sum("league/attacker" not in m for m in met)
    assert learners[D].updates == sum("league/defender" not in m for m in met)
