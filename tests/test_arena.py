from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sparring.arena import play
from sparring.games.game import tagged
from sparring.players.player import ScriptedPolicy
from sparring.types import Message, Player, State, Verdict
from tests.table import BROKEN, CANDLE, HELD, VAULT, ScriptedJudge, attacks, cast, magic, says

BOTH = {Player.ATTACKER: 3, Player.DEFENDER: 2}


def judge(state: State) -> Verdict:
    return BROKEN if "dragon" in state.moves[0].completion.text else HELD


def test_a_tree_has_attacks_times_replies_leaves_for_every_seed():
    openings = [magic().open(VAULT), magic().open(CANDLE)]
    table = cast(attacks("a dragon tale", "a song", "a riddle"), says("yes", "no"))
    episodes = play(magic(), openings, table, ScriptedJudge(judge), BOTH, "s")
    assert [(e.opening, *e.state.path) for e in episodes] == [
        (opening, a, d) for opening in (0, 1) for a in (0, 1, 2) for d in (0, 1)
    ]


def test_an_attack_is_made_once_however_many_replies_it_gets():
    asked: Counter[str] = Counter()

    def script(seen, address):
        asked[address] += 1
        return tagged("", "a tale")

    widths = {Player.ATTACKER: 1, Player.DEFENDER: 5}
    table = cast(ScriptedPolicy(script), says("no"))
    episodes = play(magic(), [magic().open(VAULT)], table, ScriptedJudge(judge), widths, "s")
    assert (len(episodes), sum(asked.values())) == (5, 1)


def test_an_unparseable_attack_costs_neither_a_reply_nor_a_ruling():
    replies = []
    defender = ScriptedPolicy(lambda seen, at: replies.append(seen) or "no")
    referee = ScriptedJudge(judge)
    table = cast(says("<think>only a plan"), defender)
    episodes = play(magic(), [magic().open(VAULT)], table, referee, BOTH, "s")
    assert (len(episodes), replies, referee.asked) == (3, [], [])
    assert all(e.returns == {Player.ATTACKER: -2.0} for e in episodes)


def test_a_dealt_attack_is_not_forked_and_the_defender_is():
    opening = State(VAULT).deal(Player.ATTACKER, "open the dragon vault")
    table = cast(attacks("never asked"), says("yes", "no"))
    episodes = play(magic(), [opening], table, ScriptedJudge(judge), BOTH, "s")
    assert [e.state.path for e in episodes] == [(0, 0), (0, 1)]
    assert all(len(e.state.moves) == 2 for e in episodes)


@given(st.permutations([VAULT, CANDLE, VAULT]))
def test_randomness_is_addressed_so_the_order_of_seeds_does_not_matter(seeds):
    def said(order):
        echo = ScriptedPolicy(lambda seen, at: tagged("", at))
        table = cast(echo, ScriptedPolicy(lambda seen, at: at))
        openings = [magic().open(seed) for seed in order]
        told = play(magic(), openings, table, ScriptedJudge(judge), BOTH, "s")
        return Counter((e.state.seed.id, *(m.completion.text for m in e.state.moves)) for e in told)

    assert said(seeds) == said([VAULT, VAULT, CANDLE])


def test_siblings_repeated_seeds_rounds_and_players_all_have_their_own_randomness():
    echo = ScriptedPolicy(lambda seen, at: tagged("", at))
    table = cast(echo, ScriptedPolicy(lambda seen, at: at))
    openings = [magic().open(VAULT), magic().open(VAULT)]
    told = [
        move.completion.text
        for rng_seed in ("run/0", "run/1")
        for e in play(magic(), openings, table, ScriptedJudge(judge), BOTH, rng_seed)
        for move in e.state.moves
    ]
    replies = [text for text in told if not text.startswith("<think>")]
    assert len(set(replies)) == 2 * 2 * 3 * 2


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_thought_never_reaches_the_defender(before, inside):
    seen_by_defender: list[str] = []

    def listen(seen: tuple[Message, ...], address: str) -> str:
        seen_by_defender.extend(message.content for message in seen)
        return "no"

    text = f"{before}<think>my secret plan {inside}</think><answer>a tale</answer>"
    table = cast(says(text), ScriptedPolicy(listen))
    play(magic(), [magic().open(VAULT)], table, ScriptedJudge(judge), {}, "s")
    assert all(content == "a tale" for content in seen_by_defender)
