"""The models of a run: found at one commit, loaded, given adapters, and made into trainers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparring.engines.engine import Publishing, SamplingEngine, ServedPolicy
from sparring.engines.vllm import VllmHere, VllmServer
from sparring.estimate.estimate import GIB, MOST_TOKENS
from sparring.estimate.fitting import MICRO_BATCH, micro_batch_that_fits
from sparring.players.chat import Chat
from sparring.players.fast import recompute
from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.loading import commit, context_of, load_model, load_tokenizer, stop_ids
from sparring.players.local import LocalPolicy
from sparring.players.player import Policy, Sampling
from sparring.players.ranks import Ranks, free_memory, shard, sharding_requested
from sparring.players.trainer import Trainer
from sparring.players.weights import LearningRate, Optimizer, Weights, adapters
from sparring.sandbox.model import CARD, SHIPPED
from sparring.settings.config import RunConfig, with_values
from sparring.settings.sections import SANDBOX, PlayerSettings
from sparring.types import Player, UsageError

Loaded = Mapping[Player, tuple[Any, Any]]
"""Models with their tokenizers that a program has loaded itself, by player."""


def model_path(name: str) -> str:
    """The folder or hub name to load a model from; `sandbox` is the shipped one."""
    return str(SHIPPED) if name == SANDBOX else name


def pinned(config: RunConfig, loaded: Loaded) -> tuple[RunConfig, list[str]]:
    """The configuration with the commit of every hub model, and a note for each one looked up.

    This is what a run writes down, so every verb that reads it later loads the same weights,
    whatever was pushed to the hub meanwhile.
    """
    settings: dict[str, PlayerSettings] = {}
    commits: dict[tuple[str, str | None], str | None] = {}
    for player in Player:
        own = config.player(player)
        if player in loaded:  # the object says nothing about a commit
            settings[player.value] = own
            continue
        source = (own.model_name_or_path, own.revision)
        if source not in commits:
            commits[source] = commit(model_path(source[0]), source[1])
        settings[player.value] = own.model_copy(update={"revision": commits[source]})
    notes = [at_commit(*source, now) for source, now in commits.items() if now != source[1]]
    return config.model_copy(update=settings), notes


def at_commit(name: str, revision: str | None, now: str | None) -> str:
    """The note on a model whose commit was looked up and not set by the user."""
    return f"{name} is taken at commit {now} ({revision or 'the newest'} as of now)"


def fitted(config: RunConfig, ranks: Ranks, loaded: Loaded) -> tuple[RunConfig, list[str]]:
    """The configuration with micro-batches that fit the memory there is, and a note if it is short.

    UsageError, before any weights are read, for a run that does not fit.
    """
    own, most = config.defender, config.learner.optimizer.micro_batch_tokens
    room = 0.9 * min(ranks.gather(free_memory()))
    if config.sampling.engine == "vllm" and not config.sampling.base_url:
        room *= 1 - config.sampling.server.gpu_memory_utilization
    model = model_path(own.model_name_or_path)
    if Player.DEFENDER in loaded:
        model = loaded[Player.DEFENDER][0].config
    shards = ranks.size if sharding_requested(ranks) else 1
    tokens = micro_batch_that_fits(config, model, room, shards)
    note = f"{MICRO_BATCH} is {tokens:,}: {room / GIB:.1f} GiB of memory can be filled"
    notes = [note] if most is None and tokens < MOST_TOKENS else []
    return with_values(config, {MICRO_BATCH: tokens}), notes


def as_begun(before: RunConfig, config: RunConfig) -> RunConfig:
    """`config` at the commits that a run began with, where it names no commit that differs.

    A branch that has moved since is a difference, and stays one. The size of micro-batches is kept
    too, unless it is set.
    """
    if config.learner.optimizer.micro_batch_tokens is None:
        size = before.learner.optimizer.micro_batch_tokens
        config = with_values(config, {MICRO_BATCH: size})
    settings: dict[str, PlayerSettings] = {}
    for player in Player:
        old, now = before.player(player), config.player(player)
        if old.model_name_or_path != now.model_name_or_path or old.revision == now.revision:
            continue
        named = now.revision and commit(model_path(now.model_name_or_path), now.revision)
        settings[player.value] = now.model_copy(update={"revision": named or old.revision})
    return config.model_copy(update=settings)


def publishing(config: RunConfig, ranks: Ranks) -> Publishing | None:
    """What publishes adapters to a sampling engine; None with `sampling.engine=local`.

    It contacts no server yet. Of several processes the first publishes for all.
    """
    sampling, server, base = config.sampling, config.sampling.server, config.defender
    if sampling.engine == "local":
        if sampling.base_url:
            raise UsageError("sampling.base_url: goes with sampling.engine=vllm")
        return None
    if config.weights != "adapters":
        raise UsageError(
            f"weights: {config.weights} cannot be published to sampling.engine={sampling.engine}, "
            "which is given LoRA adapters; set weights=adapters or sampling.engine=local"
        )
    for player in Player:
        if config.player(player).lora.modules_to_save:
            raise UsageError(
                f"{player}.lora.modules_to_save: vLLM serves no layers trained in full (the "
                "sandbox trains its embeddings); set it to null or sampling.engine=local"
            )
    folder = server.adapter_dir or config.folder / "adapters"
    engine: SamplingEngine
    if sampling.base_url:
        name = server.model or base.model_name_or_path
        engine = VllmServer(
            sampling.base_url, name, server.concurrency, allow_insecure=server.allow_insecure
        )
    else:
        rank = max(config.attacker.lora.r, config.defender.lora.r)
        path, memory = model_path(base.model_name_or_path), server.gpu_memory_utilization
        many = ranks.size > 1
        engine = VllmHere(path, rank, server.adapters, memory, base.dtype, base.revision, many)
    one_each = not sampling.base_url
    return Publishing(
        engine, folder, server.adapters, server.probe_limit, ranks=ranks, one_each=one_each
    )


def trainers(config: RunConfig, ranks: Ranks, loaded: Loaded) -> dict[Player, Trainer]:
    """A trainer for each player; with `weights: shared` the same one for both."""
    published, sharding = publishing(config, ranks), sharding_requested(ranks)
    if sharding and config.weights != "adapters":
        raise UsageError(
            f"weights: {config.weights} trains every layer, and only a frozen base can be sharded; "
            "set weights=adapters, or launch with --multi_gpu instead of --use_fsdp"
        )
    if config.learner.chat_batch and config.weights != "shared":
        raise UsageError(
            f"learner.chat_batch: {config.learner.chat_batch} replies are imitated by one model in "
            f"both seats, and weights is {config.weights}; set learner.chat_batch=0 or "
            "weights=shared"
        )
    if config.weights == "separate":
        owned = {player: Weights(_model(config, player, loaded)) for player in Player}
        return {p: _trainer(config, p, owned[p], ranks, loaded) for p in Player}
    _check_one_base(config)
    if config.weights == "shared":
        both = Weights(_model(config, Player.DEFENDER, loaded))
        return dict.fromkeys(Player, _trainer(config, Player.DEFENDER, both, ranks, loaded))
    base = _model(config, Player.DEFENDER, loaded, "cpu" if sharding else None)
    owned = with_adapters(config, base)
    if sharding:
        shard(owned.values(), ranks)
    return {p: _trainer(config, p, owned[p], ranks, loaded, published) for p in Player}


def with_adapters(config: RunConfig, base: Any) -> dict[Player, Weights]:
    """Both players' fresh adapters on one base, as a run begins with them."""
    revision = {"revision": config.defender.revision}  # whoever loads the adapter finds its base
    lora = {player: config.player(player).lora.model_dump() | revision for player in Player}
    return adapters(base, lora, config.seed)


def _model(config: RunConfig, player: Player, loaded: Loaded, device: str | None = None) -> Any:
    if player in loaded:
        return loaded[player][0].eval()
    own = config.player(player)
    return load_model(model_path(own.model_name_or_path), own.dtype, own.revision, device)


def _check_one_base(config: RunConfig) -> None:
    names = ("model_name_or_path", "revision", "dtype")
    for name in (*names, "chat_template_kwargs") if config.weights == "shared" else names:
        if getattr(config.attacker, name) != getattr(config.defender, name):
            raise UsageError(
                f"weights: {config.weights} needs one base, but attacker.{name} and "
                f"defender.{name} differ; make them equal or set weights=separate"
            )


def _trainer(
    config: RunConfig,
    player: Player,
    weights: Weights,
    ranks: Ranks,
    loaded: Loaded,
    published: Publishing | None = None,
) -> Trainer:
    learner, step, own = config.learner, config.learner.optimizer, config.player(player)
    path = model_path(own.model_name_or_path)
    tokenizer = loaded[player][1] if player in loaded else load_tokenizer(path, own.revision)
    model = weights.model
    chat = Chat(tokenizer, stop_ids(model), own.chat_template_kwargs, context_of(model))
    sampling = Sampling(**config.sampling.fields_of(Sampling))
    rate = LearningRate(
        learner.learning_rate[player], step.lr_scheduler_type, step.warmup_steps, step.total_steps
    )
    sections = [learner, step, config.sampling]
    narrow = any(p.dtype.itemsize < 4 for p in weights.model.parameters())
    if published or narrow:  # where sampling rounds otherwise than learning, ratios are truncated
        sections.append(config.sampling.server)
    settings: dict[str, Any] = {}
    for section in sections:
        settings |= section.fields_of(GrpoConfig)
    if step.gradient_checkpointing and not recompute(weights.model):
        raise UsageError(
            f"learner.optimizer.gradient_checkpointing: {path} has no layers that can compute "
            "their activations again; leave it out"
        )
    optimizer = Optimizer(weights, rate, max_grad_norm=step.max_grad_norm, ranks=ranks)
    sampler: Policy = LocalPolicy(weights, chat, sampling)
    if published:
        sampler = ServedPolicy(weights, chat, sampling, published)
    card = Path(path) / CARD  # names the sandbox's language, wherever its weights go
    files = (card,) if card.is_file() else ()
    grpo = Grpo(optimizer, chat.pad_id, GrpoConfig(**settings))
    return Trainer(sampler, chat, grpo, extra_files=files)
