import random
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.coevolve import Plan, coevolve
from sparring.credit import standardized
from sparring.memory.memory import Memory, Opposition
from sparring.metrics import episode_metrics
from sparring.schedules import alternate, always, solo
from sparring.types import Player, State, Turn
from tests.table import (
    BROKEN,
    CANDLE,
    FAILED,
    HELD,
    VAULT,
    ScriptedJudge,
    attacks,
    cast,
    magic,
    says,
)

A, D = Player.ATTACKER, Player.DEFENDER
TURNS = {D: solo(D, 4), A: solo(A, 4, 2)}
BOTH = Turn(frozenset({A, D}), {A: 3, D: 2})


@dataclass
class Notebook:
    """A learner that records its samples."""

    lessons: list = field(default_factory=list)

    def update(self, samples):
        self.lessons.append(list(samples))
        return {"updates": float(len(self.lessons))}


def rule(state):
    texts = "|".join(move.completion.text for move in state.moves)
    return BROKEN if "dragon" in texts and "yes" in texts else HELD


def plan(schedule, learner=None, rule=rule, rounds=1, **more):
    """A plan in which both players are trained by `learner`."""
    whole = Plan(
        game=magic(),
        judge=ScriptedJudge(rule),
        openings=lambda number, turn, past: [State(VAULT), State(CANDLE)],
        schedule=schedule,
        cast=cast(attacks("a dragon tale", "a song", "a riddle"), says("yes", "no", "yes", "no")),
        learners=dict.fromkeys((A, D), learner or Notebook()),
        estimator=standardized,
        measure=episode_metrics,
        rounds=rounds,
        rng_seed="run",
    )
    return replace(whole, **more)


def test_only_the_player_whose_turn_it_is_learns():
    learners = {D: Notebook(), A: Notebook()}
    schedule = alternate(TURNS, {D: 3, A: 1})
    rounds = list(coevolve(plan(schedule, rounds=4, learners=learners)))
    assert [sorted(r.turn.learns) for r in rounds] == [["defender"]] * 3 + [["attacker"]]
    assert [len(learners[player].lessons) for player in (D, A)] == [3, 1]
    assert {s.player for s in learners[D].lessons[0]} == {D}


def test_a_learner_that_serves_both_players_is_updated_once_a_round():
    shared = Notebook()
    list(coevolve(plan(always(BOTH), shared, rounds=2)))
    assert [{s.player for s in lesson} for lesson in shared.lessons] == [{A, D}, {A, D}]


def test_dealt_moves_are_never_trained_on():
    book, dealt = Notebook(), State(VAULT).deal(A, "open the dragon vault")
    (only,) = coevolve(plan(always(BOTH), book, openings=lambda number, turn, past: [dealt]))
    assert {s.player for s in book.lessons[0]} == {D}
    assert only.metrics["attacker/groups"] == 0


def test_an_all_failed_round_teaches_nothing_and_says_so():
    book = Notebook()
    (only,) = coevolve(plan(always(BOTH), book, lambda state: FAILED))
    assert book.lessons == []
    assert only.metrics["unscored"] == 1.0
    assert only.metrics["defender/groups_dropped"] == only.metrics["defender/groups"] == 6
    assert not {"asr", "over_refusal", "attacker/reward", "defender/reward"} & only.metrics.keys()


@settings(max_examples=40)
@given(st.floats(0, 1), st.integers(0, 99))
def test_a_failing_judge_changes_no_reward_it_only_removes(share, seed):
    def flaky(state):
        """Fails on a share of the states, and never differently for the same state."""
        texts = (state.seed.id, *map(str, state.path), *(m.completion.text for m in state.moves))
        fails = random.Random(f"{seed}/{'|'.join(texts)}").random() < share
        return FAILED if fails else rule(state)

    def rewards(judge):
        (only,) = coevolve(plan(always(BOTH), rule=judge))
        return {(e.opening, e.state.path): e.returns for e in only.episodes}

    whole, holed = rewards(rule), rewards(flaky)
    assert whole.keys() == holed.keys()
    assert all(paid in (None, whole[where]) for where, paid in holed.items())


def test_rounds_go_on_where_the_past_ends():
    whole = list(coevolve(plan(always(BOTH), rounds=4)))
    rest = list(coevolve(plan(always(BOTH), rounds=4), [r.metrics for r in whole[:2]]))
    assert [r.number for r in rest] == [2, 3]
    assert [e.returns for e in rest[0].episodes] == [e.returns for e in whole[2].episodes]


def test_shaping_changes_what_is_taught_and_never_what_is_recorded():
    def tenfold(episodes):
        return [replace(e, returns={p: 10 * v for p, v in e.returns.items()}) for e in episodes]

    book = Notebook()
    unit = {"estimator": lambda groups: [(0.0, 1.0)] * len(groups)}
    (plain,) = coevolve(plan(always(TURNS[D]), book, **unit))
    (shaped,) = coevolve(plan(always(TURNS[D]), book, shape=tenfold, **unit))
    assert shaped.metrics["defender/reward"] == plain.metrics["defender/reward"]
    taught, tenfold_taught = ([s.advantage for s in lesson] for lesson in book.lessons)
    assert tenfold_taught == [10 * advantage for advantage in taught]


@dataclass
class Diary(Memory):
    """A memory that counts the episodes of each round."""

    counts: list = field(default_factory=list)

    def add(self, number, episodes):
        self.counts.append(len(episodes))
        return {}


class Guests(Opposition):
    """A league whose second round is against a past defender."""

    def cast(self, number, turn, cast, past):
        return ({**cast, D: says("yes")} if number == 1 else cast), turn, {}


def test_what_beat_a_past_defender_is_not_remembered():
    diary = Diary()
    rounds = coevolve(plan(always(TURNS[A]), rounds=3, memory=diary, league=Guests()))
    played = [len(round_.episodes) for round_ in rounds]
    assert diary.counts == [played[0], 0, played[2]]
    assert played[1] > 0
