"""Hardening: attackers answer the defender until they fail, and the defender has the last word."""

import math
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import short_run
from tests.command import sparring_command
from tests.table import ScriptedJudge

from sparring.coevolve import Plan, coevolve
from sparring.credit import centered
from sparring.evals.starts import own_start
from sparring.games.matrix import KNOWN, MatrixGame
from sparring.memory.memory import Opposition
from sparring.memory.oracle import DoubleOracle
from sparring.runs.recipes import resolve
from sparring.schedules import ITERATION, MEMBER, STEP, BestResponse, OracleRules, always, solo
from sparring.store.folder import RunDir
from sparring.types import Completion, Player, Seed

A, D = Player.ATTACKER, Player.DEFENDER
TURNS = {p: solo(p, 4) for p in Player}
RULES = OracleRules(after=0, steps=3, window=2, limit=0.1, fewest=2, most=4, restarts=2, rounds=100)


@dataclass
class Marked:
    """A player that notes where it was begun anew, and what of it was kept."""

    begun: list = field(default_factory=list)
    kept: list = field(default_factory=list)

    def restart(self, number):
        self.begun.append(number)

    def keep(self, number):
        self.kept.append(number)

    def at(self, number):
        return f"attacker after {number}"


def hardening(players, turns, rules, first=D):
    return DoubleOracle(players, turns, rules, always(turns[first]), Opposition())


def play(asrs, rules=RULES, past=()):
    """The rounds that follow where these are the ASRs by round; as letters, and their metrics."""
    oracle, letters, past = hardening({A: Marked()}, TURNS, rules), "", list(past)
    for number in range(len(past), rules.rounds):
        oracle.keep(number, past)
        if (turn := oracle(number, past)) is None:
            break
        cast, turn, metrics = oracle.cast(number, turn, {A: "present", D: "defender"}, past)
        assert (cast[A] == "present") is (A in turn.learns)
        letters += "A" if A in turn.learns else "D"
        asr = asrs(number, metrics)
        past.append(metrics if asr is None else {**metrics, "asr": asr})
    return letters, past, oracle.players[A]


def test_a_game_that_no_attacker_wins_is_over_after_the_restarts():
    letters, past, attacker = play(lambda number, metrics: 0.0)
    assert letters == "AAA" * 2
    assert [metrics[ITERATION] for metrics in past] == [1.0] * 3 + [2.0] * 3
    assert (attacker.begun, attacker.kept) == ([0, 0], [0])


def test_an_attacker_that_gets_through_is_met_until_it_is_held():
    """The second attacker fails, so two in a row are still to come after it."""
    letters, past, attacker = play(lambda n, m: 0.9 if m.get(ITERATION) == 1 or n == 3 else 0.1)
    assert letters == "AAA" + "DD" + "AAA" + "AAA"
    assert [metrics.get(MEMBER) for metrics in past[3:5]] == [3.0, 3.0]
    assert RULES.responses(past) == [
        BestResponse(3, 0.9),
        BestResponse(8, 0.1),
        BestResponse(11, 0.1),
    ]
    assert attacker.kept == [0, 3]
    assert attacker.begun == [0, 0, 0]


def test_the_defender_meets_every_member_and_no_longer_than_it_may():
    through = lambda n, m: 0.9 if m.get(ITERATION, 3) < 3 else 0.0  # noqa: E731
    letters, past, _ = play(lambda n, m: 0.9 if MEMBER in m else through(n, m))
    assert letters == "AAADDDD" * 2 + "AAA" * 2, "never held: at most four rounds"
    assert [metrics[MEMBER] for metrics in past[10:14]] == [10.0, 3.0, 10.0, 3.0]


def test_no_attacker_is_begun_that_could_not_be_answered():
    short, past, _ = play(lambda n, m: 0.9, replace(RULES, rounds=11))
    assert short == "AAA" + "DDDD"
    longer, *_ = play(lambda n, m: 0.9, replace(RULES, rounds=20), past)
    assert short + longer == play(lambda n, m: 0.9, replace(RULES, rounds=20))[0]


def test_a_share_at_the_limit_is_held():
    rules = resolve({"recipe": "magic_hardened"}).schedule.oracle(800)
    past = [{STEP: float(n + 1), "asr": 0.02} for n in range(rules.steps)]
    assert rules.members(past) == []
    assert rules.members([{**metrics, "asr": 0.021} for metrics in past]) == [rules.steps]


def test_an_attacker_that_nobody_could_judge_counts_as_one_that_got_through():
    letters, *_ = play(lambda n, m: None if n < 3 else 0.0)
    assert letters.startswith("AAADDAAA")


@given(st.lists(st.sampled_from([0.0, 0.05, 0.5, 1.0, None]), min_size=60, max_size=60), st.data())
def test_a_resumed_game_goes_on_as_the_whole_one(asrs, data):
    rules = replace(RULES, rounds=60)
    whole, past, _ = play(lambda number, metrics: asrs[number], rules)
    cut = data.draw(st.integers(0, len(past)))
    rest, again, _ = play(lambda number, metrics: asrs[number], rules, past[:cut])
    assert (rest, again) == (whole[cut:], past)
    failed = [response.asr <= rules.limit for response in rules.responses(past)]
    assert failed[-1] or whole.endswith("DD"), "the last attacker was answered"
    assert failed[-2:] == [True, True] or len(whole) > rules.rounds - rules.steps - rules.fewest


@dataclass
class Table:
    """Multiplicative weights over named moves, for each request that it is shown apart."""

    moves: tuple[str, ...]
    rate: float
    scores: dict = field(default_factory=dict)
    kept: dict = field(default_factory=dict)

    def weights(self, shown):
        scores = [self.scores.get((shown, move), 0.0) for move in self.moves]
        return [math.exp(score - max(scores)) for score in scores]

    def sample(self, requests):
        return [
            [self._drawn(r.observation[-1].content, at) for at in r.addresses] for r in requests
        ]

    def _drawn(self, shown, at):
        [move] = random.Random(at).choices(self.moves, self.weights(shown))
        return Completion(move, prompt_ids=tuple(shown.encode()))

    def update(self, samples):
        """One step along the mean advantage of each move, where it was shown the same."""
        earned = defaultdict(list)
        for sample in samples:
            shown = bytes(sample.completion.prompt_ids).decode()
            earned[shown, sample.completion.text].append(sample.advantage)
        for key, advantages in earned.items():
            self.scores[key] = self.scores.get(key, 0.0) + self.rate * fmean(advantages)
        return {}

    def keep(self, number):
        self.kept[number] = dict(self.scores)

    def at(self, number):
        return Table(self.moves, self.rate, self.kept[number])

    def restart(self, number):
        self.scores = dict(self.kept[number])


def hardened(matrix):
    """The rounds of a double oracle on a game whose columns answer a row that they see, and what
    the best row gains against the defender in the end."""
    rows = tuple(f"row {i}" for i in range(len(matrix)))
    columns = tuple(f"column {i}" for i in range(len(matrix[0])))
    game = MatrixGame(rows, columns, tuple(map(tuple, matrix)), seen=True)
    low, high = min(map(min, matrix)), max(map(max, matrix))
    value, span = max(map(min, matrix)), high - low
    players = {A: Table(rows, 8 / span), D: Table(columns, 8 / span)}
    rules = OracleRules(0, 12, 2, (value - low) / span + 0.05, 2, 12, restarts=3, rounds=1000)
    oracle = hardening(players, {p: solo(p, 8) for p in Player}, rules)
    plan = Plan(
        game=game,
        judge=ScriptedJudge(lambda state: None),
        openings=lambda number, turn, past: [game.open(Seed("choose", True, "game"))] * 8,
        schedule=oracle,
        cast=players,
        learners=players,
        estimator=centered,
        rounds=rules.rounds,
        rng_seed="oracle",
        measure=lambda episodes: {"asr": (fmean(e.returns[A] for e in episodes) - low) / span},
        league=oracle,
    )
    played = list(coevolve(plan))
    replies = [players[D].weights(row) for row in rows]
    gains = [
        sum(w * paid for w, paid in zip(weights, row, strict=True)) / sum(weights)
        for weights, row in zip(replies, matrix, strict=True)
    ]
    return played, (max(gains) - value) / span


@pytest.mark.parametrize("name", KNOWN)
def test_on_a_known_game_whose_rows_are_seen_no_row_gains_more_than_the_value(name):
    played, gain = hardened(KNOWN[name].game.payoff)
    assert len(played) < 1000, "over because attackers failed"
    assert gain < 0.15


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 5))
def test_and_on_games_that_nobody_chose(seed, rows, columns):
    rng = random.Random(seed)
    matrix = [[rng.random() for _ in range(columns)] for _ in range(rows)]
    played, gain = hardened(matrix)
    assert len(played) < 1000
    assert gain < 0.2


HARDENED = (
    *("schedule.harden_after=2", "schedule.attack=2", "schedule.dwell=[1, 2]"),
    *("schedule.window=1", "schedule.limits=[0.1, 0.99]", "rounds=12", "saving.keep_every=50"),
    *("saving.checkpoint_every=3", "memory.league.opponents=uniform", "memory.league.keep_every=1"),
)
BEGUN_ANEW, KILLED = 6, -9
"""The round in which the second attacker begins where the game ended; and a killed process."""


def test_an_attack_on_a_hardened_run_begins_with_the_attacker_that_the_game_left():
    run = RunDir.open(short_run.whole(*HARDENED))
    assert [own_start(run, n) for n in (1, 2, 3, 12)] == [1, 2, 2, 2]
    assert 2 in run.checkpoints.numbers()
    assert own_start(RunDir.open(short_run.whole()), 3) == 3


def test_the_second_attacker_begins_after_the_defenders_answer():
    metrics = [record.metrics for record in RunDir.open(short_run.whole(*HARDENED)).each_round()]
    begun = [number for number, row in enumerate(metrics) if row.get(STEP) == 1]
    assert begun[:2] == [2, BEGUN_ANEW]
    assert MEMBER in metrics[4]


@pytest.mark.parametrize("cut", [1, 2, BEGUN_ANEW - 1, BEGUN_ANEW, BEGUN_ANEW + 1])
def test_a_hardened_run_goes_on_bit_by_bit_wherever_it_was_stopped(tmp_path, cut):
    short_run.train(tmp_path / "run", *HARDENED, f"--max-rounds={cut}").check()
    short_run.train(tmp_path / "run", *HARDENED).check()
    assert short_run.outcome(tmp_path / "run") == short_run.outcome(short_run.whole(*HARDENED))


@pytest.mark.parametrize("nth", [2, 3, 4, 5])
def test_a_hardened_run_that_is_killed_goes_on_bit_by_bit(tmp_path, nth):
    run = tmp_path / "run"
    killed = short_run.At(run, r"mkdir checkpoints/.*", nth)
    assert short_run.train(run, *HARDENED, before=killed).code == KILLED
    short_run.train(run, *HARDENED).check()
    assert short_run.outcome(run) == short_run.outcome(short_run.whole(*HARDENED))


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("weights=shared", "weights of their own"),
        ("rounds=359", "take 360"),
        ("data.as_they_stand=0.5", "nobody rewrites"),
        ("learner.optimizer={lr_scheduler_type: cosine, total_steps: 9}", "constant"),
    ],
)
def test_what_hardening_cannot_play_is_refused_with_the_cure(tmp_path, setting, why):
    ended = sparring_command("train", "magic_hardened", setting, f"output_dir={tmp_path}/run")
    assert ended.code == 2
    assert why in ended.err
    assert not (tmp_path / "run").exists()


def test_a_run_that_ends_before_its_hardening_says_so(tmp_path):
    ended = sparring_command(
        "train", "magic_hardened", "rounds=300", "--dry-run", f"output_dir={tmp_path}/run"
    )
    assert ended.code == 0, ended.text
    assert "this run of 300 rounds ends before that" in ended.err
