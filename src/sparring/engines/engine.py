"""What a sampling engine answers: tokens drawn from one base model under a named adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sparring.players.chat import Chat
from sparring.players.player import Request
from sparring.types import Completion


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt, and the seed of the one completion that is wanted of it."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """How tokens are drawn. `stop_ids` end a completion and are part of it; `longest` in tokens."""

    temperature: float
    longest: int
    stop_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tokens of a completion, shape [T], and what the engine says of their log-probabilities
    (nats, temperature applied), shape [T]."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Engine(Protocol):
    """Holds a base model and adapters; knows nothing of roles, versions or chat."""

    def adapters(self) -> Mapping[str, Path]:
        """The adapters that can be asked for, by name, and the folder each was read from."""
        ...

    def load(self, name: str, folder: Path) -> None:
        """Make the PEFT folder askable as `name`, which must be new."""
        ...

    def unload(self, name: str) -> None:
        """Let go of an adapter."""
        ...

    def draw(self, name: str, asked: Sequence[Ask], how: Drawing) -> list[Drawn]:
        """One completion for each, in order, from the adapter called `name`."""
        ...


def seed_of(address: str) -> int:
    """The seed of an address of randomness, in [0, 2⁶³): the widest a server takes."""
    spelled = address.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(spelled).digest()[:8], "little") >> 1


def answered(
    requests: Sequence[Request],
    chat: Chat,
    version: int,
    draw: Callable[[Sequence[Ask]], Sequence[Drawn]],
) -> list[list[Completion]]:
    """What `draw` says to every request, through `chat`."""
    prompts = chat.prompts([request.observation for request in requests])
    asked = [
        Ask(prompt, seed_of(address))
        for prompt, request in zip(prompts, requests, strict=True)
        for address in request.addresses
    ]
    drawn = iter(draw(asked) if asked else ())

    def completion(prompt: tuple[int, ...], told: Drawn) -> Completion:
        return Completion(
            text=chat.text(told.token_ids),
            token_ids=told.token_ids,
            logprobs=told.logprobs,
            prompt_ids=prompt,
            version=version,
            finished=told.token_ids[-1] in chat.stop_ids,
        )

    return [
        [completion(prompt, next(drawn)) for _ in request.addresses]
        for prompt, request in zip(prompts, requests, strict=True)
    ]
