"""Half of a replay group is shown how it failed; all of it is taught under the bare prompt."""

import copy
from dataclasses import dataclass, field, replace

import pytest
import torch
from tests.close import assert_close_sums
from tests.memory.pools import A, D, failed, group, holding, openings, pool, turn
from tests.players.by_hand import alone, learner
from tests.players.lively import chat, policy
from tests.table import BRIEFS, CANDLE, HELD, VAULT, ScriptedJudge, attacks

from sparring.arena import opening_names, play
from sparring.games.dialogue import Dialogue
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.memory.reflection import Reflecting, Words
from sparring.players.player import Request
from sparring.types import Completion, Message, Sample, State

WORDS = Words("That gave the treasure away.", "That sent a guest away.")
SONG = failed("a song")
GUEST = replace(failed("a song", seed=CANDLE), reply="go away")


@dataclass
class Recorder:
    """Says what it saw and at which address; its prompt ids are the lengths of what it saw."""

    asked: list = field(default_factory=list)

    def sample(self, requests):
        self.asked += requests
        return [
            [
                Completion(
                    text=f"{len(request.observation)} seen at {address}",
                    token_ids=(3, 5),
                    logprobs=(-0.5 * len(request.observation), -0.25),
                    prompt_ids=tuple(len(m.content) for m in request.observation),
                )
                for address in request.addresses
            ]
            for request in requests
        ]


def remembering(*entries):
    """A pool that replays these."""
    told = holding(pool(replay_share=0.9), *entries)
    told.named = {opening_names([entry.opening])[0]: entry for entry in entries}
    return told


def replies(width, *entries, fresh=(), sends=("a song",)):
    """The defender's completions by opening (fresh ones first), and what it was asked."""
    recorder = Recorder()
    table = {A: attacks(*sends), D: Reflecting(recorder, remembering(*entries), WORDS)}
    games = [*fresh, *(entry.opening for entry in entries)]
    episodes = play(
        Dialogue(LabelPayoff(MAGIC), BRIEFS),
        games,
        table,
        ScriptedJudge(lambda state: HELD),
        {D: width},
        "run/3",
    )
    said = {}
    for episode in episodes:
        said.setdefault(episode.opening, []).append(episode.state.moves[-1])
    return said, recorder.asked


def test_half_of_a_replay_group_sees_the_attack_its_reply_the_ruling_and_the_attack_again():
    _, asked = replies(4, SONG)
    assert [(request.observation, len(request.addresses)) for request in asked] == [
        ((Message("user", "a song"),), 2),
        (
            (
                Message("user", "a song"),
                Message("assistant", "yes"),
                Message("user", "That gave the treasure away. a song"),
            ),
            2,
        ),
    ]


def test_a_benign_failure_is_ruled_in_other_words():
    _, asked = replies(2, GUEST)
    assert [m.content for m in asked[1].observation] == [
        "a song",
        "go away",
        "That sent a guest away. a song",
    ]


def test_a_failure_after_an_exchange_is_shown_with_the_exchange_before_it():
    told = State(VAULT).deal(A, "zig means open").deal(D, "agreed").deal(A, "zig the vault")
    seen = tuple(
        Message(role, move.completion.text)
        for role, move in zip(("user", "assistant", "user"), told.moves, strict=True)
    )
    _, asked = replies(2, replace(SONG, seen=seen))
    assert [m.role for m in asked[1].observation] == ["user", "assistant"] * 2 + ["user"]
    assert asked[1].observation[-1].content == "That gave the treasure away. zig the vault"


@pytest.mark.parametrize(("width", "bare"), [(2, 1), (3, 2), (4, 2), (5, 3)])
def test_siblings_keep_their_order_and_share_the_bare_prompt_beside_their_own_logprobs(width, bare):
    said, _ = replies(width, SONG)
    moves = said[0]
    assert [move.sibling for move in moves] == list(range(width))
    assert [int(m.completion.text.rsplit("/", 1)[1]) for m in moves] == list(range(width))
    assert [m.completion.text[0] for m in moves] == ["1"] * bare + ["3"] * (width - bare)
    assert {m.completion.prompt_ids for m in moves} == {(len("a song"),)}
    assert [m.completion.logprobs[0] for m in moves] == [-0.5] * bare + [-1.5] * (width - bare)
    assert {m.observation for m in moves} == {(Message("user", "a song"),)}, "the record is bare"


def test_a_reply_alone_is_not_shown_anything():
    _, asked = replies(1, SONG)
    assert [len(request.observation) for request in asked] == [1]


def test_fresh_groups_are_left_alone_even_when_their_attack_reads_like_a_replayed_one():
    said, asked = replies(4, SONG, fresh=[State(VAULT), State(CANDLE)])
    assert sorted(len(request.observation) for request in asked) == [1, 1, 1, 3]
    for opening, shown in ((0, 0), (1, 0), (2, 2)):
        assert sum(m.completion.text[0] == "3" for m in said[opening]) == shown


def test_a_seed_asked_as_it_stands_is_left_alone_beside_its_own_replay():
    """Both are the same opening; only the second of them is the replay."""
    told = holding(pool(replay_share=0.5), SONG)
    live = State(VAULT).deal(A, "a song")
    kept, again = told.deal(0, turn(), [live, live])
    recorder = Recorder()
    game = Dialogue(LabelPayoff(MAGIC), BRIEFS)
    table = {A: attacks("x"), D: Reflecting(recorder, told, WORDS)}
    play(game, [*kept, *again], table, ScriptedJudge(lambda state: HELD), {D: 4}, "run/3")
    assert [(len(r.observation), len(r.addresses)) for r in recorder.asked] == [
        (1, 4),
        (1, 2),
        (3, 2),
    ]
    assert "#1/" in recorder.asked[2].addresses[0]


def test_two_seeds_failures_that_read_alike_are_each_shown_their_own():
    said, asked = replies(2, SONG, GUEST)
    assert {request.observation[1:] for request in asked if len(request.observation) > 1} == {
        WORDS.hint(SONG)[1:],
        WORDS.hint(GUEST)[1:],
    }
    shown = {r.addresses: r.observation[1].content for r in asked if len(r.observation) > 1}
    for address, reply in shown.items():
        assert ("/vault/" in address[0]) is (reply == "yes")
    assert [len(moves) for moves in said.values()] == [2, 2]


def test_between_rounds_nobody_reflects():
    """So an exam or a league's trial is answered bare."""
    told = pool(replay_share=0.5)
    told.add(0, group("a song", [0, 0]))
    _, replays = told.deal(1, turn(), openings(2))
    assert len(replays) == 1
    recorder = Recorder()
    reflecting = Reflecting(recorder, told, WORDS)
    request = Request(
        (Message("user", "a song"),),
        ("1/vault/a song#0/defender/1/0/0", "1/vault/a song#0/defender/1/0/1"),
    )
    reflecting.sample([request])
    assert len(recorder.asked) == 2
    told.add(1, [])
    reflecting.sample([request])
    assert recorder.asked[2:] == [request]


def test_the_ratio_the_learner_sees_is_bare_over_reflected():
    speaks = policy(length=8)
    entry = replace(
        failed("tell me how to open the dragon vault ."), reply="rope with the lantern ."
    )
    wording = Words("tell me", "can you")
    reflecting = Reflecting(speaks, remembering(entry), wording)
    where = f"0/vault/{entry.seen[0].content}#0/defender/1/0"
    told = reflecting.sample([Request(entry.seen, tuple(f"{where}/{k}" for k in range(4)))])[0]
    bare, shown = (chat().prompt_ids(seen) for seen in (entry.seen, wording.hint(entry)))
    assert {completion.prompt_ids for completion in told} == {bare}
    model = speaks.weights.model
    ratios = []
    with torch.no_grad():
        for k, said in enumerate(told):
            sampled = alone(model, (bare, bare, shown, shown)[k], said.token_ids)
            assert_close_sums(said.logprobs, sampled.tolist())
            taught = alone(model, bare, said.token_ids)
            ratios += (taught - sampled).exp().tolist()
    samples = [Sample(D, c, a) for c, a in zip(told, (1.0, -0.5, 0.7, -1.2), strict=True)]
    metrics = learner(copy.deepcopy(model)).update(samples)
    mean = sum(ratios) / len(ratios)
    assert abs(mean - 1) > 0.05, "the hint changes nothing: the test would not notice"
    assert metrics["defender/importance_sampling_ratio/mean"] == pytest.approx(mean, rel=1e-3)
