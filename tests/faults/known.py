"""Shared by the tests of known faults: short runs on tiny models."""

import json
from pathlib import Path

import pytest
from tests.command import Ended, sparring_command
from tests.tiny import QWEN2, save_model, write_seeds

SHORT = (
    *("judge.kind=keyword", "game.gate=false", "game.helpfulness=0", "rounds=1"),
    *("schedule.every=1", "learner.num_generations=2", "learner.seeds_per_round=4"),
    *("learner.learning_rate=1e-3", "sampling.max_completion_length=16", "warm_up.steps=0"),
    *("attacker.lora.r=4", "defender.lora.r=4", "exam.holdout=0.5", "exam.crossplay=0"),
    *("exam.n=2", "saving.transcripts_every=0"),
)


def command(*words: object, trace: str = "") -> Ended:
    """Run `sparring words…`; a traceback without the text `trace` is an error of the test."""
    result = sparring_command(*words)
    if "Traceback" in result.err and not (trace and trace in result.err):
        pytest.fail(result.err)
    return result


def train(folder: Path, attacker: Path, *more: str, defender: Path | None = None, trace: str = ""):
    """Train for one round, on the eight harmless seeds unless `more` has others."""
    own = [word for word in more if word.startswith("data.train=")]
    seeds = own or [f"data.train=[{{path: {write_seeds(folder / 'seeds.csv')}}}]"]
    models = [f"attacker.model_name_or_path={attacker}"]
    models += [f"defender.model_name_or_path={defender or attacker}"]
    rest = [word for word in more if word not in own]
    words = ("train", "magic", f"output_dir={folder / 'run'}", *SHORT, *models, *seeds, *rest)
    return command(*words, trace=trace)


def assert_played(result: Ended) -> None:
    """A run that did not finish is an error of the test, not the fault that it is about."""
    if result.code:
        pytest.fail(f"exit code {result.code}: {result.err}")


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line)["metrics"] for line in (folder / "run/rounds.jsonl").open()]


def assert_sampled_as_learned(folder: Path) -> None:
    """The learner's log-probability (nats) of every token is the one it was sampled with."""
    name = "sampling_logp_difference"
    apart = [v for values in metrics(folder) for key, v in values.items() if key.endswith(name)]
    if not apart:
        pytest.fail("no round compared what was sampled with what is learned")
    assert max(apart) < 1e-3


def evaluate(folder: Path, model: Path, trace: str = "") -> Ended:
    """Run `sparring eval` on the eight harmless seeds with the keyword judge."""
    words = ("--tasks", write_seeds(folder / "seeds.csv"), "--judge", "keyword")
    more = ("--output", folder / "out", "--max-completion-length", "8")
    return command("eval", model, *words, *more, trace=trace)


def edit_json(path: Path, **values: object) -> None:
    """Change some values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def model(tmp_path):
    """The folder of a tiny chat model."""
    return save_model(tmp_path / "model", QWEN2)
