"""Shared by the tests of the memory: pools, and groups of replies with chosen outcomes."""

from tests.table import CANDLE, VAULT, after

from sparring.games.game import tagged
from sparring.games.payoffs import ScorePayoff
from sparring.memory.experience import Entry, ExperiencePool, PoolLimits, ucb
from sparring.types import Episode, Message, Player, State, Turn, Verdict

A, D = Player.ATTACKER, Player.DEFENDER
PAYOFF = ScorePayoff()


def turn(attacks=1, replies=4, learns=(D,)):
    return Turn(frozenset(learns), {A: attacks, D: replies})


def pool(sampler=None, **rules):
    return ExperiencePool(PAYOFF.held, sampler or ucb(0.5), PoolLimits(**rules), "7/replay")


def verdict(u):
    """The verdict that gives the defender this u, in [0, 1]; None is unscored."""
    return Verdict(score=None if u is None else 5 - 4 * u)


def answered(state, opening, us):
    """An episode with one reply to the last attack for each u."""
    for k, u in enumerate(us):
        over = after(state, f"reply {k}", sibling=k).rule(verdict(u))
        yield Episode(over, opening, PAYOFF(state.seed, verdict(u)))


def group(attack, us, opening=0, seed=VAULT, sibling=0):
    """The replies to a live attack."""
    attacked = after(State(seed), tagged("plan", attack), sibling=sibling)
    return list(answered(attacked, opening, us))


def replayed(pool, us):
    """The replies to every replay of this round; `us(entry)` has their outcomes."""
    return [
        episode
        for opening, entry in pool.replays_by_opening.items()
        for episode in answered(entry.opening, opening, us(entry))
    ]


def failed(attack, mean=0.25, visits=0, asleep=False, seed=VAULT):
    """A pool entry for this attack with this mean u and number of visits."""
    return Entry(seed, (Message("user", attack),), "yes", verdict(mean), mean, visits, asleep)


def holding(pool, *entries, visits=0):
    """The pool with these entries in it."""
    pool.entries, pool.visits = {entry.key: entry for entry in entries}, visits
    return pool


def only(pool):
    """The only entry of a pool."""
    (entry,) = pool.entries.values()
    return entry


def openings(n):
    """`n` openings of each label, harmful first."""
    return [State(seed) for seed in (VAULT, CANDLE) for _ in range(n)]
