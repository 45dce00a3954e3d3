"""Models under test, in this process or behind a URL, and the trained attacker they meet."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sparring.door import MANIFEST, identity, inside, sha256
from sparring.engines.engine import seed_of
from sparring.games.dialogue import Dialogue
from sparring.games.game import Game, reopened
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.judges.http import Server
from sparring.judges.model_judge import Answer, JudgeEngine, Question
from sparring.players import loading
from sparring.players.chat import Chat
from sparring.players.local import LocalPolicy
from sparring.players.player import Policy, Request, Sampling
from sparring.players.weights import Weights
from sparring.runs.models import at_commit, model_path
from sparring.runs.sources import packaged_briefs
from sparring.sandbox.model import check_same_base, language_of
from sparring.sandbox.world import World
from sparring.store.files import digest
from sparring.store.folder import RunDir
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits, from_environment
from sparring.types import Completion, Player, Status, UsageError


@dataclass(frozen=True)
class Candidate:
    """A model under test, by its name in samples and results.

    `card` distinguishes it from any other model and is part of the specification; `load` makes it
    ready to sample.
    """

    name: str
    card: Mapping[str, Any]
    load: Callable[[], Policy] = field(repr=False)


def load_policy(
    path: str,
    sampling: Sampling,
    revision: str | None = None,
    adapter: str | None = None,
    dtype: str = "auto",
) -> Policy:
    """Load a model in this process, at one commit if it is the hub's; perhaps with an adapter."""
    if adapter:
        check_same_base(Path(path), Path(adapter))
    model = loading.load_model(path, dtype, revision)
    chat = Chat.of(model, loading.load_tokenizer(path, revision), sampling.template_kwargs)
    if adapter:
        model = loading.load_adapter(model, adapter)
    return LocalPolicy(Weights(model), chat, sampling)


@dataclass(frozen=True)
class ServedModel:
    """A policy that asks `engine`'s model.

    The seed in a request depends on its address alone; a server may ignore it. A request that the
    server's filter blocks, or that is not answered, gives an empty completion with a status. A
    refusal that comes in a field of its own counts as the reply.
    """

    engine: JudgeEngine
    sampling: Sampling

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        template = self.sampling.template_kwargs
        how: dict[str, Any] = {"chat_template_kwargs": template} if template else {}
        how["temperature"] = self.sampling.temperature
        questions = [
            Question(
                request.observation,
                self.sampling.max_completion_length,
                sampling={**how, "seed": seed_of(address)},
            )
            for request in requests
            for address in request.addresses
        ]
        answers = iter(self.engine.answer(questions))
        return [[_completion(next(answers)) for _ in request.addresses] for request in requests]


def _completion(answer: Answer) -> Completion:
    if answer.status is Status.TRUNCATED and answer.text:
        return Completion(reopened(answer.text), finished=False)
    if answer.status in (Status.OK, Status.REFUSED):
        return Completion(reopened(answer.text))
    return Completion("", finished=False, status=answer.status)


@dataclass(frozen=True)
class ModelSettings:
    """Which models to test: folders, hub names or, behind `base_url`, a server's names.

    `adapters` belong to the only model; with `base` the model is tested without them too.
    `api_key_env` names the environment variable that holds the server's key, and `concurrency`
    bounds the requests under way. `trained_on` are files of seeds that a model was trained on,
    beside those of the run in whose folder it lies.
    """

    models: Sequence[str]
    sampling: Sampling
    adapters: Sequence[str] = ()
    base: bool = True
    revision: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    trained_on: Sequence[str] = ()
    concurrency: int = 32

    def __post_init__(self) -> None:
        if len({*self.models}) < len(self.models) or len({*self.adapters}) < len(self.adapters):
            raise UsageError("MODEL, --adapter: each may be named only once")
        if self.adapters and len(self.models) != 1:
            raise UsageError("--adapter: wanted one MODEL, which the adapters were trained on")
        if self.revision and len(self.models) != 1:
            raise UsageError("--revision: wanted one MODEL, of which it is a commit")

    def unfolded(self) -> tuple["ModelSettings", tuple[RunDir, dict[str, int]] | None]:
        """Put in a run's place its base and its defender at each exam whose checkpoint was kept.

        With the run, and after how many rounds each of its defenders was, by name.
        """
        if not any((Path(model) / "config.yaml").is_file() for model in self.models):
            return self, None
        if len(self.models) > 1 or self.adapters or self.revision or self.base_url:
            raise UsageError("MODEL: a run is tested by itself, without other models or adapters")
        run = RunDir.open(Path(self.models[0]))
        config, checkpoints = run.config, run.checkpoints
        numbers = [number for number in run.exams() if number in checkpoints.numbers()]
        owner, base = config.owner(Player.DEFENDER), config.defender.model_name_or_path
        folders = {f"{run.checkpoint(number) / owner}": number for number in numbers}
        if config.weights != "adapters":
            return replace(self, models=[base, *folders]), (run, folders)
        names = {f"{base} + {folder}": number for folder, number in folders.items()}
        revision = config.defender.revision
        return replace(self, models=[base], adapters=[*folders], revision=revision), (run, names)

    @property
    def bases(self) -> Sequence[str]:
        """The models that are tested without an adapter; they come first."""
        return self.models if self.base or not self.adapters else ()

    def revision_of(self, model: str) -> str | None:
        """Return the commit that was set, or the one of `model` that all adapters name as theirs.

        An adapter knows the commit of the base that it was trained on.
        """
        commits = {adapter: loading.base_revision(adapter, model) for adapter in self.adapters}
        trained_on = {adapter: commit for adapter, commit in commits.items() if commit}
        if not self.revision and len({*trained_on.values()}) > 1:
            raise UsageError(
                f"--adapter: trained on different commits of {model}: "
                f"{', '.join(f'{a} on {base}' for a, base in trained_on.items())}; give "
                "--revision, or test them apart"
            )
        return self.revision or next(iter(trained_on.values()), None)


def candidates(settings: ModelSettings) -> tuple[list[Candidate], list[str]]:
    """Return the models, checked but not loaded, and notes about the commits that were found."""
    return _served_candidates(settings) if settings.base_url else _local_candidates(settings)


def _local_candidates(settings: ModelSettings) -> tuple[list[Candidate], list[str]]:
    """Return the models of this process, each at one commit, and a note for each that was found."""
    models: list[Candidate] = []
    notes: list[str] = []
    for name in settings.models:
        path = model_path(name)
        revision = settings.revision_of(name)
        folder, commit = Path(path).expanduser(), loading.commit(path, revision)
        if revision != settings.revision:
            notes.append(f"{name} is taken at commit {commit}, on which the adapters were trained")
        elif commit != revision:
            notes.append(at_commit(name, revision, commit))
        weights = digest(identity(folder)) if folder.is_dir() else None
        card = {"kind": "local", "revision": commit, "digest": weights}
        without: Sequence[str | None] = [None] if name in settings.bases else []
        for adapter in (*without, *settings.adapters):
            full_name = f"{name} + {adapter}" if adapter else name
            adapted = adapter and digest(identity(Path(adapter)))
            load = partial(load_policy, path, settings.sampling, commit, adapter)
            own = {"name": full_name, **card, "adapter": adapted}
            models.append(Candidate(full_name, own, load))
    return models, notes


def _served_candidates(settings: ModelSettings) -> tuple[list[Candidate], list[str]]:
    """Return models behind one URL; an adapter is a model by the name the server knows it by."""
    key = from_environment(settings.api_key_env, os.environ, "--api-key-env")
    if settings.revision:
        raise UsageError("--revision: is the server's to choose; leave it out with --base-url")
    address = Address(settings.base_url or "", "--base-url", permit="")
    models, limits = [], Limits(concurrency=settings.concurrency)
    for name in (*settings.bases, *settings.adapters):
        card = {"name": name, "kind": "served", "base_url": address.shown}
        card |= {"adapter": name} if name in settings.adapters else {}
        server = Server(Client(address, key=key, limits=limits), name)
        models.append(Candidate(name, card, partial(_served, server, settings.sampling)))
    return models, []


def _served(server: Server, sampling: Sampling) -> Policy:
    server.client.greet()
    return ServedModel(server, sampling)


def attacker_of(run: RunDir, number: int | None = None) -> tuple[Candidate, Game]:
    """Return the attacker after `number` rounds, or after the last, and a game to replay it in.

    The game has the run's briefs and number of exchanges and no gate, so every attack is answered.
    UsageError if none was kept.
    """
    checkpoints, config = run.checkpoints, run.config
    at = checkpoints.at(number)
    folder, base = checkpoints.path(at), config.attacker
    settings = config.sampling.fields_of(Sampling)
    sampling = Sampling(**settings, template_kwargs=base.chat_template_kwargs)

    def load() -> Policy:
        checkpoints.verify(at)
        if config.weights == "adapters":  # a checkpoint holds adapters without their base
            run.check_models()
            path, adapter = model_path(base.model_name_or_path), str(folder / Player.ATTACKER)
            return load_policy(path, sampling, base.revision, adapter, base.dtype)
        return load_policy(str(folder / config.owner(Player.ATTACKER)), sampling)

    briefs = packaged_briefs(config.game.exchanges)
    if config.in_sandbox:
        briefs = World(language_of(Path(model_path(config.defender.model_name_or_path)))).briefs
    game = Dialogue(LabelPayoff(MAGIC), briefs, gate=False, exchanges=config.game.exchanges)
    manifest = sha256(inside(folder, MANIFEST))
    card = {"run": run.folder.name, "rounds": at, "manifest_sha256": manifest}
    return Candidate(Player.ATTACKER, card, load), game
