"""Shared by the learners' tests: a tiny model, its samples, and slow reference arithmetic."""

import copy
import random

import torch
from tests.close import SPACINGS
from transformers import AutoConfig, AutoModelForCausalLM

from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.weights import LearningRate, Optimizer, Weights
from sparring.types import Completion, Player, Sample

VOCABULARY, PAD = 29, 0


def network(kind, torch_seed=4, **more):
    """A small model of a transformers family, the same for the same seed."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.25,
        "pad_token_id": None,
    }
    config = AutoConfig.for_model(kind, **{**sizes, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed)
        return AutoModelForCausalLM.from_config(config).eval()


def tiny(torch_seed=3, **more):
    """A Llama of 7,000 parameters with lively logits; the pad token is never sampled."""
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return network("llama", torch_seed, **{**small, **heads, "pad_token_id": PAD, **more})


def alone(model, prompt, reply, temperature=1.0):
    """Log-probabilities [T] of one reply from one row without padding."""
    logits_TV = model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
    return (logits_TV / temperature).log_softmax(-1)[range(len(reply)), list(reply)]


def ids(rng, n):
    return tuple(rng.randrange(1, VOCABULARY) for _ in range(n))


def samples(model, advantages, player=Player.DEFENDER, drift=0.0, name="x"):
    """One sample of ragged lengths for each advantage; `drift` (nats) sets it off the policy."""
    rng = random.Random(f"{player}/{name}")
    drawn = []
    for advantage in advantages:
        prompt, reply = ids(rng, rng.randint(1, 8)), ids(rng, rng.randint(1, 7))
        logps = tuple(x + rng.gauss(0, drift) for x in alone(model, prompt, reply).tolist())
        drawn.append(Sample(player, Completion("", reply, logps, prompt), advantage))
    return drawn


class Recorder(Optimizer):
    """An optimizer that records the gradient instead of making a step."""

    def step(self):
        self.gradient = gradient_of(self.weights.model)
        self.weights.model.zero_grad()
        return {"grad_norm": 1.0}


def gradient_of(model):
    """A copy of every gradient; a parameter that has none gets zeros."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def learner(model, shares=None, reference=None, optimizer=None, **config):
    optimizer = optimizer or Recorder(Weights(model), LearningRate(1e-3))
    return Grpo(optimizer, PAD, GrpoConfig(**config), reference or {}, shares or {})


def real(model, peak=0.05):
    """A real optimizer with a large learning rate."""
    return Optimizer(Weights(model), LearningRate(peak), max_grad_norm=10.0)


def gradient(model, batch, **config):
    """The gradient of one update, and its metrics."""
    learns = learner(copy.deepcopy(model), **config)
    metrics = learns.update(batch)
    return learns.optimizer.gradient, metrics


def furthest(actual, expected):
    """The largest difference of two dictionaries of tensors, relative to the largest entry."""
    assert actual.keys() == expected.keys()
    largest = max(t.abs().max().item() for t in expected.values())
    return max((actual[n] - t).abs().max().item() for n, t in expected.items()) / largest


def assert_trained_alike(actual, expected):
    """The same weights after the same updates.

    Adam divides a gradient by its size, so that a weight whose gradient is nothing but rounding
    moves by as much as the others do: a few in a thousand may lie further apart than sums do.
    """
    assert actual.keys() == expected.keys()
    left, right = (torch.cat([t[n].flatten() for n in expected]) for t in (actual, expected))
    near = (left - right).abs() <= SPACINGS * torch.finfo(right.dtype).eps * right.abs().max()
    assert near.double().mean() > 0.997


def same_bits(actual, expected):
    return actual.keys() == expected.keys() and all(
        torch.equal(actual[name], expected[name]) for name in expected
    )


def moved(model, scale, torch_seed=11):
    """A copy whose weights lie `scale` away."""
    other = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(torch_seed)
        for p in other.parameters():
            p.add_(torch.randn_like(p) * scale)
    return other
