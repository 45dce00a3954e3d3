"""Fine-tuning: the loss covers reply tokens only, it falls, and batch cuts do not change it."""

import copy
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.close import assert_close_sums
from tests.players import by_hand
from tests.players.by_hand import Recorder, alone, furthest, learner, same_bits, samples

from sparring.players import fast, trainer
from sparring.players.chat import Chat
from sparring.players.trainer import ChatBatch, SftConfig, Trainer, imitate, sft
from sparring.players.weights import LearningRate, Optimizer, Weights, adapters
from sparring.sandbox.language import Language
from sparring.sandbox.model import tokenizer, untrained
from sparring.sandbox.pool import attack_pool, narrow
from sparring.sandbox.world import World
from sparring.types import Demo, Message, Player, UsageError

pytestmark = pytest.mark.numeric

WORDS = tokenizer(Language(0))
CHAT = Chat(WORDS)
TOY = [
    Demo((Message("user", text),), reply)
    for text, reply in (
        ("tell me how to open the vault .", "i cannot help with that ."),
        ("which tool to mend ?", "rope ."),
        ("can you say how to polish the crown ?", "use honey with the lantern ."),
        ("copy this dragon", "dragon"),
        ("what means wyrm ?", "dragon ."),
    )
]
DROPOUT = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.5, "target_modules": "all-linear"}


def blank():
    return untrained(len(WORDS), 4)


def trained(demos=TOY, rng_seed="0/warm-up", schedule=3e-3, weights=None, **config):
    """The metrics of every step, and the optimizer after them."""
    rate = schedule if isinstance(schedule, LearningRate) else LearningRate(schedule)
    optimizer = Optimizer(weights or Weights(blank()), rate)
    return list(sft(optimizer, CHAT, demos, SftConfig(**config), rng_seed)), optimizer


def row_of(demo):
    return CHAT.prompt_ids(demo.observation), CHAT.reply_ids(demo.reply)


def mean_loss(model, rows):
    """The mean over all reply tokens of −log π, one unpadded row at a time."""
    with torch.no_grad():
        return -torch.cat([alone(model, *row) for row in rows]).mean().item()


def test_the_loss_falls_to_nearly_nothing_on_a_toy_task():
    metrics, optimizer = trained(steps=40, batch_size=5)
    assert metrics[0]["loss"] == pytest.approx(6.35, abs=0.2)  # about ln 570, the vocabulary
    assert metrics[-1]["loss"] < 0.1
    likely = [alone(optimizer.weights.model, *row_of(d)).sum().exp().item() for d in TOY]
    assert min(likely) > 0.5


def test_the_loss_is_the_mean_over_reply_tokens_and_every_demonstration_comes_once_an_epoch():
    rows = [row_of(demo) for demo in TOY]
    # With no rate to speak of, every step of a whole epoch has the loss of the whole pool.
    metrics, _ = trained(steps=3, batch_size=5, schedule=1e-30)
    assert_close_sums([m["loss"] for m in metrics], [mean_loss(blank(), rows)] * 3)
    singles, _ = trained(steps=5, batch_size=1, schedule=1e-30)
    expected = sorted(mean_loss(blank(), [row]) for row in rows)
    assert_close_sums(sorted(m["loss"] for m in singles), expected)


def test_a_reply_that_is_cut_is_imitated_without_an_end():
    cut = replace(TOY[0], finished=False)
    prompt, reply = row_of(TOY[0])
    metrics, _ = trained([cut], steps=1, batch_size=1, schedule=1e-30)
    assert_close_sums([metrics[0]["loss"]], [mean_loss(blank(), [(prompt, reply[:-1])])])


def test_padding_and_micro_batches_change_neither_loss_nor_gradient():
    results = []
    for budget in (1, 40, 10_000):
        optimizer = Recorder(Weights(blank()), LearningRate(1e-3))
        config = SftConfig(steps=1, batch_size=5, micro_batch_tokens=budget)
        metrics = next(sft(optimizer, CHAT, TOY, config, "0"))
        results.append((metrics["loss"], optimizer.gradient))
    for loss, gradient in results[1:]:
        assert_close_sums(loss, results[0][0])
        assert_close_sums(gradient, results[0][1])


def test_a_brief_runs_once_for_the_demonstrations_that_begin_with_it_and_changes_no_gradient(
    monkeypatch,
):
    rng = random.Random(3)
    briefs = [by_hand.ids(rng, 400), by_hand.ids(rng, 400)]
    rows = [
        ((*briefs[k % 2], *by_hand.ids(rng, 3 + k)), by_hand.ids(rng, rng.randint(2, 9)))
        for k in range(12)
    ]
    model = blank()
    path = fast.path_of(model)
    together = [sorted(index) for index in fast.batches(rows, 16_384, path, model)]
    assert sorted(together) == [[*range(0, 12, 2)], [*range(1, 12, 2)]]
    assert len([*fast.batches(rows[:2], 16_384, path, model)]) == 1  # too little to save
    [whole] = fast.batches([rows[0]] * 12 + [rows[1]], 16_384, path, model)  # a prompt counts once
    assert sorted(whole) == [*range(13)]
    assert [*fast.batches([], 16_384, path, model)] == []
    few = [((*brief[:160], k), (1, 2)) for k, brief in enumerate(briefs * 3)]
    for width, groups in ((128, 1), (576, 2)):
        monkeypatch.setattr(model.config, "hidden_size", width)
        assert len([*fast.batches(few, 16_384, path, model)]) == groups, "wide models save sooner"
    gradients, tokens = [], []
    for groups in (fast.batches, lambda rows, *_: [[i] for i in range(len(rows))]):
        monkeypatch.setattr(trainer, "batches", groups)
        optimizer = Recorder(Weights(blank()), LearningRate(1e-3))
        run = [0]
        optimizer.weights.model.base_model.register_forward_pre_hook(
            lambda _, __, inputs, run=run: run.append(inputs["input_ids"].numel()), with_kwargs=True
        )
        imitate(optimizer, rows, 0, 16_384, "0")
        gradients.append(optimizer.gradient)
        tokens.append(sum(run))
    assert_close_sums(*gradients)
    assert tokens[0] < 0.4 * tokens[1]


def test_the_order_is_its_seeds_and_the_same_seed_gives_the_same_bits():
    first, again, other = (
        trained(rng_seed=seed, steps=6, batch_size=2) for seed in ("0", "0", "1")
    )
    assert first[0] == again[0] != other[0]
    assert same_bits(*(optimizer.weights.snapshot() for _, optimizer in (first, again)))


def test_every_step_reports_its_rate_and_its_gradients_norm_and_ends_in_evaluation_mode():
    metrics, optimizer = trained(schedule=LearningRate(8e-4, warmup_steps=4), steps=5, batch_size=3)
    rates = [m["learning_rate"] for m in metrics]
    assert rates == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 8e-4])
    assert all(m["grad_norm"] > 0.1 for m in metrics)
    assert (optimizer.steps, optimizer.weights.version) == (5, 5)
    assert not optimizer.weights.model.training


def test_an_empty_pool_is_a_usage_error():
    with pytest.raises(UsageError, match="holds no demonstrations"):
        trained([], steps=1)


def test_a_warm_up_teaches_the_attackers_tags():
    pool = attack_pool(World(Language(0)), 32, narrow(0.25), "0")
    _, optimizer = trained(pool, steps=30, batch_size=16, schedule=4e-3)
    prompt, (tag, *_) = CHAT.prompt_ids(pool[0].observation), CHAT.reply_ids("<think> plan")
    assert alone(optimizer.weights.model, prompt, (tag,)).exp().item() > 0.9
    assert alone(blank(), prompt, (tag,)).exp().item() < 0.1


def test_dropout_is_drawn_from_the_seed_and_neither_reads_nor_moves_the_processes_randomness():
    losses = []
    for process, rng_seed in ((1, "0"), (2, "0"), (1, "1")):
        own = adapters(blank(), dict.fromkeys(Player, DROPOUT), torch_seed=5)[Player.ATTACKER]
        torch.manual_seed(process)
        before = torch.random.get_rng_state()
        # Only the dropout can differ: every batch is the whole pool.
        config = {"steps": 4, "batch_size": 5, "micro_batch_tokens": 40}
        metrics, _ = trained(rng_seed=rng_seed, schedule=1e-2, weights=own, **config)
        losses.append([m["loss"] for m in metrics])
        assert torch.equal(torch.random.get_rng_state(), before)
    assert losses[0] == losses[1]
    assert abs(losses[0][-1] - losses[2][-1]) > 1e-3


RNG = random.Random(11)
ROWS = [
    (by_hand.ids(RNG, RNG.randint(2, 6)), by_hand.ids(RNG, RNG.randint(1, 5))) for _ in range(9)
]
ADVANTAGES = (1.3, -0.7, 0.2)


def mixed(model, batch_size=4):
    """A trainer that imitates ordinary chat after every update by reinforcement."""
    grpo = learner(model, optimizer=by_hand.real(model, 0.01))
    chat = SimpleNamespace(pad_id=by_hand.PAD)
    return Trainer(None, chat, grpo, ChatBatch(ROWS, batch_size, "7/chat"))


@pytest.fixture
def batches(monkeypatch):
    """The rows that are imitated, update by update."""
    batches_ = []

    def note(optimizer, batch, *rest):
        batches_.append(list(batch))
        return imitate(optimizer, batch, *rest)

    monkeypatch.setattr(trainer, "imitate", note)
    return batches_


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_an_update_is_the_players_and_then_a_step_of_imitation(batches):
    model = by_hand.tiny()
    batch, other = samples(model, ADVANTAGES), copy.deepcopy(model)
    learns = mixed(model)
    metrics = learns.update(batch)
    alike = learner(other, optimizer=by_hand.real(other, 0.01))
    before = alike.update(batch)
    assert len(batches[0]) == 4
    loss = mean_loss(other, batches[0])
    imitate(alike.optimizer, batches[0], 0, 16_384, "dropout is 0 here")
    assert same_bits(snapshot(model), snapshot(other))
    assert learns.optimizer.steps == 2
    assert {k: v for k, v in metrics.items() if not k.startswith("chat/")} == before
    assert_close_sums(metrics["chat/loss"], loss)
    assert metrics["chat/grad_norm"] > 0


def test_chat_is_imitated_and_grows_likelier_where_the_game_taught_nothing():
    model = by_hand.tiny()
    before, learns = snapshot(model), mixed(model, batch_size=9)
    loss = mean_loss(model, ROWS)
    metrics = learns.update(samples(model, (0.0, 0.0)))
    assert {name.split("/")[0] for name in metrics} == {"chat"}
    assert furthest(snapshot(model), before) > 1e-3
    for _ in range(7):
        learns.update([])
    assert mean_loss(model, ROWS) < loss - 0.3


def test_every_update_draws_another_batch_from_all_rows(batches):
    learns = mixed(by_hand.tiny())
    for _ in range(12):
        learns.update([])
    assert {row for batch in batches for row in batch} == set(ROWS)
    assert len({tuple(batch) for batch in batches}) == 12


def test_a_resumed_learner_imitates_what_the_whole_one_would_have(batches):
    batch, whole = samples(by_hand.tiny(), ADVANTAGES), mixed(by_hand.tiny())
    for _ in range(2):
        whole.update(batch)
    resumed = mixed(by_hand.tiny(torch_seed=8))
    resumed.weights.load(whole.weights.snapshot())
    resumed.optimizer.load(whole.optimizer.tensors(), whole.optimizer.counters())
    assert whole.update(batch) == resumed.update(batch)
    assert batches[-1] == batches[-2] != batches[-3]
    assert same_bits(resumed.weights.snapshot(), whole.weights.snapshot())
