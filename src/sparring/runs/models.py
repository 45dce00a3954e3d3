"""The models of a run: found at one commit, loaded, given adapters, and made into trainers."""

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparring.engines.engine import Publishing, SamplingEngine, ServedPolicy
from sparring.engines.vllm import VllmHere, VllmServer
from sparring.estimate.fitting import MICRO_BATCH, micro_batch_that_fits
from sparring.players.chat import Chat
from sparring.players.fast import recompute
from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.loading import commit, load_model, load_tokenizer, quicker_dtype, stored_dtype
from sparring.players.local import LocalPolicy
from sparring.players.player import Policy, Sampling
from sparring.players.ranks import Ranks, free_memory, shard, sharding_requested, shares_of_memory
from sparring.players.trainer import Trainer
from sparring.players.weights import LearningRate, Optimizer, Weights, adapters
from sparring.sandbox.model import CARD, SHIPPED
from sparring.settings.config import RunConfig, with_values
from sparring.settings.sections import SANDBOX
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
    named = {player: config.player(player) for player in Player if player not in loaded}
    sources = {p: (own.model_name_or_path, own.revision) for p, own in named.items()}
    commits = {
        (name, revision): commit(model_path(name), revision)
        for name, revision in dict.fromkeys(sources.values())
    }
    notes = [at_commit(*source, now) for source, now in commits.items() if now != source[1]]
    return with_values(config, {f"{p}.revision": commits[sources[p]] for p in named}), notes


def at_commit(name: str, revision: str | None, now: str | None) -> str:
    """The note on a model whose commit was looked up and not set by the user."""
    return f"{name} is taken at commit {now} ({revision or 'the newest'} as of now)"


def with_quicker_dtype(
    config: RunConfig, ranks: Ranks, loaded: Loaded
) -> tuple[RunConfig, list[str]]:
    """The configuration with the dtype in which this processor plays bfloat16 weights faster.

    A processor without instructions for bfloat16 is many times slower in it than in float32, which
    holds the same weights. The first process measures for all of them, once for a run, because what
    it measured is written down with the settings.
    """
    unset = [p for p in Player if p not in loaded and config.player(p).dtype == "auto"]
    sources = {p: (config.player(p).model_name_or_path, config.player(p).revision) for p in unset}
    narrow = [
        player
        for player, (name, revision) in sources.items()
        if stored_dtype(model_path(name), revision) == "bfloat16"
    ]
    if not narrow or (dtype := ranks.gather(quicker_dtype())[0]) is None:
        return config, []
    note = (
        f"{' and '.join(f'{player}.dtype' for player in narrow)}: the weights are bfloat16 and are "
        f"played in {dtype}, because that is faster on this processor"
    )
    return with_values(config, {f"{player}.dtype": dtype for player in narrow}), [note]


def fitted(config: RunConfig, ranks: Ranks, loaded: Loaded) -> tuple[RunConfig, list[str]]:
    """The configuration with micro-batches that fit the memory there is, and a note if it is short.

    UsageError, before any weights are read, for a run that does not fit.
    """
    free = min(ranks.gather(free_memory()))
    if config.sampling.engine == "vllm" and not config.sampling.base_url:
        free *= 1 - config.sampling.server.gpu_memory_utilization
    rooms = [share * free for share in shares_of_memory()]
    model = model_path(config.defender.model_name_or_path)
    if Player.DEFENDER in loaded:
        model = loaded[Player.DEFENDER][0].config
    shards = ranks.size if sharding_requested(ranks) else 1
    tokens, note = micro_batch_that_fits(config, model, rooms, shards)
    return with_values(config, {MICRO_BATCH: tokens}), [note] if note else []


def as_begun(before: RunConfig, config: RunConfig) -> RunConfig:
    """`config` with the commits that the run began with, unless it names another one.

    A branch that has moved since then counts as another commit. The size of micro-batches and the
    dtype that was measured are kept too, unless they are set.
    """
    values: dict[str, Any] = {}
    if config.learner.optimizer.micro_batch_tokens is None:
        values[MICRO_BATCH] = before.learner.optimizer.micro_batch_tokens
    for player in Player:
        old, now = before.player(player), config.player(player)
        if now.dtype == "auto":
            values[f"{player}.dtype"] = old.dtype
        if old.model_name_or_path == now.model_name_or_path and old.revision != now.revision:
            named = now.revision and commit(model_path(now.model_name_or_path), now.revision)
            values[f"{player}.revision"] = named or old.revision
    return with_values(config, values)


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
    if url := sampling.base_url:
        name, insecure = server.model or base.model_name_or_path, server.allow_insecure
        engine = VllmServer(url, name, server.concurrency, allow_insecure=insecure)
    else:
        rank = max(config.attacker.lora.r, config.defender.lora.r)
        path, memory = model_path(base.model_name_or_path), server.gpu_memory_utilization
        many = ranks.size > 1
        engine = VllmHere(path, rank, server.adapters, memory, base.dtype, base.revision, many)
    limits = (server.adapters, server.probe_limit)
    return Publishing(engine, folder, *limits, ranks=ranks, one_each=not url)


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
    _check_one_base(config)
    if config.weights == "adapters":
        base = _model(config, Player.DEFENDER, loaded, "cpu" if sharding else None)
        owned = with_adapters(config, base)
    else:
        owners = dict.fromkeys(map(config.owner, Player))
        owned = {player: Weights(_model(config, player, loaded)) for player in owners}
    if sharding:
        shard(owned.values(), ranks)
    own = {p: _trainer(config, p, owned[p], ranks, loaded, published) for p in owned}
    return {player: own[config.owner(player)] for player in Player}


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


_ONE_BASE = ("model_name_or_path", "revision", "dtype")
_OF_ONE = {"separate": (), "adapters": _ONE_BASE, "shared": (*_ONE_BASE, "chat_template_kwargs")}
"""Settings of the players that have to be equal, by `weights`."""


def _check_one_base(config: RunConfig) -> None:
    for name in _OF_ONE[config.weights]:
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
    published: Publishing | None,
) -> Trainer:
    learner, step, own = config.learner, config.learner.optimizer, config.player(player)
    path = model_path(own.model_name_or_path)
    tokenizer = loaded[player][1] if player in loaded else load_tokenizer(path, own.revision)
    model = weights.model
    chat = Chat.of(model, tokenizer, own.chat_template_kwargs)
    sampling = Sampling(**config.sampling.fields_of(Sampling))
    rate = LearningRate(
        learner.learning_rate[player], step.lr_scheduler_type, step.warmup_steps, step.total_steps
    )
    sections = [learner, step, config.sampling]
    narrow = any(p.dtype.itemsize < 4 for p in weights.model.parameters())
    if published or narrow:  # where sampling rounds otherwise than learning, ratios are truncated
        sections.append(config.sampling.server)
    settings = ChainMap(*(section.fields_of(GrpoConfig) for section in sections))
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
