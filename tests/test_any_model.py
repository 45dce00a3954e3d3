"""`sparring train magic` with somebody's own chat models and seeds, from start to report."""

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
from tests.command import Told, sparring_command
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
    """A finished run, the models it began with, and what was said on the way."""

    folder: Path
    told: Told
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
    told = sparring_command(
        *("train", "magic", f"weights={weights}", f"output_dir={folder / 'run'}", *KEYWORD),
        *(f"{player}.model_name_or_path={path}" for player, path in start.items()),
        *more,
    )
    assert told.code == 0, told.err
    return Played(folder / "run", told, weights, start)


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


def test_a_run_completes_with_every_round_recorded_once(played):
    assert json.loads((played.folder / "run.json").read_text())["status"] == "complete"
    assert [told["round"] for told in played.rounds] == [0, 1]
    assert [told["learns"] for told in played.rounds] == [["defender"], ["attacker"]]
    transcripts = sorted(path.name for path in (played.folder / "transcripts").iterdir())
    assert transcripts == ["round_000000.jsonl.gz", "round_000001.jsonl.gz"]


def test_the_pool_teaches_the_attacker_its_format(played):
    assert max(told["metrics"]["parsed"] for told in played.rounds) >= 0.25
    assert any(name.endswith("/rewritten") for name in played.exam(0).rates)


def test_the_stand_in_judge_is_named_in_the_output_and_in_every_result(played):
    assert played.told.text.count(CAVEAT) == 2, "before the run, and under its report"
    for number in (0, 2):
        assert CAVEAT in played.exam(number).judge.caveat
    told = sparring_command("report", played.folder, "--json")
    assert CAVEAT in json.loads(told.out)["judge"]["caveat"]


def test_results_have_asr_and_over_refusal_with_intervals_and_numbers(played):
    for number in (0, 2):
        rates = played.exam(number).rates
        for metric in ("asr/plain", "over_refusal/plain"):
            low, high = rates[metric].ci95
            assert low <= rates[metric].value <= high
            assert rates[metric].n_total == rates[metric].n_scored == 2
    matrix = played.crossplay().asr
    assert [sorted(row) for row in matrix.values()] == [["0", "2"]] * 2


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


def test_what_was_trained_can_be_loaded_with_its_own_tokenizer_or_adapter_settings(played):
    for player, rank in (("attacker", 8), ("defender", 4)):
        if player not in played.owners:
            continue
        folder = played.checkpoint(2, player)
        if played.weights == "adapters":
            assert json.loads((folder / "adapter_config.json").read_text())["r"] == rank
        else:
            words = AutoTokenizer.from_pretrained(folder)
            before = AutoTokenizer.from_pretrained(played.start[player])
            assert words.chat_template == before.chat_template
            assert words.get_vocab() == before.get_vocab()


def test_the_attackers_round_changes_the_attacker(played):
    player = played.owners[0]
    before, after = (played.loaded(n, player).state_dict() for n in (0, 2))
    assert played.rounds[1]["metrics"]["attacker/grad_norm"] > 0
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_output_names_only_folders_that_exist(played):
    lines = [line.split() for line in played.told.out.splitlines() if line.strip()]
    labels = ("run", "attacker", "defender", "both")
    named = {words[0]: Path(words[1]) for words in lines if words[0] in labels}
    assert sorted(named) == sorted(["run", *(played.owners if played.owners[1:] else ["both"])])
    assert all(path.is_dir() for path in named.values())


def test_report_and_runs_read_the_run(played):
    told = json.loads(sparring_command("report", played.folder, "--json").out)
    assert told["rounds"] == 2
    assert set(told["after"]) == set(told["before"]) >= {"asr/plain", "over_refusal/plain"}
    assert "ASR" in sparring_command("report", played.folder).out
    (row,) = json.loads(
        sparring_command("runs", "list", "--folder", played.folder.parent, "--json").out
    )
    assert (row["run"], row["rounds"], row["status"]) == (str(played.folder), 2, "complete")
    shown = json.loads(sparring_command("runs", "show", played.folder, "--json").out)
    assert (shown["checkpoints"], shown["exams"]) == ([0, 2], [0, 2])
    assert shown["last"] == played.rounds[1]["metrics"]
    tail = sparring_command("runs", "tail", played.folder, "--n", "1").out
    assert [json.loads(line)["round"] for line in tail.splitlines()] == [1]


def test_without_benign_seeds_a_run_warns_and_measures_no_over_refusal(tmp_path):
    seeds = write_seeds(tmp_path / "seeds.csv", [True])
    start = models(tmp_path, QWEN2, QWEN2)
    more = [*SHORT, "rounds=1", "warm_up.steps=0", "exam.crossplay=0"]
    played = train(tmp_path, start, "shared", f"data.train=[{{path: {seeds}}}]", *more)
    assert "no benign seeds: over-refusal is not measured" in played.told.text
    assert list(played.exam(1).rates) == ["asr/plain"]
    assert "over_refusal" not in played.rounds[0]["metrics"]


def test_seeds_of_the_exam_are_never_trained_on(tmp_path):
    train_on, exam = (
        write_seeds(tmp_path / "train.csv"),
        write_seeds(tmp_path / "exam.csv", [False]),
    )
    files = [f"data.train=[{{path: {train_on}}}]", f"data.exam=[{{path: {exam}}}]"]
    played = train(tmp_path, models(tmp_path, QWEN2, QWEN2), "shared", *files, "--dry-run")
    assert "4 seeds of data.exam were left out of data.train" in played.told.text
    assert "no benign seeds" in played.told.text


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
    told = played.told.text
    sizes = {name: rate.n_total for name, rate in played.exam(1).rates.items()}
    shown = sum(row["prompt"] in told for row in json.loads(xstest.read_text("utf-8")))
    assert "read as HarmBench text behaviors: 20 seeds" in told
    assert "read as XSTest v2 (JSON): 450 seeds" in told
    assert sizes == {"asr/plain": 4, "over_refusal/plain": 4}
    assert shown == 0
