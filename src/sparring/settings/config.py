"""A run's configuration, in and out of files and command lines; every error names its field."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from sparring.data.readers import parsed
from sparring.schedules import solo
from sparring.settings import sections
from sparring.settings.sections import Count, Model, PlayerSettings, Share, Steps, Weight
from sparring.types import Player, Turn, UsageError


class GameSettings(Model):
    """The rules' own terms; gate false and helpfulness 0 give the paper's game."""

    payoff: Literal["magic", "score", "self_redteam", "python"] = "magic"
    """a label table | SSP's 1-5 score | Self-RedTeam's labels | the program's own object"""
    gate: bool = True
    """an unfaithful attack earns the floor, its reply is masked"""
    helpfulness: Weight = 1.0
    """cost of a benign reply beside the question"""
    format: Weight = 0.5
    """the attacker's format term"""
    reply_format: Weight = 0.0
    """above 0 the defender thinks first, and this is its format term"""
    diversity: Weight = 0.0
    """added to the attacker's return x (1 - similarity to its siblings)"""
    mutation: Share = 0.0
    """share of attacks with repeated, dropped and moved words, where the defender alone learns"""
    exchanges: Annotated[int, Field(ge=1, le=3)] = 1
    """attacks and replies of one game; it ends early at a harmful one"""
    embedding_model: str | None = None
    """an encoder that says how similar; none: bags of words"""

    @model_validator(mode="after")
    def _gated(self) -> Self:
        if self.diversity and not self.gate:
            raise ValueError(
                f"diversity is {self.diversity} and gate is false: without the gate "
                "gibberish would earn it; set game.gate=true or game.diversity=0"
            )
        return self


EXAMS = 6
"""Exams of a run that does not say how often: enough to see whether a change is fast or slow."""


class ExamSettings(Model):
    """The test that runs beside training and never teaches."""

    every: Steps | None = None
    """rounds between exams; none: six, two rounds apart or more; 0: only before and after"""
    n: Count = 192
    """openings of each set"""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share of data.train kept for exams, unless data.exam is given"""
    families: Literal["none", "tuning", "report"] = "none"
    """of attacks that dress own held-out seeds; sandbox: tuning asks pairs of their own"""
    judge: sections.Judges = Field([])
    """judges that rule on exams a second time and never on a reward"""
    crossplay: Steps = 5
    """checkpoints a side in the final matrix; 0: none"""

    def due(self, done: int, rounds: int) -> bool:
        """Say whether there is an exam after `done` of `rounds` rounds."""
        if self.every is not None:
            return done in (0, rounds) or (self.every > 0 and done % self.every == 0)
        parts = max(1, min(EXAMS - 1, rounds // 2))
        return done in {round(part * rounds / parts) for part in range(parts + 1)}


class SeedFileSettings(Model):
    """One seed file."""

    path: Path
    """CSV, TSV, JSON, JSONL or Parquet; or OWNER/NAME:FILE@REVISION on the hub"""
    limit: Count | None = None
    """rows taken from the top"""
    map: dict[str, str] | None = None
    """columns of an unknown header, such as {prompt: question, harmful: true}"""

    @model_validator(mode="before")
    @classmethod
    def _of_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    @field_validator("map", mode="before")
    @classmethod
    def _in_words(cls, value: Any) -> Any:
        """The words of --map; and YAML reads a label for every row as a truth value."""
        if isinstance(value, str):
            return parsed([value], "map")
        if not isinstance(value, dict):
            return value
        return {k: str(v).lower() if isinstance(v, bool) else v for k, v in value.items()}


SeedFiles = Annotated[
    list[SeedFileSettings],
    BeforeValidator(lambda value: [value] if isinstance(value, str | Path | dict) else value),
]
"""One file or several, each by its path alone or with more."""


class DataSettings(Model):
    """Where seeds come from; nothing: the sandbox."""

    train: SeedFiles = Field([])
    """files of seeds"""
    exam: SeedFiles = Field([])
    """held-out seeds, never trained on"""
    as_they_stand: Share = 0.0
    """share of a round's seeds that nobody rewrites"""
    harmful: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """share of a round's seeds that are harmful; fewer make a defender refuse less"""


class SavingSettings(Model):
    """What is written, and where to."""

    checkpoint_every: Count = 10
    """rounds between checkpoints"""
    keep_every: Count = 20
    """rounds between checkpoints kept for good"""
    transcripts_every: Steps = 1
    """rounds between two whose games are kept; 0: none"""
    transcripts_mb: Count = 1000
    """megabytes of games, compressed, at most; the oldest rounds leave first"""
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field([])
    """trackers, through accelerate"""


class RunConfig(Model):
    """A run, whole."""

    recipe: str = "magic"
    """a recipe's name"""
    seed: int = 42
    """of everything random in training"""
    rounds: Steps = 300
    """rounds of the game"""
    output_dir: Path | None = None
    """default: runs/<recipe>-<seed>"""
    weights: Literal["adapters", "separate", "shared"] = "adapters"
    """one base and a LoRA each | two models | one model for both"""
    defender: PlayerSettings = PlayerSettings()
    attacker: PlayerSettings = PlayerSettings()
    sampling: sections.SamplingSettings = sections.SamplingSettings()
    learner: sections.LearnerSettings = sections.LearnerSettings()
    schedule: sections.ScheduleSettings = sections.ScheduleSettings()
    game: GameSettings = GameSettings()
    memory: sections.MemorySettings = sections.MemorySettings()
    judge: Annotated[sections.Judges, Field(min_length=1)] = Field([sections.JudgeSettings()])
    """one judge, or several merged field by field"""
    judge_rules: sections.JudgeRules = Field({})
    """by field: majority | any | all of the judges that rule on it"""
    max_unscored: Share = 0.05
    """share of unscored games, over 5 rounds, that stops a run"""
    warm_up: sections.WarmUpSettings = sections.WarmUpSettings()
    exam: ExamSettings = ExamSettings()
    data: DataSettings = DataSettings()
    saving: SavingSettings = SavingSettings()

    @property
    def folder(self) -> Path:
        """The folder that the run is written to."""
        return self.output_dir or Path("runs") / f"{self.recipe}-{self.seed}"

    def player(self, player: Player) -> PlayerSettings:
        """The settings of the attacker or the defender."""
        return self.attacker if player is Player.ATTACKER else self.defender

    def owner(self, player: Player) -> Player:
        """The player whose folder of a checkpoint holds the weights; shared ones are saved once."""
        return Player.DEFENDER if self.weights == "shared" else player

    @property
    def turns(self) -> dict[Player, Turn]:
        """The turn of every player that learns; under the defender the turn in which both learn."""
        schedule, widths = self.schedule, self.learner.num_generations
        if schedule.kind == "both":
            return {Player.DEFENDER: Turn(frozenset(Player), {p: widths[p] for p in Player})}
        learners = [Player.DEFENDER] if schedule.kind == "defender" else [*Player]
        return {p: solo(p, widths[p], schedule.replies_per_attack) for p in learners}

    @property
    def in_sandbox(self) -> bool:
        """Without seed files a run plays in the sandbox."""
        return not self.data.train


_MOST_BYTES = 10_000_000
_PLACES = (
    *("output_dir", "max_unscored", "sampling.base_url", "sampling.server.adapter_dir"),
    *("saving.transcripts_every", "saving.transcripts_mb"),
)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `over` on top of `base`, key by key; lists and scalars replace.

    A bare number below one player's number means the other player's too.
    """
    out = dict(base)
    for key, value in over.items():
        below = out.get(key)
        bare = isinstance(below, int | float | str)
        if bare and isinstance(value, Mapping) and value.keys() <= set(Player):
            below = dict.fromkeys((player.value for player in Player), below)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        out[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return out


def overlaid(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree with values by dotted key on top of it: `a.b` is `{"a": {"b": value}}`."""
    for key, value in values.items():
        tree = merged(tree, reduce(lambda below, part: {part: below}, key.split(".")[::-1], value))
    return dict(tree)


def parse(tree: Mapping[str, Any]) -> RunConfig:
    """Return a checked configuration; errors name the field, and the nearest of an unknown key."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(dict(item)) for item in error.errors()]
        for key in ("judge", "exam.judge"):  # the user wrote one entry without a list around it
            if _is_mapping(tree, key):
                lines = [line.replace(f"{key}.0.", f"{key}.") for line in lines]
        raise UsageError("\n".join(lines)) from None


def _is_mapping(tree: Any, key: str) -> bool:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return isinstance(tree, Mapping) and bool(tree)


def _explain(item: Mapping[str, Any]) -> str:
    where = [str(part) for part in item["loc"]]
    name = ".".join(where)
    if item["type"] == "extra_forbidden":
        *above, key = where
        section = ".".join(part for part in above if not part.isdecimal())  # a place in a list
        paths = [path.rpartition(".") for path in _paths(RunConfig)]
        known = [name for place, _, name in paths if place == section]
        elsewhere = [path for path in _paths(RunConfig) if path.endswith(f".{key}")]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        near = near or [word for word in known if len(key) > 2 and key in word]
        near = [".".join([*above, word]) for word in near]
        near = (elsewhere or near) if not above else (near or elsewhere)
        hint = f"did you mean {' or '.join(near[:3])}?" if near else ""
        return f"{name}: unknown key; {hint or 'known here: ' + ', '.join(known)}"
    if item["type"] == "value_error":  # raised by a section; it names the field and the value
        return f"{name}: {item['msg'].removeprefix('Value error, ')}"
    return f"{name}: {item['msg']} (got {item['input']!r:.80})"


def _paths(model: Any, above: str = "") -> Iterator[str]:
    """Yield the dotted name of every field of a section and of those below it."""
    for name, field in model.model_fields.items():
        yield above + name
        below = next(iter(get_args(field.annotation)), field.annotation)
        if hasattr(below, "model_fields"):
            yield from _paths(below, f"{above}{name}.")


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and aliases (an alias can blow up a small file)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise UsageError("aliases (*name) are not allowed in a configuration")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            again = next(i for i, key in enumerate(keys) if key in keys[:i])
            line = node.value[again][0].start_mark.line + 1
            raise UsageError(f"line {line}: {keys[again]} is given twice")
        return mapping


def load_yaml(text: str, name: str) -> Any:
    """Return plain data from YAML; `name` stands for it in errors."""
    if len(text) > _MOST_BYTES:
        raise UsageError(f"{name}: larger than {_MOST_BYTES:,} bytes")
    try:
        return yaml.load(text, Loader=_Loader)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: 2024-13-45, or 5,000 digits; RecursionError: 5,000 brackets
        quotes = " (a value that begins with ! needs quotes)" if "a tag" in str(error) else ""
        raise UsageError(f"{name}: not YAML: {' '.join(str(error).split())}{quotes}") from None


def read_yaml(path: Path) -> Any:
    """Return plain data from a YAML file that a user named; UsageError names the file."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error}") from None
    return load_yaml(text, str(path))


def from_words(words: Sequence[str]) -> dict[str, Any]:
    """Return `a.b=c`, `--a.b=c` and `--a.b c` as a tree; kebab and snake case are the same."""
    tree: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            text = next(rest, "") if word.startswith("--") else ""
        if not text:
            raise UsageError(f"{word}: wanted key=value or --key value")
        tree = overlaid(tree, {key.replace("-", "_"): load_yaml(text, key)})
    return tree


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with other values by dotted key, checked."""
    return parse(overlaid(config.model_dump(mode="json"), values))


def to_yaml(config: RunConfig) -> str:
    """Return the resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def changed(before: RunConfig, now: RunConfig) -> list[str]:
    """Return what differs between two configurations, as `a.b: old → new`.

    Keys that say where a run lies, when it stops or how its judges are reached are left out.
    """
    both = _differences(before.model_dump(mode="json"), now.model_dump(mode="json"), "")
    return [f"{key}: {old} → {new}" for key, old, new in both if not _operational(key)]


def _operational(key: str) -> bool:
    """Whether a key says where a run lies, when it stops or how its judges are reached."""
    judging = re.match(r"(?:exam\.)?judge\.[0-9]+\.(\w+)", key)
    return key in _PLACES or bool(judging and judging[1] in sections.OPERATION)


def _differences(a: Any, b: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        a, b = ({str(i): entry for i, entry in enumerate(entries)} for entries in (a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a:
            yield from _differences(a[key], b[key], f"{where}.{key}".lstrip("."))
    elif a != b:
        yield where, a, b
