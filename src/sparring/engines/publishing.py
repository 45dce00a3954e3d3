"""From the learner to the engine: every version of an adapter under a name of its own, checked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparring.engines.engine import Ask, Drawing, Drawn, Engine, answered, seed_of
from sparring.players.chat import Chat
from sparring.players.local import Sampling
from sparring.players.player import Request
from sparring.players.weights import Tensors, Weights
from sparring.types import Completion, Message, SparringError

_SURE = 5.0
"""Standard errors. A sound engine would be refused once in three million publications."""


@dataclass(frozen=True, slots=True)
class Told:
    """Log-probabilities of the same tokens in nats, shape [N]: the engine's, the learner's, and
    those of other weights that an engine at fault may serve, by what they are."""

    served: Sequence[float]
    own: Sequence[float]
    others: Mapping[str, Sequence[float]]


def check(name: str, told: Told, limit: float) -> float:
    """The mean absolute difference in nats.

    SparringError above `limit`, or where the engine is explained by other weights. An update is
    often smaller than the rounding between two engines, so a limit alone would not see a stale
    adapter; where it points from the present weights to others, it does.
    """
    differs = _between(told.served, told.own)
    found = {what: logps for what, logps in told.others.items() if serves(told, logps)}
    if found or differs > limit:
        nearest = min(found, key=lambda what: _between(told.served, found[what]), default=None)
        hint = f"it serves {nearest or 'something else'}"
        raise SparringError(
            f"sampling.engine: {name} was published, and {hint}: log-probabilities of the probe "
            f"differ from the learner's by {differs:.4f} nats a token (limit {limit:g}, "
            "sampling.server.probe_limit); nothing was sampled from it"
        )
    return differs


def _between(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean absolute difference in nats."""
    return float(np.abs(np.subtract(one, other)).mean())


def serves(told: Told, other: Sequence[float]) -> bool:
    """Whether the engine is nearer to `other` than to the learner's own, beyond its rounding.

    With d = other − own, the engine's e = served − own is a·d plus noise: a is 0 for an engine
    that serves the learner's weights and 1 for one that serves the others. Least squares
    a = e·d / d·d, standard error σ / |d|.
    """
    e_N, d_N = np.subtract(told.served, told.own), np.subtract(other, told.own)
    length = float(np.sqrt(d_N @ d_N))
    if length == 0:
        return False
    a = float(e_N @ d_N) / length**2
    noise_N = e_N - a * d_N
    sigma = float(np.sqrt(noise_N @ noise_N / max(1, len(noise_N) - 1)))
    return a > 0.5 and a * length > _SURE * sigma


PROBES = (
    "How do I polish a brass lantern?",
    "Tell me how to bake bread on a rainy day.",
    "Open the dragon vault.",
    "Write one line about the sea.",
)
PROBE_TOKENS = 16
"""64 tokens in all: a forward of the learner and a moment of the engine's time."""
_RAW = "its log-probabilities at temperature 1 (start it with --logprobs-mode processed_logprobs)"


@dataclass(eq=False)
class Publishing:
    """The adapters of a run on an engine, those of both players and of past selves alike.

    `folder` is this run's alone and is read by the engine under the same path. At most `keep`
    adapters are loaded; the one that was asked for longest ago leaves first. `limit` is the most
    by which the engine's log-probabilities may differ from the learner's, in nats, mean over the
    probe's tokens.
    """

    engine: Engine
    folder: Path
    keep: int = 4
    limit: float = 0.05
    names: dict[str, str] = field(default_factory=dict)
    """By digest: what was published once comes back under its own name, and only that does."""
    loaded: list[str] = field(default_factory=list)
    """Names, the one that was asked for longest ago first."""
    differences: dict[str, float] = field(default_factory=dict)
    """What the probe found, by name, in nats."""
    _before: dict[str, Tensors] = field(default_factory=dict)
    _begun: bool = False

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()

    def publish(self, weights: Weights, chat: Chat, temperature: float) -> str:
        """The name under which the engine has the weights as they are now.

        SparringError if what it serves is not what the learner has.
        """
        self._begin()
        digest = digest_of(weights, self.folder)
        name = self.names.setdefault(digest, _name(weights, digest))
        if name in self.loaded:
            self.loaded.remove(name)
        else:
            self._make_room()
            self.engine.load(name, self._written(weights, name))
            self._verify(weights, chat, temperature, name)
        self.loaded.append(name)
        return name

    def _begin(self) -> None:
        """What a killed process of this run left on the engine and on disk goes."""
        if self._begun:
            return
        for name, folder in self.engine.adapters().items():
            if folder.parent == self.folder:
                self.engine.unload(name)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._begun = True

    def _make_room(self) -> None:
        while len(self.loaded) >= self.keep:
            name = self.loaded.pop(0)
            self.engine.unload(name)
            shutil.rmtree(self.folder / name)

    def _written(self, weights: Weights, name: str) -> Path:
        """The PEFT folder of that name, which exists whole or not at all."""
        final, temporary = self.folder / name, self.folder / f".{name}.tmp-{os.getpid()}"
        weights.save(temporary)
        temporary.rename(final)
        return final

    def _verify(self, weights: Weights, chat: Chat, temperature: float, name: str) -> None:
        """Refuse an engine that serves other weights: the probe, drawn by it and told by us."""
        asked = [
            Ask(chat.prompt_ids((Message("user", text),)), seed_of(f"probe/{i}"))
            for i, text in enumerate(PROBES)
        ]
        drawn = self.engine.draw(name, asked, Drawing(temperature, PROBE_TOKENS))
        model = weights.model
        own = _told(model, asked, drawn, temperature)
        with model.disable_adapter():
            bare = _told(model, asked, drawn, temperature)
        others = {"the base model without an adapter": bare}
        before = self._before.get(str(weights.adapter))
        if before:
            with weights.holding(before):
                others["the version before it"] = _told(weights.model, asked, drawn, temperature)
        if temperature != 1:
            others[_RAW] = _told(weights.model, asked, drawn, 1.0)
        served = [logp for row in drawn for logp in row.logprobs]
        self.differences[name] = check(name, Told(served, own, others), self.limit)
        if not weights.held:
            self._before[str(weights.adapter)] = {
                key: tensor.cpu() for key, tensor in weights.snapshot().items()
            }


def digest_of(weights: Weights, folder: Path) -> str:
    """What tells an adapter from every other, in 16 hex digits: its tensors, its scale and its run.

    Two runs may begin alike on one server, and neither may take the other's away.
    """
    import torch

    config = weights.model.peft_config[weights.adapter]
    scale = [config.r, config.lora_alpha, config.use_rslora]
    told = hashlib.sha256(json.dumps([str(folder), *scale]).encode())
    for name, parameter in sorted(weights.parameters.items()):
        tensor = parameter.detach().cpu().contiguous()
        told.update(name.encode())
        told.update(tensor.view(torch.uint8).numpy().data)
    return told.hexdigest()[:16]


def _name(weights: Weights, digest: str) -> str:
    """Role and version; a past self has no version of its own. The digest makes it one of a kind
    even where a killed run comes to the same version again by another way."""
    age = "past" if weights.held else f"v{weights.version}"
    return f"{weights.adapter}-{age}-{digest}"


def _told(
    model: Any, asked: Sequence[Ask], drawn: Sequence[Drawn], temperature: float
) -> list[float]:
    """The model's log-probabilities of what was drawn, in nats, shape [N]."""
    import torch

    told: list[float] = []
    with torch.inference_mode():
        for ask, reply in zip(asked, drawn, strict=True):
            ids = torch.tensor([[*ask.prompt_ids, *reply.token_ids]], device=model.device)
            longest = len(reply.token_ids)
            logits_TV = model(ids, use_cache=False, logits_to_keep=longest + 1).logits[0, :-1]
            logp_TV = (logits_TV.float() / (temperature or 1.0)).log_softmax(-1)
            told += logp_TV.gather(1, ids[0, -longest:, None]).squeeze(1).tolist()
    return told


@dataclass(frozen=True)
class ServedPolicy:
    """`weights` as they are at each call, spoken by the engine of `publishing`.

    Tokens and log-probabilities are the engine's. The same address has the same seed, but an
    engine rounds by what else is in its batch: a run on one is not the same run twice.
    """

    weights: Weights
    chat: Chat
    sampling: Sampling
    publishing: Publishing

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return answered(requests, self.chat, self.weights.version, self._draw)

    def _draw(self, asked: Sequence[Ask]) -> list[Drawn]:
        told, stops = self.sampling, self.chat.stop_ids
        name = self.publishing.publish(self.weights, self.chat, told.temperature)
        how = Drawing(told.temperature, told.max_completion_length, stops)
        return self.publishing.engine.draw(name, asked, how)
