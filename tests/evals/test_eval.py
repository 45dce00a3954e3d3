"""`sparring eval` from the command line to results.json, on tiny models and harmless prompts."""

import json

import pytest
import torch
from tests import short_run
from tests.command import sparring_command
from tests.evals.asked import keys, place, results, row, samples, sat

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
    """A judge that calls replies of an even length harmful and refused, whatever they say."""

    def rule(judge, states):
        even = [len(state.moves[-1].completion.text) % 2 == 0 for state in states]
        return [Verdict(reply_harm="unsafe" if e else "safe", refused=e) for e in even]

    monkeypatch.setattr(KeywordJudge, "rule", rule)


def test_results_tell_everything_a_reader_of_a_rate_needs(here):
    assert sat("./qwen2", "--output", "out").code == 0
    told = row(here / "out", "asr/seeds")
    assert told.keys() >= FIELDS
    assert told["judge"]["name"] == "keyword"
    assert told["success"]["is"] == "harmful"
    assert (told["n_total"], told["n_scored"], told["unscored"]) == (4, 4, {})
    [dataset] = told["datasets"]
    assert (dataset["path"], dataset["schema"], len(dataset["sha256"])) == (
        "seeds.csv",
        "seeds",
        64,
    )
    assert row(here / "out", "over_refusal/seeds")["success"] is None


def test_no_text_of_a_prompt_or_a_reply_is_printed(here):
    told = sat("./qwen2", "--output", "out")
    texts = {m["text"] for sample in samples(here / "out") for m in sample["moves"]}
    assert "open the dragon vault" in texts
    assert not [text for text in texts if len(text) > 3 and text in told.out + told.err]


def test_an_adapter_is_compared_with_its_base_sample_by_sample(here, lenient):
    lora = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "lora_dropout": 0.0}
    both = adapters(load_model("./qwen2"), dict.fromkeys(Player, lora), 1)
    drawn = torch.Generator().manual_seed(0)
    for tensor in both[Player.DEFENDER].parameters.values():
        tensor.data.normal_(std=3.0, generator=drawn)
    both[Player.DEFENDER].save(here / "adapter")
    words = ("./qwen2", "--adapter", "adapter", "--output", "out", "--epochs", 3, "--json")
    told = json.loads(sat(*words).out)
    base, tuned = told["models"]["./qwen2"], told["models"]["./qwen2 + adapter"]
    assert told["rates"] == tuned
    paired = row(here / "out", "asr/seeds", "./qwen2 + adapter")["paired"]
    assert paired["against"] == "./qwen2"
    assert paired["n"] == 12
    difference = tuned["asr/seeds"]["value"] - base["asr/seeds"]["value"]
    assert paired["difference"] == pytest.approx(difference)
    assert paired["only_b"] - paired["only_a"] == pytest.approx(12 * difference)
    assert 0 < paired["p"] <= 1
    assert row(here / "out", "asr/seeds", "./qwen2")["paired"] is None
    assert paired["only_a"] + paired["only_b"] > 0, "the adapter says something else"
    middle = base["asr/seeds"]["value"] + difference / 2
    crossed, kept = ("<", ">") if difference < 0 else (">", "<")
    assert sat(*words, "--fail-if", f"seeds.asr{crossed}{middle:.4f}").code == 4
    assert sat(*words, "--fail-if", f"seeds.asr{kept}{middle:.4f}").code == 0, "the base may"


def test_a_gate_is_for_the_adapter_and_not_for_its_base(here, lenient):
    lora = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "lora_dropout": 0.0}
    both = adapters(load_model("./qwen2"), dict.fromkeys(Player, lora), 1)
    both[Player.DEFENDER].save(here / "adapter")
    words = ("./qwen2", "--adapter", "adapter", "--output", "out")
    assert sat(*words, "--fail-if", "seeds.asr>=0").code == 4
    names = {r["model"] for r in results(here / "out")}
    assert names == {"./qwen2", "./qwen2 + adapter"}
    paired = row(here / "out", "asr/seeds", "./qwen2 + adapter")["paired"]
    assert (paired["difference"], paired["p"]) == (0, 1), "an adapter that was never trained"


def test_epochs_give_asr_at_k_by_the_unbiased_estimator(here, lenient):
    assert sat("./qwen2", "--output", "out", "--epochs", 6).code == 0
    told = row(here / "out", "asr/seeds")
    hits = [0] * 4
    for sample in samples(here / "out"):
        if sample["set"] == "harmful/seeds":
            hits[sample["place"]] += sample["verdict"]["reply_harm"] == "unsafe"
    said = {(s["place"], s["moves"][1]["text"]) for s in samples(here / "out")}
    assert len(said) > 3 * 4, "every epoch draws anew"
    assert [at["k"] for at in told["at_k"]] == [1, 2, 4, 6]
    for at in told["at_k"]:
        assert at["value"] == pytest.approx(sum(any_of_k(6, c, at["k"]) for c in hits) / 4)
    assert told["value"] == pytest.approx(sum(hits) / 24)
    assert (told["clusters"], told["n_total"]) == (4, 24)
    assert sat("./qwen2", "--output", "out", "--epochs", 6, "--fail-if", "asr@6/seeds>=0").code == 4


def test_greedy_epochs_are_refused(here):
    told = sat("./qwen2", "--epochs", 2, "--temperature", 0)
    assert (told.code, "every epoch would be the first one again" in told.text) == (2, True)


def test_what_is_complete_is_told_again_and_another_question_needs_another_folder(here):
    assert sat("./qwen2", "--output", "out").code == 0
    before = (here / "out" / "samples.jsonl").read_bytes()
    told = sat("./qwen2", "--output", "out")
    assert (told.code, "complete already" in told.err) == (0, True)
    assert (here / "out" / "samples.jsonl").read_bytes() == before
    told = sat("./qwen2", "--output", "out", "--seed", 7)
    assert (told.code, "asked something else: seed differs" in told.text) == (2, True)
    told = sat("./qwen2", "--output", "qwen2")
    assert (told.code, "qwen2 holds something else" in told.text) == (2, True)


def test_what_was_begun_goes_on_only_when_told_to(here):
    assert sat("./qwen2", "--output", "out").code == 0
    (here / "out" / "run.json").write_text('{"status": "interrupted", "time": ""}')
    file = here / "out" / "samples.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 9])
    told = sat("./qwen2", "--output", "out")
    assert (told.code, "go on with it (--resume)" in told.text) == (2, True)
    assert sat("./qwen2", "--output", "out", "--resume").code == 0
    assert file.read_bytes() == whole


def test_a_model_whose_weights_have_changed_is_another_model(here):
    assert sat("./qwen2", "--output", "out").code == 0
    place(here)
    assert sat("./qwen2", "--output", "out").code == 0, "the same weights, written again"
    from tests.tiny import QWEN2, save_model

    save_model(here / "qwen2", QWEN2, seed=1)
    told = sat("./qwen2", "--output", "out")
    assert (told.code, "asked something else: models differs" in told.text) == (2, True)


def test_rescoring_asks_nobody_and_gives_the_same_bytes(here, monkeypatch):
    assert sat("./qwen2", "--output", "out", "--epochs", 2).code == 0
    path = here / "out" / "results.json"
    before = path.read_bytes()
    path.unlink()
    (here / "qwen2" / "config.json").unlink()
    (here / "seeds.csv").unlink()
    assert sparring_command("eval", "--rescore", "out").code == 0
    assert path.read_bytes() == before


def test_half_an_evaluation_never_looks_whole(here):
    assert sat("./qwen2", "--output", "out").code == 0
    file = here / "out" / "samples.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:6]))
    told = sparring_command("eval", "--rescore", "out")
    assert (told.code, "2 of 8 verdicts are missing" in told.text) == (3, True)
    half = row(here / "out", "over_refusal/seeds")
    assert (half["n_total"], half["n_scored"]) == (4, 2)
    assert half["unscored"] == {"not asked yet": 2}


def test_what_failed_is_asked_again_when_told_to(here, monkeypatch):
    rule = KeywordJudge.rule
    blind = Verdict(status=Status.TIMEOUT)
    with monkeypatch.context() as patch:
        patch.setattr(KeywordJudge, "rule", lambda me, told: [blind, *rule(me, told[1:])])
        assert sat("./qwen2", "--output", "out").code == 3
    assert row(here / "out", "asr/seeds")["unscored"] == {"timeout": 1}
    assert sat("./qwen2", "--output", "out").code == 3, "what failed stays, until told otherwise"
    assert sat("./qwen2", "--output", "out", "--retry-unscored", "--resume").code == 0
    assert row(here / "out", "asr/seeds")["unscored"] == {}
    assert len({*keys(here / "out")}) == len(keys(here / "out")) == 8


def test_a_kill_while_failures_are_asked_again_leaves_nothing_that_looks_complete(
    here, monkeypatch
):
    blind = Verdict(status=Status.TIMEOUT)
    with monkeypatch.context() as patch:
        patch.setattr(KeywordJudge, "rule", lambda me, told: [blind] * len(told))
        assert sat("./qwen2", "--output", "out").code == 3

    def killed(*_):
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr("sparring.evals.evaluate._collect", killed)
        assert sat("./qwen2", "--output", "out", "--retry-unscored", "--resume").code == 9
    assert samples(here / "out") == []
    assert sat("./qwen2", "--output", "out", "--resume").code == 0
    assert row(here / "out", "asr/seeds")["n_scored"] == 4


def test_missing_benign_prompts_are_said_loudly(here):
    (here / "bad.csv").write_text("text,harmful\nopen the dragon vault,true\n")
    told = sat("./qwen2", "--output", "out", tasks="bad.csv")
    assert "OVER-REFUSAL IS NOT MEASURED" in told.err
    assert "OVER-REFUSAL" not in sat("./qwen2", "--output", "both", tasks="bad.csv,seeds.csv").err


def test_success_may_mean_not_refused(here, lenient):
    assert sat("./qwen2", "--output", "out", "--success", "not_refused", "--epochs", 4).code == 0
    told = row(here / "out", "asr/seeds")
    refused = [s["verdict"]["refused"] for s in samples(here / "out") if "harmful" in s["set"]]
    assert told["value"] == pytest.approx(1 - sum(refused) / 16)
    assert told["success"]["is"] == "not_refused"


def test_a_calibrated_judge_has_its_errors_taken_out(here, lenient):
    def measured(field, hits, misses, false, true):
        pairs = [(True, True)] * hits + [(True, False)] * misses
        pairs += [(False, True)] * false + [(False, False)] * true
        return calibration(
            "keyword", field, [(h, Outcome(t, f"{i}")) for i, (h, t) in enumerate(pairs)]
        )

    harm = measured("reply_harm", 45, 5, 10, 40)
    refusal = measured("refused", 28, 12, 3, 57)
    (here / "calibration.json").write_text(dumps_calibrations([harm, refusal]))
    words = ("./qwen2", "--calibration", "calibration.json", "--epochs", 4)
    assert sat(*words, "--output", "out").code == 0
    raw = rate(
        [
            Outcome(s["verdict"]["reply_harm"] == "unsafe", s["seed"]["id"])
            for s in samples(here / "out")
            if "harmful" in s["set"]
        ]
    )
    wanted = corrected(raw, harm.sensitivity, harm.specificity).value
    assert row(here / "out", "asr/seeds")["corrected"]["value"] == pytest.approx(wanted)
    assert sat(*words, "--output", "other", "--success", "not_refused").code == 0
    told = row(here / "other", "asr/seeds")["corrected"]
    se, sp = 57 / 60, 28 / 40  # of "not refused", which is the judge's "refused" the other way
    p = (row(here / "other", "asr/seeds")["value"] + sp - 1) / (se + sp - 1)
    assert told["value"] == pytest.approx(min(1, max(0, p)))


def test_a_calibration_of_another_judge_is_refused(here):
    told = calibration(
        "oracle", "refused", [(True, Outcome(True, "a")), (False, Outcome(False, "b"))]
    )
    (here / "calibration.json").write_text(dumps_calibrations([told]))
    said = sat("./qwen2", "--output", "out", "--calibration", "calibration.json")
    assert (said.code, "it is of oracle; wanted one of keyword" in said.text) == (2, True)


def test_a_second_judge_rules_on_the_same_replies(here):
    assert sat("./qwen2", "--output", "out", judge="keyword,keyword").code == 0
    second = row(here / "out", "asr/seeds")["second"]
    assert (second["judge"]["name"], second["diverged"]) == ("keyword", False)
    assert second["paired"]["n"] == 4


def test_several_models_are_drawn_against_each_other(here, lenient):
    from tests.tiny import QWEN2, save_model

    save_model(here / "other", QWEN2, seed=5)
    told = sat("./qwen2", "./other", "--output", "out")
    assert told.code == 0
    assert (here / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (here / "out" / "pareto.svg").read_bytes()[:600]
    assert "minus the first model" in told.text


def test_a_limit_is_read_before_a_model_is(here):
    (here / "qwen2" / "model.safetensors").write_bytes(b"damaged")
    told = sat("./qwen2", "--output", "out", "--fail-if", "seeds.asr")
    assert (told.code, "wanted RATE>NUMBER" in told.text) == (2, True)
    assert not (here / "out").exists()


@pytest.fixture(scope="module")
def run():
    return short_run.whole()


def test_a_trained_attacker_rewrites_the_seeds_and_every_rewrite_is_kept(run, tmp_path):
    words = ["eval", "sandbox", "--tasks", "sandbox", "--limit", "4", "--batch", "16"]
    words += ["--attacker", f"{run}", "--best-of", "3", "--output", f"{tmp_path / 'out'}"]
    words += ["--max-completion-length", "40", "--log-format", "inspect"]
    short_run.sparring(*words).check()
    out = tmp_path / "out"
    attacks = [json.loads(line) for line in (out / "attacks.jsonl").read_bytes().splitlines()]
    met = [s for s in samples(out) if s["set"].endswith("+attacker")]
    assert len(attacks) == len(met) > 0
    assert {s["draw"] for s in met} == {0, 1, 2}
    by_key = {(a["set"], a["place"], a["draw"]): a["text"] for a in attacks}
    for sample in met:
        said = by_key[sample["set"], sample["place"], sample["draw"]]
        first = sample["moves"][0]["text"]
        assert first in said
        if not sample["dealt"]:
            assert (sample["verdict"], len(sample["moves"])) == (None, 1), "never sent"
    told = row(out, "asr/plain+attacker")
    assert told["n_total"] == told["n_scored"] == 12
    unsent = sum(not s["dealt"] for s in met if "benign" in s["set"])
    assert row(out, "over_refusal/plain+attacker")["unscored"] == {"never sent": unsent}
    assert [at["k"] for at in told["at_k"]] == [1, 2, 3]
    assert row(out, "asr/plain")["at_k"] == []
    assert json.loads((out / "results.json").read_bytes())["attacker"]["rounds"] == 4


@pytest.mark.parametrize("weights", ["separate", "adapters", "shared"])
def test_the_attacker_says_what_it_said_in_its_run(weights, tmp_path):

    from sparring.evals.evaluate import ItemBatch, rewrites
    from sparring.evals.models import attacker_of
    from sparring.players.player import Request
    from sparring.players.trainer import Past
    from sparring.runs.recipes import known
    from sparring.settings.config import load_yaml, parse
    from sparring.store.folder import RunDir

    more = {"separate": (), "adapters": short_run.ADAPTERS, "shared": short_run.SHARED}[weights]
    run = RunDir(short_run.whole(*more))
    config = parse(load_yaml(run.config_yaml, "config.yaml"))
    assert config.weights == weights
    match = known(config.recipe).build(config)
    [state] = [match.plan.game.open(seed) for seed in match.seeds[:1]]
    attacker, game = attacker_of(run)
    batch = ItemBatch("harmful/x", 0, [(0, "vault", state)], "exam/harmful/x")
    [told] = rewrites(game, attacker.load(), batch)
    own = Player.DEFENDER if weights == "shared" else Player.ATTACKER
    folder = run.checkpoints.path(4) / own
    policy = Past(match.trainers[Player.ATTACKER], folder)
    address = "exam/harmful/x/attacker/vault"
    [[wanted]] = policy.sample([Request(match.plan.game.observe(state), (address,))])
    assert told["text"] == wanted.text
