"""What a user may set: small typed models, every field with its unit; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sparring.settings.base import Model, PerPlayer
from sparring.settings.judging import JudgeRules, Judges, JudgeSettings
from sparring.settings.learning import LearnerSettings, ScheduleSettings, WarmUpSettings
from sparring.settings.memory import MemorySettings
from sparring.settings.players import SANDBOX, PlayerSettings, SamplingSettings
from sparring.types import Player

__all__ = ["SANDBOX", "PerPlayer", "RunConfig"]


class GameSettings(Model):
    """The rules' own terms; gate false and helpfulness 0 give the paper's game."""

    payoff: Literal["magic", "score", "self_redteam"] = Field(
        "magic", description="a label table | SSP's 1-5 score | Self-RedTeam's labels"
    )
    gate: bool = Field(
        True, description="an unfaithful attack earns the floor, its reply is masked"
    )
    helpfulness: float = Field(1.0, ge=0, description="cost of a benign reply beside the question")
    format: float = Field(0.5, ge=0, description="the attacker's format term")
    reply_format: float = Field(
        0.0, ge=0, description="above 0 the defender thinks first, and this is its format term"
    )
    diversity: float = Field(
        0.0, ge=0, description="added to the attacker's return x (1 - similarity to its siblings)"
    )
    exchanges: int = Field(
        1, ge=1, le=3, description="attacks and replies of one game; it ends early at a harmful one"
    )
    embedding_model: str | None = Field(
        None, description="an encoder that says how similar; none: bags of words"
    )

    @model_validator(mode="after")
    def _gated(self) -> GameSettings:
        if self.diversity and not self.gate:
            raise ValueError(
                f"diversity is {self.diversity} and gate is false: without the gate "
                "gibberish would earn it; set game.gate=true or game.diversity=0"
            )
        return self


class ExamSettings(Model):
    """The test that runs beside training and never teaches."""

    every: int = Field(0, ge=0, description="rounds between exams; 0: only before and after")
    n: int = Field(192, ge=1, description="openings of each set")
    holdout: float = Field(
        0.2, gt=0, lt=1, description="share of data.train kept for exams, unless data.exam is given"
    )
    judge: Judges = Field(
        [], description="judges that rule on exams a second time and never on a reward"
    )
    crossplay: int = Field(5, ge=0, description="checkpoints a side in the final matrix; 0: none")


class Source(Model):
    """One seed file."""

    path: Path = Field(
        description="CSV, TSV, JSON, JSONL or Parquet; or OWNER/NAME:FILE@REVISION on the hub"
    )
    limit: int | None = Field(None, ge=1, description="rows taken from the top")
    map: dict[str, str] | None = Field(
        None, description="columns of an unknown header, such as {prompt: question, harmful: true}"
    )

    @field_validator("map", mode="before")
    @classmethod
    def _in_words(cls, told: Any) -> Any:
        """YAML reads a label for every row as a truth value."""
        if not isinstance(told, dict):
            return told
        return {k: str(v).lower() if isinstance(v, bool) else v for k, v in told.items()}


class DataSettings(Model):
    """Where seeds come from; nothing: the sandbox."""

    train: list[Source] = Field([], description="files of seeds")
    exam: list[Source] = Field([], description="held-out seeds, never trained on")
    as_they_stand: float = Field(
        0.0, ge=0, le=1, description="share of a round's seeds that nobody rewrites"
    )


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

    recipe: str = Field("magic", description="a recipe's name")
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
    memory: MemorySettings = MemorySettings()
    judge: Judges = Field(
        [JudgeSettings()], min_length=1, description="one judge, or several merged field by field"
    )
    judge_rules: JudgeRules = Field(
        {}, description="by field: majority | any | all of the judges that rule on it"
    )
    max_unscored: float = Field(
        0.05, ge=0, le=1, description="share of unscored games, over 5 rounds, that stops a run"
    )
    warm_up: WarmUpSettings = WarmUpSettings()
    exam: ExamSettings = ExamSettings()
    data: DataSettings = DataSettings()
    saving: SavingSettings = SavingSettings()

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return self.output_dir or Path("runs") / f"{self.recipe}-{self.seed}"

    def owner(self, player: Player) -> Player:
        """Whose folder of a checkpoint holds that player's weights; shared ones are saved once."""
        return Player.DEFENDER if self.weights == "shared" else player

    @property
    def in_sandbox(self) -> bool:
        """Without seed files a run plays in the sandbox."""
        return not self.data.train
