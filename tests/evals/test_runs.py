"""The commands that measure whole runs: exploit, crossplay, bound, compare and pool."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.command import sparring_command
from tests.evals.evaluations import row, samples
from tests.short_run import SETTINGS

from sparring.evals.crossplay import Entrant, compared, cross, entrants, items, judged
from sparring.evals.evaluate import ItemBatch, rewrites
from sparring.evals.exploit import Budget, Exploit
from sparring.evals.models import attacker_of
from sparring.players.player import Request
from sparring.players.trainer import Past
from sparring.pulse import watched
from sparring.runs.recipes import known, resolve
from sparring.sandbox.language import TWO_EXCHANGE
from sparring.sandbox.words import ADVERSARIAL
from sparring.stats.rates import Outcome, rate
from sparring.store.files import sha256
from sparring.store.folder import RunDir
from sparring.store.records import AttackerCurve
from sparring.types import Player, UsageError

SMALL = Budget(steps=1, seeds=2, num_generations=2, every=1, n=4, tries=1, warm_up_steps=2)
WARM = (
    *("warm_up.steps=50", "warm_up.batch_size=8"),
    *("warm_up.pool_size=512", "warm_up.learning_rate=6e-3"),
)
ADAPTERS = ("weights=adapters", "attacker.model_name_or_path=sandbox")
TWO = {**SETTINGS, "rounds": "2", "exam.crossplay": "0", "exam.n": "4"}
OWN_SEEDS = {"data": {"train": [{"path": "seeds.jsonl"}]}}


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
        "adapters": play(here / "adapters", "magic", *ADAPTERS),
    }


def copied(run: RunDir, folder: Path) -> RunDir:
    """A copy of a run without its evidence folder."""
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("evidence"))
    return RunDir.open(folder)


def unplayed(folder: Path, **settings) -> RunDir:
    """The folder of a run that was never played."""
    return RunDir.create(folder, json.dumps(settings))


def exploit(run: RunDir, cache: Path, **more) -> Exploit:
    return Exploit(run, 2, SMALL, cache, **more)


def measure(run: RunDir, cache: Path, *names: str, **more) -> tuple[dict, list[tuple[str, int]]]:
    """The exploitability measurement, and the points that were measured for it."""
    points: list[tuple[str, int]] = []
    with watched(lambda *_: None, lambda name, step, *_: points.append((name, step))):
        result = exploit(run, cache, **more).measure(names)
    return result, points


@pytest.fixture
def played_by(monkeypatch):
    """Attackers and defenders as `best_response` gets them, which then learns nothing."""
    weights: list[tuple[dict, dict]] = []

    def look(target, attacker, *more):
        weights.append((attacker.weights.snapshot(), target.defender.weights.snapshot()))
        yield 0, rate([])

    monkeypatch.setattr("sparring.evals.exploit.best_response", look)
    return weights


def assert_saved(weights, run: RunDir, player: str) -> None:
    saved = load_file(run.checkpoints.path(2) / player / "model.safetensors")
    assert saved.keys() & weights
    assert all(torch.equal(weights[key], saved[key]) for key in saved.keys() & weights)


def test_exploit_leaves_the_run_as_it_is_and_measures_nothing_twice(runs, tmp_path):
    run = copied(runs["shared"], tmp_path / "run")
    defender = run.checkpoints.path(2) / "defender" / "model.safetensors"
    shown, before = run.folder / "evidence" / "exploit.json", sha256(defender)
    result, points = measure(run, tmp_path / "cache", "pool")
    pool, steps = "exploit/0/pool", SMALL.warm_up_steps
    assert points[0] == (pool, 0)
    assert points[-2:] == [(f"{pool}, warm-up", steps), (pool, 1)]
    assert sha256(defender) == before
    assert result["attackers"]["pool"]["steps"] == [0, 1]
    assert all(rate["n_total"] == 4 for rate in result["attackers"]["pool"]["asr"])
    assert json.loads(shown.read_bytes()) == result
    assert measure(run, tmp_path / "cache", "pool") == (result, [])
    other, _ = measure(run, tmp_path / "cache", "pool", rng_seed=1)
    assert json.loads(shown.read_bytes()) == other != result
    assert measure(run, tmp_path / "cache", "pool") == (result, []), "the first was set aside"
    assert json.loads(shown.read_bytes()) == result
    assert len(list(shown.parent.glob("exploit*.json"))) == 2
    hotter, _ = measure(run, tmp_path / "cache", "pool", overrides={"sampling": {"temperature": 9}})
    assert hotter["overrides"] == {"sampling": {"temperature": 9}}
    assert len(list(shown.parent.glob("exploit*.json"))) == 3


@pytest.mark.parametrize("name", ["first", "shared"])
def test_the_runs_own_attacker_starts_as_the_run_left_it(runs, name, tmp_path, played_by):
    run = copied(runs[name], tmp_path / "run")
    measure(run, tmp_path / "cache", "own")
    [(attacker, _)] = played_by
    assert_saved(attacker, run, run.config.owner(Player.ATTACKER))
    assert not (tmp_path / "cache").exists(), "nobody is warmed up"


def test_a_defender_that_thinks_is_met_as_it_was_saved_whether_or_not_it_is_the_first(
    tmp_path, played_by
):
    run = play(tmp_path / "cot", "defender_cot")
    for seed in (0, 1):
        measure(run, tmp_path / "cache", "pool", rng_seed=seed)
    for _, defender in played_by:
        assert_saved(defender, run, "defender")


def test_attackers_are_warmed_up_once_for_all_defenders(runs, tmp_path):
    measure(copied(runs["first"], tmp_path / "a"), tmp_path / "cache", "broad", "pool")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/*.safetensors")}
    pool, broad = (sha256(path) for path in times)
    assert pool != broad
    measure(copied(runs["shared"], tmp_path / "b"), tmp_path / "cache", "broad")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/*.safetensors")} == times


def test_an_attacker_that_no_judge_could_rule_on_is_not_taken_for_harmless(runs, tmp_path):
    run = copied(runs["first"], tmp_path / "run")
    blind = AttackerCurve(steps=[0, 1], asr=[rate([])] * 2, tried="best response")
    measured = Exploit(run, 2, Budget(steps=1), tmp_path)
    measured._result({"pool": blind}).write(measured.path)
    command = sparring_command("exploit", run.folder, "--steps", "1", "--attackers", "pool")
    assert "ASR at [0, 1]: unscored unscored" in command.text
    assert command.out.endswith("worst: unscored\n")
    scored = blind.model_copy(update={"asr": [rate([Outcome(False, "vault")])]})
    assert measured._result({"pool": blind, "broad": scored}).worst == "broad"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("exploit", "--attackers", "giant"),
            "--attackers: 'giant' is none of pool, broad, own, enumeration",
        ),
        (("exploit", "--at", "7"), "no checkpoint after 7 rounds"),
        (("crossplay", "--at", "x"), "'x' is no number"),
        (("crossplay", "--at", "9"), "no checkpoint"),
        (("runs", "show", "--pool"), "without an experience pool"),
    ],
)
def test_what_a_run_does_not_have_is_exit_2(runs, words, message):
    command = sparring_command(*words, runs["first"].folder)
    assert command.code == 2
    assert message in command.text


@pytest.mark.parametrize(
    "words", [["exploit"], ["exploit", "--at", "0"], ["crossplay"], ["runs", "show", "--pool"]]
)
def test_a_run_killed_in_its_warm_up_is_one_line_and_exit_2(words, tmp_path):
    command = sparring_command(*words, unplayed(tmp_path / "young", recipe="magic").folder)
    assert command.code == 2
    (line,) = filter(None, command.err.splitlines())
    assert line.endswith("young: no checkpoint yet")


def test_crossplay_meets_everybody_and_keeps_every_cell(runs, tmp_path):
    run, other = runs["first"].folder, copied(runs["second"], tmp_path / "other" / "first").folder
    cells = tmp_path / "cells"
    words = ("--n", "4", "--cache", cells, "--json")
    result = json.loads(sparring_command("crossplay", run, other, *words).out)
    names = [f"{folder}@2" for folder in (run, other)]  # their folders have one name
    assert [list(row) for row in (result["asr"], *result["asr"].values())] == [names] * 3
    assert all(rate["n_total"] == 4 for row in result["asr"].values() for rate in row.values())
    times = {path.name: path.stat().st_mtime_ns for path in cells.iterdir()}
    assert len(times) == 4
    assert json.loads(sparring_command("crossplay", run, other, *words).out) == result
    assert {path.name: path.stat().st_mtime_ns for path in cells.iterdir()} == times


def test_crossplay_over_time_names_the_rounds(runs, tmp_path):
    words = (runs["first"].folder, "--at", "0,2", "--n", "2", "--cache", tmp_path / "cells")
    result = json.loads(sparring_command("crossplay", *words, "--json").out)
    assert list(result["asr"]) == ["first@0", "first@2"]
    shown = sparring_command("crossplay", *words).out.splitlines()
    assert "ASR of attackers (rows) against defenders (columns, numbered as the rows)" in shown[0]
    assert "n = 2 a cell, 95 % intervals" in shown[-1]
    rows = [line.split() for line in shown if "@" in line and "run@rounds" not in line]
    assert [row[1:3] for row in rows] == [["1", "first@0"], ["2", "first@2"]]


def under(entrant: Entrant, **settings) -> Entrant:
    """The same players, with other settings of their run."""
    config = entrant.run.config.model_copy(update=settings)
    return replace(entrant, run=replace(entrant.run, config=config))


def test_a_cell_played_under_other_rules_or_by_another_judge_is_another_cell(runs, tmp_path):
    (entrant,) = entrants(runs["first"], [2])
    config = entrant.run.config
    guard = config.judge[0].model_copy(update={"kind": "qwen3guard", "model": "gate"})
    games = [{"gate": False}, {"exchanges": 2}, {"diversity": 0.5}]
    rules = [{"game": config.game.model_copy(update=game)} for game in games]
    for settings, cells in zip([{}, {"judge": [guard]}, *rules], [1, 2, 3, 4, 4], strict=True):
        cross([under(entrant, **settings)], 2, tmp_path)
        assert len(list(tmp_path.iterdir())) == cells, "rewards pay no cell"


def test_nobody_is_crossed_on_seeds_it_was_trained_on_or_where_none_is_held_out(runs, tmp_path):
    (entrant,) = entrants(runs["first"], [2])
    run = entrant.run
    learned = replace(run, seeds=[*run.seeds, run.attacked()[3]])
    other = replace(entrant, name="other@2", run=learned)
    message = r"other@2 was trained on 1 of the 4 held-out seeds of first"
    with pytest.raises(UsageError, match=message):
        cross([entrant, other], 2, tmp_path)
    empty = replace(entrant, run=replace(run, exam=replace(run.exam, sets={})))
    with pytest.raises(UsageError, match=r"data\.exam: no harmful seed is held out"):
        cross([empty], 2, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cell_in_which_the_judge_could_not_tell_is_played_again(runs, tmp_path):
    (entrant,) = entrants(runs["first"], [2])
    name = entrant.name
    cross([entrant], 4, tmp_path)
    (cell,) = tmp_path.iterdir()
    whole = json.loads(cell.read_bytes())
    assert whole["n_scored"] == whole["n_total"] == 4
    for causes, played in (({"timeout": 1, "skipped": 2}, [name]), ({"skipped": 1}, [])):
        rows: list[str] = []
        cell.write_text(json.dumps({**whole, "n_scored": 3, "unscored": causes}))
        with watched(lambda *_: None, lambda *beat, rows=rows: rows.append(beat[-1].split()[0])):
            again = cross([entrant], 4, tmp_path)
        assert rows == played
        assert (again["asr"][name][name] == whole) is bool(played)


def test_a_bound_is_stated_for_every_family_of_the_exam(runs):
    folder = runs["first"].folder
    result = json.loads(sparring_command("bound", folder, "--json").out)
    assert "held-out combination" in result["families"]
    assert all(f["failures"] / f["n"] <= f["upper"] <= 1 for f in result["families"].values())
    record = json.loads((folder / "evidence" / "bound.json").read_bytes())
    assert record == {"rounds": 2, **result}
    assert "says nothing about any other prompt" in sparring_command("bound", folder).text


POOL = (*ADVERSARIAL, TWO_EXCHANGE)


def test_pairs_match_by_item_and_a_comparison_says_which_run_is_taken_from_which(runs):
    first, second = runs["first"], runs["second"]
    differences, rates = compared(first, second, 2), second.exam(2).rates
    a, b = items(first, 2), items(second, 2)
    pooled = ["asr/adversarial", "over_refusal/wrapped", "correct/wrapped"]
    assert list(differences)[:3] == pooled
    for name in pooled:
        families = [differences[f"{name.split('/')[0]}/{family}"].n for family in POOL]
        assert differences[name].n == sum(families)
        assert differences[name].rate_b == pytest.approx(rates[name].value)
    for name, paired in list(differences.items())[3:]:
        changes = [int(b[name][key].happened) - int(a[name][key].happened) for key in a[name]]
        assert paired.difference == pytest.approx(sum(changes) / len(changes))
    lines = sparring_command("compare", first.folder, second.folder).out.splitlines()
    head = f"{second.folder} minus {first.folder}, 95 % intervals; {len(lines) - 1} comparisons, "
    assert lines[0] == head + "each p for itself"
    paired = differences[pooled[0]]
    row = [pooled[0], f"{paired.rate_a:.3f}", "→", f"{paired.rate_b:.3f}"]
    assert lines[1].split()[:4] == row


def test_exams_that_differ_or_under_other_judges_cannot_be_compared(runs, tmp_path):
    """A judge cannot be told from a defender."""
    other = copied(runs["first"], tmp_path / "other")
    settings = other.folder / "config.yaml"
    settings.write_text(settings.read_text().replace("kind: sandbox", "kind: qwen3guard", 1))
    shorter = play(tmp_path / "shorter", "magic", "exam.n=2")
    for run, message in ((other, "judge score RUN"), (shorter, "wanted the same items in both")):
        command = sparring_command("compare", runs["first"].folder, run.folder)
        assert command.code == 2
        assert message in command.text


def test_it_is_another_judge_if_it_could_rule_otherwise_and_not_if_it_is_asked_elsewhere():
    guard = {"kind": "qwen3guard", "model": "gate", "fills": ["reply_harm", "refused"]}
    elsewhere = {"base_url": "http://127.0.0.1:9/v1", "cache": "kept.sqlite"}
    same = [elsewhere, {"fills": ["refused", "reply_harm"]}]
    others = [{"fills": ["refused"]}, {"controversial": "safe"}, {"model": "moat"}]
    before, *after = (
        judged(resolve({**OWN_SEEDS, "judge": guard | change})) for change in ({}, *same, *others)
    )
    assert [before == changed for changed in after] == [True] * 2 + [False] * 3


@pytest.mark.parametrize("verb", ["exploit", "crossplay"])
def test_a_run_that_was_trained_on_other_seeds_than_it_holds_now_is_refused(runs, verb, tmp_path):
    """Its held-out seeds of today could be among those it has learned."""
    run = copied(runs["first"], tmp_path / "run")

    def fill(place: Path) -> None:
        unsealed = shutil.ignore_patterns("MANIFEST.json")
        shutil.copytree(run.checkpoints.path(2), place, ignore=unsealed, dirs_exist_ok=True)
        path = place / "state.json"
        path.write_text(path.read_text().replace('"seeds_sha256": "', '"seeds_sha256": "0'))

    run.checkpoints.write(2, fill, lambda number: True)
    with pytest.raises(UsageError, match=r"data\.train: not the seeds that .*round_000002 was"):
        measure(run, tmp_path, "pool") if verb == "exploit" else entrants(run, [2])


def test_the_pool_is_shown_without_its_texts_unless_they_are_asked_for(runs):
    words = ("runs", "show", runs["shared"].folder, "--pool")
    pool = json.loads(sparring_command(*words, "--json").out)
    assert pool["size"] > 0
    assert all(row["attack"].startswith("[") for row in pool["hardest"])
    means = [row["mean"] for row in pool["hardest"]]
    assert means == sorted(means)
    shown = json.loads(sparring_command(*words, "--content", "--json").out)["hardest"]
    assert any("how to" in row["attack"] for row in shown)
    assert "how to" not in sparring_command(*words).text


def rewritten(run: RunDir, out: Path, *words: object) -> None:
    """An evaluation of the sandbox's model whose seeds the run's attacker rewrites too."""
    common = ("--tasks", "sandbox", "--max-completion-length", 40, "--output", out)
    assert sparring_command("eval", "sandbox", "--attacker", run.folder, *common, *words).code == 0


def test_a_trained_attacker_rewrites_the_seeds_and_every_rewrite_is_kept(runs, tmp_path):
    out = tmp_path / "out"
    more = ("--log-format", "inspect", "--max-unscored", 1)  # a benign seed may be rewritten badly
    rewritten(runs["shared"], out, "--limit", 4, "--batch", 16, "--best-of", 3, *more)
    attacks = [json.loads(line) for line in (out / "attacks.jsonl").read_bytes().splitlines()]
    sent = [s for s in samples(out) if s["set"].endswith("+attacker")]
    assert len(attacks) == len(sent) > 0
    assert {s["draw"] for s in sent} == {0, 1, 2}
    by_key = {(a["set"], a["place"], a["draw"]): a["text"] for a in attacks}
    for sample in sent:
        text = by_key[sample["set"], sample["place"], sample["draw"]]
        assert sample["moves"][0]["text"] in text
        if not sample["dealt"]:
            assert (sample["verdict"], len(sample["moves"])) == (None, 1), "never sent"
    asr = row(out, "asr/plain+attacker")
    assert asr["n_total"] == asr["n_scored"] == 12
    unsent = sum(not s["dealt"] for s in sent if "benign" in s["set"])
    assert row(out, "over_refusal/plain+attacker")["unscored"].get("never sent", 0) == unsent
    assert [at["k"] for at in asr["at_k"]] == [1, 2, 3]
    assert row(out, "asr/plain")["at_k"] == []
    assert json.loads((out / "results.json").read_bytes())["attacker"]["rounds"] == 2


def test_of_an_attacker_that_sent_nothing_the_asr_is_undefined_and_not_0(runs, tmp_path):
    rewritten(runs["adapters"], tmp_path / "out", "--limit", 2)
    asr = row(tmp_path / "out", "asr/plain+attacker")
    assert (asr["value"], asr["n_scored"], asr["unscored"]) == (None, 0, {"never sent": 2})
    assert row(tmp_path / "out", "asr/plain")["n_scored"] == 2


@pytest.mark.parametrize("name", ["first", "adapters", "shared"])
def test_the_attacker_says_what_it_said_in_its_run(runs, name):
    run = runs[name]
    loaded = known(run.config.recipe).build(run.config)
    state = loaded.plan.game.open(loaded.seeds[0])
    attacker, game = attacker_of(run)
    batch = ItemBatch("harmful/x", 0, [(0, "vault", state)], "exam/harmful/x")
    [rewrite] = rewrites(game, attacker.load(), batch)
    folder = run.checkpoints.path(2) / run.config.owner(Player.ATTACKER)
    request = Request(loaded.plan.game.observe(state), ("exam/harmful/x/attacker/vault",))
    [[completion]] = Past(loaded.trainers[Player.ATTACKER], folder).sample([request])
    assert rewrite["text"] == completion.text
