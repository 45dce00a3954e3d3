"""Which past or present policy plays in each role, and how they are measured."""

import gc
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tests.players.lively import everything, policy, request_of, same_bits, train, trainer
from tests.table import BROKEN, FAILED, HELD, VAULT, ScriptedJudge, magic
from tests.test_coevolve import Notebook, plan

from sparring.coevolve import coevolve
from sparring.exam import Trial
from sparring.games.game import attack_of, reply_of, tagged
from sparring.games.matrix import KNOWN
from sparring.memory.league import League, nash, uniform
from sparring.memory.memory import Opposition
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
    selves: dict = field(default_factory=dict)

    def sample(self, requests):
        text = tagged("plan", f"{self.age}") if self.player is A else f"{self.age}"
        return [[Completion(text) for _ in request.addresses] for request in requests]

    def keep(self, number):
        self.selves[number] = self.age

    def at(self, number):
        return Aging(self.player, self.selves[number])


def ages(state):
    """The ages of the policies in a finished game."""
    return int(attack_of(state)), int(reply_of(state))


def older_wins(state):
    return HELD if reply_of(state) is None else (HELD, BROKEN)[ages(state)[0] > ages(state)[1]]


def league(*numbers, opponents=uniform, share=1.0, every=1, players=None):
    """The league after it stored policies of these ages."""
    trial = Trial(magic(), ScriptedJudge(older_wins), [State(VAULT)] * 2, "league")
    made = League(players or {p: Aging(p) for p in Player}, opponents, trial, every, share, "7")
    for number in numbers:
        keep(made, number)
    return made


def keep(league, number):
    for player in league.players.values():
        player.age = number
    league.keep(number, ())


def casts(league, turn, rounds):
    """What the league makes of the present players, by round."""
    return [league.cast(number, turn, dict(league.players), ()) for number in rounds]


@pytest.mark.parametrize("made", [Opposition(), league(), league(0, 1, share=0)])
def test_where_nobody_is_kept_or_drawn_everybody_meets_the_present_opponent(made):
    players = {p: Aging(p) for p in Player}
    for number in range(20):
        cast, turn, metrics = made.cast(number, BOTH, players, ())
        assert (cast == players, turn is BOTH, metrics) == (True, True, {})
    if not isinstance(made, League):
        assert not any(made.keeps(number, ()) for number in range(20))
        assert (made.keep(0, ()), made.state()) == (None, {})


def test_selves_are_kept_every_so_many_rounds_from_the_start():
    made = league(*range(7), every=3)
    assert made.selves == [0, 3, 6]
    assert made.players[A].selves == made.players[D].selves == {0: 0, 3: 3, 6: 6}


def test_a_share_of_rounds_meets_a_past_self_each_as_likely_under_uniform():
    drawn = casts(league(0, 1, 2, 3, share=0.4), TURNS[D], range(1000))
    counts = Counter(metrics["league/attacker"] for *_, metrics in drawn if metrics)
    assert sum(counts.values()) == pytest.approx(400, abs=47)  # three standard errors of 15.5
    assert set(counts) == {0, 1, 2, 3}
    assert all(70 < n < 130 for n in counts.values()), counts


def test_whom_a_round_meets_depends_on_its_number_alone():
    forwards = casts(league(0, 1, 2, share=0.5), BOTH, range(40))
    backwards = casts(league(0, 1, 2, share=0.5), BOTH, reversed(range(40)))
    assert [m for *_, m in forwards] == [m for *_, m in reversed(backwards)]
    assert len({tuple(metrics.items()) for *_, metrics in forwards}) > 4


@pytest.mark.parametrize(("learns", "replaced"), [(A, D), (D, A)])
def test_in_a_turn_of_one_player_the_past_self_sits_opposite(learns, replaced):
    made = league(0, 1, 2)
    for cast, turn, metrics in casts(made, TURNS[learns], range(30)):
        assert turn == TURNS[learns]
        assert cast[learns] is made.players[learns]
        assert cast[replaced] == Aging(replaced, metrics[f"league/{replaced}"])


def test_where_both_would_learn_only_the_one_who_stayed_does():
    made, counts = league(0, 1, 2), Counter()
    for cast, turn, metrics in casts(made, BOTH, range(200)):
        [replaced] = [Player(name.removeprefix("league/")) for name in metrics]
        assert (turn.learns, turn.widths) == (set(Player) - {replaced}, BOTH.widths)
        assert cast[replaced] is not made.players[replaced]
        counts[replaced] += 1
    assert min(counts.values()) > 75  # 100, standard error 7


def paid(rows, order=(0, 10, 20)):
    """A matrix as `League.crossed` returns it."""
    matrix = {(order[i], order[j]): v for i, row in enumerate(rows) for j, v in enumerate(row)}
    return lambda: matrix


def test_nash_gives_each_player_its_own_side_of_the_equilibrium():
    """Moriarty after Holmes, 100 0 / −50 100, moved into 0 … 1: rows 3/5 2/5, columns 2/5 3/5."""
    rows = [[(value + 50) / 150 for value in row] for row in KNOWN["pursuit"].game.payoff]
    assert nash(A, [0, 10], paid(rows)) == pytest.approx({0: 0.6, 10: 0.4})
    assert nash(D, [10, 0], paid(rows)) == pytest.approx({0: 0.4, 10: 0.6})
    dominated = paid([[0.3, 0.2, 0.1], [0.8, 0.6, 0.4], [0.7, 0.5, 0.3]])
    assert nash(A, [0, 10, 20], dominated) == pytest.approx({0: 0, 10: 1, 20: 0})
    assert nash(D, [0, 10, 20], dominated) == pytest.approx({0: 0, 10: 0, 20: 1})


def test_nash_leaves_out_a_self_that_could_not_be_measured_rather_than_call_it_0():
    assert nash(A, [0, 10, 20], paid([[0.5, 0.1], [0.9, 0.5], []])) == {0: 1.0, 10: 1.0, 20: 1.0}
    assert nash(A, [0, 10, 20], paid([[0.5, 0.1, 0.3], [0.9, 0.5], [0.1, 0.2, 0.1]])) == {0: 1.0}


def test_a_cell_of_the_matrix_is_played_once():
    made = league(0, 1, opponents=nash)
    assert made.crossed() == {(a, d): float(a > d) for a in range(2) for d in range(2)}
    judge = made.trial.judge
    judge.states.clear()
    made.crossed()
    assert judge.states == []
    keep(made, 2)
    made.crossed()
    pairs = {ages(state) for state in judge.states if reply_of(state)}
    assert pairs == {(2, 0), (2, 1), (2, 2), (0, 2), (1, 2)}


def test_a_cell_that_nobody_could_rule_on_stays_empty_and_is_played_again():
    made = league(0, 1, opponents=nash)
    made.trial.judge.script = lambda state: FAILED
    assert made.crossed() == {}
    made.trial.judge.script = older_wins
    assert made.crossed() == {(0, 0): 0, (0, 1): 0, (1, 0): 1, (1, 1): 0}


@pytest.mark.parametrize(("opponents", "judged"), [(nash, True), (uniform, False)])
def test_nash_is_given_the_matrix_and_uniform_plays_none(opponents, judged):
    made = league(0, 1, opponents=opponents)
    casts(made, TURNS[D], [5])
    assert bool(made.trial.judge.states) is judged


def test_a_league_takes_up_where_its_state_was_taken():
    made = league(0, 1, 2, opponents=nash, share=0.6)
    made.crossed()
    resumed = league(opponents=nash, share=0.6, players=made.players)
    resumed.load(json.loads(json.dumps(made.state())), made.selves)
    assert resumed.matrix == made.matrix
    assert casts(resumed, BOTH, range(30)) == casts(made, BOTH, range(30))
    assert resumed.trial.judge.states == [], "known cells were played again"


def test_a_past_self_speaks_with_its_old_weights_and_the_present_ones_are_back():
    player, request = trainer(policy(length=8)), request_of("open the vault", "0/a", "0/b", "0/c")
    made = league(players={A: player, D: player})

    def tokens(policy):
        return [(c.token_ids, c.logprobs) for c in policy.sample([request])[0]]

    young = tokens(player)
    made.keep(0, ())
    train(player.weights, steps=4, rate=3e-2)
    old, before = tokens(player), everything(player.weights.model)
    assert old != young
    cast, _, _ = made.cast(1, TURNS[D], {A: player, D: player}, ())
    assert tokens(cast[A]) == young
    assert same_bits(before, everything(player.weights.model))
    assert tokens(cast[D]) == old


def test_kept_selves_take_no_memory_and_their_files_go_with_the_trainer():
    player = trainer(policy(length=8))
    made, sizes = league(opponents=nash, players={A: player, D: player}), []
    for number in range(3):
        made.keep(number, ())
        train(player.weights, steps=1, rate=3e-2)
        for past in made.selves:
            player.at(past).sample([request_of("open the vault", "0/a")])
        gc.collect()
        tensors = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
        sizes.append((len(tensors), sum(t.nbytes for t in tensors)))
        del tensors
    assert sizes[1:] == sizes[:1] * 2
    folder = Path(player._temporary.name)
    assert len(list(folder.iterdir())) == 3
    del player, made
    gc.collect()
    assert not folder.exists()


def test_in_the_loop_only_who_stayed_is_updated_and_the_record_says_whom_it_met():
    made, learners = league(share=0.5), {A: Notebook(), D: Notebook()}
    parts = {"cast": dict(made.players), "learners": learners, "league": made}
    rounds = list(coevolve(plan(always(BOTH), rule=older_wins, rounds=12, **parts)))
    met = [{k for k in r.metrics if k.startswith("league/")} for r in rounds]
    assert {len(names) for names in met} == {0, 1}
    assert set.union(*met) == {"league/attacker", "league/defender"}
    for number, (round_, names) in enumerate(zip(rounds, met, strict=True)):
        absent = {Player(name.removeprefix("league/")) for name in names}
        assert round_.turn.learns == set(Player) - absent
        assert all(round_.metrics[name] <= number for name in names)
    for player, learner in learners.items():
        assert len(learner.lessons) == sum(f"league/{player}" not in names for names in met)
