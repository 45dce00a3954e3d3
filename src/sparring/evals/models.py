"""Models under test, in this process or behind a URL, and the trained attacker they meet."""

from __future__ import annotations

import gc
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from sparring.engines.engine import seed_of
from sparring.evals.folder import Key, Row
from sparring.evals.paper import Batch, Sets
from sparring.games.dialogue import Dialogue
from sparring.games.game import Game, answer_of
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
from sparring.runs.parts import at_commit, model_path, packaged_briefs
from sparring.sandbox.model import language_of
from sparring.sandbox.world import World
from sparring.settings.config import RunConfig
from sparring.store.files import sha256
from sparring.store.folder import RunDir
from sparring.transport.client import Client
from sparring.types import Completion, Move, Observation, Player, Seed, State, Status, UsageError


@dataclass(frozen=True)
class Remote:
    """`engine`'s model at `temperature`, up to `max_completion_length` tokens.

    The seed that a request carries depends on its address alone; a server may do with it what it
    likes. What the server's filter blocks, or does not answer, has a status and no text; a refusal
    that is told apart from text is the reply.
    """

    engine: JudgeEngine
    temperature: float = 1.0
    max_completion_length: int = 512

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        asked = [self._ask(r.observation, address) for r in requests for address in r.addresses]
        told = iter(self.engine.answer(asked) if asked else [])
        return [[_completion(next(told)) for _ in request.addresses] for request in requests]

    def _ask(self, observation: Observation, address: str) -> Question:
        sampling = {"temperature": self.temperature, "seed": seed_of(address)}
        return Question(observation, self.max_completion_length, sampling=sampling)


def _completion(answer: Answer) -> Completion:
    if answer.status is Status.TRUNCATED and answer.text:
        return Completion(answer.text, finished=False)
    if answer.status in (Status.OK, Status.REFUSED):
        return Completion(answer.text)
    return Completion("", finished=False, status=answer.status)


_WHOLE = 64 * 2**20
_END = 2**20


class Candidate(Protocol):
    """A model that can be asked."""

    @property
    def name(self) -> str:
        """How samples and results name it."""
        ...

    def card(self) -> dict[str, Any]:
        """What tells it from any other; part of what was asked."""
        ...

    def open(self) -> AbstractContextManager[Policy]:
        """Ready to speak within the block."""
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
        freed()


@dataclass(frozen=True)
class Served:
    """A model that a server knows by `model`; `shown` is where, without what might be secret."""

    model: str
    server: Server = field(repr=False)
    shown: str
    sampling: Sampling

    @property
    def name(self) -> str:
        return self.model

    def card(self) -> dict[str, Any]:
        return {"name": self.model, "kind": "served", "base_url": self.shown}

    @contextmanager
    def open(self) -> Iterator[Policy]:
        told = self.sampling
        yield Remote(self.server, told.temperature, told.max_completion_length)


@dataclass(frozen=True)
class Wanted:
    """Models as they were asked for; `base` false leaves the base out beside its adapters."""

    models: Sequence[str]
    adapters: Sequence[str]
    sampling: Sampling
    revision: str | None = None
    base: bool = True

    def __post_init__(self) -> None:
        if len({*self.models}) < len(self.models) or len({*self.adapters}) < len(self.adapters):
            raise UsageError("MODEL: the same one is asked for twice")
        if self.adapters and len(self.models) != 1:
            raise UsageError("--adapter: wanted one MODEL, which they belong to")
        if self.revision and len(self.models) != 1:
            raise UsageError("--revision: wanted one MODEL, which it is of")

    def revision_of(self, model: str) -> str | None:
        """The commit asked for, or the one of `model` that all adapters say they are trained on."""
        known = {a: told for a in self.adapters if (told := base_revision(a, model))}
        if not self.revision and len({*known.values()}) > 1:
            raise UsageError(
                f"--adapter: trained on different commits of {model}: "
                f"{', '.join(f'{a} on {told}' for a, told in known.items())}; give --revision, or "
                "test them apart"
            )
        return self.revision or next(iter(known.values()), None)


def local(wanted: Wanted) -> tuple[list[Candidate], list[str]]:
    """Candidates at one commit each, checked but not loaded; and what to say of commits found.

    An adapter knows the commit of the base that it was trained on. The base comes first.
    """
    told: list[Candidate] = []
    notes: list[str] = []
    for name in wanted.models:
        now = commit(model_path(name), wanted.revision_of(name))
        notes += [at_commit(name, wanted.revision, now)] if now != wanted.revision else []
        if wanted.base or not wanted.adapters:
            told.append(Local(name, wanted.sampling, now))
        told += [Local(name, wanted.sampling, now, adapter) for adapter in wanted.adapters]
    return told, notes


def served(wanted: Wanted, client: Client) -> list[Candidate]:
    """Candidates behind one URL; an adapter is a model by the name the server knows it by."""
    if wanted.revision:
        raise UsageError("--revision: is the server's to choose; leave it out with --base-url")
    names = [*(wanted.models if wanted.base or not wanted.adapters else ()), *wanted.adapters]
    return [
        Served(name, Server(replace(client), name), client.address.shown, wanted.sampling)
        for name in names
    ]


def quick_digest(folder: Path) -> str:
    """What tells a folder's models apart, in a second: files whole up to 64 MB, larger ones by
    size, first and last MB. Training changes every part of a weight file.
    """
    found = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors")):
        size = path.stat().st_size
        found.update(f"{path.name} {size} ".encode())
        found.update(sha256(path).encode() if size <= _WHOLE else _ends(path, size))
    return found.hexdigest()


def _ends(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        first = file.read(_END)
        file.seek(size - _END)
        return first + file.read()


def freed() -> None:
    """Give the memory of a model that nobody holds any more back."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


ATTACKER = "attacker"


@dataclass(frozen=True)
class Attacker:
    """The attacker of `run` after `number` rounds."""

    run: RunDir
    number: int

    def card(self) -> dict[str, Any]:
        folder = self.run.checkpoints.path(self.number)
        return {
            "run": self.run.folder.name,
            "rounds": self.number,
            "manifest_sha256": sha256(folder / "MANIFEST.json"),
        }

    @contextmanager
    def open(self) -> Iterator[Rewriting]:
        """Ready to rewrite within the block; of the run only the attacker is loaded."""
        self.run.checkpoints.verify(self.number)
        config = self.run.config
        folder = self.run.checkpoints.path(self.number)
        with _seated(config, folder).open() as policy:
            yield Rewriting(_game(config), policy)


def _seated(config: RunConfig, folder: Path) -> Local:
    """Whole weights lie in the checkpoint with their tokenizer, adapters without their base."""
    told = config.sampling.model_dump(include={one.name for one in fields(Sampling)})
    sampling = Sampling(**told)
    if config.weights == "adapters":
        base, revision = config.attacker.model_name_or_path, config.attacker.revision
        return Local(base, sampling, revision, str(folder / Player.ATTACKER))
    return Local(str(folder / config.owner(Player.ATTACKER)), sampling)


def _game(config: RunConfig) -> Game:
    """The rules as far as an attacker sees them: its brief."""
    briefs = packaged_briefs(config.game.exchanges)
    if config.in_sandbox:
        path = Path(model_path(config.defender.model_name_or_path))
        briefs = World(language_of(path)).briefs
    return Dialogue(LabelPayoff(MAGIC), briefs, gate=False, exchanges=config.game.exchanges)


def attacker_of(run: RunDir, number: int | None = None) -> Attacker:
    """The attacker after `number` rounds, or after the last; UsageError if none was kept."""
    return Attacker(run, run.checkpoints.at(number))


@dataclass(frozen=True)
class Rewriting:
    """An attacker's first move in the game it was trained in."""

    game: Game
    policy: Policy

    def ask(self, batch: Batch) -> list[Row]:
        """What it says to each seed of the batch, with its thought: untrusted text."""
        asked = [
            Request(self.game.observe(state), (f"{batch.address}/{ATTACKER}/{name}",))
            for name, state in zip(batch.names, batch.openings.values(), strict=True)
        ]
        said = self.policy.sample(asked)
        keys = batch.keys(ATTACKER)
        return [_row(key, told.text) for key, (told,) in zip(keys, said, strict=True)]


def _row(key: Key, text: str) -> Row:
    return dict(zip(("model", "set", "place", "draw", "text"), (*key, text), strict=True))


def dealt(undealt: Sets, texts: Mapping[Key, str]) -> Sets:
    """The openings that rewrites make of seeds."""
    return {
        name: [
            [
                opening(state.seed, texts[ATTACKER, name, place, draw])
                for place, state in enumerate(states)
            ]
            for draw, states in enumerate(draws)
        ]
        for name, draws in undealt.items()
    }


def opening(seed: Seed, text: str) -> State:
    """A rewrite on the table; one that does not parse is never sent, and its game is over."""
    told = answer_of(text)
    if told is None:
        return State(seed, (Move(Player.ATTACKER, (), Completion(text), None),))
    return State(seed).deal(Player.ATTACKER, told)
