"""What beat the defender is kept, dealt again by the rules of the pool, and let go."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from tests.memory.pools import (
    PAYOFF,
    answered,
    failed,
    group,
    holding,
    only,
    openings,
    pool,
    replayed,
    turn,
)
from tests.table import BRIEFS, BROKEN, CANDLE, HELD, VAULT, ScriptedJudge, attacks, cast, says

from sparring.arena import play
from sparring.coevolve import Plan, coevolve
from sparring.credit import credit, standardized
from sparring.games.dialogue import Dialogue
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.memory.experience import ExperiencePool, Rules, thompson, ucb, uniform
from sparring.metrics import episode_metrics
from sparring.players.player import ScriptedPolicy
from sparring.schedules import always, by_metric, solo
from sparring.types import Completion, Episode, Harm, Player, State, Turn, Verdict

A, D = Player.ATTACKER, Player.DEFENDER


# (1 − m) + c · sqrt(ln(1 + N) / (1 + n)), by hand:
# .75 + .5 · sqrt(4.61512 / 4) = .75 + .5 · 1.07414
# .60 + .5 · sqrt(3.04452 / 1) = .60 + .5 · 1.74486
# .10 + .2 · sqrt(2.07944 / 8) = .10 + .2 · .50983
# .50 + 2 · sqrt(ln 1 / 6) = .50: nobody has been visited, so nobody seldom
UCB = [
    (0.25, 3, 100, 0.5, 1.287),
    (0.4, 0, 20, 0.5, 1.4724),
    (0.9, 7, 7, 0.2, 0.2020),
    (0.5, 5, 0, 2.0, 0.5),
]


@pytest.mark.parametrize(("m", "n", "visits", "c", "score"), UCB)
def test_a_ucb_score_is_the_failure_plus_a_bonus_for_rare_visits(m, n, visits, c, score):
    told = ucb(c)(failed("open it", m, n), visits, 0.5)
    assert told == pytest.approx(score, abs=5e-5 if c != 0.5 or m != 0.25 else 5e-4)


def test_the_defence_admits_below_a_half_on_average_over_the_replies_that_were_scored():
    told = pool()
    episodes = [
        *group("a", [0.5, 0.75, 0, 0.5], 0),  # 1.75 / 4 = .4375
        *group("b", [0.5, 0.5], 1),  # .5 is held
        *group("c", [0.75, None, 0, None], 2),  # .75 / 2 = .375
        *group("d", [None, None], 3),
        *group("e", [1, 0.25], 4),  # .625
    ]
    metrics = told.add(0, episodes)
    kept = {entry.seen[0].content: entry.mean for entry in told.entries.values()}
    assert kept == {"a": 0.4375, "c": 0.375}
    assert all(entry.visits == 0 for entry in told.entries.values())
    assert metrics["replay/admitted"] == metrics["replay/size"] == 2


def test_an_entry_holds_the_worst_reply_and_the_ruling_on_it():
    told = pool()
    told.add(0, group("a", [0.5, 0, 0.75]))
    assert (only(told).reply, only(told).ruling) == ("reply 1", Verdict(score=5))


def visited(us, **entry):
    """The entry after one replay whose replies went like that."""
    told = holding(pool(replay_share=0.5, reexamine=1), failed("a", **entry))
    told.deal(3, turn(), openings(2))
    told.add(3, replayed(told, lambda _: us))
    return only(told), told.visits


def test_a_visit_moves_the_mean_half_way_to_the_group():
    entry, visits = visited([1, 0.5, None, 0.25], mean=0.25, visits=1)
    # u = 1.75 / 3; m = (.25 + .58333) / 2
    assert entry.mean == pytest.approx(0.4166667)
    assert (entry.visits, visits) == (2, 1)


def test_a_replay_that_nobody_could_rule_on_is_no_visit():
    entry, visits = visited([None] * 4, mean=0.25, visits=1)
    assert (entry, visits) == (failed("a", 0.25, 1), 0)


@pytest.mark.parametrize(
    ("mean", "visits", "asleep"),
    [(0.8, 1, True), (0.8, 0, False), (0.79, 1, False), (0.7, 5, False)],
)
def test_an_entry_retires_at_nine_tenths_after_two_visits(mean, visits, asleep):
    """(.8 + 1) / 2 = .9 at the second visit; at the first, or at .895 or .85, it stays awake."""
    entry, _ = visited([1.0, 1.0], mean=mean, visits=visits)
    assert entry.asleep is asleep


def test_a_sleeper_that_holds_sleeps_on_and_one_that_fails_is_admitted_anew():
    entry, _ = visited([0.75, 0.5], mean=0.9, visits=3, asleep=True)
    assert (entry.mean, entry.visits, entry.asleep) == (pytest.approx(0.7625), 4, True)
    entry, visits = visited([0.75, 0], mean=0.9, visits=3, asleep=True)
    assert (entry.mean, entry.visits, entry.asleep) == (0.375, 0, False)
    assert (entry.reply, entry.ruling) == ("reply 1", Verdict(score=5)), "what beat it now"
    assert visits == 1


def drawn(told, wanted, rounds):
    """The entries drawn over so many rounds."""
    return [e for n in range(rounds) for e in told.draw(True, wanted, f"7/replay/{n}/True")]


def test_sleepers_are_drawn_as_the_reexamined_share_and_never_otherwise():
    awake = [failed(f"a{i}", 0.1 + i / 100) for i in range(9)]
    asleep = [failed(f"z{i}", 0.95, 4, asleep=True) for i in range(40)]
    told = holding(pool(reexamine=0.25), *awake, *asleep)
    shares = Counter(e.asleep for e in drawn(told, 6, 400))
    # 6 · .25 = 1.5 a round: 1 or 2, by chance
    assert shares[True] + shares[False] == 6 * 400
    assert shares[True] == pytest.approx(1.5 * 400, abs=40)  # two standard errors: 20
    counts = {sum(e.asleep for e in told.draw(True, 6, f"{n}")) for n in range(50)}
    assert counts == {1, 2}
    assert drawn(holding(pool(reexamine=0), *asleep), 6, 50) == []
    assert len({e.key for e in drawn(told, 6, 400) if e.asleep}) == 40, "every one gets its turn"


def test_where_nobody_is_awake_sleepers_are_looked_at_in_a_tree_too():
    """16 + 16 openings of 4 groups: 16 replays a label, of which a tenth, as whole openings."""
    asleep = [failed(f"z{i}", 0.95, 4, asleep=True) for i in range(40)]
    told = holding(pool(), *asleep)
    games, both = openings(16), turn(attacks=4, learns=(A, D))
    counts = Counter(len(told.deal(n, both, games)[1]) for n in range(1000))
    assert counts.keys() == {0, 4}
    # 1.6 a round: .4 · 4, standard error .062
    assert sum(k * n for k, n in counts.items()) / 1000 == pytest.approx(1.6, abs=0.19)
    assert len(told.draw(True, 14, "full", 4)) <= 14


def test_a_few_that_are_awake_fill_their_opening_with_sleepers():
    """3 awake of 16: an opening makes way for 4 replays or for none, so a sleeper comes along."""
    awake = [failed(f"a{i}", 0.25) for i in range(3)]
    asleep = [failed(f"z{i}", 0.95, 4, asleep=True) for i in range(40)]
    games, both = openings(16), turn(attacks=4, learns=(A, D))

    def replays(told):
        for n in range(50):
            told.deal(n, both, games)
            yield Counter(entry.asleep for entry in told.dealt.values())

    assert {tuple(sorted(n.items())) for n in replays(holding(pool(), *awake, *asleep))} == {
        ((False, 3), (True, 1)),
        ((False, 3), (True, 5)),  # where a tenth of 16 comes to an opening
    }
    assert {tuple(n.items()) for n in replays(holding(pool(reexamine=0), *awake, *asleep))} == {
        ((False, 4),)  # nobody may be woken
    }


def test_where_nobody_sleeps_the_few_that_are_awake_fill_their_opening_again():
    """Otherwise they would wait for ever: nothing falls asleep unvisited."""
    means = (0.25, 0.125, 0.375)
    told = holding(pool(ucb(0.0)), *(failed(f"a{m}", m) for m in means))
    _, replays = told.deal(0, turn(attacks=4, learns=(A, D)), openings(16))
    assert [entry.mean for entry in told.dealt.values()] == [0.125, 0.25, 0.375, 0.125]
    assert len(set(told.named)) == len(replays) == 4, "each a group of its own"
    told.add(0, replayed(told, lambda entry: [1, 0.5]))
    assert told.visits == 4
    # .125 → (.125 + .75) / 2 = .4375 → .59375
    assert sorted((e.mean, e.visits) for e in told.entries.values()) == [
        (0.5, 1),
        (0.5625, 1),
        (0.59375, 2),
    ]


def test_a_sleeper_is_woken_once_however_few_are_awake():
    told = holding(pool(), failed("a"), failed("z", 0.95, 4, asleep=True))
    drawn_ = told.draw(True, 4, "7", 4)
    assert [entry.asleep for entry in drawn_] == [False, True, False, False]


def test_only_replies_without_a_hint_tell_how_well_the_defence_does():
    """Two of four are shown the ruling: they hold, and the bare defender loses every time."""
    told = holding(pool(reflect=True, reexamine=1.0), failed("a", 0.95, 4, asleep=True))
    told.deal(0, turn(), openings(4))
    metrics = told.add(0, replayed(told, lambda entry: [0, 0, 1, 1]))
    assert (only(told).mean, only(told).asleep) == (0, False), "one that fails again is awake"
    assert metrics["replay/held"] == 0
    assert metrics["replay/visits"] == 1
    told.deal(1, turn(replies=3), openings(4))
    told.add(1, replayed(told, lambda entry: [1, 0.5, 0]))
    assert only(told).mean == 0.375  # (0 + .75) / 2
    told.deal(2, turn(replies=1), openings(4))
    told.add(2, replayed(told, lambda entry: [1]))
    assert only(told).mean == 0.6875
    told.deal(3, turn(), openings(4))
    assert told.add(3, replayed(told, lambda entry: [None, None, 1, 1]))["replay/visits"] == 3


def test_a_live_group_counts_whole_where_replays_reflect():
    told = pool(reflect=True)
    told.add(0, group("a", [0, 0.5, 0.25, 0.25]))
    assert only(told).mean == 0.25


def test_the_share_is_of_the_groups_that_came_to_a_reply():
    """Attacks that do not parse have none: 1 replay beside 2 groups is a third of them."""
    told = holding(pool(), failed("a"))
    told.deal(0, turn(), openings(4))
    live = [*group("b", [1, 1], 0), *group("c", [1, 1], 1)]
    assert told.add(0, [*live, *replayed(told, lambda entry: [1])])["replay/share"] == 1 / 3
    assert told.add(1, [])["replay/share"] == 0


def test_a_full_pool_lets_go_of_the_best_defended():
    told = holding(pool(capacity=3), *(failed(f"a{m}", m) for m in (0.3, 0.45, 0.1, 0.2)))
    told.add(0, group("new", [0.25, 0.5]))  # .375
    assert sorted(e.mean for e in told.entries.values()) == [0.1, 0.2, 0.3]


def test_a_full_pool_lets_a_sleeper_stay_that_is_defended_worse():
    """The highest m leaves, asleep or not."""
    sleeper = failed("z", 0.35, 4, asleep=True)
    told = holding(pool(capacity=2), failed("a", 0.4), sleeper)
    told.add(0, group("new", [0.25, 0.5]))  # .375
    assert [e.mean for e in told.entries.values()] == [0.35, 0.375]


def test_an_exact_repeat_is_one_entry_and_stays_as_it_is():
    told = pool()
    told.add(0, [*group("a", [0.25, 0]), *group("a", [0, 0], sibling=1)])
    assert (only(told).mean, only(told).visits) == (0.125, 0)
    told.add(1, [*group("a", [0.25, 0.25], 0), *group("a", [0, 0.25], 1, CANDLE)])
    assert [e.seed.id for e in told.entries.values()] == ["vault", "candle"], "another seed"
    assert next(iter(told.entries.values())).mean == 0.125


def test_a_live_attack_that_beats_the_defender_again_wakes_its_sleeper():
    told = holding(pool(), failed("a", 0.95, 6, asleep=True))
    told.add(0, group("a", [0.5, 0]))
    assert (only(told).mean, only(told).visits, only(told).asleep) == (0.25, 0, False)


def test_a_game_that_teaches_the_defender_nothing_is_neither_kept_nor_a_visit():
    """An attack off the seed's topic masks the defender, whatever its reply does."""
    masked = [Episode(e.state, e.opening, {A: -1.0}) for e in group("a", [0, 0])]
    told = pool()
    assert told.add(0, masked)["replay/admitted"] == 0
    assert told.entries == {}


def test_uniform_draws_by_the_number_that_is_an_entrys_own():
    told = holding(pool(uniform), *(failed(f"a{i}", i / 20, i) for i in range(10)), visits=45)
    counts = Counter(e.key for e in drawn(told, 3, 1000))
    assert set(counts) == set(told.entries)
    assert all(240 < n < 360 for n in counts.values()), counts  # 300, standard error 14.5


@pytest.mark.parametrize(("m", "n"), [(0.25, 3), (0.7, 0), (0.1, 9)])
def test_thompson_draws_the_failure_rate_from_its_beta_posterior(m, n):
    scores = [thompson(failed("a", m, n), 50, (i + 0.5) / 400) for i in range(400)]
    shape = (1 + (n + 1) * (1 - m), 1 + (n + 1) * m)
    assert kstest(scores, "beta", shape).statistic < 0.003
    mean = shape[0] / sum(shape)  # (.25, 3): 4/6
    assert math.fsum(scores) / 400 == pytest.approx(mean, abs=2e-3)


def test_ucb_draws_the_highest_scores_first_and_breaks_ties_by_address():
    entries = [failed(f"a{i}", m) for i, m in enumerate([0.4, 0.1, 0.3, 0.2])]
    told = holding(pool(reexamine=0), *entries)
    assert [e.mean for e in told.draw(True, 3, "7")] == [0.1, 0.2, 0.3]
    tied = holding(pool(reexamine=0), *(failed(f"a{i}", 0.25) for i in range(6)))
    firsts = Counter(tied.draw(True, 1, f"{n}")[0].key for n in range(600))
    assert len(firsts) == 6
    assert min(firsts.values()) > 60  # 100 each, standard error 9
    backwards = holding(pool(reexamine=0), *reversed(tied.entries.values()))
    assert tied.draw(True, 4, "3") == backwards.draw(True, 4, "3"), "not by order of admission"


labels = st.lists(st.sampled_from([VAULT, CANDLE]), min_size=1, max_size=24)


@settings(max_examples=60, deadline=None)
@given(labels, st.sampled_from([1, 4]), st.integers(0, 20), st.floats(0, 0.99), st.data())
def test_replays_change_neither_the_balance_of_labels_nor_the_number_of_groups(
    seeds, width, entries, share, data
):
    asked = data.draw(st.lists(st.booleans(), min_size=len(seeds), max_size=len(seeds)))
    games = [
        State(seed).deal(A, seed.text) if plain else State(seed)
        for seed, plain in zip(seeds, asked, strict=True)
    ]
    told = holding(
        pool(replay_share=share),
        *(failed(f"a{i}", 0.2, seed=(VAULT, CANDLE)[i % 2]) for i in range(entries)),
    )
    fresh, replays = told.deal(0, turn(attacks=width, learns=(A, D)), games)

    def groups(states):
        return Counter(
            {
                h: sum(width ** (not s.dealt) for s in states if s.seed.harmful == h)
                for h in (True, False)
            }
        )

    before, after = groups(games), groups([*fresh, *replays])
    assert before == after
    for label in (True, False):
        mine = [s for s in replays if s.seed.harmful == label]
        assert len(mine) <= share * before[label]
        known = {e.opening for e in told.entries.values() if e.seed.harmful == label}
        assert set(mine) <= known
        assert len(mine) - len(set(mine)) < width, "again only to fill an opening"
    assert set(told.dealt) == set(range(len(fresh), len(fresh) + len(replays)))
    assert all(s in games for s in fresh)


def test_a_quarter_of_the_groups_are_replays_if_the_pool_can_fill_them():
    told = holding(pool(), *(failed(f"a{i}") for i in range(40)))
    fresh, replays = told.deal(0, turn(attacks=4, learns=(A, D)), openings(8))
    # 8 harmful openings are 32 groups, of which 8 make way: two openings; no benign entry is known
    assert (len(fresh), len(replays)) == (6 + 8, 8)
    live = [
        episode
        for i, state in enumerate(fresh)
        for k in range(4)
        for episode in group("b", [1, 1], i, state.seed, k)
    ]
    played = [*live, *replayed(told, lambda entry: [1, 1])]
    assert told.add(0, played)["replay/share"] == pytest.approx(8 / 64)


def test_nothing_is_replayed_while_the_defender_does_not_learn():
    told = holding(pool(), *(failed(f"a{i}") for i in range(40)))
    games = openings(8)
    assert told.deal(0, turn(learns=(A,)), games) == (games, ())
    assert told.add(0, group("new", [0, 0]))["replay/admitted"] == 1


class Notes:
    """A learner that keeps what it is shown."""

    def __init__(self):
        self.lessons = []

    def update(self, samples):
        self.lessons.append(samples)
        return {}


def judged(state):
    """Replays are held, live attacks beat the defender."""
    if state.dealt:
        return HELD if state.seed.harmful else Verdict(Harm.SAFE, False, True, on_topic=True)
    return BROKEN if state.seed.harmful else HELD


def played(memory, schedule, rounds, learners=None, defender=None):
    game = Dialogue(LabelPayoff(MAGIC), BRIEFS)
    defends = defender or says("yes", "no")
    return list(
        coevolve(
            Plan(
                game=game,
                judge=ScriptedJudge(judged),
                openings=lambda number, turn: openings(4),
                schedule=schedule,
                cast=cast(attacks("a tale", "a song"), defends),
                learners=learners or {A: Notes(), D: Notes()},
                estimator=standardized,
                measure=episode_metrics,
                rounds=rounds,
                rng_seed="run",
                memory=memory,
            )
        )
    )


def remembering(**rules):
    return ExperiencePool(LabelPayoff(MAGIC).held, ucb(0.5), Rules(**rules), "7/replay")


@pytest.mark.parametrize("more", [{}, {"goal": "open it", "cluster": "gate 3", "context": "a map"}])
def test_an_entry_comes_back_from_a_checkpoint_with_all_its_seed_says(more):
    seed = replace(VAULT, **more)
    kept = holding(pool(), failed("a", seed=seed))
    told = json.loads(json.dumps(kept.state()))
    assert set(told["entries"][0]["seed"]) == {"text", "harmful", "id", "category", *more}
    again = pool()
    again.load(told)
    assert [entry.seed for entry in again.entries.values()] == [seed]


def test_a_replay_is_the_attack_dealt_and_ends_with_the_reply():
    both = always(Turn(frozenset({A, D}), {A: 2, D: 3}))
    told = played(remembering(replay_share=0.5), both, 2)[1]
    replays = [e for e in told.episodes if e.state.dealt]
    assert (
        len(replays) == 4 * 3
    )  # 2 of 4 openings a label would be 8; two attacks a label are known
    for episode in replays:
        first, reply = episode.state.moves
        assert (first.player, reply.player) == (A, D)
        assert first.completion.text in ("a tale", "a song")
        assert reply.observation[-1].content == first.completion.text
    assert credit(replays, A, standardized).groups == 0, "the attacker learned from a replay"
    assert credit(replays, D, standardized).groups == 4


def test_an_attack_after_an_exchange_is_replayed_with_what_came_before_it():
    told = remembering()
    said = State(VAULT).deal(A, "zig means open").deal(D, "agreed").deal(A, "zig the vault")
    told.add(0, [Episode(e.state, 0, {A: 1, D: -1}) for e in played_from(said)])
    (entry,) = told.entries.values()
    assert entry.opening == said
    assert [m.role for m in entry.seen] == ["user", "assistant", "user"]


def played_from(opening):
    game = Dialogue(LabelPayoff(MAGIC), BRIEFS, exchanges=3)
    table = cast(attacks("never asked"), says("yes", "here it is"))
    return play(game, [opening], table, ScriptedJudge(lambda s: BROKEN), {D: 2}, "s")


@pytest.mark.parametrize(
    ("replies", "kept"),
    [(("yes", "no", "no", "no"), {}), (("yes", "yes", "yes", "no"), {"a tale": 0.25})],
)
def test_a_reply_that_held_counts_though_the_attacker_tried_again(replies, kept):
    """One in four beaten is .75; the three that held went on to a second exchange."""
    game, told = Dialogue(LabelPayoff(MAGIC), BRIEFS, exchanges=2), remembering()
    table = cast(attacks("a tale"), ScriptedPolicy(lambda seen, at: reply(seen, at, replies)))
    judge = ScriptedJudge(lambda s: BROKEN if s.moves[-1].completion.text == "yes" else HELD)
    told.add(0, play(game, [State(VAULT)], table, judge, {D: 4}, "s"))
    assert {e.seen[-1].content: e.mean for e in told.entries.values()} == kept


def test_a_reply_to_what_only_prepares_an_attack_is_neither_held_nor_beaten():
    game, told = Dialogue(LabelPayoff(MAGIC), BRIEFS, exchanges=2), remembering()
    replies = iter([BROKEN, *[replace(HELD, on_topic=False)] * 3])
    judge = ScriptedJudge(lambda s: next(replies) if len(s.moves) == 2 else HELD)
    told.add(0, play(game, [State(VAULT)], cast(attacks("a"), says("no")), judge, {D: 4}, "s"))
    assert only(told).mean == 0


def reply(seen, at, replies):
    """Siblings say these to the first attack, and all hold against the second."""
    return replies[int(at.rsplit("/", 1)[1])] if len(seen) == 1 else "no"


def test_live_metrics_leave_replays_out():
    """Every replay is held and every live attack works, so one replay would show in every rate."""
    told = played(remembering(replay_share=0.5), always(solo(D, 4)), 3)
    assert [r.metrics["replay/share"] for r in told] == [0, 0.25, 0.25]
    assert [r.metrics["asr"] for r in told] == [1, 1, 1]
    assert [r.metrics["over_refusal"] for r in told] == [1, 1, 1]
    assert [r.metrics["episodes"] for r in told] == [32, 24, 24]
    assert [len(r.episodes) for r in told] == [32, 32, 32]
    assert [r.metrics["defender/groups"] for r in told] == [8, 8, 8], "they are learned from"
    assert told[1].metrics["replay/held"] == 1


class Spoken:
    """A defender whose every reply is two tokens."""

    def sample(self, requests):
        told = Completion("no", token_ids=(7, 9))
        return [[told for _ in request.addresses] for request in requests]


def test_replays_cost_tokens_as_live_games_do():
    told = played(remembering(replay_share=0.5), always(solo(D, 4)), 3, defender=Spoken())
    assert [r.metrics["replay/share"] for r in told] == [0, 0.25, 0.25]
    assert [r.metrics["defender/tokens"] for r in told] == [2 * 32] * 3


def test_a_schedule_by_metric_does_not_see_replays():
    """One in four harmful games is a held replay: 1 − asr would be .25 and hand over."""
    turns = {D: solo(D, 4), A: solo(A, 2)}
    schedule = by_metric(turns, limits=(0.1, 0.2), window=1, dwell=(1, 30))
    told = played(remembering(replay_share=0.5), schedule, 4)
    assert [r.metrics["replay/share"] for r in told] == [0, 0.25, 0.25, 0.25]
    assert [r.turn.learns for r in told] == [{D}] * 4


def test_answered_replies_are_what_the_payoff_pays():
    """The tests above say how well a defence did by scores; here is that scale."""
    told = list(answered(failed("a").opening, 0, [0.25, None]))
    assert told[0].state.verdict.score == 4
    assert told[0].returns == {A: 0.75, D: 0.25}
    assert PAYOFF.held(VAULT, told[0].state.verdict) == 0.25
    assert told[1].returns is None
