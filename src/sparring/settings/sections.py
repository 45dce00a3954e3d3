"""What a user may set, section by section: small typed models, every field with its unit."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sparring.schedules import OracleRules
from sparring.types import Player


class Model(BaseModel):
    """A frozen section that refuses unknown keys; a field's docstring is its description."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def fields_of(self, dataclass: type[Any]) -> dict[str, Any]:
        """Return the settings that a dataclass has fields for, by name."""
        return self.model_dump(include={field.name for field in fields(dataclass)})


Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Advantage = Literal["standardized", "centered", "leave_one_out", "role_baseline"]
Number = TypeVar("Number", int, float)


class PerPlayer(Model, Generic[Number]):
    """One number for each player; a bare number means both."""

    attacker: Number
    defender: Number

    @model_validator(mode="before")
    @classmethod
    def _both(cls, value: Any) -> Any:
        # YAML 1.1 reads 1e-5 as text.
        bare = isinstance(value, int | float | str)
        return {player.value: value for player in Player} if bare else value

    def __getitem__(self, player: Player) -> Number:
        return self.attacker if player is Player.ATTACKER else self.defender


SANDBOX = "sandbox"
PYTHON = "python"
"""Stands in a saved configuration for what a program passed as an object."""


class LoraSettings(Model):
    """A LoRA adapter, in PEFT's names."""

    r: Count = 32
    """rank"""
    lora_alpha: Count = 64
    """scale is lora_alpha / r"""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """probability"""
    target_modules: str | list[str] = "all-linear"
    """which layers get one"""
    modules_to_save: list[str] | None = None
    """layers trained in full beside it (the sandbox needs its embeddings)"""
    ensure_weight_tying: bool = False
    """keep tied embeddings tied"""


class PlayerSettings(Model):
    """The model that plays one side."""

    model_name_or_path: str = SANDBOX
    """a local folder or hub name of a chat model; `sandbox`: the shipped one"""
    revision: str | None = None
    """a hub name's commit, tag or branch; a run keeps the commit it began with"""
    lora: LoraSettings = LoraSettings()
    """with weights: adapters"""
    warm_start: str | None = None
    """attacker: a JSONL attack pool of {messages: [...]}; none: no warm-up"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """of the base; auto: as it is stored"""
    chat_template_kwargs: dict[str, Any] = Field({})
    """what the chat template takes, such as {enable_thinking: false}"""


class EngineSettings(Model):
    """Settings of a sampling engine other than `local`."""

    model: str | None = None
    """what the server calls the base; none: defender.model_name_or_path"""
    adapters: Annotated[int, Field(ge=2)] = 4
    """loaded at once; the longest unused one leaves"""
    adapter_dir: Path | None = None
    """read by the server under this path; none: adapters/ of the run"""
    probe_limit: Positive = 0.05
    """nats a token by which a published adapter may differ"""
    ratio_limit: Annotated[float, Field(ge=1)] = 2.0
    """the weight of a token, learner's over engine's probability, at most"""
    concurrency: Count = 64
    """requests under way"""
    allow_insecure: bool = False
    """http:// to another machine"""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """in process: share of the card that vLLM takes"""


class SamplingSettings(Model):
    """How completions are sampled, and by which engine."""

    temperature: Positive = 1.0
    """of training and exams"""
    max_completion_length: Count = 512
    """tokens"""
    batch_tokens: Count = 65_536
    """rows x length decoded together, local"""
    engine: Literal["local", "vllm"] = "local"
    """transformers in this process | vLLM (weights: adapters)"""
    base_url: str | None = None
    """of a vLLM server; none: vLLM in this process (sparring[vllm])"""
    server: EngineSettings = EngineSettings()


class OptimizerSettings(Model):
    """What happens to a gradient."""

    updates_per_batch: Count = 1
    """passes over the same samples"""
    max_grad_norm: Positive = 1.0
    """L2 norm a gradient is clipped to"""
    micro_batch_tokens: Count | None = None
    """padded tokens of a micro-batch; none: as memory allows, at most 16,384"""
    gradient_checkpointing: bool = False
    """compute activations again instead of keeping them: slower, less memory"""
    lr_scheduler_type: Literal["constant", "cosine"] = "constant"
    """after warm-up"""
    warmup_steps: Steps = 0
    """optimizer steps from 0 to the full rate"""
    total_steps: Steps = 0
    """of the cosine, optimizer steps"""

    @model_validator(mode="after")
    def _cosine(self) -> Self:
        if self.lr_scheduler_type == "cosine" and not self.total_steps:
            raise ValueError("total_steps is needed with lr_scheduler_type: cosine")
        return self


class LearnerSettings(Model):
    """GRPO, in TRL's names; learning rate, group size and seeds may differ by player."""

    learning_rate: PerPlayer[float] = PerPlayer[float].model_validate(1e-5)
    """AdamW's peak"""
    num_generations: PerPlayer[int] = PerPlayer[int].model_validate(8)
    """siblings in a group, at least 2"""
    seeds_per_round: PerPlayer[int] = PerPlayer[int].model_validate(32)
    """seeds of a round of that player"""
    loss: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    """how tokens average"""
    advantage: Advantage = "standardized"
    """returns to advantages, in the group"""
    beta: Weight = 0.0
    """weight of the KL to the weights RL began with"""
    epsilon: tuple[float, float] = (0.2, 0.2)
    """clip range below, above"""
    chat_batch: Steps = 0
    """ordinary chat imitated after every update (Self-RedTeam)"""
    optimizer: OptimizerSettings = OptimizerSettings()

    @model_validator(mode="after")
    def _groups(self) -> Self:
        if min(self.epsilon) < 0:
            raise ValueError("epsilon must not be negative")
        fewest = 1 if self.advantage == "role_baseline" else 2
        for player in Player:
            if self.num_generations[player] < fewest:
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
    """Which player learns in which round; rounds are counted by the run's `rounds`."""

    kind: Literal["alternate", "by_metric", "both", "defender"] = "alternate"
    """MAGIC: alternate; SSP: both, every round"""
    every: PerPlayer[int] = PerPlayer[int].model_validate(15)
    """rounds of a block, alternate"""
    limits: tuple[float, float] = (0.8, 0.9)
    """by_metric: hand back at or below, hand over at or above; hardening: the second holds"""
    window: Count = 3
    """by_metric: rounds averaged; hardening: the last ones of an attacker"""
    dwell: tuple[int, int] = (3, 30)
    """by_metric: fewest and most rounds a block; hardening: the defender's"""
    harden_after: Steps | None = None
    """rounds after which one attacker after another is trained until they fail; none: never"""
    attack: Count = 80
    """hardening: rounds of an attacker against the frozen defender"""
    restarts: Count = 3
    """hardening: attackers in a row that must fail before the run is over"""
    replies_per_attack: Count = 1
    """the attacker's rounds: replies that value one attack"""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        blocks = [self.every[player] for player in Player]
        if min(blocks) < 0 or not any(blocks):
            raise ValueError("every must be at least 1 for one player, and below 0 for none")
        if not 0 <= self.limits[0] < self.limits[1] <= 1:
            raise ValueError("limits must be two shares, the lower one first")
        if not 1 <= self.dwell[0] <= self.dwell[1]:
            raise ValueError("dwell must be the fewest rounds (at least 1), then the most")
        return self

    def oracle(self, rounds: int) -> OracleRules | None:
        """The rules of hardening, in a run of so many rounds; None where there is none."""
        if self.harden_after is None:
            return None
        return OracleRules(
            after=self.harden_after,
            steps=self.attack,
            window=self.window,
            limit=1 - self.limits[1] + 1e-9,  # a share at the limit is not above it
            fewest=self.dwell[0],
            most=self.dwell[1],
            restarts=self.restarts,
            rounds=rounds,
        )


class WarmUpSettings(Model):
    """The supervised start: an attack pool and, where weights are shared, ordinary chat."""

    steps: PerPlayer[Steps] = PerPlayer[Steps].model_validate(250)
    """optimizer steps on the attack pool, and of a defender with weights of its own; 0: none"""
    batch_size: Count = 64
    """demonstrations a step"""
    learning_rate: Positive = 1e-5
    """peak, cosine"""
    pool_size: Count = 4000
    """sandbox: rewrites in the pool"""
    pool_encodings: Share = 0.04
    """sandbox: share encoded"""
    pool: Literal["narrow", "broad"] = "narrow"
    """sandbox: a few strategies of one part | every strategy family"""
    pool_dialogues: Weight = 0.4
    """sandbox, exchanges > 1: dialogues added, as a share of pool_size"""
    chat: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of ordinary chat in the warm-up"""


class ExperienceSettings(Model):
    """The experience pool: failures to revisit (docs/ssp.md)."""

    sampler: Literal["none", "uniform", "ucb", "thompson"] = "none"
    """how replays are drawn; none: no pool"""
    capacity: Count = 10_000
    """entries; the best defended leave first"""
    ucb_c: Weight = 0.5
    """ucb: weight of the term for rare visits"""
    replay_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """of the defender's groups, at most"""
    reexamine: Share = 0.1
    """share of replays spent on retired ones"""
    admit_below: Share = 0.5
    """mean defence that admits an attack"""
    retire_at: Share = 0.9
    """mean defence that retires one"""
    retire_after: Count = 2
    """fewest visits before it may retire"""
    reflect: bool = False
    """half of a replay group first sees its earlier reply and the ruling"""


class LeagueSettings(Model):
    """Past selves as opponents."""

    opponents: Literal["latest", "uniform", "nash"] = "latest"
    """the present one | any past self | by the cross-play's equilibrium"""
    share: Share = 0.5
    """of rounds that meet a past self"""
    keep_every: Count = 20
    """rounds between kept selves"""
    trials: Count = 48
    """nash: games of a cell of the matrix"""


class MemorySettings(Model):
    """What a run remembers."""

    experience: ExperienceSettings = ExperienceSettings()
    league: LeagueSettings = LeagueSettings()


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WITHOUT_MODEL = (SANDBOX, "keyword")
"""Judges that are rules."""


class JudgeServerSettings(Model):
    """How a judge behind a URL is called; times in seconds."""

    api_key_env: str | None = None
    """the environment variable that holds the key; never the key itself"""
    proxy_env: str | None = None
    """the environment variable that holds a proxy's URL; none: no proxy"""
    allow_insecure: bool = False
    """http:// to another machine"""
    json_schema: bool = False
    """the server holds answers to a JSON schema (response_format)"""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    """most questions under way at once"""
    timeout: Positive = 60.0
    """seconds of one request"""
    deadline: Positive = 300.0
    """seconds of one question, with all its requests and pauses"""
    round_deadline: Positive = 3600.0
    """seconds of all questions of a round"""
    outage_seconds: Positive = 600.0
    """seconds a server may be gone before the run stops, resumable"""

    @field_validator("api_key_env", "proxy_env")
    @classmethod
    def _names(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):
            raise ValueError(
                "wanted the name of an environment variable; the value is not shown here, in case "
                "it is the secret itself"
            )
        return value


class JudgeSettings(Model):
    """One judge."""

    kind: str = SANDBOX
    """sandbox | keyword (a stand-in) | a judge's format, such as qwen3guard"""
    model: str | None = None
    """a hub name or folder; with base_url, the name the server knows"""
    revision: str | None = None
    """the model's commit; part of what results and cached answers name"""
    base_url: str | None = None
    """an OpenAI-compatible server's, ends in /v1; none: in this process"""
    template: Path | None = None
    """a file with the judge's prompt, for formats that need one from you"""
    controversial: Literal["unsafe", "safe", "separate"] = "unsafe"
    """what a guard's middle label counts as; separate: as no label"""
    fills: list[str] | None = None
    """the verdict's fields it rules on; none: all that its format has"""
    cache: Path | None = None
    """a file (SQLite) that keeps answers, also for other runs; none: no cache"""
    server: JudgeServerSettings = JudgeServerSettings()
    settings: dict[str, Any] = Field({})
    """what a plug-in's judge takes beside these"""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        named = [name for name in ("model", "base_url", "revision", "cache") if getattr(self, name)]
        if self.kind in WITHOUT_MODEL and named:
            raise ValueError(f"{named[0]} is set, but {self.kind} is a judge without a model")
        if self.server.deadline < self.server.timeout:
            raise ValueError("server.deadline must not be below server.timeout")
        return self


OPERATION = frozenset({"base_url", "cache", "server"})
"""What may differ when a run goes on: where and how a judge is called, never which judge."""


def _listed(value: Any) -> Any:
    value = {"kind": value} if isinstance(value, str) else value
    return [value] if isinstance(value, dict) else value


Judges = Annotated[list[JudgeSettings], BeforeValidator(_listed)]
"""Judges, or a single one or its kind; a verdict's field is the first judge's that fills it."""

JudgeRules = dict[str, Literal["majority", "any", "all"]]
"""How several judges' votes on one field become one value."""
