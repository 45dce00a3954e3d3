"""A trained attacker's rewrites of a task's seeds, made once and met by every model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sparring.checkpoint import sha256
from sparring.evaluating.asking import Batch, Sets
from sparring.evaluating.models import Local
from sparring.evaluating.samples import Key, Row
from sparring.games.dialogue import Dialogue
from sparring.games.game import Game
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.games.tags import answer_of
from sparring.policies.local import Sampling
from sparring.policies.policy import Policy, Request
from sparring.recipes.parts import model_path, packaged_briefs
from sparring.records import RunDir
from sparring.sandbox.model import language_of
from sparring.sandbox.world import World
from sparring.settings import RunConfig
from sparring.types import Completion, Move, Player, Seed, State

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
        return State(seed, (Move(Player.ATTACKER, (), Completion(text)),))
    return State(seed).deal(Player.ATTACKER, told)
