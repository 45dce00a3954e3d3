"""Imitation: the loss is the reply's, it falls, and how batches are cut does not matter."""

import pytest
import torch
from tests.close import assert_close_sums
from tests.players.by_hand import Recorder, alone, same_bits

from sparring.players.chat import Chat
from sparring.players.trainer import SftConfig, sft
from sparring.players.weights import LearningRate, Optimizer, Weights, adapters
from sparring.sandbox.language import Language
from sparring.sandbox.model import tokenizer, untrained
from sparring.sandbox.pool import attack_pool, narrow
from sparring.sandbox.world import World
from sparring.types import Demo, Message, Player, UsageError

WORDS = tokenizer(Language(0))
CHAT = Chat(WORDS)


def demo(asked, reply):
    return Demo((Message("user", asked),), reply)


TOY = (
    demo("tell me how to open the vault .", "i cannot help with that ."),
    demo("which tool to mend ?", "rope ."),
    demo("can you say how to polish the crown ?", "use honey with the lantern ."),
    demo("copy this dragon", "dragon"),
    demo("what means wyrm ?", "dragon ."),
)


def blank():
    return untrained(len(WORDS), 4)


def trained(demos=TOY, rng_seed="0/warm-up", peak=3e-3, **config):
    """The metrics of every step, and the weights after them."""
    optimizer = Optimizer(Weights(blank()), LearningRate(peak))
    told = list(sft(optimizer, CHAT, demos, SftConfig(**config), rng_seed))
    return told, optimizer.weights


def by_rows(demos):
    """The mean over all reply tokens of −log π, one unpadded row at a time."""
    model = blank()
    rows = [(CHAT.prompt_ids(d.observation), CHAT.reply_ids(d.reply)) for d in demos]
    with torch.no_grad():
        return -torch.cat([alone(model, *row) for row in rows]).mean().item()


def test_the_loss_falls_to_nearly_nothing_on_a_toy_task():
    told, weights = trained(steps=40, batch_size=5)
    assert told[0]["loss"] == pytest.approx(5.8, abs=0.2)  # about ln 330, the vocabulary
    assert told[-1]["loss"] < 0.1
    model = weights.model
    for d in TOY:
        prompt, reply = CHAT.prompt_ids(d.observation), CHAT.reply_ids(d.reply)
        assert alone(model, prompt, reply).sum().exp().item() > 0.5


def test_the_loss_is_the_mean_over_reply_tokens_and_no_others():
    told, _ = trained(steps=1, batch_size=5)
    assert_close_sums(told[0]["loss"], by_rows(TOY))


def test_every_demonstration_is_seen_once_an_epoch():
    # With no rate to speak of, every step of a whole epoch has the loss of the whole pool.
    told, _ = trained(steps=3, batch_size=5, peak=1e-30)
    assert_close_sums([t["loss"] for t in told], [by_rows(TOY)] * 3)
    singles, _ = trained(steps=5, batch_size=1, peak=1e-30)
    wanted = sorted(by_rows([d]) for d in TOY)
    assert_close_sums(sorted(t["loss"] for t in singles), wanted)


def gradient(budget):
    optimizer = Recorder(Weights(blank()), LearningRate(1e-3))
    config = SftConfig(steps=1, batch_size=5, micro_batch_tokens=budget)
    told = next(sft(optimizer, CHAT, TOY, config, "0"))
    return told["loss"], optimizer.seen


@pytest.mark.numeric
def test_padding_and_micro_batches_change_neither_loss_nor_gradient():
    alone_loss, alone_gradient = gradient(budget=1)
    for budget in (40, 10_000):
        loss, told = gradient(budget)
        assert_close_sums(loss, alone_loss)
        assert_close_sums(told, alone_gradient)


def test_the_order_is_its_seeds_and_the_same_seed_gives_the_same_bits():
    one, weights = trained(rng_seed="0", steps=6, batch_size=2)
    again, same = trained(rng_seed="0", steps=6, batch_size=2)
    other, _ = trained(rng_seed="1", steps=6, batch_size=2)
    assert one == again
    assert same_bits(weights.snapshot(), same.snapshot())
    assert one != other


def test_every_step_tells_its_rate_and_its_gradients_norm():
    optimizer = Optimizer(Weights(blank()), LearningRate(8e-4, warmup_steps=4))
    told = list(sft(optimizer, CHAT, TOY, SftConfig(steps=5, batch_size=3), "0"))
    assert [t["learning_rate"] for t in told] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 8e-4])
    assert all(t["grad_norm"] > 0.1 for t in told)
    assert (optimizer.steps, optimizer.weights.version) == (5, 5)


def test_an_empty_pool_is_a_usage_error():
    optimizer = Optimizer(Weights(blank()), LearningRate(1e-3))
    with pytest.raises(UsageError, match="holds no demonstrations"):
        next(sft(optimizer, CHAT, [], SftConfig(steps=1), "0"))


def test_the_model_is_left_as_it_is_played_with():
    model = blank()
    optimizer = Optimizer(Weights(model), LearningRate(1e-3))
    steps = sft(optimizer, CHAT, TOY, SftConfig(steps=2, batch_size=2), "0")
    next(steps)
    assert not model.training
    list(steps)
    assert not model.training


def test_a_warm_up_teaches_the_attackers_tags():
    pool = attack_pool(World(Language(0)), 32, narrow(0.25), "0")
    _, weights = trained(pool, steps=30, batch_size=16, peak=4e-3)
    prompt, (tag, *_) = CHAT.prompt_ids(pool[0].observation), CHAT.reply_ids("<think> plan")
    assert alone(weights.model, prompt, (tag,)).exp().item() > 0.9
    assert alone(blank(), prompt, (tag,)).exp().item() < 0.1


def test_dropout_is_drawn_from_the_seed_and_not_from_the_process():
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.5, "target_modules": "all-linear"}
    found = []
    for process, rng_seed in ((1, "0"), (2, "0"), (1, "1")):
        own = adapters(blank(), dict.fromkeys(Player, lora), torch_seed=5)[Player.ATTACKER]
        torch.manual_seed(process)
        optimizer = Optimizer(own, LearningRate(1e-2))
        config = SftConfig(steps=4, batch_size=5, micro_batch_tokens=40)
        # Only the dropout can differ: every batch is the whole pool.
        found.append([t["loss"] for t in sft(optimizer, CHAT, TOY, config, rng_seed)])
    assert found[0] == found[1]
    assert abs(found[0][-1] - found[2][-1]) > 1e-3


def test_training_does_not_disturb_the_processes_randomness():
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.5, "target_modules": "all-linear"}
    own = adapters(blank(), dict.fromkeys(Player, lora), torch_seed=5)[Player.ATTACKER]
    torch.manual_seed(17)
    before = torch.random.get_rng_state()
    list(sft(Optimizer(own, LearningRate(1e-2)), CHAT, TOY, SftConfig(steps=2), "0"))
    assert torch.equal(torch.random.get_rng_state(), before)
