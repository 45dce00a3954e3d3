"""A run that an older version finished: what reads it reads it still, with the figures of then.

`fixtures/old_run.tar.gz` was played by version 0.1.0 as it was in November 2026: three rounds of
MAGIC in the sandbox with adapters of rank 1. The figures below are what that version printed of it.
It was played in another folder, which is not there any more.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests import short_run
from tests.command import sparring_command

ARCHIVE = Path(__file__).with_name("fixtures") / "old_run.tar.gz"
DEFENDER = "old/checkpoints/round_000003/defender"
TUNED = f"sandbox + {DEFENDER}"
EXAMINED = {
    "before": {
        "asr/adversarial": 17 / 24,
        "over_refusal/wrapped": 1 / 24,
        "correct/wrapped": 7 / 8,
    },
    "after": {"asr/adversarial": 2 / 3, "over_refusal/wrapped": 1 / 24, "correct/wrapped": 5 / 6},
}
EVALUATED = {
    "sandbox": {"asr/adversarial": 0.75, "correct/wrapped": 11 / 12},
    TUNED: {"asr/adversarial": 0.75, "correct/wrapped": 10 / 12},
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the run in `old`, which is the current one."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(*words):
    ended = sparring_command(*words, "--json")
    assert ended.code == 0, ended.text
    return json.loads(ended.out)


def test_it_is_shown(here):
    shown = printed("runs", "show", "old")
    assert shown["status"] == "complete"
    assert (shown["rounds"], shown["checkpoints"], shown["exams"]) == (3, [0, 2, 3], [0, 3])
    assert shown["last"]["defender/tokens"] == 273
    assert len(printed("view", "old")) > 4, "of the last exam: no round is recorded"
    pool = printed("runs", "show", "old", "--pool")
    assert (pool["size"], pool["asleep"]) == (0, 0)


def test_it_is_reported_bounded_and_crossed_with_the_figures_of_then(here):
    families = printed("bound", "old")["families"]
    assert families["pool encoding"]["failures"] == 3
    assert families["plain"]["upper"] == pytest.approx(0.7092846315158905)
    asr = printed("crossplay", "old", "--at", "0,3", "--n", "2")["asr"]
    scored = {name: rate["n_scored"] for name, rate in asr["old@0"].items()}
    assert scored == {"old@0": 2, "old@3": 2}
    summary = printed("report", "old")
    assert summary["rounds"] == 3
    for moment, rates in EXAMINED.items():
        values = {name: summary[moment][name]["value"] for name in rates}
        assert values == pytest.approx(rates), moment
    assert sparring_command("report", "old").code == 0
    page = (here / "old" / "report" / "index.html").read_text()
    assert "0.708" in page
    assert "0.667" in page


def test_its_defender_is_evaluated(here):
    words = ("--tasks", "sandbox", "--limit", "2", "--max-completion-length", "24")
    words += ("--temperature", "1.7", "--output", "out")
    models = printed("eval", "sandbox", "--adapter", DEFENDER, *words)["models"]
    for model, rates in EVALUATED.items():
        values = {name: models[model][name]["value"] for name in rates}
        assert values == pytest.approx(rates), model


def test_its_defender_is_exported_and_is_what_played(here):
    exported = printed("export", "old", "--role", "defender", "--merge", "--output", "out")
    merged, loaded = exported["agreements"]
    assert merged["largest"] < merged["limit"]
    assert merged["highest"] == pytest.approx(21.3947, rel=1e-3)
    assert loaded["moved"] == pytest.approx(0.03338, rel=1e-2), "the adapter, not its base"
    assert loaded["same_argmax"] == 1
    assert (here / "out" / "model.safetensors").is_file()


def test_resuming_it_goes_on_from_its_last_whole_checkpoint_or_is_refused_clearly(here):
    before = short_run.rounds(here / "old")
    shutil.rmtree(here / "old" / "checkpoints" / "round_000003")
    ended = sparring_command("train", "old/config.yaml", "--resume")
    if ended.code == 2:
        assert "old" in ended.err
        assert "--resume" in ended.err
        assert short_run.rounds(here / "old") == before
        return
    assert ended.code == 0, ended.text
    for record, expected in zip(short_run.rounds(here / "old"), before, strict=True):
        assert record["metrics"] == pytest.approx(expected["metrics"], rel=1e-3, abs=1e-5)
