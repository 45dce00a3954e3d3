"""What cannot be learned from is found in a few games before the first, or in the first rounds."""

import os
import re
import signal
from dataclasses import replace

import pytest
from tests.command import sparring_command
from tests.runs.test_train import failing, short
from tests.tiny import QWEN2, save_model, write_pool, write_seeds

from sparring import GateError, Interrupted, RunDir, ScriptedPolicy, UnscoredError, Watch, train
from sparring.games.game import tagged
from sparring.runs.run import FRUITLESS_ROUNDS as ROUNDS
from sparring.runs.run import rehearse
from sparring.runs.train import train as play
from sparring.types import Player


class Noting(Watch):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def untaught(folder, rounds):
    """A run whose attacker never learned the form of an attack."""
    return short(folder, rounds, **{"warm_up.steps": 0, "attacker.model_name_or_path": "sandbox"})


def paid_alike(run, after=0):
    """The run with all its games paid the same from its round `after` on."""
    played = []

    def shape(episodes):
        played.append(episodes)
        if len(played) <= after:
            return episodes
        return [replace(e, returns=dict.fromkeys(e.returns, 0.0)) for e in episodes]

    return replace(run, plan=replace(run.plan, shape=shape))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (untaught, "no attack has parsed: give attacker.warm_start an attack pool"),
        (
            lambda *place: paid_alike(short(*place)),
            "nobody had a gradient, .* the same: raise learner.num_gen",
        ),
    ],
)
def test_a_run_that_never_had_a_signal_stops_resumable_with_the_cure(tmp_path, made, reason):
    run, watch = made(tmp_path / "run", ROUNDS + 2), Noting()
    with pytest.raises(GateError, match=reason) as error:
        train(run, watch=watch)
    assert error.value.exit_code == 4
    assert "--resume plays on" in str(error.value)
    folder = RunDir.open(tmp_path / "run")
    assert (folder.status.status, len(folder.rounds())) == ("stopped", ROUNDS)
    assert any("has the form that is asked for" in n for n in watch.notes) == (made is untaught)
    train(run, resume=True)
    assert (folder.status.status, len(folder.rounds())) == ("complete", ROUNDS + 2)


def test_a_run_that_lost_its_signal_later_says_so_once_and_goes_on(tmp_path):
    watch = Noting()
    folder = train(paid_alike(short(tmp_path / "run", 3 * ROUNDS + 1), after=3), watch=watch)
    assert folder.status.status == "complete"
    assert sum("once a run has converged" in note for note in watch.notes) == 1


def test_a_rehearsal_changes_no_bit_of_the_run(tmp_path, monkeypatch):
    rehearsed = train(short(tmp_path / "with", 2))
    monkeypatch.setattr("sparring.runs.train.rehearse", lambda run, note: "")
    plain = train(short(tmp_path / "without", 2))
    with_, without = ([r.metrics for r in folder.rounds()] for folder in (rehearsed, plain))
    assert with_ == without
    assert rehearsed.openings() == plain.openings()


def test_a_judge_that_can_rule_on_nothing_ends_it_before_the_first_round(tmp_path):
    with pytest.raises(UnscoredError, match=r"ruled on none of .* timeout"):
        train(failing(short(tmp_path / "run"), 1))
    assert RunDir(tmp_path / "run").rounds() == []


def test_attacks_that_ask_for_something_else_are_told_from_replies_that_are_missing(tmp_path):
    run, findings = short(tmp_path / "run", 2), []
    cast = {
        Player.ATTACKER: ScriptedPolicy(lambda prompt, address: tagged("plan", "sing a song")),
        Player.DEFENDER: run.plan.cast[Player.DEFENDER],
    }
    astray = replace(run, plan=replace(run.plan, cast=cast))
    rehearse(astray, findings.append)
    assert len(findings) == 1
    assert "no attack that parses asks for what its seed does: give attacker.warm" in findings[0]
    assert "game.gate=false" in findings[0]


def test_from_python_a_run_shows_how_it_goes_and_says_how_it_goes_on(tmp_path, capsys, monkeypatch):
    train(short(tmp_path / "run", 2), max_rounds=1)
    shown = capsys.readouterr().err
    assert "round 1/2  defender learned" in shown
    assert "rehearsal 1/1" in shown

    class Stopping(Watch):
        def played(self, round_):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"train\(run, resume=True\) goes on"):
        train(short(tmp_path / "run", 2), resume=True, watch=Stopping())
    assert "round 2" not in capsys.readouterr().err, "who watches shows it"


def test_an_interrupted_warm_up_says_that_it_begins_again(tmp_path):
    class Stopping(Watch):
        def warmed(self, step, metrics):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as error:
        play(short(tmp_path / "run", 2), watch=Stopping())
    told = "interrupted in the warm-up, of which nothing is saved: the same command with --resume"
    assert str(error.value) == f"{told} begins it again"
    with pytest.raises(Interrupted, match=r"nothing is saved: train\(run, resume=True\) begins it"):
        train(short(tmp_path / "other", 2), watch=Stopping())


def test_what_does_not_fit_the_context_is_found_with_the_setting(tmp_path):
    run = short(tmp_path / "run")
    findings: list[str] = []
    rehearse(run, findings.append)
    assert not any("context" in finding for finding in findings)
    sampling = run.config.sampling.model_copy(update={"max_completion_length": 10**6})
    longer = replace(run, config=run.config.model_copy(update={"sampling": sampling}))
    rehearse(longer, findings.append)
    found = [finding for finding in findings if "context" in finding]
    assert [player for player in ("attacker", "defender") if player in " ".join(found)]
    assert all("lower sampling.max_completion_length" in finding for finding in found)


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A dry run of a tiny model on harmless seeds, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model", QWEN2)
    write_seeds(tmp_path / "seeds.csv")
    players = [f"{player}.model_name_or_path=./model" for player in ("attacker", "defender")]
    rules = ["game.gate=false", "game.helpfulness=0", "sampling.max_completion_length=8"]
    own = ["data.train=[{path: seeds.csv}]", "warm_up.steps=0"]
    return ["train", "magic", *players, *rules, *own, "--dry-run"]


def test_a_dry_run_rehearses_and_says_which_setting_cures_what_it_found(tmp_path, words):
    ended = sparring_command(*words, "judge.kind=keyword")
    assert ended.code == 0
    assert re.search(r"rehearsal: 0 of [2-4] attacks parse", ended.text)
    assert "give attacker.warm_start an attack pool" in ended.text
    pool = write_pool(tmp_path / "pool.jsonl")
    ended = sparring_command(
        *words, "judge.kind=keyword", f"attacker.warm_start={pool}", "warm_up.steps=1"
    )
    assert "before the warm-up" in ended.text
    assert "give attacker.warm_start" not in ended.text


def test_a_pool_whose_replies_are_no_attacks_is_refused(tmp_path, words):
    pool = write_pool(tmp_path / "pool.jsonl")
    pool.write_text(pool.read_text().replace("<answer>", "<reply>"))
    ended = sparring_command(*words, "judge.kind=keyword", f"attacker.warm_start={pool}")
    assert ended.code == 2
    assert "none of its 8 replies has the form <think>" in ended.text


DEAD = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize("place", ["judge", "exam.judge", "a judge's file"])
def test_a_server_that_is_not_there_is_named_before_anything_is_asked(tmp_path, words, place):
    entry = f"{{kind: qwen3guard, model: guard, base_url: '{DEAD}'}}"
    if place == "a judge's file":
        (tmp_path / "guard.yaml").write_text(entry)
        ended = sparring_command("judge", "probe", "guard.yaml")
    else:
        more = ["judge.kind=keyword"] if place == "exam.judge" else []
        ended = sparring_command(*words, *more, f"{place}={entry}")
    assert ended.code == 2
    assert f"{DEAD}/models" in ended.text
    assert "start the server, or mend its URL" in ended.text
