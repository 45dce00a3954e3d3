"""A training service in this process: a `LoraClient` over a real tiny model.

Losses are added up as Tinker's contract says, by a double loop and not by the learner's own code.
"""

import copy
from dataclasses import dataclass, field

import torch

from sparring.engines.engine import Drawn
from sparring.engines.remote import Passed


@dataclass
class Client:
    """One adapter: a copy of the model, all of whose weights it trains."""

    model: object
    version: int = 0
    kept: dict = field(default_factory=dict)
    rates: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    spoil: object = staticmethod(lambda passed: passed)

    def __post_init__(self):
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)

    def sample(self, asked, how):
        self.asked.append((asked, how))
        return [self._one(ask, how) for ask in asked]

    def _one(self, ask, how):
        torch.manual_seed(ask.seed % 2**31)
        ids, logps = [], []
        with torch.no_grad():
            while len(ids) < how.max_completion_length and (not ids or ids[-1] not in how.stop_ids):
                row = torch.tensor([[*ask.prompt_ids, *ids]])
                logp_V = self.model(row).logits[0, -1].log_softmax(-1)
                ids.append(int(torch.multinomial(logp_V.exp(), 1)))
                logps.append(logp_V[ids[-1]].item())
        return Drawn(tuple(ids), tuple(logps))

    def forward_backward(self, samples, epsilon):
        losses, logprobs = [], []
        for sample in samples:
            completion, advantage = sample.completion, sample.advantage
            row = torch.tensor([[*completion.prompt_ids, *completion.token_ids]])
            logits_TV = self.model(row).logits[0, len(completion.prompt_ids) - 1 : -1]
            tokens = list(completion.token_ids)
            logp_T = logits_TV.log_softmax(-1)[range(len(tokens)), tokens]
            loss = torch.tensor(0.0)
            for logp, old in zip(logp_T, completion.logprobs, strict=True):
                ratio = (logp - old).exp()
                bounded = ratio.clamp(1 - epsilon[0], 1 + epsilon[1])
                loss = loss - torch.minimum(ratio * advantage, bounded * advantage)
            loss.backward()
            losses.append(loss.item())
            logprobs.append(tuple(logp_T.tolist()))
        return self.spoil(Passed(tuple(losses), tuple(logprobs)))

    def optim_step(self, learning_rate, betas):
        self.rates.append(learning_rate)
        for group in self.optimizer.param_groups:
            group.update({"lr": learning_rate, "betas": betas})
        grads = [p.grad.norm() for p in self.model.parameters()]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        self.version += 1
        return float(torch.stack(grads).norm())

    def save(self, name):
        self.kept[name] = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        return name

    def load(self, path, version):
        weights, moments = copy.deepcopy(self.kept[path])
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(moments)
        self.version = version


@dataclass
class Double:
    """A service whose roles all begin as `model`."""

    model: object

    def create_role(self, rank, seed):
        return Client(copy.deepcopy(self.model).train(False))
