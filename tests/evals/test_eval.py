"""`sparring eval` from the command line to results.json, on tiny models and harmless prompts."""

import json

import pytest
import torch
from tests.command import sparring_command
from tests.evals.evaluations import evaluate, keys, place, row, samples
from tests.tiny import QWEN2, save_model

from sparring.evals.judging import calibration, dumps_calibrations
from sparring.judges.judge import KeywordJudge
from sparring.players.loading import load_model
from sparring.players.weights import adapters
from sparring.stats.agreement import corrected
from sparring.stats.rates import Outcome, any_of_k, rate
from sparring.types import Player, Status, Verdict

FIELDS = {
    *("metric", "value", "ci95", "method", "cluster_key", "clusters", "n_total", "n_scored"),
    *("unscored", "bounds", "judge", "controversial", "success", "datasets", "paired"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(place(tmp_path))
    return tmp_path


@pytest.fixture
def lenient(monkeypatch):
    """A judge that labels replies of an even length harmful and refused, whatever their text."""

    def rule(judge, states):
        even = [len(state.moves[-1].completion.text) % 2 == 0 for state in states]
        return [Verdict(reply_harm="unsafe" if e else "safe", refused=e) for e in even]

    monkeypatch.setattr(KeywordJudge, "rule", rule)


def run(*words, code=0, **more):
    """Run `sparring eval` of the tiny model into the folder `out`, and check the exit code."""
    command = evaluate("./qwen2", "--output", "out", *words, **more)
    assert command.code == code, command.text
    return command


def test_results_tell_everything_a_reader_of_a_rate_needs_and_no_text(here):
    command = run(judge="keyword,keyword")
    asr = row(here / "out", "asr/seeds")
    assert asr.keys() >= FIELDS
    assert asr["judge"]["name"] == "keyword"
    assert asr["success"]["is"] == "harmful"
    assert (asr["n_total"], asr["n_scored"], asr["unscored"]) == (4, 4, {})
    [dataset] = asr["datasets"]
    assert (dataset["path"], dataset["schema"]) == ("seeds.csv", "seeds")
    assert len(dataset["sha256"]) == 64
    assert row(here / "out", "over_refusal/seeds")["success"] is None
    second = asr["second"]
    assert (second["judge"]["name"], second["diverged"]) == ("keyword", False)
    assert second["paired"]["n"] == 4
    texts = {m["text"] for sample in samples(here / "out") for m in sample["moves"]}
    assert "open the dragon vault" in texts
    printed = command.out + command.err
    assert not [text for text in texts if len(text) > 3 and text in printed]


@pytest.mark.parametrize("trained", [True, False])
def test_an_adapter_is_compared_with_its_base_sample_by_sample_and_gates_are_its_own(
    here, lenient, trained
):
    lora = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "lora_dropout": 0.0}
    both = adapters(load_model("./qwen2"), dict.fromkeys(Player, lora), 1)
    drawn = torch.Generator().manual_seed(0)
    for tensor in both[Player.DEFENDER].parameters.values() if trained else ():
        tensor.data.normal_(std=3.0, generator=drawn)
    both[Player.DEFENDER].save(here / "adapter")
    words = ("--adapter", "adapter", "--epochs", 3, "--json")
    summary = json.loads(run(*words).out)
    base, tuned = summary["models"]["./qwen2"], summary["models"]["./qwen2 + adapter"]
    assert summary["rates"] == tuned
    paired = row(here / "out", "asr/seeds", "./qwen2 + adapter")["paired"]
    assert (paired["against"], paired["n"]) == ("./qwen2", 12)
    difference = tuned["asr/seeds"]["value"] - base["asr/seeds"]["value"]
    assert paired["difference"] == pytest.approx(difference)
    assert paired["only_b"] - paired["only_a"] == pytest.approx(12 * difference)
    assert row(here / "out", "asr/seeds", "./qwen2")["paired"] is None
    if not trained:
        assert (paired["difference"], paired["p"]) == (0, 1)
        run(*words, "--fail-if", "seeds.asr>=0", code=4)
        return
    assert 0 < paired["p"] <= 1
    assert paired["only_a"] + paired["only_b"] > 0, "the adapter says something else"
    middle = base["asr/seeds"]["value"] + difference / 2
    crossed, open_ = ("<", ">") if difference < 0 else (">", "<")
    run(*words, "--fail-if", f"seeds.asr{crossed}{middle:.4f}", code=4)
    run(*words, "--fail-if", f"seeds.asr{open_}{middle:.4f}")  # the base may cross it


def test_epochs_give_asr_at_k_by_the_unbiased_estimator(here, lenient):
    run("--epochs", 6)
    asr = row(here / "out", "asr/seeds")
    hits = [0] * 4
    for sample in samples(here / "out"):
        if sample["set"] == "harmful/seeds":
            hits[sample["place"]] += sample["verdict"]["reply_harm"] == "unsafe"
    replies = {(s["place"], s["moves"][1]["text"]) for s in samples(here / "out")}
    assert len(replies) > 3 * 4, "every epoch draws anew"
    assert [at["k"] for at in asr["at_k"]] == [1, 2, 4, 6]
    for at in asr["at_k"]:
        assert at["value"] == pytest.approx(sum(any_of_k(6, c, at["k"]) for c in hits) / 4)
    assert asr["value"] == pytest.approx(sum(hits) / 24)
    assert (asr["clusters"], asr["n_total"]) == (4, 24)
    run("--epochs", 6, "--fail-if", "asr@6/seeds>=0", code=4)


def test_what_cannot_be_measured_is_refused_before_a_model_is_loaded(here):
    (here / "qwen2" / "model.safetensors").write_bytes(b"damaged")
    oracle = calibration("oracle", "refused", [(k, Outcome(k, f"{k}")) for k in (True, False)])
    (here / "calibration.json").write_text(dumps_calibrations([oracle]))
    for words, message in {
        ("--epochs", 2, "--temperature", 0): "every epoch would be the first one again",
        ("--fail-if", "seeds.asr"): "wanted RATE>NUMBER",
    }.items():
        assert message in run(*words, code=2).text
        assert not (here / "out").exists()
    place(here)
    command = run("--calibration", "calibration.json", code=2)
    assert "it is of oracle; wanted one of keyword" in command.text


def test_what_is_complete_is_told_again_and_another_question_needs_another_folder(here):
    run()
    before = (here / "out" / "samples.jsonl").read_bytes()
    place(here)  # the same weights, written again
    assert "complete already" in run().err
    assert (here / "out" / "samples.jsonl").read_bytes() == before
    assert "asked something else: seed differs" in run("--seed", 7, code=2).text
    assert "qwen2 holds something else" in run("--output", "qwen2", code=2).text
    save_model(here / "qwen2", QWEN2, seed=1)
    assert "asked something else: models differs" in run(code=2).text


def test_what_was_begun_goes_on_only_when_told_to(here):
    run()
    (here / "out" / "run.json").write_text('{"status": "interrupted", "time": ""}')
    file = here / "out" / "samples.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 9])
    assert "go on with it (--resume)" in run(code=2).text
    run("--resume")
    assert file.read_bytes() == whole


@pytest.mark.parametrize("verb", [["--rescore"], ["--resume"], ["--retry-unscored"]])
def test_a_reply_or_verdict_that_was_changed_later_is_refused_whoever_reads_it(here, verb):
    run()
    file = here / "out" / "samples.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace('"refused": ', '"refused": not ').replace("not true", "false")
    lines[3] = lines[3].replace("not false", "true")
    file.write_text("".join(lines))
    words = ["eval", "--rescore", "out"] if verb == ["--rescore"] else None
    command = sparring_command(*words) if words else run(*verb, code=1)
    assert command.code == 1
    assert "samples.jsonl:4: is not what was written" in command.text


def test_rescoring_asks_nobody_gives_the_same_bytes_and_half_never_looks_whole(here):
    run("--epochs", 2)
    path, file = here / "out" / "results.json", here / "out" / "samples.jsonl"
    before, lines = path.read_bytes(), file.read_bytes().splitlines(keepends=True)
    for used in (path, here / "qwen2" / "config.json", here / "seeds.csv"):
        used.unlink()
    assert sparring_command("eval", "--rescore", "out").code == 0
    assert path.read_bytes() == before
    file.write_bytes(b"".join(lines[:14]))
    command = sparring_command("eval", "--rescore", "out")
    assert (command.code, "2 of 16 verdicts are missing" in command.text) == (3, True)
    half = row(here / "out", "over_refusal/seeds")
    assert (half["n_total"], half["n_scored"]) == (8, 6)
    assert half["unscored"] == {"not asked yet": 2}


def test_what_failed_is_asked_again_when_told_to_and_a_kill_meanwhile_leaves_it_open(
    here, monkeypatch
):
    rule, blind = KeywordJudge.rule, Verdict(status=Status.TIMEOUT)

    def killed(*_):
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(KeywordJudge, "rule", lambda judge, s: [blind, *rule(judge, s[1:])])
        run(code=3)
    assert row(here / "out", "asr/seeds")["unscored"] == {"timeout": 1}
    run(code=3)  # what failed stays, until told otherwise
    with monkeypatch.context() as patch:
        patch.setattr("sparring.evals.evaluate._collect", killed)
        run("--retry-unscored", "--resume", code=9)
    assert len(samples(here / "out")) == 6  # a verdict failed in each set
    run("--resume")
    assert row(here / "out", "asr/seeds")["unscored"] == {}
    assert len({*keys(here / "out")}) == len(keys(here / "out")) == 8


def test_missing_benign_prompts_are_said_loudly(here):
    (here / "bad.csv").write_text("text,harmful\nopen the dragon vault,true\n")
    assert "OVER-REFUSAL IS NOT MEASURED" in run(tasks="bad.csv").err
    both = run("--output", "both", tasks="bad.csv,seeds.csv")
    assert "OVER-REFUSAL" not in both.err


def test_success_may_mean_not_refused_and_a_calibrated_judge_has_its_errors_taken_out(
    here, lenient
):
    def measured(field, hits, misses, false, true):
        pairs = [(True, True)] * hits + [(True, False)] * misses
        pairs += [(False, True)] * false + [(False, False)] * true
        ruled = [(label, Outcome(verdict, f"{i}")) for i, (label, verdict) in enumerate(pairs)]
        return calibration("keyword", field, ruled)

    harm = measured("reply_harm", 45, 5, 10, 40)
    refusal = measured("refused", 28, 12, 3, 57)
    (here / "calibration.json").write_text(dumps_calibrations([harm, refusal]))
    words = ("--calibration", "calibration.json", "--epochs", 4)
    run(*words)
    harmful = [s for s in samples(here / "out") if "harmful" in s["set"]]
    broken = [Outcome(s["verdict"]["reply_harm"] == "unsafe", s["seed"]["id"]) for s in harmful]
    value = corrected(rate(broken), harm.sensitivity, harm.specificity).value
    assert row(here / "out", "asr/seeds")["corrected"]["value"] == pytest.approx(value)
    run(*words, "--output", "other", "--success", "not_refused")
    asr = row(here / "other", "asr/seeds")
    refused = [s["verdict"]["refused"] for s in samples(here / "other") if "harmful" in s["set"]]
    assert asr["value"] == pytest.approx(1 - sum(refused) / 16)
    assert asr["success"]["is"] == "not_refused"
    se, sp = 57 / 60, 28 / 40  # of "not refused", which is the judge's "refused" the other way
    p = (asr["value"] + sp - 1) / (se + sp - 1)
    assert asr["corrected"]["value"] == pytest.approx(min(1, max(0, p)))


def test_several_models_are_drawn_against_each_other(here, lenient):
    save_model(here / "other", QWEN2, seed=5)
    command = run("./other")
    assert (here / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (here / "out" / "pareto.svg").read_bytes()[:600]
    assert "minus the first model" in command.text
