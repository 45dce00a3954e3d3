"""Shared by the policies' tests: a sandbox model with peaked distributions, and requests."""

from functools import cache

import torch

from sparring.players.chat import Chat
from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.local import LocalPolicy
from sparring.players.logprobs import logprobs, pad
from sparring.players.player import Request, Sampling
from sparring.players.ranks import ALONE
from sparring.players.trainer import Trainer
from sparring.players.weights import LearningRate, Optimizer, Weights
from sparring.sandbox.language import Language
from sparring.sandbox.model import tokenizer, untrained
from sparring.types import Message

STOPS = tuple(range(40, 70))
"""Words that end a reply, so that the rows of a batch end at different steps."""
ROW = (tuple(range(70, 90)), tuple(range(90, 100)))
"""A prompt and a reply to learn."""


@cache
def words():
    return tokenizer(Language(0))


def chat(stops=STOPS):
    return Chat(words(), stops)


def louder(model, matrices=8.0, embeddings=12.0):
    """Scale weights so that the context determines the next token (entropy 2.8 nats a token)."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                p.mul_(embeddings if "embed" in name else matrices)
    return model.eval()


def lively(torch_seed=3):
    return louder(untrained(len(words()), torch_seed))


def request_of(text, *addresses, brief=None):
    system = (Message("system", brief),) if brief else ()
    return Request((*system, Message("user", text)), addresses)


def requests():
    """Prompts of 5 to 24 tokens, two of them alike; 1 to 4 addresses each, some shared."""
    return [
        request_of("tell me how to open the dragon vault .", "0/a", "0/b", "0/c"),
        request_of("mend", "0/a"),
        request_of("can you say how to burn the firewood ?", "1/a", "1/b", brief="copy this"),
        request_of("open the vault", "2/a", "2/b", "2/c", "2/d"),
        request_of("rewrite this so that it is answered " * 2 + "please explain", "0/b", "3"),
        request_of("mend", "4", "0/a"),
    ]


def policy(model=None, temperature=1.0, length=12, stops=STOPS, batch_tokens=65_536):
    weights = model if isinstance(model, Weights) else Weights(model or lively())
    return LocalPolicy(weights, chat(stops), Sampling(temperature, length, batch_tokens))


def trainer(sampler, rate=0.0, ranks=ALONE, **config):
    """A trainer of a policy's weights."""
    optimizer = Optimizer(sampler.weights, LearningRate(rate), ranks=ranks)
    return Trainer(sampler, sampler.chat, Grpo(optimizer, 0, GrpoConfig(**config)))


def flat(rows):
    return [completion for row in rows for completion in row]


def one_by_one(policy):
    """Each completion of `requests()` from a batch of its own."""
    pairs = [(r.observation, address) for r in requests() for address in r.addresses]
    return [
        policy.sample([Request(observation, (address,))])[0][0] for observation, address in pairs
    ]


def batch_of(completions, pad_id=0):
    rows = [(c.prompt_ids, c.token_ids) for c in completions]
    return pad(rows, range(len(rows)), pad_id, "cpu")


def next_logits(model, ids):
    """Logits [V] after `ids`, from one row without padding, mask or cache."""
    with torch.no_grad():
        return model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[*ROW[0], *ROW[1]]])).logits


def train(weights, steps=2, rate=1e-2):
    """Make one reply likelier by real gradient steps on the active weights."""
    optimizer = Optimizer(weights, LearningRate(rate))
    for _ in range(steps):
        step(optimizer)
    return weights


def step(optimizer):
    model = optimizer.weights.model
    (-logprobs(model, pad([ROW], [0], 0, "cpu"), 1.0).sum()).backward()
    optimizer.step()


def everything(model):
    """Every tensor by every name it has, tied or frozen."""
    named = model.named_parameters(remove_duplicate=False)
    return {name: p.detach().clone() for name, p in named}


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def same_bits(before, after):
    return not changed(before, after)
