"""Models under test, in this process or behind a URL, and the trained attacker they meet."""

from __future__ import annotations

import gc
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from sparring.engines.engine import seed_of
from sparring.games.dialogue import Dialogue
from sparring.games.game import Game
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.judges.http import Server
from sparring.judges.model_judge import Answer, JudgeEngine, Question
from sparring.players.chat import Chat
from sparring.players.loading import (
    base_revision,
    commit,
    load_adapter,
    load_model,
    load_tokenizer,
    stop_ids,
)
from sparring.players.local import LocalPolicy
from sparring.players.player import Policy, Request, Sampling
from sparring.players.weights import Weights
from sparring.runs.models import at_commit, model_path
from sparring.runs.sources import packaged_briefs
from sparring.sandbox.model import language_of
from sparring.sandbox.world import World
from sparring.store.files import sha256
from sparring.store.folder import RunDir
from sparring.transport.client import Client
from sparring.transport.guard import Address, from_environment
from sparring.types import Completion, Player, Status, UsageError

_WHOLE = 64 * 2**20
_END = 2**20


class Candidate(Protocol):
    """A model under test."""

    @property
    def name(self) -> str:
        """The model's name in samples and results."""
        ...

    def card(self) -> dict[str, Any]:
        """Return what distinguishes it from any other model; part of the specification."""
        ...

    def open(self) -> AbstractContextManager[Policy]:
        """Load it, ready to sample within the block."""
        ...


@dataclass(frozen=True)
class Local:
    """A model in this process, at one commit if it is the hub's; perhaps with an adapter."""

    model: str
    sampling: Sampling
    revision: str | None = None
    adapter: str | None = None

    @property
    def name(self) -> str:
        return f"{self.model} + {self.adapter}" if self.adapter else self.model

    def card(self) -> dict[str, Any]:
        path = Path(model_path(self.model)).expanduser()
        return {
            "name": self.name,
            "kind": "local",
            "revision": self.revision,
            "digest": quick_digest(path) if path.is_dir() else None,
            "adapter": self.adapter and quick_digest(Path(self.adapter)),
        }

    @contextmanager
    def open(self) -> Iterator[Policy]:
        path = model_path(self.model)
        model = load_model(path, revision=self.revision)
        chat = Chat(load_tokenizer(path, self.revision), stop_ids(model))
        if self.adapter:
            model = load_adapter(model, self.adapter)
        yield LocalPolicy(Weights(model), chat, self.sampling)
        del model
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class Served:
    """A model that a server knows by `name`."""

    name: str
    server: Server = field(repr=False)
    sampling: Sampling

    def card(self) -> dict[str, Any]:
        return {"name": self.name, "kind": "served", "base_url": self.server.client.address.shown}

    @contextmanager
    def open(self) -> Iterator[Policy]:
        sampling = self.sampling
        yield Remote(self.server, sampling.temperature, sampling.max_completion_length)


@dataclass(frozen=True)
class Remote:
    """A policy that asks `engine`'s model.

    The seed in a request depends on its address alone; a server may ignore it. What the server's
    filter blocks, or does not answer, has a status and no text; a refusal that comes in a field of
    its own is the reply.
    """

    engine: JudgeEngine
    temperature: float = 1.0
    max_completion_length: int = 512

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        asks = [
            Question(
                request.observation,
                self.max_completion_length,
                sampling={"temperature": self.temperature, "seed": seed_of(address)},
            )
            for request in requests
            for address in request.addresses
        ]
        answers = iter(self.engine.answer(asks) if asks else [])
        return [[_completion(next(answers)) for _ in request.addresses] for request in requests]


def _completion(answer: Answer) -> Completion:
    if answer.status is Status.TRUNCATED and answer.text:
        return Completion(answer.text, finished=False)
    if answer.status in (Status.OK, Status.REFUSED):
        return Completion(answer.text)
    return Completion("", finished=False, status=answer.status)


@dataclass(frozen=True)
class ModelSettings:
    """Which models to test: folders, hub names or, behind `base_url`, a server's names.

    `adapters` belong to the only model; with `base` the model is tested without them too.
    `api_key_env` names the environment variable that holds the server's key.
    """

    models: Sequence[str]
    sampling: Sampling
    adapters: Sequence[str] = ()
    base: bool = True
    revision: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None

    def __post_init__(self) -> None:
        if len({*self.models}) < len(self.models) or len({*self.adapters}) < len(self.adapters):
            raise UsageError("MODEL: the same one is asked for twice")
        if self.adapters and len(self.models) != 1:
            raise UsageError("--adapter: wanted one MODEL, which they belong to")
        if self.revision and len(self.models) != 1:
            raise UsageError("--revision: wanted one MODEL, which it is of")

    @property
    def bases(self) -> Sequence[str]:
        """The models that are tested without an adapter; they come first."""
        return self.models if self.base or not self.adapters else ()

    def revision_of(self, model: str) -> str | None:
        """Return the commit that was set, or the one of `model` that all adapters name as theirs.

        An adapter knows the commit of the base that it was trained on.
        """
        trained_on = {a: base for a in self.adapters if (base := base_revision(a, model))}
        if not self.revision and len({*trained_on.values()}) > 1:
            raise UsageError(
                f"--adapter: trained on different commits of {model}: "
                f"{', '.join(f'{a} on {base}' for a, base in trained_on.items())}; give "
                "--revision, or test them apart"
            )
        return self.revision or next(iter(trained_on.values()), None)


def candidates(settings: ModelSettings) -> tuple[list[Candidate], list[str]]:
    """Return the models, checked but not loaded, and notes about the commits that were found."""
    return served(settings) if settings.base_url else local(settings)


def local(settings: ModelSettings) -> tuple[list[Candidate], list[str]]:
    """Return the models of this process, each at one commit, and a note for each that was found."""
    models: list[Candidate] = []
    notes: list[str] = []
    for name in settings.models:
        now = commit(model_path(name), settings.revision_of(name))
        notes += [at_commit(name, settings.revision, now)] if now != settings.revision else []
        if name in settings.bases:
            models.append(Local(name, settings.sampling, now))
        models += [Local(name, settings.sampling, now, path) for path in settings.adapters]
    return models, notes


def served(settings: ModelSettings) -> tuple[list[Candidate], list[str]]:
    """Return models behind one URL; an adapter is a model by the name the server knows it by."""
    key = from_environment(settings.api_key_env, os.environ, "--api-key-env")
    if settings.revision:
        raise UsageError("--revision: is the server's to choose; leave it out with --base-url")
    address = Address(settings.base_url or "", "--base-url", permit="")
    return [
        Served(name, Server(Client(address, key=key), name), settings.sampling)
        for name in (*settings.bases, *settings.adapters)
    ], []


def quick_digest(folder: Path) -> str:
    """Return what distinguishes a folder's models, in a second.

    Files count whole up to 64 MB, larger ones by size, first and last MB: training changes every
    part of a weight file.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        digest.update(sha256(path).encode() if size <= _WHOLE else _ends(path, size))
    return digest.hexdigest()


def _ends(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        first = file.read(_END)
        file.seek(size - _END)
        return first + file.read()


@dataclass(frozen=True)
class Attacker:
    """The attacker of `run` after `number` rounds."""

    run: RunDir
    number: int

    def card(self) -> dict[str, Any]:
        """Return what distinguishes it from any other attacker."""
        folder = self.run.checkpoints.path(self.number)
        return {
            "run": self.run.folder.name,
            "rounds": self.number,
            "manifest_sha256": sha256(folder / "MANIFEST.json"),
        }

    @contextmanager
    def open(self) -> Iterator[tuple[Game, Policy]]:
        """Load it within the block, with the game it was trained in; nothing else is loaded."""
        self.run.checkpoints.verify(self.number)
        config = self.run.config
        folder = self.run.checkpoints.path(self.number)
        names = {field.name for field in fields(Sampling)}
        sampling = Sampling(**config.sampling.model_dump(include=names))
        if config.weights == "adapters":  # a checkpoint holds adapters without their base
            base, revision = config.attacker.model_name_or_path, config.attacker.revision
            player = Local(base, sampling, revision, str(folder / Player.ATTACKER))
        else:
            player = Local(str(folder / config.owner(Player.ATTACKER)), sampling)
        briefs = packaged_briefs(config.game.exchanges)
        if config.in_sandbox:
            path = Path(model_path(config.defender.model_name_or_path))
            briefs = World(language_of(path)).briefs
        exchanges = config.game.exchanges
        with player.open() as policy:
            yield Dialogue(LabelPayoff(MAGIC), briefs, gate=False, exchanges=exchanges), policy


def attacker_of(run: RunDir, number: int | None = None) -> Attacker:
    """Return the attacker after `number` rounds, or after the last; UsageError if none was kept."""
    return Attacker(run, run.checkpoints.at(number))
