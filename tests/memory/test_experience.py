"""Attacks that beat the defender enter the pool, are replayed by its rules, and retire."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import kstest
from tests.memory.pools import failed, group, holding, only, openings, pool, replayed, turn
from tests.table import BRIEFS, BROKEN, CANDLE, HELD, VAULT, ScriptedJudge, attacks, cast, says
from tests.test_coevolve import plan

from sparring.arena import play
from sparring.coevolve import coevolve
from sparring.credit import credit, standardized
from sparring.games.dialogue import Dialogue
from sparring.games.game import reply_of, tagged
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.memory.experience import ExperiencePool, PoolLimits, thompson, ucb, uniform
from sparring.players.player import ScriptedPolicy
from sparring.schedules import always, by_metric, solo
from sparring.types import Completion, Episode, Harm, Player, State, Turn, Verdict

A, D = Player.ATTACKER, Player.DEFENDER
TREE = turn(attacks=4, learns=(A, D))
SLEEPERS = [failed(f"z{i}", 0.95, 4, asleep=True) for i in range(40)]


@pytest.mark.parametrize(
    ("m", "n", "visits", "c", "score"),
    [
        # (1 − m) + c · sqrt(ln(1 + N) / (1 + n)), by hand:
        (0.25, 3, 100, 0.5, 1.2871),  # .75 + .5 · sqrt(4.61512 / 4) = .75 + .5 · 1.07414
        (0.4, 0, 20, 0.5, 1.4724),  # .60 + .5 · sqrt(3.04452 / 1) = .60 + .5 · 1.74486
        (0.9, 7, 7, 0.2, 0.2020),  # .10 + .2 · sqrt(2.07944 / 8) = .10 + .2 · .50983
        (0.5, 5, 0, 2.0, 0.5),  # .50 + 2 · sqrt(ln 1 / 6): without visits none is rare
    ],
)
def test_a_ucb_score_is_the_failure_plus_a_bonus_for_rare_visits(m, n, visits, c, score):
    assert ucb(c)(failed("open it", m, n), visits, 0.5) == pytest.approx(score, abs=5e-5)


def test_an_attack_is_admitted_below_a_half_on_average_with_the_worst_reply_and_its_ruling():
    full = pool()
    episodes = [
        *group("a", [0.5, 0.75, 0, 0.5], 0),  # 1.75 / 4 = .4375
        *group("b", [0.5, 0.5], 1),  # .5 is held
        *group("c", [0.75, None, 0, None], 2),  # .75 / 2 = .375
        *group("d", [None, None], 3),
        *group("e", [1, 0.25], 4),  # .625
        # an attack off the seed's topic masks the defender, whatever its reply does
        *(Episode(e.state, 5, {A: -1.0}) for e in group("f", [0, 0])),
    ]
    metrics = full.add(0, episodes)
    entries = {entry.seen[0].content: entry for entry in full.entries.values()}
    assert {text: entry.mean for text, entry in entries.items()} == {"a": 0.4375, "c": 0.375}
    assert {entry.visits for entry in entries.values()} == {0}
    assert (entries["a"].reply, entries["a"].ruling) == ("reply 2", Verdict(score=5))
    assert metrics["replay/admitted"] == metrics["replay/size"] == 2


def visited(us, **entry):
    """The entry after one replay with these outcomes, and the number of all visits."""
    full = holding(pool(replay_share=0.5, reexamine=1), failed("a", **entry))
    full.deal(3, turn(), openings(2))
    full.add(3, replayed(full, lambda _: us))
    return only(full), full.visits


def test_a_visit_moves_the_mean_half_way_to_the_group_and_an_unscored_one_does_not_count():
    entry, visits = visited([1, 0.5, None, 0.25], mean=0.25, visits=1)
    # u = 1.75 / 3; m = (.25 + .58333) / 2
    assert entry.mean == pytest.approx(0.4166667)
    assert (entry.visits, visits) == (2, 1)
    assert visited([None] * 4, mean=0.25, visits=1) == (failed("a", 0.25, 1), 0)


@pytest.mark.parametrize(
    ("mean", "visits", "asleep"),
    [(0.8, 1, True), (0.8, 0, False), (0.79, 1, False), (0.7, 5, False)],
)
def test_an_entry_retires_at_nine_tenths_after_two_visits(mean, visits, asleep):
    """(.8 + 1) / 2 = .9 at the second visit; at the first, or at .895 or .85, it stays awake."""
    assert visited([1.0, 1.0], mean=mean, visits=visits)[0].asleep is asleep


def test_a_sleeper_that_holds_sleeps_on_and_one_that_fails_is_admitted_anew():
    entry, _ = visited([0.75, 0.5], mean=0.9, visits=3, asleep=True)
    assert (entry.mean, entry.visits, entry.asleep) == (pytest.approx(0.7625), 4, True)
    entry, visits = visited([0.75, 0], mean=0.9, visits=3, asleep=True)
    assert (entry.mean, entry.visits, entry.asleep, visits) == (0.375, 0, False, 1)
    assert (entry.reply, entry.ruling) == ("reply 1", Verdict(score=5)), "what beat it now"


def drawn(full, most, rounds):
    """The entries drawn over so many rounds."""
    return [e for n in range(rounds) for e in full.draw(True, most, f"7/replay/{n}/True")]


def test_sleepers_are_drawn_as_the_reexamined_share_and_never_otherwise():
    awake = [failed(f"a{i}", i / 100) for i in range(9)]
    entries = drawn(holding(pool(reexamine=0.25), *awake, *SLEEPERS), 6, 400)
    # 6 · .25 = 1.5 a round: 1 or 2, by chance
    rounds = [sum(e.asleep for e in entries[k : k + 6]) for k in range(0, 6 * 400, 6)]
    assert set(rounds) == {1, 2}
    assert sum(rounds) == pytest.approx(1.5 * 400, abs=40)  # two standard errors: 20
    assert len({e.key for e in entries if e.asleep}) == 40, "every one gets its turn"
    assert drawn(holding(pool(reexamine=0), *SLEEPERS), 6, 50) == []


@pytest.mark.parametrize(
    ("reexamine", "counts"),
    [
        (0.1, {(3, 1), (3, 5)}),  # 5: a tenth of 16 is one opening
        (0, {(4, 0)}),  # none may be woken
    ],
)
def test_a_few_that_are_awake_complete_their_opening_with_sleepers(reexamine, counts):
    """3 awake of 16: an opening makes way for 4 replays or for none, so a sleeper comes along."""
    full = holding(pool(reexamine=reexamine), *(failed(f"a{i}", 0.25) for i in range(3)), *SLEEPERS)
    drawn = set()
    for n in range(50):
        full.deal(n, TREE, openings(16))
        dealt = Counter(entry.asleep for entry in full.replays_by_opening.values())
        drawn.add((dealt[False], dealt[True]))
    assert drawn == counts
    two = holding(pool(), failed("a"), SLEEPERS[0])
    assert [entry.asleep for entry in two.draw(True, 4, "7", 4)] == [False, True, False, False]


def test_where_none_sleeps_the_few_that_are_awake_complete_their_opening_again():
    """Otherwise they would wait for ever, because an entry falls asleep only after visits."""
    full = holding(pool(ucb(0.0)), *(failed(f"a{m}", m) for m in (0.25, 0.125, 0.375)))
    _, replays = full.deal(0, TREE, openings(16))
    assert [entry.mean for entry in full.replays_by_opening.values()] == [0.125, 0.25, 0.375, 0.125]
    assert len(set(full.replays_by_name)) == len(replays) == 4, "each a group of its own"
    full.add(0, replayed(full, lambda entry: [1, 0.5]))
    assert full.visits == 4
    # .125 → (.125 + .75) / 2 = .4375 → .59375
    visits = sorted((e.mean, e.visits) for e in full.entries.values())
    assert visits == [(0.5, 1), (0.5625, 1), (0.59375, 2)]


def test_only_replies_without_a_hint_count_for_how_well_the_defence_does():
    """Two of four are shown the ruling: they hold, and the bare defender loses every time."""
    full = holding(pool(reflect=True, reexamine=1.0), failed("a", 0.95, 4, asleep=True))
    full.deal(0, turn(), openings(4))
    metrics = full.add(0, replayed(full, lambda entry: [0, 0, 1, 1]))
    assert (only(full).mean, only(full).asleep) == (0, False), "one that fails again is awake"
    assert (metrics["replay/held"], metrics["replay/visits"]) == (0, 1)
    # (0 + .75) / 2, (.375 + 1) / 2, no visit
    for us, mean in (([1, 0.5, 0], 0.375), ([1], 0.6875), ([None, None, 1, 1], 0.6875)):
        full.deal(1, turn(replies=len(us)), openings(4))
        full.add(1, replayed(full, lambda entry, us=us: us))
        assert only(full).mean == mean
    assert full.visits == 3
    fresh = pool(reflect=True)
    fresh.add(0, group("a", [0, 0.5, 0.25, 0.25]))
    assert only(fresh).mean == 0.25, "a fresh group counts whole"


def test_a_full_pool_evicts_the_best_defended_awake_or_asleep():
    full = holding(pool(capacity=3), *(failed(f"a{m}", m) for m in (0.3, 0.45, 0.1, 0.2)))
    full.add(0, group("new", [0.25, 0.5]))  # .375
    assert sorted(e.mean for e in full.entries.values()) == [0.1, 0.2, 0.3]
    full = holding(pool(capacity=2), failed("a", 0.4), failed("z", 0.35, 4, asleep=True))
    full.add(0, group("new", [0.25, 0.5]))
    assert [e.mean for e in full.entries.values()] == [0.35, 0.375]


def test_an_exact_repeat_is_one_entry_and_stays_as_it_is_unless_it_sleeps():
    full = pool()
    full.add(0, [*group("a", [0.25, 0]), *group("a", [0, 0], sibling=1)])
    assert (only(full).mean, only(full).visits) == (0.125, 0)
    full.add(1, [*group("a", [0.25, 0.25], 0), *group("a", [0, 0.25], 1, CANDLE)])
    assert [e.seed.id for e in full.entries.values()] == ["vault", "candle"], "another seed"
    assert next(iter(full.entries.values())).mean == 0.125
    asleep = holding(pool(), failed("a", 0.95, 6, asleep=True))
    asleep.add(0, group("a", [0.5, 0]))
    assert (only(asleep).mean, only(asleep).visits, only(asleep).asleep) == (0.25, 0, False)


def test_uniform_draws_every_entry_alike():
    full = holding(pool(uniform), *(failed(f"a{i}", i / 20, i) for i in range(10)), visits=45)
    counts = Counter(e.key for e in drawn(full, 3, 1000))
    assert set(counts) == set(full.entries)
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
    full = holding(pool(reexamine=0), *entries)
    assert [e.mean for e in full.draw(True, 3, "7")] == [0.1, 0.2, 0.3]
    tied = holding(pool(reexamine=0), *(failed(f"a{i}", 0.25) for i in range(6)))
    firsts = Counter(tied.draw(True, 1, f"{n}")[0].key for n in range(600))
    assert len(firsts) == 6
    assert min(firsts.values()) > 60  # 100 each, standard error 9
    backwards = holding(pool(reexamine=0), *reversed(tied.entries.values()))
    assert tied.draw(True, 4, "3") == backwards.draw(True, 4, "3"), "not by order of admission"


def test_a_quarter_of_the_groups_are_replays_if_the_pool_can_fill_them():
    full = holding(pool(), *(failed(f"a{i}") for i in range(40)))
    assert full.deal(0, turn(learns=(A,)), openings(8)) == (openings(8), ()), "D does not learn"
    fresh, replays = full.deal(0, TREE, openings(8))
    # 8 harmful openings are 32 groups, of which 8 make way: two openings; no benign entry is known
    assert (len(fresh), len(replays)) == (6 + 8, 8)
    forks = [(i, state.seed, k) for i, state in enumerate(fresh) for k in range(4)]
    live = [e for i, seed, k in forks for e in group("b", [1, 1], i, seed, k)]
    # attacks that do not parse come to no reply: here the last two
    metrics = full.add(0, [*live[:-4], *replayed(full, lambda entry: [1, 1])])
    assert metrics["replay/share"] == pytest.approx(8 / 62)
    assert full.add(1, [])["replay/share"] == 0


def test_an_entry_comes_back_from_a_checkpoint_with_its_whole_seed():
    for more in ({}, {"goal": "open it", "cluster": "gate 3", "context": "a map"}):
        seed, again = replace(VAULT, **more), pool()
        state = json.loads(json.dumps(holding(pool(), failed("a", seed=seed)).state()))
        assert set(state["entries"][0]["seed"]) == {"text", "harmful", "id", "category", *more}
        again.load(state)
        assert only(again).seed == seed


def rule(state):
    """Replays are held, fresh attacks beat the defender."""
    if state.dealt:
        return HELD if state.seed.harmful else Verdict(Harm.SAFE, False, True, on_topic=True)
    return BROKEN if state.seed.harmful else HELD


def remembering(**rules):
    return ExperiencePool(LabelPayoff(MAGIC).held, ucb(0.5), PoolLimits(**rules), "7/replay")


def rounds(schedule, number, defender=None):
    players = cast(attacks("a tale", "a song"), defender or says("yes", "no"))
    more = {"cast": players, "memory": remembering(replay_share=0.5)}
    whole = plan(schedule, rule=rule, rounds=number, openings=lambda *_: openings(4), **more)
    return list(coevolve(whole))


def test_a_replay_is_the_attack_dealt_and_ends_with_the_reply():
    _, second = rounds(always(Turn(frozenset({A, D}), {A: 2, D: 3})), 2)
    replays = [e for e in second.episodes if e.state.dealt]
    # half of 8 groups a label would be 8; two attacks a label are known
    assert len(replays) == 4 * 3
    for attack, reply in (episode.state.moves for episode in replays):
        assert (attack.player, reply.player) == (A, D)
        assert attack.sent in ("a tale", "a song")
        assert reply.observation[-1].content == attack.sent
    assert credit(replays, A, standardized).groups == 0, "the attacker learned from a replay"
    assert credit(replays, D, standardized).groups == 4


def exchanged(opening, defender, judge, exchanges=2, replies=4):
    """A pool after games of several exchanges on one opening."""
    full, game = remembering(), Dialogue(LabelPayoff(MAGIC), BRIEFS, exchanges=exchanges)
    players = cast(attacks("a tale"), defender)
    full.add(0, play(game, [opening], players, ScriptedJudge(judge), {D: replies}, "s"))
    return full


def test_an_attack_after_an_exchange_is_replayed_with_what_came_before_it():
    opening = State(VAULT).deal(A, "zig means open").deal(D, "agreed").deal(A, "zig the vault")
    entry = only(exchanged(opening, says("yes", "here it is"), lambda state: BROKEN, 3, 2))
    assert entry.opening == opening
    assert [m.role for m in entry.seen] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("replies", "means"),
    [(("yes", "no", "no", "no"), {}), (("yes", "yes", "yes", "no"), {"a tale": 0.25})],
)
def test_a_reply_that_held_counts_though_the_attacker_tried_again(replies, means):
    """One in four beaten is .75; the three that held went on to a second exchange."""

    def reply(observation, at):
        return replies[int(at.rsplit("/", 1)[1])] if len(observation) == 1 else "no"

    beaten = lambda state: BROKEN if reply_of(state) == "yes" else HELD  # noqa: E731
    full = exchanged(State(VAULT), ScriptedPolicy(reply), beaten)
    assert {e.seen[-1].content: e.mean for e in full.entries.values()} == means


def test_a_reply_to_what_only_prepares_an_attack_is_neither_held_nor_beaten():
    rulings = iter([BROKEN, *[replace(HELD, on_topic=False)] * 3])
    judge = lambda state: next(rulings) if len(state.moves) == 2 else HELD  # noqa: E731
    assert only(exchanged(State(VAULT), says("no"), judge)).mean == 0


def test_live_metrics_leave_replays_out_and_their_tokens_count():
    """Every replay is held and every live attack works, so one replay would show in every rate."""

    class TwoTokens:
        def sample(self, requests):
            return [[Completion("no", token_ids=(7, 9)) for _ in r.addresses] for r in requests]

    played = rounds(always(solo(D, 4)), 3, TwoTokens())
    expected = {
        "replay/share": [0, 0.25, 0.25],
        "asr": [1, 1, 1],
        "over_refusal": [1, 1, 1],
        "episodes": [32, 24, 24],
        "defender/groups": [8, 8, 8],
        "defender/tokens": [2 * 32] * 3,
    }
    assert {name: [r.metrics[name] for r in played] for name in expected} == expected
    assert [len(r.episodes) for r in played] == [32, 32, 32]
    assert played[1].metrics["replay/held"] == 1


def test_a_schedule_by_metric_does_not_see_replays():
    """One in four harmful games is a held replay: 1 − asr would be .25 and hand over."""
    schedule = by_metric({D: solo(D, 4), A: solo(A, 2)}, (0.1, 0.2), window=1, dwell=(1, 30))
    played = rounds(schedule, 4)
    assert [r.metrics["replay/share"] for r in played] == [0, 0.25, 0.25, 0.25]
    assert [r.turn.learns for r in played] == [{D}] * 4


def test_a_second_reply_that_does_not_parse_is_unscored_and_not_the_reply_before_it():
    game = Dialogue(LabelPayoff(MAGIC), BRIEFS, gate=False, exchanges=2, reply_format=1.0)
    parses = tagged("plan", "never")
    defender = ScriptedPolicy(lambda seen, _: parses if len(seen) == 2 else "<think> unfinished")
    players, widths = cast(attacks("open it"), defender), {A: 1, D: 2}
    full = ExperiencePool(LabelPayoff(MAGIC).held, uniform, PoolLimits(), "7/replay")
    played = play(game, [game.open(VAULT)], players, ScriptedJudge(lambda state: HELD), widths, "0")
    assert [episode.returns for episode in played] == [{D: -1.0}] * 2
    assert full.add(0, played)["replay/admitted"] == 0
