import random
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.coevolve import Plan, coevolve
from sparring.credit import standardized
from sparring.memory.league import Latest
from sparring.memory.memory import Forgetful
from sparring.schedules import alternate, always, solo
from sparring.types import Player, State, Turn, Verdict
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
    """A learner that keeps what it is shown."""

    lessons: list = field(default_factory=list)

    def update(self, samples):
        self.lessons.append(list(samples))
        return {"updates": float(len(self.lessons))}


def judge(state: State) -> Verdict:
    told = "|".join(move.completion.text for move in state.moves)
    return BROKEN if "dragon" in told and "yes" in told else HELD


def plan(schedule, learners, referee=judge, rounds=4) -> Plan:
    game = magic()
    table = cast(attacks("a dragon tale", "a song", "a riddle"), says("yes", "no", "yes", "no"))
    return Plan(
        game=game,
        judge=ScriptedJudge(referee),
        openings=lambda number, turn: [game.open(VAULT), game.open(CANDLE)],
        schedule=schedule,
        cast=table,
        learners=learners,
        estimator=standardized,
        rounds=rounds,
        rng_seed="run",
    )


def test_only_the_player_whose_turn_it_is_learns():
    mine, theirs = Notebook(), Notebook()
    schedule = alternate(TURNS, {D: 3, A: 1})
    rounds = list(coevolve(plan(schedule, {D: mine, A: theirs})))
    assert [sorted(r.turn.learns) for r in rounds] == [["defender"]] * 3 + [["attacker"]]
    assert (len(mine.lessons), len(theirs.lessons)) == (3, 1)
    assert {s.player for s in mine.lessons[0]} == {D}


def test_a_learner_that_serves_both_players_is_updated_once_a_round():
    shared = Notebook()
    list(coevolve(plan(always(BOTH), {D: shared, A: shared}, rounds=2)))
    assert [{s.player for s in lesson} for lesson in shared.lessons] == [{A, D}, {A, D}]


def test_dealt_moves_are_never_trained_on():
    book = Notebook()
    told = plan(always(BOTH), {D: book, A: book}, rounds=1)
    dealt = State(VAULT).deal(A, "open the dragon vault")
    told = Plan(**{**vars(told), "openings": lambda number, turn: [dealt]})
    (only,) = coevolve(told)
    assert {s.player for s in book.lessons[0]} == {D}
    assert "attacker/groups" in only.metrics
    assert only.metrics["attacker/groups"] == 0


def test_an_all_failed_round_teaches_nothing_and_says_so():
    book = Notebook()
    told = plan(always(BOTH), {D: book, A: book}, lambda state: FAILED, rounds=1)
    (only,) = coevolve(told)
    assert book.lessons == []
    assert only.metrics["unscored"] == 1.0
    assert only.metrics["defender/groups_dropped"] == only.metrics["defender/groups"] == 6
    assert not {"asr", "over_refusal", "attacker/reward", "defender/reward"} & only.metrics.keys()


def flaky(share: float, seed: int):
    """A judge that fails on a share of calls; never differently for the same state."""

    def rule(state: State) -> Verdict:
        told = "|".join(
            (state.seed.id, *map(str, state.path), *(m.completion.text for m in state.moves))
        )
        return FAILED if random.Random(f"{seed}/{told}").random() < share else judge(state)

    return rule


@settings(max_examples=40)
@given(st.floats(0, 1), st.integers(0, 99))
def test_a_failing_judge_changes_no_reward_it_only_removes(share, seed):
    def rewards(referee):
        book = Notebook()
        told = plan(always(BOTH), {D: book, A: book}, referee, rounds=1)
        (only,) = coevolve(told)
        return {(e.opening, e.state.path): e.returns for e in only.episodes}

    whole, holed = rewards(judge), rewards(flaky(share, seed))
    assert whole.keys() == holed.keys()
    assert all(paid in (None, whole[where]) for where, paid in holed.items())


def test_rounds_go_on_where_the_past_ends():
    first = list(coevolve(plan(always(BOTH), {D: Notebook(), A: Notebook()})))
    past = [r.metrics for r in first[:2]]
    rest = list(coevolve(plan(always(BOTH), {D: Notebook(), A: Notebook()}), past))
    assert [r.number for r in rest] == [2, 3]
    assert [e.returns for e in rest[0].episodes] == [e.returns for e in first[2].episodes]


def test_shaping_changes_what_is_taught_and_never_what_is_recorded():
    def doubled(episodes):
        return [
            type(e)(e.state, e.opening, {p: 10 * v for p, v in e.returns.items()}) for e in episodes
        ]

    book = Notebook()
    told = plan(always(TURNS[D]), {D: book, A: Notebook()}, rounds=1)
    (plain,) = coevolve(told)
    told = Plan(**{**vars(told), "shape": doubled, "estimator": lambda g: [(0.0, 1.0)] * len(g)})
    (shaped,) = coevolve(told)
    assert shaped.metrics["defender/reward"] == plain.metrics["defender/reward"]
    assert {s.advantage for s in book.lessons[1]} <= {15.0, -15.0, 5.0, -5.0}


class Diary(Forgetful):
    """A memory that counts what it is told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def add(self, number, episodes):
        self.told.append(len(episodes))
        return {}


class Guests(Latest):
    """A league that sends a past self into one seat, round by round."""

    def __init__(self, *seats: Player | None) -> None:
        self.seats = seats

    def cast(self, number, turn, cast):
        who = self.seats[number]
        return ({**cast, who: says("yes")} if who is D else cast), turn, {}


def test_what_beat_a_past_defender_is_not_remembered():
    diary = Diary()
    told = replace(
        plan(always(TURNS[A]), {A: Notebook(), D: Notebook()}, rounds=3),
        memory=diary,
        league=Guests(None, D, None),
    )
    played = [len(round_.episodes) for round_ in coevolve(told)]
    assert diary.told == [played[0], 0, played[2]]
    assert played[1] > 0
