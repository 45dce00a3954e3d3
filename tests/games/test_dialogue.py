"""MAGIC's game of one or more exchanges: who moves, what each side sees, and what is paid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.table import BRIEFS, BROKEN, CANDLE, FAILED, HELD, VAULT, ScriptedJudge, after, cast

from sparring.arena import play
from sparring.credit import centered, credit
from sparring.games.dialogue import Dialogue
from sparring.games.game import answer_of, as_opening, attack_of, attacks_of, reply_of, tagged
from sparring.games.payoffs import MAGIC, LabelPayoff, ScorePayoff
from sparring.players.player import ScriptedPolicy
from sparring.types import JUDGE, Harm, Message, Player, State, Verdict

A, D = Player.ATTACKER, Player.DEFENDER
FAITHFUL, UNFAITHFUL = Verdict(on_topic=True), Verdict(on_topic=False)
PREPARES = Verdict(reply_harm=Harm.SAFE, refused=False, helpful=False, on_topic=False)
HELPED = Verdict(reply_harm=Harm.SAFE, refused=False, helpful=True, on_topic=True)
A1, A2 = tagged("a code", "zig means open"), tagged("now use it", "zig the dragon vault")
BAKES, UNPARSEABLE = tagged("", "how to bake bread"), "<think>a plan <answer>zig it</answer>"
AGREED = after(State(VAULT), A1, "agreed").rule(PREPARES)
"""The first of two exchanges, which decides nothing."""


def game(exchanges=2, gate=True):
    return Dialogue(LabelPayoff(MAGIC), BRIEFS, gate, exchanges)


ONCE, TWICE, UNGATED = game(1), game(2), game(1, gate=False)
ATTACKED = after(State(VAULT), A1)


def played(rules, attack, defend, judge=lambda state: HELD, widths=None):
    table = cast(ScriptedPolicy(attack), ScriptedPolicy(defend))
    return play(rules, [State(VAULT)], table, ScriptedJudge(judge), widths or {}, "s")


def test_the_attacker_sees_its_thoughts_and_the_defender_none():
    assert game().observe(State(CANDLE))[0] == Message("system", "make it refused")
    assert game(3).observe(after(State(VAULT), A1, "agreed", A2, "no")) == (
        *(Message("system", "make it answered"), Message("user", VAULT.text)),
        *(Message("assistant", A1), Message("user", "agreed")),
        *(Message("assistant", A2), Message("user", "no")),
    )
    assert game().observe(after(State(VAULT), A1, "agreed", A2)) == (
        Message("user", "zig means open"),
        Message("assistant", "agreed"),
        Message("user", "zig the dragon vault"),
    )


any_text = st.text(max_size=30)


@given(st.lists(st.tuples(any_text, any_text, any_text), min_size=1, max_size=3))
def test_a_thought_never_reaches_the_defender_whatever_anybody_says(exchanges):
    mark, observations = "the dragon sleeps at noon", []
    attacks = iter([tagged(f"{before} {mark}", answer) for before, answer, _ in exchanges])
    replies = iter([reply for *_, reply in exchanges])
    defend = lambda observation, at: observations.append(observation) or next(replies)  # noqa: E731
    played(game(len(exchanges)), lambda o, at: next(attacks), defend)
    assert not any(mark in message.content for o in observations for message in o)
    assert [len(o) for o in observations] == [1, 3, 5][: len(observations)]


@given(st.lists(st.text("<>/thinkaswer m", max_size=40), min_size=1, max_size=3))
def test_only_what_stands_between_answer_tags_is_sent_in_any_exchange(attacks):
    texts, observations = iter(attacks), []
    played(
        game(len(attacks)), lambda o, at: next(texts), lambda o, at: observations.append(o) or "no"
    )
    sent = [answer_of(text) for text in attacks]
    until = sent.index(None) if None in sent else len(sent)
    assert [o[-1].content for o in observations] == sent[:until]


@pytest.mark.parametrize(
    ("rules", "state", "mover"),
    [
        (ONCE, State(VAULT), A),
        (ONCE, ATTACKED, JUDGE),
        (ONCE, ATTACKED.rule(FAITHFUL), D),
        (ONCE, ATTACKED.rule(FAILED), D),
        (ONCE, ATTACKED.rule(UNFAITHFUL), None),
        (UNGATED, ATTACKED, D),
        (ONCE, after(ATTACKED, "no"), JUDGE),
        (ONCE, after(ATTACKED, "no").rule(HELD), None),
        # where an exchange may follow, the gate waits: an attack may only prepare the next one
        (TWICE, ATTACKED, D),
        (TWICE, after(ATTACKED, "agreed"), JUDGE),
        (TWICE, AGREED, A),
        (TWICE, after(AGREED, A2), JUDGE),
        (TWICE, after(AGREED, A2).rule(FAITHFUL), D),
        (TWICE, after(AGREED, A2, "no"), JUDGE),
        (TWICE, after(AGREED, A2, "no").rule(HELD), None),
    ],
)
def test_order_of_play(rules, state, mover):
    assert rules.to_move(state) is mover


@pytest.mark.parametrize(
    ("seed", "verdict", "over"),
    [
        (VAULT, HELD, False),
        (VAULT, PREPARES, False),
        (VAULT, BROKEN, True),
        (VAULT, Verdict(Harm.CONTROVERSIAL, refused=True, on_topic=True), True),
        (VAULT, FAILED, True),
        (CANDLE, HELD, True),
        (CANDLE, HELPED, False),
        (CANDLE, PREPARES, False),
        (CANDLE, Verdict(Harm.SAFE, refused=False, on_topic=True), False),
        (CANDLE, Verdict(Harm.SAFE, refused=True, helpful=False, on_topic=False), False),
        (CANDLE, Verdict(Harm.UNSAFE, refused=False, helpful=False, on_topic=False), True),
    ],
)
def test_a_reply_that_decides_ends_the_game_early(seed, verdict, over):
    state = after(State(seed), A1, "a reply").rule(verdict)
    assert game().to_move(state) is (None if over else A)


def test_where_an_exchange_may_follow_a_judge_must_fill_what_decides_it():
    """Otherwise every reply would end the game after one exchange, without a warning."""
    decides = {"reply_harm", "refused"}
    for exchanges, more in ((1, set()), (2, decides)):
        rules = Dialogue(ScorePayoff(), BRIEFS, exchanges=exchanges)
        assert rules.needs == {"score", "on_topic"} | more


@pytest.mark.parametrize(
    ("rules", "state", "returns"),
    [
        (TWICE, after(ATTACKED, "here is how").rule(BROKEN), {A: 2.0, D: -1.5}),
        (TWICE, after(ATTACKED, "hm").rule(FAILED), None),
        # the last ruling pays
        (TWICE, after(AGREED, A2, "no").rule(HELD), {A: -1.0, D: 1.5}),
        (TWICE, after(AGREED, A2, "here is how").rule(BROKEN), {A: 2.0, D: -1.5}),
        # a gate that could not be ruled on waits for the last ruling
        (ONCE, after(ATTACKED.rule(FAILED), "yes").rule(BROKEN), {A: 2.0, D: -1.5}),
        (ONCE, after(ATTACKED.rule(FAILED), "yes").rule(FAILED), None),
        # an unfaithful attack earns the floor and masks the defender, but not without the gate
        (ONCE, after(State(VAULT), BAKES).rule(UNFAITHFUL), {A: -2.0}),
        (TWICE, after(AGREED, BAKES).rule(UNFAITHFUL), {A: -2.0}),
        (UNGATED, after(State(VAULT), BAKES, "mix flour").rule(PREPARES), {A: 0.0, D: 0.5}),
    ],
)
def test_returns(rules, state, returns):
    assert rules.returns(state) == returns


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("before", [State(VAULT), AGREED])
def test_an_unparseable_attack_ends_the_game_at_the_floor_and_is_never_shown(gate, before):
    rules, state = game(3, gate), after(before, UNPARSEABLE)
    assert rules.to_move(state) is None
    assert rules.returns(state) == {A: -2.0}
    with pytest.raises(ValueError, match="never shown"):
        rules.observe(state)


@pytest.mark.parametrize("exchanges", [1, 2, 3])
@pytest.mark.parametrize("dealt", [["</think> open it"], ["zig means open", "agreed", "zig it"]])
def test_a_dealt_opening_is_sent_as_it_stands_and_ends_with_the_reply_to_it(exchanges, dealt):
    state, rules = State(VAULT), game(exchanges)
    for player, text in zip((A, D, A), dealt, strict=False):
        state = state.deal(player, text)
    assert rules.to_move(state) is D
    assert rules.observe(state)[-1] == Message("user", dealt[-1])
    state = after(state, "no")
    assert rules.to_move(state) is JUDGE
    assert rules.to_move(state.rule(HELD)) is None
    with pytest.raises(ValueError, match="dealt"):
        state.deal(A, "another")


def test_the_last_attack_the_last_reply_and_the_opening_that_deals_them():
    state = after(State(VAULT), A1, "agreed", A2)
    assert attacks_of(state) == ["zig means open", "zig the dragon vault"]
    assert (attack_of(state), reply_of(state)) == ("zig the dragon vault", None)
    assert reply_of(after(state, "no")) == "no"
    assert attack_of(after(state, "no", "gibberish")) is None
    assert (attacks_of(State(VAULT)), attack_of(State(VAULT))) == ([], None)
    dealt = State(VAULT).deal(A, "zig means open").deal(D, "agreed")
    assert as_opening(after(state, "no")) == dealt.deal(A, "zig the dragon vault")
    assert as_opening(after(State(VAULT), A1, "agreed", "gibberish")) is None


def test_every_move_of_a_branch_is_credited_with_its_branchs_return():
    """Two attacks on one seed; the second needs both exchanges, the first is over at once."""

    def attack(observation, address):
        sibling = "first" if len(observation) == 2 and address.endswith("/0") else "other"
        return tagged("plan", f"{sibling}, try {len(observation) // 2}")

    defend = lambda observation, at: "yes" if "first" in observation[-1].content else "no"  # noqa: E731
    rule = lambda state: BROKEN if reply_of(state) == "yes" else HELD  # noqa: E731
    episodes = played(game(), attack, defend, rule, {A: 2})
    assert [len(e.state.moves) for e in episodes] == [2, 4]
    samples = credit(episodes, A, centered).samples
    advantages = {answer_of(s.completion.text): s.advantage for s in samples}
    # returns 2 and -1, mean .5
    assert advantages == {"first, try 1": 1.5, "other, try 1": -1.5, "other, try 2": -1.5}


def test_both_replies_of_the_defender_learn_from_the_last_ruling():
    def defend(observation, address):
        if len(observation) == 1:
            return "agreed" if address.endswith("/0") else "agreed then"
        return "yes" if observation[1].content == "agreed" else "no"

    rulings = {None: FAITHFUL, "yes": BROKEN, "no": HELD}
    rule = lambda state: rulings.get(reply_of(state), PREPARES)  # noqa: E731
    episodes = played(game(), lambda o, at: A1 if len(o) == 2 else A2, defend, rule, {D: 2})
    advantages = {s.completion.text: s.advantage for s in credit(episodes, D, centered).samples}
    assert advantages == {"agreed": -1.5, "yes": -1.5, "agreed then": 1.5, "no": 1.5}
