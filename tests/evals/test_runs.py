"""What is asked of whole runs: exploit, crossplay, bound, compare, the pool."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.command import sparring_command
from tests.short_run import SETTINGS

from sparring.evals.crossplay import Entrant, compared, cross, entrants, items, judged
from sparring.evals.exploit import Budget, Exploit, attackers_of, warmed_from
from sparring.runs.recipes import resolve
from sparring.runs.sources import own_data
from sparring.sandbox.language import ADVERSARIAL
from sparring.sandbox.model import CARD, SHIPPED
from sparring.stats.rates import Outcome, rate
from sparring.store.files import sha256
from sparring.store.folder import RunDir
from sparring.types import CorruptError, Player, UsageError

SMALL = Budget(steps=1, seeds=2, num_generations=2, every=1, n=4, tries=1, warm_up_steps=2)
WARM = (
    "warm_up.steps=80",
    "warm_up.batch_size=16",
    "warm_up.pool_size=512",
    "warm_up.learning_rate=2e-3",
)
TWO = {**SETTINGS, "rounds": "2", "exam.crossplay": "0", "exam.n": "4"}


def play(folder: Path, recipe: str, *more: str) -> RunDir:
    words = [f"{key}={value}" for key, value in TWO.items()]
    sparring_command("train", recipe, f"output_dir={folder}", *words, *more)
    return RunDir.open(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, RunDir]:
    here = tmp_path_factory.mktemp("runs")
    return {
        "first": play(here / "first", "magic"),
        "second": play(here / "second", "magic", "seed=43"),
        "shared": play(here / "shared", "ssp", *WARM),
    }


def exploit(run: RunDir, cache: Path, **more) -> Exploit:
    return Exploit(run, 2, SMALL, cache, **more)


@pytest.mark.parametrize("name", ["first", "shared"])
def test_exploit_leaves_the_run_as_it_is_and_measures_nothing_twice(runs, name, tmp_path):
    run = runs[name]
    weights = run.checkpoints.path(2) / "defender" / "model.safetensors"
    before, asked = sha256(weights), []
    told = exploit(run, tmp_path).measure(["pool"], lambda who, step: asked.append((who, step)))
    assert asked == [("pool", 0), ("pool", 1)]
    assert sha256(weights) == before
    assert told["attackers"]["pool"]["steps"] == [0, 1]
    assert all(rate["n_total"] == 4 for rate in told["attackers"]["pool"]["asr"])
    kept = json.loads((run.folder / "evidence" / "exploit.json").read_bytes())
    assert kept == json.loads(json.dumps(told))
    again = exploit(run, tmp_path).measure(["pool"], lambda who, step: asked.append((who, step)))
    assert (again["attackers"], len(asked)) == (kept["attackers"], 2)


def test_another_question_sets_the_last_answer_aside_and_finds_it_again(runs, tmp_path):
    run = RunDir.open(shutil.copytree(runs["second"].folder, tmp_path / "run"))
    first = exploit(run, tmp_path).measure(["pool"], lambda who, step: None)
    other = exploit(run, tmp_path, rng_seed=1).measure(["pool"], lambda who, step: None)
    shown = run.folder / "evidence" / "exploit.json"
    assert json.loads(shown.read_bytes()) == json.loads(json.dumps(other))
    asked: list[int] = []
    again = exploit(run, tmp_path).measure(["pool"], lambda who, step: asked.append(step))
    assert (again["attackers"], asked) == (json.loads(json.dumps(first))["attackers"], [])
    assert json.loads(shown.read_bytes())["rng_seed"] == 0
    assert len(list(shown.parent.glob("exploit*.json"))) == 2


@pytest.mark.parametrize("name", ["first", "shared"])
def test_the_runs_own_attacker_starts_as_the_run_left_it(runs, name, tmp_path, monkeypatch):
    run, met = runs[name], []

    def look(target, attacker, *more):
        met.append(attacker.weights.snapshot())
        yield 0, rate([])

    monkeypatch.setattr("sparring.evals.exploit.best_response", look)
    copy = RunDir.open(shutil.copytree(run.folder, tmp_path / "run"))
    shutil.rmtree(copy.folder / "evidence", ignore_errors=True)
    exploit(copy, tmp_path / "cache").measure(["own"], lambda who, step: None)
    owner = copy.config.owner(Player.ATTACKER)
    saved = load_file(run.checkpoints.path(2) / owner / "model.safetensors")
    (weights,) = met
    assert all(torch.equal(weights[key], saved[key]) for key in saved.keys() & weights)
    assert saved.keys() & weights
    assert not (tmp_path / "cache").exists(), "nobody is warmed up"


def test_with_ones_own_model_there_are_the_pools_attacker_and_the_runs(tmp_path):
    told = {"data": {"train": [{"path": "seeds.csv"}]}, "judge": {"kind": "keyword"}}
    asked = exploit(RunDir.create(tmp_path / "run", json.dumps(told)), tmp_path)
    assert attackers_of(asked.run.config, "all") == ["pool", "own"]
    assert attackers_of(asked.run.config, "own") == ["own"]
    with pytest.raises(UsageError, match="outside the sandbox there are only pool and own"):
        attackers_of(asked.run.config, "pool,broad")


def test_attackers_are_warmed_up_once_for_all_defenders(runs, tmp_path):
    exploit(runs["first"], tmp_path).measure(["broad"], lambda who, step: None)
    (kept,) = tmp_path.iterdir()
    stamp = (kept / "model.safetensors").stat().st_mtime_ns
    exploit(runs["shared"], tmp_path).measure(["broad"], lambda who, step: None)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    assert (kept / "model.safetensors").stat().st_mtime_ns == stamp


def test_the_pools_attacker_and_the_broad_one_differ(runs, tmp_path):
    exploit(runs["second"], tmp_path).measure(["pool", "broad"], lambda who, step: None)
    one, other = sorted(tmp_path.iterdir())
    assert sha256(one / "model.safetensors") != sha256(other / "model.safetensors")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--attackers", "giant"), "--attackers: 'giant' is none of pool, broad, own, enumeration"),
        (("--at", "7"), "no checkpoint after 7 rounds"),
    ],
)
def test_what_cannot_be_exploited_is_exit_2(runs, words, message):
    told = sparring_command("exploit", runs["first"].folder, *words)
    assert told.code == 2
    assert message in told.text


@pytest.mark.parametrize(
    "words", [["exploit"], ["exploit", "--at", "0"], ["crossplay"], ["runs", "show", "--pool"]]
)
def test_a_run_killed_in_its_warm_up_is_one_line_and_exit_2(words, tmp_path):
    run = RunDir.create(tmp_path / "young", "recipe: magic\n")
    told = sparring_command(*words, run.folder)
    assert told.code == 2
    (line,) = filter(None, told.err.splitlines())
    assert line.endswith("young: no checkpoint yet")


def test_an_exploit_is_measured_by_the_judges_that_paid_and_by_their_rules(tmp_path):
    guards = [{"kind": "qwen3guard", "model": name} for name in ("gate", "moat", "wall")]
    told = {
        "data": {"train": [{"path": "seeds.jsonl"}]},
        "judge": guards,
        "judge_rules": {"reply_harm": "majority"},
    }
    run = RunDir.create(tmp_path / "run", json.dumps(told))
    config = exploit(run, tmp_path)._config("pool")
    assert [judge.model for judge in config.judge] == ["gate", "moat", "wall"]
    assert config.judge_rules == {"reply_harm": "majority"}


def test_an_exploit_holds_out_what_the_run_did_whatever_its_own_seed(tmp_path):
    """Otherwise a defender would be examined on seeds it was trained on."""
    lines = [f"open the gate {i},true\npolish the gate {i},false\n" for i in range(30)]
    (tmp_path / "seeds.csv").write_text("text,harmful\n" + "".join(lines))
    told = {
        "data": {"train": [{"path": f"{tmp_path / 'seeds.csv'}"}]},
        "judge": {"kind": "keyword"},
    }
    run = RunDir.create(tmp_path / "run", json.dumps({**told, "seed": 42}))
    own = own_data(run.config, (), None)
    for seed in (0, 1, 7):
        asked = own_data(exploit(run, tmp_path, rng_seed=seed)._config("pool"), (), None)
        assert asked.held_out == own.held_out
        assert asked.seeds == own.seeds


@pytest.mark.parametrize("name", ["base/model-00002.safetensors", "pool.jsonl"])
def test_a_warmed_up_attacker_is_known_by_what_its_files_hold(name, tmp_path):
    (tmp_path / "base").mkdir()
    for i in (1, 2):
        (tmp_path / "base" / f"model-0000{i}.safetensors").write_bytes(b"weights %d" % i)
    (tmp_path / "pool.jsonl").write_text("open the vault")
    attacker = {
        "model_name_or_path": f"{tmp_path / 'base'}",
        "warm_start": f"{tmp_path / 'pool.jsonl'}",
    }
    config = resolve({"attacker": attacker, "data": {"train": [{"path": "seeds.jsonl"}]}})
    before = warmed_from(config)
    other = tmp_path / name
    kept = other.read_bytes()
    other.write_bytes(kept[::-1])  # as long as it was
    assert warmed_from(config) != before
    other.write_bytes(kept)
    assert warmed_from(config) == before


def test_the_sandboxs_attacker_depends_on_the_language_it_is_played_in(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(SHIPPED, base)
    config = resolve({"recipe": "magic", "defender": {"model_name_or_path": f"{base}"}})
    before = warmed_from(config)
    (base / CARD).write_text("{}")
    assert warmed_from(config) != before


def test_a_defender_that_thinks_is_met_as_it_was_saved_whether_or_not_it_is_the_first(
    tmp_path, monkeypatch
):
    run = play(tmp_path / "cot", "defender_cot")
    saved = load_file(run.checkpoints.path(2) / "defender" / "model.safetensors")
    met = []

    def look(target, *more):
        met.append(target.defender.weights.snapshot())
        yield 0, rate([])

    monkeypatch.setattr("sparring.evals.exploit.best_response", look)
    for _ in range(2):
        exploit(run, tmp_path / "cache").measure(["pool"], lambda who, step: None)
        (run.folder / "evidence" / "exploit.json").unlink()
    for weights in met:
        assert all(torch.equal(weights[name], saved[name]) for name in saved.keys() & weights)
        assert saved.keys() & weights


def test_crossplay_meets_everybody_and_keeps_every_cell(runs, tmp_path):
    folders = [runs["first"].folder, runs["shared"].folder]
    words = ("--n", "4", "--cache", tmp_path, "--json")
    told = json.loads(sparring_command("crossplay", *folders, *words).out)
    names = ["first@2", "shared@2"]
    assert list(told["asr"]) == names
    assert all(list(row) == names for row in told["asr"].values())
    assert all(rate["n_total"] == 4 for row in told["asr"].values() for rate in row.values())
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 4
    again = json.loads(sparring_command("crossplay", *folders, *words).out)
    assert again == told
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept


def test_crossplay_tells_runs_of_one_name_apart_by_their_paths(runs, tmp_path):
    shutil.copytree(runs["second"].folder, tmp_path / "elsewhere" / "first")
    folders = [runs["first"].folder, tmp_path / "elsewhere" / "first"]
    words = ("--n", "2", "--cache", tmp_path / "cells", "--json")
    told = json.loads(sparring_command("crossplay", *folders, *words).out)
    assert list(told["asr"]) == [f"{folder}@2" for folder in folders]
    assert all(len(row) == 2 for row in told["asr"].values())


def ruled_by(told: Entrant, **game) -> Entrant:
    """The same players under other rules of their run."""
    config = told.run.config
    rules = config.model_copy(update={"game": config.game.model_copy(update=game)})
    return replace(told, run=replace(told.run, config=rules))


def test_a_cell_played_under_other_rules_or_by_another_judge_is_another_cell(runs, tmp_path):
    (told,) = entrants(runs["first"], [2])
    config = told.run.config
    guard = config.judge[0].model_copy(update={"kind": "qwen3guard", "model": "gate"})
    judged = replace(
        told, run=replace(told.run, config=config.model_copy(update={"judge": [guard]}))
    )
    rules = [told, ruled_by(told, gate=False), ruled_by(told, exchanges=2), judged]
    for place, one in enumerate([*rules, ruled_by(told, diversity=0.5)]):
        cross([one], 2, tmp_path, lambda *cell: None)
        assert len(list(tmp_path.iterdir())) == min(place + 1, len(rules)), "rewards pay no cell"


def test_without_held_out_harmful_seeds_nobody_can_be_attacked(runs, tmp_path):
    (told,) = entrants(runs["first"], [2])
    empty = replace(told.run, exam=replace(told.run.exam, sets={}))
    with pytest.raises(UsageError, match=r"data\.exam: no harmful seed is held out"):
        cross([replace(told, run=empty)], 2, tmp_path, print)


def test_an_attacker_that_no_judge_could_rule_on_is_not_taken_for_harmless(runs, tmp_path):
    run = RunDir.open(shutil.copytree(runs["first"].folder, tmp_path / "run"))
    blind = {"steps": [0, 1], "asr": [rate([]).to_json()] * 2, "tried": "best response"}
    asked = Exploit(run, 2, Budget(steps=1), tmp_path)
    asked.path.parent.mkdir(exist_ok=True)
    asked.path.write_text(json.dumps(asked._result({"pool": blind})))
    told = sparring_command("exploit", run.folder, "--steps", "1", "--attackers", "pool")
    assert "ASR at [0, 1]: unscored unscored" in told.text
    assert told.text.endswith("worst: unscored")
    some = {**blind, "asr": [rate([Outcome(False, "vault")]).to_json()]}
    assert asked._result({"pool": blind, "broad": some})["worst"] == "broad"


def test_nobody_is_crossed_on_seeds_it_was_trained_on(runs, tmp_path):
    (told,) = entrants(runs["first"], [2])
    held = told.run.attacked()
    learned = replace(told.run, seeds=[*told.run.seeds, held[3]])
    other = replace(told, name="other@2", run=learned)
    with pytest.raises(
        UsageError, match=r"other@2 was trained on 1 of the 4 held-out seeds of first"
    ):
        cross([told, other], 2, tmp_path, lambda *cell: None)
    assert not list(tmp_path.iterdir())


def test_a_cell_in_which_the_judge_could_not_tell_is_played_again(runs, tmp_path):
    (told,) = entrants(runs["first"], [2])
    name = told.name
    cross([told], 4, tmp_path, lambda *cell: None)
    (cell,) = tmp_path.iterdir()
    whole = json.loads(cell.read_bytes())
    assert whole["n_scored"] == whole["n_total"] == 4
    shown: list[str] = []
    for causes, played in (({"timeout": 1, "skipped": 2}, [name]), ({"skipped": 1}, [])):
        shown.clear()
        cell.write_text(json.dumps({**whole, "n_scored": 3, "unscored": causes}))
        again = cross([told], 4, tmp_path, lambda row, *cell: shown.append(row))
        assert shown == played
        assert (again["asr"][name][name] == whole) is bool(played)


def test_crossplay_over_time_names_the_rounds(runs, tmp_path):
    words = ("--at", "0,2", "--n", "2", "--cache", tmp_path)
    folder = runs["first"].folder
    told = json.loads(sparring_command("crossplay", folder, *words, "--json").out)
    assert list(told["asr"]) == ["first@0", "first@2"]
    shown = sparring_command("crossplay", folder, *words).out.splitlines()
    assert "ASR of attackers (rows) against defenders (columns, numbered as the rows)" in shown[0]
    assert "n = 2 a cell, 95 % intervals" in shown[-1]
    rows = [line.split() for line in shown if "@" in line and "run@rounds" not in line]
    assert [row[1:3] for row in rows] == [["1", "first@0"], ["2", "first@2"]]


@pytest.mark.parametrize(("at", "message"), [("x", "'x' is no number"), ("9", "no checkpoint")])
def test_crossplay_refuses_rounds_that_are_not_there(runs, at, message):
    told = sparring_command("crossplay", runs["first"].folder, "--at", at)
    assert told.code == 2
    assert message in told.text


def test_a_bound_is_told_for_every_family_of_the_exam(runs):
    folder = runs["first"].folder
    told = json.loads(sparring_command("bound", folder, "--json").out)
    assert "held-out combination" in told["families"]
    assert all(f["failures"] / f["n"] <= f["upper"] <= 1 for f in told["families"].values())
    kept = json.loads((folder / "evidence" / "bound.json").read_bytes())
    assert kept == {"rounds": 2, **told}
    assert "says nothing about any other prompt" in sparring_command("bound", folder).text


def test_items_are_the_rates_of_the_exam(runs):
    told = items(runs["first"], 2)
    rates = runs["first"].exam(2).rates
    for name, outcomes in told.items():
        scored = [o.happened for o in outcomes.values() if o.happened is not None]
        assert len(scored) == rates[name].n_scored
        assert sum(scored) / len(scored) == pytest.approx(rates[name].value)
    assert {"asr/plain", "correct/plain"} <= told.keys()


def test_a_run_does_not_differ_from_itself_and_pairs_match_by_item(runs):
    same = compared(runs["first"], runs["first"], None)
    assert {(p.difference, p.p) for p in same.values()} == {(0.0, 1.0)}
    told = compared(runs["first"], runs["second"], 2)
    a, b = items(runs["first"], 2), items(runs["second"], 2)
    assert list(told)[:3] == ["asr/adversarial", "over_refusal/wrapped", "correct/wrapped"]
    for name in list(told)[:3]:
        metric, rates = name.split("/")[0], runs["second"].exam(2).rates
        assert told[name].n == sum(told[f"{metric}/{family}"].n for family in ADVERSARIAL)
        assert told[name].rate_b == pytest.approx(rates[name].value)
    for name, paired in list(told.items())[3:]:
        changes = [int(b[name][key].happened) - int(a[name][key].happened) for key in a[name]]
        assert paired.difference == pytest.approx(sum(changes) / len(changes))


def test_a_comparison_says_which_run_is_taken_from_which_and_both_rates(runs):
    first, second = runs["first"].folder, runs["second"].folder
    lines = sparring_command("compare", first, second).out.splitlines()
    assert lines[0] == f"{second} minus {first}, 95 % intervals; {len(lines) - 1} comparisons, " + (
        "each p for itself"
    )
    told = compared(runs["first"], runs["second"], None)["asr/adversarial"]
    assert lines[1].split()[:4] == [
        "asr/adversarial",
        f"{told.rate_a:.3f}",
        "→",
        f"{told.rate_b:.3f}",
    ]


def test_runs_under_other_judges_cannot_be_compared(runs, tmp_path):
    """Nor can a judge be told from a defender; where a judge is asked does not matter."""
    folder = shutil.copytree(runs["first"].folder, tmp_path / "other")
    settings = folder / "config.yaml"
    settings.write_text(settings.read_text().replace("kind: sandbox", "kind: qwen3guard", 1))
    told = sparring_command("compare", runs["first"].folder, folder)
    assert told.code == 2
    assert "judge score RUN" in told.text


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"base_url": "http://127.0.0.1:9/v1", "cache": "kept.sqlite"}, True),
        ({"fills": ["refused", "reply_harm"]}, True),
        ({"fills": ["refused"]}, False),
        ({"controversial": "safe"}, False),
        ({"model": "moat"}, False),
    ],
)
def test_it_is_another_judge_if_it_could_rule_otherwise_and_not_if_it_is_asked_elsewhere(
    change, same
):
    guard = {"kind": "qwen3guard", "model": "gate", "fills": ["reply_harm", "refused"]}
    one, other = (
        resolve({"data": {"train": [{"path": "seeds.jsonl"}]}, "judge": told})
        for told in (guard, guard | change)
    )
    assert (judged(one) == judged(other)) is same


@pytest.mark.parametrize("verb", ["exploit", "crossplay"])
def test_a_run_that_was_trained_on_other_seeds_than_it_holds_now_is_refused(runs, verb, tmp_path):
    """Its held-out seeds of today could be among those it has learned."""
    folder = shutil.copytree(runs["first"].folder, tmp_path / "run")
    path = folder / "checkpoints" / "round_000002" / "state.json"
    path.write_text(path.read_text().replace('"seeds_sha256": "', '"seeds_sha256": "0'))
    shutil.rmtree(folder / "evidence", ignore_errors=True)
    manifest = path.with_name("MANIFEST.json")
    sealed = json.loads(manifest.read_bytes())
    sealed["sha256"]["state.json"] = sha256(path)
    manifest.write_text(json.dumps(sealed))
    run = RunDir.open(folder)
    asks = {
        "exploit": lambda: exploit(run, tmp_path).measure(["pool"], lambda who, step: None),
        "crossplay": lambda: entrants(run, [2]),
    }
    with pytest.raises(UsageError, match=r"data\.train: not the seeds that .*round_000002 was"):
        asks[verb]()


def test_exams_that_differ_cannot_be_compared(runs, tmp_path):
    other = play(tmp_path / "other", "magic", "exam.n=2")
    told = sparring_command("compare", runs["first"].folder, other.folder)
    assert told.code == 2


def test_an_exam_that_was_not_sat_or_not_kept_whole_is_said(runs, tmp_path):
    with pytest.raises(UsageError, match="no exam after 1 rounds; wanted one of 0, 2"):
        items(runs["first"], 1)
    folder = tmp_path / "torn"
    shutil.copytree(runs["first"].folder, folder)
    samples = folder / "exams" / "round_000002" / "samples.jsonl.gz"
    samples.write_bytes(samples.read_bytes()[:-20])
    with pytest.raises(CorruptError, match=r"samples\.jsonl\.gz"):
        items(RunDir.open(folder), 2)


def test_the_pool_is_shown_without_its_texts_unless_they_are_asked_for(runs):
    folder = runs["shared"].folder
    told = json.loads(sparring_command("runs", "show", folder, "--pool", "--json").out)
    assert told["size"] > 0
    assert all(row["attack"].startswith("[") for row in told["hardest"])
    means = [row["mean"] for row in told["hardest"]]
    assert means == sorted(means)
    words = sparring_command("runs", "show", folder, "--pool", "--content", "--json").out
    shown = json.loads(words)["hardest"]
    assert any("how to" in row["attack"] for row in shown)
    assert "how to" not in sparring_command("runs", "show", folder, "--pool").text


def test_a_run_without_a_pool_says_so(runs):
    told = sparring_command("runs", "show", runs["first"].folder, "--pool")
    assert told.code == 2
    assert "without an experience pool" in told.text
