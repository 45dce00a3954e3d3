"""A vLLM server's words are trained on as they were said, if it serves the learner's weights."""

import numpy as np
import pytest
import torch
from tests.engines.vllm_server import serving
from tests.tiny import QWEN2, save_model

from sparring.engines.engine import Publishing, ServedPolicy, digest_of, seed_of, serves
from sparring.engines.vllm import VllmServer
from sparring.players.chat import Chat
from sparring.players.loading import load_model, load_tokenizer, stop_ids
from sparring.players.logprobs import logprobs, pad
from sparring.players.player import Request, Sampling
from sparring.players.weights import LearningRate, Optimizer, adapters
from sparring.types import Message, Player, SparringError, UsageError

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
A, D = Player.ATTACKER, Player.DEFENDER


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("served") / "qwen2", QWEN2)


@pytest.fixture
def served(path):
    with serving(path) as (vllm, url):
        yield vllm, url


class Table:
    """Both players' policies on one server."""

    def __init__(self, path, url, folder, temperature=1.0, keep=4, limit=1e-3):
        base = load_model(str(path))
        self.own = adapters(base, dict.fromkeys(Player, LORA), torch_seed=5)
        chat = Chat(load_tokenizer(str(path)), stop_ids(base))
        server = VllmServer(url, str(path), concurrency=3, outage=20, first_pause=0.05)
        self.publishing = Publishing(server, folder, keep, limit)
        sampling = Sampling(temperature, 12)
        self.policy = {
            p: ServedPolicy(self.own[p], chat, sampling, self.publishing) for p in Player
        }

    def past(self, player, tensors):
        """What the player says with other weights in the place of its own."""
        with self.own[player].holding(tensors):
            return self.policy[player].sample(REQUESTS)

    def learn(self, player, rate=1e-2, steps=1):
        """Real updates, towards one reply."""
        row = ((3, 40, 41, 42), (50, 51, 52))
        optimizer = Optimizer(self.own[player], LearningRate(rate))
        for _ in range(steps):
            (-logprobs(self.own[player].model, pad([row], [0], 0, "cpu"), 1.0).sum()).backward()
            optimizer.step()


@pytest.fixture
def table(path, served, tmp_path):
    return Table(path, served[1], tmp_path / "adapters")


def asked(text, *addresses):
    return Request((Message("user", text),), addresses)


REQUESTS = [
    asked("open the dragon vault", "0/a", "0/b", "0/c"),
    asked("bake"),
    asked("mend", "0/a"),
]


def furthest(table, player, said, temperature):
    """The largest difference between what the server and what the learner say of the tokens."""
    told = [c for row in said for c in row]
    batch = pad([(c.prompt_ids, c.token_ids) for c in told], range(len(told)), 0, "cpu")
    with torch.no_grad():
        logp_BT = logprobs(table.own[player].model, batch, temperature)
    pairs = zip(logp_BT.tolist(), told, strict=True)
    return max(np.abs(np.subtract(own[: len(c.logprobs)], c.logprobs)).max() for own, c in pairs)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_learner_is_shown_the_servers_tokens_and_agrees_on_them(
    path, served, tmp_path, temperature
):
    vllm, url = served
    table = Table(path, url, tmp_path / "a", temperature)
    table.learn(D, rate=3e-2)
    said = table.policy[D].sample(REQUESTS)
    assert [len(row) for row in said] == [3, 0, 1]
    assert furthest(table, D, said, temperature) < 1e-4
    chat = table.policy[D].chat
    for request, row in zip(REQUESTS, said, strict=True):
        for completion in row:
            assert completion.prompt_ids == chat.prompt_ids(request.observation)
            assert completion.text == chat.text(completion.token_ids)
            assert completion.finished == (completion.token_ids[-1] in chat.stop_ids)
            assert completion.version == table.own[D].version == 1
    drawn = [told for told in vllm.requests if told["max_tokens"] == 12]
    assert sorted(told["seed"] for told in drawn) == sorted(
        seed_of(address) for address in ("0/a", "0/b", "0/c", "0/a")
    )


def test_the_same_address_says_the_same_on_the_same_weights(table):
    first = table.policy[D].sample(REQUESTS)
    assert table.policy[D].sample(REQUESTS) == first
    assert len({c.token_ids for c in first[0]}) == 3
    table.learn(D, rate=0.1)
    assert table.policy[D].sample(REQUESTS)[0] != first[0]


def test_nothing_asked_is_nothing_sent(table, served):
    assert table.policy[D].sample([]) == []
    assert table.policy[D].sample([asked("bake")]) == [[]]
    assert not served[0].requests
    assert not served[0].roots


def test_a_server_is_told_everything_that_it_would_take_from_the_models_generation_config(
    table, served
):
    table.policy[D].sample(REQUESTS)
    told = served[0].requests[-1]
    assert (told["top_p"], told["top_k"], told["repetition_penalty"]) == (1.0, 0, 1.0)
    assert told["stop_token_ids"] == sorted(table.policy[D].chat.stop_ids)


def test_every_version_has_a_name_of_its_own(table, served):
    vllm, _ = served
    for player in Player:
        table.policy[player].sample(REQUESTS)
    table.learn(D)
    table.policy[D].sample(REQUESTS)
    table.policy[D].sample(REQUESTS)
    heads = [name.rsplit("-", 1)[0] for name in vllm.roots]
    assert heads == ["attacker-v0", "defender-v0", "defender-v1"]
    assert len(set(vllm.roots.values())) == 3


def test_the_same_version_reached_by_another_way_has_another_name(table, served):
    table.learn(D)
    table.policy[D].sample(REQUESTS)
    table.own[D].load({n: t + 0.25 for n, t in table.own[D].snapshot().items()})
    table.policy[D].sample(REQUESTS)
    names = list(served[0].roots)
    assert [name.rsplit("-", 1)[0] for name in names] == ["defender-v1", "defender-v1"]
    assert names[0] != names[1]


def test_a_past_self_is_published_under_its_own_name_and_the_present_one_stays(table, served):
    vllm, _ = served
    table.learn(D, rate=0.1)
    kept = table.own[D].snapshot()
    table.learn(D, rate=0.1, steps=3)
    present = table.policy[D].sample(REQUESTS)
    past = table.past(D, kept)
    assert past != present
    assert [n.rsplit("-", 1)[0] for n in vllm.roots] == ["defender-v4", "defender-past"]
    assert table.policy[D].sample(REQUESTS) == present
    assert len(vllm.roots) == 2


def test_what_is_told_apart_by_its_scale_or_its_run_alone_has_another_digest(table, tmp_path):
    found = [digest_of(table.own[D], tmp_path), digest_of(table.own[D], tmp_path / "other")]
    table.own[D].model.peft_config["defender"].lora_alpha = 9
    found.append(digest_of(table.own[D], tmp_path))
    assert len(set(found)) == 3


@pytest.mark.parametrize("keep", [2, 3])
def test_at_most_so_many_adapters_are_loaded_and_the_longest_unused_one_leaves(
    path, served, tmp_path, keep
):
    vllm, url = served
    table = Table(path, url, tmp_path / "a", keep=keep)
    for _ in range(4):
        for player in Player:
            table.policy[player].sample(REQUESTS)
        table.learn(D)
    assert vllm.most_loaded == keep
    assert any(name.startswith("attacker-v0") for name in vllm.roots), "asked for every round"
    assert {p.name for p in (tmp_path / "a").iterdir()} == set(vllm.roots)


def test_an_evicted_adapter_comes_back_under_its_name(path, served, tmp_path):
    table = Table(path, served[1], tmp_path / "a", keep=2)
    first = table.policy[D].sample(REQUESTS)
    kept, name = table.own[D].snapshot(), next(iter(served[0].roots))
    for _ in range(2):
        table.learn(D, rate=0.1)
        table.policy[D].sample(REQUESTS)
    assert name not in served[0].roots
    assert table.past(D, kept)[0] != table.policy[D].sample(REQUESTS)[0]
    table.own[D].load(kept)
    assert [c.token_ids for c in table.policy[D].sample(REQUESTS)[0]] == [
        c.token_ids for c in first[0]
    ]
    assert name in served[0].roots


def test_a_server_that_serves_the_version_before_is_refused(table, served):
    table.learn(D, rate=0.1)
    table.policy[D].sample(REQUESTS)
    (served[0].stale,) = served[0].roots
    table.learn(D, rate=0.1)
    before = len(served[0].requests)
    with pytest.raises(SparringError, match="it serves the version before it"):
        table.policy[D].sample(REQUESTS)
    assert all(told["max_tokens"] != 12 for told in served[0].requests[before:])


def test_a_stale_adapter_is_seen_below_the_limit_and_below_the_rounding(path, served, tmp_path):
    """One small update moves the probe by less than the limit allows; the direction tells."""
    vllm, url = served
    vllm.noise = 1e-4
    table = Table(path, url, tmp_path / "a", limit=0.05)
    table.policy[D].sample(REQUESTS)
    table.learn(D, rate=1e-3)
    table.policy[D].sample(REQUESTS)
    vllm.stale = list(vllm.roots)[-1]
    table.learn(D, rate=1e-3)
    with pytest.raises(SparringError, match=r"version before it.*limit 0.05"):
        table.policy[D].sample(REQUESTS)


def test_a_past_self_between_two_versions_hides_no_stale_one(path, served, tmp_path):
    vllm, url = served
    table = Table(path, url, tmp_path / "a", limit=0.05)
    kept = {name: t + 0.05 for name, t in table.own[D].snapshot().items()}
    table.learn(D, rate=1e-3)
    table.policy[D].sample(REQUESTS)
    (present,) = vllm.roots
    table.past(D, kept)
    vllm.stale = present
    table.learn(D, rate=1e-3)
    with pytest.raises(SparringError, match="serves the version before it"):
        table.policy[D].sample(REQUESTS)


def test_a_server_that_ignores_the_adapter_is_refused(table, served):
    table.learn(D, rate=0.1)
    served[0].deaf_to_adapters = True
    with pytest.raises(SparringError, match="base model without an adapter"):
        table.policy[D].sample(REQUESTS)


def test_a_server_that_is_merely_inexact_is_held_to_the_limit(path, served, tmp_path):
    vllm, url = served
    vllm.noise = 0.01
    table = Table(path, url, tmp_path / "a", limit=0.05)
    table.policy[D].sample(REQUESTS)
    (found,) = table.publishing.differences.values()
    assert found == pytest.approx(0.01 * (2 / np.pi) ** 0.5, rel=0.4)  # the mean of |N(0, 0.01)|
    with pytest.raises(SparringError, match=r"serves something else.*limit 0.001"):
        Table(path, url, tmp_path / "b", limit=1e-3).policy[D].sample(REQUESTS)


def test_log_probabilities_at_another_temperature_are_refused_with_the_flag_to_set(
    path, served, tmp_path
):
    served[0].raw_logprobs = True
    with pytest.raises(SparringError, match="--logprobs-mode processed_logprobs"):
        Table(path, served[1], tmp_path / "a", temperature=0.7).policy[D].sample(REQUESTS)


def test_what_a_killed_run_left_is_unloaded_before_anything_is_published(path, served, tmp_path):
    vllm, url = served
    first = Table(path, url, tmp_path / "a")
    first.learn(D)
    first.policy[D].sample(REQUESTS)
    (left,) = vllm.roots
    again = Table(path, url, tmp_path / "a")
    again.policy[D].sample(REQUESTS)
    assert left not in vllm.roots
    assert len(vllm.roots) == 1
    assert [p.name for p in (tmp_path / "a").iterdir()] == list(vllm.roots)


def test_a_busy_server_is_asked_again_and_one_that_stays_away_ends_the_run(table, served):
    served[0].busy = 2
    assert table.policy[D].sample(REQUESTS)[0]
    served[0].busy, engine = 10**6, table.publishing.engine
    table.publishing.engine = VllmServer(
        engine.base_url, engine.model, outage=0.3, first_pause=0.05
    )
    with pytest.raises(SparringError, match=r"has not answered for 0 s.*503.*--resume"):
        table.policy[D].sample(REQUESTS)


def without(key):
    def spoil(told):
        del told["choices"][0][key]
        return told

    return spoil


def changed(key, value):
    def spoil(told):
        told["choices"][0][key] = value(told["choices"][0][key])
        return told

    return spoil


SPOILED = {
    "no token ids": (without("token_ids"), "no token ids"),
    "no log-probabilities": (changed("logprobs", lambda _: None), "0 log-probabilities"),
    "one missing": (changed("token_ids", lambda ids: [*ids, 5]), "log-probabilities came back"),
    "not a number": (
        changed("logprobs", lambda told: {"token_logprobs": [float("nan")] * 16}),
        "a number at most 0",
    ),
    "another prompt": (changed("prompt_token_ids", lambda ids: ids[1:]), "other tokens"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOILED.values(), ids=SPOILED)
def test_an_answer_that_cannot_be_trained_on_is_refused(table, served, spoil, why):
    served[0].spoil = spoil
    with pytest.raises(UsageError, match=why):
        table.policy[D].sample(REQUESTS)


def test_errors_name_the_server_what_it_said_and_what_to_do(path, served, tmp_path):
    _, url = served
    elsewhere = Table(path, url, tmp_path / "a")
    elsewhere.publishing.engine.model = "Qwen/Qwen2.5-7B"
    with pytest.raises(UsageError, match=r"has no Qwen/Qwen2\.5-7B; it has: .*qwen2"):
        elsewhere.policy[D].sample(REQUESTS)
    with pytest.raises(
        UsageError, match=r"lora_adapter says 404 No adapter.*RUNTIME_LORA_UPDATING"
    ):
        VllmServer(url, str(path)).load("defender-v3", tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"wanted http\(s\)://HOST"):
        VllmServer("127.0.0.1:8000", str(path))


def test_who_serves_what_is_told_through_the_rounding():
    """64 tokens, rounding 0.01 nats; an update of 0.02 nats is told, one of 0.002 is not."""
    rng = np.random.default_rng(7)
    own, noise = rng.normal(-2, 1, 64), rng.normal(0, 0.01, 64)
    other = own + rng.normal(0, 0.02, 64)
    assert serves(other + noise, own, other)
    assert not serves(own + noise, own, other)
    near = own + rng.normal(0, 0.002, 64)
    assert not serves(near + noise, own, near)
    assert not serves(own, own, own)
