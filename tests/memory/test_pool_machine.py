"""The invariants of a pool hold after any rounds, and a resumed pool is identical."""

import json
from dataclasses import replace
from math import ceil

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.memory.pools import A, D, answered, failed, group, holding, openings, pool, turn
from tests.table import CANDLE

from sparring.games.game import attack_of
from sparring.memory.experience import thompson, ucb, uniform
from sparring.types import Harm, Status, Verdict

us = st.lists(st.sampled_from([None, 0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=3)
rules = st.fixed_dictionaries(
    {
        "capacity": st.integers(1, 6),
        "replay_share": st.sampled_from([0.0, 0.25, 0.5, 0.9]),
        "reexamine": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "retire_at": st.sampled_from([0.6, 0.9]),
        "retire_after": st.integers(0, 2),
    }
)


class Rounds(RuleBasedStateMachine):
    """One pool that continues, and new ones that load its state before some rounds."""

    @initialize(limits=rules, sampler=st.sampled_from([ucb(0.5), ucb(0.0), uniform, thompson]))
    def begin(self, limits, sampler):
        self.empty = lambda: pool(sampler, **limits)
        known = [failed("a", 0.25), failed("f", 0.95, 3, asleep=True), failed("e", 0.4, 5)]
        self.pools = [holding(self.empty(), *known[: limits["capacity"]])]
        self.number = self.scored = 0

    @property
    def pool(self):
        return self.pools[0]

    @rule(width=st.integers(1, 3), seeds=st.integers(1, 6), data=st.data())
    def play(self, width, seeds, data):
        """Live attacks of a few texts, so that some come again, beside the replays."""
        now, games = turn(attacks=width, learns=(A, D)), openings(seeds)
        dealt = [each.deal(self.number, now, games) for each in self.pools]
        fresh, replays = dealt[0]
        assert dealt == [(fresh, replays)] * len(dealt), "the resumed pool deals otherwise"
        assert set(self.pool.replays_by_opening) == set(
            range(len(fresh), len(fresh) + len(replays))
        )
        self.promises(width, seeds * width, fresh, replays)
        episodes = []
        for i, state in enumerate(fresh):
            for k in range(width):
                text = data.draw(st.sampled_from("abcdef"), "attack")
                episodes += group(text, data.draw(us, "live"), i, state.seed, k)
        for i, state in enumerate(replays, len(fresh)):
            went = data.draw(us, "replay")
            self.scored += any(u is not None for u in went)
            episodes += answered(state, i, went)
        metrics = [each.add(self.number, episodes) for each in self.pools]
        assert metrics == metrics[:1] * len(metrics)
        assert metrics[0]["replay/visits"] == self.scored
        assert metrics[0]["replay/share"] <= self.pool.limits.replay_share
        self.number += 1

    def promises(self, width, groups, fresh, replays):
        """A label has as many groups as it had, and not too many of them are replays."""
        limits, dealt = self.pool.limits, list(self.pool.replays_by_opening.values())
        assert [entry.opening for entry in dealt] == list(replays)
        assert list(self.pool.replays_by_name.values()) == dealt
        most = limits.replay_share * groups
        for label in (True, False):
            entries = [e for e in dealt if e.seed.harmful == label]
            left = width * sum(state.seed.harmful == label for state in fresh)
            assert left + len(entries) == groups
            assert len(entries) <= most
            asleep, awake = (sum(e.asleep is slept for e in entries) for slept in (True, False))
            again = awake - len({e.key for e in entries if not e.asleep})
            assert len({e.key for e in entries if e.asleep}) == asleep, "a sleeper is woken once"
            assert again < width, "again only to fill an opening"
            blocks, filled = ceil(limits.reexamine * most / width), -(awake - again) % width
            assert asleep <= width * blocks + filled, "more than whole openings"

    @rule()
    def resume(self):
        """Load the state, through JSON, into a new pool."""
        resumed = self.empty()
        resumed.load(json.loads(json.dumps(self.pool.state())))
        assert resumed == self.pool
        self.pools = [self.pool, resumed]

    @invariant()
    def keeps_within_its_capacity(self):
        if hasattr(self, "pools"):
            assert len(self.pool.entries) <= self.pool.limits.capacity
            assert self.pool.visits == self.scored

    @invariant()
    def keeps_its_entries_in_order(self):
        for key, entry in self.pool.entries.items() if hasattr(self, "pools") else ():
            assert entry.key == key
            assert 0 <= entry.mean <= 1
            limits = self.pool.limits
            slept = entry.mean >= limits.retire_at and entry.visits >= limits.retire_after
            assert entry.asleep or not slept or entry.visits == 0

    @invariant()
    def never_draws_the_retired_as_ordinary_replays(self):
        if not hasattr(self, "pools"):
            return
        entries = self.pool.entries.values()
        awake = {h: sum(not e.asleep and e.seed.harmful == h for e in entries) for h in (0, 1)}
        for label, n in awake.items():
            drawn = self.pool.draw(bool(label), 9, f"look/{self.number}")
            assert sum(not e.asleep for e in drawn) <= n
            assert sum(e.asleep for e in drawn) <= ceil(self.pool.limits.reexamine * 9)


Rounds.TestCase.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
TestRounds = Rounds.TestCase


def test_the_state_holds_every_kind_of_verdict():
    """What JSON cannot tell apart by itself: enums, tuples and missing fields."""
    labelled = Verdict(Harm.CONTROVERSIAL, False, None, True, False, 4.5, Status.REFUSED)
    entry = replace(failed("a", 0.1 + 0.2), reply="\ud83d", ruling=labelled)
    full, resumed = holding(pool(uniform), entry, failed("b", seed=CANDLE)), pool(uniform)
    resumed.load(json.loads(json.dumps(full.state())))
    assert resumed == full
    assert resumed.entries[entry.key].ruling.reply_harm is Harm.CONTROVERSIAL
    assert attack_of(resumed.entries[entry.key].opening) == "a"
