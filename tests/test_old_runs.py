"""A run that an older version finished: what shows it shows it still, with the figures of then.

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
EXAMINED = {
    "before": {
        "asr/adversarial": 17 / 24,
        "over_refusal/wrapped": 1 / 24,
        "correct/wrapped": 7 / 8,
    },
    "after": {"asr/adversarial": 2 / 3, "over_refusal/wrapped": 1 / 24, "correct/wrapped": 5 / 6},
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


def test_it_is_reported_and_bounded_with_the_figures_of_then(here):
    families = printed("bound", "old")["families"]
    assert families["pool encoding"]["failures"] == 3
    assert families["plain"]["upper"] == pytest.approx(0.7092846315158905)
    summary = printed("report", "old")
    assert summary["rounds"] == 3
    for moment, rates in EXAMINED.items():
        values = {name: summary[moment][name]["value"] for name in rates}
        assert values == pytest.approx(rates), moment
    assert sparring_command("report", "old").code == 0
    page = (here / "old" / "report" / "index.html").read_text()
    assert "0.708" in page
    assert "0.667" in page


@pytest.mark.parametrize(
    "words",
    [
        ("crossplay", "old", "--at", "0,3", "--n", "2"),
        ("exploit", "old", "--steps", "1"),
        ("eval", "sandbox", "--adapter", DEFENDER, "--tasks", "sandbox", "--output", "out"),
        ("export", "old", "--role", "defender", "--output", "out"),
        ("train", "old/config.yaml", "--resume"),
    ],
)
def test_it_does_not_play_on_in_the_larger_sandbox_and_is_told_so(here, words):
    """Its adapters belong to a base that is not shipped any more."""
    before = short_run.rounds(here / "old")
    if words[0] == "train":
        shutil.rmtree(here / "old" / "checkpoints" / "round_000003")
    ended = sparring_command(*words)
    assert ended.code == 2, ended.text
    why = "older version of sparring began it" if words[0] == "train" else "another sandbox"
    assert why in ended.err
    assert short_run.rounds(here / "old") == before
    assert not [*here.glob("out/*results*"), *here.glob("out/*.safetensors")]
