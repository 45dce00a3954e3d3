"""What goes to a Tinker service and what comes back, by the names of the package's version 0.3.0.

The package itself and a real service: `examples/tinker_round.py`, described in docs/scaling.md.
"""

import copy
import json
import math
import sys
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from tests.close import assert_close_sums
from tests.engines.tinker_double import Double
from tests.engines.tinker_package import Package, TinkerError, archive
from tests.players.by_hand import assert_trained_alike, learner, samples, tiny
from tests.tiny import QWEN2, tokenizer

from sparring.engines import tinker
from sparring.engines.engine import Decoding, SeededPrompt, seed_of
from sparring.engines.remote import RemoteGrpo, RemotePolicy
from sparring.engines.tinker import TinkerService, unpacked
from sparring.players.chat import Chat
from sparring.players.grpo import GrpoConfig
from sparring.players.player import Request, Sampling
from sparring.players.weights import LearningRate, Optimizer, Weights
from sparring.types import Message, SparringError, UsageError

RATE = LearningRate(2e-3)
URL = "http://127.0.0.1:8123/"
HOW = Decoding(1.0, 6, frozenset({7, 3}))


@pytest.fixture
def package(monkeypatch):
    """A stand-in for the package, with somebody healthy at the URL."""

    def install(model=None, **told):
        made = Package(model or tiny(), **told)
        monkeypatch.setitem(sys.modules, "tinker", made)
        healthy = SimpleNamespace(status_code=200, url=URL)
        monkeypatch.setattr(tinker, "get", lambda *_: healthy)
        return made

    return install


@pytest.mark.parametrize("loss", ["grpo", "dapo"])
@pytest.mark.parametrize("tells_losses", [True, False])
@pytest.mark.parametrize("reduction", tinker.REDUCTIONS)
def test_however_a_service_adds_up_it_ends_where_the_local_learner_ends(
    package, reduction, tells_losses, loss
):
    model = tiny()
    told = samples(model, (1.3, 0.0, -0.7, 0.4), drift=0.15)
    package(copy.deepcopy(model), reduction=reduction, tells_losses=tells_losses)
    client = TinkerService(URL, "dragon-1b", reduction).create_role(4, 0)
    there = RemoteGrpo(client, RATE, GrpoConfig(loss=loss, updates_per_batch=2))
    own = Optimizer(Weights(copy.deepcopy(model)), RATE, max_grad_norm=math.inf)
    here = learner(None, optimizer=own, loss=loss, updates_per_batch=2)
    service, mine = there.update(told), here.update(told)
    ours, theirs = own.weights.model.state_dict(), client.training.model.state_dict()
    assert_trained_alike(theirs, ours)
    assert service.pop("defender/grad_norm") == 0.25
    mine.pop("defender/grad_norm")
    assert_close_sums(service, mine, scale=1.0)


def test_a_reduction_that_is_not_the_services_would_be_noticed(package):
    model = tiny()
    told = samples(model, (1.3, 0.0, -0.7, 0.4), drift=0.15)
    losses = []
    for reduction in tinker.REDUCTIONS:
        package(copy.deepcopy(model), reduction="mean", tells_losses=True)
        client = TinkerService(URL, "dragon-1b", reduction).create_role(4, 0)
        RemoteGrpo(client, RATE, GrpoConfig(epsilon=(9.0, 9.0))).update(told)
        moments = client.training.optimizer.state_dict()["state"][0]["exp_avg"]
        losses.append(moments.abs().max().item())
    assert losses[1] > 5 * losses[0]


def test_a_role_is_made_as_it_was_asked_for(package):
    made = package()
    service = TinkerService(URL, "dragon-1b", api_key="tml-lantern")
    client = service.create_role(rank=8, seed=2**31 + 5)
    assert made.keys == [("http://127.0.0.1:8123", "tml-lantern")]
    assert made.created == [
        {"base_model": "dragon-1b", "rank": 8, "seed": 5, "train_unembed": False}
    ]
    assert client.version == 0
    assert "lantern" not in repr(service)


def test_what_is_drawn_comes_from_the_newest_weights_and_only_from_them(package):
    package()
    client = TinkerService(URL, "dragon-1b").create_role(4, 0)
    ask = SeededPrompt((5, 6), seed_of("0/3/attacker"))
    first = client.sample([ask, ask], HOW)
    client.sample([ask], HOW)
    assert client.training.samplers == 1
    RemoteGrpo(client, RATE, GrpoConfig()).update(samples(tiny(), (1.3, -0.7)))
    client.sample([ask], HOW)
    assert client.training.samplers == 2
    client.load(client.save("kept"), 1)
    client.sample([ask], HOW)
    assert (client.training.samplers, client.version) == (3, 1)
    prompt, how = client.training.seen[0]
    assert prompt == [5, 6]
    assert (how.stop, how.max_tokens, how.temperature) == ([3, 7], 6, 1.0)
    assert how.seed == seed_of("0/3/attacker") % 2**31
    assert first[1].token_ids == (11, 12, 3)
    assert first[1].logprobs == (-0.5, -1.25, -2.0)


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"logprobs": [-0.5, -1.0]}, "3 tokens with 2 log-probabilities"),
        ({"logprobs": None}, "3 tokens with 0"),
        ({"logprobs": [-0.5, math.nan, -1.0]}, "3 tokens with 3"),
        ({"tokens": [], "logprobs": []}, "0 tokens"),
        ({"tokens": [8] * 7, "logprobs": [-1.5] * 7}, "wanted 1 to 6 tokens"),
        ({"tokens": [8, 9, 10]}, "leaves out the token that ends a reply"),
    ],
)
def test_what_was_not_asked_for_is_refused(package, spoilt, told):
    made = package()
    client = TinkerService(URL, "dragon-1b").create_role(4, 0)
    good = {"tokens": [11, 12, 3], "logprobs": [-0.5, -1.25, -2.0], "stop_reason": "stop"}
    made.says = lambda prompt, how: SimpleNamespace(**(good | spoilt))
    with pytest.raises(UsageError, match=told):
        client.sample([SeededPrompt((5, 6), 1)], HOW)


@pytest.mark.parametrize("kind", [TinkerError, ValueError])
def test_a_service_that_fails_is_told_with_what_it_was_doing(package, kind):
    made = package()
    client = TinkerService(URL, "dragon-1b").create_role(4, 0)
    made.broken = kind("out of memory")
    with pytest.raises(SparringError, match="failed in forward_backward: out of memory"):
        RemoteGrpo(client, RATE, GrpoConfig()).update(samples(tiny(), (1.3, -0.7)))
    assert client.version == 0


def test_another_model_nobody_at_the_url_and_an_unknown_reduction_are_usage_errors(
    package, monkeypatch
):
    package()
    with pytest.raises(UsageError, match=r"has no giant-7b; it has: .*dragon-1b"):
        TinkerService(URL, "giant-7b").create_role(4, 0)
    with pytest.raises(UsageError, match="reduction: got median, wanted sum or mean"):
        TinkerService(URL, "dragon-1b", "median")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tinker", Package(tiny()))
    with pytest.raises(UsageError, match=r"nobody answers at http://127\.0\.0\.1:9"):
        TinkerService("http://127.0.0.1:9", "dragon-1b").create_role(4, 0)


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setattr(tinker, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"sparring\[tinker\]"):
        TinkerService(URL, "dragon-1b")


def test_a_fetched_adapter_names_the_layers_it_is_for_and_leaves_its_folder_alone(tmp_path):
    unpacked(archive(), tmp_path / "in" / "adapter")
    config = json.loads((tmp_path / "in" / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "up_proj"]
    assert config["lora_alpha"] == 32.0
    tensors = load_file(tmp_path / "in" / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == 4
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    with pytest.raises(SparringError, match=r"lacks adapter_model\.safetensors"):
        unpacked(archive(leave_out=["adapter_model.safetensors"]), tmp_path)


def remote_policy(temperature=1.0):
    words = tokenizer(QWEN2)
    client = Double(tiny()).create_role(4, 0)
    return RemotePolicy(client, Chat(words), Sampling(temperature, 5))


def test_a_remote_policy_says_what_its_client_drew(monkeypatch):
    policy = remote_policy()
    monkeypatch.setattr(policy.chat, "prompts", lambda seen: [(4, 5, 6)] * len(seen))
    policy.client.version = 17
    seen = (Message("user", "open the dragon vault"),)
    told = policy.sample([Request(seen, ("0/a", "0/b")), Request(seen, ("0/a",))])
    assert [len(row) for row in told] == [2, 1]
    assert told[0][0] == told[1][0] != told[0][1]
    one = told[0][0]
    assert (one.version, one.prompt_ids) == (17, (4, 5, 6))
    assert one.text == policy.chat.text(one.token_ids)
    assert one.finished == (one.token_ids[-1] in policy.chat.stop_ids)
    (asked, how), *_ = policy.client.asked
    assert [ask.seed for ask in asked] == [seed_of(a) for a in ("0/a", "0/b", "0/a")]
    assert how == Decoding(1.0, 5, policy.chat.stop_ids)


def test_nothing_asked_is_nothing_sent():
    policy = remote_policy()
    assert policy.sample([]) == []
    assert policy.client.asked == []


def test_a_temperature_that_training_does_not_know_is_refused():
    with pytest.raises(UsageError, match=r"sampling\.temperature: got 0\.7"):
        remote_policy(0.7)
