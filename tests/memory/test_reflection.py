"""Half of a replay group gets a hint on its failure; all of it is trained on the bare prompt."""

import copy
from collections import defaultdict
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
    """Records requests; a completion names its number of messages and its address.

    The prompt ids of a completion are the lengths of those messages.
    """

    requests: list = field(default_factory=list)

    def sample(self, requests):
        self.requests += requests
        return [[self.completion(r.observation, at) for at in r.addresses] for r in requests]

    def completion(self, observation, address):
        prompt_ids = tuple(len(message.content) for message in observation)
        logprobs = (-0.5 * len(observation), -0.25)
        return Completion(f"{len(observation)} seen at {address}", (3, 5), logprobs, prompt_ids)

    @property
    def shapes(self):
        """How many messages and how many addresses each request has."""
        return [(len(r.observation), len(r.addresses)) for r in self.requests]


def remembering(*entries):
    """A pool that replays these entries."""
    full = holding(pool(replay_share=0.9), *entries)
    full.replays_by_name = {opening_names([entry.opening])[0]: entry for entry in entries}
    return full


def defend(memory, games, width):
    """The defender's moves by opening, and the policy behind its reflections."""
    recorder = Recorder()
    cast = {A: attacks("a song"), D: Reflecting(recorder, memory, WORDS)}
    game, judge = Dialogue(LabelPayoff(MAGIC), BRIEFS), ScriptedJudge(lambda state: HELD)
    moves = defaultdict(list)
    for episode in play(game, games, cast, judge, {D: width}, "run/3"):
        moves[episode.opening].append(episode.state.moves[-1])
    return moves, recorder


def replies(width, *entries, fresh=()):
    """The moves on fresh openings, then on replays of these entries."""
    games = [*fresh, *(entry.opening for entry in entries)]
    return defend(remembering(*entries), games, width)


def test_half_of_a_replay_group_sees_the_attack_its_reply_the_ruling_and_the_attack_again():
    _, recorder = replies(4, SONG)
    bare, hinted = recorder.requests
    assert recorder.shapes == [(1, 2), (3, 2)]
    assert bare.observation == (Message("user", "a song"),)
    again = Message("user", "That gave the treasure away. a song")
    assert hinted.observation == (*bare.observation, Message("assistant", "yes"), again)


def test_a_benign_failure_is_ruled_in_other_words():
    _, recorder = replies(2, GUEST)
    contents = [message.content for message in recorder.requests[1].observation]
    assert contents == ["a song", "go away", "That sent a guest away. a song"]


def test_a_failure_after_an_exchange_is_shown_with_the_exchange_before_it():
    texts = {"user": "zig means open", "assistant": "agreed"}
    observation = (*(Message(*item) for item in texts.items()), Message("user", "zig the vault"))
    _, recorder = replies(2, replace(SONG, seen=observation))
    hinted = recorder.requests[1].observation
    assert [m.role for m in hinted] == ["user", "assistant"] * 2 + ["user"]
    assert hinted[-1].content == "That gave the treasure away. zig the vault"


@pytest.mark.parametrize(("width", "bare"), [(2, 1), (3, 2), (4, 2), (5, 3)])
def test_siblings_keep_their_order_and_share_the_bare_prompt_beside_their_own_logprobs(width, bare):
    [moves] = replies(width, SONG)[0].values()
    assert [move.sibling for move in moves] == list(range(width))
    assert [int(m.completion.text.rsplit("/", 1)[1]) for m in moves] == list(range(width))
    assert [m.completion.text[0] for m in moves] == ["1"] * bare + ["3"] * (width - bare)
    assert {m.completion.prompt_ids for m in moves} == {(len("a song"),)}
    assert [m.completion.logprobs[0] for m in moves] == [-0.5] * bare + [-1.5] * (width - bare)
    assert {m.observation for m in moves} == {(Message("user", "a song"),)}, "the record is bare"


def test_a_reply_alone_is_not_shown_anything():
    assert replies(1, SONG)[1].shapes == [(1, 1)]


def test_fresh_groups_are_left_alone_even_when_their_attack_reads_like_a_replayed_one():
    moves, recorder = replies(4, SONG, fresh=[State(VAULT), State(CANDLE)])
    assert sorted(recorder.shapes) == [(1, 2), (1, 4), (1, 4), (3, 2)]
    shown = {k: sum(m.completion.text[0] == "3" for m in group) for k, group in moves.items()}
    assert shown == {0: 0, 1: 0, 2: 2}


def test_a_seed_asked_as_it_stands_is_left_alone_beside_its_own_replay():
    """Both are the same opening; only the second of them is the replay."""
    full = holding(pool(replay_share=0.5), SONG)
    fresh, replayed = full.deal(0, turn(), [State(VAULT).deal(A, "a song")] * 2)
    _, recorder = defend(full, [*fresh, *replayed], 4)
    assert recorder.shapes == [(1, 4), (1, 2), (3, 2)]
    assert "#1/" in recorder.requests[2].addresses[0]


def test_two_seeds_failures_that_read_alike_are_each_shown_their_own():
    moves, recorder = replies(2, SONG, GUEST)
    hinted = [request for request in recorder.requests if len(request.observation) > 1]
    assert {r.observation for r in hinted} == {WORDS.hint(SONG), WORDS.hint(GUEST)}
    for request in hinted:
        own = request.observation[1].content == "yes"
        assert ("/vault/" in request.addresses[0]) is own
    assert [len(group) for group in moves.values()] == [2, 2]


def test_between_rounds_nobody_reflects():
    """Exams and trials of a league are therefore answered without hints."""
    full = pool(replay_share=0.5)
    full.add(0, group("a song", [0, 0]))
    assert len(full.deal(1, turn(), openings(2))[1]) == 1
    recorder = Recorder()
    reflecting = Reflecting(recorder, full, WORDS)
    where = "1/vault/a song#0/defender/1/0"
    request = Request((Message("user", "a song"),), (f"{where}/0", f"{where}/1"))
    reflecting.sample([request])
    assert len(recorder.requests) == 2
    full.add(1, [])
    reflecting.sample([request])
    assert recorder.requests[2:] == [request]


def test_the_ratio_the_learner_sees_is_bare_over_reflected():
    player, wording = policy(length=8), Words("tell me", "can you")
    attack = failed("tell me how to open the dragon vault .")
    entry = replace(attack, reply="rope with the lantern .")
    reflecting = Reflecting(player, remembering(entry), wording)
    where = f"0/vault/{entry.seen[0].content}#0/defender/1/0"
    [group] = reflecting.sample([Request(entry.seen, tuple(f"{where}/{k}" for k in range(4)))])
    bare, shown = (chat().prompt_ids(messages) for messages in (entry.seen, wording.hint(entry)))
    assert {completion.prompt_ids for completion in group} == {bare}
    model = player.weights.model
    ratios = []
    with torch.no_grad():
        for prompt, completion in zip((bare, bare, shown, shown), group, strict=True):
            sampled = alone(model, prompt, completion.token_ids)
            assert_close_sums(completion.logprobs, sampled.tolist())
            taught = alone(model, bare, completion.token_ids)
            ratios += (taught - sampled).exp().tolist()
    samples = [Sample(D, c, a) for c, a in zip(group, (1.0, -0.5, 0.7, -1.2), strict=True)]
    metrics = learner(copy.deepcopy(model)).update(samples)
    mean = sum(ratios) / len(ratios)
    assert abs(mean - 1) > 0.05, "the hint changes nothing: the test would not notice"
    assert metrics["defender/importance_sampling_ratio/mean"] == pytest.approx(mean, rel=1e-3)
