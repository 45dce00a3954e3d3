"""`sparring train magic` with a user's own chat models and seeds, from start to report."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparring import RunDir
from sparring.store.records import CrossplayResults, ExamResults
from tests.command import Ended, sparring_command
from tests.tiny import GEMMA, LLAMA3, QWEN2, Family, save_model, write_pool, write_seeds

CAVEAT = "keyword is a stand-in that only matches refusal phrases"
KEYWORD = ("judge.kind=keyword", "game.gate=false", "game.helpfulness=0")
SHORT = [
    *("rounds=2", "schedule.every=1", "saving.transcripts_every=1"),
    *("learner.num_generations=4", "learner.seeds_per_round=4", "learner.learning_rate=1e-3"),
    *("sampling.max_completion_length=48", "warm_up.steps=30"),
    *("warm_up.batch_size=4", "warm_up.learning_rate=0.02"),
    *("attacker.lora.r=8", "defender.lora.r=4", "exam.holdout=0.5", "exam.crossplay=2"),
]


@dataclass(frozen=True)
class Played:
    """A finished run, the models it began with, and the output of its commands."""

    folder: Path
    ended: Ended
    weights: str
    start: Mapping[str, Path]

    def exam(self, number: int) -> ExamResults:
        results = RunDir.open(self.folder).exam(number)
        assert results, f"no exam after {number} rounds"
        return results

    def crossplay(self) -> CrossplayResults:
        results = RunDir.open(self.folder).crossplay()
        assert results, "no cross-play"
        return results

    @property
    def rounds(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "rounds.jsonl").open()]

    @property
    def owners(self) -> list[str]:
        return ["defender"] if self.weights == "shared" else ["attacker", "defender"]

    def checkpoint(self, number: int, player: str) -> Path:
        return self.folder / "checkpoints" / f"round_{number:06d}" / player

    def loaded(self, number: int, player: str) -> Any:
        """A checkpoint as transformers and PEFT read it, without a line of ours."""
        folder = self.checkpoint(number, player)
        if self.weights == "adapters":
            base = AutoModelForCausalLM.from_pretrained(self.start[player])
            return PeftModel.from_pretrained(base, folder)
        return AutoModelForCausalLM.from_pretrained(folder)


def train(folder: Path, start: Mapping[str, Path], weights: str, *more: str) -> Played:
    ended = sparring_command(
        *("train", "magic", f"weights={weights}", f"output_dir={folder / 'run'}", *KEYWORD),
        *(f"{player}.model_name_or_path={path}" for player, path in start.items()),
        *more,
    )
    assert ended.code == 0, ended.err
    return Played(folder / "run", ended, weights, start)


def models(folder: Path, attacker: Family, defender: Family) -> dict[str, Path]:
    made = {family: save_model(folder / family.name, family) for family in {attacker, defender}}
    return {"attacker": made[attacker], "defender": made[defender]}


KINDS = [(QWEN2, QWEN2, "adapters"), (LLAMA3, GEMMA, "separate"), (LLAMA3, LLAMA3, "shared")]


@pytest.fixture(scope="module", params=KINDS, ids=lambda k: f"{k[0].name}-{k[1].name}-{k[2]}")
def played(request, tmp_path_factory) -> Played:
    attacker, defender, weights = request.param
    folder = tmp_path_factory.mktemp("any-model")
    own = [
        f"data.train=[{{path: {write_seeds(folder / 'seeds.csv')}}}]",
        f"attacker.warm_start={write_pool(folder / 'pool.jsonl')}",
        *SHORT,
    ]
    start = models(folder, attacker, defender)
    if weights == "adapters":  # an adapter teaches a random base little; a run's checkpoint is one
        first = train(folder / "first", start, "shared", *own, "rounds=1")
        start = dict.fromkeys(start, first.checkpoint(1, "defender"))
    return train(folder, start, weights, *own)


def test_a_run_completes_with_every_round_once_and_names_only_folders_that_exist(played):
    assert json.loads((played.folder / "run.json").read_text())["status"] == "complete"
    assert [record["round"] for record in played.rounds] == [0, 1]
    assert [record["learns"] for record in played.rounds] == [["defender"], ["attacker"]]
    transcripts = sorted(path.name for path in (played.folder / "transcripts").iterdir())
    assert transcripts == ["round_000000.jsonl.gz", "round_000001.jsonl.gz"]
    lines = [line.split() for line in played.ended.out.splitlines() if line.strip()]
    labels = ("run", "attacker", "defender", "both")
    named = {words[0]: Path(words[1]) for words in lines if words[0] in labels}
    assert sorted(named) == sorted(["run", *(played.owners if played.owners[1:] else ["both"])])
    assert all(path.is_dir() for path in named.values())


def test_the_pool_teaches_the_attacker_its_format(played):
    assert max(record["metrics"]["parsed"] for record in played.rounds) >= 0.25
    assert any(name.endswith("/rewritten") for name in played.exam(0).rates)


def test_results_have_intervals_and_numbers_and_the_judge_that_they_rest_on(played):
    for number in (0, 2):
        exam = played.exam(number)
        assert CAVEAT in exam.judge.caveat
        for metric in ("asr/plain", "over_refusal/plain"):
            low, high = exam.rates[metric].ci95
            assert low <= exam.rates[metric].value <= high
            assert exam.rates[metric].n_total == exam.rates[metric].n_scored == 2
    matrix = played.crossplay().asr
    assert [sorted(row) for row in matrix.values()] == [["0", "2"]] * 2
    assert played.ended.text.count(CAVEAT) == 2, "before the run, and under its report"


def test_checkpoints_load_in_transformers_and_peft_and_differ_from_the_start(played):
    ids = torch.tensor([[5, 6, 7, 8]])
    for player in played.owners:
        start = AutoModelForCausalLM.from_pretrained(played.start[player])
        trained = played.loaded(2, player)
        with torch.no_grad():
            moved = (trained(ids).logits - start(ids).logits).abs().max().item()
            assert torch.isfinite(trained(ids).logits).all()
        if player == "attacker" or played.weights == "shared":
            assert moved > 1e-3
        folder, rank = played.checkpoint(2, player), {"attacker": 8, "defender": 4}[player]
        if played.weights == "adapters":
            assert json.loads((folder / "adapter_config.json").read_text())["r"] == rank
            continue
        words, before = map(AutoTokenizer.from_pretrained, (folder, played.start[player]))
        assert words.chat_template == before.chat_template
        assert words.get_vocab() == before.get_vocab()
    before, after = (played.loaded(n, played.owners[0]).state_dict() for n in (0, 2))
    assert played.rounds[1]["metrics"]["attacker/grad_norm"] > 0
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_report_and_runs_read_the_run(played):
    report = json.loads(sparring_command("report", played.folder, "--json").out)
    assert report["rounds"] == 2
    assert set(report["after"]) == set(report["before"]) >= {"asr/plain", "over_refusal/plain"}
    assert CAVEAT in report["judge"]["caveat"]
    assert "ASR" in sparring_command("report", played.folder).out
    listed = sparring_command("runs", "list", "--folder", played.folder.parent, "--json")
    (row,) = json.loads(listed.out)
    assert (row["run"], row["rounds"], row["status"]) == (str(played.folder), 2, "complete")
    shown = json.loads(sparring_command("runs", "show", played.folder, "--json").out)
    assert (shown["checkpoints"], shown["exams"]) == ([0, 2], [0, 2])
    assert shown["last"] == played.rounds[1]["metrics"]
    tail = sparring_command("runs", "tail", played.folder, "--n", "1", "--json").out
    assert [json.loads(line)["round"] for line in tail.splitlines()] == [1]


def test_without_benign_seeds_a_run_warns_and_measures_no_over_refusal(tmp_path):
    seeds = write_seeds(tmp_path / "seeds.csv", [True])
    start = models(tmp_path, QWEN2, QWEN2)
    more = [*SHORT, "rounds=1", "warm_up.steps=0", "exam.crossplay=0"]
    played = train(tmp_path, start, "shared", f"data.train=[{{path: {seeds}}}]", *more)
    assert "no benign seeds: over-refusal is not measured" in played.ended.text
    assert list(played.exam(1).rates) == ["asr/plain"]
    assert "over_refusal" not in played.rounds[0]["metrics"]


def test_seeds_of_the_exam_are_never_trained_on(tmp_path):
    write_seeds(tmp_path / "train.csv")
    write_seeds(tmp_path / "exam.csv", [False])
    files = [f"data.{name}=[{{path: {tmp_path / name}.csv}}]" for name in ("train", "exam")]
    played = train(tmp_path, models(tmp_path, QWEN2, QWEN2), "shared", *files, "--dry-run")
    assert "4 seeds of data.exam were left out of data.train" in played.ended.text
    assert "no benign seeds" in played.ended.text


DATA = Path(__file__).parents[1].parent / "shared" / "data"
PUBLISHED = (DATA / "harmbench_behaviors_text_test.csv", DATA / "xstest_exaggerated_safety.json")


@pytest.fixture
def gone_afterwards(tmp_path) -> Iterator[Path]:
    """A folder that does not outlive the test: a run's records quote its seeds."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_published_files_serve_as_seeds_and_are_not_shown(gone_afterwards):
    missing = [path.name for path in PUBLISHED if not path.is_file()]
    if missing:
        pytest.skip(f"NOT TESTED: no {missing} in {DATA}, so a run on published seeds is unproven")
    harmbench, xstest = PUBLISHED
    sources = f"data.train=[{{path: {harmbench}, limit: 20}}, {{path: {xstest}}}]"
    more = [sources, *SHORT, "rounds=1", "warm_up.steps=0", "exam.crossplay=0", "exam.n=4"]
    start = models(gone_afterwards, QWEN2, QWEN2)
    played = train(gone_afterwards, start, "shared", *more)
    text = played.ended.text
    sizes = {name: rate.n_total for name, rate in played.exam(1).rates.items()}
    shown = sum(row["prompt"] in text for row in json.loads(xstest.read_text("utf-8")))
    assert "read as HarmBench text behaviors: 20 seeds" in text
    assert "read as XSTest v2 (JSON): 450 seeds" in text
    assert sizes == {"asr/plain": 4, "over_refusal/plain": 4}
    assert shown == 0
