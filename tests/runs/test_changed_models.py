"""A run and an evaluation go on only upon the models they were begun with; versions are named."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.command import sparring_command
from tests.faults import known
from tests.faults.known import assert_played, edit_json, evaluate, train
from tests.tiny import QWEN2, save_model

model = known.model
ADAPTERS = ("rounds=2", "saving.checkpoint_every=1", "weights=adapters")


@pytest.fixture
def stopped(tmp_path, model):
    """A run that stopped after the first of its two rounds, and the command that resumes it."""
    assert_played(train(tmp_path, model, *ADAPTERS, "--max-rounds", "1"))
    return lambda: train(tmp_path, model, *ADAPTERS, "--resume")


def other_weights(folder: Path) -> str:
    save_model(folder, QWEN2, seed=99)
    return "model.safetensors"


def other_template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("helpful assistant", "pirate"))
    return path.name


def other_tokenizer(folder: Path) -> str:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"normalizer":', ' "normalizer":'))
    return path.name


def other_network(folder: Path) -> str:
    edit_json(folder / "config.json", rms_norm_eps=1e-3)
    return "config.json"


def each_change(model: Path) -> Iterator[str]:
    """The name of the file that was changed, for each change; it is undone afterwards."""
    before = {path: path.read_bytes() for path in model.iterdir()}
    for change in (other_weights, other_template, other_tokenizer, other_network):
        yield change(model)
        for path, data in before.items():
            path.write_bytes(data)


def test_a_run_is_not_played_on_or_measured_upon_another_base(tmp_path, stopped, model):
    run = tmp_path / "run"
    verbs = (["crossplay", run], ["exploit", run], ["export", run, "--role", "defender"])
    for name in each_change(model):
        for ended in (*(sparring_command(*words) for words in verbs), stopped()):
            assert (ended.code, f"{name} changed" in ended.text) == (2, True), ended
        assert str(model) in ended.text
    assert_played(stopped())


def test_other_versions_of_libraries_are_named_where_a_run_or_an_evaluation_goes_on(
    tmp_path, stopped, model
):
    assert_played(evaluate(tmp_path, model))
    for folder, again in (("run", stopped), ("out", lambda: evaluate(tmp_path, model))):
        path = tmp_path / folder / "env.json"
        versions = json.loads(path.read_text())["versions"]
        edit_json(path, versions={**versions, "transformers": "4.57.0"})
        ended = again()
        assert_played(ended)
        assert "transformers is" in ended.text
        assert "was 4.57.0" in ended.text


def test_a_stored_evaluation_is_of_the_model_as_it_was(tmp_path, model):
    assert_played(evaluate(tmp_path, model))
    for _ in each_change(model):
        ended = evaluate(tmp_path, model)
        assert (ended.code, "asked something else: models differs" in ended.text) == (2, True)
