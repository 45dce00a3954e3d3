"""A sampling engine, and every version of an adapter published to it under a name of its own."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch

from sparring.players.chat import Chat
from sparring.players.logprobs import logprobs, pad
from sparring.players.player import Request, Sampling
from sparring.players.ranks import ALONE, Ranks
from sparring.players.trials import Row
from sparring.players.weights import Tensors, Weights
from sparring.types import TOO_LONG, Completion, Message, SparringError, UsageError


@dataclass(frozen=True, slots=True)
class SeededPrompt:
    """A prompt, and the seed of the one completion that is drawn for it."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an engine draws tokens. `stop_ids` end a completion and are part of it."""

    temperature: float
    max_completion_length: int
    stop_ids: frozenset[int] = frozenset()


class Drawn(NamedTuple):
    """The tokens of a completion, shape [T], and the engine's log-probabilities of them (nats,
    temperature applied), shape [T]. Without tokens: the engine's context cannot hold the prompt."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @classmethod
    def checked(
        cls, source: str, token_ids: Sequence[int], logprobs: Sequence[Any], how: Decoding
    ) -> Self:
        """What `source` drew; UsageError where it is not what was requested.

        Training uses these ids and numbers, so a number that is missing is not made up.
        """
        longest = how.max_completion_length
        numbers = all(isinstance(p, int | float) and -math.inf < p <= 1e-3 for p in logprobs)
        if len(token_ids) != len(logprobs) or not numbers or not 0 < len(token_ids) <= longest:
            raise UsageError(
                f"{source}: {len(token_ids)} tokens with {len(logprobs)} log-probabilities came "
                f"back; wanted 1 to {longest} tokens and a number at most 0 for each"
            )
        return cls(tuple(token_ids), tuple(min(0.0, float(p)) for p in logprobs))


class SamplingEngine(Protocol):
    """Holds a base model and adapters; knows nothing of roles, versions or chat."""

    def adapters(self) -> Mapping[str, Path]:
        """The adapters that are loaded, by name, and the folder each was read from."""

    def load(self, name: str, folder: Path) -> None:
        """Load the PEFT folder as the adapter `name`, which must be new."""

    def unload(self, name: str) -> None:
        """Let go of an adapter."""

    def draw(self, name: str, prompts: Sequence[SeededPrompt], how: Decoding) -> list[Drawn]:
        """One completion for each prompt, in order, from the adapter called `name`."""


def seed_of(address: str) -> int:
    """The seed of an address of randomness, in [0, 2⁶³): the widest a server takes."""
    spelled = address.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(spelled).digest()[:8], "little") >> 1


def completions(
    requests: Sequence[Request],
    chat: Chat,
    sampling: Sampling,
    version: int,
    draw: Callable[[Sequence[SeededPrompt], Decoding], Sequence[Drawn]],
) -> list[list[Completion]]:
    """The completions that `draw` gives for every request, through `chat`, as `sampling` says.

    An engine is asked for whole completions only, so prompt and completion must fit the context.
    """
    prompts = chat.prompts([request.observation for request in requests])
    longest = chat.context - sampling.max_completion_length
    seeded = [
        SeededPrompt(prompt, seed_of(address))
        for prompt, request in zip(prompts, requests, strict=True)
        for address in request.addresses
        if len(prompt) <= longest
    ]
    how = Decoding(sampling.temperature, sampling.max_completion_length, chat.stop_ids)
    drawn = iter(draw(seeded, how) if seeded else ())

    def completion(prompt: tuple[int, ...]) -> Completion:
        tokens, logps = next(drawn) if len(prompt) <= longest else ((), ())
        return chat.completion(prompt, tokens, logps, version) if tokens else TOO_LONG

    return [
        [completion(prompt) for _ in request.addresses]
        for prompt, request in zip(prompts, requests, strict=True)
    ]


_SURE = 5.0
"""Standard errors. A sound engine would be refused once in three million publications."""


def check(
    name: str,
    served: Sequence[float],
    own: Sequence[float],
    others: Mapping[str, Sequence[float]],
    limit: float,
) -> float:
    """The mean absolute difference in nats of the engine's log-probabilities from the learner's.

    `served` and `own` are of the same tokens, shape [N], in nats; `others`, by what they are, are
    those of weights that an engine at fault may serve. SparringError above `limit`, or where the
    engine is explained by other weights. An update is often smaller than the rounding between two
    engines, so a limit alone would not see a stale adapter; where it points from the present
    weights to others, it does.
    """

    def difference(logps: Sequence[float]) -> float:
        return float(np.abs(np.subtract(served, logps)).mean())

    wrong = [what for what, logps in others.items() if serves(served, own, logps)]
    if wrong or difference(own) > limit:
        nearest = min(wrong, key=lambda what: difference(others[what]), default="something else")
        raise SparringError(
            f"sampling.engine: {name} was published, and it serves {nearest}: log-probabilities of "
            f"the probe differ from the learner's by {difference(own):.4f} nats a token (limit "
            f"{limit:g}, sampling.server.probe_limit); nothing was sampled from it"
        )
    return difference(own)


def serves(served: Sequence[float], own: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the engine is nearer to `other` than to the learner's own, beyond its rounding.

    With d = other − own, the engine's e = served − own is a·d plus noise: a is 0 for an engine
    that serves the learner's weights and 1 for one that serves the others. Least squares
    a = e·d / d·d, standard error σ / |d|.
    """
    e_N, d_N = np.subtract(served, own), np.subtract(other, own)
    length = np.linalg.norm(d_N)
    if length == 0:
        return False
    a = e_N @ d_N / length**2
    sigma = np.linalg.norm(e_N - a * d_N) / math.sqrt(max(1, len(e_N) - 1))
    return bool(a > 0.5 and a * length > _SURE * sigma)


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
    adapters are loaded; the least recently used one leaves first. `limit` is the most by which
    the engine's log-probabilities may differ from the learner's, in nats, mean over the probe's
    tokens.

    The first of several `ranks` writes every adapter, and hands it to the engine that they share;
    with `one_each` every rank hands it to an engine of its own. All call `publish` together.
    """

    engine: SamplingEngine
    folder: Path
    keep: int = 4
    limit: float = 0.05
    ranks: Ranks = ALONE
    one_each: bool = False
    names: dict[str, str] = field(default_factory=dict)
    """By digest: what was published once comes back under its own name, and only that does."""
    loaded: list[str] = field(default_factory=list)
    """Names, the least recently used one first."""
    differences: dict[str, float] = field(default_factory=dict)
    """How far the engine was from the learner on the probe, by name, in nats."""
    _before: dict[str, Tensors] = field(default_factory=dict)
    _begun: bool = False

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()

    def publish(self, weights: Weights, chat: Chat, temperature: float) -> str:
        """The name under which the engine has the weights as they are now.

        SparringError if what it serves is not what the learner has.
        """
        writes = self.ranks.index == 0
        hands_over = writes or self.one_each
        if not self._begun and writes:  # what a killed process of this run left behind goes
            for name, folder in self.engine.adapters().items():
                if folder.parent == self.folder:
                    self.engine.unload(name)
            shutil.rmtree(self.folder, ignore_errors=True)
        self._begun = True
        digest = self.ranks.gather(digest_of(weights, self.folder))[0]
        # Role and version; a past self has no version of its own. The digest makes the name unique
        # even where a killed run comes to the same version again by another way.
        age = "past" if weights.held else f"v{weights.version}"
        name = self.names.setdefault(digest, f"{weights.adapter}-{age}-{digest}")
        if name in self.loaded:
            self.loaded.remove(name)
        else:
            while len(self.loaded) >= self.keep:
                oldest = self.loaded.pop(0)
                if hands_over:
                    self.engine.unload(oldest)
                if writes:
                    shutil.rmtree(self.folder / oldest)
            if writes:
                weights.save(self.folder / name)
            self.ranks.gather(None)  # the folder is whole
            if hands_over:
                self.engine.load(name, self.folder / name)
            self.ranks.gather(None)  # a shared engine has it
            if hands_over:
                self._verify(weights, chat, temperature, name)
        self.loaded.append(name)
        return name

    def _verify(self, weights: Weights, chat: Chat, temperature: float, name: str) -> None:
        """Refuse an engine that serves other weights: it draws the probe, the learner scores it."""
        prompts = [
            SeededPrompt(chat.prompt_ids((Message("user", text),)), seed_of(f"probe/{i}"))
            for i, text in enumerate(PROBES)
        ]
        drawn = self.engine.draw(name, prompts, Decoding(temperature, PROBE_TOKENS))
        model, role = weights.model, str(weights.adapter)
        rows = [(p.prompt_ids, d.token_ids) for p, d in zip(prompts, drawn, strict=True)]
        own = _scored(model, rows, temperature)
        with model.disable_adapter():
            others = {"the base model without an adapter": _scored(model, rows, temperature)}
        if role in self._before:
            with weights.holding(self._before[role]):
                others["the version before it"] = _scored(model, rows, temperature)
        if temperature != 1:
            others[_RAW] = _scored(model, rows, 1.0)
        served = [logp for reply in drawn for logp in reply.logprobs]
        self.differences[name] = check(name, served, own, others, self.limit)
        if not weights.held:
            self._before[role] = {key: t.cpu() for key, t in weights.snapshot().items()}


def digest_of(weights: Weights, folder: Path) -> str:
    """What tells an adapter from every other, in 16 hex digits: its tensors, its scale and its run.

    Two runs may begin alike on one server, and neither may take the other's away.
    """
    config = weights.model.peft_config[weights.adapter]
    named = [str(folder), config.r, config.lora_alpha, config.use_rslora]
    digest = hashlib.sha256(json.dumps(named).encode())
    for name, parameter in sorted(weights.parameters.items()):
        tensor = parameter.detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _scored(model: Any, rows: Sequence[Row], temperature: float) -> list[float]:
    """The model's log-probabilities of the tokens that were drawn, in nats, shape [N]."""
    batch = pad(rows, range(len(rows)), 0, model.device)
    with torch.no_grad():
        logp_BT = logprobs(model, batch, temperature)
    return list(logp_BT[batch.mask_BT.bool()].tolist())


@dataclass(frozen=True)
class ServedPolicy:
    """A policy that samples `weights`, as they are at each call, on the engine of `publishing`.

    Tokens and log-probabilities are the engine's. The same address has the same seed, but an
    engine rounds by what else is in its batch: a run on one is not the same run twice.
    """

    weights: Weights
    chat: Chat
    sampling: Sampling
    publishing: Publishing

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        name = ""
        # Of several processes also those publish that have nothing to sample themselves.
        if any(r.addresses for r in requests) or self.publishing.ranks.size > 1:
            name = self.publishing.publish(self.weights, self.chat, self.sampling.temperature)
        draw = partial(self.publishing.engine.draw, name)
        return completions(requests, self.chat, self.sampling, self.weights.version, draw)
