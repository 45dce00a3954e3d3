"""A learner whose weights live on a Tinker service teaches what the local learner teaches.

The package is a stand-in with the names of its version 0.3.0 over a real tiny model. The package
itself and a real service: `examples/tinker_round.py`, described in docs/scaling.md.
"""

import copy
import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.close import assert_close_sums
from tests.engines.tinker_package import Package, TinkerError, archive
from tests.players.by_hand import assert_trained_alike, furthest, learner, moved, samples, tiny
from tests.tiny import QWEN2, tokenizer

from sparring.engines import tinker
from sparring.engines.engine import Decoding, SeededPrompt, seed_of
from sparring.engines.remote import RemoteGrpo, RemotePolicy
from sparring.engines.tinker import TinkerService, unpacked
from sparring.players.chat import Chat
from sparring.players.grpo import AGGREGATIONS, GrpoConfig
from sparring.players.player import Request, Sampling
from sparring.players.weights import LearningRate, Optimizer, Weights
from sparring.types import Message, Player, SparringError, UsageError

pytestmark = pytest.mark.numeric

ADVANTAGES = (1.3, 0.0, -0.7, 0.0, 0.4, -1.1)
RATE = LearningRate(2e-3, warmup_steps=3)
URL = "http://127.0.0.1:8123/"
HOW = Decoding(1.0, 6, frozenset({7, 3}))
GOOD = {"tokens": [11, 12, 3], "logprobs": [-0.5, -1.25, -2.0], "stop_reason": "stop"}


@pytest.fixture
def package(monkeypatch):
    """A stand-in for the package, with a healthy service at the URL."""

    def install(model=None, **behaviour):
        package_ = Package(copy.deepcopy(model or tiny()), **behaviour)
        monkeypatch.setitem(sys.modules, "tinker", package_)
        healthy = SimpleNamespace(status_code=200, url=URL)
        monkeypatch.setattr(tinker, "get", lambda *_: healthy)
        return package_

    return install


def client_of(reduction="sum"):
    return TinkerService(URL, "dragon-1b", reduction).create_role(4, 0)


def remote(shares=None, reduction="sum", **config):
    return RemoteGrpo(client_of(reduction), RATE, GrpoConfig(**config), shares=shares or {})


def local(model, shares=None, **config):
    optimizer = Optimizer(Weights(copy.deepcopy(model)), RATE, max_grad_norm=math.inf)
    return learner(None, shares, optimizer=optimizer, **config)


def weights_of(learns):
    if isinstance(learns, RemoteGrpo):
        return copy.deepcopy(learns.client.training.model.state_dict())
    return learns.optimizer.weights.model.state_dict()


@pytest.mark.parametrize("loss", AGGREGATIONS)
@pytest.mark.parametrize("tells_losses", [True, False])
@pytest.mark.parametrize("reduction", tinker.REDUCTIONS)
def test_however_a_service_adds_up_it_ends_where_the_local_learner_ends(
    package, reduction, tells_losses, loss
):
    model = tiny()
    batch = samples(model, ADVANTAGES, drift=0.15)
    package(model, reduction=reduction, tells_losses=tells_losses)
    config = {"loss": loss, "max_completion_length": 9, "updates_per_batch": 3}
    there, here = remote(reduction=reduction, **config), local(model, **config)
    for _ in range(2):
        service, own = there.update(batch), here.update(batch)
    assert there.client.version == here.optimizer.steps == 6
    assert_trained_alike(weights_of(there), weights_of(here))
    assert furthest(weights_of(here), model.state_dict()) > 5e-3  # they have gone somewhere
    assert service.pop("defender/grad_norm") == 0.25
    own.pop("defender/grad_norm")
    assert_close_sums(service, own, scale=1.0)


def test_a_reduction_that_is_not_the_services_would_be_noticed(package):
    package(reduction="mean")
    moments = []
    for reduction in tinker.REDUCTIONS:
        there = remote(reduction=reduction, epsilon=(9.0, 9.0))
        there.update(samples(tiny(), ADVANTAGES, drift=0.15))
        state = there.client.training.optimizer.state_dict()["state"]
        moments.append(state[0]["exp_avg"].abs().max().item())
    assert moments[1] > 5 * moments[0]


def test_two_players_of_one_adapter_are_each_normalised_and_weighed(package):
    model = tiny()
    package(model)
    batch = samples(model, ADVANTAGES, drift=0.15)
    batch += samples(model, (0.9, -0.2), Player.ATTACKER, drift=0.15)
    shares = {Player.ATTACKER: 0.3, Player.DEFENDER: 0.7}
    there, here = remote(shares), local(model, shares)
    service, own = there.update(batch), here.update(batch)
    assert_trained_alike(weights_of(there), weights_of(here))
    for player, share in shares.items():
        assert_close_sums(service[f"{player}/loss"], share * own[f"{player}/loss"], scale=1.0)


def test_a_stale_sample_is_clipped_and_counted(package):
    model = tiny()
    package(model)
    batch = samples(moved(model, 0.2), ADVANTAGES)
    service, own = remote().update(batch), local(model).update(batch)
    assert 0 < service["defender/clip_ratio"] < 1
    assert service["defender/clip_ratio"] == pytest.approx(own["defender/clip_ratio"])


def test_without_a_signal_the_service_is_left_alone(package):
    package()
    there = remote()
    assert there.update(samples(tiny(), (0.0, 0.0))) == {}
    assert there.client.version == 0


def test_the_learning_rate_goes_on_from_the_version_that_was_loaded(package):
    package_ = package()
    batch, there = samples(tiny(), ADVANTAGES), remote()
    there.update(batch)
    path = there.client.save("first")
    there.update(batch)
    after = weights_of(there)
    there.client.load(path, 1)
    there.update(batch)
    assert package_.rates == pytest.approx([RATE.at(0), RATE.at(1), RATE.at(1)])
    assert all(torch.equal(after[name], again) for name, again in weights_of(there).items())


def test_numbers_that_are_not_finite_are_not_stepped(package, monkeypatch):
    package()
    there = remote()
    forward = there.client.forward_backward

    def spoilt(*args):
        passed = forward(*args)
        return replace(passed, losses=(math.nan, *passed.losses[1:]))

    monkeypatch.setattr(there.client, "forward_backward", spoilt)
    with pytest.raises(SparringError, match="nothing was stepped"):
        there.update(samples(tiny(), ADVANTAGES))
    assert there.client.version == 0


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("learner.beta", {"beta": 0.05}),
        ("sampling.temperature", {"temperature": 0.7}),
        ("sampling.server.ratio_limit", {"ratio_limit": 2.0}),
    ],
)
def test_settings_that_a_service_does_not_know_are_refused_by_name(package, name, config):
    package()
    with pytest.raises(UsageError, match=name):
        remote(**config)


def test_a_role_is_made_as_requested(package):
    package_ = package()
    service = TinkerService(URL, "dragon-1b", api_key="tml-lantern")
    client = service.create_role(rank=8, seed=2**31 + 5)
    assert package_.keys == [("http://127.0.0.1:8123", "tml-lantern")]
    assert package_.created == [
        {"base_model": "dragon-1b", "rank": 8, "seed": 5, "train_unembed": False}
    ]
    assert client.version == 0
    assert "lantern" not in repr(service)


def test_completions_come_from_the_newest_weights_and_only_from_them(package):
    package()
    there, prompt = remote(), SeededPrompt((5, 6), seed_of("0/3/attacker"))
    client = there.client
    first = client.sample([prompt, prompt], HOW)
    client.sample([prompt], HOW)
    assert client.training.samplers == 1
    there.update(samples(tiny(), (1.3, -0.7)))
    client.sample([prompt], HOW)
    assert client.training.samplers == 2
    client.load(client.save("again"), 1)
    client.sample([prompt], HOW)
    assert (client.training.samplers, client.version) == (3, 1)
    ids, how = client.training.requests[0]
    assert (ids, how.stop, how.max_tokens, how.temperature) == ([5, 6], [3, 7], 6, 1.0)
    assert how.seed == seed_of("0/3/attacker") % 2**31
    assert first[1] == (tuple(GOOD["tokens"]), tuple(GOOD["logprobs"]))


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"logprobs": [-0.5, -1.0]}, "3 tokens with 2 log-probabilities"),
        ({"logprobs": None}, "3 tokens with 0"),
        ({"logprobs": [-0.5, math.nan, -1.0]}, "3 tokens with 3"),
        ({"tokens": [], "logprobs": []}, "0 tokens"),
        ({"tokens": [8] * 7, "logprobs": [-1.5] * 7}, "wanted 1 to 6 tokens"),
        ({"tokens": [8, 9, 10]}, "leaves out the token that ends a reply"),
    ],
)
def test_a_completion_that_cannot_be_trained_on_is_refused(package, spoilt, why):
    package().sequence = lambda how: SimpleNamespace(**(GOOD | spoilt))
    with pytest.raises(UsageError, match=why):
        client_of().sample([SeededPrompt((5, 6), 1)], HOW)


@pytest.mark.parametrize("kind", [TinkerError, ValueError])
def test_the_error_of_a_failing_service_names_what_it_was_doing(package, kind):
    package_, there = package(), remote()
    package_.broken = kind("out of memory")
    with pytest.raises(SparringError, match="failed in forward_backward: out of memory"):
        there.update(samples(tiny(), (1.3, -0.7)))
    assert there.client.version == 0


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
    monkeypatch.setattr(tinker, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"sparring\[tinker\]"):
        TinkerService(URL, "dragon-1b")


def test_a_fetched_adapter_names_the_layers_it_is_for_and_leaves_its_folder_alone(tmp_path):
    folder = tmp_path / "in" / "adapter"
    unpacked(archive(), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["target_modules"], config["lora_alpha"]) == (["q_proj", "up_proj"], 32.0)
    assert len(load_file(folder / "adapter_model.safetensors")) == 4
    names = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    with pytest.raises(SparringError, match=r"lacks adapter_model\.safetensors"):
        unpacked(archive(leave_out=["adapter_model.safetensors"]), tmp_path)


def test_a_remote_policy_gives_what_its_client_drew(package, monkeypatch):
    package()
    chat, client = Chat(tokenizer(QWEN2)), client_of()
    with pytest.raises(UsageError, match=r"sampling\.temperature: got 0\.7"):
        RemotePolicy(client, chat, Sampling(0.7, 5))
    policy = RemotePolicy(client, chat, Sampling(1.0, 5))
    assert policy.sample([]) == []
    assert client._sampler is None, "nothing was sent"
    monkeypatch.setattr(chat, "prompts", lambda observations: [(4, 5, 6)] * len(observations))
    client.version = 17
    observation = (Message("user", "open the dragon vault"),)
    rows = policy.sample([Request(observation, ("0/a", "0/b")), Request(observation, ("0/a",))])
    assert [len(row) for row in rows] == [2, 1]
    completion = rows[0][0]
    assert (completion.version, completion.prompt_ids) == (17, (4, 5, 6))
    assert completion.text == chat.text(completion.token_ids)
    assert completion.finished == (completion.token_ids[-1] in chat.stop_ids)
    requests = [how for _, how in client.training.requests]
    assert [how.seed for how in requests] == [seed_of(a) % 2**31 for a in ("0/a", "0/b", "0/a")]
    assert (requests[0].max_tokens, requests[0].stop) == (5, sorted(chat.stop_ids))
