"""After every update by reinforcement one batch of ordinary chat; a resumed run goes on alike."""

import copy
import random
from types import SimpleNamespace

import pytest
import torch
from tests.close import assert_close_sums
from tests.players.by_hand import PAD, alone, furthest, ids, learner, real, same_bits, samples, tiny

from sparring.players.trainer import ChatBatch, Trainer, imitate

pytestmark = pytest.mark.numeric

RNG = random.Random(11)
ROWS = [(ids(RNG, RNG.randint(2, 6)), ids(RNG, RNG.randint(1, 5))) for _ in range(9)]
SOME = (1.3, -0.7, 0.2)
PEAK = 0.01


def mixed(model, batch_size=4, rows=ROWS):
    grpo = learner(model, optimizer=real(model, PEAK))
    return Trainer(None, SimpleNamespace(pad_id=PAD), grpo, ChatBatch(rows, batch_size, "7/chat"))


class Shown:
    """What was imitated, update by update."""

    def __init__(self, monkeypatch):
        from sparring.players import trainer as module

        self.batches = []

        def note(optimizer, batch, *rest):
            self.batches.append(list(batch))
            return imitate(optimizer, batch, *rest)

        monkeypatch.setattr(module, "imitate", note)


def test_an_update_is_the_players_and_then_one_step_of_imitation(monkeypatch):
    shown, start = Shown(monkeypatch), tiny()
    told, model, other = samples(start, SOME), copy.deepcopy(start), copy.deepcopy(start)
    learns = mixed(model)
    metrics = learns.update(told)
    alike = learner(other, optimizer=real(other, PEAK))
    before = alike.update(told)
    assert len(shown.batches[0]) == 4
    loss = mean_loss(other, shown.batches[0])
    imitate(alike.optimizer, shown.batches[0], 0, 16_384, "dropout is 0 here")
    assert same_bits(weights(model), weights(other))
    assert learns.optimizer.steps == 2
    assert {k: v for k, v in metrics.items() if not k.startswith("chat/")} == before
    assert_close_sums(metrics["chat/loss"], loss)
    assert metrics["chat/grad_norm"] > 0


def mean_loss(model, rows):
    with torch.no_grad():
        return -torch.cat([alone(model, *row) for row in rows]).mean().item()


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_chat_is_imitated_where_the_game_taught_nothing():
    model = tiny()
    before = weights(model)
    metrics = mixed(model).update(samples(model, (0.0, 0.0)))
    assert {name.split("/")[0] for name in metrics} == {"chat"}
    assert furthest(weights(model), before) > 1e-3


def test_imitation_makes_the_chat_likelier():
    model = tiny()
    learns, before = mixed(model, batch_size=9), mean_loss(model, ROWS)
    for _ in range(8):
        learns.update([])
    assert mean_loss(model, ROWS) < before - 0.3


def test_every_update_draws_another_batch_from_all_rows(monkeypatch):
    shown = Shown(monkeypatch)
    learns = mixed(tiny())
    for _ in range(12):
        learns.update([])
    assert {row for batch in shown.batches for row in batch} == set(ROWS)
    assert len({tuple(batch) for batch in shown.batches}) == 12


def test_a_resumed_learner_imitates_what_the_whole_one_would_have(monkeypatch):
    shown, told = Shown(monkeypatch), samples(tiny(), SOME)
    whole = mixed(tiny())
    for _ in range(2):
        whole.update(told)
    saved = weights(whole.optimizer.weights.model)
    moments, counters = whole.optimizer.tensors(), whole.optimizer.counters()
    resumed = mixed(tiny(torch_seed=8))
    resumed.optimizer.weights.load(saved)
    resumed.optimizer.load(moments, counters)
    assert whole.update(told) == resumed.update(told)
    assert shown.batches[-1] == shown.batches[-2] != shown.batches[-3]
    found = [weights(each.optimizer.weights.model) for each in (whole, resumed)]
    assert same_bits(*found)
