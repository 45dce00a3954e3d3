"""The engine that samples for both players, from settings; what it cannot serve is refused."""

from __future__ import annotations

from sparring.policies.engine import Engine
from sparring.policies.publishing import Publishing
from sparring.policies.vllm_here import VllmHere
from sparring.policies.vllm_server import VllmServer
from sparring.ranks import Ranks
from sparring.recipes.parts import model_path
from sparring.settings import RunConfig
from sparring.types import UsageError


def publishing(config: RunConfig, ranks: Ranks) -> Publishing | None:
    """None where players sample in this process by transformers. Asks no server anything yet.

    Every process of a run publishes for itself, into a folder of its own.
    """
    told = config.sampling
    if told.engine == "local":
        if told.base_url:
            raise UsageError("sampling.base_url: goes with sampling.engine=vllm")
        return None
    if config.weights != "adapters":
        raise UsageError(
            f"weights: {config.weights} cannot be published to sampling.engine={told.engine}, "
            "which is given LoRA adapters; set weights=adapters or sampling.engine=local"
        )
    for name, player in (("attacker", config.attacker), ("defender", config.defender)):
        if player.lora.modules_to_save:
            raise UsageError(
                f"{name}.lora.modules_to_save: vLLM serves no layers trained in full (the sandbox "
                "trains its embeddings); set it to null or sampling.engine=local"
            )
    folder = told.server.adapter_dir or config.folder / "adapters"
    if ranks.size > 1:
        folder = folder / f"rank-{ranks.index}"
    return Publishing(_engine(config), folder, told.server.adapters, told.server.probe_limit)


def _engine(config: RunConfig) -> Engine:
    told, seat = config.sampling, config.defender
    server, base = told.server, seat.model_name_or_path
    if told.base_url:
        return VllmServer(told.base_url, server.model or base, server.concurrency)
    rank = max(config.attacker.lora.r, config.defender.lora.r)
    memory = server.gpu_memory_utilization
    return VllmHere(model_path(base), rank, server.adapters, memory, seat.dtype, seat.revision)
