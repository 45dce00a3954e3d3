"""A vLLM server's completions are trained on as drawn, if it serves the learner's weights."""

import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import torch
from tests.engines.vllm_server import serving
from tests.tiny import QWEN2, save_model

from sparring.engines.engine import (
    PROBE_TOKENS,
    PROBES,
    Publishing,
    ServedPolicy,
    digest_of,
    seed_of,
    serves,
)
from sparring.engines.vllm import VllmHere, VllmServer
from sparring.players.chat import Chat
from sparring.players.loading import load_model, load_tokenizer, stop_ids
from sparring.players.logprobs import logprobs, pad
from sparring.players.player import Request, Sampling
from sparring.players.ranks import ALONE, Ranks
from sparring.players.weights import LearningRate, Optimizer, adapters
from sparring.types import Message, Player, SparringError, UsageError

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
A, D = Player.ATTACKER, Player.DEFENDER
REQUESTS = [
    Request((Message("user", text),), addresses)
    for text, addresses in (
        ("open the dragon vault", ("0/a", "0/b", "0/c")),
        ("bake", ()),
        ("mend", ("0/a",)),
    )
]


@cache
def chat_of(path):
    return Chat(load_tokenizer(str(path)), stop_ids(load_model(str(path))))


class Table:
    """The policies of both players, on one server."""

    def __init__(self, path, url, folder, temperature=1.0, keep=4, limit=1e-3, ranks=ALONE):
        base = load_model(str(path))
        self.own = adapters(base, dict.fromkeys(Player, LORA), torch_seed=5)
        self.chat = chat_of(path)
        server = VllmServer(url, str(path), concurrency=3, outage=20, first_pause=0.05)
        self.publishing = Publishing(server, folder, keep, limit, ranks)
        self.sampling = Sampling(temperature, 12)

    def sample(self, player=D, requests=REQUESTS):
        policy = ServedPolicy(self.own[player], self.chat, self.sampling, self.publishing)
        return policy.sample(requests)

    def past(self, player, tensors):
        """The player's completions with past weights in place of its own."""
        with self.own[player].holding(tensors):
            return self.sample(player)

    def learn(self, player=D, rate=1e-2, steps=1):
        """Make real updates that raise the probability of one reply."""
        row = ((3, 40, 41, 42), (50, 51, 52))
        optimizer = Optimizer(self.own[player], LearningRate(rate))
        for _ in range(steps):
            (-logprobs(self.own[player].model, pad([row], [0], 0, "cpu"), 1.0).sum()).backward()
            optimizer.step()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("served") / "qwen2", QWEN2)


@pytest.fixture
def served(path):
    with serving(path) as (vllm, url):
        yield vllm, url


@pytest.fixture
def vllm(served):
    return served[0]


@pytest.fixture
def table_of(path, served, tmp_path):
    def build(name="a", **settings):
        return Table(path, served[1], tmp_path / name, **settings)

    return build


@pytest.fixture
def table(table_of):
    return table_of()


def tokens(rows):
    return [completion.token_ids for row in rows for completion in row]


def furthest(table, player, rows, temperature):
    """The largest difference between the server's and the learner's log-probabilities."""
    drawn = [completion for row in rows for completion in row]
    batch = pad([(c.prompt_ids, c.token_ids) for c in drawn], range(len(drawn)), 0, "cpu")
    with torch.no_grad():
        logp_BT = logprobs(table.own[player].model, batch, temperature)
    pairs = zip(logp_BT.tolist(), drawn, strict=True)
    return max(np.abs(np.subtract(own[: len(c.logprobs)], c.logprobs)).max() for own, c in pairs)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_learner_gets_the_servers_tokens_and_agrees_on_them(table_of, vllm, temperature):
    table = table_of(temperature=temperature)
    table.learn(rate=3e-2)
    rows, chat = table.sample(), table.chat
    assert [len(row) for row in rows] == [3, 0, 1]
    assert furthest(table, D, rows, temperature) < 1e-4
    for request, row in zip(REQUESTS, rows, strict=True):
        for completion in row:
            assert completion.prompt_ids == chat.prompt_ids(request.observation)
            assert completion.text == chat.text(completion.token_ids)
            assert completion.finished == (completion.token_ids[-1] in chat.stop_ids)
            assert completion.version == table.own[D].version == 1
    drawn = [request for request in vllm.requests if request["max_tokens"] == 12]
    addresses = ("0/a", "0/b", "0/c", "0/a")
    assert sorted(request["seed"] for request in drawn) == sorted(map(seed_of, addresses))
    # What a request leaves out a server takes from the model's generation config.
    plain = [drawn[-1][name] for name in ("top_p", "top_k", "repetition_penalty")]
    assert plain == [1.0, 0, 1.0]
    assert drawn[-1]["stop_token_ids"] == sorted(chat.stop_ids)


def test_the_same_address_draws_the_same_on_the_same_weights(table):
    first = table.sample()
    assert table.sample() == first
    assert len({c.token_ids for c in first[0]}) == 3
    table.learn(rate=0.1)
    assert table.sample()[0] != first[0]


class Thread(Ranks):
    """A rank that is a thread of this process."""

    together, values = threading.Barrier(2, timeout=60), [None, None]

    def gather(self, value):
        self.values[self.index] = value
        self.together.wait()
        values = list(self.values)
        self.together.wait()
        return values


def test_of_several_processes_one_publishes_for_all(path, served, tmp_path):
    vllm, url = served
    tables = [Table(path, url, tmp_path / "a", ranks=Thread(n, 2), keep=2) for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for requests in (REQUESTS, [], REQUESTS):  # the second process may have none of its own
            for table in tables:
                table.learn(rate=3e-2)
            shares = [pool.submit(tables[0].sample), pool.submit(tables[1].sample, D, requests)]
            mine, others = [share.result() for share in shares]
            assert others == (mine if requests else [])
    probes = [request for request in vllm.requests if request["max_tokens"] == PROBE_TOKENS]
    assert len(probes) == 3 * len(PROBES)
    assert vllm.most_loaded == 2
    assert sorted(vllm.roots) == sorted(path.name for path in (tmp_path / "a").iterdir())


@pytest.mark.parametrize(("many", "launcher"), [(True, "external_launcher"), (False, None)])
def test_an_engine_in_process_runs_on_the_device_of_its_own_rank(monkeypatch, many, launcher):
    """A launcher's processes would all take the first device; vLLM reads their local ranks."""
    settings = []
    fake = types.ModuleType("vllm")
    fake.LLM = lambda **named: (
        settings.append(named)
        or types.SimpleNamespace(llm_engine=types.SimpleNamespace(add_lora=settings.append))
    )
    request = types.ModuleType("vllm.lora.request")
    request.LoRARequest = lambda *args: args
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setitem(sys.modules, "vllm.lora.request", request)
    monkeypatch.setattr("sparring.engines.vllm.find_spec", lambda name: True)
    VllmHere("base", 4, 2, 0.4, one_of_many=many).load("defender-v1", "folder")
    assert settings[0]["distributed_executor_backend"] == launcher
    assert settings[1] == ("defender-v1", 1, "folder")


def test_no_request_sends_nothing(table, vllm):
    assert table.sample(requests=[]) == []
    assert table.sample(requests=[REQUESTS[1]]) == [[]]
    assert not vllm.requests
    assert not vllm.roots


def heads(vllm):
    return [name.rsplit("-", 1)[0] for name in vllm.roots]


def test_every_version_has_a_name_of_its_own(table, vllm):
    for player in Player:
        table.sample(player)
    table.learn()
    table.sample()
    table.sample()
    assert heads(vllm) == ["attacker-v0", "defender-v0", "defender-v1"]
    table.own[D].load({n: t + 0.25 for n, t in table.own[D].snapshot().items()})
    table.sample()  # the same version, reached by another way
    assert heads(vllm)[2:] == ["defender-v1", "defender-v1"]
    assert len(set(vllm.roots.values())) == len(set(vllm.roots)) == 4


def test_a_past_self_is_published_under_its_own_name_and_the_present_one_stays(table, vllm):
    table.learn(rate=0.1)
    past = table.own[D].snapshot()
    table.learn(rate=0.1, steps=3)
    present = table.sample()
    assert table.past(D, past) != present
    assert heads(vllm) == ["defender-v4", "defender-past"]
    assert table.sample() == present
    assert len(vllm.roots) == 2


def test_adapters_that_differ_in_scale_or_run_alone_have_different_digests(table, tmp_path):
    digests = {digest_of(table.own[D], tmp_path), digest_of(table.own[D], tmp_path / "other")}
    table.own[D].model.peft_config["defender"].lora_alpha = 9
    assert len(digests | {digest_of(table.own[D], tmp_path)}) == 3


@pytest.mark.parametrize("keep", [2, 3])
def test_at_most_so_many_adapters_are_loaded_and_the_longest_unused_one_leaves(
    table_of, vllm, tmp_path, keep
):
    table = table_of(keep=keep)
    for _ in range(3):
        for player in Player:
            table.sample(player)
        table.learn()
    assert vllm.most_loaded == keep
    assert "attacker-v0" in heads(vllm), "it sampled every round"
    assert {p.name for p in (tmp_path / "a").iterdir()} == set(vllm.roots)


def test_an_evicted_adapter_comes_back_under_its_name(table_of, vllm):
    table = table_of(keep=2)
    first, begun, name = table.sample(), table.own[D].snapshot(), next(iter(vllm.roots))
    for _ in range(2):
        table.learn(rate=0.1)
        table.sample()
    assert name not in vllm.roots
    table.own[D].load(begun)
    assert tokens(table.sample()) == tokens(first)
    assert name in vllm.roots


@pytest.mark.parametrize(("rate", "noise", "limit"), [(0.1, 0.0, 1e-3), (1e-3, 1e-4, 0.05)])
@pytest.mark.parametrize("between", [False, True], ids=["", "a past self in between"])
def test_a_server_that_serves_the_version_before_is_refused(
    table_of, vllm, rate, noise, limit, between
):
    """Also where an update moves the probe by less than the limit allows, and rounding blurs it:
    the direction tells. A past self that samples in between hides no stale adapter."""
    vllm.noise = noise
    table = table_of(limit=limit)
    past = {name: t + 0.05 for name, t in table.own[D].snapshot().items()}
    table.learn(rate=rate)
    table.sample()
    (present,) = vllm.roots
    if between:
        table.past(D, past)
    vllm.stale = present
    table.learn(rate=rate)
    before = len(vllm.requests)
    with pytest.raises(SparringError, match=rf"it serves the version before it.*limit {limit:g}"):
        table.sample()
    probes = {request["max_tokens"] for request in vllm.requests[before:]}
    assert probes == {PROBE_TOKENS}, "nothing was sampled from it"


def test_a_server_that_ignores_the_adapter_is_refused(table, vllm):
    table.learn(rate=0.1)
    vllm.deaf_to_adapters = True
    with pytest.raises(SparringError, match="base model without an adapter"):
        table.sample()


def test_a_server_that_is_merely_inexact_is_held_to_the_limit(table_of, vllm):
    vllm.noise = 0.01
    table = table_of(limit=0.05)
    table.sample()
    (difference,) = table.publishing.differences.values()
    assert difference == pytest.approx(0.01 * (2 / np.pi) ** 0.5, rel=0.4)  # mean |N(0, 0.01)|
    with pytest.raises(SparringError, match=r"serves something else.*limit 0.001"):
        table_of("b").sample()


def test_log_probabilities_at_another_temperature_are_refused_with_the_flag_to_set(table_of, vllm):
    vllm.raw_logprobs = True
    with pytest.raises(SparringError, match="--logprobs-mode processed_logprobs"):
        table_of(temperature=0.7).sample()


def test_what_a_killed_run_left_is_unloaded_before_anything_is_published(table_of, vllm, tmp_path):
    first = table_of()
    first.learn()
    first.sample()
    (left,) = vllm.roots
    table_of().sample()
    assert left not in vllm.roots
    assert [p.name for p in (tmp_path / "a").iterdir()] == list(vllm.roots)
    assert len(vllm.roots) == 1


def test_a_busy_server_is_tried_again_and_one_that_stays_away_ends_the_run(table, vllm):
    vllm.busy = 2
    assert table.sample()[0]
    vllm.busy, engine = 10**6, table.publishing.engine
    table.publishing.engine = VllmServer(
        engine.base_url, engine.model, outage=0.3, first_pause=0.05
    )
    with pytest.raises(SparringError, match=r"has not answered for 0 s.*503.*--resume"):
        table.sample()


def changed(key, value):
    def spoil(response):
        choice = response["choices"][0]
        choice[key] = value(choice[key])
        return response

    return spoil


SPOILED = {
    "no token ids": (changed("token_ids", lambda _: None), "no token ids"),
    "no log-probabilities": (changed("logprobs", lambda _: None), "0 log-probabilities"),
    "too few": (changed("token_ids", lambda ids: [*ids, 5]), "log-probabilities came back"),
    "not a number": (
        changed("logprobs", lambda _: {"token_logprobs": [float("nan")] * 16}),
        "a number at most 0",
    ),
    "another prompt": (changed("prompt_token_ids", lambda ids: ids[1:]), "other tokens"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOILED.values(), ids=SPOILED)
def test_an_answer_that_cannot_be_trained_on_is_refused(table, vllm, spoil, why):
    vllm.spoil = spoil
    with pytest.raises(UsageError, match=why):
        table.sample()


def test_errors_name_the_server_its_words_and_what_to_do(table, path, served, tmp_path):
    table.publishing.engine.model = "Qwen/Qwen2.5-7B"
    with pytest.raises(UsageError, match=r"has no Qwen/Qwen2\.5-7B; it has: .*qwen2"):
        table.sample()
    no_adapter = r"lora_adapter says 404 No adapter.*RUNTIME_LORA_UPDATING"
    with pytest.raises(UsageError, match=no_adapter):
        VllmServer(served[1], str(path)).load("defender-v3", tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"wanted http\(s\)://HOST"):
        VllmServer("127.0.0.1:8000", str(path))


def test_which_weights_are_served_is_seen_through_the_rounding():
    """Over 64 tokens rounded by 0.01 nats, an update of 0.02 nats is noticed, one of 0.002 not."""
    rng = np.random.default_rng(7)
    own, noise = rng.normal(-2, 1, 64), rng.normal(0, 0.01, 64)
    other, near = own + rng.normal(0, 0.02, 64), own + rng.normal(0, 0.002, 64)
    assert serves(other + noise, own, other)
    assert not serves(own + noise, own, other)
    assert not serves(near + noise, own, near)
    assert not serves(own, own, own)
