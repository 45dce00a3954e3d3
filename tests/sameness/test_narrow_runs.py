"""Runs in bfloat16 and with gradient checkpointing: uninterrupted, resumed and exported."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from tests import short_run
from tests.command import sparring_command

NARROW = ("attacker.dtype=bfloat16", "defender.dtype=bfloat16", "exam.crossplay=0")
KINDS = {"separate": (), "adapters": ("weights=adapters", "attacker.model_name_or_path=sandbox")}
LEARNING = ("learner.learning_rate=1e-3",)
LAST = f"round_{short_run.ROUNDS:06d}"


def dtypes(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        names = file.keys()
        return {str(file.get_slice(name).get_dtype()) for name in names}


@pytest.fixture(scope="module", params=KINDS)
def narrow(request) -> tuple[Path, tuple[str, ...]]:
    more = (*NARROW, *KINDS[request.param], *LEARNING)
    return short_run.whole(*more), more


def test_a_bfloat16_run_ends_with_an_exam_and_weights_of_its_dtype(narrow):
    run, more = narrow
    assert json.loads((run / "run.json").read_text())["status"] == "complete"
    assert (run / "exams" / LAST / "results.json").is_file()
    saved = run / "checkpoints" / LAST
    assert dtypes(saved / "optimizer.safetensors") == {"F32"}, "steps are taken in float32"
    if "weights=adapters" not in more:
        assert dtypes(saved / "defender" / "model.safetensors") == {"BF16"}


def test_a_bfloat16_run_that_was_stopped_every_round_is_the_whole_run(narrow, tmp_path):
    run, more = narrow
    for number in range(1, short_run.ROUNDS + 1):
        short_run.train(tmp_path / "run", *more, f"--max-rounds={number}").check()
    assert short_run.outcome(tmp_path / "run") == short_run.outcome(run)


def test_a_bfloat16_run_is_exported_in_its_dtype_and_verified(narrow, tmp_path):
    run, _ = narrow
    words = ("--role", "attacker", "--merge", "--i-understand", "--json")
    result = sparring_command("export", run, *words, "--output", tmp_path / "out")
    assert result.code == 0, result.text
    assert dtypes(tmp_path / "out" / "model.safetensors") == {"BF16"}
    last = json.loads(result.out)["agreements"][-1]
    assert last["largest"] <= last["limit"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_computes_activations_again_is_the_same_run_to_rounding(kind):
    """Its learner packs siblings into rows, where a run's own continues a cached prompt."""
    more = ("exam.crossplay=0", *KINDS[kind], *LEARNING)
    plain = short_run.rounds(short_run.whole(*more))
    again = short_run.whole(*more, "learner.optimizer.gradient_checkpointing=true")
    for record, expected in zip(short_run.rounds(again), plain, strict=True):
        assert record["metrics"] == pytest.approx(expected["metrics"], rel=1e-3, abs=1e-5)
