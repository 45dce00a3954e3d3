"""A learner whose weights live on a service teaches what the local learner teaches."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from tests.close import assert_close_sums
from tests.engines.tinker_double import Double
from tests.players.by_hand import assert_trained_alike, furthest, learner, moved, samples, tiny

from sparring.engines.remote import RemoteGrpo
from sparring.players.grpo import AGGREGATIONS, GrpoConfig
from sparring.players.weights import LearningRate, Optimizer, Weights
from sparring.types import Player, SparringError, UsageError

pytestmark = pytest.mark.numeric

SOME = (1.3, 0.0, -0.7, 0.0, 0.4, -1.1)
RATE = LearningRate(2e-3, warmup_steps=3)


def remote(model, **config):
    shares = config.pop("shares", {})
    client = Double(model).create_role(4, 0)
    return RemoteGrpo(client, RATE, GrpoConfig(**config), shares=shares)


def local(model, **config):
    shares = config.pop("shares", {})
    optimizer = Optimizer(Weights(copy.deepcopy(model)), RATE, max_grad_norm=math.inf)
    return learner(None, shares, optimizer=optimizer, **config)


@pytest.mark.parametrize("loss", AGGREGATIONS)
def test_the_service_ends_where_the_local_learner_ends(loss):
    model = tiny()
    told = samples(model, SOME, drift=0.15)
    there, here = (
        made(model, loss=loss, max_completion_length=9, updates_per_batch=3)
        for made in (remote, local)
    )
    for _ in range(2):
        service, own = there.update(told), here.update(told)
    assert there.client.version == here.optimizer.steps == 6
    ours, theirs = here.optimizer.weights.model.state_dict(), there.client.model.state_dict()
    assert_trained_alike(theirs, ours)
    assert furthest(ours, model.state_dict()) > 5e-3  # they have gone somewhere
    assert service.keys() == own.keys()
    assert_close_sums(service, own, scale=1.0)


def test_two_players_of_one_adapter_are_each_normalised_and_weighed():
    model = tiny()
    told = samples(model, SOME, drift=0.15)
    told += samples(model, (0.9, -0.2), Player.ATTACKER, drift=0.15)
    shares = {Player.ATTACKER: 0.3, Player.DEFENDER: 0.7}
    there, here = remote(model, shares=shares), local(model, shares=shares)
    service, own = there.update(told), here.update(told)
    ours, theirs = here.optimizer.weights.model.state_dict(), there.client.model.state_dict()
    assert_trained_alike(theirs, ours)
    for player, share in shares.items():
        assert_close_sums(service[f"{player}/loss"], share * own[f"{player}/loss"], scale=1.0)


def test_without_a_signal_the_service_is_not_asked():
    model = tiny()
    there = remote(model)
    assert there.update(samples(model, (0.0, 0.0))) == {}
    assert there.client.rates == []


def test_the_learning_rate_goes_on_from_the_version_that_was_loaded():
    model = tiny()
    told = samples(model, SOME)
    there = remote(model)
    there.update(told)
    kept = there.client.save("one")
    there.update(told)
    after = copy.deepcopy(there.client.model.state_dict())
    there.client.load(kept, 1)
    there.update(told)
    assert there.client.rates == pytest.approx([RATE.at(0), RATE.at(1), RATE.at(1)])
    again = there.client.model.state_dict()
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_numbers_that_are_not_finite_are_not_stepped():
    model = tiny()
    there = remote(model)
    there.client.spoil = lambda passed: replace(passed, losses=(math.nan, *passed.losses[1:]))
    with pytest.raises(SparringError, match="nothing was stepped"):
        there.update(samples(model, SOME))
    assert there.client.rates == []


def test_a_stale_sample_is_clipped_and_counted():
    model = tiny()
    told = samples(moved(model, 0.2), SOME)
    service, own = remote(model).update(told), local(model).update(told)
    assert 0 < service["defender/clip_ratio"] < 1
    assert service["defender/clip_ratio"] == pytest.approx(own["defender/clip_ratio"])


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("learner.beta", {"beta": 0.05}),
        ("sampling.temperature", {"temperature": 0.7}),
        ("sampling.server.ratio_limit", {"ratio_limit": 2.0}),
    ],
)
def test_what_a_service_does_not_do_is_refused_by_name(name, config):
    with pytest.raises(UsageError, match=name):
        remote(tiny(), **config)
