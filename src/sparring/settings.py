"""What a user may set: small typed models, every field with its unit; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sparring.types import Player

SANDBOX = "sandbox"


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
    lora: LoraSettings = Field(LoraSettings(), description="with weights: adapters")
    warm_start: str | None = Field(
        None, description="attacker: a JSONL attack pool of {messages: [...]}; none: no warm-up"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of the base")


class SamplingSettings(Model):
    """How completions are drawn."""

    temperature: float = Field(1.0, gt=0, description="of training and exams")
    max_completion_length: int = Field(512, ge=1, description="tokens")
    batch_tokens: int = Field(65_536, ge=1, description="rows x length decoded together")


class OptimizerSettings(Model):
    """What happens to a gradient."""

    updates_per_batch: int = Field(1, ge=1, description="passes over the same samples")
    max_grad_norm: float = Field(1.0, gt=0, description="L2 norm a gradient is clipped to")
    micro_batch_tokens: int = Field(16_384, ge=1, description="padded tokens of a micro-batch")
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
    optimizer: OptimizerSettings = OptimizerSettings()

    @model_validator(mode="after")
    def _groups(self) -> LearnerSettings:
        if min(self.epsilon) < 0:
            raise ValueError("epsilon must not be negative")
        for player in Player:
            if self.num_generations[player] < 2:
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

    kind: Literal["alternate", "by_metric"] = Field("alternate", description="MAGIC: alternate")
    every: PerPlayer[int] = Field(
        PerPlayer[int](attacker=15, defender=15), description="rounds of a block, alternate"
    )
    limits: tuple[float, float] = Field(
        (0.8, 0.9), description="by_metric: hand back at or below, hand over at or above"
    )
    window: int = Field(3, ge=1, description="by_metric: rounds averaged")
    dwell: tuple[int, int] = Field((3, 30), description="by_metric: fewest and most rounds a block")

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


class GameSettings(Model):
    """The rules' own terms; gate false and helpfulness 0 give the paper's game."""

    gate: bool = Field(
        True, description="an unfaithful attack earns the floor, its reply is masked"
    )
    helpfulness: float = Field(1.0, ge=0, description="cost of a benign reply beside the question")
    format: float = Field(0.5, ge=0, description="the attacker's format term")
    diversity: float = Field(
        0.0, ge=0, description="added to the attacker's return x (1 - similarity to its siblings)"
    )
    replies_per_attack: int = Field(1, ge=1, description="replies that value one attack")
    exchanges: int = Field(
        1, ge=1, le=3, description="attacks and replies of one game; it ends early at a harmful one"
    )


class JudgeSettings(Model):
    """Who rules."""

    kind: str = Field(SANDBOX, description="sandbox | keyword (a stand-in)")


class WarmUpSettings(Model):
    """The attacker's supervised start, on an attack pool."""

    steps: int = Field(250, ge=0, description="optimizer steps; 0: none")
    batch_size: int = Field(64, ge=1, description="demonstrations a step")
    learning_rate: float = Field(1e-5, gt=0, description="peak, cosine")
    pool_size: int = Field(4000, ge=1, description="sandbox: rewrites in the pool")
    pool_encodings: float = Field(0.04, ge=0, le=1, description="sandbox: share encoded")
    pool_dialogues: float = Field(
        0.4, ge=0, description="sandbox, exchanges > 1: dialogues added, as a share of pool_size"
    )


class ExamSettings(Model):
    """The test that runs beside training and never teaches."""

    every: int = Field(0, ge=0, description="rounds between exams; 0: only before and after")
    n: int = Field(192, ge=1, description="openings of each set")
    holdout: float = Field(
        0.2, gt=0, lt=1, description="share of data.train kept for exams, unless data.exam is given"
    )
    crossplay: int = Field(5, ge=0, description="checkpoints a side in the final matrix; 0: none")


class Source(Model):
    """One seed file."""

    path: Path = Field(description="CSV, TSV, JSON or JSONL with a known header")
    limit: int | None = Field(None, ge=1, description="rows taken from the top")


class DataSettings(Model):
    """Where seeds come from; nothing: the sandbox."""

    train: list[Source] = Field([], description="files of seeds")
    exam: list[Source] = Field([], description="held-out seeds, never trained on")


class SavingSettings(Model):
    """What is written, and where to."""

    checkpoint_every: int = Field(10, ge=1, description="rounds between checkpoints")
    keep_every: int = Field(20, ge=1, description="rounds between checkpoints kept for good")
    transcripts_every: int = Field(20, ge=0, description="rounds between transcripts; 0: none")
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        [], description="trackers, through accelerate"
    )


class RunConfig(Model):
    """A run, whole."""

    recipe: str = Field("magic", description="magic")
    seed: int = Field(42, description="of everything random in training")
    rounds: int = Field(300, ge=1, description="rounds of the game")
    output_dir: Path | None = Field(None, description="default: runs/<recipe>-<seed>")
    weights: Literal["adapters", "separate", "shared"] = Field(
        "adapters", description="one base and a LoRA each | two models | one model for both"
    )
    defender: PlayerSettings = PlayerSettings()
    attacker: PlayerSettings = PlayerSettings()
    sampling: SamplingSettings = SamplingSettings()
    learner: LearnerSettings = LearnerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    game: GameSettings = GameSettings()
    judge: JudgeSettings = JudgeSettings()
    warm_up: WarmUpSettings = WarmUpSettings()
    exam: ExamSettings = ExamSettings()
    data: DataSettings = DataSettings()
    saving: SavingSettings = SavingSettings()

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return self.output_dir or Path("runs") / f"{self.recipe}-{self.seed}"

    @property
    def in_sandbox(self) -> bool:
        """Without seed files a run plays in the sandbox."""
        return not self.data.train
