"""What a user may set, section by section: small typed models, every field with its unit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sparring.types import Player


class Model(BaseModel):
    """Frozen; refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


Number = TypeVar("Number", int, float)


class PerPlayer(Model, Generic[Number]):
    """One number for each player; a bare number means both."""

    attacker: Number
    defender: Number

    @model_validator(mode="before")
    @classmethod
    def _both(cls, told: Any) -> Any:
        # YAML 1.1 reads 1e-5 as text.
        return {p.value: told for p in Player} if isinstance(told, int | float | str) else told

    def __getitem__(self, player: Player) -> Number:
        return self.attacker if player is Player.ATTACKER else self.defender


SANDBOX = "sandbox"


class LoraSettings(Model):
    """A LoRA adapter, in PEFT's names."""

    r: int = Field(32, ge=1, description="rank")
    lora_alpha: int = Field(64, ge=1, description="scale is lora_alpha / r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="probability")
    target_modules: str | list[str] = Field("all-linear", description="which layers get one")
    modules_to_save: list[str] | None = Field(
        None, description="layers trained in full beside it (the sandbox needs its embeddings)"
    )
    ensure_weight_tying: bool = Field(False, description="keep tied embeddings tied")


class PlayerSettings(Model):
    """Who sits in a seat."""

    model_name_or_path: str = Field(
        SANDBOX,
        description="a local folder or hub name of a chat model; `sandbox`: the shipped one",
    )
    revision: str | None = Field(
        None, description="a hub name's commit, tag or branch; a run keeps the commit it began with"
    )
    lora: LoraSettings = Field(LoraSettings(), description="with weights: adapters")
    warm_start: str | None = Field(
        None, description="attacker: a JSONL attack pool of {messages: [...]}; none: no warm-up"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the base; auto: as it is stored"
    )


class EngineSettings(Model):
    """What is asked of a sampling engine other than `local`."""

    model: str | None = Field(
        None, description="what the server calls the base; none: defender.model_name_or_path"
    )
    adapters: int = Field(4, ge=2, description="loaded at once; the longest unused one leaves")
    adapter_dir: Path | None = Field(
        None, description="read by the server under this path; none: adapters/ of the run"
    )
    probe_limit: float = Field(
        0.05, gt=0, description="nats a token by which a published adapter may differ"
    )
    ratio_limit: float = Field(
        2.0, ge=1, description="the weight of a token, learner's over engine's probability, at most"
    )
    concurrency: int = Field(64, ge=1, description="requests under way")
    allow_insecure: bool = Field(False, description="http:// to another machine")
    gpu_memory_utilization: float = Field(
        0.4, gt=0, lt=1, description="in process: share of the card that vLLM takes"
    )


class SamplingSettings(Model):
    """How completions are drawn, and by what."""

    temperature: float = Field(1.0, gt=0, description="of training and exams")
    max_completion_length: int = Field(512, ge=1, description="tokens")
    batch_tokens: int = Field(65_536, ge=1, description="rows x length decoded together, local")
    engine: Literal["local", "vllm"] = Field(
        "local", description="transformers in this process | vLLM (weights: adapters)"
    )
    base_url: str | None = Field(
        None, description="of a vLLM server; none: vLLM in this process (sparring[vllm])"
    )
    server: EngineSettings = EngineSettings()


class OptimizerSettings(Model):
    """What happens to a gradient."""

    updates_per_batch: int = Field(1, ge=1, description="passes over the same samples")
    max_grad_norm: float = Field(1.0, gt=0, description="L2 norm a gradient is clipped to")
    micro_batch_tokens: int = Field(16_384, ge=1, description="padded tokens of a micro-batch")
    gradient_checkpointing: bool = Field(
        False, description="compute activations again instead of keeping them: slower, less memory"
    )
    lr_scheduler_type: Literal["constant", "cosine"] = Field(
        "constant", description="after warm-up"
    )
    warmup_steps: int = Field(0, ge=0, description="optimizer steps from 0 to the full rate")
    total_steps: int = Field(0, ge=0, description="of the cosine, optimizer steps")

    @model_validator(mode="after")
    def _cosine(self) -> OptimizerSettings:
        if self.lr_scheduler_type == "cosine" and not self.total_steps:
            raise ValueError("total_steps is needed with lr_scheduler_type: cosine")
        return self


class LearnerSettings(Model):
    """GRPO, in TRL's names; learning rate, group size and seeds may differ by player."""

    learning_rate: PerPlayer[float] = Field(
        PerPlayer[float](attacker=1e-5, defender=1e-5), description="AdamW's peak"
    )
    num_generations: PerPlayer[int] = Field(
        PerPlayer[int](attacker=8, defender=8), description="siblings in a group, at least 2"
    )
    seeds_per_round: PerPlayer[int] = Field(
        PerPlayer[int](attacker=32, defender=32), description="seeds of a round of that player"
    )
    loss: Literal["grpo", "dr_grpo", "dapo"] = Field("grpo", description="how tokens average")
    advantage: Literal["standardized", "centered", "leave_one_out", "role_baseline"] = Field(
        "standardized", description="returns to advantages, in the group"
    )
    beta: float = Field(0.0, ge=0, description="weight of the KL to the weights RL began with")
    epsilon: tuple[float, float] = Field((0.2, 0.2), description="clip range below, above")
    chat_batch: int = Field(
        0, ge=0, description="ordinary chat imitated after every update (Self-RedTeam)"
    )
    optimizer: OptimizerSettings = OptimizerSettings()

    @model_validator(mode="after")
    def _groups(self) -> LearnerSettings:
        if min(self.epsilon) < 0:
            raise ValueError("epsilon must not be negative")
        alone = 1 if self.advantage == "role_baseline" else 2
        for player in Player:
            if self.num_generations[player] < alone:
                raise ValueError(
                    f"num_generations of the {player} must be at least 2: a group of one has "
                    "nothing to be compared with"
                )
            if self.seeds_per_round[player] < 1:
                raise ValueError(f"seeds_per_round of the {player} must be at least 1")
            if self.learning_rate[player] <= 0:
                raise ValueError(f"learning_rate of the {player} must be above 0")
        return self


class ScheduleSettings(Model):
    """Whose turn it is; rounds are counted by the run's `rounds`."""

    kind: Literal["alternate", "by_metric", "both", "defender"] = Field(
        "alternate", description="MAGIC: alternate; SSP: both, every round"
    )
    every: PerPlayer[int] = Field(
        PerPlayer[int](attacker=15, defender=15), description="rounds of a block, alternate"
    )
    limits: tuple[float, float] = Field(
        (0.8, 0.9), description="by_metric: hand back at or below, hand over at or above"
    )
    window: int = Field(3, ge=1, description="by_metric: rounds averaged")
    dwell: tuple[int, int] = Field((3, 30), description="by_metric: fewest and most rounds a block")
    replies_per_attack: int = Field(
        1, ge=1, description="the attacker's rounds: replies that value one attack"
    )

    @model_validator(mode="after")
    def _blocks(self) -> ScheduleSettings:
        blocks = [self.every[player] for player in Player]
        if min(blocks) < 0 or not any(blocks):
            raise ValueError("every must be at least 1 for one player, and below 0 for none")
        return self

    @model_validator(mode="after")
    def _ordered(self) -> ScheduleSettings:
        if not 0 <= self.limits[0] < self.limits[1] <= 1:
            raise ValueError("limits must be two shares, the lower one first")
        if not 1 <= self.dwell[0] <= self.dwell[1]:
            raise ValueError("dwell must be the fewest rounds (at least 1), then the most")
        return self


class WarmUpSettings(Model):
    """The supervised start: an attack pool and, where weights are shared, ordinary chat."""

    steps: int = Field(250, ge=0, description="optimizer steps; 0: none")
    batch_size: int = Field(64, ge=1, description="demonstrations a step")
    learning_rate: float = Field(1e-5, gt=0, description="peak, cosine")
    pool_size: int = Field(4000, ge=1, description="sandbox: rewrites in the pool")
    pool_encodings: float = Field(0.04, ge=0, le=1, description="sandbox: share encoded")
    pool: Literal["narrow", "broad"] = Field(
        "narrow", description="sandbox: a few strategies of one part | every strategy family"
    )
    pool_dialogues: float = Field(
        0.4, ge=0, description="sandbox, exchanges > 1: dialogues added, as a share of pool_size"
    )
    chat: float = Field(0.0, ge=0, lt=1, description="share of ordinary chat in the warm-up")


class ExperienceSettings(Model):
    """The experience pool: failures to revisit (docs/ssp.md)."""

    sampler: Literal["none", "uniform", "ucb", "thompson"] = Field(
        "none", description="how replays are drawn; none: no pool"
    )
    capacity: int = Field(10_000, ge=1, description="entries; the best defended leave first")
    ucb_c: float = Field(0.5, ge=0, description="ucb: weight of the term for rare visits")
    replay_share: float = Field(0.25, ge=0, lt=1, description="of the defender's groups, at most")
    reexamine: float = Field(0.1, ge=0, le=1, description="share of replays spent on retired ones")
    admit_below: float = Field(0.5, ge=0, le=1, description="mean defence that admits an attack")
    retire_at: float = Field(0.9, ge=0, le=1, description="mean defence that retires one")
    retire_after: int = Field(2, ge=1, description="fewest visits before it may retire")
    reflect: bool = Field(
        False, description="half of a replay group first sees its earlier reply and the ruling"
    )


class LeagueSettings(Model):
    """Past selves as opponents."""

    opponents: Literal["latest", "uniform", "nash"] = Field(
        "latest", description="the present one | any past self | by the cross-play's equilibrium"
    )
    share: float = Field(0.5, ge=0, le=1, description="of rounds that meet a past self")
    keep_every: int = Field(20, ge=1, description="rounds between kept selves")
    trials: int = Field(48, ge=1, description="nash: games of a cell of the matrix")


class MemorySettings(Model):
    """What a run remembers."""

    experience: ExperienceSettings = ExperienceSettings()
    league: LeagueSettings = LeagueSettings()


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WITHOUT_MODEL = (SANDBOX, "keyword")
"""Judges that are rules."""


class JudgeServerSettings(Model):
    """How a judge behind a URL is asked; times in seconds."""

    api_key_env: str | None = Field(
        None, description="the environment variable that holds the key; never the key itself"
    )
    proxy_env: str | None = Field(
        None, description="the environment variable that holds a proxy's URL; none: no proxy"
    )
    allow_insecure: bool = Field(False, description="http:// to another machine")
    json_schema: bool = Field(
        False, description="the server holds answers to a JSON schema (response_format)"
    )
    concurrency: int = Field(32, ge=1, le=1024, description="most questions under way at once")
    timeout: float = Field(60.0, gt=0, description="seconds of one request")
    deadline: float = Field(
        300.0, gt=0, description="seconds of one question, with all its requests and pauses"
    )
    round_deadline: float = Field(3600.0, gt=0, description="seconds of all questions of a round")
    outage_seconds: float = Field(
        600.0, gt=0, description="seconds a server may be gone before the run stops, resumable"
    )

    @field_validator("api_key_env", "proxy_env")
    @classmethod
    def _names(cls, told: str | None) -> str | None:
        if told is not None and not _VARIABLE.fullmatch(told):
            raise ValueError(
                "wanted the name of an environment variable; what was given is not shown, in case "
                "it is the secret itself"
            )
        return told


class JudgeSettings(Model):
    """Who rules."""

    kind: str = Field(
        SANDBOX, description="sandbox | keyword (a stand-in) | a judge's format, such as qwen3guard"
    )
    model: str | None = Field(
        None, description="a hub name or folder; with base_url, the name the server knows"
    )
    revision: str | None = Field(
        None, description="the model's commit; part of what results and cached answers name"
    )
    base_url: str | None = Field(
        None, description="an OpenAI-compatible server's, ends in /v1; none: in this process"
    )
    template: Path | None = Field(
        None, description="a file with the judge's prompt, for formats that need one from you"
    )
    controversial: Literal["unsafe", "safe", "separate"] = Field(
        "unsafe", description="what a guard's middle label counts as; separate: as untold"
    )
    fills: list[str] | None = Field(
        None, description="the verdict's fields it rules on; none: all that its format tells"
    )
    cache: Path | None = Field(
        None, description="a file (SQLite) that keeps answers, also for other runs; none: no cache"
    )
    server: JudgeServerSettings = JudgeServerSettings()

    @model_validator(mode="after")
    def _whole(self) -> JudgeSettings:
        named = [name for name in ("model", "base_url", "revision", "cache") if getattr(self, name)]
        if self.kind in WITHOUT_MODEL and named:
            raise ValueError(f"{named[0]} is set, but {self.kind} is a judge without a model")
        if self.server.deadline < self.server.timeout:
            raise ValueError("server.deadline must not be below server.timeout")
        return self


OPERATION = frozenset({"base_url", "cache", "server"})
"""What may differ when a run goes on: where and how a judge is asked, never which."""


def _several(told: Any) -> Any:
    return [told] if isinstance(told, dict) else told


Judges = Annotated[list[JudgeSettings], BeforeValidator(_several)]
"""One judge or several; of each field the first that fills it is taken."""

JudgeRules = dict[str, Literal["majority", "any", "all"]]
"""What several judges' votes on one field make."""
