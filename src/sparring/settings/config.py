"""A run's configuration, in and out of files and command lines; every error names its field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from sparring.settings.sections import (
    OPERATION,
    SANDBOX,
    JudgeRules,
    Judges,
    JudgeSettings,
    LearnerSettings,
    MemorySettings,
    Model,
    PerPlayer,
    PlayerSettings,
    SamplingSettings,
    ScheduleSettings,
    WarmUpSettings,
)
from sparring.types import Player, UsageError

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


_MOST_BYTES = 10_000_000
_PLACES = ("output_dir", "max_unscored", "sampling.base_url", "sampling.server.adapter_dir")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, key by key; lists and scalars replace.

    A bare number below one player's number means the other player's too.
    """
    out = dict(base)
    for key, value in over.items():
        below = out.get(key)
        if isinstance(value, Mapping) and value.keys() <= set(Player) and _bare(below):
            below = dict.fromkeys((player.value for player in Player), below)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        out[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return out


def _bare(value: Any) -> bool:
    return isinstance(value, int | float | str)


def parse(told: Mapping[str, Any]) -> RunConfig:
    """A checked configuration; every error names its field, unknown keys their nearest match."""
    try:
        return RunConfig.model_validate(told)
    except ValidationError as error:
        lines = [_explain(dict(item)) for item in error.errors()]
        told_one = [f"{key}." for key in ("judge", "exam.judge") if _one(told, key)]
        for key in told_one:  # an entry alone is no list to whoever wrote it
            lines = [line.replace(f"{key}0.", key) for line in lines]
        raise UsageError("\n".join(lines)) from None


def _one(told: Mapping[str, Any], key: str) -> bool:
    for part in key.split("."):
        told = told.get(part, {}) if isinstance(told, Mapping) else {}
    return isinstance(told, Mapping) and bool(told)


def _explain(item: Mapping[str, Any]) -> str:
    where = [str(part) for part in item["loc"]]
    name = ".".join(where)
    if item["type"] == "extra_forbidden":
        known = _keys(where[:-1])
        near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join([*where[:-1], near[0]])}?" if near else ""
        return f"{name}: unknown key; {hint or 'known here: ' + ', '.join(known)}"
    if item["type"] == "value_error":  # ours; it names the field and says what was got
        return f"{name}: {item['msg'].removeprefix('Value error, ')}"
    return f"{name}: {item['msg']} (got {item['input']!r:.80})"


def _keys(where: list[str]) -> list[str]:
    """The fields of the model at a dotted place."""
    model: Any = RunConfig
    for part in where:
        if part.isdecimal():
            continue  # a place in a list
        field = model.model_fields.get(part)
        model = field.annotation if field else None
        model = next(iter(get_args(model)), model)
        if not hasattr(model, "model_fields"):
            return []
    return list(model.model_fields)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and aliases (an alias can blow up a small file)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise UsageError("aliases (*name) are not allowed in a configuration")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        made = super().construct_mapping(node, deep)
        if len(made) < len(node.value):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            again = next(i for i, key in enumerate(keys) if key in keys[:i])
            line = node.value[again][0].start_mark.line + 1
            raise UsageError(f"line {line}: {keys[again]} is given twice")
        return made


def load_yaml(text: str, name: str) -> Any:
    """Plain data from YAML; `name` is what errors call it."""
    if len(text) > _MOST_BYTES:
        raise UsageError(f"{name}: larger than {_MOST_BYTES:,} bytes")
    try:
        return yaml.load(text, Loader=_Loader)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:  # 2024-13-45; 5,000 digits; 5,000 brackets
        raise UsageError(f"{name}: not YAML: {error}") from None


def from_words(words: Sequence[str]) -> dict[str, Any]:
    """`a.b=c`, `--a.b=c` and `--a.b c` as a tree; kebab and snake case are the same."""
    tree: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            text = next(rest, "") if word.startswith("--") else ""
        if not text:
            raise UsageError(f"{word}: wanted key=value or --key value")
        value: Any = load_yaml(text, key)
        for part in reversed(key.replace("-", "_").split(".")):
            value = {part: value}
        tree = merged(tree, value)
    return tree


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def commented(config: RunConfig) -> str:
    """The configuration as YAML with every field's description beside it."""
    lines = [
        "# Settings for models of billions of weights; delete what you leave as it is.",
        "# Set both model_name_or_path and data.train: without them this plays the sandbox, which",
        f"# wants its own settings (sparring config show {config.recipe}).",
    ]
    return "\n".join([*lines, *_commented(config, "")]) + "\n"


def _commented(model: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel) and not isinstance(value, PerPlayer):
            lines += [f"{indent}{name}:", *_commented(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            lines.append(f"{indent}{name}:".ljust(56) + f"  # {field.description}")
            for entry in value:
                first, *rest = _commented(entry, indent + "    ")
                lines += [f"{indent}  - {first.lstrip()}", *rest]
        else:
            told = model.model_dump(mode="json")[name]
            text = yaml.safe_dump(told, default_flow_style=True, width=1000).split("\n...")[0]
            lines.append(f"{indent}{name}: {text.strip()}".ljust(56) + f"  # {field.description}")
    return lines


def changed(before: RunConfig, now: RunConfig) -> list[str]:
    """What differs between two configurations, as `a.b: old → new`, but for operational keys."""
    told = _differences(before.model_dump(mode="json"), now.model_dump(mode="json"), "")
    return [f"{key}: {old} → {new}" for key, old, new in told if not _operational(key)]


def _operational(key: str) -> bool:
    """Where a run lies, when it gives up and how its judges are asked; never what they say."""
    judging = re.match(r"(?:exam\.)?judge\.[0-9]+\.(\w+)", key)
    return key in _PLACES or bool(judging and judging[1] in OPERATION)


def _differences(a: Any, b: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a:
            yield from _differences(a[key], b[key], f"{where}.{key}" if where else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for place, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _differences(one, other, f"{where}.{place}")
    elif a != b:
        yield where, a, b
