"""Rates say how many of their prompts a model was trained on, and what they are without those."""

import json
import shutil

import pytest
from tests.command import sparring_command
from tests.evals.evaluations import evaluate, place, row
from tests.evals.test_eval import lenient  # noqa: F401
from tests.tiny import SEED_TEXTS

from sparring.runs.recipes import configured
from sparring.runs.sources import own_data
from sparring.store.folder import RunDir

HARMFUL, BENIGN = SEED_TEXTS[True], SEED_TEXTS[False]


def write(path, harmful=(), benign=()):
    rows = [(text, label) for label, texts in ((1, harmful), (0, benign)) for text in texts]
    lines = [json.dumps({"text": text, "harmful": label}) for text, label in rows]
    path.write_text("\n".join(lines))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(place(tmp_path))
    write(tmp_path / "train.jsonl", [HARMFUL[0], HARMFUL[1].upper()], [f"Please {BENIGN[0]}"])
    return tmp_path


def run(*words, code=0):
    command = evaluate("./qwen2", "--output", "out", "--epochs", 2, *words)
    assert command.code == code, command.text
    return command


def result(folder):
    return json.loads((folder / "out" / "results.json").read_bytes())


SETS = {
    "harmful/seeds": {"prompts": 4, "exact": 1, "normalised": 1, "near": 0},
    "benign/seeds": {"prompts": 4, "exact": 0, "normalised": 0, "near": 1},
}


def test_files_that_a_model_was_trained_on_are_compared_and_rates_stand_with_and_without(
    here,
    lenient,  # noqa: F811
):
    run()
    assert result(here)["overlap"] is None
    assert row(here / "out", "asr/seeds")["without_overlap"] is None
    command = run("--trained-on", "train.jsonl")  # complete: nothing is asked again
    assert "harmful/seeds: 4 prompts, in training: 1 exact, 1 normalised, 0 near" in command.err
    assert "without overlapping prompts" in command.out
    overlap = result(here)["overlap"]
    assert overlap == {"trained_on": ["train.jsonl"], "seeds": 3, "sets": SETS}
    asr, refusals = (row(here / "out", name) for name in ("asr/seeds", "over_refusal/seeds"))
    assert (asr["n_total"], asr["without_overlap"]["n_total"]) == (8, 4)
    assert (refusals["n_total"], refusals["without_overlap"]["n_total"]) == (8, 6)
    samples = (here / "out" / "samples.jsonl").read_text().splitlines()
    harmful = [s for s in map(json.loads, samples) if s["set"] == "harmful/seeds"]
    hits = [s["verdict"]["reply_harm"] == "unsafe" for s in harmful if s["place"] > 1]
    assert asr["without_overlap"]["value"] == pytest.approx(sum(hits) / 4)
    before = (here / "out" / "results.json").read_bytes()
    (here / "train.jsonl").unlink()
    assert sparring_command("eval", "--rescore", "out").code == 0
    assert (here / "out" / "results.json").read_bytes() == before


@pytest.mark.parametrize("place", ["checkpoints/round_000004/defender", "export/defender-000004"])
def test_a_model_in_a_runs_folder_was_trained_on_that_runs_seeds(here, place):
    data = {"train": [{"path": "train.jsonl"}], "exam": [{"path": "exam.jsonl"}]}
    write(here / "exam.jsonl", HARMFUL[:1])
    folder = RunDir.create(here / "dragon", json.dumps({"recipe": "magic", "data": data})).folder
    shutil.copytree("qwen2", folder / place)
    command = evaluate(folder / place, "--output", "out")
    assert command.code == 0, command.text
    overlap = result(here)["overlap"]
    assert (overlap["trained_on"], overlap["seeds"]) == ([str(folder)], 2), "but its exam's"
    assert overlap["sets"]["harmful/seeds"] == SETS["harmful/seeds"] | {"exact": 0}
    (here / "train.jsonl").unlink()
    command = evaluate(folder / place, "--output", "other")
    assert command.code == 0, command.text
    assert "train.jsonl is not there); name their files with --trained-on" in command.text
    assert json.loads((here / "other" / "results.json").read_bytes())["overlap"] is None


def test_a_damaged_record_of_overlap_is_named_and_a_missing_file_of_seeds_is_a_usage_error(here):
    run("--trained-on", "train.jsonl")
    assert "gone.jsonl" in run("--trained-on", "gone.jsonl", code=2).text
    file = here / "out" / "overlap.json"
    record = json.loads(file.read_bytes())
    for change in ({"seeds": "many"}, {"kinds": {}}, {"kinds": {key: [""] for key in SETS}}):
        file.write_text(json.dumps(record | change))
        command = sparring_command("eval", "--rescore", "out")
        assert (command.code, "overlap.json" in command.text) == (1, True), command.text


def test_a_run_says_how_many_held_out_seeds_are_nearly_training_seeds(here):
    write(here / "exam.jsonl", HARMFUL[2:], BENIGN[:2])
    words = ["data.train=train.jsonl", "data.exam=exam.jsonl", "judge=keyword"]
    source = own_data(configured("magic", words), (), None)
    assert len(source.seeds) == 3
    note = "1 of 4 held-out seeds nearly repeat a training seed"
    assert [text for text in source.notes if note in text]
