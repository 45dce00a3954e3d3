"""Who sits where: models, adapters, policies, learners and engines from settings; the warm-up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sparring.engines.engine import Publishing, SamplingEngine, ServedPolicy
from sparring.engines.vllm import VllmHere, VllmServer
from sparring.players.chat import Chat
from sparring.players.fast import recompute
from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.loading import load_model, load_tokenizer, stop_ids
from sparring.players.local import LocalPolicy
from sparring.players.logprobs import head_of
from sparring.players.optimizer import LearningRate, Optimizer
from sparring.players.player import Policy, Sampling
from sparring.players.ranks import Ranks, shard, sharding_requested
from sparring.players.trainer import ChatBatch, SftConfig, Trainer, rows_of
from sparring.players.weights import Weights, adapters
from sparring.runs.parts import Chatter, model_path, seated
from sparring.sandbox.model import CARD
from sparring.settings.config import RunConfig
from sparring.types import Demo, Metrics, Player, UsageError


def publishing(config: RunConfig, ranks: Ranks) -> Publishing | None:
    """None where players sample in this process by transformers. Contacts no server yet.

    Every process of a run publishes for itself, into a folder of its own.
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
        if seated(config, player).lora.modules_to_save:
            raise UsageError(
                f"{player}.lora.modules_to_save: vLLM serves no layers trained in full (the "
                "sandbox trains its embeddings); set it to null or sampling.engine=local"
            )
    folder = server.adapter_dir or config.folder / "adapters"
    if ranks.size > 1:
        folder = folder / f"rank-{ranks.index}"
    name = base.model_name_or_path
    engine: SamplingEngine
    if sampling.base_url:
        engine = VllmServer(
            sampling.base_url,
            server.model or name,
            server.concurrency,
            allow_insecure=server.allow_insecure,
        )
    else:
        rank = max(config.attacker.lora.r, config.defender.lora.r)
        memory = server.gpu_memory_utilization
        path, most = model_path(name), server.adapters
        engine = VllmHere(path, rank, most, memory, base.dtype, base.revision)
    return Publishing(engine, folder, server.adapters, server.probe_limit)


_CHAT = 4_000
"""Demonstrations of ordinary chat that a learner draws its batches from."""


def trainers(config: RunConfig, chat: Chatter, ranks: Ranks) -> dict[Player, Trainer]:
    """A trainer for each player; with `weights: shared` the same one for both."""
    published, shares = publishing(config, ranks), sharding_requested(ranks)
    if shares and config.weights != "adapters":
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
        owned = {player: Weights(_model(config, player)) for player in Player}
    elif config.weights == "shared":
        _check_one_base(config)
        both = _trainer(config, Player.DEFENDER, Weights(_model(config, Player.DEFENDER)), ranks)
        _add_chat(config, both, chat)
        return dict.fromkeys(Player, both)
    else:
        _check_one_base(config)
        owned = with_adapters(config, _model(config, Player.DEFENDER, "cpu" if shares else None))
    if shares:
        shard(owned.values(), ranks)
        head_of(owned[Player.DEFENDER].model)  # it runs a pass to find out: all must, at one time
    return {p: _trainer(config, p, owned[p], ranks, published) for p in Player}


def with_adapters(config: RunConfig, base: Any) -> dict[Player, Weights]:
    """Both players' fresh adapters on one base, as a run begins with them."""
    revision = {"revision": config.defender.revision}  # whoever loads the adapter finds its base
    lora = {player: seated(config, player).lora.model_dump() | revision for player in Player}
    return adapters(base, lora, config.seed)


def _model(config: RunConfig, player: Player, device: str | None = None) -> Any:
    settings = seated(config, player)
    path = model_path(settings.model_name_or_path)
    return load_model(path, settings.dtype, settings.revision, device)


def _check_one_base(config: RunConfig) -> None:
    """Refuse what only two models could have: the defender's would win without a word."""
    for name in ("model_name_or_path", "revision", "dtype"):
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
    published: Publishing | None = None,
) -> Trainer:
    settings, step = seated(config, player), config.learner.optimizer
    path = model_path(settings.model_name_or_path)
    chat = Chat(load_tokenizer(path, settings.revision), stop_ids(weights.model))
    sampling = Sampling(**config.sampling.model_dump(include={f.name for f in fields(Sampling)}))
    rate = LearningRate(
        config.learner.learning_rate[player],
        step.lr_scheduler_type,
        step.warmup_steps,
        step.total_steps,
    )
    grpo = GrpoConfig(
        loss=config.learner.loss,
        epsilon=config.learner.epsilon,
        beta=config.learner.beta,
        temperature=sampling.temperature,
        updates_per_batch=step.updates_per_batch,
        max_completion_length=sampling.max_completion_length,
        micro_batch_tokens=step.micro_batch_tokens,
        ratio_limit=config.sampling.server.ratio_limit if published else None,
    )
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
    return Trainer(sampler, chat, Grpo(optimizer, chat.pad_id, grpo), extra_files=files)


def _add_chat(config: RunConfig, trainer: Trainer, chat: Chatter) -> None:
    """Let the trainer imitate ordinary chat after every update, if the settings say so."""
    size = config.learner.chat_batch
    if not size:
        return
    if not (config.in_sandbox or config.defender.warm_start):
        raise UsageError(
            "learner.chat_batch: give defender.warm_start a JSONL file of ordinary chat (what the "
            "model says itself is only known before training)"
        )
    address = f"{config.seed}/chat"
    rows = rows_of(trainer.chat, chat(trainer, _CHAT, address))
    trainer.chat_batch = ChatBatch(rows, size, address)


def warm_up(config: RunConfig, trainer: Trainer, pool: Sequence[Demo]) -> Iterator[Metrics]:
    """Phase 1: teach the attacker its format and its strategies, by imitation."""
    settings = config.warm_up
    steps = settings.steps
    if pool and steps:
        rate = LearningRate(settings.learning_rate, "cosine", min(10, steps), steps)
        budget = config.learner.optimizer.micro_batch_tokens
        sizes = SftConfig(steps, settings.batch_size, budget)
        yield from trainer.warm_up(pool, rate, sizes, f"{config.seed}/warm-up")
