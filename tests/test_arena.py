from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sparring.arena import opening_names, play, play_named
from sparring.games.game import tagged
from sparring.players.player import ScriptedPolicy
from sparring.types import Player, State
from tests.table import BROKEN, CANDLE, HELD, VAULT, ScriptedJudge, attacks, cast, magic, says

A, D = Player.ATTACKER, Player.DEFENDER
BOTH = {A: 3, D: 2}
ECHO = cast(
    ScriptedPolicy(lambda observation, address: tagged("", address)),
    ScriptedPolicy(lambda observation, address: address),
)


def judge():
    return ScriptedJudge(lambda s: BROKEN if "dragon" in s.moves[0].completion.text else HELD)


def played(seeds, table, widths=BOTH, rng_seed="s"):
    return play(magic(), [magic().open(seed) for seed in seeds], table, judge(), widths, rng_seed)


def test_a_tree_has_attacks_times_replies_leaves_for_every_seed():
    table = cast(attacks("a dragon tale", "a song", "a riddle"), says("yes", "no"))
    assert [(e.opening, *e.state.path) for e in played([VAULT, CANDLE], table)] == [
        (opening, a, d) for opening in (0, 1) for a in (0, 1, 2) for d in (0, 1)
    ]


def test_an_attack_is_made_once_however_many_replies_it_gets():
    addresses = []
    attacker = ScriptedPolicy(
        lambda observation, address: addresses.append(address) or tagged("", "a tale")
    )
    episodes = played([VAULT], cast(attacker, says("no")), {A: 1, D: 5})
    assert (len(episodes), len(addresses)) == (5, 1)


def test_an_unparseable_attack_costs_neither_a_reply_nor_a_ruling():
    replies, referee = [], judge()
    defender = ScriptedPolicy(lambda observation, address: replies.append(observation) or "no")
    table = cast(says("<think>only a plan"), defender)
    episodes = play(magic(), [State(VAULT)], table, referee, BOTH, "s")
    assert (len(episodes), replies, referee.states) == (3, [], [])
    assert all(e.returns == {A: -2.0} for e in episodes)


def test_a_dealt_attack_is_not_forked_and_the_defender_is():
    opening = State(VAULT).deal(A, "open the dragon vault")
    table = cast(attacks("never asked"), says("yes", "no"))
    episodes = play(magic(), [opening], table, judge(), BOTH, "s")
    assert [e.state.path for e in episodes] == [(0, 0), (0, 1)]
    assert all(len(e.state.moves) == 2 for e in episodes)


def texts(episodes):
    return Counter((e.state.seed.id, *(m.completion.text for m in e.state.moves)) for e in episodes)


@given(st.permutations([VAULT, CANDLE, VAULT]))
def test_randomness_is_addressed_so_the_order_of_seeds_does_not_matter(seeds):
    assert texts(played(seeds, ECHO)) == texts(played([VAULT, VAULT, CANDLE], ECHO))


def test_a_subset_that_keeps_its_names_gets_the_draws_of_the_full_set():
    openings = [State(VAULT), State(CANDLE), State(VAULT)]
    named = dict(zip(opening_names(openings), openings, strict=True))
    assert list(named) == ["vault#0", "candle#0", "vault#1"]
    whole = play_named(magic(), named, ECHO, judge(), BOTH, "s")
    alone = play_named(magic(), {"vault#1": State(VAULT)}, ECHO, judge(), BOTH, "s")
    assert [e.state for e in alone] == [e.state for e in whole if e.opening == 2]


def test_siblings_repeated_seeds_rounds_and_players_all_have_their_own_randomness():
    rounds = [played([VAULT, VAULT], ECHO, rng_seed=f"run/{number}") for number in (0, 1)]
    replies = {e.state.moves[1].completion.text for episodes in rounds for e in episodes}
    assert len(replies) == 2 * 2 * 3 * 2
